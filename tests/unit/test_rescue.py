"""What holds a plan back, and what is fallen back to when the broker did not serve it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import guards, ledger, listener, model, observed, operations
from tests.unit import test_plan

NOW = 1000.0
ASKED = ledger.Serving(config="asked")
GOOD = ledger.Serving(config="good")


def a_plan(
    serving: ledger.Serving | None = ASKED, *, fallback: bool = False, restart: bool = True
) -> operations.Plan:
    operation = operations.RestartBroker(unit="mosquitto.service", reason="test")
    return operations.Plan(serving=serving, fallback=fallback, operations=(operation,) if restart else ())


def target(serving: ledger.Serving) -> str:
    return guards.target_of(a_plan(serving))


def failed(*, fallen: bool = False) -> guards.Guards:
    known = guards.Guards().failure(target(ASKED), "why", NOW)
    return known.fell(target(GOOD)) if fallen else known


def judge(known: guards.Guards, made: operations.Plan, now: float = NOW, *, ordered: bool = False) -> guards.Verdict:
    return guards.judge(known, made, test_plan.machine(), now, ordered=ordered)


def test_what_failed_waits_for_its_time_and_anything_else_does_not() -> None:
    assert judge(failed(), a_plan()).degraded
    assert not judge(failed(), a_plan(), NOW + 31).objects
    assert not judge(failed(), a_plan(ledger.Serving(config="changed"))).objects
    assert not judge(failed(), a_plan(), ordered=True).objects


def test_a_last_good_state_that_failed_as_well_is_not_tried_at_every_look() -> None:
    fallback = a_plan(GOOD, fallback=True)
    assert judge(failed(), fallback).rescue is observed.Rescue.NONE
    assert judge(failed(fallen=True), fallback).rescue is observed.Rescue.INTERNAL
    assert judge(failed(fallen=True), fallback, NOW + 31).rescue is observed.Rescue.NONE


def test_a_last_good_state_that_is_what_failed_is_not_tried_either() -> None:
    assert judge(failed(), a_plan(ASKED, fallback=True)).rescue is observed.Rescue.INTERNAL


def test_being_served_clears_what_failed() -> None:
    assert failed(fallen=True).success() == guards.Guards()


@given(st.floats(0, 1e6), st.booleans(), st.booleans(), st.booleans())
def test_what_is_remembered_survives_the_way_to_disk(now: float, fell: bool, spent: bool, foreign: bool) -> None:
    known = guards.Guards(foreign="x" if foreign else "").failure("t", "r", now)
    known = known.fell("g") if fell else known
    known = known.restarted(now) if spent else known
    assert guards.Guards.from_dict(known.to_dict()) == known


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text() | st.lists(st.floats())))
def test_a_damaged_memory_costs_the_memory_alone(data: dict[str, object]) -> None:
    guards.Guards.from_dict(data)
    guards.Guards.from_dict({"retry": data, "budget": data, "fight": data, **data})


def test_a_spent_budget_holds_even_a_fallback_back() -> None:
    known = guards.Guards()
    for second in range(4):
        known = known.restarted(NOW + second)
    assert judge(known, a_plan(GOOD, fallback=True), NOW + 4).hold
    assert not judge(known, a_plan(restart=False), NOW + 4).hold
    assert not judge(known, a_plan(), NOW + 4, ordered=True).hold


# The plan of a rescue ---------------------------------------------------------------------------------------


def last_good(content: bytes) -> ledger.LastGood:
    staged = ledger.Staged(cert_path="/c", key_path="/k", fingerprint="f", key_type="EC", leaf="l")
    return ledger.LastGood(
        path=test_plan.PATH, content=content, serving=GOOD, staged=staged, copies={"server.pem": "0" * 64}
    )


CONTENT = listener.render(
    model.ListenerFile(
        internal=model.Listener(port=1883, address=test_plan.LAN),
        external=model.Listener(port=8883, tls=model.Tls(certfile="/s.pem", keyfile="/s.pem")),
    )
)


@pytest.mark.parametrize("rescue", [observed.Rescue.LAST_GOOD, observed.Rescue.INTERNAL])
@pytest.mark.parametrize("state", ["active", "activating", "deactivating", "failed", "inactive"])
def test_whatever_state_the_broker_is_in_a_rescue_restarts_it(rescue: observed.Rescue, state: str) -> None:
    """One that is still stopping, or starting with what was wrong, counts as neither active nor failed."""
    wish, seen = test_plan.converged(model.TedgeSettings())
    known = replace(seen.ledger, last_good=last_good(CONTENT))
    seen = replace(seen, ledger=known, rescue=rescue, told=True, broker=test_plan.broker(active_state=state))
    made = test_plan.make(wish, seen)
    kinds = [type(operation) for operation in made.operations]
    assert kinds[-2:] == [operations.RestartBroker, operations.VerifyBroker]
    assert made.fallback


def test_the_internal_listener_alone_needs_no_copies_of_the_last_good_state() -> None:
    wish, seen = test_plan.converged(model.TedgeSettings())
    seen = replace(
        seen,
        ledger=replace(seen.ledger, last_good=last_good(CONTENT)),
        rescue=observed.Rescue.INTERNAL,
        told=True,
    )
    assert operations.RestoreStaged not in [type(op) for op in test_plan.make(wish, seen).operations]


def test_without_a_readable_tedge_toml_the_internal_listener_is_the_last_good_one() -> None:
    _, seen = test_plan.converged(model.TedgeSettings())
    seen = replace(
        seen,
        findings=(replace(test_plan.blocking(), blocks=model.Area.ALL),),
        ledger=replace(seen.ledger, last_good=last_good(CONTENT)),
        rescue=observed.Rescue.INTERNAL,
        told=True,
    )
    made = test_plan.make(None, seen)
    assert made.target == model.ListenerFile(internal=model.Listener(port=1883, address=test_plan.LAN))


@pytest.mark.parametrize(
    "changes",
    [
        {"pair": None},
        {"pair": observed.Pair()},
        {"client_cas": None},
        {"client_cas": observed.ClientCas()},
        {"pair": None, "client_cas": None},
    ],
    ids=["no pair", "an unusable pair", "no CA", "an unusable CA", "neither"],
)
def test_what_nobody_has_looked_at_opens_no_weaker_listener(changes: dict[str, object]) -> None:
    """TLS without a pair would be plaintext, mutual TLS without a CA would take everybody."""
    seen = test_plan.machine(pair=test_plan.pair(), client_cas=observed.ClientCas(certificates=(("a" * 64, b"a"),)))
    wish, seen = test_plan.wish_of(test_plan.MUTUAL, seen)
    made = test_plan.make(wish, replace(seen, **changes))  # type: ignore[arg-type]
    assert "source-missing" in {finding.code for finding in made.findings}
    assert made.target == model.ListenerFile(internal=wish.internal)
