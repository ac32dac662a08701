"""What holds a due plan back: a target that failed, a spent budget, another writer."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import guards, ledger, model, observed, operations

PATH = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
SERVING = ledger.Serving(config="c", pair="p", key_type="EC")


def seen(data: bytes = b"theirs", on_disk: ledger.Serving | None = SERVING) -> observed.Observed:
    return observed.Observed(
        now=model.Stamp(boot_id="b", usec=0),
        broker_installed=True,
        listener_path=PATH,
        listener_data=data,
        broker=None,
        ledger=ledger.Ledger(on_disk=on_disk),
    )


def writes(*more: operations.Operation) -> operations.Plan:
    write = operations.WriteListenerFile(path=PATH, content=b"ours", reason="r")
    return operations.Plan(operations=(write, *more), serving=SERVING, path=PATH)


RESTART = operations.RestartBroker(unit="mosquitto.service", reason="r")


def test_a_failed_target_waits_and_another_one_does_not() -> None:
    held = guards.Guards().failure(guards.target_of(writes()), "no answer", now=100.0)
    verdict = guards.judge(held, writes(), seen(on_disk=None), 101.0)
    assert verdict.degraded
    assert verdict.wait is not None
    assert [finding.code for finding in verdict.findings] == ["rolled-back"]
    other = operations.Plan(operations=(RESTART,), serving=ledger.Serving(config="other"), path=PATH)
    assert guards.judge(held, other, seen(on_disk=None), 101.0).findings == ()


@given(st.integers(1, 12))
def test_the_same_failure_waits_longer_each_time_up_to_an_hour(times: int) -> None:
    held, waits, now = guards.Guards(), [], 0.0
    for _ in range(times):
        held = held.failure("t", "why", now)
        waits.append(held.retry.wait_s(now))
        now += waits[-1] + 1
    assert waits == sorted(waits)
    assert waits[0] >= 30
    assert waits[-1] <= 3600 * 1.1
    assert held.success().failed == ""


def test_a_fallback_is_never_held_by_the_failure_it_answers() -> None:
    held = guards.Guards().failure(guards.target_of(writes()), "no answer", now=100.0)
    fallback = operations.Plan(operations=(RESTART,), serving=SERVING, path=PATH, fallback=True)
    assert guards.judge(held, fallback, seen(on_disk=None), 101.0).findings == ()


def test_a_spent_budget_holds_the_broker_but_not_for_ever() -> None:
    held, now = guards.Guards(), 0.0
    while not guards.judge(held, writes(RESTART), seen(on_disk=None), now).hold:
        held = held.restarted(now)
        now += 0.1
    verdict = guards.judge(held, writes(RESTART), seen(on_disk=None), now)
    assert [finding.code for finding in verdict.findings] == ["restart-budget"]
    assert verdict.wait is not None
    assert not guards.judge(held, writes(RESTART), seen(on_disk=None), now + verdict.wait + 0.01).hold


def test_another_writer_is_put_right_a_few_times_and_then_left_alone_until_it_is_quiet() -> None:
    held, now, repairs = guards.Guards(), 0.0, 0
    for _ in range(20):
        verdict = guards.judge(held, writes(), seen(), now)
        held = verdict.guards
        if verdict.hold:
            break
        held = guards.repaired(held, writes(), seen(), now)
        repairs += 1
        now += 1.0
    assert 1 < repairs < 10
    assert [finding.code for finding in verdict.findings] == ["fight"]
    assert verdict.wait is not None
    assert not guards.judge(held, writes(), seen(), now + verdict.wait + 1).hold


def failed_broker() -> model.UnitFacts:
    return model.UnitFacts(
        name="mosquitto.service",
        load_state="loaded",
        active_state="failed",
        sub_state="failed",
        result="start-limit-hit",
    )


def test_a_broker_that_has_failed_is_brought_back_in_the_middle_of_a_fight() -> None:
    held, now = guards.Guards(), 0.0
    while not (verdict := guards.judge(held, writes(RESTART), seen(), now)).hold:
        held = guards.repaired(verdict.guards, writes(RESTART), seen(), now)
        now += 1.0
    dead = replace(seen(), broker=failed_broker())
    assert guards.judge(verdict.guards, writes(RESTART), seen(), now).hold
    assert guards.judge(verdict.guards, writes(RESTART), dead, now).findings == ()


def test_a_broker_that_has_failed_waits_seconds_not_minutes_for_a_spent_budget() -> None:
    held, now = guards.Guards(), 0.0
    for _ in range(40):
        held, now = held.restarted(now), now + 6.0
    dead = replace(seen(on_disk=None), broker=failed_broker())
    assert guards.judge(held, writes(RESTART), seen(on_disk=None), now).hold
    assert not guards.judge(held, writes(RESTART), dead, now).hold
    for _ in range(4):
        held = held.restarted(now)
    verdict = guards.judge(held, writes(RESTART), dead, now)
    assert verdict.hold
    assert verdict.wait is not None
    assert verdict.wait <= 10


def test_our_own_changes_are_no_fight() -> None:
    held = guards.Guards()
    for round_ in range(20):
        plan = operations.Plan(operations=writes().operations, serving=ledger.Serving(config=f"{round_}"), path=PATH)
        verdict = guards.judge(held, plan, seen(on_disk=ledger.Serving(config=f"{round_ - 1}")), float(round_))
        held = guards.repaired(verdict.guards, plan, seen(), float(round_))
        assert not verdict.hold


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_a_damaged_memory_costs_the_memory_alone(data: object) -> None:
    if isinstance(data, dict):
        guards.Guards.from_dict(data)


def test_guards_survive_a_round_trip_through_json() -> None:
    held = guards.Guards().failure("t", "why", 5.0).restarted(6.0)
    assert guards.Guards.from_dict(json.loads(json.dumps(held.to_dict()))) == held
