"""What systemd is told, read from a real notification socket."""

import gc
import os
import pathlib
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tedge_agentd.host import notify
from tedge_agentd.host.notify import Notifier, one_line


class Systemd:
    """The receiving end, as PID 1 has it."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode("ascii"))
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@tedge-agentd-test-{os.getpid()}"
    listening = Systemd(name.replace("@", "\0", 1))
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    yield listening
    listening.socket.close()


@pytest.fixture
def line(systemd: Systemd) -> Iterator[Notifier]:
    line = Notifier()
    yield line
    line.close()


# The status line --------------------------------------------------------------------------------------------


@given(text=st.text())
def test_a_status_is_always_one_short_line_of_printable_ascii(text: str) -> None:
    line = one_line(text)
    assert all(" " <= char <= "~" for char in line)
    assert len(line) <= notify.STATUS_LIMIT
    assert one_line(line) == line


@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=notify.STATUS_LIMIT))
def test_plain_text_is_kept(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("in sync: 8883 mutual on 0.0.0.0", "in sync: 8883 mutual on 0.0.0.0"),
        ("Gerät café №1", "Gerat cafe No1"),
        ("two\nlines\tand a tab\r\n", "two lines and a tab"),
        ("\x1b[31mred\x00", "?[31mred?"),
        ("\udcff", "?"),
        ("x" * 300, "x" * 197 + "..."),
    ],
)
def test_one_line_of(text: str, line: str) -> None:
    assert one_line(text) == line


# What is sent -----------------------------------------------------------------------------------------------


def test_the_life_of_a_daemon(systemd: Systemd, line: Notifier) -> None:
    line.ready("in sync")
    line.status("in sync")
    line.status("blocked: zażółć\nWATCHDOG=1")
    line.extend(2.5)
    before = time.monotonic_ns() // 1000
    line.reloading()
    line.ready()
    line.stopping()
    heard = systemd.heard()
    assert heard[:3] == [
        "READY=1\nSTATUS=in sync",
        "STATUS=blocked: zazo?c WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=2500000",
    ]
    reloading, _, usec = heard[3].partition("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert before <= int(usec) <= time.monotonic_ns() // 1000
    assert heard[4:] == ["READY=1", "STOPPING=1"]


def test_nothing_without_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    line = Notifier({"WATCHDOG_USEC": "1000000"})
    line.ready("in sync")
    line.progress()
    assert line.next_ping(0.0) is None
    assert not line.ping(0.0)


def test_a_socket_that_is_gone_is_no_error(systemd: Systemd, line: Notifier) -> None:
    systemd.socket.close()
    line.ready("in sync")
    line.close()
    line.stopping()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sdnotify forgets to close its socket
def test_a_socket_that_never_was_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
    Notifier().ready("in sync")
    gc.collect()


def test_a_full_queue_costs_a_second_at_most(line: Notifier) -> None:
    longest = 0.0
    for n in range(5000):
        began = time.monotonic()
        line.status(f"line {n}")
        longest = max(longest, time.monotonic() - began)
        if longest > 0.5:
            break
    assert notify.SEND_TIMEOUT_S * 0.9 < longest < notify.SEND_TIMEOUT_S * 3


# Pings ------------------------------------------------------------------------------------------------------


def test_a_ping_needs_progress_and_half_the_interval(systemd: Systemd, line: Notifier) -> None:
    assert not line.ping(100.0)
    line.progress()
    assert line.ping(100.0)
    assert line.next_ping(101.0) == 130.0
    line.progress()
    assert not line.ping(129.0)
    assert line.ping(130.0)
    assert not line.ping(400.0), "no progress since"
    assert systemd.heard() == ["WATCHDOG=1"] * 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=40))
def test_pings_never_come_closer_than_half_the_interval_nor_without_progress(
    systemd: Systemd, steps: list[tuple[int, bool]]
) -> None:
    line = Notifier()
    now, last, moved = 0.0, -1000.0, False
    for seconds, progress in steps:
        now += seconds
        if progress:
            line.progress()
            moved = True
        pinged = line.ping(now)
        assert pinged == (moved and now - last >= 30.0)
        if pinged:
            assert systemd.heard() == ["WATCHDOG=1"]
            last, moved = now, False
    line.close()


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(
    systemd: Systemd, environ: dict[str, str], interval: float | None
) -> None:
    line = Notifier({"NOTIFY_SOCKET": os.environ["NOTIFY_SOCKET"], **environ}, pid=42)
    line.progress()
    assert line.ping(0.0) == (interval is not None)
    assert line.next_ping(0.0) == interval
    line.close()
