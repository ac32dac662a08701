"""The connection to systemd: opened when needed and again after it broke, with notice of units' changes."""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from . import bus

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = (NAME.encode(), PATH.encode(), f"{NAME}.Manager".encode())
_PROPERTIES = "org.freedesktop.DBus.Properties"
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_LETTERS = _PLAIN | frozenset(":-_.\\@")  # systemd.unit(5)

T = TypeVar("T")


class Manager:
    """One connection and the signals that come over it. Not for use by several threads."""

    def __init__(
        self, *, connect: Callable[[], bus.Bus] = bus.Bus, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.stopping: Callable[[], bool] = lambda: False  # whether the daemon is to end
        self.ended: dict[str, str] = {}  # job path -> result, of the jobs that are waited for
        self._connect = connect
        self._bus: bus.Bus | None = None
        self._watched: dict[str, str] = {}  # object path -> unit name
        self._changed: set[str] = set()
        self._missed = False  # there was a time without a connection

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def watch(self, names: Iterable[str]) -> None:
        """Replace the set of units whose changes `process` tells. They need not exist yet."""
        wanted = {unit_path(name): name for name in names if is_unit_name(name)}
        before, self._watched = self._watched, wanted
        if self._bus is None:
            return  # the rules are set when the connection is made
        try:
            for path in before.keys() - wanted.keys():
                for rule in _watch_rules(path, before[path]):
                    self._bus.remove_match(rule)
            for path in wanted.keys() - before.keys():
                for rule in _watch_rules(path, wanted[path]):
                    self._bus.add_match(rule)
        except bus.BusUnavailableError:
            self.drop()

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable when a watched unit changes; None while there is no bus.

        It changes with the connection: ask before each select. Calls read ahead: `process` before each select, too.
        """
        try:
            return self.connected().fileno()
        except bus.BusUnavailableError:
            return None

    def process(self) -> frozenset[str]:
        """Return the watched units that may have changed since the last call, without waiting.

        All of them once the bus is back after it was away. Only a hint to look again; `unit` says what changed.
        """
        with contextlib.suppress(bus.BusUnavailableError):
            self.refresh()
        changed = frozenset(self._changed)
        self._changed.clear()
        return changed

    def connected(self) -> bus.Bus:
        """Return the connection, made anew with all its subscriptions if there is none."""
        if self._bus is None:
            try:
                self._bus = self._open()
            except bus.BusUnavailableError:
                self._missed = True
                raise
            if self._missed:
                self._missed = False
                self._changed.update(self._watched.values())
        return self._bus

    def _open(self) -> bus.Bus:
        connection = self._connect()
        try:
            connection.call(MANAGER, "Subscribe")
            for path, name in self._watched.items():
                for rule in _watch_rules(path, name):
                    connection.add_match(rule)
        except bus.CallError as error:
            connection.close()
            raise bus.BusUnavailableError(str(error)) from error
        except bus.BusUnavailableError:
            connection.close()
            raise
        return connection

    def drop(self) -> None:
        """Give up a broken connection; the next question makes a new one."""
        self.close()
        self._missed = True

    def refresh(self) -> bus.Bus:
        """Take in what has arrived, which is also how a broken connection is seen; return one that works."""
        try:
            self.collect(self.connected())
        except bus.BusUnavailableError:
            self.drop()
        return self.connected()

    def collect(self, connection: bus.Bus) -> None:
        """Sort the signals that have arrived, without waiting."""
        for signal in connection.signals():
            if signal.member == "JobRemoved":
                self.ended[text(signal.body[1])] = text(signal.body[3])
            elif signal.member == "PropertiesChanged" and signal.path in self._watched:
                self._changed.add(self._watched[signal.path])
            elif signal.member == "UnitNew" and (path := text(signal.body[1])) in self._watched:
                self._changed.add(self._watched[path])

    def read(self, question: Callable[[bus.Bus], T]) -> T:
        """Ask something that may be asked twice: a broken connection is replaced once."""
        try:
            return question(self.connected())
        except bus.BusUnavailableError:
            self.drop()
            return question(self.connected())


def is_unit_name(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem and suffix) and len(name) < 256 and _LETTERS.issuperset(name)


def unit_path(name: str) -> str:
    """Return the object path of a unit: all but letters and digits as _xx (sd_bus_path_encode(3))."""
    encoded = (
        letter if letter in _PLAIN and not (index == 0 and letter.isdigit()) else f"_{ord(letter):02x}"
        for index, letter in enumerate(name)
    )
    return f"{PATH}/unit/{''.join(encoded)}"


def text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _watch_rules(path: str, name: str) -> tuple[str, str]:
    """A unit's first sign of life is UnitNew, every later one PropertiesChanged of its object."""
    return (
        bus.match_rule(path=path, interface=_PROPERTIES, member="PropertiesChanged"),
        bus.match_rule(path=PATH, interface=f"{NAME}.Manager", member="UnitNew", arg0=name),
    )
