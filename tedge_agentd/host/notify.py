"""Tell systemd how the daemon is: ready, reloading, alive (sd_notify(3)). Silent without NOTIFY_SOCKET."""

import os
import time
import unicodedata
from collections.abc import Mapping

import sdnotify

STATUS_LIMIT = 200  # characters; systemctl status shows one line
SEND_TIMEOUT_S = 1.0  # a send blocks while the queue of PID 1 is full (facts/platform.md D.5)


class Notifier:
    """The daemon's line to systemd. What cannot be sent is dropped: no error escapes, no call takes over a second.

    Pings say "I get on", not "I exist": they are due at half the watchdog's interval, and only after `progress`.
    `now` is in seconds of CLOCK_MONOTONIC.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, *, pid: int | None = None) -> None:
        self._line = _line(environ)
        self._interval = _interval(environ, os.getpid() if pid is None else pid) if self._line else None
        self._status = ""
        self._progress = False
        self._pinged: float | None = None

    def ready(self, status: str = "") -> None:
        """The first pass, or a reload, is over."""
        self._status = one_line(status)
        self._send("READY=1", *([f"STATUS={self._status}"] if status else []))

    def status(self, text: str) -> None:
        """Say in one line how things are; the same line is not sent twice in a row."""
        line = one_line(text)
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. Type=notify-reload, from systemd 253 on, asks for the time."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Ask for this much more time, from now on, to start, to stop or to live."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def progress(self) -> None:
        """Note that the loop came round or a step of a pass was finished: the next ping is deserved."""
        self._progress = True

    def ping_due(self, now: float) -> bool:
        next_ping = self.next_ping(now)
        return self._progress and next_ping is not None and next_ping <= now

    def next_ping(self, now: float) -> float | None:
        """Return when a ping is due, for the loop's timer; None when systemd does not watch this process."""
        if self._interval is None:
            return None
        return now if self._pinged is None else self._pinged + self._interval

    def ping(self, now: float) -> bool:
        """Send a ping if one is due and deserved; return whether it was."""
        if not self.ping_due(now):
            return False
        self._pinged, self._progress = now, False
        self._send("WATCHDOG=1")
        return True

    def close(self) -> None:
        """Close the socket; what is said afterwards goes nowhere."""
        if self._line is not None and self._line.socket is not None:
            self._line.socket.close()
        self._line = None

    def _send(self, *assignments: str) -> None:
        if self._line is not None:
            self._line.notify("\n".join(assignments))


def one_line(text: str) -> str:
    """Return text as one line of printable ASCII: sdnotify silently sends nothing that is beyond Latin-1."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    line = "".join(char if " " <= char <= "~" else " " if char.isspace() else "?" for char in plain)
    line = " ".join(line.split())
    return line if len(line) <= STATUS_LIMIT else line[: STATUS_LIMIT - 3] + "..."


def _line(environ: Mapping[str, str]) -> sdnotify.SystemdNotifier | None:
    if not environ.get("NOTIFY_SOCKET"):
        return None
    line = sdnotify.SystemdNotifier()
    if line.socket is not None:
        line.socket.settimeout(SEND_TIMEOUT_S)
    return line


def _interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return half of WATCHDOG_USEC in seconds, unless it is meant for another process (sd_watchdog_enabled(3))."""
    usec, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or not usec.isascii() or int(usec) == 0 or (meant and meant != str(pid)):
        return None
    return int(usec) / 2_000_000
