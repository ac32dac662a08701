"""Any bytes of tedge.toml on any machine: a plan without an exception, and never a listener weaker than asked for."""

import tomllib
from dataclasses import replace

from hypothesis import event, given
from hypothesis import strategies as st

from tedge_agentd.core import desired, guards, listener, model, observed, operations, tedge_toml
from tests.fuzz import material
from tests.unit import test_plan

WHERE = "/etc/tedge/tedge.toml"


def planned(
    data: bytes, seen: observed.Observed
) -> tuple[desired.Desired | None, observed.Observed, operations.Plan]:
    """As a pass does: parse, derive, look at what that names, plan."""
    parsed = tedge_toml.parse(data, WHERE)
    seen = replace(seen, findings=(*seen.findings, *parsed.findings))
    wish = None
    if parsed.settings is not None:
        wish, seen = test_plan.wish_of(parsed.settings, seen)
    return wish, seen, test_plan.make(wish, seen)


def external_of(content: bytes) -> model.Listener | None:
    found = listener.parse(content).file
    assert found is not None
    return found.external


@material.fuzzed
@given(material.files(), material.machines())
def test_no_plan_ever_contains_a_listener_weaker_than_asked_for(data: bytes, seen: observed.Observed) -> None:
    _, seen, made = planned(data, seen)
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        table = {}
    asked = material.asked_level(table)
    good = seen.ledger.last_good
    for operation in made.operations:
        if not isinstance(operation, operations.WriteListenerFile):
            continue
        if good is not None and made.fallback and operation.content == good.content:
            event("last good")
            continue  # what last verified, while what is asked for cannot be had
        written = external_of(operation.content)
        event(f"asked {asked}, written {written.level if written is not None else None}")
        if written is not None:
            assert material.RANK[written.level] >= material.RANK[asked]
            assert not made.fallback, "a fallback that is not the last good state has no external listener"


@material.fuzzed
@given(material.files(), material.machines())
def test_what_is_planned_is_told_and_written_whole(data: bytes, seen: observed.Observed) -> None:
    wish, seen, made = planned(data, seen)
    for operation in made.operations:
        assert "\n" not in operation.describe()
        if isinstance(operation, operations.WriteListenerFile):
            text = operation.content.decode()
            assert all(line == "" or line.isprintable() for line in text.split("\n"))
            assert listener.parse(operation.content).file == made.target or made.fallback
    for finding in made.findings:
        assert finding.code
        assert finding.message
        assert finding.message.isprintable() or "\n" not in finding.message
    if any(finding.blocks is model.Area.ALL for finding in made.findings):
        clients = operations.TryLogin | operations.RestartClient
        assert not any(isinstance(operation, clients) for operation in made.operations)
    assert made == test_plan.make(wish, seen)


@material.fuzzed
@given(material.files(), material.machines())
def test_carried_out_it_converges(data: bytes, seen: observed.Observed) -> None:
    """Nothing is due any more after two plans: one for the broker, one for clients that waited for it."""
    seen = replace(seen, rescue=observed.Rescue.NONE, told=False, hold=False)
    wish, seen, made = planned(data, seen)
    for _ in range(2):
        seen = test_plan.carried_out(made, seen)
        made = test_plan.make(wish, seen)
    assert [op for op in made.operations if not isinstance(op, operations.VerifyBroker)] == []


@material.fuzzed
@given(st.lists(material.files(), min_size=2, max_size=5), material.machines(), st.integers(0, 1000))
def test_no_history_of_inputs_and_failures_opens_less_than_asked_for(
    inputs: list[bytes], seen: observed.Observed, seed: int
) -> None:
    """One after another, carried out or failed: what the guards and the ledger remember never weakens anything."""
    known, now, first = guards.Guards(), float(seed), seen
    for number, data in enumerate(inputs):
        now += (seed * (number + 1)) % 97
        again = replace(seen, findings=(), pair=first.pair, client_cas=first.client_cas)
        wish, looked, made = planned(data, again)
        verdict = guards.judge(known, made, looked, now)
        while verdict.objects:
            looked = replace(
                looked,
                findings=(*looked.findings, *verdict.findings),
                hold=verdict.hold or looked.hold,
                rescue=verdict.rescue if verdict.rescue is not observed.Rescue.NONE else looked.rescue,
            )
            made = test_plan.make(wish, looked)
            verdict = guards.judge(verdict.guards, made, looked, now)
        known = verdict.guards
        try:
            asked = material.asked_level(tomllib.loads(data.decode()))
        except (ValueError, RecursionError):
            asked = None
        if made.content is not None and not made.fallback:
            written = external_of(made.content)
            assert written is None or material.RANK[written.level] >= material.RANK[asked]
        if (seed >> number) & 1:
            known = known.failure(guards.target_of(made), "failed", now)
        else:
            seen = replace(test_plan.carried_out(made, looked), findings=(), rescue=observed.Rescue.NONE, told=False)
            known = known if made.fallback or made.serving is None else known.success()
        assert guards.Guards.from_dict(known.to_dict()) == known
