"""The last words of a service's process, from the journal."""

import subprocess
import time
from collections.abc import Callable

from tedge_agentd.core import model

from . import redact

_LINES = 3
_WIDTH = 160
_TIMEOUT_S = 5.0
_PATIENCE_S = 0.3
_BEFORE_S = 2.0  # what ran as ExecStartPre= belongs to it
_MOST = 32  # runs of services whose last words are kept


def journalctl(unit: model.UnitFacts) -> str:
    """Return what the processes of a unit have logged last since its last start. Raises OSError, SubprocessError.

    Asked for by time: the journal loses the id of a run that is over before its line is read.
    """
    started = time.time() - (time.monotonic() - unit.started_usec / 1e6) - _BEFORE_S
    words = ["journalctl", f"_SYSTEMD_UNIT={unit.name}", f"--since=@{started:.0f}", f"--lines={_LINES}"]
    done = subprocess.run(
        [*words, "--output=cat", "--no-pager", "--quiet"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


class LastLines:
    """Asks the journal once for each run that has failed, however many passes see it."""

    def __init__(
        self, ask: Callable[[model.UnitFacts], str] = journalctl, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._ask = ask
        self._sleep = sleep
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, unit: model.UnitFacts) -> tuple[str, ...]:
        """Return the last lines of the unit's last run, cut to a readable length; none where the journal has none.

        They end up in a file that everybody may read, so what looks like a secret is taken out.
        """
        if not unit.invocation:
            return ()
        if unit.invocation not in self._known:
            while len(self._known) >= _MOST:
                self._known.pop(next(iter(self._known)))
            found = self._lines(unit)
            if not found:  # the journal may be behind: a service's end is known before its last words are
                self._sleep(_PATIENCE_S)
                found = self._lines(unit)
            self._known[unit.invocation] = found
        return self._known[unit.invocation]

    def _lines(self, unit: model.UnitFacts) -> tuple[str, ...]:
        try:
            text = self._ask(unit)
        except (OSError, subprocess.SubprocessError):
            return ()
        lines = [line.strip() for line in redact.scrub(text).splitlines() if line.strip()]
        return tuple(_plain(line) for line in lines[-_LINES:])


def _plain(line: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in line)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
