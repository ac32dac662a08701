"""What is sent to D-Bus, and what becomes of a connection that cannot be made."""

import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import errors
from tedge_agentd.host import bus, manager, services

_ROOT = Path(__file__).parents[2]

# (signature, value) of one complete type
typed: st.SearchStrategy[tuple[str, Any]] = st.recursive(
    st.one_of(
        st.tuples(st.just("s"), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
        st.tuples(st.just("b"), st.booleans()),
        st.tuples(st.just("t"), st.integers(0, 2**64 - 1)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(
            lambda pairs: ("(" + "".join(s for s, _ in pairs) + ")", tuple(v for _, v in pairs))
        ),
        inner.flatmap(lambda pair: st.integers(0, 3).map(lambda n: ("a" + pair[0], [pair[1]] * n))),
        inner.map(lambda pair: ("v", pair)),
    ),
    max_leaves=6,
)


def decode(flat: list[tuple[int, Any]], signature: str) -> list[Any]:
    """Read the flat form back, as sd_bus_message_append(3) and its containers would."""
    position = 0

    def one(kind: str) -> Any:
        nonlocal position
        letter, value = flat[position]
        position += 1
        if kind[0] not in "a(v":
            assert letter == ord(kind)
            return value.decode() if isinstance(value, bytes) else value
        assert letter == ord({"a": "a", "(": "r", "v": "v"}[kind[0]])
        inner = value.decode()
        found: Any
        if kind[0] == "a":
            assert inner == kind[1:]
            found = []
            while flat[position] != (-1, None):
                found.append(one(inner))
        elif kind[0] == "(":
            assert inner == kind[1:-1]
            found = tuple(one(part) for part in bus.split(inner))
        else:
            found = (inner, one(inner))
        assert flat[position] == (-1, None)
        position += 1
        return found

    values = [one(part) for part in bus.split(signature)]
    assert position == len(flat)
    return values


@given(st.lists(typed, max_size=4))
def test_what_is_encoded_can_be_read_back(pairs: list[tuple[str, Any]]) -> None:
    signature = "".join(kind for kind, _ in pairs)
    assert bus.split(signature) == [kind for kind, _ in pairs]
    values = [value for _, value in pairs]
    assert decode(bus.encode(signature, values), signature) == values


@pytest.mark.parametrize("signature", ["a", "(s", "aa", "s(", "a("])
def test_half_a_signature_is_an_error(signature: str) -> None:
    with pytest.raises(ValueError, match="complete"):
        bus.split(signature)


def test_a_nul_does_not_cut_a_string_short() -> None:
    with pytest.raises(ValueError, match="NUL"):
        bus.encode("as", [["/etc/shadow\0.conf"]])


@given(st.text(alphabet="abzAZ09:-_.\\@", min_size=1, max_size=30))
def test_the_object_path_of_a_unit_is_libsystemds(name: str) -> None:
    theirs: bytes = bus.low_layer("dbuslib").path_encode(b"/org/freedesktop/systemd1/unit", name.encode())
    assert manager.unit_path(name) == theirs.decode()


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("mosquitto.service", True),
        ("tedge-mapper-bridge@c8y.service", True),
        ("dev-disk-by\\x2dlabel.device", True),
        ("no-suffix", False),
        (".service", False),
        ("a b.service", False),
        ("a',type='signal.service", False),
        ("a/b.service", False),
        ("x" * 250 + ".service", False),
    ],
)
def test_names_of_units_are_known_from_other_text(name: str, valid: bool) -> None:
    assert manager.is_unit_name(name) is valid


def test_the_low_layer_comes_without_lxml() -> None:
    code = "import sys; from tedge_agentd.host import bus; bus.low_layer('dbuslib'); print('lxml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert done.stdout == "False\n"


class _Signalled:
    """A connection during whose every call a signal comes."""

    def __init__(self, seen: list[str]) -> None:
        self.seen, self.body = seen, "answer"

    def open(self) -> None:
        self._call("open")

    def close(self) -> None:
        """Nothing is open."""

    def call_method(self, *_: object) -> "_Signalled":
        self._call("call")
        return self

    def get_property(self, *_: object) -> str:
        self._call("get")
        return self.body

    def _call(self, name: str) -> None:
        signal.raise_signal(signal.SIGHUP)
        self.seen.append(name)


def test_a_signal_waits_for_the_end_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(bus, "low_layer", lambda _: types.SimpleNamespace(DBus=lambda: _Signalled(seen)))
    before = signal.signal(signal.SIGHUP, lambda *_: seen.append("signal"))
    try:
        connection = bus.Bus()
        assert connection.call((b"", b"", b""), "Method") == "answer"
        assert connection.get((b"", b"", b""), "Property", "s") == "answer"
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == ["open", "signal", "call", "signal", "get", "signal"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_where_there_is_no_bus_it_is_a_matter_of_trying_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    systemd = services.Systemd()
    systemd.watch(["mosquitto.service"])
    for action in (lambda: systemd.unit("mosquitto.service"), lambda: systemd.restart("mosquitto.service", 1)):
        with pytest.raises(bus.BusUnavailableError, match="systemd cannot be reached over D-Bus") as caught:
            action()
        assert isinstance(caught.value, errors.TransientError)
        assert caught.value.retry_in > 0
        assert caught.value.remedy
    assert systemd.fileno() is None
    assert systemd.process() == frozenset()  # or a daemon without a bus would never sleep
    systemd.close()
    systemd.close()
