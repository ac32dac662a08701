"""The right moment: what is kept waiting by what, for how long, and what counts as under way."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import deferral, model, operations
from tests.unit.test_plan import converged, make

TOPIC = "te/device/main///cmd/software_update/c8y-1"
SCOPES = list(deferral.Scope)


def activity(scope: deferral.Scope) -> deferral.Activity:
    return deferral.Activity(what="something", scope=scope, remedy="look")


def clients() -> tuple[model.UnitFacts, ...]:
    names = ("tedge-agent", "tedge-mapper-c8y", "c8y-firmware-plugin")
    return tuple(
        model.UnitFacts(name=f"{name}.service", load_state="loaded", active_state="active", started_usec=10)
        for name in names
    )


# Patience ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(1, 1e6))
def test_nothing_waits_longer_than_allowed_even_if_the_clock_begins_anew(moments: list[float], most: float) -> None:
    patience, waited = deferral.Patience(), 0.0
    for now, following in zip(moments, [*moments[1:], moments[-1]], strict=True):
        patience = deferral.Patience.from_dict(json.loads(json.dumps(patience.waiting(now).to_dict())))
        assert patience.since is not None
        assert patience.since <= now
        waited = following - patience.since
        assert patience.is_over(following, most) is (waited >= most and patience.since <= following)


@pytest.mark.parametrize("data", [None, [], {"since": True}, {"since": "x"}, {"since": -1}, {"since": float("nan")}])
def test_a_damaged_memory_of_waiting_costs_the_memory(data: object) -> None:
    assert deferral.Patience.from_dict(data) == deferral.Patience()


# Operations of thin-edge ------------------------------------------------------------------------------------


@given(st.binary())
def test_any_bytes_are_a_command_or_none(data: bytes) -> None:
    assert deferral.is_under_way(data) in {True, False}
    assert isinstance(deferral.operations_in(data), tuple)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("init", True),
        ("executing", True),
        ("scheduled", True),
        ("any-step-of-a-workflow", True),
        ("successful", False),
        ("failed", False),
        (None, False),
        (1, False),
    ],
)
def test_a_command_is_under_way_until_it_is_successful_or_failed(status: object, expected: bool) -> None:
    command = {"status": status, "log": "x"}
    assert deferral.is_under_way(json.dumps(command).encode()) is expected
    state = json.dumps({"version": "V1", "commands": {TOPIC: {"unix_timestamp": 1, "payload": {}, **command}}})
    assert deferral.operations_in(state.encode()) == ((TOPIC,) if expected else ())


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        (TOPIC, "software_update"),
        ("root/device/main///cmd/my-op/1", "my-op"),
        ("te/device/main///cmd/<script>/1", "an operation"),
        ("/etc/shadow", "an operation"),
        ("", "an operation"),
    ],
)
def test_of_a_topic_only_a_plain_name_of_an_operation_is_repeated(topic: str, name: str) -> None:
    assert deferral.operation_name(topic) == name


# What waits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
def test_clients_wait_for_what_concerns_them_and_the_others_do_not(scope: deferral.Scope) -> None:
    _, seen = converged(model.TedgeSettings(), clients=clients())
    wish, _ = converged(model.TedgeSettings(client=model.ClientSettings(host="192.0.2.1")))
    made = make(wish, replace(seen, under_way=(activity(scope),)))
    restarted = {op.unit for op in made.operations if isinstance(op, operations.RestartClient)}
    everybody = {unit.name for unit in seen.clients}
    expected = {
        deferral.Scope.OPERATORS: {"tedge-mapper-c8y.service"},
        deferral.Scope.BROKER: everybody,
        deferral.Scope.EVERYTHING: set(),
    }[scope]
    assert restarted == expected
    waiting = [finding for finding in made.findings if finding.code == "deferred"]
    assert bool(waiting) is (expected != everybody)
    assert all(finding.waits and finding.blocks is None for finding in waiting)
    assert bool(restarted) is any(isinstance(op, operations.TryLogin) for op in made.operations)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_running_broker_waits_whole_and_one_that_is_down_is_brought_back(scope: deferral.Scope) -> None:
    _, seen = converged(model.TedgeSettings())
    wish, _ = converged(model.TedgeSettings(bind=model.BindSettings(port=1884)))
    busy = replace(seen, under_way=(activity(scope),))
    waits = scope is not deferral.Scope.OPERATORS
    assert (make(wish, busy).operations == ()) is waits
    assert seen.broker is not None
    down = replace(busy, broker=replace(seen.broker, active_state="failed"))
    assert any(isinstance(op, operations.RestartBroker) for op in make(wish, down).operations)


@pytest.mark.parametrize("state", ["active", "failed"])
def test_a_broker_that_somebody_has_a_job_for_is_left_to_them(state: str) -> None:
    _, seen = converged(model.TedgeSettings())
    wish, _ = converged(model.TedgeSettings(bind=model.BindSettings(port=1884)))
    assert seen.broker is not None
    made = make(wish, replace(seen, broker=replace(seen.broker, active_state=state, job=True)))
    assert made.operations == ()
    assert [finding.where for finding in made.findings if finding.code == "deferred"] == ["mosquitto.service"]


def test_a_broker_that_is_about_to_start_finds_the_right_file() -> None:
    _, seen = converged(model.TedgeSettings())
    wish, _ = converged(model.TedgeSettings(bind=model.BindSettings(port=1884)))
    assert seen.broker is not None
    made = make(wish, replace(seen, broker=replace(seen.broker, active_state="inactive", job=True)))
    assert [type(op) for op in made.operations] == [operations.WriteListenerFile]


def test_a_client_that_somebody_restarts_is_not_restarted_by_us() -> None:
    _, seen = converged(model.TedgeSettings(), clients=clients())
    wish, _ = converged(model.TedgeSettings(client=model.ClientSettings(host="192.0.2.1")))
    theirs = tuple(replace(unit, job=unit.name == "tedge-agent.service") for unit in seen.clients)
    made = make(wish, replace(seen, clients=theirs))
    restarted = {op.unit for op in made.operations if isinstance(op, operations.RestartClient)}
    assert "tedge-agent.service" not in restarted
    assert len(restarted) == 2
    assert "unit-changing" in {finding.code for finding in made.findings}


# Failing clients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "sub"), [("failed", "failed"), ("activating", "auto-restart"), ("activating", "auto-restart-queued")]
)
@pytest.mark.parametrize("later", [True, False])
def test_a_failed_client_is_told_and_is_an_error_if_it_has_read_the_new_settings(
    state: str, sub: str, later: bool
) -> None:
    _, seen = converged(model.TedgeSettings(), clients=clients())
    wish, _ = converged(model.TedgeSettings(client=model.ClientSettings(host="192.0.2.1")))
    made = make(wish, seen)
    known = replace(seen.ledger, clients=dict(made.clients))
    broken = replace(
        seen.clients[1], active_state=state, sub_state=sub, started_usec=seen.now.usec + (5 if later else -5)
    )
    after = replace(
        seen,
        now=replace(seen.now, usec=seen.now.usec + 10_000_000),
        ledger=known,
        clients=(broken,),
        last_lines={broken.name: ("no such CA", "giving up")},
    )
    made = make(wish, after)
    (finding,) = (finding for finding in made.findings if finding.code == "client-failed")
    assert finding.severity is (model.Severity.ERROR if later else model.Severity.WARNING)
    assert "no such CA; giving up" in finding.message
    assert not any(isinstance(op, operations.RestartClient) for op in made.operations)
