"""The plan's algebra: carried out, a plan leaves nothing to do; and it never opens less than what was asked for."""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import broker_plan, desired, ledger, listener, model, observed, operations, plan, staging

STAGING = "/etc/mosquitto/certs/tedge-agentd"
PATH = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
BROKER = "mosquitto.service"
UID = 108
LAN = ipaddress.IPv4Address("192.0.2.10")
BOOT = "boot"


def make(wish: desired.Desired | None, seen: observed.Observed) -> operations.Plan:
    return plan.plan(wish, seen, staging_dir=STAGING, broker_unit=BROKER)


def broker(**changes: object) -> model.UnitFacts:
    unit = model.UnitFacts(
        name=BROKER, load_state="loaded", active_state="active", sub_state="running", invocation="i1", started_usec=50
    )
    return replace(unit, **changes)  # type: ignore[arg-type]


def machine(**changes: object) -> observed.Observed:
    seen = observed.Observed(
        now=model.Stamp(boot_id=BOOT, usec=1000),
        broker_installed=True,
        listener_path=PATH,
        listener_data=None,
        broker=broker(),
        uids={"mosquitto": UID, "tedge": 999},
        gids={"mosquitto": UID, "tedge": 999},
        network=model.Network(
            local_addresses=frozenset({LAN, ipaddress.IPv4Address("127.0.0.1")}),
            interfaces={"eth0": model.Interface(name="eth0", ipv4=LAN)},
        ),
        broker_uids=frozenset({UID}),
    )
    return replace(seen, **changes)  # type: ignore[arg-type]


def pair(name: str = "1", key_type: str = "EC") -> observed.Pair:
    return observed.Pair(
        combined=f"pair {name}".encode(), fingerprint=f"fp{name}", key_type=key_type, leaf=f"leaf{name}"
    )


def carried_out(made: operations.Plan, seen: observed.Observed) -> observed.Observed:
    """The machine after a plan, as an executor that never fails leaves it, seen a second later."""
    now = model.Stamp(boot_id=BOOT, usec=seen.now.usec + 1_000_000)
    unit, data, staged = seen.broker, seen.listener_data, dict(seen.staged)
    files = dict(seen.files)
    clients = {client.name: client for client in seen.clients}
    verified, wrote, behind = seen.ledger.verified, False, list(seen.leftovers)
    for op in made.operations:
        match op:
            case operations.Own():
                assert op.rule.owner is not None
                assert op.rule.group is not None
                files[op.rule.path] = replace(
                    op.facts, uid=seen.uids[op.rule.owner], gid=seen.gids[op.rule.group], mode=op.mode
                )
            case operations.Stage():
                staged[op.name], wrote = staging.file_digest(op.content), True
            case operations.StageDirectory():
                staged[op.name], wrote = staging.directory_digest(op.files), True
            case operations.RestoreStaged():
                staged[op.name], wrote = op.digest, True
            case operations.Unstage():
                del staged[op.name]
            case operations.WriteListenerFile():
                data, wrote = op.content, True
            case operations.RemoveListenerFile(path=path) if path in behind:
                behind.remove(path)
            case operations.RemoveListenerFile():
                data, wrote = None, True
            case operations.RestartBroker():
                assert unit is not None
                unit = replace(
                    unit,
                    active_state="active",
                    sub_state="running",
                    invocation=unit.invocation + "+",
                    started_usec=now.usec - 1,
                )
            case operations.RestartClient():
                clients[op.unit] = replace(clients[op.unit], started_usec=now.usec - 1)
            case operations.VerifyBroker():
                assert unit is not None
                verified = unit.invocation
    known = replace(seen.ledger, clients=dict(made.clients))
    sockets = seen.network.sockets
    if unit is not None and unit.is_active:
        sockets = tuple(s for s in sockets if s.uid != UID) + sockets_of(made.target)
    if made.serving is not None:
        since = seen.now if wrote or known.on_disk is None else known.since
        known = replace(known, on_disk=made.serving, since=since, staged=made.staged)
        if unit is not None and unit.is_active:
            known = replace(known, serving=made.serving, invocation=unit.invocation, verified=verified)
    return replace(
        seen,
        now=now,
        broker=unit,
        listener_data=data,
        leftovers=tuple(behind),
        staged=staged,
        files=files,
        clients=tuple(clients.values()),
        ledger=known,
        network=replace(seen.network, sockets=sockets),
    )


def sockets_of(file: model.ListenerFile | None) -> tuple[model.Socket, ...]:
    everywhere = ipaddress.IPv4Address("0.0.0.0")
    return tuple(
        model.Socket(address=entry.address or (LAN if entry.interface else everywhere), port=entry.port, uid=UID)
        for entry in (file.listeners if file is not None else ())
    )


# Properties -------------------------------------------------------------------------------------------------

levels = st.sampled_from(model.Level)


@st.composite
def wishes(draw: st.DrawFn) -> model.TedgeSettings:
    level = draw(levels)
    external = model.ExternalSettings(
        port=draw(st.sampled_from([None, 8883, 9000])),
        address=draw(st.sampled_from([None, LAN, ipaddress.IPv4Address("0.0.0.0")])),
        interface=draw(st.sampled_from([None, "eth0"])),
        cert_file="/etc/tedge/s.crt" if level is not model.Level.NONE else None,
        key_file="/etc/tedge/s.key" if level is not model.Level.NONE else None,
        ca_path="/etc/tedge/ca" if level is model.Level.MUTUAL else None,
    )
    return model.TedgeSettings(
        bind=model.BindSettings(enabled=draw(st.booleans())),
        client=model.ClientSettings(host=draw(st.sampled_from(["127.0.0.1", "elsewhere"])), cert_file="/etc/tedge/c"),
        external=draw(st.sampled_from([external, model.ExternalSettings()])),
    )


@st.composite
def machines(draw: st.DrawFn) -> observed.Observed:
    states = st.sampled_from([("active", "running"), ("inactive", "dead"), ("failed", "failed")])
    active, sub = draw(states)
    certificates = tuple((f"{n:064d}", f"ca {n}".encode()) for n in range(draw(st.integers(1, 3))))
    thin_edge = listener.render(model.ListenerFile(internal=model.Listener(port=1883)))
    return machine(
        broker=broker(active_state=active, sub_state=sub),
        listener_data=draw(st.sampled_from([None, b"", b"\0", b"listener 1883\n", thin_edge])),
        pair=pair(draw(st.sampled_from("12")), draw(st.sampled_from(["EC", "RSA"]))),
        client_cas=observed.ClientCas(is_dir=draw(st.booleans()), certificates=certificates),
        leftovers=draw(st.sampled_from([(), ("/etc/mosquitto/conf.d/tedge-mosquitto.conf",)])),
        staged=draw(st.dictionaries(st.sampled_from(["server.pem", "client-ca.pem", "client-ca"]), st.just("x"))),
        clients=(
            model.UnitFacts(name="tedge-agent.service", load_state="loaded", active_state="active", started_usec=10),
        ),
        files={
            "/etc/tedge/c": model.FileFacts(
                path="/etc/tedge/c", real="/etc/tedge/c", exists=True, uid=0, gid=0, mode=0o640
            )
        },
        ledger=draw(
            st.sampled_from(
                [
                    ledger.Ledger(),
                    ledger.Ledger(
                        clients={
                            "mqtt": ledger.ClientInputs(fingerprint="old"),
                            "agent": ledger.ClientInputs(fingerprint="old"),
                        }
                    ),
                ]
            )
        ),
    )


def wish_of(settings: model.TedgeSettings, seen: observed.Observed) -> tuple[desired.Desired, observed.Observed]:
    """A wish, and the machine looked at for it: material is read only where it is asked for."""
    wish = desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge")
    external = wish.external
    if external is None or external.cert is None:
        seen = replace(seen, pair=None)
    if external is None or external.client_ca is None:
        seen = replace(seen, client_cas=None)
    return wish, seen


@given(wishes(), machines())
def test_a_plan_carried_out_leaves_nothing_to_do(settings: model.TedgeSettings, seen: observed.Observed) -> None:
    wish, seen = wish_of(settings, seen)
    after = carried_out(make(wish, seen), seen)
    # A client that waits for the broker is restarted by the pass after the broker came up, and then no more.
    after = carried_out(make(wish, after), after)
    assert make(wish, after).operations == ()


@given(wishes(), machines())
def test_no_plan_opens_less_than_what_is_asked_for(settings: model.TedgeSettings, seen: observed.Observed) -> None:
    wish, seen = wish_of(settings, seen)
    made = make(wish, seen)
    asked = wish.external.level if wish.external is not None else None
    for op in made.operations:
        if isinstance(op, operations.WriteListenerFile):
            written = listener.parse(op.content).file
            assert written is not None
            assert written.external is None or written.external.level is asked
            assert written.internal is None or written.internal.level is model.Level.NONE


@given(wishes(), machines(), st.sampled_from(["pair", "ca"]))
def test_what_is_blocked_opens_nothing_and_stages_nothing(
    settings: model.TedgeSettings, seen: observed.Observed, what: str
) -> None:
    wish, seen = wish_of(settings, seen)
    bad = (blocking(),)
    if what == "pair" and seen.pair is not None:
        seen = replace(seen, pair=observed.Pair(findings=bad))
    elif what == "ca" and seen.client_cas is not None:
        seen = replace(seen, client_cas=observed.ClientCas(findings=bad))
    else:
        seen = replace(seen, findings=bad)
    for op in make(wish, seen).operations:
        assert not isinstance(op, operations.Stage | operations.StageDirectory)
        if isinstance(op, operations.WriteListenerFile):
            written = listener.parse(op.content).file
            assert written is not None
            assert written.external is None


@given(wishes(), machines())
def test_files_come_before_the_broker_and_clients_after_its_proof(
    settings: model.TedgeSettings, seen: observed.Observed
) -> None:
    wish, seen = wish_of(settings, seen)
    order = [
        operations.Own,
        operations.Stage,
        operations.StageDirectory,
        operations.RemoveListenerFile,
        operations.WriteListenerFile,
        operations.ReloadBroker,
        operations.RestartBroker,
        operations.VerifyBroker,
        operations.Unstage,
        operations.TryLogin,
        operations.RestartClient,
    ]
    ranks = [order.index(type(op)) for op in make(wish, seen).operations]
    assert ranks == sorted(ranks)
    acts = [
        op for op in make(wish, seen).operations if isinstance(op, operations.ReloadBroker | operations.RestartBroker)
    ]
    assert len(acts) <= 1


# Tables -----------------------------------------------------------------------------------------------------

MUTUAL = model.TedgeSettings(
    external=model.ExternalSettings(
        cert_file="/etc/tedge/s.crt", key_file="/etc/tedge/s.key", ca_path="/etc/tedge/ca"
    )
)


def blocking() -> model.Finding:
    return model.Finding(
        code="x",
        severity=model.Severity.ERROR,
        where="mqtt.external.cert_file",
        message="m",
        blocks=model.Area.BROKER,
    )


def converged(settings: model.TedgeSettings, **changes: object) -> tuple[desired.Desired, observed.Observed]:
    """A machine on which the settings are served."""
    seen = machine(pair=pair(), client_cas=observed.ClientCas(certificates=(("a" * 64, b"ca a"),)), **changes)
    wish, seen = wish_of(settings, seen)
    for _ in range(2):
        seen = carried_out(make(wish, seen), seen)
    return wish, seen


def acts_of(wish: desired.Desired, seen: observed.Observed) -> list[type]:
    broker_ops = (operations.ReloadBroker, operations.RestartBroker, operations.RestartClient)
    return [type(op) for op in make(wish, seen).operations if isinstance(op, broker_ops)]


def test_the_guides_default_ports_hold_when_none_is_set() -> None:
    for settings, port in ((MUTUAL, 8883), (model.TedgeSettings(external=model.ExternalSettings(address=LAN)), 1883)):
        wish = desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge")
        assert wish.external is not None
        assert wish.external.port == port


def test_a_renewed_pair_is_reloaded() -> None:
    wish, seen = converged(MUTUAL)
    assert acts_of(wish, replace(seen, pair=pair("2"))) == [operations.ReloadBroker]


def test_another_key_type_restarts() -> None:
    wish, seen = converged(MUTUAL)
    assert acts_of(wish, replace(seen, pair=pair("2", "RSA"))) == [operations.RestartBroker]


def test_another_ca_file_restarts() -> None:
    wish, seen = converged(MUTUAL)
    seen = replace(seen, client_cas=observed.ClientCas(certificates=(("b" * 64, b"ca b"),)))
    assert acts_of(wish, seen) == [operations.RestartBroker]


@pytest.mark.parametrize(
    ("now", "expected"),
    [(("a", "b", "c"), []), (("a",), [operations.RestartBroker]), (("a", "b"), [])],
    ids=["added", "removed", "same"],
)
def test_a_ca_directory_needs_a_restart_only_for_a_removal(now: tuple[str, ...], expected: list[type]) -> None:
    def cas(names: tuple[str, ...]) -> observed.ClientCas:
        return observed.ClientCas(is_dir=True, certificates=tuple((name * 64, name.encode()) for name in names))

    wish, seen = wish_of(MUTUAL, machine(pair=pair(), client_cas=cas(("a", "b"))))
    for _ in range(2):
        seen = carried_out(make(wish, seen), seen)
    assert acts_of(wish, replace(seen, client_cas=cas(now))) == expected


def test_an_inactive_broker_is_left_inactive() -> None:
    wish, seen = wish_of(MUTUAL, machine(broker=broker(active_state="inactive", sub_state="dead"), pair=pair()))
    assert acts_of(wish, seen) == []


def test_a_reboot_after_a_change_while_off_costs_no_restart() -> None:
    wish, seen = converged(MUTUAL)
    off = replace(
        seen,
        broker=broker(active_state="inactive", sub_state="dead", invocation=""),
        pair=pair("2"),
        now=model.Stamp(boot_id="next", usec=5),
    )
    written = carried_out(make(wish, off), off)
    up = replace(written, broker=broker(invocation="i9", started_usec=written.now.usec + 9))
    assert acts_of(wish, up) == []


def test_a_daemon_that_died_between_file_and_restart_restarts_at_the_next_pass() -> None:
    _wish, seen = converged(model.TedgeSettings())
    asked, seen = wish_of(MUTUAL, replace(seen, pair=pair(), client_cas=observed.ClientCas(certificates=())))
    full = carried_out(make(asked, seen), seen)
    died = replace(full, broker=seen.broker, ledger=seen.ledger, network=seen.network)
    assert acts_of(asked, died) == [operations.RestartBroker]


def test_a_foreign_rewrite_of_the_same_meaning_is_left_alone() -> None:
    wish, seen = converged(model.TedgeSettings())
    assert seen.listener_data is not None
    lines = [line for line in seen.listener_data.splitlines() if not line.startswith(b"#")]
    assert make(wish, replace(seen, listener_data=b"\n".join(lines) + b"\n")).operations == ()


def test_a_foreign_rewrite_without_a_restart_is_put_back_without_one() -> None:
    wish, seen = converged(MUTUAL)
    made = make(wish, replace(seen, listener_data=b"listener 1883\n"))
    assert [type(op) for op in made.operations] == [operations.WriteListenerFile]


def test_a_foreign_rewrite_that_was_loaded_costs_one_restart() -> None:
    wish, seen = converged(MUTUAL)
    other = replace(seen, listener_data=b"listener 1883\n", broker=broker(invocation="theirs", started_usec=10**12))
    assert acts_of(wish, other) == [operations.RestartBroker]


def test_a_listener_that_vanished_restarts_the_broker() -> None:
    wish, seen = converged(MUTUAL)
    gone = replace(seen, network=replace(seen.network, sockets=seen.network.sockets[:1]))
    assert acts_of(wish, gone) == [operations.RestartBroker]


def test_a_failed_broker_is_brought_back() -> None:
    wish, seen = converged(model.TedgeSettings())
    assert acts_of(wish, replace(seen, broker=broker(active_state="failed"))) == [operations.RestartBroker]


def test_without_a_last_good_state_a_bad_pair_leaves_the_internal_listener_alone() -> None:
    wish, seen = wish_of(MUTUAL, machine(pair=observed.Pair(findings=(blocking(),))))
    made = make(wish, seen)
    assert made.fallback
    assert made.target == model.ListenerFile(internal=wish.internal)


def test_with_a_last_good_state_a_bad_pair_changes_nothing() -> None:
    wish, seen = converged(MUTUAL)
    good = ledger.LastGood(
        path=PATH, content=seen.listener_data or b"", serving=seen.ledger.serving or ledger.Serving(config="")
    )
    seen = replace(seen, ledger=replace(seen.ledger, last_good=good), pair=observed.Pair(findings=(blocking(),)))
    made = make(wish, seen)
    assert made.operations == ()
    assert broker_plan.blocked(made.findings)


def test_an_unreadable_input_keeps_the_last_good_file_in_place() -> None:
    _, seen = converged(MUTUAL)
    good = ledger.LastGood(
        path=PATH, content=seen.listener_data or b"", serving=seen.ledger.serving or ledger.Serving(config="")
    )
    seen = replace(
        seen,
        listener_data=b"listener 1883\n",
        ledger=replace(seen.ledger, last_good=good),
        findings=(replace(blocking(), blocks=model.Area.ALL),),
    )
    made = make(None, seen)
    assert [type(op) for op in made.operations] == [operations.WriteListenerFile]
    assert made.content == good.content


def test_an_installation_restarts_no_client() -> None:
    client = model.UnitFacts(name="tedge-mapper-c8y.service", load_state="loaded", active_state="active")
    wish, seen = wish_of(model.TedgeSettings(), machine(clients=(client,)))
    assert operations.RestartClient not in acts_of(wish, seen)


def test_changed_client_settings_restart_running_clients_agent_last() -> None:
    clients = tuple(
        model.UnitFacts(name=f"{name}.service", load_state="loaded", active_state=state, started_usec=10)
        for name, state in (
            ("tedge-agent", "active"),
            ("tedge-mapper-c8y", "active"),
            ("tedge-mapper-aws", "inactive"),
        )
    )
    _, seen = converged(model.TedgeSettings(), clients=clients)
    changed = model.TedgeSettings(client=model.ClientSettings(host="10.0.0.1"))
    wish, seen = wish_of(changed, seen)
    units = [op.unit for op in make(wish, seen).operations if isinstance(op, operations.RestartClient)]
    assert units == ["tedge-mapper-c8y.service", "tedge-agent.service"]


def failed_client(**facts: Any) -> model.UnitFacts:
    """An enabled client that failed a while ago."""
    known = {"name": "tedge-mapper-c8y.service", "load_state": "loaded", "active_state": "failed"}
    return model.UnitFacts(**{**known, "is_enabled": True, "failed_usec": 50, **facts})


@pytest.mark.parametrize(
    ("facts", "is_tried"),
    [
        ({"is_enabled": True, "failed_usec": 50}, True),
        ({"is_enabled": False, "failed_usec": 50}, False),  # an operator's: `tedge disconnect` disables it
        ({"is_enabled": True, "failed_usec": 50, "job": True}, False),
        ({"is_enabled": True, "failed_usec": 50, "active_state": "inactive"}, False),
        ({"is_enabled": True, "failed_usec": 10**15}, False),  # it has failed with what lies there now
    ],
)
def test_a_client_that_had_failed_is_tried_once_with_new_settings(facts: dict[str, Any], is_tried: bool) -> None:
    client = failed_client(**facts)
    _, seen = converged(model.TedgeSettings(), clients=(client,))
    changed = model.TedgeSettings(client=model.ClientSettings(host="10.0.0.1"))
    wish, seen = wish_of(changed, seen)
    made = [op for op in make(wish, seen).operations if isinstance(op, operations.RestartClient)]
    assert [op.unit for op in made] == (["tedge-mapper-c8y.service"] if is_tried else [])
    assert all(op.has_failed for op in made)


def test_an_agent_that_had_failed_is_tried_once_with_another_address_of_its_http_server() -> None:
    agent, mapper = failed_client(name="tedge-agent.service"), failed_client()
    _, seen = converged(model.TedgeSettings(), clients=(agent, mapper))
    wish, seen = wish_of(model.TedgeSettings(external=model.ExternalSettings(address=LAN)), seen)
    made = [op for op in make(wish, seen).operations if isinstance(op, operations.RestartClient)]
    assert [op.unit for op in made] == ["tedge-agent.service"], "the mapper does not read it"


def test_a_client_that_failed_while_tedge_toml_was_garbled_is_tried_once_it_is_not() -> None:
    client = failed_client()
    wish, seen = converged(model.TedgeSettings(), clients=(client,))
    garbled = plan.plan(None, replace(seen, garbled=True), staging_dir=STAGING, broker_unit=BROKER)
    remembered = replace(seen.ledger, clients={**seen.ledger.clients, **dict(garbled.clients)})
    made = make(wish, replace(seen, ledger=remembered))
    assert [op.unit for op in made.operations if isinstance(op, operations.RestartClient)] == [client.name]


def test_a_client_that_failed_while_tedge_toml_was_garbled_did_not_fail_with_what_is_there_again() -> None:
    """systemd waits five seconds between its attempts: until the next one it is still as it was left."""
    client = model.UnitFacts(
        name="tedge-mapper-c8y.service",
        load_state="loaded",
        active_state="activating",
        sub_state="auto-restart",
    )
    _, seen = converged(model.TedgeSettings(), clients=(client,))
    begun = seen.now.usec
    wish, seen = wish_of(model.TedgeSettings(client=model.ClientSettings(host="10.0.0.1")), seen)

    def at(usec: int, **facts: Any) -> observed.Observed:
        return replace(seen, now=replace(seen.now, usec=begun + usec), **facts)

    def after(made: operations.Plan) -> ledger.Ledger:
        return replace(seen.ledger, clients={**seen.ledger.clients, **dict(made.clients)})

    seen = replace(seen, ledger=after(make(wish, at(1))))
    garbled = plan.plan(None, at(2, garbled=True), staging_dir=STAGING, broker_unit=BROKER)
    seen = replace(seen, ledger=after(garbled))
    made = make(wish, at(4, clients=(replace(client, started_usec=begun + 3),)))
    (finding,) = [found for found in made.findings if found.code == "client-failed"]
    assert finding.severity is model.Severity.WARNING
    assert not any(isinstance(op, operations.RestartClient) for op in made.operations), "systemd is about to"


def test_a_client_that_is_tried_again_is_not_blamed_for_what_it_failed_of_before() -> None:
    client = failed_client()
    wish, seen = converged(model.TedgeSettings(), clients=(client,))
    garbled = plan.plan(None, replace(seen, garbled=True), staging_dir=STAGING, broker_unit=BROKER)
    known = {**seen.ledger.clients, **dict(garbled.clients)}
    known["mqtt"] = replace(known["mqtt"], since=replace(seen.now, usec=20))  # which it had read when it failed
    made = make(wish, replace(seen, ledger=replace(seen.ledger, clients=known)))
    assert [op.unit for op in made.operations if isinstance(op, operations.RestartClient)] == [client.name]
    (found,) = [finding for finding in made.findings if finding.code == "client-failed"]
    assert found.severity is model.Severity.WARNING


def test_a_client_that_had_failed_stays_so_as_long_as_nothing_changes() -> None:
    client = failed_client()
    wish, seen = converged(model.TedgeSettings(), clients=(client,))
    assert operations.RestartClient not in acts_of(wish, seen)


def test_an_external_address_restarts_the_agent_alone() -> None:
    clients = tuple(
        model.UnitFacts(name=f"{name}.service", load_state="loaded", active_state="active", started_usec=10)
        for name in ("tedge-agent", "tedge-mapper-c8y")
    )
    _, seen = converged(model.TedgeSettings(), clients=clients)
    wish, seen = wish_of(model.TedgeSettings(external=model.ExternalSettings(address=LAN)), seen)
    units = [op.unit for op in make(wish, seen).operations if isinstance(op, operations.RestartClient)]
    assert units == ["tedge-agent.service"]


def test_an_agent_that_was_restarted_for_its_address_alone_is_looked_at_again_and_blamed_for_it() -> None:
    agent = model.UnitFacts(name="tedge-agent.service", load_state="loaded", active_state="active", started_usec=10)
    _, seen = converged(model.TedgeSettings(), clients=(agent,))
    wish, seen = wish_of(model.TedgeSettings(http_bind_address=LAN), seen)
    seen = replace(seen, now=replace(seen.now, usec=seen.now.usec + 50))
    seen = replace(seen, ledger=replace(seen.ledger, clients=dict(make(wish, seen).clients)))
    later = replace(seen.now, usec=seen.now.usec + 20)
    young = replace(agent, started_usec=seen.now.usec + 10)
    made = make(wish, replace(seen, now=later, clients=(young,)))
    assert [(one.code, one.where) for one in made.findings if one.waits] == [("client-started", agent.name)]
    failed = replace(young, active_state="failed")
    made = make(wish, replace(seen, now=later, clients=(failed,)))
    assert [one.severity for one in made.findings if one.code == "client-failed"] == [model.Severity.ERROR]


@pytest.mark.parametrize(
    ("http", "units"),
    [(None, ["tedge-mapper-c8y.service"]), (LAN, ["tedge-mapper-c8y.service", "tedge-agent.service"])],
)
def test_the_agent_is_not_restarted_onto_an_address_that_is_not_there(
    http: ipaddress.IPv4Address | None, units: list[str]
) -> None:
    clients = tuple(
        model.UnitFacts(name=f"{name}.service", load_state="loaded", active_state="active", started_usec=10)
        for name in ("tedge-agent", "tedge-mapper-c8y")
    )
    _, seen = converged(model.TedgeSettings(http_bind_address=http), clients=clients)
    elsewhere = ipaddress.IPv4Address("198.51.100.7")
    changed = model.TedgeSettings(
        external=model.ExternalSettings(address=elsewhere), http_bind_address=http, topic_root="another"
    )
    wish, seen = wish_of(changed, seen)
    made = make(wish, seen)
    assert "address-not-local" in {finding.code for finding in made.findings}
    assert [op.unit for op in made.operations if isinstance(op, operations.RestartClient)] == units


@pytest.mark.parametrize(("key", "severity"), [("external", "warning"), ("device", "error"), ("client", "error")])
def test_what_is_wrong_with_a_source_of_a_checked_copy_is_a_warning(key: str, severity: str) -> None:
    path = "/etc/tedge/key.pem"
    settings = {
        "external": model.TedgeSettings(external=model.ExternalSettings(cert_file="/etc/tedge/c.pem", key_file=path)),
        "device": model.TedgeSettings(bridge_built_in=False, device_key_path=path),
        "client": model.TedgeSettings(client=model.ClientSettings(cert_file="/etc/tedge/c.pem", key_file=path)),
    }[key]
    facts = model.FileFacts(path=path, real=path, exists=True, problem="has 2 hard links", remedy="cp")
    wish, seen = wish_of(settings, machine(pair=pair(), files={path: facts}))
    (found,) = [one for one in make(wish, seen).findings if one.code == "ownership"]
    assert found.severity.value == severity


def test_half_of_tls_is_a_finding_and_opens_nothing() -> None:
    for external in (
        model.ExternalSettings(cert_file="/c"),
        model.ExternalSettings(key_file="/k"),
        model.ExternalSettings(ca_path="/a"),
        model.ExternalSettings(cert_file="/c", ca_path="/a", port=8883),
    ):
        wish, seen = wish_of(model.TedgeSettings(external=external), machine())
        made = make(wish, seen)
        assert "incomplete-tls" in {finding.code for finding in made.findings}
        assert all(entry.port == 1883 for entry in (made.target.listeners if made.target else ()))


def test_bind_disabled_and_nothing_external_leaves_the_file_to_its_owner() -> None:
    settings = model.TedgeSettings(bind=model.BindSettings(enabled=False))
    wish, seen = wish_of(settings, machine(listener_data=b"listener 1883\n"))
    assert make(wish, seen).operations == ()


def test_bind_disabled_removes_what_we_had_written() -> None:
    _, seen = converged(model.TedgeSettings())
    wish, seen = wish_of(model.TedgeSettings(bind=model.BindSettings(enabled=False)), seen)
    kinds = [type(op) for op in make(wish, seen).operations]
    assert kinds == [operations.RemoveListenerFile, operations.RestartBroker, operations.VerifyBroker]
