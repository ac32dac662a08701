"""What is said on MQTT: nothing twice, nothing that is not due, and never on a topic that is not ours."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import messages, model


def default_topics() -> messages.Topics:
    where = messages.topics("te", "device/main//")
    assert where is not None
    return where


WHERE = default_topics()

CODES = (
    "certificate-expired",
    "certificate-expires",
    "ca-expires",
    "listener-conflict",
    "key-mismatch",
    "rolled-back",
)
STATES = ("in-sync", "pending", "blocked", "degraded")

findings_ = st.builds(
    model.Finding,
    code=st.sampled_from(CODES),
    severity=st.sampled_from(model.Severity),
    where=st.text(min_size=1, max_size=20),
    message=st.text(max_size=900),
    remedy=st.text(max_size=20),
    blocks=st.sampled_from([None, *model.Area]),
    waits=st.booleans(),
)
alarms_ = st.builds(
    messages.alarms,
    st.sampled_from(STATES),
    st.floats(min_value=-1e9, max_value=1e9),
    st.lists(findings_, max_size=4),
)
held_ = st.dictionaries(
    st.sampled_from(WHERE.retained),
    st.one_of(st.binary(max_size=20), st.just(b'{"text":"x","severity":"major"}'), st.just(b"[" * 3000)),
)


def finding(code: str = "listener-conflict", **more: object) -> model.Finding:
    fields: dict[str, object] = {"severity": model.Severity.ERROR, "where": "here", "message": "it is wrong"}
    return model.Finding(code=code, **{**fields, **more})  # type: ignore[arg-type]


def published(known: dict[str, bytes], *, wanted: messages.Alarms, waited_s: float = 0.0) -> dict[str, bytes]:
    """The broker after everything due was published."""
    due, _ = messages.due(WHERE, wanted, known, pid=7, epoch=1e9, waited_s=waited_s)
    after = {**known, **{message.topic: message.payload for message in due}}
    return {topic: payload for topic, payload in after.items() if payload}


# Properties -------------------------------------------------------------------------------------------------


@given(wanted=alarms_, held=held_, waited=st.floats(min_value=0, max_value=1e6))
def test_what_was_published_is_not_published_again(
    wanted: messages.Alarms, held: dict[str, bytes], waited: float
) -> None:
    after = published(held, wanted=wanted, waited_s=waited)
    due, _ = messages.due(WHERE, wanted, after, pid=7, epoch=2e9, waited_s=waited)
    assert due == ()


@given(wanted=alarms_, held=held_)
def test_once_the_waiting_is_over_the_broker_holds_exactly_the_alarms_that_stand(
    wanted: messages.Alarms, held: dict[str, bytes]
) -> None:
    after = published(held, wanted=wanted, waited_s=messages.GRACE_S)
    for kind in messages.ALARMS:
        topic = WHERE.alarm(kind)
        raised = [alarm for alarm in wanted.raised if alarm.kind == kind]
        if raised:
            table = json.loads(after[topic])
            assert (table["text"], table["severity"]) == (raised[0].text, raised[0].severity)
        elif kind in wanted.kept:
            assert after.get(topic, b"") == held.get(topic, b"")
        else:
            assert topic not in after
    _, rest = messages.due(WHERE, wanted, after, pid=7, epoch=1e9, waited_s=messages.GRACE_S)
    assert rest is None


@given(state=st.sampled_from(STATES), age=st.floats(-1e9, 1e9), findings=st.lists(findings_, max_size=4))
def test_an_alarm_has_one_kind_a_bounded_text_and_waits_no_longer_than_the_grace(
    state: str, age: float, findings: list[model.Finding]
) -> None:
    wanted = messages.alarms(state, age, findings)
    kinds = [alarm.kind for alarm in wanted.raised]
    assert len(set(kinds)) == len(kinds)
    assert not set(kinds) & wanted.kept
    assert set(kinds) <= set(messages.ALARMS)
    for alarm in wanted.raised:
        assert 0 <= alarm.wait_s <= messages.GRACE_S
        assert len(alarm.text) < 700
        assert alarm.severity in {"critical", "major", "minor", "warning"}


@given(root=st.text(max_size=30), device=st.text(max_size=30) | st.text(max_size=9).map(lambda n: f"device/{n}//"))
def test_no_setting_makes_a_topic_that_mqtt_forbids(root: str, device: str) -> None:
    where = messages.topics(root, device)
    if where is None:
        return
    for topic in (*where.retained, *where.checks):
        assert not set("+#\0\n") & set(topic)
        assert not topic.startswith(("$", "/"))
        assert topic.startswith(f"{root}/device/")


# Tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "device", "service"),
    [
        ("te", "device/main//", "te/device/main/service/tedge-agentd"),
        ("acme/te", "device/gw-7//", "acme/te/device/gw-7/service/tedge-agentd"),
        ("te", "device/main/service/x", None),
        ("te", "factory/hall/line/belt", None),
        ("te", "device///", None),
        ("te", "device/main/", None),
        ("te", "device/+//", None),
        ("te/#", "device/main//", None),
        ("", "device/main//", None),
        ("$SYS", "device/main//", None),
    ],
)
def test_the_topics_follow_the_settings(root: str, device: str, service: str | None) -> None:
    where = messages.topics(root, device)
    assert (where.service if where is not None else None) == service


@pytest.mark.parametrize(
    ("state", "age", "given", "expected"),
    [
        ("in-sync", 0, [], []),
        ("in-sync", 0, [finding(blocks=None)], []),
        ("degraded", 0, [finding("rolled-back")], [("tedge_agentd_degraded", "critical", 0.0)]),
        ("blocked", 0, [finding(blocks=model.Area.BROKER)], [("tedge_agentd_blocked", "major", 30.0)]),
        ("blocked", 12, [finding(blocks=model.Area.BROKER)], [("tedge_agentd_blocked", "major", 18.0)]),
        ("blocked", 300, [finding(blocks=model.Area.BROKER)], [("tedge_agentd_blocked", "major", 0.0)]),
        ("pending", 10, [finding("key-mismatch", waits=True)], []),
        ("pending", 3600, [finding("key-mismatch", waits=True)], [("tedge_agentd_blocked", "warning", 0.0)]),
        ("pending", 9999, [finding("clients-wait", waits=True, severity=model.Severity.INFO)], []),
        ("in-sync", 0, [finding("certificate-expired")], [("tedge_agentd_certificate", "critical", 0.0)]),
        ("in-sync", 0, [finding("ca-expires")], [("tedge_agentd_certificate", "major", 0.0)]),
        (
            "in-sync",
            0,
            [finding("certificate-expires", severity=model.Severity.WARNING)],
            [("tedge_agentd_certificate", "warning", 0.0)],
        ),
    ],
)
def test_which_alarms_stand(
    state: str, age: float, given: list[model.Finding], expected: list[tuple[str, str, float]]
) -> None:
    wanted = messages.alarms(state, age, given)
    assert [(alarm.kind, alarm.severity, alarm.wait_s) for alarm in wanted.raised] == expected


def test_the_most_urgent_certificate_is_told_first_and_the_others_are_counted() -> None:
    soon = finding("certificate-expires", severity=model.Severity.WARNING, message="it ends in spring")
    over = finding("certificate-expired", message="it is over", remedy="renew it")
    (alarm,) = messages.alarms("in-sync", 0, [soon, over]).raised
    assert alarm.text == "here: it is over; remedy: renew it (and 1 more)"


def test_a_pending_pass_leaves_the_brokers_alarms_as_they_are() -> None:
    held = published({}, wanted=messages.alarms("degraded", 0, [finding("rolled-back")]))
    assert published(held, wanted=messages.alarms("pending", 0, [finding(waits=True)])) == held
    assert len(published(held, wanted=messages.alarms("in-sync", 0, []))) == len(held) - 1


# Examples ---------------------------------------------------------------------------------------------------


def test_the_payloads_are_those_of_a_thin_edge_service() -> None:
    blocked = messages.alarms("blocked", 60, [finding(blocks=model.Area.ALL, remedy="mend it")])
    due, rest = messages.due(WHERE, blocked, {}, pid=7, epoch=1700000000.1234)
    assert rest is None
    assert {message.topic: json.loads(message.payload) for message in due} == {
        "te/device/main/service/tedge-agentd": {
            "@parent": "device/main//",
            "@type": "service",
            "name": "tedge-agentd",
            "type": "service",
        },
        "te/device/main/service/tedge-agentd/status/health": {"pid": 7, "status": "up", "time": 1700000000.123},
        "te/device/main/service/tedge-agentd/a/tedge_agentd_blocked": {
            "text": "here: it is wrong; remedy: mend it",
            "severity": "major",
            "time": "2023-11-14T22:13:20.123+00:00",
        },
    }
    assert json.loads(messages.down(WHERE, 7).payload) == {"pid": 7, "status": "down"}
    assert WHERE.checks == (
        "te/device/main/service/tedge-agentd/cmd/health/check",
        "te/device/main///cmd/health/check",
    )


def test_another_type_or_format_of_time_is_said_anew_and_only_that() -> None:
    quiet = messages.Alarms()
    held = published({}, wanted=quiet)
    later = messages.Form(times="rfc-3339")
    (health,), _ = messages.due(WHERE, quiet, held, pid=7, epoch=1700000000.1234, form=later)
    assert json.loads(health.payload)["time"] == "2023-11-14T22:13:20.123+00:00"
    (entity,), _ = messages.due(WHERE, quiet, held, pid=7, epoch=2e9, form=messages.Form(service_type="systemd"))
    assert (entity.topic, json.loads(entity.payload)["type"]) == (WHERE.service, "systemd")


def test_what_is_blocked_between_two_settings_is_nobodys_alarm() -> None:
    held = published({}, wanted=messages.alarms("in-sync", 0, []))
    blocked = messages.alarms("blocked", 0, [finding(blocks=model.Area.BROKER)])
    assert messages.due(WHERE, blocked, held, pid=7, epoch=1e9) == ((), 30.0)
    assert messages.due(WHERE, messages.alarms("in-sync", 0, []), held, pid=7, epoch=1e9) == ((), None)


def test_another_pid_or_a_health_of_down_is_said_anew() -> None:
    quiet = messages.Alarms()
    held = published({}, wanted=quiet)
    assert [m.topic for m in messages.due(WHERE, quiet, held, pid=8, epoch=1e9)[0]] == [WHERE.health]
    held[WHERE.health] = messages.down(WHERE, 7).payload
    assert [m.topic for m in messages.due(WHERE, quiet, held, pid=7, epoch=1e9)[0]] == [WHERE.health]
