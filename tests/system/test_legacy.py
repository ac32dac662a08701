"""Old and odd inputs, through the daemon, on machines as they are found."""

import pathlib
import time

import pytest

from . import clients, gateway, pki, scenes, standins
from .conftest import MakeGateway
from .scenes import CA, CERT, KEY, LAN

TLS = clients.Credentials(tls=True)
VERSION_1 = f"""\
# written by thin-edge 0.11
[mqtt]
port = 1883
external_port = 8884
external_bind_address = "0.0.0.0"
external_capath = "{CA}"
external_certfile = "{CERT}"
external_keyfile = "{KEY}"

[a_plugin]
kept = "yes"
"""


@pytest.fixture
def with_pair(gw: gateway.Gateway, ca: pki.Authority) -> gateway.Gateway:
    """A gateway with a server's pair and a client CA in place, and nothing that names them."""
    scenes.write_pair(gw, ca.server())
    gw.write(CA, ca.pem)
    scenes.settled(gw)
    return gw


# Old files --------------------------------------------------------------------------------------------------


def test_an_old_file_is_understood_and_its_migration_costs_nothing(
    with_pair: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    gw = with_pair
    child, starts = scenes.client(ca, tmp_path), scenes.starts(gw, "mosquitto")
    standins.write_toml(gw, VERSION_1)
    status = scenes.settled(gw, state=None)
    assert clients.connect(gw, 8884, child, host=LAN).accepted
    assert scenes.starts(gw, "mosquitto") == starts + 1
    gw.run("tedge config get mqtt.bind.port")  # any process of thin-edge rewrites the file as version 2
    assert standins.read_toml(gw)["config"]["version"] == "2"
    after = scenes.settled(gw, state=None)
    assert after["inputs"] == status["inputs"]
    assert scenes.starts(gw, "mosquitto") == starts + 1
    gw.run("tedge-agentd config set mqtt.external.bind.port=8885")
    scenes.settled(gw, state=None)
    assert clients.connect(gw, 8885, child, host=LAN).accepted
    assert standins.read_toml(gw)["a_plugin"] == {"kept": "yes"}


def test_the_first_setting_of_all_is_two_writes_and_one_restart(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    starts = scenes.starts(gw, "mosquitto")
    standins.config_set(gw, "mqtt.external.bind.port", 1884)
    assert "config" not in standins.read_toml(gw)
    gw.run("tedge config list")
    assert standins.read_toml(gw)["config"]["version"] == "2"
    scenes.settled(gw)
    assert scenes.starts(gw, "mosquitto") == starts + 1


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        f'certfile = "{CERT}"\nkeyfile = "{KEY}"',
        f'cert_file = "{CERT}"\nkey_file = "{KEY}"\ncapath = "{CA}"',
        f'certfile = "{CERT}"\nkey_file = "{KEY}"',
    ],
)
def test_protection_under_a_name_that_thin_edge_ignores_opens_nothing(with_pair: gateway.Gateway, lines: str) -> None:
    gw = with_pair
    before = gw.invocation("mosquitto")
    standins.write_toml(gw, f'[config]\nversion = "2"\n[mqtt.external]\n{lines}\n[mqtt.external.bind]\nport = 8883\n')
    status = scenes.settled(gw, state="blocked")
    found = [finding for finding in status["findings"] if finding["code"] == "ignored-key"]
    assert found
    assert all(finding["severity"] == "error" for finding in found)
    assert found[0]["remedy"].startswith("tedge config set mqtt.external.")
    assert clients.connect(gw, 8883).outcome is clients.Outcome.UNREACHABLE
    assert clients.connect(gw, 8883, TLS).outcome is clients.Outcome.UNREACHABLE
    assert gw.invocation("mosquitto") == before
    # The remedy, and thin-edge drops the rest of the old names with its first write.
    for key, value in (("cert_file", CERT), ("key_file", KEY)):
        standins.config_set(gw, f"mqtt.external.{key}", value)
    scenes.settled(gw)
    assert clients.connect(gw, 8883, TLS).accepted


def test_aliases_in_the_file_are_honoured_and_both_spellings_block_everything(
    with_pair: gateway.Gateway, ca: pki.Authority
) -> None:
    gw = with_pair
    head = f'[config]\nversion = "2"\n[mqtt.external]\ncert_file = "{CERT}"\nkey_file = "{KEY}"\n'
    alias = f'[mqtt.client]\nport = 8883\n[mqtt.client.auth]\ncafile = "{CA}"\n'
    standins.write_toml(gw, head + alias)
    scenes.settled(gw)
    gw.wait_until(lambda: standins.connected(gw, "tedge-mapper-c8y")[-1:] == ["127.0.0.1:8883 (tls)"])
    before = {unit: gw.invocation(unit) for unit in ("mosquitto", "tedge-mapper-c8y", "tedge-agent")}
    standins.write_toml(gw, f'{head}{alias}ca_file = "{CA}"\n')
    status = scenes.settled(gw, state="blocked")
    assert "duplicate-key" in scenes.codes(status)
    assert {unit: gw.invocation(unit) for unit in before} == before
    standins.write_toml(gw, head + alias)
    scenes.settled(gw)
    assert {unit: gw.invocation(unit) for unit in before} == before


def test_the_guides_names_are_taken_by_our_own_command(with_pair: gateway.Gateway, ca: pki.Authority) -> None:
    gw = with_pair
    done = gw.run(["tedge-agentd", "config", "set", f"mqtt.client.cafile={CA}"])
    assert "mqtt.client.auth.ca_file" in done.stdout + done.stderr
    assert standins.read_toml(gw)["mqtt"]["client"]["auth"]["ca_file"] == CA


# Places -----------------------------------------------------------------------------------------------------


def test_a_tedge_toml_that_is_a_link_is_followed_and_watched(gw: gateway.Gateway) -> None:
    gw.files.mkdir("/data/tedge", owner="tedge")
    gw.write("/data/tedge/tedge.toml", '[config]\nversion = "2"\n', owner="tedge")
    gw.files.symlink("/data/tedge/tedge.toml", "/etc/tedge/tedge.toml")
    scenes.settled(gw)
    text = '[config]\nversion = "2"\n[mqtt.external.bind]\nport = 1884\n'
    gw.write("/data/tedge/tedge.toml", text, owner="tedge", replace=True)
    gw.wait_until(lambda: clients.connect(gw, 1884, host=LAN).accepted, timeout=5)
    gw.run(["tedge-agentd", "config", "set", "mqtt.external.bind.port=1885"])
    gw.wait_until(lambda: clients.connect(gw, 1885, host=LAN).accepted, timeout=5)
    assert "1885" in gw.read("/data/tedge/tedge.toml")


def test_a_tedge_toml_that_thin_edge_cannot_read_changes_nothing(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    before = gw.invocation("mosquitto")
    text = '[config]\nversion = "2"\n[mqtt.bind]\nport = 1999\n'
    standins.write_toml(gw, text, owner="root", mode=0o600)
    status = scenes.settled(gw, state="blocked")
    (finding,) = [found for found in status["findings"] if found["code"] == "tedge-toml-unreadable"]
    assert "chown tedge:tedge" in finding["remedy"]
    assert gw.invocation("mosquitto") == before
    gw.sh(finding["remedy"])
    scenes.settled(gw, state=None)
    assert clients.connect(gw, 1999).accepted


def test_user_and_group_come_from_system_toml(gw: gateway.Gateway, ca: pki.Authority) -> None:
    gw.run("groupadd --system fleet")
    gw.run("useradd --system --gid fleet --no-create-home iot")
    gw.write("/etc/tedge/system.toml", 'user = "iot"\ngroup = "fleet"\n', owner="iot")
    for directory in standins.DIRECTORIES:
        gw.run(["chown", "iot:fleet", f"/etc/tedge{directory}"])
    own = ca.client("gateway")
    gw.files.mkdir(scenes.CERTS)
    for name, text in (("c.crt", own.pem), ("c.key", own.key_pem()), ("ca.crt", ca.pem)):
        gw.write(f"{scenes.CERTS}/{name}", text)
    auth = (
        f'ca_file = "{scenes.CERTS}/ca.crt"\ncert_file = "{scenes.CERTS}/c.crt"\nkey_file = "{scenes.CERTS}/c.key"\n'
    )
    scenes.mutual(gw, ca)
    toml = gw.read("/etc/tedge/tedge.toml")
    standins.write_toml(gw, f"{toml}\n[mqtt.client]\nport = 8883\n[mqtt.client.auth]\n{auth}", owner="iot")
    scenes.settled(gw, state=None)
    assert gw.access(f"{scenes.CERTS}/c.key") == "iot:fleet 0600"
    assert gw.access(KEY) == "mosquitto:mosquitto 0600"


@pytest.mark.parametrize("let_in", [True, False])
def test_another_configuration_directory(
    make_gateway: MakeGateway, deb: pathlib.Path, ca: pki.Authority, let_in: bool
) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw)
    gw.files.mkdir("/data/tedge/mosquitto-conf", owner="tedge", mode=0o775)
    main = gw.read("/etc/mosquitto/mosquitto.conf")
    gw.write("/etc/mosquitto/mosquitto.conf", main.replace("/etc/tedge/mosquitto-conf", "/data/tedge/mosquitto-conf"))
    settings = 'tedge_dir = "/data/tedge"\nmanaged_roots = ["/data/tedge", "/etc/mosquitto"]\n'
    gw.write("/etc/tedge-agentd/config.toml", settings)
    if let_in:
        drop_in = "[Service]\nReadWritePaths=/data/tedge\n"
        gw.write("/etc/systemd/system/tedge-agentd.service.d/data.conf", drop_in)
    text = '[config]\nversion = "2"\n[mqtt.external.bind]\nport = 1884\n'
    gw.write("/data/tedge/tedge.toml", text, owner="tedge")
    gw.boot()
    if let_in:
        scenes.settled(gw)
        assert gw.exists("/data/tedge/mosquitto-conf/tedge-mosquitto.conf")
        assert clients.connect(gw, 1884, host=LAN).accepted
        return
    time.sleep(5)
    assert int(gw.unit("tedge-agentd.service")["NRestarts"]) <= 2, "a sandbox that a restart does not change"
    status = scenes.settled(gw, state=None)
    assert status["state"] != "in-sync"
    assert any("ReadWritePaths" in finding["remedy"] for finding in status["findings"]), status["findings"]
    assert clients.connect(gw, 1883).accepted


@pytest.mark.parametrize("address", ["::", "2001:db8::10"])
def test_listeners_on_ipv6(with_pair: gateway.Gateway, ca: pki.Authority, address: str) -> None:
    gw = with_pair
    gw.add_address("eth0", "2001:db8::10/64")
    for key, value in (("bind.address", address), ("cert_file", CERT), ("key_file", KEY)):
        standins.config_set(gw, f"mqtt.external.{key}", value)
    scenes.settled(gw)
    assert clients.connect(gw, 8883, TLS, host="2001:db8::10").accepted
    assert clients.connect(gw, 1883).accepted
    standins.config_set(gw, "mqtt.client.host", "::1")
    standins.config_set(gw, "mqtt.bind.address", "::1")
    status = scenes.settled(gw)
    assert {row["address"] for row in status["listeners"]} == {"::1", address}
    assert all(row["verified"] for row in status["listeners"])
    assert clients.connect(gw, 1883, host="::1").accepted
    assert not clients.connect(gw, 1883).accepted, "nothing is left on IPv4"
    standins.wait_connected(gw)


# Mappers ----------------------------------------------------------------------------------------------------


def test_the_broker_gets_the_pairs_that_it_bridges_with_and_no_others(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """One of a profile in tedge.toml, one of a profile's mapper.toml, one of a mapper of the site's own."""
    below = "/etc/tedge/device-certs"
    names = ("old", "new", "site", "own")
    for name in names:
        scenes.write_pair(gw, ca.client(name), cert=f"{below}/{name}.crt", key=f"{below}/{name}.key")

    def device(name: str, table: str = "device") -> str:
        return f'[{table}]\ncert_path = "{below}/{name}.crt"\nkey_path = "{below}/{name}.key"\n'

    def owners() -> dict[str, str]:
        return {name: gw.access(f"{below}/{name}.key").partition(":")[0] for name in names}

    def mapper(directory: str, text: str) -> None:
        gw.files.mkdir(f"/etc/tedge/mappers/{directory}", owner="tedge")
        gw.write(f"/etc/tedge/mappers/{directory}/mapper.toml", text, owner="tedge", replace=True)

    profiles = device("old", "c8y.profiles.old.device") + device("site", "c8y.profiles.site.device")
    standins.write_toml(gw, f'[config]\nversion = "2"\n[mqtt.bridge]\nbuilt_in = false\n{profiles}')
    mapper("own", device("own"))
    scenes.settled(gw)
    assert owners() == {"old": "mosquitto", "new": "root", "site": "mosquitto", "own": "root"}
    # What `tedge config upgrade` does: the table in tedge.toml stays, and counts no more.
    mapper("c8y.old", device("new"))
    scenes.settled(gw)
    assert owners() == {"old": "mosquitto", "new": "mosquitto", "site": "mosquitto", "own": "root"}
    gw.run(["chown", "root", f"{below}/old.key"])
    scenes.settled(gw)
    assert owners()["old"] == "root", "it is nobody's any more"


# Environments -----------------------------------------------------------------------------------------------


def test_what_beats_tedge_toml_in_a_service_is_told_with_its_place(gw: gateway.Gateway) -> None:
    drop_in, everybodys = (
        "/etc/systemd/system/tedge-agent.service.d/env.conf",
        "/etc/systemd/system.conf.d/tedge.conf",
    )
    gw.write("/etc/default/tedge", "# comment\nTEDGE_MQTT_CLIENT_HOST=localhost\nTEDGE_C8Y_URL=a.b\n")
    lines = "Environment=TEDGE_MQTT_CLIENT_PORT=1883 OTHER=1\nEnvironmentFile=-/etc/default/ted?e\n"
    gw.write(
        drop_in, f"[Service]\n{lines}UnsetEnvironment=TEDGE_MQTT_TOPIC_ROOT\nPassEnvironment=TEDGE_MQTT_BIND_PORT\n"
    )
    finding = overridden(gw)["tedge-agent.service"]
    assert "TEDGE_MQTT_BIND_PORT, TEDGE_MQTT_CLIENT_HOST, TEDGE_MQTT_CLIENT_PORT" in finding["message"]
    assert "mqtt.bind.port, mqtt.client.host, mqtt.client.port" in finding["message"]
    assert drop_in in finding["message"]
    assert "/etc/default/tedge" in finding["message"]

    # What systemd has for every service.
    gw.write(everybodys, "[Manager]\nDefaultEnvironment=TEDGE_MQTT_TOPIC_ROOT=te\n")
    gw.run("systemctl set-environment TEDGE_MQTT_CLIENT_HOST=127.0.0.1")
    found = overridden(gw)
    assert "TOPIC_ROOT" not in found["tedge-agent.service"]["message"], "it is unset there"
    message, remedy = (found["tedge-mapper-c8y.service"][part] for part in ("message", "remedy"))
    assert "TEDGE_MQTT_CLIENT_HOST, TEDGE_MQTT_TOPIC_ROOT" in message
    assert f"in {everybodys} and with `systemctl set-environment`" in message
    assert "systemctl unset-environment TEDGE_MQTT_CLIENT_HOST" in remedy
    environment = gw.read(f"/proc/{gw.unit('tedge-mapper-c8y.service')['MainPID']}/environ").split("\0")
    assert {"TEDGE_MQTT_CLIENT_HOST=127.0.0.1", "TEDGE_MQTT_TOPIC_ROOT=te"} <= set(environment), "it is as we say"

    for path in (drop_in, everybodys):
        gw.files.unlink(path)
    gw.run("systemctl unset-environment TEDGE_MQTT_CLIENT_HOST")
    assert overridden(gw) == {}


def overridden(gw: gateway.Gateway) -> dict[str, dict[str, str]]:
    """Start the services with their settings of now, and return the findings about their environments, by unit."""
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart tedge-agent tedge-mapper-c8y")
    return {found["where"]: found for found in scenes.settled(gw)["findings"] if found["code"] == "env-override"}
