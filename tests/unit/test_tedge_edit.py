"""An edit changes the keys it is asked to, as `tedge config set` would, and nothing else."""

import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from tedge_agentd.core import config_keys, tedge_edit, tedge_toml, toml_values
from tedge_agentd.core.config_keys import Kind
from tedge_agentd.core.tedge_edit import EditResult, edit

WHERE = "/etc/tedge/tedge.toml"
V2 = b'[config]\nversion = "2"\n\n'


def edited(data: bytes | None, **changes: str | None) -> dict[str, Any]:
    result = edit(data, {key.replace("__", "."): value for key, value in changes.items()}, WHERE)
    assert not result.refusals, result.refusals
    return tomllib.loads((result.data or b"").decode())


def refusal(data: bytes | None, key: str, value: str | None) -> str:
    result = edit(data, {key: value}, WHERE)
    (finding,) = result.refusals
    assert result == EditResult(data=data, refusals=result.refusals)
    return f"{finding.where}: {finding.message}"


# Properties -------------------------------------------------------------------------------------------------

PATHS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20).map(
    lambda text: "/" + text.replace("..", "")
)
TEXTS = {
    Kind.FLAG: st.sampled_from(["true", "false"]),
    Kind.PORT: st.integers(1, 65535).map(str),
    Kind.PORT_OR_ZERO: st.integers(1, 65535).map(str),
    Kind.ADDRESS: st.ip_addresses().map(str),
    Kind.INTERFACE: st.from_regex(r"[A-Za-z0-9_@-]{1,15}", fullmatch=True),
    Kind.HOST: st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
    Kind.TEXT: st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
    Kind.TOPIC_ROOT: st.from_regex(r"[a-z/]{1,10}", fullmatch=True),
    Kind.TOPIC_ID: st.from_regex(r"[a-z]{1,5}(/[a-z]{0,5}){0,3}", fullmatch=True),
    Kind.PATH: PATHS,
    Kind.DURATION: st.from_regex(r"[1-9][0-9]{0,3}(s|min|h|ms)?", fullmatch=True),
    Kind.TIME_FORMAT: st.sampled_from(["rfc-3339", "rfc3339", "unix"]),
}
SETTABLE = sorted(key.name for key in config_keys.KEYS.values() if key.settable)
CHANGES = st.lists(st.sampled_from(SETTABLE), unique=True, min_size=1, max_size=6).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.one_of(st.none(), TEXTS[config_keys.KEYS[name].kind]) for name in names}
    )
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=12),
    st.datetimes(),
    st.dates(),
    st.times(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
# Tables that thin-edge knows have the types it expects; a foreign table may hold anything.
KNOWN = {"config", "mqtt", "http", "device", "c8y", "az", "aws", "apt", "software", "firmware"}
OTHERS = st.dictionaries(st.text(max_size=6).filter(lambda name: name not in KNOWN), VALUES, max_size=4)


@st.composite
def files(draw: st.DrawFn) -> bytes | None:
    """A tedge.toml of version 2 that thin-edge would read, with foreign keys everywhere; or none."""
    if draw(st.booleans()):
        return draw(st.sampled_from([None, b"", b"# a comment\n"]))
    start = edit(tomli_w.dumps({"config": {"version": "2"}}).encode(), draw(CHANGES), WHERE)
    table = tomllib.loads((start.data or b"").decode())
    table.update(draw(OTHERS))
    table.setdefault("mqtt", {}).update({f"x{name}": value for name, value in draw(OTHERS).items()})
    return tomli_w.dumps(table).encode()


def stripped(data: bytes | None, keys: list[str]) -> dict[str, Any]:
    """What must not change: the file without the keys, without what they left empty, without its version."""
    table = tomllib.loads((data or b"").decode())
    for key in [*keys, "config.version"]:
        holders, path = [table], key.split(".")
        for part in path[:-1]:
            holders.append(holders[-1].get(part, {}))
        holders[-1].pop(path[-1], None)
        for holder, part in zip(reversed(holders[:-1]), reversed(path[:-1]), strict=True):
            if holder.get(part) == {}:
                del holder[part]
    return table


@settings(deadline=None)  # a loaded machine is no fault
@given(files(), CHANGES)
def test_what_is_set_is_what_is_read_and_everything_else_stays(
    data: bytes | None, changes: dict[str, str | None]
) -> None:
    result = edit(data, changes, WHERE)
    assert result.refusals == ()
    values = tedge_toml.read(result.data, WHERE).values
    assert values is not None
    for name, text in changes.items():
        if text is None:
            assert name not in values
        else:
            assert values[name] == toml_values.from_text(config_keys.KEYS[name].kind, text)
    assert tedge_edit.same(stripped(result.data, list(changes)), stripped(data, list(changes)))


@settings(deadline=None)  # a loaded machine is no fault
@given(files(), CHANGES)
def test_an_edit_that_was_made_changes_nothing_when_it_is_made_again(
    data: bytes | None, changes: dict[str, str | None]
) -> None:
    once = edit(data, changes, WHERE)
    again = edit(once.data, changes, WHERE)
    assert again.changed is False
    assert again.data is once.data


@settings(deadline=None)  # a loaded machine is no fault
@given(
    st.one_of(st.none(), st.binary(max_size=60)),
    st.dictionaries(st.text(max_size=30), st.one_of(st.none(), st.text())),
)
def test_no_file_and_no_change_raises(data: bytes | None, changes: dict[str, str | None]) -> None:
    result = edit(data, changes, WHERE)
    assert result.changed == (result.data is not data)


@settings(deadline=None)  # a loaded machine is no fault
@given(st.one_of(st.none(), st.binary(max_size=60)), st.sampled_from(SETTABLE), st.text())
def test_no_value_raises_and_what_is_stored_is_usable(data: bytes | None, key: str, text: str) -> None:
    result = edit(data, {key: text}, WHERE)
    if result.refusals:
        assert result.data is data
    else:
        assert key in (tedge_toml.read(result.data, WHERE).values or {})


# Values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("mqtt.external.bind.port", "99999", "number too large to fit in target type"),
        ("mqtt.external.bind.port", "99999x", "number too large to fit in target type"),
        ("mqtt.external.bind.port", "abc", "invalid digit found in string"),
        ("mqtt.external.bind.port", "-1", "invalid digit found in string"),
        ("mqtt.external.bind.port", " 1883", "invalid digit found in string"),
        ("mqtt.external.bind.port", "+", "invalid digit found in string"),
        ("mqtt.external.bind.port", "1_0", "invalid digit found in string"),
        ("mqtt.external.bind.port", "\uff11", "invalid digit found in string"),
        ("mqtt.external.bind.port", "", "cannot parse integer from empty string"),
        ("mqtt.external.bind.port", "0", "0 is no port a broker can listen on"),
        ("mqtt.bind.port", "0", "number would be zero for non-zero type"),
        ("mqtt.client.port", "000", "number would be zero for non-zero type"),
        ("mqtt.bind.address", "localhost", "invalid IP address syntax"),
        ("mqtt.bind.address", "fe80::1%eth0", "invalid IP address syntax"),
        ("mqtt.bind.address", "010.0.0.1", "invalid IP address syntax"),
        ("mqtt.bind.enabled", "yes", "provided string was not `true` or `false`"),
        ("mqtt.external.cert_file", "server.crt", "an absolute path is needed, beginning with /"),
        ("mqtt.external.cert_file", "", "an absolute path is needed, beginning with /"),
        ("mqtt.external.cert_file", "/a/../b", '"/a/../b" contains `..`'),
        ("mqtt.device_topic_id", "a/b/c/d/e", "An entity topic identifier has at most 4 segments"),
        ("mqtt.device_topic_id", "a/#", "An entity topic identifier must be a valid MQTT topic"),
        (
            "service.timestamp_format",
            "iso",
            "Failed to parse flag: iso. Supported values are: 'rfc-3339' or 'unix'",
        ),
    ],
)
def test_a_refusal_has_the_words_of_tedge(key: str, value: str, cause: str) -> None:
    assert refusal(None, key, value) == (
        f"{key}: failed to set the configuration key: '{key}' with value: {value}.\n\n"
        f"Caused by:\n    0: Failed to parse input\n    1: {cause}"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mqtt.external.bind.interface", ""),
        ("mqtt.external.bind.interface", "wlan0\nuser root"),
        ("mqtt.external.cert_file", "/a\nuser root"),
        ("mqtt.external.cert_file", "/a\udc80"),
        ("mqtt.external.cert_file", "/a "),
        ("mqtt.client.host", ""),
    ],
)
def test_what_tedge_would_take_and_the_broker_would_not_is_refused(key: str, value: str) -> None:
    assert "Failed to parse input" in refusal(V2, key, value)


@pytest.mark.parametrize(
    ("key", "value", "stored"),
    [
        ("mqtt.external.bind.port", "+8883", 8883),
        ("mqtt.external.bind.port", "08883", 8883),
        ("mqtt.bind.enabled", "false", False),
        ("mqtt.bind.address", "::FFFF:1.2.3.4", "::ffff:1.2.3.4"),
        ("mqtt.bind.address", "0:0::1", "::1"),
        ("mqtt.external.ca_path", "/etc//ssl/./certs/", "/etc/ssl/certs"),
        ("mqtt.external.ca_path", "/", "/"),
        ("mqtt.external.ca_path", "/./", "/"),
        ("mqtt.device_topic_id", "device/child", "device/child//"),
        ("mqtt.bridge.reconnect_policy.reset_window", "90", "90"),
        ("mqtt.client.auth.username", "", ""),
        ("service.timestamp_format", "rfc3339", "rfc-3339"),
    ],
)
def test_a_value_is_stored_as_tedge_stores_it(key: str, value: str, stored: object) -> None:
    table: Any = edited(None, **{key: value})
    for part in key.split("."):
        table = table[part]
    assert table == stored
    assert type(table) is type(stored)


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (
            "mqtt.client.cafile",
            "mqtt.client.cafile never was a key of thin-edge; stored as mqtt.client.auth.ca_file.",
        ),
        (
            "mqtt.client.auth.cafile",
            "The key 'mqtt.client.auth.cafile' is deprecated; stored as mqtt.client.auth.ca_file.",
        ),
        ("mqtt.client_ca_file", "The key 'mqtt.client_ca_file' is deprecated; stored as mqtt.client.auth.ca_file."),
    ],
)
def test_an_old_name_is_stored_under_todays_with_a_note(name: str, note: str) -> None:
    result = edit(V2, {name: "/ca"}, WHERE)
    assert result.data == V2 + b'[mqtt.client.auth]\nca_file = "/ca"\n'
    assert result.notes == (note,)


def test_an_unknown_key_is_refused_with_the_one_that_was_meant() -> None:
    result = edit(V2, {"mqtt.external.cretfile": "/a", "mqtt.bind.port": "1"}, WHERE)
    (finding,) = result.refusals
    assert (finding.code, finding.message) == ("unknown-key", "Unknown tedge config key: 'mqtt.external.cretfile'")
    assert finding.remedy == "did you mean mqtt.external.cert_file?"
    assert result.data is V2


def test_one_key_under_two_names_with_two_values_is_refused() -> None:
    result = edit(V2, {"mqtt.port": "1", "mqtt.bind.port": "2"}, WHERE)
    assert "given twice" in result.refusals[0].message
    assert edit(V2, {"mqtt.port": "1", "mqtt.bind.port": "+1"}, WHERE).changed


# Files ------------------------------------------------------------------------------------------------------


def test_a_new_file_is_of_version_2() -> None:
    table = edited(None, mqtt__external__bind__port="8883", mqtt__external__cert_file="/c")
    assert table == {"config": {"version": "2"}, "mqtt": {"external": {"bind": {"port": 8883}, "cert_file": "/c"}}}


@pytest.mark.parametrize(
    ("data", "key", "value"),
    [
        (None, "mqtt.bind.port", None),
        (b"", "mqtt.bind.port", None),
        (b"# kept\n[mqtt]\nport=1884", "mqtt.bind.port", "1884"),
        (b"# kept\r\nmqtt={bind={port=+1884}}", "mqtt.bind.port", "1884"),
        (b'# kept\n[mqtt.client.auth]\ncafile="/a"', "mqtt.client.auth.ca_file", "/a/"),
    ],
)
def test_a_value_that_is_there_already_leaves_every_byte(data: bytes | None, key: str, value: str | None) -> None:
    result = edit(data, {key: value}, WHERE)
    assert result.data is data
    assert not result.changed


def test_a_default_is_written_when_it_is_asked_for() -> None:
    assert edited(V2, mqtt__bind__port="1883")["mqtt"] == {"bind": {"port": 1883}}


def test_the_last_key_takes_its_tables_with_it_and_leaves_others_empty_as_they_were() -> None:
    data = V2 + b"[mqtt.client.auth]\nca_file = '/a'\n[mqtt.empty]\n[other]\n"
    assert edited(data, mqtt__client__auth__ca_file=None) == {
        "config": {"version": "2"},
        "mqtt": {"empty": {}},
        "other": {},
    }


def test_a_file_of_version_1_is_migrated_whole() -> None:
    data = b"""
    mqtt.port = 1884
    mqtt.external_capath = "/ca"
    mqtt.client_auth.cert_file = "/c"
    mqtt.foo = 1
    az.mapper_timestamp = true
    http.port = 8000
    software.default_plugin_type = "apt"
    c8y.smartrest_templates = ["a"]
    apt.dpk.options.config = "keepold"
    """
    assert edited(data, mqtt__external__bind__port="8883") == {
        "config": {"version": "2"},
        "mqtt": {
            "bind": {"port": 1884},
            "external": {"ca_path": "/ca", "bind": {"port": 8883}},
            "client": {"auth": {"cert_file": "/c"}},
            "foo": 1,
        },
        "az": {"mapper": {"timestamp": True}},
        "http": {"bind": {"port": 8000}},
        "software": {"plugin": {"default": "apt"}},
        "c8y": {"smartrest": {"templates": ["a"]}},
        "apt": {"dpkg": {"options": {"config": "keepold"}}},
    }


def test_an_alias_in_the_file_gets_todays_name() -> None:
    table = edited(V2 + b"[mqtt.client.auth]\ncafile = '/a'\n", mqtt__client__auth__cert_file="/c")
    assert table["mqtt"]["client"]["auth"] == {"ca_file": "/a", "cert_file": "/c"}


@pytest.mark.parametrize("value", ["/a", "/b", None])
def test_a_spelling_that_tedge_ignores_goes_when_its_key_is_changed(value: str | None) -> None:
    data = V2 + b"[mqtt.external]\ncapath = '/a'\nca_path = '/b'\nother = 1\n"
    result = edit(data, {"mqtt.external.ca_path": value}, WHERE)
    external = {"other": 1} if value is None else {"other": 1, "ca_path": value}
    assert tomllib.loads((result.data or b"").decode())["mqtt"]["external"] == external
    assert result.notes == ("mqtt.external.capath is removed: tedge ignored it.",)


# What tedge would not read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "where", "code"),
    [
        (b"[mqtt\n", f"{WHERE}:1:6", "toml-syntax"),
        (b"\xff", f"{WHERE}:1:1", "toml-syntax"),
        (b"\n[mqtt.bind]\nport = 'x'\n", f"{WHERE}:3:1", "wrong-type"),
        (b"[mqtt]\nport = 'x'\n", f"{WHERE}:2:1", "wrong-type"),
        (b"mqtt = 5", f"{WHERE}:1:1", "wrong-type"),
        (b"mqtt.client = 5", f"{WHERE}:1:1", "wrong-type"),
        (b"config.version = '3'", f"{WHERE}:1:1", "unknown-version"),
        (b"[mqtt]\nport = 1\nbind.port = 2", f"{WHERE}:2:1", "migration-conflict"),
        (b"[mqtt.client.auth]\ncafile = '/a'\nca_file = '/a'", f"{WHERE}:2:1", "duplicate-key"),
    ],
)
def test_a_file_that_tedge_rejects_is_never_overwritten(data: bytes, where: str, code: str) -> None:
    result = edit(data, {"mqtt.client.port": "8883"}, WHERE)
    (finding,) = result.refusals
    assert (finding.where, finding.code) == (where, code)
    assert result.data is data


@pytest.mark.parametrize(
    ("data", "key", "value"),
    [
        (b"[mqtt.bind]\nport = '1884'\n", "mqtt.bind.port", "1884"),
        (b"[mqtt]\nport = '1884'\n", "mqtt.bind.port", "1884"),
        (b"[mqtt.bind]\nport = '1884'\n", "mqtt.bind.port", None),
        (b"[mqtt.bind.port]\nx = 1\n", "mqtt.bind.port", "5"),
        (b"[mqtt]\nport = 1\nbind.port = 2", "mqtt.bind.port", "1"),
        (b"[mqtt]\nport = 1\nbind.port = 2", "mqtt.bind.port", None),
        (b"[mqtt.client.auth]\ncafile = '/a'\nca_file = '/b'", "mqtt.client.auth.cafile", "/a"),
        (b"[mqtt.external]\ncert_file = 'relative'", "mqtt.external.cert_file", "/a"),
    ],
)
def test_a_change_of_the_very_key_that_tedge_rejects_mends_the_file(data: bytes, key: str, value: str | None) -> None:
    result = edit(data, {key: value}, WHERE)
    assert result.changed
    parsed = tedge_toml.parse(result.data, WHERE)
    assert parsed.settings is not None
    assert not [finding for finding in parsed.findings if finding.blocks]
