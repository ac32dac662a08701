"""tedge.toml is read as tedge reads it; what tedge refuses, drops or misreads is a finding with its place."""

import ipaddress

import pytest

from tedge_agentd.core import tedge_toml
from tedge_agentd.core.model import (
    Area,
    BindSettings,
    ClientSettings,
    ExternalSettings,
    Finding,
    Severity,
    SystemSettings,
    TedgeSettings,
)

WHERE = "/etc/tedge/tedge.toml"
V2 = '[config]\nversion = "2"\n'


def parse(text: str) -> tedge_toml.Parsed:
    return tedge_toml.parse(text.encode(), WHERE)


def settings(text: str) -> TedgeSettings:
    parsed = parse(text)
    assert parsed.settings is not None, parsed.findings
    return parsed.settings


def only(parsed: tedge_toml.Parsed) -> Finding:
    (finding,) = parsed.findings
    return finding


# Values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, b"", b"# nothing\n", b"\n", b'[c8y]\nurl = "a.b"\n'])
def test_what_is_not_there_has_tedges_defaults(data: bytes | None) -> None:
    assert tedge_toml.parse(data, WHERE) == tedge_toml.Parsed(settings=TedgeSettings(), findings=())


def test_every_key_arrives_in_its_place() -> None:
    text = """
    [config]
    version = "2"
    [device]
    cert_path = "/d/c.pem"
    key_path = "/d/k.pem"
    [mqtt]
    topic_root = "root"
    device_topic_id = "device/child"
    bind = { enabled = false, address = "::1", port = 1884 }
    bridge.built_in = false
    bridge.reconnect_policy = { initial_interval = "5s", maximum_interval = 600, reset_window = "1h 30min" }
    [mqtt.client]
    host = "broker.local"
    port = 8884
    [mqtt.client.auth]
    ca_file = "/c/ca.crt"
    ca_dir = "/c"
    cert_file = "/c/c.crt"
    key_file = "/c/c.key"
    username = "me"
    password_file = "/c/password"
    [mqtt.external]
    ca_path = "/e/ca"
    cert_file = "/e/c.crt"
    key_file = "/e/c.key"
    [mqtt.external.bind]
    port = 8883
    address = "0.0.0.0"
    interface = "wlan0"
    [http.bind]
    address = "192.168.1.2"
    [service]
    type = "systemd"
    timestamp_format = "rfc3339"
    """
    assert parse(text) == tedge_toml.Parsed(
        settings=TedgeSettings(
            bind=BindSettings(enabled=False, address=ipaddress.ip_address("::1"), port=1884),
            client=ClientSettings(
                host="broker.local",
                port=8884,
                ca_file="/c/ca.crt",
                ca_dir="/c",
                cert_file="/c/c.crt",
                key_file="/c/c.key",
                username="me",
                password_file="/c/password",
            ),
            external=ExternalSettings(
                port=8883,
                address=ipaddress.ip_address("0.0.0.0"),
                interface="wlan0",
                ca_path="/e/ca",
                cert_file="/e/c.crt",
                key_file="/e/c.key",
            ),
            bridge_built_in=False,
            topic_root="root",
            device_topic_id="device/child//",
            device_cert_path="/d/c.pem",
            device_key_path="/d/k.pem",
            http_bind_address=ipaddress.ip_address("192.168.1.2"),
            service_type="systemd",
            service_times="rfc-3339",
        ),
        findings=(),
    )


@pytest.mark.parametrize(
    ("text", "bind", "client"),
    [
        ("", 1883, 1883),
        ("mqtt.bind.port = 1884", 1884, 1884),
        ("mqtt.client.port = 8883", 1883, 8883),
        ("mqtt.bind.port = 1\nmqtt.client.port = 65535", 1, 65535),
        ("mqtt.port = 1885", 1885, 1885),
    ],
)
def test_the_clients_port_follows_the_internal_listener(text: str, bind: int, client: int) -> None:
    assert (settings(text).bind.port, settings(text).client.port) == (bind, client)


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "field"),
    [("cafile", "ca_file"), ("cadir", "ca_dir"), ("certfile", "cert_file"), ("keyfile", "key_file")],
)
@pytest.mark.parametrize("version", ["", V2])
def test_the_aliases_that_the_file_knows_are_honoured(alias: str, field: str, version: str) -> None:
    assert getattr(settings(f'{version}[mqtt.client.auth]\n{alias} = "/a"').client, field) == "/a"


def test_both_spellings_of_an_alias_are_a_duplicate_field() -> None:
    parsed = parse('[mqtt.client.auth]\nca_file = "/a"\n  cafile = "/b"\n')
    finding = only(parsed)
    assert parsed.settings is None
    assert (finding.code, finding.where, finding.blocks) == ("duplicate-key", f"{WHERE}:3:3", Area.ALL)
    assert "mqtt.client.auth.cafile" in finding.message
    assert "mqtt.client.auth.ca_file" in finding.remedy


V1 = [
    ("port = 1884", lambda s: s.bind.port, 1884),
    ('bind_address = "::1"', lambda s: str(s.bind.address), "::1"),
    ('client_host = "h"', lambda s: s.client.host, "h"),
    ("client_port = 5", lambda s: s.client.port, 5),
    ('client_ca_file = "/a"', lambda s: s.client.ca_file, "/a"),
    ('client_ca_path = "/a"', lambda s: s.client.ca_dir, "/a"),
    ('client_auth.cert_file = "/a"', lambda s: s.client.cert_file, "/a"),
    ('client_auth.key_file = "/a"', lambda s: s.client.key_file, "/a"),
    ("external_port = 8883", lambda s: s.external.port, 8883),
    ('external_bind_address = "1.2.3.4"', lambda s: str(s.external.address), "1.2.3.4"),
    ('external_bind_interface = "eth0"', lambda s: s.external.interface, "eth0"),
    ('external_capath = "/a"', lambda s: s.external.ca_path, "/a"),
    ('external_certfile = "/a"', lambda s: s.external.cert_file, "/a"),
    ('external_keyfile = "/a"', lambda s: s.external.key_file, "/a"),
]


@pytest.mark.parametrize(("line", "value", "expected"), V1)
@pytest.mark.parametrize("version", ["", '[config]\nversion = "1"\n'])
def test_a_file_of_version_1_is_migrated_in_memory(line: str, value, expected: object, version: str) -> None:  # type: ignore[no-untyped-def]
    parsed = parse(f"{version}[mqtt]\n{line}\n")
    assert value(parsed.settings) == expected
    assert not [finding for finding in parsed.findings if finding.code == "ignored-key"]


@pytest.mark.parametrize(("line", "value", "expected"), V1)
def test_the_same_lines_are_ignored_in_a_file_of_version_2(line: str, value, expected: object) -> None:  # type: ignore[no-untyped-def]
    parsed = parse(f"{V2}[mqtt]\n{line}\n")
    finding = only(parsed)
    assert parsed.settings == TedgeSettings()
    assert (finding.code, finding.severity, finding.where) == ("ignored-key", Severity.WARNING, f"{WHERE}:4:1")
    assert finding.blocks is None
    assert "the value is not honoured" in finding.message
    shown = line.partition(" = ")[2].strip('"')
    assert finding.remedy.startswith("tedge config set mqtt.")
    assert finding.remedy.endswith(f" {shown}")


@pytest.mark.parametrize("version", ["", V2])
@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("external.port = 8883", "tedge config set mqtt.external.bind.port 8883"),
        ('external.capath = "/a b"', "tedge config set mqtt.external.ca_path '/a b'"),
        ('external.certfile = "/a"', "tedge config set mqtt.external.cert_file /a"),
        ('external.keyfile = "/a"', "tedge config set mqtt.external.key_file /a"),
        ('client.cafile = "/a"', "tedge config set mqtt.client.auth.ca_file /a"),
        ('client.cadir = "/a"', "tedge config set mqtt.client.auth.ca_dir /a"),
        (
            'external.certfile = "/it\'s; rm -rf $HOME"',
            "tedge config set mqtt.external.cert_file '/it'\"'\"'s; rm -rf $HOME'",
        ),
        ('external.certfile = "/a\\nb"', "tedge config set mqtt.external.cert_file VALUE"),
        ("external.certfile = { a = 1 }", None),
    ],
)
def test_what_tedge_drops_in_any_version_is_told_with_the_command_to_use(
    line: str, command: str | None, version: str
) -> None:
    parsed = parse(f"{version}[mqtt]\n{line}\n")
    finding = only(parsed)
    assert parsed.settings == TedgeSettings()
    assert finding.code == "ignored-key"
    if command is not None:
        assert finding.remedy == command


def test_the_misleading_log_of_tedge_is_explained() -> None:
    assert "logs that the key is deprecated" in only(parse(f'{V2}[mqtt.external]\ncapath = "/a"')).message
    assert "logs" not in only(parse(f'{V2}[mqtt.client]\ncafile = "/a"')).message


def test_an_ignored_key_whose_present_name_is_set_is_to_be_removed() -> None:
    finding = only(parse(f'{V2}[mqtt.external]\nkeyfile = "/a"\nkey_file = "/b"\n'))
    assert finding.code == "ignored-key"
    assert finding.remedy == f"remove mqtt.external.keyfile: {WHERE}:4:1"


def test_a_key_nobody_knows_is_a_remark_and_other_tables_are_nobodys_business() -> None:
    finding = only(parse('[mqtt.external]\ncert_fiel = "/a"\n[c8y]\nfoo = 1\n'))
    assert (finding.code, finding.severity, finding.blocks) == ("ignored-key", Severity.INFO, None)
    assert finding.where == f"{WHERE}:2:1"
    assert "did you mean mqtt.external.cert_file?" in finding.message


def test_a_file_full_of_unknown_keys_is_told_about_but_not_recited() -> None:
    parsed = parse("[mqtt]\n" + "".join(f"k{n} = 1\n" for n in range(1000)))
    assert len(parsed.findings) == 21
    assert "980 more" in parsed.findings[-1].message


@pytest.mark.parametrize("line", ['"bind.port" = 5', '"external.cert_file" = "/a"'])
def test_a_quoted_key_with_dots_is_another_key(line: str) -> None:
    parsed = parse(f"{V2}[mqtt]\n{line}")
    assert parsed.settings == TedgeSettings()
    assert only(parsed).code == "ignored-key"


@pytest.mark.parametrize(
    ("text", "where", "old", "new"),
    [
        ("[mqtt]\nport = 1\nbind.port = 2", "2:1", "mqtt.port", "mqtt.bind.port"),
        (
            'mqtt.external_certfile = "/a"\nmqtt.external.cert_file = "/a"',
            "1:1",
            "mqtt.external_certfile",
            "mqtt.external.cert_file",
        ),
        ("[http]\nport = 1\n[http.bind]\nport = 2", "2:1", "http.port", "http.bind.port"),
        (f"{V2}[apt.dpk]\n[apt.dpkg]", "3:2", "apt.dpk", "apt.dpkg"),
    ],
)
def test_a_conflict_of_old_and_new_key_is_refused_in_tedges_words(text: str, where: str, old: str, new: str) -> None:
    parsed = parse(text)
    finding = only(parsed)
    assert parsed.settings is None
    assert (finding.code, finding.where, finding.blocks) == ("migration-conflict", f"{WHERE}:{where}", Area.ALL)
    assert finding.message == (
        f"Cannot migrate '{old}' to '{new}': target key already exists. "
        "Please manually remove one of them from tedge.toml."
    )


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ('version = "3"', "unknown-version", "Unknown tedge.toml version"),
        ('version = ""', "unknown-version", "Unknown tedge.toml version"),
        ("version = 2", "wrong-type", "the whole number 2"),
        ("version = [2]", "wrong-type", "a list"),
    ],
)
def test_a_version_tedge_does_not_know_blocks_everything(line: str, code: str, message: str) -> None:
    parsed = parse(f"[config]\n{line}\n")
    finding = only(parsed)
    assert parsed.settings is None
    assert (finding.code, finding.where, finding.blocks) == (code, f"{WHERE}:2:1", Area.ALL)
    assert message in finding.message


# Types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "found", "remedy"),
    [
        ("mqtt.external.bind.port", '"8883"', 'the text "8883"', "config set mqtt.external.bind.port=8883"),
        ("mqtt.external.bind.port", '" 8883 "', 'the text " 8883 "', "config set mqtt.external.bind.port=8883"),
        ("mqtt.external.bind.port", "99999", "the whole number 99999", "config set mqtt.external.bind.port=VALUE"),
        ("mqtt.external.bind.port", "-1", "the whole number -1", "config set mqtt.external.bind.port=VALUE"),
        ("mqtt.external.bind.port", "1.5", "the number 1.5", "config set mqtt.external.bind.port=VALUE"),
        ("mqtt.external.bind.port", "true", "the flag true", "config set mqtt.external.bind.port=VALUE"),
        ("mqtt.external.bind.port", "[8883]", "a list", "config set mqtt.external.bind.port=VALUE"),
        ("mqtt.bind.port", "0", "the whole number 0", "config set mqtt.bind.port=VALUE"),
        ("mqtt.client.port", "0", "the whole number 0", "config set mqtt.client.port=VALUE"),
        ("mqtt.client.port", "{ a = 1 }", "a table", "config set mqtt.client.port=VALUE"),
        ("mqtt.bind.enabled", '"true"', 'the text "true"', "config set mqtt.bind.enabled=true"),
        ("mqtt.bind.enabled", "1", "the whole number 1", "config set mqtt.bind.enabled=VALUE"),
        ("mqtt.bridge.built_in", '"no"', 'the text "no"', "config set mqtt.bridge.built_in=VALUE"),
        ("mqtt.bind.address", '"localhost"', "invalid IP address syntax", "config set mqtt.bind.address=VALUE"),
        ("mqtt.bind.address", '""', "invalid IP address syntax", "config set mqtt.bind.address=VALUE"),
        (
            "mqtt.external.bind.address",
            '"fe80::1%eth0"',
            "invalid IP address syntax",
            "config set mqtt.external.bind",
        ),
        ("mqtt.external.bind.address", '"010.0.0.1"', "invalid IP address syntax", "config set mqtt.external.bind"),
        ("mqtt.external.bind.address", '"::1 "', "invalid IP address syntax", "mqtt.external.bind.address=::1"),
        ("mqtt.external.bind.address", '"10.0.0.0/8"', "invalid IP address syntax", "config set mqtt.external.bind"),
        ("mqtt.external.bind.address", "1", "the whole number 1", "config set mqtt.external.bind.address=VALUE"),
        ("mqtt.external.bind.interface", "0", "the whole number 0", "mqtt.external.bind.interface=0"),
        ("mqtt.external.ca_path", "true", "the flag true", "config set mqtt.external.ca_path=VALUE"),
        ("mqtt.external.cert_file", '["/a"]', "a list", "config set mqtt.external.cert_file=VALUE"),
        ("mqtt.client.auth.username", "5", "the whole number 5", "config set mqtt.client.auth.username=5"),
        (
            "mqtt.client.auth.ca_file",
            "1979-05-27",
            "the date or time 1979-05-27",
            "config set mqtt.client.auth.ca_file",
        ),
        ("mqtt.topic_root", "5", "the whole number 5", "config set mqtt.topic_root=5"),
        ("mqtt.device_topic_id", '"a/b/c/d/e"', "at most 4 segments", "config set mqtt.device_topic_id=VALUE"),
        ("mqtt.device_topic_id", '"device/+//"', "valid MQTT topic", "config set mqtt.device_topic_id=VALUE"),
        ("mqtt.bridge.reconnect_policy.reset_window", '"soon"', 'the text "soon"', "reset_window=VALUE"),
        ("mqtt.bridge.reconnect_policy.reset_window", "-5", "the whole number -5", "reset_window=VALUE"),
        ("http.bind.address", '"x"', "invalid IP address syntax", "config set http.bind.address=VALUE"),
        ("device.key_path", "5", "the whole number 5", "config set device.key_path=VALUE"),
        ("service.timestamp_format", '"iso"', "'rfc-3339' or 'unix'", "config set service.timestamp_format=VALUE"),
        ("mqtt", "5", "the whole number 5", "correct"),
        ("mqtt.client", '"x"', 'the text "x"', "correct"),
        ("mqtt.client.auth", "[]", "a list", "correct"),
        ("mqtt.external.bind", "8883", "the whole number 8883", "correct"),
        ("mqtt.client_auth", "5", "the whole number 5", "correct"),
        ("http", "5", "the whole number 5", "correct"),
        ("config", "2", "the whole number 2", "correct"),
    ],
)
def test_one_wrong_type_makes_tedge_reject_the_whole_file(key: str, value: str, found: str, remedy: str) -> None:
    parsed = parse(f"# the second line\n  {key} = {value}\n")
    finding = only(parsed)
    assert parsed.settings is None
    assert (finding.code, finding.severity, finding.blocks) == ("wrong-type", Severity.ERROR, Area.ALL)
    assert finding.where == f"{WHERE}:2:3"
    assert key in finding.message
    assert found in finding.message
    assert "rejects the whole file" in finding.message
    assert remedy in finding.remedy


def test_all_wrong_types_are_told_at_once() -> None:
    parsed = parse('[mqtt.external.bind]\nport = "8883"\naddress = "localhost"\n[mqtt.bind]\nport = 0\n')
    assert {finding.where for finding in parsed.findings} == {f"{WHERE}:2:1", f"{WHERE}:3:1", f"{WHERE}:5:1"}


def test_a_migrated_key_is_told_under_both_names() -> None:
    finding = only(parse('[mqtt]\nexternal_port = "8883"\n'))
    assert finding.where == f"{WHERE}:2:1"
    assert "mqtt.external.bind.port (written as mqtt.external_port)" in finding.message


# Values that tedge takes and the broker does not ------------------------------------------------------------

BAD_PATHS = [
    "",
    "relative.pem",
    "./a",
    " /a",
    "/a ",
    "/a\t",
    "/a\nuser root",
    "/a\rb",
    "/a\x00b",
    "/a\x1fb",
    "/a\x7fb",
    "/a\x85b",
    "/a\x9fb",
    "/a\ufdd0b",
    "/a\uffffb",
    "/a\U0001fffeb",
    "/a/../etc/shadow",
    "/..",
    "/" + "a" * 4095,
    "/" + "ä" * 2048,
]


def escaped(text: str) -> str:
    return '"' + "".join(f"\\U{ord(char):08x}" for char in text) + '"'


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize(
    ("key", "area"),
    [
        ("mqtt.external.ca_path", Area.BROKER),
        ("mqtt.external.cert_file", Area.BROKER),
        ("mqtt.external.key_file", Area.BROKER),
        ("mqtt.client.auth.ca_file", Area.CLIENTS),
        ("mqtt.client.auth.ca_dir", Area.CLIENTS),
        ("mqtt.client.auth.cert_file", Area.CLIENTS),
        ("mqtt.client.auth.key_file", Area.CLIENTS),
        ("mqtt.client.auth.password_file", Area.CLIENTS),
    ],
)
def test_a_path_that_cannot_be_used_is_absent_and_blocks_its_area(key: str, area: Area, path: str) -> None:
    parsed = parse(f"{key} = {escaped(path)}\n")
    finding = only(parsed)
    assert parsed.settings == TedgeSettings()
    assert (finding.code, finding.severity, finding.where) == ("invalid-value", Severity.ERROR, f"{WHERE}:1:1")
    assert finding.blocks is area
    assert finding.message.startswith(key)
    assert finding.message.isprintable()
    assert key in finding.remedy


@pytest.mark.parametrize(
    "path", ["/", "/a b", "/a/./b//c/", "/a#b", '/"', "/ä\u00a0ö\u2028.pem", "/..a", "/" + "a" * 4094]
)
def test_a_path_with_nothing_wrong_is_taken_as_it_is_written(path: str) -> None:
    assert settings(f"mqtt.external.cert_file = {escaped(path)}\n").external.cert_file == path


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "wlan0\nuser root", "a/b", "abcdefghijklmnop", "wlan0 ", "\x00", "é"]
)
def test_a_name_that_is_no_interface_blocks_the_broker(name: str) -> None:
    parsed = parse(f"mqtt.external.bind.interface = {escaped(name)}\n")
    assert parsed.settings == TedgeSettings()
    assert only(parsed).blocks is Area.BROKER


@pytest.mark.parametrize("name", ["wlan0", "br-1a2b3c", "eth0.100", "eth0:1", "a@b", "abcdefghijklmno"])
def test_an_interface_is_taken(name: str) -> None:
    assert settings(f"mqtt.external.bind.interface = {escaped(name)}\n").external.interface == name


def test_port_0_of_the_external_listener_is_read_by_tedge_and_refused_by_the_broker() -> None:
    parsed = parse("mqtt.external.bind.port = 0\n")
    assert parsed.settings == TedgeSettings()
    assert (only(parsed).code, only(parsed).blocks) == ("invalid-value", Area.BROKER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mqtt.client.host", ""),
        ("mqtt.client.host", "a b"),
        ("mqtt.client.host", "a\nb"),
        ("mqtt.client.auth.username", "a\x00b"),
        ("mqtt.topic_root", ""),
        ("mqtt.topic_root", "te/#"),
        ("mqtt.topic_root", "+"),
        ("mqtt.device_topic_id", "a\nb"),
    ],
)
def test_what_clients_could_not_connect_with_blocks_the_clients(key: str, value: str) -> None:
    parsed = parse(f"{key} = {escaped(value)}\n")
    assert parsed.settings == TedgeSettings()
    assert only(parsed).blocks is Area.CLIENTS


def test_a_device_path_that_cannot_be_used_is_a_warning() -> None:
    parsed = parse('device.key_path = ""\n')
    assert parsed.settings == TedgeSettings()
    assert (only(parsed).severity, only(parsed).blocks) == (Severity.WARNING, None)


# Half-set client authentication -----------------------------------------------------------------------------

CA, CERT, KEY = 'ca_file = "/ca"\n', 'cert_file = "/c"\n', 'key_file = "/k"\n'
USER, PASSWORD = 'username = "u"\n', 'password_file = "/p"\n'


@pytest.mark.parametrize(
    ("lines", "wheres"),
    [
        ("", []),
        (CA, []),
        ('ca_dir = "/ca"\n', []),
        (CA + CERT + KEY, []),
        (USER, []),
        (USER + PASSWORD, []),
        (CERT, ["cert_file"]),
        (CA + CERT, ["cert_file"]),
        (CA + KEY, ["key_file"]),
        (CERT + KEY, ["cert_file"]),
        (PASSWORD, ["password_file"]),
        ('username = ""\n' + PASSWORD, ["password_file"]),
        (CERT + KEY + PASSWORD, ["password_file", "cert_file"]),
    ],
)
def test_what_tedge_silently_does_without_is_a_warning(lines: str, wheres: list[str]) -> None:
    parsed = parse("[mqtt.client.auth]\n" + lines)
    assert parsed.settings is not None
    assert [finding.where for finding in parsed.findings] == [f"mqtt.client.auth.{name}" for name in wheres]
    assert {finding.code for finding in parsed.findings} <= {"incomplete-client-auth"}
    assert {finding.severity for finding in parsed.findings} <= {Severity.WARNING}


def test_a_half_that_is_there_but_unusable_is_not_called_missing() -> None:
    finding = only(parse(f"[mqtt.client.auth]\n{CA}{CERT}key_file = 'relative'\n"))
    assert finding.code == "invalid-value"


# system.toml ------------------------------------------------------------------------------------------------

SYSTEM = "/etc/tedge/system.toml"


@pytest.mark.parametrize(
    ("data", "user", "group"),
    [
        (None, "tedge", "tedge"),
        (b"", "tedge", "tedge"),
        (b'[init]\nname = "systemd"\n', "tedge", "tedge"),
        (b'user = "gateway"\n', "gateway", "tedge"),
        (b'group = "iot-1"\n', "tedge", "iot-1"),
        (b'user = "_x.y$"\ngroup = ""\n', "_x.y$", "root"),
        (b'user = ""\ngroup = ""\n', "root", "root"),
    ],
)
def test_the_accounts_of_the_services_are_read(data: bytes | None, user: str, group: str) -> None:
    assert tedge_toml.parse_system(data, SYSTEM) == (SystemSettings(user=user, group=group), ())


@pytest.mark.parametrize(
    ("data", "where", "code"),
    [
        (b"user = 5\n", "1:1", "invalid-value"),
        (b'\ngroup = "a:b"\n', "2:1", "invalid-value"),
        (b'user = "-x"\n', "1:1", "invalid-value"),
        (b'user = "0"\n', "1:1", "invalid-value"),
        (b'user = "a\\nb"\n', "1:1", "invalid-value"),
        (b'user = "tedge', "1:14", "toml-syntax"),
        (b"user = \xff", "1:8", "toml-syntax"),
    ],
)
def test_an_account_that_cannot_be_one_blocks_everything(data: bytes, where: str, code: str) -> None:
    system, (finding,) = tedge_toml.parse_system(data, SYSTEM)
    assert system == SystemSettings()
    assert (finding.code, finding.where, finding.blocks) == (code, f"{SYSTEM}:{where}", Area.ALL)


@pytest.mark.parametrize(
    ("line", "blocks"),
    [
        ('external.certfile = "/a"', True),
        ('external.keyfile = "/a"', True),
        ('external.capath = "/a"', True),
        ('external_certfile = "/a"', True),
        ('external_bind_address = "192.0.2.1"', True),
        ('external_bind_interface = "eth0"', True),
        ('bind_address = "127.0.0.1"', False),
        ('client.cafile = "/a"', False),
    ],
)
def test_an_old_spelling_that_would_protect_a_listener_keeps_it_shut(line: str, blocks: bool) -> None:
    """thin-edge itself would open the port without what the ignored key asks for."""
    opened = parse(f'[config]\nversion = "2"\n[mqtt]\nexternal.bind.port = 8883\n{line}\n')
    found = [finding for finding in opened.findings if finding.code == "ignored-key"]
    assert [finding.blocks is Area.BROKER for finding in found] == [blocks]
    alone = parse(f'[config]\nversion = "2"\n[mqtt]\n{line}\n')
    assert not any(finding.blocks for finding in alone.findings), "nothing asks for a listener"


def test_a_flood_of_ignored_keys_does_not_hide_the_one_that_counts() -> None:
    flood = "".join(f"x{number} = 1\n" for number in range(50))
    data = f'[config]\nversion = "2"\n[mqtt]\n{flood}external.bind.port = 8883\nexternal.certfile = "/a"\n'
    assert any(finding.blocks is Area.BROKER for finding in parse(data).findings)
