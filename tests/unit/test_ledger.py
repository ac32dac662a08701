"""What running processes have read, and the mildest action that follows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import ledger, model

stamps = st.builds(model.Stamp, boot_id=st.text(max_size=4), usec=st.integers(0, 10**15))
words = st.text(max_size=8)
servings = st.builds(
    ledger.Serving,
    config=words,
    pair=st.none() | words,
    key_type=st.none() | words,
    ca=st.none() | st.frozensets(words, max_size=3),
    ca_is_dir=st.booleans(),
)
staged = st.builds(ledger.Staged, cert_path=words, key_path=words, fingerprint=words, key_type=words, leaf=words)
goods = st.builds(
    ledger.LastGood,
    path=words,
    content=st.text().map(str.encode),
    serving=servings,
    staged=st.none() | staged,
    copies=st.dictionaries(words, words, max_size=3),
)
ledgers = st.builds(
    ledger.Ledger,
    serving=st.none() | servings,
    invocation=words,
    verified=words,
    on_disk=st.none() | servings,
    since=st.none() | stamps,
    staged=st.none() | staged,
    last_good=st.none() | goods,
    clients=st.dictionaries(
        words,
        st.builds(
            ledger.ClientInputs,
            fingerprint=words,
            since=st.none() | stamps,
            before=st.lists(st.tuples(words, st.none() | stamps), max_size=2).map(tuple),
        ),
        max_size=3,
    ),
)


@given(ledgers)
def test_a_ledger_survives_a_round_trip_through_json(known: ledger.Ledger) -> None:
    assert ledger.from_json(json.loads(json.dumps(ledger.to_json(known)))) == known


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_anything_else_is_called_damaged_and_nothing_more(data: object) -> None:
    with pytest.raises(ValueError, match=r"ledger"):
        ledger.from_json(data)


def test_a_later_versions_ledger_is_not_guessed_at() -> None:
    data = ledger.to_json(ledger.Ledger()) | {"version": ledger.VERSION + 1}
    with pytest.raises(ValueError, match="version"):
        ledger.from_json(data)


parts = st.lists(st.none() | st.binary(max_size=6), max_size=4)


@given(parts, parts)
def test_no_two_sequences_share_a_fingerprint(one: list[bytes | None], other: list[bytes | None]) -> None:
    assert (ledger.fingerprint(*one) == ledger.fingerprint(*other)) is (one == other)


@given(servings)
def test_what_is_served_already_needs_nothing(serving: ledger.Serving) -> None:
    assert ledger.broker_action(serving, serving) == (ledger.Action.NONE, "")


@given(servings)
def test_what_is_not_known_needs_a_restart(serving: ledger.Serving) -> None:
    assert ledger.broker_action(None, serving)[0] is ledger.Action.RESTART


@given(servings, servings)
def test_a_reload_is_only_for_a_renewed_pair_of_the_same_kind(one: ledger.Serving, other: ledger.Serving) -> None:
    if ledger.broker_action(one, other)[0] is ledger.Action.RELOAD:
        assert (one.config, one.key_type) == (other.config, other.key_type)
        assert one.pair != other.pair


NOW = model.Stamp(boot_id="b", usec=1000)


def unit(started: int, invocation: str = "i") -> model.UnitFacts:
    return model.UnitFacts(
        name="u", load_state="loaded", active_state="active", invocation=invocation, started_usec=started
    )


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, True),
        (model.Stamp(boot_id="b", usec=400), True),
        (model.Stamp(boot_id="b", usec=500), False),
        (model.Stamp(boot_id="b", usec=600), False),
        (model.Stamp(boot_id="earlier", usec=10**12), True),
    ],
)
def test_a_process_is_younger_than_every_moment_of_an_earlier_boot(since: model.Stamp | None, expected: bool) -> None:
    assert ledger.started_after(unit(500), since, NOW) is expected


def test_a_known_process_serves_what_was_established_whatever_lies_on_disk_now() -> None:
    old, new = ledger.Serving(config="old"), ledger.Serving(config="new")
    known = ledger.Ledger(serving=old, invocation="i", on_disk=new, since=model.Stamp(boot_id="b", usec=100))
    assert ledger.broker_serves(known, unit(500), NOW) == old
    assert ledger.broker_serves(known, unit(500, "another"), NOW) == new
    assert ledger.broker_serves(known, unit(50, "another"), NOW) is None


def test_a_client_is_known_by_what_it_read_when_it_started() -> None:
    inputs = ledger.ClientInputs(fingerprint="a")
    for fingerprint, usec in (("b", 100), ("a", 200)):
        inputs = inputs.changed_to(fingerprint, model.Stamp(boot_id="b", usec=usec))
    assert [inputs.read_by(unit(started), NOW) for started in (50, 150, 250)] == ["a", "b", "a"]


def test_what_was_read_too_long_ago_is_not_known() -> None:
    inputs = ledger.ClientInputs(fingerprint="first")
    for number in range(20):
        inputs = inputs.changed_to(f"{number}", model.Stamp(boot_id="b", usec=100 * (number + 1)))
    assert inputs.read_by(unit(50), NOW) is None
    assert inputs.read_by(unit(2050), NOW) == "19"
