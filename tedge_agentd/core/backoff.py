"""How often and how soon to act again: retries, budgets, tugs of war. Time is a parameter, state is data.

Each state is a frozen value whose methods return the next one, and goes to JSON and back with `to_dict` and
`from_dict`, which takes anything: a damaged state file costs the memory in it, never the daemon. All times are
seconds of one clock chosen by the caller. Where that clock is set back (no RTC, a reboot), what lies further in the
future than its own delay or window is forgotten, so that nothing ever waits longer than twice that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, TypeGuard

# Retries ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that grow by `factor` from `first_s` to `cap_s`, each stretched by at most `jitter` of itself."""

    first_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 300.0
    jitter: float = 0.1  # keeps the gateways of a site that lost power together from retrying together

    def delay(self, attempts: int, spread: float) -> float:
        """Return the seconds to wait after the given number of failures in a row; `spread` is random in [0, 1)."""
        if attempts < 1:
            return 0.0
        try:
            plain = min(self.first_s * self.factor ** (attempts - 1), self.cap_s)
        except OverflowError:
            plain = self.cap_s
        return plain * (1.0 + self.jitter * spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How many attempts failed in a row, and when the next one is due. `Retry()` is: nothing failed."""

    attempts: int = 0
    failed_at: float = 0.0
    delay_s: float = 0.0

    def failed(self, policy: Backoff, *, now: float, spread: float = 0.0) -> Self:
        attempts = self.attempts + 1
        return replace(self, attempts=attempts, failed_at=now, delay_s=policy.delay(attempts, spread))

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next attempt is due; 0.0 if it is, or if nothing failed."""
        return _remaining(self.failed_at, self.delay_s, now)

    def to_dict(self) -> dict[str, object]:
        return {"attempts": self.attempts, "failed_at": self.failed_at, "delay_s": self.delay_s}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        fields = _mapping(data)
        attempts, failed_at, delay_s = fields.get("attempts"), fields.get("failed_at"), fields.get("delay_s")
        if not isinstance(attempts, int) or not _is_time(failed_at) or not _is_time(delay_s):
            return cls()
        if attempts < 0 or delay_s < 0:
            return cls()
        return cls(attempts=int(attempts), failed_at=float(failed_at), delay_s=float(delay_s))


# Budgets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `count` actions in any `window_s` seconds."""

    count: int
    window_s: float

    def __post_init__(self) -> None:
        if self.count < 1 or not self.window_s > 0:
            raise ValueError(f"a limit allows at least one action in a time above zero, not {self}")

    def wait_s(self, spent: tuple[float, ...], now: float) -> float:
        """Return the seconds until one more action fits beside those at the times of `spent` (ascending)."""
        if len(spent) < self.count:
            return 0.0
        return _remaining(spent[-self.count], self.window_s, now)


# systemd gives up on a unit after 5 starts in 10 s (StartLimitBurst), and a broken broker spends 4 of them by itself
# in about a second (facts/platform.md 0.4): the first limit stays below, the second bounds a flapping input's cost.
BROKER_RESTARTS = (Limit(count=4, window_s=10.0), Limit(count=12, window_s=300.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What was done when, against limits that all hold in any window, wherever one lays it.

    `spend` also takes an action that no limit allows (an operator's order): the budget is then spent for longer.
    """

    limits: tuple[Limit, ...] = BROKER_RESTARTS
    spent: tuple[float, ...] = ()

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next action is within all limits; 0.0 if it is now."""
        return max((limit.wait_s(self.spent, now) for limit in self.limits), default=0.0)

    def revival_wait_s(self, now: float) -> float:
        """Return the seconds until a broker that is down may be started: the shortest limit alone holds.

        The longer ones bound what a flapping input costs the connected clients; there are none.
        """
        shortest = min(self.limits, key=lambda limit: limit.window_s, default=None)
        return shortest.wait_s(self.spent, now) if shortest is not None else 0.0

    def spend(self, now: float) -> Self:
        """Return the budget after an action at `now`. Keeps no more times than the largest limit counts."""
        return replace(self, spent=_latest(self.limits, (*self.spent, now), now))

    def to_dict(self) -> dict[str, object]:
        """Return what was spent; the limits are settings and come from there."""
        return {"spent": list(self.spent)}

    @classmethod
    def from_dict(cls, data: object, limits: tuple[Limit, ...] = BROKER_RESTARTS) -> Self:
        return cls(limits=limits, spent=_latest(limits, _times(_mapping(data).get("spent"))))


# Tugs of war ------------------------------------------------------------------------------------------------


FIGHT_LIMIT = Limit(count=5, window_s=600.0)
FIGHT_QUIET_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FightDetector:
    """Whether another writer keeps undoing our file, so that putting it back has to stop (finding `fight`).

    A fight begins when a foreign write is seen after `limit.count` repairs within `limit.window_s` for the same
    inputs, and lasts until the other writer was quiet for `quiet_s` and the limit has room again. New inputs end it
    at once: then there is something new to write. For the same inputs no window holds more repairs than the limit.
    """

    limit: Limit = FIGHT_LIMIT
    quiet_s: float = FIGHT_QUIET_S
    inputs: str = ""  # a fingerprint of what the file is made from
    repairs: tuple[float, ...] = ()
    foreign_at: float | None = None  # the last foreign write; None without a fight

    def foreign(self, *, now: float, inputs: str) -> Self:
        """Note that another writer changed the file. Once per write, not per pass that sees it."""
        if inputs != self.inputs:
            return replace(self, inputs=inputs, repairs=(), foreign_at=None)
        fight = self.fighting(now=now, inputs=inputs) or self.limit.wait_s(self.repairs, now) > 0
        return replace(self, foreign_at=now if fight else None)

    def fighting(self, *, now: float, inputs: str) -> bool:
        """Return whether the file is to be left as the other writer has it."""
        return self.wait_s(now=now, inputs=inputs) > 0

    def wait_s(self, *, now: float, inputs: str) -> float:
        """Return the seconds until the file may be put back if nobody writes it meanwhile; 0.0 if it may now."""
        if self.foreign_at is None or inputs != self.inputs:
            return 0.0
        return max(_remaining(self.foreign_at, self.quiet_s, now), self.limit.wait_s(self.repairs, now))

    def repaired(self, *, now: float, inputs: str) -> Self:
        """Note that the file was put back, which ends a fight until the next foreign write."""
        before = self.repairs if inputs == self.inputs else ()
        repairs = _latest((self.limit,), (*before, now), now)
        return replace(self, inputs=inputs, repairs=repairs, foreign_at=None)

    def to_dict(self) -> dict[str, object]:
        """Return what happened; the limits are settings and come from there."""
        return {"inputs": self.inputs, "repairs": list(self.repairs), "foreign_at": self.foreign_at}

    @classmethod
    def from_dict(cls, data: object, limit: Limit = FIGHT_LIMIT, quiet_s: float = FIGHT_QUIET_S) -> Self:
        fields = _mapping(data)
        inputs, foreign_at = fields.get("inputs"), fields.get("foreign_at")
        return cls(
            limit=limit,
            quiet_s=quiet_s,
            inputs=inputs if isinstance(inputs, str) else "",
            repairs=_latest((limit,), _times(fields.get("repairs"))),
            foreign_at=float(foreign_at) if _is_time(foreign_at) else None,
        )


# Times ------------------------------------------------------------------------------------------------------


def _remaining(since: float, length: float, now: float) -> float:
    """Return how much of `length` seconds after `since` is left; 0.0 too if `since` is further off than `length`."""
    left = since + length - now
    return left if 0.0 < left <= 2.0 * length else 0.0


def _latest(limits: tuple[Limit, ...], times: tuple[float, ...], now: float = math.inf) -> tuple[float, ...]:
    """Return in order the times that can still count for a limit."""
    count = max((limit.count for limit in limits), default=0)
    window = max((limit.window_s for limit in limits), default=0.0)
    known = sorted(time for time in times if time <= now + window)
    return tuple(known[-count:]) if count else ()


def _mapping(data: object) -> Mapping[object, object]:
    return data if isinstance(data, Mapping) else {}


def _times(data: object) -> tuple[float, ...]:
    return tuple(float(time) for time in data if _is_time(time)) if isinstance(data, list | tuple) else ()


def _is_time(value: object) -> TypeGuard[float]:
    """Whether it is a number a clock could show; JSON brings Infinity, NaN, huge integers and booleans as well."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
