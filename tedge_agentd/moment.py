"""Whether now is the right moment: what is under way that the restarts of a plan would break."""

import posixpath
from collections.abc import Iterator

from .core import deferral, model, operations
from .host import agent_state, bus, client_files, package_lock, retained
from .observe import Inputs
from .world import World

_RENEWERS = ("tedge-cert-renewer*.service",)
_RUNNING = frozenset({"active", "activating", "deactivating", "reloading"})
_ASK_S = 1.0  # an answer takes some milliseconds; a broker that hangs must not hold a pass up


def look(world: World, inputs: Inputs, plan: operations.Plan) -> tuple[deferral.Activity, ...]:
    """Return what is under way, as far as the plan's restarts make it matter. Best effort, a few milliseconds."""
    if not any(isinstance(op, operations.RestartBroker | operations.RestartClient) for op in plan.operations):
        return ()
    return tuple(_activities(world, inputs, plan))


def _activities(world: World, inputs: Inputs, plan: operations.Plan) -> Iterator[deferral.Activity]:
    yield from _renewals(world)
    if package_lock.held(world.package_lock):
        yield deferral.Activity(
            what="the installation of packages",
            scope=deferral.Scope.EVERYTHING,
            remedy=f"fuser -v {world.package_lock}",
        )
    if any(isinstance(op, operations.RestartClient) and op.unit in deferral.OPERATORS for op in plan.operations):
        names = dict.fromkeys((*_written_down(world, inputs), *_retained(world, inputs)))
        for name in names:
            yield deferral.Activity(
                what=f"tedge-agent's {name}" if name != "an operation" else f"{name} of tedge-agent",
                scope=deferral.Scope.OPERATORS,
                remedy="journalctl -u tedge-agent -e",
            )


def _renewals(world: World) -> Iterator[deferral.Activity]:
    try:
        units = world.systemd.units(_RENEWERS)
    except bus.BusUnavailableError:
        return
    for unit in units:
        if unit.active_state in _RUNNING and unit.sub_state != "exited":
            yield deferral.Activity(
                what=f"{unit.name} (it renews a certificate)",
                scope=deferral.Scope.EVERYTHING,
                remedy=f"systemctl status {unit.name}",
            )


def _written_down(world: World, inputs: Inputs) -> tuple[str, ...]:
    account = world.people.account(inputs.system.user)
    if account is None:
        return ()
    directories = (posixpath.join(world.settings.tedge_dir, ".agent"), agent_state.DATA)
    return agent_state.under_way(directories, account)


def _retained(world: World, inputs: Inputs) -> tuple[str, ...]:
    wish, account = inputs.wish, world.people.account(inputs.system.user)
    if wish is None or account is None:
        return ()
    topic = f"{wish.topic_root}/{wish.device_topic_id}/cmd/+/+"
    ways = [wish.client]
    if wish.internal is not None:  # the new settings may only work once this very plan is carried out
        ways.append(model.ClientSettings(host=_reachable(wish.internal), port=wish.internal.port))
    reader = client_files.ClientFiles(roots=world.roots(), account=account)
    for client in ways:
        messages = retained.read(client, reader, topic, timeout=_ASK_S)
        if messages is not None:
            return tuple(
                deferral.operation_name(name) for name, payload in messages if deferral.is_under_way(payload)
            )
    return ()


def _reachable(listener: model.Listener) -> str:
    address = listener.address
    if address is None or address.is_unspecified:
        return "127.0.0.1" if address is None or address.version == 4 else "::1"
    return str(address)
