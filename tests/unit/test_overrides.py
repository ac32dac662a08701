"""Environment variables of services that beat tedge.toml."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import overrides


@given(st.binary())
def test_any_file_has_names_or_none_and_never_a_value(data: bytes) -> None:
    for name in overrides.names(overrides.in_file(data)):
        assert name.startswith("TEDGE_MQTT_")
        assert "=" not in name


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["TEDGE_MQTT_CLIENT_PORT=8883"], ("TEDGE_MQTT_CLIENT_PORT",)),
        (["TEDGE_MQTT_CLIENT_PORT="], ()),  # empty means unset
        (["TEDGE_MQTT_CLIENT_PORT=1", "TEDGE_MQTT_CLIENT_PORT="], ()),  # the last one counts
        (["TEDGE_CONFIG_DIR=/x", "PATH=/bin", "TEDGE_C8Y_URL=x"], ()),
        (["TEDGE_MQTT_\n=1", "TEDGE_MQTT_a=1"], ()),
    ],
)
def test_which_assignments_count(assignments: list[str], expected: tuple[str, ...]) -> None:
    assert overrides.names(assignments) == expected


def test_an_environment_file_has_comments_and_quotes() -> None:
    data = b"# TEDGE_MQTT_BIND_PORT=1\n;TEDGE_MQTT_X=1\n TEDGE_MQTT_CLIENT_HOST = 'gw' \nTEDGE_MQTT_TOPIC_ROOT=\"\"\n"
    assert overrides.names(overrides.in_file(data)) == ("TEDGE_MQTT_CLIENT_HOST",)


def test_the_finding_names_unit_variable_and_key_and_no_value() -> None:
    found = {"tedge-agent.service": ("TEDGE_MQTT_CLIENT_AUTH_PASSWORD_FILE", "TEDGE_MQTT_NEW"), "x.service": ()}
    (finding,) = overrides.findings(found)
    assert (finding.code, finding.where, finding.blocks) == ("env-override", "tedge-agent.service", None)
    assert "mqtt.client.auth.password_file" in finding.message
