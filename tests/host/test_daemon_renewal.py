"""The daemon's looks at the local PKI: when, under which names, and that nothing about them ends the daemon."""

import dataclasses
import ipaddress
import time
from pathlib import Path

import pytest

from tedge_agentd import certs, renewal, settings
from tedge_agentd.core import desired, model
from tedge_agentd.core.pki import DAY
from tedge_agentd.host import pki, pki_issuer, users
from tedge_agentd.host.pki_store import Store

EXTERNAL = desired.External(
    port=8883,
    address=ipaddress.IPv4Address("192.0.2.77"),
    interface=None,
    level=model.Level.SERVER,
    cert="/x",
    key="/y",
)


@pytest.fixture
def context(realm: Path, people: users.FixedUsers, capsys: pytest.CaptureFixture[str]) -> certs.Context:
    (realm / "state").mkdir(mode=0o700)
    (realm / "tedge").mkdir()
    context = certs.Context(
        means=pki_issuer.Means(now=int(time.time()), who=people),
        state_dir=str(realm / "state"),
        tedge_dir=str(realm / "tedge"),
        names=("gateway",),
    )
    assert certs.init(context) == 0
    assert certs.issue_server(context) == 0
    return context


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the clock is ahead."""
    ahead = [0.0]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return ahead


def looker(context: certs.Context) -> tuple[renewal.Renewal, list[str]]:
    said: list[str] = []
    return renewal.Renewal(context.state_dir, lambda path, reason, end: said.append(f"{path}: {reason}")), said


def is_due(one: renewal.Renewal) -> bool:
    return time.monotonic() >= one.due()


def test_a_machine_without_a_pki_is_looked_at_hourly_for_nothing(realm: Path) -> None:
    one = renewal.Renewal(str(realm), lambda *_: None)
    assert is_due(one)
    assert not one.look(settings.Settings())
    assert one.due() - time.monotonic() > renewal.EVERY_S - 10
    assert one.renewers() == {}
    one.reached_as(EXTERNAL)
    assert not is_due(one)


def test_a_clock_that_passes_the_next_renewal_makes_it_due_at_once(
    context: certs.Context, clock: list[float]
) -> None:
    one, said = looker(context)
    assert not one.look(settings.Settings())
    assert not is_due(one)
    clock[0] = 300 * DAY
    assert is_due(one)
    assert one.look(settings.Settings())
    assert said == [f"{context.server_pair[0]}: two thirds of its life are over"]
    assert not is_due(one)


def test_what_fails_is_tried_again_in_an_hour_and_not_all_the_time(
    context: certs.Context, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tedge_agentd.host import pki_make  # noqa: PLC0415

    monkeypatch.setattr(pki_make, "WORKER", "/nonexistent")
    one, said = looker(context)
    clock[0] = 300 * DAY
    assert one.look(settings.Settings())
    assert [finding.code for finding in one.findings] == ["pki-renewal-failed"]
    assert not is_due(one)
    assert one.due() - time.monotonic() > renewal.EVERY_S - 10
    assert said == []


def test_a_clock_that_was_set_is_a_reason_to_look_now_and_once_more_when_it_is_known_who_set_it(
    context: certs.Context, clock: list[float]
) -> None:
    one, said = looker(context)
    clock[0] = 3 * 365 * DAY
    one.look(settings.Settings())
    assert len(said) == 1, "it had expired by a clock that was ahead"
    clock[0] = 0
    assert not is_due(one)
    one.clock_was_set()
    assert is_due(one)
    assert one.look(settings.Settings())
    assert [finding.code for finding in one.findings] == ["pki-clock"]
    assert one.due() - time.monotonic() < 61
    one.look(settings.Settings())
    assert one.due() - time.monotonic() > renewal.EVERY_S - 10


@pytest.mark.parametrize("answer", ["no", "yes", None])
def test_what_a_clock_that_was_ahead_has_issued_is_renewed_once_a_time_server_has_set_it(
    context: certs.Context, clock: list[float], realm: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    timedatectl = realm / "timedatectl"
    if answer is not None:
        timedatectl.write_text(f"#!/bin/sh\ntouch {realm}/asked\necho {answer}\n")
        timedatectl.chmod(0o755)
    monkeypatch.setattr(pki, "TIMEDATECTL", str(timedatectl))
    monkeypatch.setattr(pki, "SYNCHRONIZED", str(realm / "no-timesyncd"))
    one, said = looker(context)
    clock[0] = 3 * 365 * DAY
    one.look(settings.Settings())
    assert not (realm / "asked").exists(), "nothing depends on it"
    clock[0] = 0
    one.look(settings.Settings())
    assert len(said) == (2 if answer == "yes" else 1)
    (served,) = Store(context.state_dir).register().issued
    assert (served.not_before < time.time()) == (answer == "yes")


def test_a_new_address_is_in_the_certificate_once_the_pause_is_over(
    context: certs.Context, clock: list[float]
) -> None:
    one, said = looker(context)
    one.look(settings.Settings())
    one.reached_as(EXTERNAL)
    assert is_due(one)
    one.look(settings.Settings())
    assert said == [], "it was issued a moment ago"
    assert one.due() - time.monotonic() < 601
    clock[0] = 601
    assert is_due(one)
    one.look(settings.Settings())
    assert len(said) == 1
    assert "192.0.2.77" in said[0]
    one.reached_as(EXTERNAL)
    assert not is_due(one), "the same address again"
    assert "192.0.2.77" in Store(context.state_dir).register().issued[0].names


def test_a_certificate_is_renewed_by_whom_it_was_issued(context: certs.Context) -> None:
    one, _ = looker(context)
    register = Store(context.state_dir).register()
    expected = {register.issued[0].sha256, register.authorities[0].sha256}
    assert one.renewers() == dict.fromkeys(expected, "tedge-agentd")
    assert certs.renew(dataclasses.replace(context), everything=True) == 0
    assert set(one.renewers()) == {
        Store(context.state_dir).register().issued[0].sha256,
        register.authorities[0].sha256,
    }


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b'{"version": 2}', b"\xff"])
def test_a_damaged_register_is_a_finding(context: certs.Context, content: bytes) -> None:
    one, _ = looker(context)
    one.look(settings.Settings())
    Path(context.state_dir, "pki/issued.json").write_bytes(content)
    assert one.renewers() == {}
    assert one.look(settings.Settings())
    assert [finding.code for finding in one.findings] == ["pki-damaged"]
    assert not is_due(one)
