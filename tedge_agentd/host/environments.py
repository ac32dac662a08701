"""Which TEDGE_MQTT_* variables a running service was started with."""

from tedge_agentd.core import model, overrides

from . import files, opened, services

_MOST = 64  # runs of services that are remembered


class Environments:
    """Asks systemd once for each run of a unit: a process keeps the environment of its start.

    Environment= and EnvironmentFile= of the unit and its drop-ins are seen, what the manager itself passes on
    (DefaultEnvironment=) is not.
    """

    def __init__(self, systemd: services.Systemd) -> None:
        self._systemd = systemd
        self._known: dict[str, tuple[str, ...]] = {}

    def overrides(self, unit: model.UnitFacts) -> tuple[str, ...]:
        """Return the names, sorted. Raises BusUnavailableError."""
        if not unit.invocation:
            return ()
        if unit.invocation not in self._known:
            while len(self._known) >= _MOST:
                self._known.pop(next(iter(self._known)))
            self._known[unit.invocation] = self._look(unit.name)
        return self._known[unit.invocation]

    def _look(self, name: str) -> tuple[str, ...]:
        assignments = list(self._systemd.environment(name))
        for path in self._systemd.environment_files(name):  # they beat Environment=
            try:
                assignments += overrides.in_file(files.read_limited(path))
            except (opened.Refused, OSError):
                continue
        return overrides.names(assignments)
