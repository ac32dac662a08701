"""Turn "what should be" and "what is" into an ordered tuple of operations."""

from . import (
    broker_plan,
    client_plan,
    deferral,
    desired,
    ledger,
    mending,
    model,
    observed,
    operations,
    ownership,
    shell,
)


def plan(
    wish: desired.Desired | None, seen: observed.Observed, *, staging_dir: str, broker_unit: str
) -> operations.Plan:
    """Return the smallest ordered set of operations that makes the machine match the wish, and what is against it.

    Order is fixed by kind: ownership, staged copies, listener file, broker, its proof, leftovers, clients.
    `wish` None means that the input could not be read at all: then only what last verified is kept in place.
    """
    findings = [*seen.findings, *(wish.findings if wish is not None else ())]
    own, own_findings = _ownership(wish, seen)
    if any(finding.blocks is model.Area.ALL for finding in findings):
        own = ()
    file = None
    if wish is not None and seen.broker_installed and seen.listener_path is not None:
        file, problems = broker_plan.want(wish, seen, staging_dir)
        findings += problems
    # A source that cannot be read is one mistake: it is told once, by what it blocks.
    told = {finding.where for finding in findings if finding.blocks is not None}
    findings += [finding for finding in own_findings if finding.where not in told]
    findings = list(mending.restored(findings, wish, seen, staging_dir))
    target: broker_plan.Target | None = None
    broker: tuple[operations.Operation, ...] = ()
    if seen.broker_installed and seen.listener_path is not None and not seen.hold:
        target = broker_plan.choose(file, findings, wish, seen)
        if target is not None:
            aliases = _aliases(wish, staging_dir)
            broker = broker_plan.operations_for(target, seen, unit=broker_unit, aliases=aliases)
            waits = _not_now(broker, seen)
            if waits:
                findings += waits
                target, broker = None, ()
    groups: tuple[tuple[str, ledger.ClientInputs], ...] = ()
    clients: tuple[operations.Operation, ...] = ()
    if wish is not None:
        groups = client_plan.inputs(wish, seen)
        clients, remarks = client_plan.operations_for(groups, wish, seen, findings)
        findings += remarks
    elif seen.garbled:
        groups = client_plan.garbled(seen)
    return operations.Plan(
        findings=tuple(dict.fromkeys(findings)),
        operations=(*own, *broker, *clients),
        target=target.file if target is not None else None,
        content=target.content if target is not None else None,
        path=seen.listener_path,
        serving=target.serving if target is not None else None,
        staged=target.staged if target is not None else None,
        image=target.image if target is not None else None,
        fallback=target is not None and target.fallback,
        clients=groups,
    )


def _aliases(wish: desired.Desired | None, staging_dir: str) -> dict[str, str]:
    """Which staged copy stands for which source, to recognise the listener file that thin-edge renders."""
    external = wish.external if wish is not None else None
    if external is None or external.cert is None or external.key is None:
        return {}
    pair = f"{staging_dir}/{observed.SERVER_PAIR}"
    return {external.cert: pair, external.key: pair}


def _not_now(due: tuple[operations.Operation, ...], seen: observed.Observed) -> list[model.Finding]:
    """Why a running broker is not restarted now: then nothing of it is changed. One that is down is brought back."""
    broker = seen.broker
    if broker is None or not any(isinstance(op, operations.RestartBroker | operations.ReloadBroker) for op in due):
        return []
    busy = [deferral.own_job(broker)] if broker.job else []
    if broker.is_active and any(isinstance(op, operations.RestartBroker) for op in due):
        busy += [activity for activity in seen.under_way if deferral.keeps_broker(activity)]
    return [deferral.finding(activity, [broker.name]) for activity in busy]


# Ownership --------------------------------------------------------------------------------------------------


def _ownership(
    wish: desired.Desired | None, seen: observed.Observed
) -> tuple[tuple[operations.Operation, ...], tuple[model.Finding, ...]]:
    due: list[operations.Operation] = []
    findings: list[model.Finding] = []
    for rule in wish.rules if wish is not None else ():
        facts = seen.files.get(rule.path)
        if facts is None:
            continue
        if not facts.exists:
            findings += _missing(rule, facts)
        elif facts.problem is not None:
            findings.append(_not_ours(rule, facts))
        elif rule.owner is not None:
            due += _own(rule, facts, seen)
        elif set(rule.readers) - facts.readable_by:
            findings.append(_unreadable(rule, facts))
    return tuple(due), tuple(findings)


def _own(rule: model.FileRule, facts: model.FileFacts, seen: observed.Observed) -> list[operations.Operation]:
    assert rule.owner is not None
    assert rule.group is not None
    uid, gid = seen.uids.get(rule.owner), seen.gids.get(rule.group)
    if uid is None or gid is None:
        return []  # observed as a finding of its own
    mode = ownership.wanted_mode(rule.kind, facts.mode)
    if (facts.uid, facts.gid, facts.mode) == (uid, gid, mode):
        return []
    return [operations.Own(rule=rule, facts=facts, mode=mode)]


def _blocks(rule: model.FileRule) -> model.Area | None:
    """A client that is restarted without its files does not come back; the broker reads checked copies."""
    return model.Area.CLIENTS if rule.key.startswith(desired.CLIENT_KEYS) else None


def _is_staged(rule: model.FileRule) -> bool:
    """Whether the broker is served from a checked copy, so that what is wrong with the source stops nothing."""
    return rule.key.startswith(f"{desired.EXTERNAL_KEYS}.")


def _missing(rule: model.FileRule, facts: model.FileFacts) -> list[model.Finding]:
    if not rule.key.startswith(desired.CLIENT_KEYS):
        return []  # the broker's sources are reported with the pair and the CA they make
    return [
        model.Finding(
            code="file-missing",
            severity=model.Severity.ERROR,
            where=rule.key,
            message=f"{facts.path} does not exist",
            remedy=f"put the file there, or tedge config unset {rule.key}",
            blocks=_blocks(rule),
        )
    ]


def _not_ours(rule: model.FileRule, facts: model.FileFacts) -> model.Finding:
    readable = set(rule.readers) <= facts.readable_by
    return model.Finding(
        code="ownership",
        severity=model.Severity.WARNING if readable or _is_staged(rule) else model.Severity.ERROR,
        where=rule.key,
        message=f"{facts.path}: {facts.problem}",
        remedy=facts.remedy,
        blocks=None if readable else _blocks(rule),
    )


def _unreadable(rule: model.FileRule, facts: model.FileFacts) -> model.Finding:
    who = ", ".join(sorted(set(rule.readers) - facts.readable_by))
    if rule.role is model.Role.CLIENT:
        return _for_two(rule, facts, who)
    return model.Finding(
        code="unreadable",
        severity=model.Severity.WARNING if _is_staged(rule) else model.Severity.ERROR,
        where=rule.key,
        message=f"{who} cannot read {facts.path} (mode {facts.mode:04o})",
        remedy=facts.remedy or f"chmod a+r {shell.word(facts.path)}  # and a+x for the directories above it",
        blocks=_blocks(rule),
    )


def _for_two(rule: model.FileRule, facts: model.FileFacts, who: str) -> model.Finding:
    """The mosquitto bridge reads the device's pair where it lies; the clients' services are to read it, too."""
    return model.Finding(
        code="unreadable",
        severity=model.Severity.ERROR,
        where=rule.key,
        message=f"{who} cannot read {facts.path}, which the clients share with the broker's bridge",
        remedy=f"setfacl -m u:{who}:r {shell.word(facts.path)}"
        "  # from the package acl; or give the clients a pair of their own",
        blocks=_blocks(rule),
    )


def describe(file: model.ListenerFile | None) -> str:
    """One line: what is served, for status and the journal."""
    if file is None or not file.listeners:
        return "no listeners of ours"
    return ", ".join(
        f"{entry.port} {entry.level.value} on {entry.address or entry.interface or 'all addresses'}"
        for entry in file.listeners
    )
