"""The broker's half of a plan: which listener file, which staged copies, and the mildest action that serves them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from . import binding, desired, ledger, listener, model, observed, operations, staging

_BROKER_AREAS = (model.Area.BROKER, model.Area.ALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to lie on disk and to be served. `image` None: the staged copies are left as they are."""

    file: model.ListenerFile | None  # None: no file at all
    content: bytes | None
    serving: ledger.Serving | None
    staged: ledger.Staged | None = None
    image: staging.Image | None = None
    fallback: bool = False


def blocked(findings: Iterable[model.Finding]) -> bool:
    """Whether something forbids to change what the broker serves."""
    return any(finding.blocks in _BROKER_AREAS for finding in findings)


def want(
    wish: desired.Desired, seen: observed.Observed, staging_dir: str
) -> tuple[model.ListenerFile, tuple[model.Finding, ...]]:
    """Return the listener file that is asked for, as far as this machine can have it, and what is wrong with it."""
    findings: list[model.Finding] = []
    internal, external = wish.internal, None
    if internal is not None:
        findings += _internal_findings(internal, seen)
    if wish.external is not None:
        findings += seen.pair.findings if seen.pair is not None else ()
        findings += seen.client_cas.findings if seen.client_cas is not None else ()
        if not blocked(findings):
            findings += _unproven(wish.external, seen)
        tls = staging.tls(staging_dir, seen.pair, seen.client_cas)
        external, problems = binding.resolve(wish.external, tls, seen.network)
        findings += problems
        checks = [binding.privileged(wish.external.port, f"{binding.BIND}.port", seen.network)]
        if external is not None:
            checks.append(binding.in_use(external, seen.network, seen.broker_uids))
        findings += [finding for finding in checks if finding is not None]
    return model.ListenerFile(internal=internal, external=external, sources=_sources(wish)), tuple(findings)


def _unproven(external: desired.External, seen: observed.Observed) -> list[model.Finding]:
    """What TLS needs and nobody has found usable, for whatever reason: without it the listener would be weaker."""
    pair, cas = seen.pair, seen.client_cas
    missing = []
    if external.level is not model.Level.NONE and (pair is None or pair.combined is None):
        missing.append(("cert_file", external.cert))
    if external.level is model.Level.MUTUAL and (cas is None or cas.certificates is None):
        missing.append(("ca_path", external.client_ca))
    return [
        model.Finding(
            code="source-missing",
            severity=model.Severity.ERROR,
            where=f"{desired.EXTERNAL_KEYS}.{key}",
            message=f"{path} could not be looked at",
            remedy="systemctl reload tedge-agentd looks again",
            blocks=model.Area.BROKER,
        )
        for key, path in missing
    ]


def _internal_findings(internal: model.Listener, seen: observed.Observed) -> list[model.Finding]:
    findings = [
        binding.privileged(internal.port, "mqtt.bind.port", seen.network),
        binding.in_use(internal, seen.network, seen.broker_uids),
    ]
    address = internal.address
    if address is not None and not address.is_unspecified and address not in seen.network.local_addresses:
        findings.append(binding.not_local("mqtt.bind.address", address))
    return [finding for finding in findings if finding is not None]


def _sources(wish: desired.Desired) -> tuple[tuple[str, str], ...]:
    external = wish.external
    if external is None or external.cert is None or external.key is None:
        return ()
    named = [("certificate", external.cert), ("key", external.key)]
    if external.client_ca is not None:
        named.append(("client CA", external.client_ca))
    return tuple(named)


# The target -------------------------------------------------------------------------------------------------


def choose(
    file: model.ListenerFile | None,
    findings: Iterable[model.Finding],
    wish: desired.Desired | None,
    seen: observed.Observed,
) -> Target | None:
    """Return what is to be served: what is asked for, else what last verified, else the internal listener alone.

    None: leave the broker as it is, because nothing is known to be better than what runs.
    """
    if file is not None and seen.rescue is observed.Rescue.NONE and not blocked(findings):
        return _asked(file, wish, seen)
    good = seen.ledger.last_good
    if good is not None and seen.rescue is not observed.Rescue.INTERNAL:
        return Target(
            file=listener.parse(good.content).file,
            content=good.content,
            serving=good.serving,
            staged=good.staged,
            fallback=True,
        )
    running = seen.broker is not None and seen.broker.is_active and seen.listener_data is not None
    if running and seen.rescue is observed.Rescue.NONE:
        return None
    internal = _internal_alone(file, findings, seen)
    if internal is None:
        return None
    alone = model.ListenerFile(internal=internal)
    return replace(_asked(alone, wish, seen), image=None, fallback=True)


def _internal_alone(
    file: model.ListenerFile | None, findings: Iterable[model.Finding], seen: observed.Observed
) -> model.Listener | None:
    """The internal listener as asked for, where nothing speaks against it; in a rescue else as it last verified."""
    if file is not None and file.internal is not None and _only_external(findings):
        return file.internal
    good = seen.ledger.last_good
    if seen.rescue is not observed.Rescue.INTERNAL or good is None:
        return None
    known = listener.parse(good.content).file
    return known.internal if known is not None else None


def _only_external(findings: Iterable[model.Finding]) -> bool:
    """Whether what blocks is about the external listener alone, so that the internal one can be served."""
    return all(
        finding.where.startswith(desired.EXTERNAL_KEYS) or finding.code == "ignored-key"
        for finding in findings
        if finding.blocks in _BROKER_AREAS
    )


def _asked(file: model.ListenerFile, wish: desired.Desired | None, seen: observed.Observed) -> Target:
    if not file.listeners:
        # mqtt.bind.enabled = false and nothing external: the site keeps its own listeners (facts/platform.md 0.7).
        return Target(file=None, content=None, serving=None, image=staging.Image())
    pair = seen.pair if file.external is not None and file.external.tls is not None else None
    cas = seen.client_cas if pair is not None else None
    serving = ledger.Serving(
        config=ledger.fingerprint(listener.canonical(file)),
        pair=pair.fingerprint if pair is not None else None,
        key_type=pair.key_type if pair is not None else None,
        ca=frozenset(digest for digest, _ in cas.certificates or ()) if cas is not None else None,
        ca_is_dir=cas.is_dir if cas is not None else False,
    )
    external = wish.external if wish is not None else None
    staged = None
    if pair is not None and external is not None and external.cert is not None and external.key is not None:
        staged = ledger.Staged(
            cert_path=external.cert,
            key_path=external.key,
            fingerprint=pair.fingerprint,
            key_type=pair.key_type,
            leaf=pair.leaf,
        )
    return Target(
        file=file, content=listener.render(file), serving=serving, staged=staged, image=staging.image(pair, cas)
    )


# Operations -------------------------------------------------------------------------------------------------


def operations_for(
    target: Target, seen: observed.Observed, *, unit: str, aliases: dict[str, str]
) -> tuple[operations.Operation, ...]:
    """Return the operations after which the broker serves the target: copies, file, broker, proof, leftovers."""
    image = target.image.digests() if target.image is not None else None
    stage = _stage(target, seen) if target.image is not None else _restore(target, seen)
    write, same_meaning = _write(target, seen, aliases)
    act = _act(target, seen, unit, same_meaning=same_meaning)
    unstage = [
        operations.Unstage(name=name) for name in sorted(seen.staged) if image is not None and name not in image
    ]
    # Before the new file: in between, a broker that starts has no port twice, and so starts.
    moved = [
        operations.RemoveListenerFile(path=path, reason=f"the listener file is {seen.listener_path} now")
        for path in seen.leftovers
    ]
    return (*stage, *moved, *write, *act, *unstage)


def _stage(target: Target, seen: observed.Observed) -> list[operations.Operation]:
    assert target.image is not None
    digests = target.image.digests()
    sources = dict(target.file.sources) if target.file is not None else {}
    due = {name for name, digest in digests.items() if seen.staged.get(name) != digest}
    pair_source = sources.get("certificate", "")
    ca_source = sources.get("client CA", "")
    return [
        *(
            operations.Stage(
                name=name,
                content=content,
                source=pair_source if name == observed.SERVER_PAIR else ca_source,
            )
            for name, content in target.image.files.items()
            if name in due
        ),
        *(
            operations.StageDirectory(name=name, files=files, source=ca_source)
            for name, files in target.image.directories.items()
            if name in due
        ),
    ]


def _restore(target: Target, seen: observed.Observed) -> list[operations.Operation]:
    """A fallback's copies come from the state directory, if what is staged is not them."""
    good = seen.ledger.last_good
    if good is None or target.staged is None:
        return []
    return [
        operations.RestoreStaged(name=name, digest=digest)
        for name, digest in sorted(good.copies.items())
        if seen.staged.get(name) != digest
    ]


def _write(
    target: Target, seen: observed.Observed, aliases: dict[str, str]
) -> tuple[list[operations.Operation], bool]:
    """Return the operations that put the listener file right, and whether its meaning stays as it was."""
    path, data = seen.listener_path, seen.listener_data
    assert path is not None
    if target.content is None or target.file is None:
        # What thin-edge wrote before stays with it, unless no broker would start with it: `tedge refresh-bridges`
        # writes the file although mqtt.bind.enabled = false (facts/thin-edge.md 0.7).
        if data is not None and (listener.is_ours(data) or seen.listener_clashes):
            reason = "mqtt.bind.enabled = false and nothing external is asked for"
            return [operations.RemoveListenerFile(path=path, reason=reason)], False
        return [], True
    if data is not None and listener.means_same(data, target.file):
        return [], True
    if data is None:
        return [operations.WriteListenerFile(path=path, content=target.content, reason="there is none yet")], False
    if listener.canonical_of(data, aliases) == listener.canonical(target.file):
        # thin-edge rendered the same listeners from the sources themselves: our copies are named without a restart.
        reason = "it names the sources instead of the checked copies"
        return [operations.WriteListenerFile(path=path, content=target.content, reason=reason)], True
    reason = "it means something else than tedge.toml asks for"
    if target.fallback:
        reason = "it is not the last good one"
    return [operations.WriteListenerFile(path=path, content=target.content, reason=reason)], False


def _act(target: Target, seen: observed.Observed, unit: str, *, same_meaning: bool) -> list[operations.Operation]:
    broker = seen.broker
    if broker is None or broker.load_state != "loaded":
        return []
    listeners = target.file.listeners if target.file is not None else ()
    verify = operations.VerifyBroker(listeners=listeners, leaf=target.staged.leaf if target.staged else None)
    if seen.told:
        return [operations.RestartBroker(unit=unit, reason="what it was told before did not verify"), verify]
    if broker.has_failed:
        return [operations.RestartBroker(unit=unit, reason="it had failed"), verify]
    if not broker.is_active:
        return []  # started by nobody, or about to be: it will read what lies on disk
    if target.serving is None:
        if same_meaning and not seen.leftovers:
            return []
        return [operations.RestartBroker(unit=unit, reason="the listener file was removed"), verify]
    action, reason = _action(target, seen, broker, listeners, same_meaning=same_meaning)
    match action:
        case ledger.Action.RESTART:
            return [operations.RestartBroker(unit=unit, reason=reason), verify]
        case ledger.Action.RELOAD:
            return [operations.ReloadBroker(unit=unit, reason=reason), verify]
        case ledger.Action.NONE:
            return [] if seen.ledger.verified == broker.invocation else [verify]


def _action(
    target: Target,
    seen: observed.Observed,
    broker: model.UnitFacts,
    listeners: tuple[model.Listener, ...],
    *,
    same_meaning: bool,
) -> tuple[ledger.Action, str]:
    assert target.serving is not None
    missing = [entry for entry in listeners if not binding.is_served(entry, seen.network, seen.broker_uids)]
    known = seen.ledger.invocation == broker.invocation
    serving = ledger.broker_serves(seen.ledger, broker, seen.now)
    if not known and not same_meaning:
        serving = None  # it started while somebody else's listener file lay there
    if seen.ledger.on_disk is None and same_meaning and not missing:
        serving = target.serving  # a site that was set up by hand is adopted as it runs
    action, reason = ledger.broker_action(serving, target.serving)
    if action is not ledger.Action.RESTART and missing:
        return ledger.Action.RESTART, f"it does not listen on port {missing[0].port}"
    return action, reason
