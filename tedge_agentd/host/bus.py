"""A thin layer over pystemd's D-Bus connection: typed calls, signals as values, errors by their names."""

import contextlib
import errno
import importlib
import importlib.util
import os
import signal
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from tedge_agentd.core import errors

CALL_TIMEOUT = "10s"  # sd-bus waits 25 s by default, and a call through pystemd cannot be given its own limit
RETRY_SECONDS = 5.0
_SIGNAL = 4  # SD_BUS_MESSAGE_SIGNAL of sd-bus.h
_IDLE_AFTER = 4  # a step of sd_bus_process may yield nothing although messages are queued behind it
_CLOSE = (-1, None)  # how pystemd's calls end an array, a struct or a variant
_HANDLED = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}

_DAEMON = (b"org.freedesktop.DBus", b"/org/freedesktop/DBus", b"org.freedesktop.DBus")
_GONE = {errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED, errno.ESHUTDOWN, errno.ETIMEDOUT}
_NO_ANSWER = {"NoReply", "TimedOut", "Timeout", "Disconnected", "ServiceUnknown", "NameHasNoOwner", "ChildExited"}
_NO_ANSWER |= {errno.errorcode[number] for number in _GONE}  # sd-bus names some of them System.Error.EPIPE


class BusUnavailableError(errors.TransientError):
    """D-Bus, or systemd behind it, does not answer: a chroot, an early boot, a restart of dbus."""

    def __init__(self, detail: str, *, retry_in: float = RETRY_SECONDS) -> None:
        super().__init__(
            f"systemd cannot be reached over D-Bus: {detail}", "systemctl status dbus.socket", retry_in=retry_in
        )


class CallError(errors.TedgeAgentdError):
    """The other side answered with an error. `name` is its last part, such as `NoSuchUnit`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    path: str
    member: str
    body: Any


class Bus:
    """One connection to the system bus. Strings are sent as str and arrive as bytes.

    Signals are asked for by match rules and fetched by `signals`; there are no callbacks, because pystemd keeps no
    reference to them and turns what they raise into a SystemError. Not for use by several threads.
    """

    def __init__(self) -> None:
        os.environ.setdefault("SYSTEMD_BUS_TIMEOUT", CALL_TIMEOUT)
        self._dbus = low_layer("dbuslib").DBus()
        try:
            with _uninterrupted():
                self._dbus.open()
        except Exception as error:
            self.close()
            raise BusUnavailableError(_describe(error)[1]) from error

    def fileno(self) -> int:
        return int(self._dbus.get_fd())

    def close(self) -> None:
        """Drop the connection. A second call does nothing (pystemd would free it twice)."""
        dbus, self._dbus = self._dbus, None
        if dbus is not None:
            dbus.close()

    def call(self, target: tuple[bytes, bytes, bytes], method: str, signature: str = "", *values: Any) -> Any:
        """Return the answer to a method of `target` (destination, path, interface).

        Raises CallError for an error that was answered, BusUnavailableError when nobody answers.
        """
        arguments = encode(signature, values)
        try:
            with _uninterrupted():
                return self._dbus.call_method(*target, method.encode(), arguments).body
        except Exception as error:
            self._fail(error)

    def get(self, target: tuple[bytes, bytes, bytes], name: str, signature: str) -> Any:
        """Return a property, whose type must be the one given."""
        try:
            with _uninterrupted():
                return self._dbus.get_property(*target, name.encode(), signature.encode())
        except Exception as error:
            self._fail(error)

    def add_match(self, rule: str) -> None:
        self.call(_DAEMON, "AddMatch", "s", rule)

    def remove_match(self, rule: str) -> None:
        self.call(_DAEMON, "RemoveMatch", "s", rule)

    def signals(self) -> list[Signal]:
        """Return the signals that have arrived, without waiting.

        Calls read ahead, so signals can be queued although the descriptor is silent: ask before every select.
        """
        found: list[Signal] = []
        idle = 0
        while idle < _IDLE_AFTER:
            try:
                message = self._dbus.process()
            except Exception as error:
                self._fail(error)
            if message.is_empty():  # also true for "no message", of which nothing else may be asked
                idle += 1
                continue
            idle = 0
            if message.get_type() == _SIGNAL:
                message.process_reply(False)
                found.append(
                    Signal(path=message.get_path().decode(), member=message.get_member().decode(), body=message.body)
                )
        return found

    def _fail(self, error: Exception) -> NoReturn:
        name, message = _describe(error)
        number = abs(int(getattr(error, "errno", 0) or 0))
        if name in _NO_ANSWER or (not name and number in _GONE):
            raise BusUnavailableError(message) from error
        raise CallError(name or errno.errorcode.get(number, "Failed"), message) from error


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put the daemon's signals off until a call is over.

    sd_bus_call(3) gives up with EINTR when a handler ran: the job was asked for, and nobody knows what came of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def low_layer(name: str) -> types.ModuleType:
    """Return a module of pystemd without running the package's own `__init__`.

    That one imports lxml to parse introspection data, 6 MB and 8 ms for nothing that `dbuslib` or `journal` need.
    """
    if "pystemd" not in sys.modules:
        spec = importlib.util.find_spec("pystemd")
        if spec is None:
            raise ModuleNotFoundError("No module named 'pystemd'", name="pystemd")
        sys.modules["pystemd"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"pystemd.{name}")


def match_rule(**keys: str) -> str:
    """Return a rule for signals of systemd. Values are unit names and object paths, which hold no quote."""
    assert not any("'" in value for value in keys.values()), keys
    return ",".join(["type='signal'", "sender='org.freedesktop.systemd1'", *(f"{k}='{v}'" for k, v in keys.items())])


def encode(signature: str, values: Iterable[Any]) -> list[tuple[int, Any]]:
    """Return values as the flat list that pystemd's calls take. A variant's value is (signature, value).

    pystemd's own apply_signature knows no variants and relies on memory that happens to be zero behind a character.
    """
    flat: list[tuple[int, Any]] = []
    for one, value in zip(split(signature), values, strict=True):
        kind, inner = one[0], one[1:]
        match kind:
            case "a":
                items = [part for item in value for part in encode(inner, [item])]
                flat += [(ord("a"), inner.encode()), *items, _CLOSE]
            case "(":
                flat += [(ord("r"), inner[:-1].encode()), *encode(inner[:-1], value), _CLOSE]
            case "v":
                flat += [(ord("v"), value[0].encode()), *encode(value[0], [value[1]]), _CLOSE]
            case "s" | "o" | "g" if "\0" in value:
                raise ValueError(f"a string for D-Bus may not contain NUL: {value!r}")
            case _:
                flat.append((ord(kind), value.encode() if isinstance(value, str) else value))
    return flat


def split(signature: str) -> list[str]:
    """Return the complete types of a signature: `sa(sb)` gives `s` and `a(sb)`."""
    types_: list[str] = []
    start = depth = 0
    for position, letter in enumerate(signature, start=1):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0 and letter != "a":
            types_.append(signature[start:position])
            start = position
    if start != len(signature):
        raise ValueError(f"not a sequence of complete D-Bus types: {signature}")
    return types_


def _describe(error: Exception) -> tuple[str, str]:
    """Return the last part of the D-Bus error's name ("" if it is none) and its message.

    pystemd keeps the name only of errors it has no class for.
    """
    kind = type(error).__name__
    given = getattr(error, "err_name", "") or ""
    name = given.decode() if isinstance(given, bytes) else str(given)
    text = getattr(error, "err_message", "") or ""
    message = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    number = abs(int(getattr(error, "errno", 0) or 0))
    if not message:
        message = os.strerror(number) if number else str(error)
    if not name and kind.startswith("DBus") and kind not in {"DBusBaseError", "DBusConnectionRefusedError"}:
        name = kind.removeprefix("DBus").removesuffix("Error")
    return name.rpartition(".")[2], message
