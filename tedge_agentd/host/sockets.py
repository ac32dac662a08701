"""Who listens on which TCP port. Reads only; works in a service sandbox (ProcSubset=pid)."""

import array
import ipaddress
import time
from collections.abc import Callable

from tedge_agentd.core import model

KEPT_S = 60.0
_LISTEN = "0A"  # TCP_LISTEN of the kernel's net/tcp_states.h
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")


def listening() -> tuple[model.Socket, ...]:
    """Return the listening sockets of this network namespace."""
    return tuple(found for table in _TABLES for found in _read(table))


class Listening:
    """Remembers the listening sockets for as long as they stay the same.

    The kernel walks its whole table of connections to print these few: 2.5 ms of a pass of 11 ms, on a machine with
    hardly any. A broker binds at its start and never after, so what was found once it held all its ports is not asked
    for again in the same run, but for once a minute.
    """

    def __init__(
        self,
        *,
        read: Callable[[], tuple[model.Socket, ...]] = listening,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._found: tuple[model.Socket, ...] = ()
        self._of: object = None
        self._until = 0.0

    def look(
        self, broker: model.UnitFacts | None, uids: frozenset[int], ports: frozenset[int]
    ) -> tuple[model.Socket, ...]:
        """Return the listening sockets; `ports` are those that the broker is to hold, as one of `uids`."""
        now = self._clock()
        runs = broker is not None and broker.is_active and broker.invocation
        run = (runs, uids, ports) if runs else None
        if run is None or run != self._of or now >= self._until:
            self._found = self._read()
            held = {found.port for found in self._found if found.uid in uids}
            others = {found.port for found in self._found if found.uid not in uids}
            self._of = run if ports <= held and not ports & others else None
            self._until = now + KEPT_S
        return self._found


def _read(table: str) -> list[model.Socket]:
    try:
        with open(table, encoding="ascii") as file:
            next(file)
            rows = [line.split(maxsplit=8) for line in file]
    except FileNotFoundError:  # no IPv6 in this kernel
        return []
    return [
        model.Socket(address=_address(row[1][:-5]), port=int(row[1][-4:], 16), uid=int(row[7]))
        for row in rows
        if row[3] == _LISTEN
    ]


def _address(text: str) -> model.IPAddress:
    """Decode an address of /proc/net/tcp: 32-bit words, each printed as the CPU holds it."""
    words = array.array("I", (int(text[start : start + 8], 16) for start in range(0, len(text), 8)))
    return ipaddress.ip_address(words.tobytes())
