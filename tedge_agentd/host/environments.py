"""Which TEDGE_MQTT_* variables a running service was started with."""

import glob
import os
from collections.abc import Iterable, Iterator

from tedge_agentd.core import model, overrides

from . import files, opened, services

_MOST = 64  # runs of services that are remembered
# systemd-system.conf(5), those that beat others last.
_MANAGERS = ("/usr/lib/systemd/system.conf", "/etc/systemd/system.conf")
_MANAGERS_BELOW = ("/usr/lib", "/usr/local/lib", "/run", "/etc")


class Environments:
    """Asks systemd once for each run of a unit: a process keeps the environment of its start.

    The process's own, /proc/PID/environ, takes CAP_SYS_PTRACE, which the daemon has not. So what systemd puts
    together is put together again (systemd.exec(5), Environment Variables in Spawned Processes). What is set there
    after the start of a service is only looked at when that starts anew.
    """

    def __init__(self, systemd: services.Systemd) -> None:
        self._systemd = systemd
        self._known: dict[str, tuple[overrides.Override, ...]] = {}

    def beating(self, unit: model.UnitFacts) -> tuple[overrides.Override, ...]:
        """Return the variables by name. Raises BusUnavailableError."""
        if not unit.invocation:
            return ()
        if unit.invocation not in self._known:
            while len(self._known) >= _MOST:
                self._known.pop(next(iter(self._known)))
            self._known[unit.invocation] = self._look(unit.name)
        return self._known[unit.invocation]

    def _look(self, name: str) -> tuple[overrides.Override, ...]:
        settings = self._systemd.environment(name)
        own = self._systemd.unit_files(name)
        sources = [
            *_placed(settings.manager, _manager_files(), overrides.LIVE),
            # Of systemd's own environment; whether it is set there, nobody tells.
            *_placed((f"{passed}=?" for passed in settings.passed), own, name),
            *_placed(settings.unit, own, name),
            *_from_files(settings.files),
        ]
        return overrides.effective(sources, settings.unset)


def _placed(assignments: Iterable[str], paths: Iterable[str], otherwise: str) -> Iterator[tuple[str, str]]:
    """Each assignment of interest with the last of the files that speaks of its name."""
    for assignment in assignments:
        for name in overrides.names([assignment]):
            holders = [path for path in paths if name.encode() in _text(path)]
            yield assignment, holders[-1] if holders else otherwise


def _from_files(patterns: Iterable[str]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)) or [pattern]:
            for assignment in overrides.in_file(_text(path)):
                yield assignment, path


def _manager_files() -> list[str]:
    below = [glob.glob(f"{top}/systemd/system.conf.d/*.conf") for top in _MANAGERS_BELOW]
    return [*_MANAGERS, *sorted((path for found in below for path in found), key=os.path.basename)]


def _text(path: str) -> bytes:
    try:
        return files.read_limited(path)
    except (opened.Refused, OSError):
        return b""
