"""The stand-ins for thin-edge: they read and write as it does."""

import json

import pytest

from . import brokers, clients, gateway, pki, standins
from .conftest import MakeGateway


def test_thin_edges_services_connect_as_its_user_and_tell_their_health(thin_edge: gateway.Gateway) -> None:
    topic = "te/device/main/service/tedge-agent/status/health"
    assert json.loads(clients.subscribe(thin_edge, topic)[0])["status"] == "up"
    pid = thin_edge.unit("tedge-agent")["MainPID"]
    assert thin_edge.run(["ps", "-o", "user=", "-p", pid]).stdout.strip() == "tedge"
    assert standins.connected(thin_edge, "tedge-mapper-c8y") == ["127.0.0.1:1883 (plain)"]
    assert thin_edge.access("/etc/tedge") == "tedge:tedge 0775"
    thin_edge.run("systemctl stop tedge-agent")
    assert json.loads(clients.subscribe(thin_edge, topic)[0])["status"] == "down"


def test_thin_edges_services_read_their_settings_only_at_their_start(
    thin_edge: gateway.Gateway, ca: pki.Authority
) -> None:
    brokers.serve_mutual_tls(thin_edge, ca, internal=False)
    pair = ca.client("tedge")
    certs = "/etc/tedge/device-certs"
    for name, text in (("ca.crt", ca.pem), ("local.crt", pair.pem), ("local.key", pair.key_pem())):
        thin_edge.write(f"{certs}/{name}", text, owner="tedge", mode=0o600)
    standins.config_set(thin_edge, "mqtt.client.port", 8883)
    for key, name in (("ca_file", "ca.crt"), ("cert_file", "local.crt"), ("key_file", "local.key")):
        standins.config_set(thin_edge, f"mqtt.client.auth.{key}", f"{certs}/{name}")
    plain = ["127.0.0.1:1883 (plain)"] * 2  # at the boot, and after the broker was restarted
    thin_edge.wait_until(lambda: standins.connected(thin_edge, "tedge-agent") == plain)
    thin_edge.run("systemctl restart tedge-agent")
    thin_edge.wait_until(lambda: standins.connected(thin_edge, "tedge-agent")[-1] == "127.0.0.1:8883 (tls)")


def test_every_kind_of_service_starts(make_gateway: MakeGateway) -> None:
    services = ["tedge-agent", "tedge-mapper-c8y", "tedge-mapper-c8y@prod", "c8y-firmware-plugin"]
    services += ["tedge-watchdog", "tedge-mapper-local"]
    gw = make_gateway()
    standins.install(gw, services=services)
    gw.boot()
    standins.wait_connected(gw, services)
    gw.run("systemctl start tedge-cert-renewer@c8y")
    assert gw.state() == "running"


def test_config_set_writes_as_thin_edge_does(thin_edge: gateway.Gateway) -> None:
    toml = '# a comment\n[config]\nversion = "2"\n[mqtt]\nunknown = 1\n[c8y]\nurl = "a.example"\n'
    standins.write_toml(thin_edge, toml)
    before = thin_edge.stat("/etc/tedge/tedge.toml").st_ino
    standins.config_set(thin_edge, "mqtt.external.bind.port", 8883)
    assert thin_edge.access("/etc/tedge/tedge.toml") == "tedge:tedge 0644"
    assert thin_edge.access("/etc/tedge") == "tedge:tedge 0755"
    assert thin_edge.stat("/etc/tedge/tedge.toml").st_ino != before
    assert [name for name in thin_edge.files.listdir("/etc/tedge") if name.startswith(".tmp")] == []
    assert "comment" not in thin_edge.read("/etc/tedge/tedge.toml")
    assert standins.read_toml(thin_edge) == {
        "config": {"version": "2"},
        "c8y": {"url": "a.example"},
        "mqtt": {"external": {"bind": {"port": 8883}}},
    }
    standins.config_set(thin_edge, "mqtt.external.bind.address", "0.0.0.0", user="tedge")
    assert thin_edge.access("/etc/tedge/tedge.toml") == "tedge:tedge 0644"
    standins.config_unset(thin_edge, "mqtt.external.bind.port")
    assert standins.read_toml(thin_edge)["mqtt"] == {"external": {"bind": {"address": "0.0.0.0"}}}


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("set mqtt.external.bind.port 99999", 1, "1: number too large to fit in target type"),
        ("set mqtt.external.bind.address gateway", 1, "1: invalid IP address syntax"),
        ("set mqtt.client.cafile /x", 2, "Unknown tedge config key: 'mqtt.client.cafile'"),
        ("get mqtt.client.port", 1, "The provided config key: 'mqtt.client.port' is not set"),
    ],
)
def test_config_refuses_as_thin_edge_does(thin_edge: gateway.Gateway, words: str, status: int, text: str) -> None:
    done = thin_edge.run(f"tedge config {words}", check=False)
    assert done.returncode == status
    assert text in done.stderr


def test_an_old_tedge_toml_is_migrated_by_the_next_process(thin_edge: gateway.Gateway) -> None:
    standins.write_toml(thin_edge, "[mqtt]\nexternal_port = 8883\nbind_address = '127.0.0.1'\n")
    thin_edge.run("systemctl restart tedge-agent")
    assert standins.read_toml(thin_edge) == {
        "config": {"version": "2"},
        "mqtt": {"external": {"bind": {"port": 8883}}, "bind": {"address": "127.0.0.1"}},
    }


def test_connect_renders_the_listener_file_and_restarts_the_broker(thin_edge: gateway.Gateway) -> None:
    path = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
    standins.config_set(thin_edge, "mqtt.external.bind.port", 8884)
    before = thin_edge.invocation("mosquitto")
    thin_edge.run("tedge connect c8y")
    assert thin_edge.invocation("mosquitto") != before
    assert thin_edge.read(path).endswith("listener 8884 \nallow_anonymous true\nrequire_certificate false\n")
    assert thin_edge.access(path) == "root:root 0644"
    assert clients.connect(thin_edge, 8884, host="192.0.2.10", outside=True).accepted
    standins.config_unset(thin_edge, "mqtt.external.bind.port")
    thin_edge.run("tedge refresh-bridges")
    assert clients.connect(thin_edge, 8884).outcome is clients.Outcome.UNREACHABLE
