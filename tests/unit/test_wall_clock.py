"""A clock that is set is noticed once, whichever way; one that merely runs is not."""

from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import wall_clock

moments = st.floats(0, 4e9)
monotonic = st.floats(0, 4e8)


@given(start=monotonic, epoch=moments, steps=st.lists(st.floats(0, 1e7), max_size=20))
def test_time_that_passes_is_no_step(start: float, epoch: float, steps: list[float]) -> None:
    clock = wall_clock.WallClock(start, epoch)
    for step in steps:
        start, epoch = start + step, epoch + step
        assert not clock.was_set(start, epoch)


@given(start=monotonic, epoch=moments, other=moments, passed=st.floats(0, 3600))
def test_a_step_of_a_minute_is_noticed_once(start: float, epoch: float, other: float, passed: float) -> None:
    clock = wall_clock.WallClock(start, epoch)
    seen = clock.was_set(start + passed, other + passed)
    assert seen or abs(other - epoch) < wall_clock.STEP_S + 1
    assert not seen or abs(other - epoch) > wall_clock.STEP_S - 1
    assert not clock.was_set(start + 2 * passed, other + 2 * passed)


@given(epoch=moments, step=st.floats(1, 59), forward=st.booleans())
def test_small_steps_add_up(epoch: float, step: float, forward: bool) -> None:
    clock = wall_clock.WallClock(0.0, epoch)
    sign = 1 if forward else -1
    seen = [clock.was_set(0.0, epoch + sign * step * count) for count in range(1, 122)]
    assert any(seen)
