"""The loop hears everything, also what comes a moment after it has looked."""

import os
import time
from types import SimpleNamespace
from typing import Any

from tedge_agentd import daemon
from tedge_agentd.core import settle, wall_clock


def a_loop() -> Any:
    """A daemon with nothing around it: no pass is due for a minute, and nobody wakes it but the test."""
    loop: Any = object.__new__(daemon.Daemon)
    loop._read_end, loop._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    loop._settle = settle.Settle(10.0, 60.0)
    loop._next_look = time.monotonic() + 60.0
    loop._rehearsed = None
    loop._reload = loop._woken = False
    loop._next_take = 0.0
    loop._notify = SimpleNamespace(progress=lambda: None, ping=lambda _: False, next_ping=lambda _: None)
    loop._renewal = SimpleNamespace(due=lambda: time.monotonic() + 60.0)
    loop._clock = wall_clock.WallClock(time.monotonic(), time.time())
    loop.world = SimpleNamespace(
        epoch=time.time,
        systemd=SimpleNamespace(process=frozenset, fileno=lambda: None),
        material=SimpleNamespace(prepare=lambda: None),
    )
    loop._reconciler = SimpleNamespace(preview=lambda: None)
    return loop


def test_a_change_right_after_a_look_is_not_slept_on() -> None:
    loop, dirty = a_loop(), [True]
    loop._watch = SimpleNamespace(take=lambda: bool(dirty and dirty.pop()))
    loop._next_take = time.monotonic() + 0.01  # it has just looked, when the watch wakes it: once
    os.write(loop._write_end, b"x")
    began = time.monotonic()
    while loop._settle.due() is None and time.monotonic() - began < 5.0:
        loop._turn()
    assert time.monotonic() - began < 1.0
    assert loop._settle.due() is not None


def test_a_clock_that_was_set_back_is_looked_at_and_reported_anew() -> None:
    """Forward or back: no renewal's moment comes nearer by a clock that was set back."""
    loop, told = a_loop(), []
    loop._watch = SimpleNamespace(take=lambda: False)
    loop._renewal.clock_was_set = lambda: told.append("set")
    os.write(loop._write_end, b"x")
    loop._turn()
    assert loop._settle.due() is None
    loop.world.epoch = lambda: time.time() - 3 * 365 * 86400
    loop._turn()
    assert told == ["set"]
    assert loop._settle.due() is not None
