"""The one place that knows how to execute an operation."""

import errno
import os
from collections.abc import Callable
from typing import assert_never

from .core import errors, operations
from .host import bus, client_files, files, opened, ownership, probe, sandbox, services, users
from .world import World


def execute(operation: operations.Operation, world: World, look: probe.Look) -> None:
    """Do what the operation says, and wait until it is done.

    Raises TransientError where the machine refused (no space, read-only, systemd away), InputError where a rule
    forbids it, VerifyError where the broker does not come up or does not answer as it should, and SandboxStaleError
    where only a new mount namespace lets us write.
    """
    try:
        _execute(operation, world, look)
    except opened.Refused as error:
        raise errors.InputError(f"{error.path} {error.reason}", error.remedy) from error
    except OSError as error:
        if error.errno == errno.EROFS and sandbox.may_be_stale(world.runtime_dir):
            raise errors.SandboxStaleError(f"{error.filename} is read-only in the daemon's sandbox") from error
        raise _refused_by_machine(operation, error) from error


def _refused_by_machine(operation: operations.Operation, error: OSError) -> errors.TransientError:
    named = str(error.filename or "")
    where = named if named.startswith("/") else str(getattr(operation, "path", "")) or named or operation.describe()
    remedy = f"df -h {where}; findmnt -T {where}"
    if error.errno == errno.EROFS:
        directory = os.path.dirname(where)
        remedy += f"; if it is so for the daemon alone: systemctl edit tedge-agentd, ReadWritePaths={directory}"
    return errors.TransientError(f"{where}: {error.strerror}", remedy)


def _execute(operation: operations.Operation, world: World, look: probe.Look) -> None:  # noqa: PLR0912  # a table
    match operation:
        case operations.Own():
            ownership.fix(operation.rule, operation.facts, operation.mode, world.roots(), world.people)
        case operations.Stage():
            uid, gid = world.broker_ids()
            world.staged.prepare(gid)
            world.staged.stage(operation.name, operation.content, uid=uid, gid=gid)
        case operations.StageDirectory():
            _, gid = world.broker_ids()
            world.staged.prepare(gid)
            world.staged.stage_directory(operation.name, operation.files, gid=gid)
        case operations.RestoreStaged():
            _restore(operation, world)
        case operations.Unstage():
            world.staged.unstage(operation.name)
        case operations.WriteListenerFile():
            files.replace(operation.path, operation.content, mode=0o644, uid=0, gid=0)
        case operations.RemoveListenerFile():
            files.remove(operation.path)
        case operations.ReloadBroker():
            _job(world.systemd.reload, operation.unit, world)
        case operations.RestartBroker():
            # The sixth restart of a good file within 10 s would leave the broker dead (facts/mosquitto.md 0.7).
            world.systemd.reset_failed(operation.unit)
            _job(world.systemd.restart, operation.unit, world)
        case operations.VerifyBroker():
            _verify(operation, world, look)
        case operations.TryLogin():
            reader = client_files.ClientFiles(roots=world.roots(), account=_account(operation.user, world))
            outcome = probe.login(operation.client, reader, timeout=world.settings.verify_timeout)
            if not outcome.accepted:
                raise errors.InputError(outcome.text, outcome.remedy)
        case operations.RestartClient():
            done = _restart_client(operation, world)
            if not done.done:
                raise errors.TransientError(
                    f"{operation.unit} did not come back: its job ended as {done.result}",
                    f"journalctl -u {operation.unit} -e; systemctl restart {operation.unit}",
                )
        case _:
            assert_never(operation)


def _restart_client(operation: operations.RestartClient, world: World) -> services.JobResult:
    """A good service that was restarted five times in ten seconds stays down, unless it is told to forget that."""
    name, timeout_s = operation.unit, world.settings.job_timeout
    done = None if operation.has_failed else world.systemd.try_restart(name, timeout_s)
    if done is None or (not done.done and done.unit.result == "start-limit-hit"):
        world.systemd.reset_failed(name)
        done = world.systemd.restart(name, timeout_s)
    return done


def _account(name: str, world: World) -> users.Account:
    account = world.people.account(name)
    if account is None:
        raise errors.InputError(f"there is no account {name}", f"getent passwd {name}")
    return account


def _restore(operation: operations.RestoreStaged, world: World) -> None:
    name, kept = operation.name, world.state.kept(operation.name, operation.digest)
    uid, gid = world.broker_ids()
    world.staged.prepare(gid)
    if name in kept.files:
        world.staged.stage(name, kept.files[name], uid=uid, gid=gid)
    elif name in kept.directories:
        world.staged.stage_directory(name, kept.directories[name], gid=gid)
    else:
        raise errors.VerifyError(f"the last good copy of {name} is damaged", "tedge-agentd apply")


def _job(method: Callable[[str, float], services.JobResult], unit: str, world: World) -> None:
    try:
        done = method(unit, world.settings.job_timeout)
    except bus.BusUnavailableError as error:
        raise errors.TransientError(str(error), error.remedy, retry_in=error.retry_in) from error
    if not done.done:
        raise errors.VerifyError(f"{unit}: its job ended as {done.result}", f"journalctl -u {unit} -e")


def _verify(operation: operations.VerifyBroker, world: World, look: probe.Look) -> None:
    unit = world.systemd.unit(world.settings.broker_unit)
    if not unit.is_active:
        raise errors.VerifyError(f"{unit.name} is {unit.active_state}", f"journalctl -u {unit.name} -e")
    for listener in operation.listeners:
        problem = probe.verify(listener, operation.leaf, look, timeout=world.settings.verify_timeout)
        if problem is not None:
            raise errors.VerifyError(problem, f"journalctl -u {unit.name} -e")
