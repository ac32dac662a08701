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
_MOST = 32  # runs of services whose last words are kept


def journalctl(invocation: str) -> str:
    """Return what the processes of one run of a unit have logged last. Raises OSError, SubprocessError."""
    words = ["journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", f"--lines={_LINES}", "--output=cat", "--no-pager"]
    done = subprocess.run(
        [*words, "--quiet"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    return done.stdout.decode("utf-8", "replace")


class LastLines:
    """Asks the journal once for each run that has failed, however many passes see it."""

    def __init__(self, ask: Callable[[str], str] = journalctl, sleep: Callable[[float], None] = time.sleep) -> None:
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
            found = self._lines(unit.invocation)
            if not found:  # the journal may be behind: a service's end is known before its last words are
                self._sleep(_PATIENCE_S)
                found = self._lines(unit.invocation)
            self._known[unit.invocation] = found
        return self._known[unit.invocation]

    def _lines(self, invocation: str) -> tuple[str, ...]:
        try:
            text = self._ask(invocation)
        except (OSError, subprocess.SubprocessError):
            return ()
        lines = [line.strip() for line in redact.scrub(text).splitlines() if line.strip()]
        return tuple(_plain(line) for line in lines[-_LINES:])


def _plain(line: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in line)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
