"""systemd over D-Bus: facts about units, jobs that are waited for, transient units."""

import contextlib
import dataclasses
import select
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tedge_agentd.core import errors, model

from . import bus, manager

_STATES = ("active", "reloading", "activating", "deactivating", "failed")
_SIGKILL = 9
_BY_SIGNAL = {2, 3}  # CLD_KILLED, CLD_DUMPED of waitid(2)
_LOG_ERRORS = 3  # sd-daemon(3)
_MOMENT = 0.3  # seconds that a job has to end once the daemon is told to stop; the broker's restart takes 0.05
_TICK = 0.25  # seconds; a signal that was read ahead by a call is found at the latest after this


class UnitError(errors.InputError):
    """systemd refuses what was asked for a unit."""


class NoSuchUnitError(UnitError):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no unit {name}", f"install the package that brings {name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What became of a job. `result` is systemd's word (done, failed, canceled, timeout, dependency, skipped, ...).

    It is `timeout`, too, if the job had not ended in the time given; it may end later. `done` proves nothing about
    the service: a reload that the broker could not follow is `done` (facts/platform.md 0.1).
    """

    result: str
    duration_ms: float
    unit: model.UnitFacts

    @property
    def done(self) -> bool:
        return self.result == "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransientResult:
    """How a transient unit's start ended: `done` after READY=1, else why not.

    exec_main_status is 0 while the program runs, and as in subprocess -9 for one that SIGKILL ended.
    """

    result: str
    exec_main_status: int
    duration_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """What a service's environment is made of, in the order in which one beats the other (systemd.exec(5)).

    `passed` are names alone, `files` paths or patterns as written, `unset` is taken away from the whole at last.
    """

    manager: tuple[str, ...] = ()  # DefaultEnvironment= and `systemctl set-environment`
    passed: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


Property = tuple[str, str, object]  # name, D-Bus signature, value

# Those that leave a running process alone: logrotate reloads the broker, which is nothing to wait for.
_HARMLESS_JOBS = {"reload", "verify-active", "nop"}


class Systemd(manager.Manager):
    """Units and their jobs. Everything raises `bus.BusUnavailableError` when D-Bus or systemd is not there."""

    # Facts --------------------------------------------------------------------------------------------------

    def unit(self, name: str) -> model.UnitFacts:
        """Return the facts of one unit; one that is missing, masked or misnamed has a load_state that says so."""
        if not manager.is_unit_name(name):
            return model.UnitFacts(name=name, load_state="bad-setting", active_state="inactive")
        return self._facts(self._row(name), name)

    def units(self, patterns: Iterable[str]) -> tuple[model.UnitFacts, ...]:
        """Return the units that match one of the glob patterns and are active, changing or failed, by name."""
        wanted = list(patterns)
        if not wanted:
            return ()
        rows = self.read(lambda b: b.call(manager.MANAGER, "ListUnitsByPatterns", "asas", _STATES, wanted))
        return tuple(sorted((self._facts(row) for row in rows), key=lambda facts: facts.name))

    def environment(self, name: str) -> EnvironmentSettings:
        """Return what the environment of a service is made of; of a missing unit, what the manager has for all."""
        given, passed, unset = (
            tuple(manager.text(entry) for entry in self._service(name, kind, "as", ()))
            for kind in ("Environment", "PassEnvironment", "UnsetEnvironment")
        )
        paths = tuple(manager.text(row[0]) for row in self._service(name, "EnvironmentFiles", "a(sb)", ()))
        everybodys = self.read(lambda b: b.get(manager.MANAGER, "Environment", "as"))
        return EnvironmentSettings(
            manager=tuple(manager.text(entry) for entry in everybodys),
            passed=passed,
            unit=given,
            files=paths,
            unset=unset,
        )

    def unit_files(self, name: str) -> tuple[str, ...]:
        """Return the paths of a unit's file and its drop-ins, in the order in which they are read."""
        target = _object(manager.unit_path(name), "Unit")
        path = manager.text(self.read(lambda b: b.get(target, "FragmentPath", "s")))
        more = self.read(lambda b: b.get(target, "DropInPaths", "as"))
        return tuple(text for text in (path, *(manager.text(entry) for entry in more)) if text)

    def command(self, name: str) -> tuple[str, ...]:
        """Return the words of the unit's ExecStart=, the program's path first; of a missing unit, none."""
        lines = self._service(name, "ExecStart", "a(sasbttttuii)", ())
        return (manager.text(lines[0][0]), *(manager.text(word) for word in lines[0][1][1:])) if lines else ()

    def user(self, name: str) -> str:
        """Return the unit's User=, "" for root."""
        return manager.text(self._service(name, "User", "s", ""))

    def _service(self, name: str, prop: str, signature: str, missing: Any) -> Any:
        if self.unit(name).load_state in {"not-found", "bad-setting"}:
            return missing
        target = _object(manager.unit_path(name), "Service")
        return self.read(lambda b: b.get(target, prop, signature))

    def _facts(self, row: Sequence[Any], name: str | None = None) -> model.UnitFacts:
        """Complete a row of ListUnits by the properties that it lacks, one by one.

        0.6 ms a unit; GetAll, once for Unit and once for Service, brings 300 properties and costs three times that.
        """
        found, load, active, sub = (manager.text(row[i]) for i in (0, 2, 3, 4))
        starts_or_stops = bool(row[7]) and manager.text(row[8]) not in _HARMLESS_JOBS
        facts = model.UnitFacts(
            name=name or found, load_state=load, active_state=active, sub_state=sub, job=starts_or_stops
        )
        if load not in {"loaded", "masked"} or not found.endswith(".service"):
            return facts
        unit, service = (_object(manager.text(row[6]), kind) for kind in ("Unit", "Service"))
        if active == "failed":
            facts = self.read(
                lambda b: dataclasses.replace(
                    facts,
                    failed_usec=b.get(unit, "InactiveEnterTimestampMonotonic", "t"),
                    is_enabled=manager.text(b.get(unit, "UnitFileState", "s")) in {"enabled", "enabled-runtime"},
                )
            )
        return self.read(
            lambda b: dataclasses.replace(
                facts,
                invocation=bytes(b.get(unit, "InvocationID", "ay")).hex(),
                started_usec=b.get(service, "ExecMainStartTimestampMonotonic", "t"),
                main_pid=b.get(service, "MainPID", "u"),
                result=manager.text(b.get(service, "Result", "s")),
            )
        )

    def _row(self, name: str) -> Sequence[Any]:
        rows: list[Sequence[Any]] = self.read(lambda b: b.call(manager.MANAGER, "ListUnitsByNames", "as", [name]))
        return rows[0]

    # Jobs ---------------------------------------------------------------------------------------------------

    def start(self, name: str, timeout_s: float) -> JobResult:
        return self._job("StartUnit", name, timeout_s)

    def stop(self, name: str, timeout_s: float) -> JobResult:
        return self._job("StopUnit", name, timeout_s)

    def restart(self, name: str, timeout_s: float) -> JobResult:
        return self._job("RestartUnit", name, timeout_s)

    def try_restart(self, name: str, timeout_s: float) -> JobResult:
        """Restart the unit if it runs; otherwise nothing happens, and the result is `done`."""
        return self._job("TryRestartUnit", name, timeout_s)

    def reload(self, name: str, timeout_s: float) -> JobResult:
        """Reload the unit; the result is `invalid` if it does not run."""
        return self._job("ReloadUnit", name, timeout_s)

    def reset_failed(self, name: str) -> None:
        """Forget failures and the start limit's count. A unit that is not loaded has none: nothing to do."""
        try:
            self.read(lambda b: b.call(manager.MANAGER, "ResetFailedUnit", "s", name))
        except bus.CallError as error:
            if error.name != "NoSuchUnit":
                raise _refusal(name, error) from error

    def _job(self, method: str, name: str, timeout_s: float) -> JobResult:
        """Queue a job and wait for its end. If the connection breaks in between, the job may still be done.

        Raises StoppingError where the daemon is told to end: nothing is begun then, and little is waited for.
        """
        if self.stopping():
            raise errors.StoppingError(f"{name} is left as it is")
        started = self.clock()
        # signals name a unit by its Id, which is another one than an alias
        with self._job_signals(manager.text(self._row(_checked(name))[0])) as connection:
            try:
                job = manager.text(connection.call(manager.MANAGER, method, "ss", name, "replace"))
            except bus.CallError as error:
                raise _refusal(name, error) from error
            result = self._await(connection, job, started + timeout_s)
        duration_ms = (self.clock() - started) * 1000
        return JobResult(result=result, duration_ms=duration_ms, unit=self.unit(name))

    @contextlib.contextmanager
    def _job_signals(self, name: str) -> Iterator[bus.Bus]:
        """Subscribe to the end of this unit's jobs, and of no other unit's."""
        rule = bus.match_rule(path=manager.PATH, interface=f"{manager.NAME}.Manager", member="JobRemoved", arg2=name)
        connection = self.refresh()
        try:
            connection.add_match(rule)
            try:
                yield connection
            except UnitError:
                connection.remove_match(rule)
                raise
            connection.remove_match(rule)
            self.collect(connection)
        except bus.BusUnavailableError:
            self.drop()
            raise
        finally:
            self.ended.clear()

    def _await(self, connection: bus.Bus, job: str, deadline: float) -> str:
        """Wait for a job's end. Raises StoppingError a moment after the daemon was told to end.

        The broker's start may wait for our own end, because we are ordered before it: `systemctl stop tedge-agentd`
        in the middle of the broker's restart. It would be away until systemd kills us. Most jobs end in the moment.
        """
        told: float | None = None
        while True:
            self.collect(connection)
            if job in self.ended:
                return self.ended[job]
            left = deadline - self.clock()
            if left <= 0:
                return "timeout"
            if told is None and self.stopping():
                told = self.clock()
            if told is not None and self.clock() - told >= _MOMENT:
                raise errors.StoppingError(f"{job} is left to systemd")
            select.select([connection], [], [], min(left, _TICK))

    # Transient units ----------------------------------------------------------------------------------------

    def transient(self, name: str, properties: Iterable[Property], timeout_s: float) -> TransientResult:
        """Start a unit that exists only now (Type=notify), see how its start ends, and kill it.

        Its processes get SIGKILL: Mosquitto loses a SIGTERM right after READY=1 (facts/mosquitto.md 11). If this
        program dies in the middle, systemd ends the unit after `timeout_s` and forgets it.
        """
        limit = int(timeout_s * 1e6)
        fixed: tuple[Property, ...] = (
            ("Type", "s", "notify"),
            ("NotifyAccess", "s", "main"),
            ("CollectMode", "s", "inactive-or-failed"),
            ("AddRef", "b", True),  # keeps the exit status readable until this connection lets go
            ("DefaultDependencies", "b", False),
            ("KillSignal", "i", _SIGKILL),
            ("TimeoutStartUSec", "t", limit),
            ("RuntimeMaxUSec", "t", limit),
            ("LogLevelMax", "i", _LOG_ERRORS),  # no "Starting ..." in the journal for each of them
        )
        wanted = [(prop, (signature, value)) for prop, signature, value in (*fixed, *properties)]
        started = self.clock()
        with self._job_signals(_checked(name)) as connection:
            try:
                signature = "ssa(sv)a(sa(sv))"
                job = connection.call(manager.MANAGER, "StartTransientUnit", signature, name, "fail", wanted, [])
            except bus.CallError as error:
                raise _refusal(name, error) from error
            result = self._await(connection, manager.text(job), started + timeout_s + 1.0)
            duration_ms = (self.clock() - started) * 1000
            service = _object(manager.unit_path(name), "Service")
            status = int(connection.get(service, "ExecMainStatus", "i"))
            if connection.get(service, "ExecMainCode", "i") in _BY_SIGNAL:
                status = -status
            for method, signature, arguments in (("KillUnit", "ssi", ("all", _SIGKILL)), ("UnrefUnit", "s", ())):
                with contextlib.suppress(bus.CallError):  # it has ended by itself
                    connection.call(manager.MANAGER, method, signature, name, *arguments)
        return TransientResult(result=result, exec_main_status=status, duration_ms=duration_ms)


def _checked(name: str) -> str:
    if not manager.is_unit_name(name):
        raise UnitError(f"{name!r} is not the name of a unit", "systemctl list-units")
    return name


def _object(path: str, interface: str) -> tuple[bytes, bytes, bytes]:
    return manager.NAME.encode(), path.encode(), f"{manager.NAME}.{interface}".encode()


def _refusal(name: str, error: bus.CallError) -> UnitError:
    match error.name:
        case "NoSuchUnit":
            return NoSuchUnitError(name)
        case "UnitMasked":
            return UnitError(f"{name} is masked", f"systemctl unmask {name}")
        case "JobTypeNotApplicable":
            return UnitError(f"{name} has no ExecReload= and cannot be reloaded", f"systemctl restart {name}")
        case "AccessDenied" | "InteractiveAuthorizationRequired":
            return UnitError(f"systemd does not let this user touch {name}", "run it as root")
        case _:
            return UnitError(f"systemd refuses a job for {name}: {error.message}", f"systemctl status {name}")
