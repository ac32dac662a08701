"""Notice that the wall clock was set: by a time server, by an operator, or while the machine slept.

Time is a parameter: seconds of a monotonic clock, and seconds since the epoch at the same instant. Slewing changes
both alike, so their difference only changes when the clock is set.
"""

STEP_S = 60.0  # less makes no certificate begin or end that would not have done so within a look's distance


class WallClock:
    """Remembers the difference of the two clocks, and nothing else."""

    __slots__ = ("_difference",)

    def __init__(self, monotonic: float, epoch: float) -> None:
        self._difference = epoch - monotonic

    def was_set(self, monotonic: float, epoch: float) -> bool:
        """Whether it was set since this was last true, forward or back. Small steps add up."""
        difference = epoch - monotonic
        if abs(difference - self._difference) < STEP_S:
            return False
        self._difference = difference
        return True
