"""A key that two users need: the device's pair as the broker's, the clients' and the bridge's."""

import pathlib

from . import clients, gateway, pki, scenes, standins
from .scenes import LAN

DEVICE = "/etc/tedge/device-certs"
CERT, KEY = f"{DEVICE}/tedge-certificate.pem", f"{DEVICE}/tedge-private-key.pem"
STAGED = "/etc/mosquitto/certs/tedge-agentd"
CA = "/etc/tedge/ca.crt"


def put(gw: gateway.Gateway, pair: pki.Pair, owner: str, *, cert: str = CERT, key: str = KEY) -> None:
    """As `tedge cert create` leaves a pair, or a renewal by root."""
    gw.write(cert, pair.pem, owner=owner, mode=0o444, replace=True)
    gw.write(key, pair.key_pem(), owner=owner, mode=0o400, replace=True)


def config_set(gw: gateway.Gateway, **keys: str) -> None:
    gw.run(
        ["tedge-agentd", "config", "set", *(f"mqtt.{key.replace('__', '.')}={value}" for key, value in keys.items())]
    )


def test_a_device_pair_that_broker_and_clients_need_stays_the_clients(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    """The broker has its copy, in step, for as long as a setting asks for it."""
    pair = ca.issue("gateway", sans=pki.GATEWAY_NAMES)
    put(gw, pair, "tedge")
    gw.write(CA, ca.pem)
    config_set(gw, external__bind__address="0.0.0.0", external__cert_file=CERT, external__key_file=KEY)
    config_set(gw, external__ca_path=CA, client__port="8883", client__auth__ca_file=CA)
    config_set(gw, client__auth__cert_file=CERT, client__auth__key_file=KEY)
    child = scenes.client(ca, tmp_path)

    def in_step(pair: pki.Pair, restarts: int) -> None:
        status = scenes.settled(gw)
        assert status["findings"] == []
        assert status["counters"]["broker_restarts"] == restarts
        assert clients.connect(gw, 8883, child).accepted
        assert clients.handshake(gw, 8883).sha256 == pair.sha256
        assert gw.access(KEY) == "tedge:tedge 0400"
        assert gw.access(f"{STAGED}/server.pem") == "mosquitto:mosquitto 0600"

    restarts = scenes.settled(gw)["counters"]["broker_restarts"]
    in_step(pair, restarts)
    gw.run(["chown", "tedge:tedge", CERT, KEY])  # as `tedge connect` does each time
    in_step(pair, restarts)
    gw.run("tedge connect c8y")
    in_step(pair, scenes.settled(gw)["counters"]["broker_restarts"])
    restarts = scenes.settled(gw)["counters"]["broker_restarts"]
    pair = ca.issue("gateway", sans=pki.GATEWAY_NAMES)
    put(gw, pair, "root")
    gw.wait_until(lambda: clients.handshake(gw, 8883).sha256 == pair.sha256)
    in_step(pair, restarts)
    for key in ("client.port", "client.auth.cert_file", "client.auth.key_file", "client.auth.ca_file"):
        standins.config_unset(gw, f"mqtt.{key}")
    names = ("bind.address", "cert_file", "key_file", "ca_path")
    gw.run(["tedge-agentd", "config", "unset", *(f"mqtt.external.{name}" for name in names)])
    scenes.settled(gw)
    assert gw.files.listdir(STAGED) == []
    assert gw.access(KEY) == "tedge:tedge 0400"


CLOUD = f"""\
listener 8885 127.0.0.1
allow_anonymous false
require_certificate true
use_identity_as_username true
cafile {CA}
certfile /etc/cloud/cloud.crt
keyfile /etc/cloud/cloud.key
log_dest stderr
"""
BRIDGE = f"""\
connection edge_to_c8y
address 127.0.0.1:8885
bridge_cafile {CA}
bridge_certfile {CERT}
bridge_keyfile {KEY}
remote_clientid device
restart_timeout 1
topic # out 1 c8y/ ""
"""


def cloud(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """A second broker on loopback that takes devices with a certificate."""
    pair = ca.server()
    gw.files.mkdir("/etc/cloud")
    gw.write("/etc/cloud/cloud.crt", pair.chain_pem)
    gw.write("/etc/cloud/cloud.key", pair.key_pem(), owner="mosquitto", mode=0o600)
    gw.write("/etc/cloud/mosquitto.conf", CLOUD)
    gw.run("systemd-run --unit=cloud --property=User=mosquitto /usr/sbin/mosquitto -c /etc/cloud/mosquitto.conf")


def bridged(gw: gateway.Gateway) -> int:
    """How often the bridge came to the cloud."""
    return sum("New bridge connected" in line for line in gw.messages("cloud"))


def test_with_the_mosquitto_bridge_the_device_pair_is_the_brokers(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """A real bridge logs in with it, also after a renewal by root, and nobody disturbs what the clients share."""
    gw.write(CA, ca.pem)
    cloud(gw, ca)
    put(gw, ca.client("device"), "root")
    config_set(gw, bridge__built_in="false")
    scenes.settled(gw)
    assert gw.access(KEY) == "mosquitto:mosquitto 0400"
    gw.write("/etc/tedge/mosquitto-conf/c8y-bridge.conf", BRIDGE)
    gw.run("systemctl restart mosquitto")
    gw.wait_until(lambda: bridged(gw) == 1, timeout=20.0, what="the bridge")
    put(gw, ca.client("device"), "root")
    status = scenes.settled(gw)
    assert gw.access(KEY) == "mosquitto:mosquitto 0400"
    shown = {one["path"]: (one["role"], one["renewed_by"]) for one in status["certificates"]}
    assert shown[CERT] == ("bridge", "thin-edge")
    gw.run("systemctl restart mosquitto")
    gw.wait_until(lambda: bridged(gw) == 2, timeout=20.0, what="the bridge with the renewed pair")

    # A mapper's own pair counts as well.
    gw.files.mkdir("/etc/tedge/mappers/c8y", owner="tedge")
    mapper = {"cert": "/etc/tedge/mappers/c8y/own.crt", "key": "/etc/tedge/mappers/c8y/own.key"}
    put(gw, ca.client("device"), "root", **mapper)
    gw.write("/etc/tedge/mappers/c8y/mapper.toml", '[device]\ncert_path = "own.crt"\nkey_path = "own.key"\n')
    scenes.settled(gw)
    assert gw.access(mapper["key"]) == "mosquitto:mosquitto 0400"

    # What the bridge and the clients read where it lies is taken from neither.
    config_set(gw, client__auth__ca_file=CA, client__auth__cert_file=CERT, client__auth__key_file=KEY)
    status = scenes.settled(gw, state="blocked")
    (found,) = [one for one in status["findings"] if one["code"] == "unreadable"]
    assert "tedge cannot read" in found["message"]
    assert gw.access(KEY) == "mosquitto:mosquitto 0400"
    gw.run(["chown", "mosquitto:tedge", KEY])
    gw.run(["chmod", "0440", KEY])
    assert "unreadable" not in scenes.codes(scenes.settled(gw, state=None))
    assert gw.access(KEY) == "mosquitto:tedge 0440"
    gw.run(["tedge-agentd", "config", "unset", *(f"mqtt.client.auth.{n}_file" for n in ("ca", "cert", "key"))])

    # The built-in bridge reads it as thin-edge's user, to whom `tedge connect` gives it.
    config_set(gw, bridge__built_in="true")
    gw.run("tedge connect c8y")
    scenes.settled(gw)
    assert gw.access(KEY).startswith("tedge:tedge")
    config_set(gw, external__bind__address=LAN, external__cert_file=CERT, external__key_file=KEY)
    scenes.settled(gw)
    assert gw.access(KEY) == "tedge:tedge 0400"
