"""The clients' half of a plan: which thin-edge services read something that has changed since they started."""

from collections.abc import Iterable

from . import binding, deferral, desired, ledger, model, observed, operations

MQTT = "mqtt"  # what every client reads
AGENT = "agent"  # what only tedge-agent reads
TOML = "toml"  # whether tedge.toml can be read at all
AGENT_UNIT = "tedge-agent.service"

_REASONS = {MQTT: "its MQTT settings or files changed", AGENT: "the address of its HTTP server changed"}
_YOUNG_USEC = 1_000_000  # thin-edge's services end within this time if their settings are no good

_CLIENT_AREAS = (model.Area.CLIENTS, model.Area.ALL)
_AGENT_ADDRESSES = frozenset({f"{binding.BIND}.address", "mqtt.bind.address"})


def inputs(wish: desired.Desired, seen: observed.Observed) -> tuple[tuple[str, ledger.ClientInputs], ...]:
    """Return what clients read now, with since when: now for what differs from the ledger.

    What was never looked at before counts as read: an installation restarts nothing.
    """
    current = {
        MQTT: ledger.fingerprint(*wish.client_values, *seen.client_contents),
        AGENT: ledger.fingerprint(*wish.agent_values),
        TOML: "readable",
    }
    return _inputs(current, seen)


def garbled(seen: observed.Observed) -> tuple[tuple[str, ledger.ClientInputs], ...]:
    """Return that tedge.toml cannot be read: a client that fails meanwhile is tried again once it can."""
    return _inputs({TOML: "garbled"}, seen)


def _inputs(current: dict[str, str], seen: observed.Observed) -> tuple[tuple[str, ledger.ClientInputs], ...]:
    result = []
    for group, digest in current.items():
        before = seen.ledger.clients.get(group)
        if before is None:
            result.append((group, ledger.ClientInputs(fingerprint=digest)))
        elif before.fingerprint != digest:
            result.append((group, before.changed_to(digest, seen.now)))
        else:
            result.append((group, before))
    return tuple(result)


def stale(
    groups: tuple[tuple[str, ledger.ClientInputs], ...], seen: observed.Observed
) -> tuple[tuple[model.UnitFacts, str], ...]:
    """Return the clients that have read something else than what lies on disk now, with the reason.

    They run; or they are enabled and failed before the last change, which may be what they failed for want of.
    """
    known = dict(groups)
    result = []
    for unit in seen.clients:
        if _may_revive(unit, groups, seen):
            result.append((unit, "it had failed, and its settings have changed since"))
            continue
        if not unit.is_active or unit.job:
            continue  # stopped stays stopped; what is being started reads what lies on disk
        for group in _read_by(unit):
            if known[group].read_by(unit, seen.now) != known[group].fingerprint:
                result.append((unit, _REASONS[group]))
                break
    # tedge-agent last: it is the one that may be in the middle of an operation.
    return tuple(sorted(result, key=lambda entry: (entry[0].name == AGENT_UNIT, entry[0].name)))


def _may_revive(
    unit: model.UnitFacts, groups: tuple[tuple[str, ledger.ClientInputs], ...], seen: observed.Observed
) -> bool:
    """Once a change: the next failure is later than the change. What an operator has disabled stays down."""
    if unit.active_state != "failed" or not unit.is_enabled or unit.job:
        return False
    since = _since(groups, unit, seen)
    return since is not None and unit.failed_usec < since.usec


def operations_for(
    groups: tuple[tuple[str, ledger.ClientInputs], ...],
    wish: desired.Desired,
    seen: observed.Observed,
    findings: Iterable[model.Finding],
) -> tuple[tuple[operations.Operation, ...], tuple[model.Finding, ...]]:
    """Return the restarts that are due, after a login with the new settings; or why they have to wait."""
    findings = tuple(findings)
    remarks = [*failures(groups, seen), *_changing(seen), *_young(groups, seen)]
    due = stale(groups, seen)
    if any(finding.blocks is not None and finding.where in _AGENT_ADDRESSES for finding in findings):
        # Its HTTP server could bind that address no more than the broker could: it would not come back.
        due = tuple(entry for entry in due if entry[1] != _REASONS[AGENT])
    if not due or any(finding.blocks in _CLIENT_AREAS for finding in findings):
        return (), tuple(remarks)
    local = wish.client.host in {"127.0.0.1", "localhost", "::1"}
    if local and (seen.broker is None or not seen.broker.is_active):
        return (), (*remarks, _waits_for_broker(due))
    for activity in seen.under_way:
        kept = [unit.name for unit, _ in due if unit.is_active and deferral.keeps_client(activity, unit.name)]
        remarks += [deferral.finding(activity, kept)] if kept else []
    restarts = tuple(
        operations.RestartClient(unit=unit.name, reason=reason, has_failed=not unit.is_active)
        for unit, reason in due
        if not unit.is_active or not any(deferral.keeps_client(activity, unit.name) for activity in seen.under_way)
    )
    return ((operations.TryLogin(client=wish.client, user=wish.client_user), *restarts) if restarts else ()), tuple(
        remarks
    )


def failures(
    groups: tuple[tuple[str, ledger.ClientInputs], ...], seen: observed.Observed
) -> tuple[model.Finding, ...]:
    """A finding for each client that has failed: an error if it has read the last change of its settings.

    It is not started again and again by us: systemd does that, or has given up for a reason. A later change of its
    settings may take that reason away, and is one more attempt.
    """
    result = []
    for unit in seen.clients:
        if not unit.has_failed:
            continue
        # tedge-agent may fail in its ExecStartPre=, `tedge init`: then no process of it has started.
        last = max(unit.started_usec, unit.failed_usec)
        since = _since(groups, unit, seen)
        changed = since is not None and last > since.usec and not _may_revive(unit, groups, seen)
        said = "; ".join(seen.last_lines.get(unit.name, ()))
        result.append(
            model.Finding(
                code="client-failed",
                severity=model.Severity.ERROR if changed else model.Severity.WARNING,
                where=unit.name,
                message=("it fails with its new settings" if changed else "it has failed")
                + (f". It said last: {said}" if said else ""),
                remedy=f"journalctl -u {unit.name} -e; systemctl restart {unit.name}",
            )
        )
    return tuple(result)


def _young(groups: tuple[tuple[str, ledger.ClientInputs], ...], seen: observed.Observed) -> tuple[model.Finding, ...]:
    """systemd is content once a client's process exists; whether it stays with its new settings is seen later."""
    names = [
        unit.name
        for unit in seen.clients
        if unit.is_active
        and (since := _since(groups, unit, seen)) is not None
        and ledger.started_after(unit, since, seen.now)
        and seen.now.usec - unit.started_usec < _YOUNG_USEC
    ]
    return (started(names),) if names else ()


def _read_by(unit: model.UnitFacts) -> tuple[str, ...]:
    return (AGENT, MQTT) if unit.name == AGENT_UNIT else (MQTT,)


def _since(
    groups: tuple[tuple[str, ledger.ClientInputs], ...], unit: model.UnitFacts, seen: observed.Observed
) -> model.Stamp | None:
    """When something that a client reads changed last, or could be read again, if that was in this boot."""
    known = dict(groups)
    stamps = [known[group].since for group in (*_read_by(unit), TOML)]
    here = [stamp for stamp in stamps if stamp is not None and stamp.boot_id == seen.now.boot_id]
    return max(here, key=lambda stamp: stamp.usec, default=None)


def started(names: Iterable[str]) -> model.Finding:
    """The finding for clients that have just been restarted."""
    units = sorted(names)
    return model.Finding(
        code="client-started",
        severity=model.Severity.INFO,
        where=", ".join(units),  # the same finding, in whichever order they came
        message="started with new settings; whether it stays up is looked at in a second",
        remedy=f"systemctl status {' '.join(units)}",
        waits=True,
    )


def _changing(seen: observed.Observed) -> list[model.Finding]:
    """Somebody starts, stops or restarts a client just now; what becomes of it is looked at again."""
    names = [unit.name for unit in seen.clients if unit.job and unit.is_active]
    if not names:
        return []
    return [
        model.Finding(
            code="unit-changing",
            severity=model.Severity.INFO,
            where=", ".join(names),
            message="systemd has a job for it that somebody has asked for",
            remedy="systemctl list-jobs",
            waits=True,
        )
    ]


def _waits_for_broker(due: tuple[tuple[model.UnitFacts, str], ...]) -> model.Finding:
    return model.Finding(
        code="clients-wait",
        severity=model.Severity.INFO,
        where=", ".join(unit.name for unit, _ in due),
        message="these are restarted into their new settings once the broker runs",
        remedy="systemctl start mosquitto",
        waits=True,
    )
