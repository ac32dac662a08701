"""Execute a plan in order, know how to undo it, and remember what came of it."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from . import execute
from .core import broker_plan, deferral, errors, ledger, model, observed, operations
from .core.shell import word
from .host import bus, opened, ownership, probe, state
from .world import World

_CLIENT_OPERATIONS = (operations.TryLogin, operations.RestartClient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One executed operation and how long it took; `error` is why it failed, "" if it did not."""

    operation: operations.Operation
    duration_ms: float
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Result:
    """What executing came to. `failed` is why the plan was not carried out to its end."""

    done: list[Done] = field(default_factory=list)
    findings: list[model.Finding] = field(default_factory=list)
    failed: errors.TedgeAgentdError | None = None
    rolled_back: bool = False
    interrupted: bool = False  # somebody else stops or starts the broker just now

    @property
    def told(self) -> bool:
        """Whether the broker was told to read something, or would have been if systemd had taken the job."""
        return self.count(operations.ReloadBroker) + self.count(operations.RestartBroker) > 0

    @property
    def must_be_undone(self) -> bool:
        """Whether the broker runs, or does not, with something that it does not serve.

        Where the machine failed us instead (no space, no D-Bus) nothing is undone: what lies on disk is old or new,
        both were accepted by a preflight, and the next pass carries on from there.
        """
        return self.told and isinstance(self.failed, errors.VerifyError)

    def count(self, kind: type) -> int:
        return sum(isinstance(entry.operation, kind) for entry in self.done)

    def did(self, kinds: tuple[type, ...]) -> bool:
        return any(isinstance(entry.operation, kinds) and not entry.error for entry in self.done)


def news(done: Sequence[Done], before: Sequence[Done]) -> list[str]:
    """What to tell of a pass: what it did, unless it only looked as the pass before had, and saw the same.

    A login that cannot succeed is tried every few seconds, for days if need be.
    """
    told = [_told(entry) for entry in done]
    if any(not isinstance(entry.operation, operations.LOOKS) for entry in done):
        return told
    return told if told != [_told(entry) for entry in before] else []


def _told(done: Done) -> str:
    return done.operation.describe() + (f" (failed: {done.error})" if done.error else "")


def touches_broker(plan: operations.Plan) -> bool:
    kinds = (*operations.BROKER_INPUT, operations.ReloadBroker, operations.RestartBroker)
    return any(isinstance(operation, kinds) for operation in plan.operations)


# Doing ------------------------------------------------------------------------------------------------------


def broker_part(plan: operations.Plan, seen: observed.Observed, world: World, result: Result) -> None:
    """Execute ownership, staging, listener file, broker and proof, up to the first failure of the broker's.

    A file that cannot be taken is a finding and stops nothing: the broker reads checked copies.
    """
    look = probe.Look(network=seen.network)
    for operation in plan.operations:
        if isinstance(operation, _CLIENT_OPERATIONS):
            continue
        if isinstance(operation, operations.ReloadBroker | operations.RestartBroker) and _is_taken(
            seen, world, result
        ):
            return
        error = _run(operation, world, look, result)
        if error is None:
            continue
        if isinstance(operation, operations.Own):
            result.findings.append(_own_finding(operation, error))
        elif isinstance(operation, operations.Unstage):
            result.findings.append(_leftover_finding(operation, error))
        elif isinstance(operation, operations.VerifyBroker) and _may_restart_instead(result):
            error = _restart_instead(operation, world, look, result)
            if error is not None:
                result.failed = error
                return
        else:
            result.failed = error
            return


def _is_taken(seen: observed.Observed, world: World, result: Result) -> bool:
    """Whether somebody has begun to stop or start the broker since it was looked at; `tedge connect` does.

    Then what lies on disk is read by that start, and the next pass sees to the rest.
    """
    before = seen.broker
    if before is None or not before.is_active or seen.rescue is not observed.Rescue.NONE:
        return False
    try:
        unit = world.systemd.unit(before.name)
    except bus.BusUnavailableError:
        return False  # the job itself will say so
    if unit.is_active and not unit.job and unit.invocation == before.invocation:
        return False
    result.interrupted = True
    result.findings.append(deferral.finding(deferral.own_job(unit), [unit.name]))
    return True


def _may_restart_instead(result: Result) -> bool:
    """A reload that is not served is followed by a restart before anything is given up (contract 8)."""
    return result.did((operations.ReloadBroker,)) and not result.did((operations.RestartBroker,))


def _restart_instead(
    verify: operations.VerifyBroker, world: World, look: probe.Look, result: Result
) -> errors.TedgeAgentdError | None:
    unit = world.settings.broker_unit
    restart = operations.RestartBroker(unit=unit, reason="a reload did not make it serve the new certificate")
    return _run(restart, world, look, result) or _run(verify, world, look, result)


def client_part(plan: operations.Plan, world: World, result: Result) -> None:
    """Restart the clients that are due, once a login with their settings has succeeded."""
    look = probe.Look(network=model.Network())
    for operation in plan.operations:
        if not isinstance(operation, _CLIENT_OPERATIONS):
            continue
        error = _run(operation, world, look, result)
        if error is not None and isinstance(operation, operations.TryLogin):
            result.findings.append(_login_finding(error, follows=broker_plan.blocked(plan.findings)))
            return
        if error is not None and isinstance(operation, operations.RestartClient):
            result.findings.append(_client_finding(operation, error))


def _run(
    operation: operations.Operation, world: World, look: probe.Look, result: Result
) -> errors.TedgeAgentdError | None:
    """Execute one operation and note it; return what went wrong. What ends the daemon goes through to it."""
    begun = time.monotonic()
    failed: errors.TedgeAgentdError | None = None
    try:
        execute.execute(operation, world, look)
    except errors.SandboxStaleError:
        raise
    except errors.TedgeAgentdError as error:
        failed = error
    world.progress()
    duration = (time.monotonic() - begun) * 1000
    result.done.append(Done(operation=operation, duration_ms=duration, error="" if failed is None else str(failed)))
    return failed


# Undoing ----------------------------------------------------------------------------------------------------


def undo_record(plan: operations.Plan, seen: observed.Observed) -> state.Undo:
    """What has to be known to undo a plan, before it begins."""
    owned = tuple(
        (op.rule.path, op.facts.uid, op.facts.gid, op.facts.mode)
        for op in plan.operations
        if isinstance(op, operations.Own)
    )
    before = None if seen.listener_data == observed.NOT_A_FILE else seen.listener_data
    return state.Undo(path=plan.path, listener=before, owned=owned)


def put_back(undo: state.Undo, world: World) -> tuple[operations.Operation, ...]:
    """The operations for a machine that knows no last good state yet: the listener file as it was before."""
    if undo.path is None:
        return ()
    unit = world.settings.broker_unit
    restart = operations.RestartBroker(unit=unit, reason="it did not serve the new listener file")
    reason = "the broker did not serve the new one"
    if undo.listener is None:
        return (operations.RemoveListenerFile(path=undo.path, reason=reason), restart)
    write = operations.WriteListenerFile(path=undo.path, content=undo.listener, reason=reason)
    return (write, restart, operations.VerifyBroker(listeners=(), leaf=None))


def give_back(undo: state.Undo, world: World, result: Result) -> None:
    """Give source files back to whom they belonged before; one that has changed since is left to the next pass."""
    for path, uid, gid, mode in undo.owned:
        try:
            ownership.give_back(path, uid, gid, mode, world.roots())
        except (opened.Refused, OSError) as error:
            result.findings.append(
                model.Finding(
                    code="ownership",
                    severity=model.Severity.WARNING,
                    where=path,
                    message=f"its owner could not be put back: {error}",
                    remedy=f"chown {uid}:{gid} {word(path)}; chmod {mode:04o} {word(path)}",
                )
            )


def broker_down_finding(unit: str) -> model.Finding:
    """The finding for the worst: nothing that is known brings the broker back."""
    return model.Finding(
        code="broker-down",
        severity=model.Severity.ERROR,
        where=unit,
        message="the broker is down, and nothing that the daemon may do now brings it back",
        remedy=f"journalctl -u {unit} -e; tail /var/log/mosquitto/mosquitto.log",
        blocks=model.Area.BROKER,
    )


def run_all(todo: Iterable[operations.Operation], seen: observed.Observed, world: World, result: Result) -> bool:
    """Execute operations in order up to the first failure; return whether all succeeded."""
    look = probe.Look(network=seen.network)
    return all(_run(operation, world, look, result) is None for operation in todo)


# Remembering ------------------------------------------------------------------------------------------------


def remember(  # noqa: PLR0913  # a pass in all its parts
    plan: operations.Plan,
    seen: observed.Observed,
    result: Result,
    world: World,
    before: ledger.Ledger,
    *,
    keep: bool = True,
) -> ledger.Ledger:
    """Return the ledger after a broker part that succeeded, and `keep` copies of what has verified.

    The copies are durable before the ledger names them; a crash between the two leaves one copy too many.
    """
    if plan.serving is None:
        return replace(before, serving=None, invocation="", verified="", on_disk=None, since=None, staged=None)
    written = result.did(operations.BROKER_INPUT)
    known = replace(
        before,
        on_disk=plan.serving,
        since=world.stamp() if written or before.on_disk is None else before.since,
        staged=plan.staged,
    )
    unit = seen.broker
    if result.did((operations.RestartBroker, operations.ReloadBroker)):
        unit = world.systemd.unit(world.settings.broker_unit)
    if unit is None or not unit.is_active:
        return known
    verified = result.did((operations.VerifyBroker,)) or before.verified == unit.invocation
    known = replace(
        known,
        serving=plan.serving,
        invocation=unit.invocation,
        verified=unit.invocation if verified else "",
    )
    if verified and keep and not plan.fallback:
        known = replace(known, last_good=_keep(plan, world, before.last_good))
    return known


def _keep(plan: operations.Plan, world: World, before: ledger.LastGood | None) -> ledger.LastGood | None:
    assert plan.path is not None
    if plan.image is None or plan.content is None or plan.serving is None:
        return before
    digests = plan.image.digests()
    good = ledger.LastGood(
        path=plan.path, content=plan.content, serving=plan.serving, staged=plan.staged, copies=digests
    )
    if good != before:
        world.state.keep(plan.image)
    return good


def failed_ledger(plan: operations.Plan, world: World, before: ledger.Ledger) -> ledger.Ledger:
    """The ledger after a broker part that failed: nothing is known of what the broker has read."""
    return replace(
        before, serving=None, invocation="", verified="", on_disk=plan.serving or before.on_disk, since=world.stamp()
    )


def original(world: World, path: str, data: bytes | None) -> None:
    """Keep what lay at the listener file's place before us, once (purge puts it back)."""
    owner = None
    if data == observed.NOT_A_FILE:
        data = None
    if data is not None:
        status = os.lstat(path)
        owner = (status.st_uid, status.st_gid, status.st_mode & 0o7777)
    world.state.keep_original(path, data, owner)


# Findings ---------------------------------------------------------------------------------------------------


def _own_finding(operation: operations.Own, error: errors.TedgeAgentdError) -> model.Finding:
    return model.Finding(
        code="ownership",
        severity=model.Severity.ERROR,
        where=operation.rule.key,
        message=str(error),
        remedy=error.remedy,
    )


def _leftover_finding(operation: operations.Unstage, error: errors.TedgeAgentdError) -> model.Finding:
    return model.Finding(
        code="leftover",
        severity=model.Severity.WARNING,
        where=operation.name,
        message=f"a staged copy that no setting names any more could not be removed: {error}",
        remedy=error.remedy,
    )


def _login_finding(error: errors.TedgeAgentdError, *, follows: bool) -> model.Finding:
    """One mistake is one error: where the broker is held back, it may well not serve what the clients are to use."""
    text = "the clients could not log in with these settings, so they keep running with the old ones"
    return model.Finding(
        code="client-login",
        severity=model.Severity.WARNING if follows else model.Severity.ERROR,
        where="mqtt.client",
        message=f"{text}: {error}" + ("; the broker does not serve the new settings yet" if follows else ""),
        remedy=error.remedy,
        blocks=model.Area.CLIENTS,
    )


def _client_finding(operation: operations.RestartClient, error: errors.TedgeAgentdError) -> model.Finding:
    return model.Finding(
        code="client-failed",
        severity=model.Severity.ERROR,
        where=operation.unit,
        message=str(error),
        remedy=error.remedy,
    )
