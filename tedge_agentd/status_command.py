"""What the daemon says of itself, now or once everything on disk has been dealt with."""

import contextlib
import os
import signal
import time
from typing import Any

from . import status

_POLL_S = 0.02
# Without the right to ask for a pass, none having begun for this long means that nothing was due: the longest delay
# of an event (0.5 s in watchdog) and the longest settle time (1 s) are over.
_UNASKED_S = 2.0


def view(runtime_dir: str, *, wait: float | None) -> tuple[dict[str, Any] | None, bool]:
    """Return status.json's contents, None where no daemon runs, and whether waiting for it to settle timed out."""
    path = f"{runtime_dir}/status.json"
    called = time.monotonic()
    data = _running(path)
    if wait is None:
        return data, False
    asked = False
    while time.monotonic() - called < wait:
        data = _running(path)
        if data is not None and not asked:
            asked = _ask(data["pid"])
        if data is not None and data["state"] != "pending":
            if data["last_pass"]["started_usec"] >= called * 1e6:
                return data, False
            if not asked and time.monotonic() - called > _UNASKED_S:
                return data, False
        time.sleep(_POLL_S)
    return data, data is not None


def _running(path: str) -> dict[str, Any] | None:
    """The document of a daemon that is alive."""
    data = status.read(path)
    if data is None or not os.path.exists(f"/proc/{data['pid']}"):
        return None
    return data


def _ask(pid: int) -> bool:
    """Ask the daemon for a pass now, as `systemctl reload` does; return whether we may."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
        return True
    return False
