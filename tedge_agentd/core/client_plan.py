"""The clients' half of a plan: which thin-edge services read something that has changed since they started."""

from collections.abc import Iterable

from . import desired, ledger, model, observed, operations

MQTT = "mqtt"  # what every client reads
AGENT = "agent"  # what only tedge-agent reads
AGENT_UNIT = "tedge-agent.service"

_CLIENT_AREAS = (model.Area.CLIENTS, model.Area.ALL)


def inputs(wish: desired.Desired, seen: observed.Observed) -> tuple[tuple[str, ledger.ClientInputs], ...]:
    """Return what clients read now, with since when: now for what differs from the ledger.

    What was never looked at before counts as read: an installation restarts nothing.
    """
    current = {
        MQTT: ledger.fingerprint(*wish.client_values, *seen.client_contents),
        AGENT: ledger.fingerprint(*wish.agent_values),
    }
    result = []
    for group, digest in current.items():
        before = seen.ledger.clients.get(group)
        if before is None:
            result.append((group, ledger.ClientInputs(fingerprint=digest)))
        elif before.fingerprint != digest:
            result.append((group, ledger.ClientInputs(fingerprint=digest, since=seen.now)))
        else:
            result.append((group, before))
    return tuple(result)


def stale(
    groups: tuple[tuple[str, ledger.ClientInputs], ...], seen: observed.Observed
) -> tuple[tuple[model.UnitFacts, str], ...]:
    """Return the running clients that started before the last change of what they read, with the reason."""
    since = dict(groups)
    reasons = {MQTT: "its MQTT settings or files changed", AGENT: "the address of its HTTP server changed"}
    result = []
    for unit in seen.clients:
        if not unit.is_active:
            continue  # stopped stays stopped; what is being started reads what lies on disk
        for group in (MQTT, AGENT) if unit.name == AGENT_UNIT else (MQTT,):
            if not ledger.started_after(unit, since[group].since, seen.now):
                result.append((unit, reasons[group]))
                break
    # tedge-agent last: it is the one that may be in the middle of an operation.
    return tuple(sorted(result, key=lambda entry: (entry[0].name == AGENT_UNIT, entry[0].name)))


def operations_for(
    groups: tuple[tuple[str, ledger.ClientInputs], ...],
    wish: desired.Desired,
    seen: observed.Observed,
    findings: Iterable[model.Finding],
) -> tuple[tuple[operations.Operation, ...], tuple[model.Finding, ...]]:
    """Return the restarts that are due, after a login with the new settings; or why they have to wait."""
    due = stale(groups, seen)
    if not due or any(finding.blocks in _CLIENT_AREAS for finding in findings):
        return (), ()
    local = wish.client.host in {"127.0.0.1", "localhost", "::1"}
    if local and (seen.broker is None or not seen.broker.is_active):
        return (), (_waits_for_broker(due),)
    restarts = tuple(operations.RestartClient(unit=unit.name, reason=reason) for unit, reason in due)
    return (operations.TryLogin(client=wish.client, user=wish.client_user), *restarts), ()


def _waits_for_broker(due: tuple[tuple[model.UnitFacts, str], ...]) -> model.Finding:
    return model.Finding(
        code="clients-wait",
        severity=model.Severity.INFO,
        where=", ".join(unit.name for unit, _ in due),
        message="these are restarted into their new settings once the broker runs",
        remedy="systemctl start mosquitto",
        waits=True,
    )
