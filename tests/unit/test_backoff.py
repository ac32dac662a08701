"""How often and how soon to act again."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core.backoff import BROKER_RESTARTS, Backoff, Budget, FightDetector, Limit, Retry

State = Retry | Budget | FightDetector

# Whole seconds: sums are exact, and the windows' edges are hit often.
clock = st.lists(st.integers(0, 400), max_size=80).map(sorted)
jumping_clock = st.lists(st.integers(-(10**6), 10**6), max_size=40)
limits = st.builds(Limit, count=st.integers(1, 5), window_s=st.integers(1, 60))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def fields_of(state: State) -> st.SearchStrategy[dict[str, object]]:
    """Damaged state: the right names, anything in them."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(state.to_dict(), anything))


def through_json(data: object) -> object:
    return json.loads(json.dumps(data))


def most_in_a_window(times: Sequence[float], window_s: float) -> int:
    return max((sum(start <= time < start + window_s for time in times) for start in times), default=0)


# Retries ----------------------------------------------------------------------------------------------------


@given(attempts=st.integers(0, 10**6), spread=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_beyond_the_cap_and_its_jitter_and_never_shrinks(attempts: int, spread: float) -> None:
    policy = Backoff(first_s=1.0, factor=2.0, cap_s=300.0, jitter=0.1)
    assert 0.0 <= policy.delay(attempts, spread) <= 330.0
    assert policy.delay(attempts, 0.0) <= policy.delay(attempts + 1, 0.0)


@given(now=st.integers(-(10**9), 10**9), later=st.integers(-(10**9), 10**9), failures=st.integers(1, 20))
def test_a_retry_waits_at_most_twice_its_delay_whatever_the_clock_does(now: float, later: int, failures: int) -> None:
    retry = Retry()
    for _ in range(failures):
        retry = retry.failed(Backoff(), now=now)
    assert retry.wait_s(now) == retry.delay_s
    assert retry.wait_s(now + retry.delay_s) == 0.0
    assert 0.0 <= retry.wait_s(later) <= 2 * retry.delay_s


@pytest.mark.parametrize(("attempts", "delay"), [(0, 0.0), (1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0)])
def test_delays_double_up_to_five_minutes(attempts: int, delay: float) -> None:
    assert Backoff().delay(attempts, 0.0) == delay


def test_jitter_stretches_the_delay() -> None:
    assert Backoff(first_s=10.0, jitter=0.5).delay(1, 0.5) == 12.5


def test_nothing_failed_nothing_to_wait_for() -> None:
    assert Retry().wait_s(0.0) == 0.0


@given(now=st.floats(-1e9, 1e9), failures=st.integers(0, 30))
def test_a_retry_survives_a_restart_of_the_daemon(now: float, failures: int) -> None:
    retry = Retry()
    for _ in range(failures):
        retry = retry.failed(Backoff(), now=now, spread=0.3)
    assert Retry.from_dict(through_json(retry.to_dict())) == retry


# Budgets ----------------------------------------------------------------------------------------------------


@given(clock=clock, limits=st.lists(limits, min_size=1, max_size=3).map(tuple))
def test_no_window_ever_holds_more_than_its_limit(clock: list[int], limits: tuple[Limit, ...]) -> None:
    budget = Budget(limits=limits)
    spent: list[float] = []
    for now in clock:
        if budget.wait_s(now) == 0.0:
            budget = budget.spend(now)
            spent.append(now)
    for limit in limits:
        assert most_in_a_window(spent, limit.window_s) <= limit.count


@given(clock=clock, limits=st.lists(limits, min_size=1, max_size=3).map(tuple))
def test_what_is_refused_breaks_a_limit_and_is_allowed_after_the_wait(
    clock: list[int], limits: tuple[Limit, ...]
) -> None:
    budget = Budget(limits=limits)
    spent: list[float] = []
    for now in clock:
        wait = budget.wait_s(now)
        if wait == 0.0:
            budget = budget.spend(now)
            spent.append(now)
            continue
        assert any(sum(now - limit.window_s < at for at in spent) >= limit.count for limit in limits)
        assert budget.wait_s(now + wait) == 0.0


@given(clock=jumping_clock, limits=st.lists(limits, min_size=1, max_size=3).map(tuple))
def test_a_clock_that_jumps_blocks_nothing_for_longer_than_two_windows(
    clock: list[int], limits: tuple[Limit, ...]
) -> None:
    budget, longest = Budget(limits=limits), max(limit.window_s for limit in limits)
    for now in clock:
        assert 0.0 <= budget.wait_s(now) <= 2 * longest
        budget = budget.spend(now)
        assert len(budget.spent) <= max(limit.count for limit in limits)


@given(clock=clock)
def test_a_budget_survives_a_restart_of_the_daemon(clock: list[int]) -> None:
    budget = Budget()
    for now in clock:
        budget = budget.spend(now)
    assert Budget.from_dict(through_json(budget.to_dict())) == budget


@pytest.mark.parametrize(
    ("spent", "now", "wait"),
    [
        ((), 0.0, 0.0),
        ((0.0, 1.0, 2.0), 3.0, 0.0),
        ((0.0, 1.0, 2.0, 3.0), 3.0, 7.0),
        ((0.0, 1.0, 2.0, 3.0), 10.0, 0.0),
        (tuple(range(0, 120, 10)), 120.0, 180.0),
        ((1000.0, 1001.0, 1002.0, 1003.0), 3.0, 0.0),  # the clock began anew
    ],
)
def test_the_brokers_restarts(spent: tuple[float, ...], now: float, wait: float) -> None:
    assert Budget(limits=BROKER_RESTARTS, spent=spent).wait_s(now) == wait


def test_an_action_beyond_the_budget_is_counted_all_the_same() -> None:
    budget = Budget(limits=(Limit(count=1, window_s=10.0),)).spend(0.0).spend(5.0)
    assert budget.wait_s(6.0) == 9.0


def test_no_limits_allow_everything() -> None:
    assert Budget(limits=()).spend(0.0).wait_s(0.0) == 0.0


@pytest.mark.parametrize(("count", "window_s"), [(0, 10.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_a_limit_that_allows_nothing_for_ever_is_refused(count: int, window_s: float) -> None:
    with pytest.raises(ValueError, match="at least one action"):
        Limit(count=count, window_s=window_s)


# Tugs of war ------------------------------------------------------------------------------------------------


def other_writer(
    detector: FightDetector, writes: set[int], checks: set[int], inputs: str = "a"
) -> tuple[FightDetector, list[int]]:
    """Let someone overwrite the file at `writes`, and repair it at each check that allows it; return the repairs."""
    repairs: list[int] = []
    wrong = False
    for now in sorted({*writes, *checks}):
        if now in writes:
            detector, wrong = detector.foreign(now=now, inputs=inputs), True
        if wrong and not detector.fighting(now=now, inputs=inputs):
            detector, wrong = detector.repaired(now=now, inputs=inputs), False
            repairs.append(now)
    return detector, repairs


@given(writes=clock, checks=clock, limit=limits, quiet=st.integers(0, 90))
def test_repairs_never_exceed_the_limit_in_any_window(
    writes: list[int], checks: list[int], limit: Limit, quiet: int
) -> None:
    _, repairs = other_writer(FightDetector(limit=limit, quiet_s=quiet, inputs="a"), set(writes), set(checks))
    assert most_in_a_window(repairs, limit.window_s) <= limit.count


@given(writes=clock, limit=limits, quiet=st.integers(1, 90))
def test_a_fight_ends_when_the_other_writer_is_quiet(writes: list[int], limit: Limit, quiet: int) -> None:
    detector, _ = other_writer(FightDetector(limit=limit, quiet_s=quiet, inputs="a"), set(writes), set())
    end = max(writes, default=0) + max(quiet, limit.window_s)
    assert not detector.fighting(now=end, inputs="a")


@given(writes=clock, limit=limits, quiet=st.integers(1, 90), now=st.integers(-(10**6), 10**6))
def test_a_fight_is_bounded_whatever_the_clock_does(writes: list[int], limit: Limit, quiet: int, now: float) -> None:
    detector, _ = other_writer(FightDetector(limit=limit, quiet_s=quiet, inputs="a"), set(writes), set())
    assert 0.0 <= detector.wait_s(now=now, inputs="a") <= 2 * max(quiet, limit.window_s)


@given(writes=clock)
def test_new_inputs_end_a_fight_at_once(writes: list[int]) -> None:
    detector, _ = other_writer(FightDetector(inputs="a"), set(writes), set())
    assert not detector.fighting(now=max(writes, default=0), inputs="b")


@given(writes=clock)
def test_a_fight_survives_a_restart_of_the_daemon(writes: list[int]) -> None:
    detector, _ = other_writer(FightDetector(inputs="a"), set(writes), set())
    assert FightDetector.from_dict(through_json(detector.to_dict())) == detector


def test_the_sixth_overwriting_in_ten_minutes_is_a_fight_until_ten_quiet_minutes() -> None:
    detector, repairs = other_writer(FightDetector(inputs="a"), {0, 10, 20, 30, 40, 50, 60}, set())
    assert repairs == [0, 10, 20, 30, 40]
    assert detector.wait_s(now=60, inputs="a") == 600
    assert detector.fighting(now=659, inputs="a")
    assert not detector.fighting(now=660, inputs="a")


def test_a_write_for_new_inputs_is_no_fight() -> None:
    detector, _ = other_writer(FightDetector(inputs="a"), set(range(10)), set())
    assert not detector.foreign(now=10, inputs="b").fighting(now=10, inputs="b")


# Damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Retry(), Budget(), FightDetector()], ids=lambda state: type(state).__name__)
@given(data=st.data())
def test_damaged_state_is_taken_for_what_is_left_of_it(state: State, data: st.DataObject) -> None:
    found = data.draw(anything | fields_of(state))
    loaded = type(state).from_dict(found)
    assert type(state).from_dict(loaded.to_dict()) == loaded
    if isinstance(loaded, FightDetector):
        assert loaded.wait_s(now=0.0, inputs=loaded.inputs) >= 0.0
    else:
        assert loaded.wait_s(0.0) >= 0.0
