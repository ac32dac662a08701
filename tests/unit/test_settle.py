"""When a burst of changes counts as over."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core.settle import Settle

# Milliseconds, so that sums are exact and a failure reads well.
moments = st.lists(st.integers(0, 10_000), min_size=1).map(sorted)
spans = st.integers(0, 3_000)


@given(moments=moments, quiet=spans, longest=spans)
def test_due_is_quiet_after_the_last_event_and_at_most_max_after_the_first(
    moments: list[int], quiet: int, longest: int
) -> None:
    settle = Settle(quiet_s=quiet, max_s=longest)
    for moment in moments:
        settle.event(moment)
    due = settle.due()
    assert due == min(moments[-1] + quiet, moments[0] + longest)


@given(moments=moments, quiet=spans, longest=st.integers(1, 3_000))
def test_a_flood_gets_one_pass_per_max_and_no_event_is_left_without_a_pass(
    moments: list[int], quiet: int, longest: int
) -> None:
    passes: list[float] = []
    settle = Settle(quiet_s=quiet, max_s=longest)
    for moment in moments:
        if (due := settle.due()) is not None and due <= moment:
            passes.append(due)
            settle.done()
        settle.event(moment)
    due = settle.due()
    assert due is not None
    passes.append(due)
    for moment in moments:
        assert any(moment <= at <= moment + longest for at in passes)
    if quiet >= longest:
        assert all(after - before >= longest for before, after in itertools.pairwise(passes))


@pytest.mark.parametrize(
    ("events", "due"),
    [
        ([], None),
        ([5.0], 5.1),
        ([5.0, 5.05], 5.15),
        ([5.0, 4.0], 5.1),  # an older reading of the clock does not shorten the wait
        ([5.0 + 0.0625 * n for n in range(100)], 6.0),
    ],
)
def test_due_after(events: list[float], due: float | None) -> None:
    settle = Settle(quiet_s=0.1, max_s=1.0)
    for event in events:
        settle.event(event)
    assert settle.due() == (None if due is None else pytest.approx(due))


def test_nothing_is_due_after_done_until_the_next_event() -> None:
    settle = Settle()
    settle.event(1.0)
    settle.done()
    assert settle.due() is None
    settle.event(7.0)
    assert settle.due() == 7.1


def test_the_last_change_of_a_burst_is_known_until_its_pass_begins() -> None:
    burst = Settle()
    assert burst.last() is None
    burst.event(1.0)
    burst.event(1.5)
    assert burst.last() == 1.5
    burst.done()
    assert burst.last() is None
