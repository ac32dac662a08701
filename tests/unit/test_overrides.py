"""Environment variables of services that beat tedge.toml."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import overrides

PORT = "TEDGE_MQTT_CLIENT_PORT"


@given(st.binary())
def test_any_file_has_names_or_none_and_never_a_value(data: bytes) -> None:
    for one in overrides.effective((entry, "/x") for entry in overrides.in_file(data)):
        assert one.name.startswith("TEDGE_MQTT_")
        assert "=" not in one.name


@pytest.mark.parametrize(
    ("assignments", "unset", "expected"),
    [
        ([f"{PORT}=8883"], [], [(PORT, "0")]),
        ([f"{PORT}="], [], []),  # empty means unset
        ([f"{PORT}=1", f"{PORT}="], [], []),  # the last one counts
        ([f"{PORT}=1", f"{PORT}=2"], [], [(PORT, "1")]),
        ([f"{PORT}=1"], [PORT], []),
        ([f"{PORT}=1"], [f"{PORT}=1"], []),
        ([f"{PORT}=1"], [f"{PORT}=2"], [(PORT, "0")]),
        (["TEDGE_CONFIG_DIR=/x", "PATH=/bin", "TEDGE_C8Y_URL=x"], [], []),
        (["TEDGE_MQTT_\n=1", "TEDGE_MQTT_a=1"], [], []),
    ],
)
def test_which_assignments_count(assignments: list[str], unset: list[str], expected: list[tuple[str, str]]) -> None:
    sources = [(entry, str(place)) for place, entry in enumerate(assignments)]
    assert [(one.name, one.place) for one in overrides.effective(sources, unset)] == expected


def test_an_environment_file_has_comments_and_quotes() -> None:
    data = b"# TEDGE_MQTT_BIND_PORT=1\n;TEDGE_MQTT_X=1\n TEDGE_MQTT_CLIENT_HOST = 'gw' \nTEDGE_MQTT_TOPIC_ROOT=\"\"\n"
    found = overrides.effective((entry, "/x") for entry in overrides.in_file(data))
    assert [one.name for one in found] == ["TEDGE_MQTT_CLIENT_HOST"]


def test_the_finding_names_unit_variable_place_and_key_and_no_value() -> None:
    password = overrides.Override(name="TEDGE_MQTT_CLIENT_AUTH_PASSWORD_FILE", place="/etc/default/tedge")
    unknown = overrides.Override(name="TEDGE_MQTT_NEW", place=overrides.LIVE)
    (finding,) = overrides.findings({"tedge-agent.service": (password, unknown), "x.service": ()})
    assert (finding.code, finding.where, finding.blocks) == ("env-override", "tedge-agent.service", None)
    assert "mqtt.client.auth.password_file" in finding.message
    assert "in /etc/default/tedge and with `systemctl set-environment`" in finding.message
    assert finding.remedy == (
        "systemctl unset-environment TEDGE_MQTT_NEW, remove it from /etc/default/tedge, systemctl daemon-reload"
        " and systemctl restart tedge-agent.service; set the key with `tedge config set` instead"
    )
