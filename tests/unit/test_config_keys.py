"""Every name a key ever had leads to today's key, or is told to be none."""

import pytest

from tedge_agentd.core import config_keys, model, toml_names

OLD_NAMES = [
    ("mqtt.port", "mqtt.bind.port"),
    ("mqtt.external.port", "mqtt.external.bind.port"),
    ("mqtt.external.capath", "mqtt.external.ca_path"),
    ("mqtt.external.certfile", "mqtt.external.cert_file"),
    ("mqtt.external.keyfile", "mqtt.external.key_file"),
    ("mqtt.client.auth.cafile", "mqtt.client.auth.ca_file"),
    ("mqtt.client.auth.cadir", "mqtt.client.auth.ca_dir"),
    ("mqtt.client.auth.certfile", "mqtt.client.auth.cert_file"),
    ("mqtt.client.auth.keyfile", "mqtt.client.auth.key_file"),
    ("mqtt.bind_address", "mqtt.bind.address"),
    ("mqtt.client_host", "mqtt.client.host"),
    ("mqtt.client_port", "mqtt.client.port"),
    ("mqtt.client_auth.cert_file", "mqtt.client.auth.cert_file"),
    ("mqtt.client_auth.key_file", "mqtt.client.auth.key_file"),
    ("mqtt.external_bind_address", "mqtt.external.bind.address"),
    ("mqtt.external_bind_interface", "mqtt.external.bind.interface"),
    ("mqtt.client_ca_file", "mqtt.client.auth.ca_file"),
    ("mqtt.client_ca_path", "mqtt.client.auth.ca_dir"),
    ("mqtt.external_port", "mqtt.external.bind.port"),
    ("mqtt.external_capath", "mqtt.external.ca_path"),
    ("mqtt.external_certfile", "mqtt.external.cert_file"),
    ("mqtt.external_keyfile", "mqtt.external.key_file"),
    ("mqtt_external_bind_port", "mqtt.external.bind.port"),
    ("http.bind_address", "http.bind.address"),
    ("http.address", "http.bind.address"),
]
GUIDE_NAMES = [
    ("mqtt.client.cafile", "mqtt.client.auth.ca_file"),
    ("mqtt.client.cadir", "mqtt.client.auth.ca_dir"),
    ("mqtt.client.certfile", "mqtt.client.auth.cert_file"),
    ("mqtt.client.keyfile", "mqtt.client.auth.key_file"),
]


@pytest.mark.parametrize(("name", "key"), OLD_NAMES)
def test_a_deprecated_name_is_resolved_with_a_note(name: str, key: str) -> None:
    resolved = toml_names.resolve(name)
    assert resolved is not None
    assert resolved.key.name == key
    assert name in resolved.note
    assert f"stored as {key}" in resolved.note


@pytest.mark.parametrize(("name", "key"), GUIDE_NAMES)
def test_a_name_of_the_guide_is_resolved_and_told_never_to_have_existed(name: str, key: str) -> None:
    resolved = toml_names.resolve(name)
    assert resolved is not None
    assert resolved.key.name == key
    assert "never was a key" in resolved.note


@pytest.mark.parametrize("name", [key.name for key in config_keys.KEYS.values() if key.settable])
def test_todays_names_are_resolved_without_a_note(name: str) -> None:
    assert toml_names.resolve(name) == toml_names.Resolved(key=config_keys.KEYS[name])


@pytest.mark.parametrize(
    "name", ["", ".", "mqtt", "mqtt.external", "config.version", "mqtt.external.cert", "c8y.url"]
)
def test_a_name_without_a_meaning_is_none(name: str) -> None:
    assert toml_names.resolve(name) is None


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("mqtt.external.certfiel", "mqtt.external.cert_file"),
        ("mqtt.extrenal.cert_file", "mqtt.external.cert_file"),
        ("mqtt.client.prot", "mqtt.client.port"),
        ("mqtt.external.foo", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_a_misspelt_key_is_answered_with_the_one_that_was_meant(name: str, offered: str | None) -> None:
    assert toml_names.similar(name) == offered


def test_what_decides_about_the_broker_blocks_the_broker_and_what_about_the_clients_the_clients() -> None:
    for key in config_keys.KEYS.values():
        if key.name.startswith(("mqtt.external.", "mqtt.bind.")):
            assert key.area is model.Area.BROKER, key.name
        if key.name.startswith("mqtt.client."):
            assert key.area is model.Area.CLIENTS, key.name


def test_every_alias_and_migration_of_a_known_table_leads_to_a_known_key() -> None:
    targets = {
        *toml_names.FILE_ALIASES.values(),
        *toml_names.COMMAND_ALIASES.values(),
        *toml_names.GUIDE_NAMES.values(),
    }
    targets |= {new for old, new in toml_names.MIGRATION if old.startswith("mqtt.")}
    assert targets <= set(config_keys.KEYS)
