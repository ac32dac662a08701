"""The guide's three levels, each by configuration changes alone, with real clients: who gets in, and who does not."""

import pathlib
import ssl
import time

import pytest

from . import clients, gateway, pki, scenes, standins
from .scenes import CA, CERT, KEY, LAN

TLS = clients.Credentials(tls=True)


def test_the_first_level_serves_everybody_and_says_so(gw: gateway.Gateway) -> None:
    standins.config_set(gw, "mqtt.external.bind.address", LAN)
    status = scenes.settled(gw)
    assert clients.connect(gw, 1883, host=LAN, outside=True).accepted
    assert clients.connect(gw, 1883).accepted
    assert "insecure-listener" in scenes.codes(status)
    assert [(one["port"], one["level"]) for one in status["listeners"]] == [(1883, "none"), (1883, "none")]


def test_the_second_level_encrypts_and_takes_anonymous_clients(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    pair = scenes.server(gw, ca)
    status = scenes.settled(gw)
    assert [(one["port"], one["level"], one["verified"]) for one in status["listeners"]] == [
        (1883, "none", True),
        (8883, "server", True),
    ]
    trusting = scenes.trusting(ca, tmp_path)
    assert clients.connect(gw, 8883, trusting).accepted
    assert clients.connect(gw, 8883, trusting, host=LAN, outside=True).accepted
    assert clients.handshake(gw, 8883).sha256 == pair.sha256
    assert not clients.connect(gw, 8883).accepted, "plaintext on the TLS port"
    stranger = clients.Credentials(ca=pki.authority("stranger").write(tmp_path / "stranger.crt"))
    assert clients.connect(gw, 8883, stranger).outcome is clients.Outcome.UNTRUSTED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_third_level_takes_only_clients_with_a_certificate_of_the_ca(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path, version: ssl.TLSVersion
) -> None:
    scenes.mutual(gw, ca)
    scenes.settled(gw)

    def attempt(credentials: clients.Credentials) -> clients.Outcome:
        versioned = clients.Credentials(
            ca=credentials.ca, cert=credentials.cert, key=credentials.key, tls=True, tls_version=version
        )
        return clients.connect(gw, 8883, versioned, host=LAN, outside=True).outcome

    child = scenes.client(ca, tmp_path)
    assert attempt(child) is clients.Outcome.ACCEPTED
    assert attempt(scenes.trusting(ca, tmp_path)) is clients.Outcome.TLS_REFUSED
    other = pki.authority("another CA")
    cert, key = other.client("intruder").write(tmp_path, "intruder")
    assert attempt(clients.Credentials(ca=child.ca, cert=cert, key=key)) is clients.Outcome.TLS_REFUSED
    late = ca.issue("late", usage="client", starts=-20 * pki.DAY, ends=-10 * pki.DAY)
    cert, key = late.write(tmp_path, "late")
    assert attempt(clients.Credentials(ca=child.ca, cert=cert, key=key)) is clients.Outcome.TLS_REFUSED
    assert not clients.connect(gw, 8883, host=LAN, outside=True).accepted, "plaintext on the TLS port"


def test_messages_cross_from_a_child_device_to_the_gateways_own_clients(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.mutual(gw, ca)
    scenes.settled(gw)
    child = ca.client("child")
    for name, text in (("ca.pem", ca.pem), ("child.pem", child.pem), ("child.key", child.key_pem())):
        gw.write(f"/root/{name}", text)
    login = "-p 8883 --cafile /root/ca.pem --cert /root/child.pem --key /root/child.key"
    gw.run(f"mosquitto_pub {login} -r -t te/device/child///m/ -m 42")
    assert clients.subscribe(gw, "te/device/child///m/") == ["42"]


def test_a_ca_directory_needs_no_hash_links(gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path) -> None:
    scenes.server(gw, ca)
    gw.files.mkdir("/etc/tedge/client-cas")
    gw.write("/etc/tedge/client-cas/any-name.pem", ca.pem)
    standins.config_set(gw, "mqtt.external.ca_path", "/etc/tedge/client-cas")
    status = scenes.settled(gw)
    assert [one["level"] for one in status["listeners"]] == ["none", "mutual"]
    assert clients.connect(gw, 8883, scenes.client(ca, tmp_path)).accepted
    assert not clients.connect(gw, 8883, scenes.trusting(ca, tmp_path)).accepted


def test_the_levels_can_be_walked_up_and_down(gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path) -> None:
    child, trusting = scenes.client(ca, tmp_path), scenes.trusting(ca, tmp_path)
    scenes.mutual(gw, ca)
    scenes.settled(gw)
    assert not clients.connect(gw, 8883, trusting).accepted
    assert clients.connect(gw, 8883, child).accepted
    standins.config_unset(gw, "mqtt.external.ca_path")
    scenes.settled(gw)
    assert clients.connect(gw, 8883, trusting).accepted
    for key in ("cert_file", "key_file"):
        standins.config_unset(gw, f"mqtt.external.{key}")
    status = scenes.settled(gw, state="blocked")
    assert "listener-conflict" in scenes.codes(status), "1883 on all addresses is the internal listener's port, too"
    standins.config_set(gw, "mqtt.external.bind.address", LAN)
    status = scenes.settled(gw)
    assert clients.connect(gw, 1883, host=LAN, outside=True).accepted
    assert status["listeners"][-1]["level"] == "none"
    standins.config_unset(gw, "mqtt.external.bind.address")
    scenes.settled(gw)
    assert clients.connect(gw, 8883, trusting).outcome is clients.Outcome.UNREACHABLE
    assert clients.connect(gw, 1883).accepted
    assert gw.files.listdir("/etc/mosquitto/certs/tedge-agentd") == []


@pytest.mark.parametrize("owner", ["root", "mosquitto", "tedge"])
def test_a_served_pair_is_the_brokers_whoever_put_it_there(
    gw: gateway.Gateway, ca: pki.Authority, owner: str
) -> None:
    pair = ca.server()
    gw.files.mkdir(scenes.CERTS)
    scenes.write_pair(gw, pair, owner=owner)
    standins.config_set(gw, "mqtt.external.cert_file", CERT)
    standins.config_set(gw, "mqtt.external.key_file", KEY)
    status = scenes.settled(gw, state=None)
    if owner == "tedge":
        # The other service's file is not ours to take; the broker is served from a checked copy all the same.
        assert "ownership" in scenes.codes(status)
        assert gw.access(KEY) == "tedge:tedge 0600"
    else:
        assert status["state"] == "in-sync"
        assert gw.access(CERT) == "mosquitto:mosquitto 0644"
        assert gw.access(KEY) == "mosquitto:mosquitto 0600"
    assert clients.handshake(gw, 8883).sha256 == pair.sha256
    assert gw.access("/etc/mosquitto/certs/tedge-agentd/server.pem") == "mosquitto:mosquitto 0600"
    assert gw.access("/etc/mosquitto/certs/tedge-agentd") == "root:mosquitto 0750"


def test_the_clients_follow_into_a_mutual_listener(gw: gateway.Gateway, ca: pki.Authority) -> None:
    scenes.mutual(gw, ca)
    own = ca.client("tedge")
    for name, text in (("client.crt", own.pem), ("client.key", own.key_pem()), ("broker-ca.crt", ca.pem)):
        gw.write(f"{scenes.CERTS}/{name}", text)
    since = time.time()
    standins.config_set(gw, "mqtt.client.port", 8883)
    standins.config_set(gw, "mqtt.client.auth.ca_file", f"{scenes.CERTS}/broker-ca.crt")
    standins.config_set(gw, "mqtt.client.auth.cert_file", f"{scenes.CERTS}/client.crt")
    standins.config_set(gw, "mqtt.client.auth.key_file", f"{scenes.CERTS}/client.key")
    scenes.settled(gw)
    gw.wait_until(
        lambda: all(
            standins.connected(gw, service, since=since)[-1:] == ["127.0.0.1:8883 (tls)"]
            for service in standins.DEFAULT_SERVICES
        ),
        what="the clients on the mutual listener",
    )
    assert gw.access(f"{scenes.CERTS}/client.key") == "tedge:tedge 0600"
    assert gw.access(f"{scenes.CERTS}/client.crt") == "tedge:tedge 0644"


def test_six_settings_in_a_row_cost_one_restart_and_two_seconds(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.wait_longer_for_a_burst(gw)
    before = gw.invocation("mosquitto")
    scenes.write_pair(gw, ca.server())
    gw.write(CA, ca.pem)
    child = scenes.client(ca, tmp_path)
    keys = [("bind.port", "8884"), ("bind.address", LAN), ("cert_file", CERT), ("key_file", KEY), ("ca_path", CA)]
    gw.sh("\n".join(f"tedge config set mqtt.external.{key} {value}" for key, value in keys))
    written = time.monotonic()
    gw.wait_until(lambda: clients.connect(gw, 8884, child, host=LAN).accepted, timeout=2.0)
    assert time.monotonic() - written < 2.0
    status = scenes.settled(gw)
    assert gw.invocation("mosquitto") != before
    assert status["counters"]["broker_restarts"] == 1
