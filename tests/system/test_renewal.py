"""Certificates are replaced by every tool there is: the sessions stay, and half a renewal is never served."""

import pathlib
import time
from collections.abc import Callable

import pytest

from . import clients, gateway, pki, scenes, standins
from .scenes import CERT, KEY

TLS = clients.Credentials(tls=True)


def served(gw: gateway.Gateway) -> str:
    """The sha256 of the certificate that is served; "" while the broker is being restarted."""
    try:
        return clients.handshake(gw, 8883).sha256
    except OSError:
        return ""


Tool = Callable[[gateway.Gateway, pki.Pair], None]


def by_cp(gw: gateway.Gateway, pair: pki.Pair) -> None:
    """In place, as cp and editors that truncate do: the certificate first."""
    gw.write("/root/new.crt", pair.pem)
    gw.write("/root/new.key", pair.key_pem(), mode=0o600)
    gw.sh(f"cp /root/new.crt {CERT}; sleep 0.05; cp /root/new.key {KEY}")


def by_mv(gw: gateway.Gateway, pair: pki.Pair) -> None:
    """By rename, as rsync and careful scripts do: the key first."""
    gw.write(f"{KEY}.new", pair.key_pem(), mode=0o600)
    gw.write(f"{CERT}.new", pair.pem)
    gw.sh(f"mv {KEY}.new {KEY}; sleep 0.05; mv {CERT}.new {CERT}")


def by_editor(gw: gateway.Gateway, pair: pki.Pair) -> None:
    """Old file aside, new one in its place, root's and open to all until the daemon sees to it."""
    for path, text in ((CERT, pair.pem), (KEY, pair.key_pem())):
        gw.sh(f"mv {path} {path}~")
        gw.write(path, text, mode=0o644)


def by_step(gw: gateway.Gateway, pair: pki.Pair) -> None:
    """Both halves as temporary files, then two renames with nothing in between."""
    gw.write(f"{CERT}.tmp", pair.pem)
    gw.write(f"{KEY}.tmp", pair.key_pem(), mode=0o600)
    gw.sh(f"mv {CERT}.tmp {CERT} && mv {KEY}.tmp {KEY}")


@pytest.mark.parametrize("tool", [by_cp, by_mv, by_editor, by_step])
def test_a_renewal_by_any_tool_is_reloaded_and_nobody_is_disconnected(
    gw: gateway.Gateway, ca: pki.Authority, tool: Tool
) -> None:
    scenes.server(gw, ca)
    scenes.settled(gw)
    broker = gw.unit("mosquitto")["MainPID"]
    with clients.Crowd(gw, 8883, TLS, count=500) as crowd:
        new = ca.server()
        tool(gw, new)
        gw.wait_until(lambda: served(gw) == new.sha256, timeout=5.0)
        status = scenes.settled(gw)
        assert crowd.dropped == 0
    assert gw.unit("mosquitto")["MainPID"] == broker
    assert status["counters"]["broker_reloads"] >= 1
    assert status["counters"]["broker_restarts"] == 1, "the one that opened the listener"
    assert gw.access(KEY) == "mosquitto:mosquitto 0600"


def test_certbots_symlinks_are_followed_into_its_archive(gw: gateway.Gateway, ca: pki.Authority) -> None:
    gw.write(
        "/etc/tedge-agentd/config.toml", 'managed_roots = ["/etc/tedge", "/etc/mosquitto", "/etc/letsencrypt"]\n'
    )
    unit = "/etc/systemd/system/tedge-agentd.service.d/letsencrypt.conf"
    gw.files.mkdir("/etc/systemd/system/tedge-agentd.service.d")
    gw.write(unit, "[Service]\nReadWritePaths=/etc/letsencrypt\n")
    live, archive = "/etc/letsencrypt/live/gateway", "/etc/letsencrypt/archive/gateway"
    gw.files.mkdir(live)
    gw.files.mkdir(archive)

    def renew(number: int) -> pki.Pair:
        pair = ca.server()
        gw.write(f"{archive}/fullchain{number}.pem", pair.chain_pem)
        gw.write(f"{archive}/privkey{number}.pem", pair.key_pem(), mode=0o600)
        for name in ("fullchain", "privkey"):
            gw.sh(f"ln -sfn ../../archive/gateway/{name}{number}.pem {live}/{name}.pem")
        return pair

    first = renew(1)
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart tedge-agentd")
    standins.config_set(gw, "mqtt.external.cert_file", f"{live}/fullchain.pem")
    standins.config_set(gw, "mqtt.external.key_file", f"{live}/privkey.pem")
    scenes.settled(gw)
    assert clients.handshake(gw, 8883).sha256 == first.sha256
    broker = gw.unit("mosquitto")["MainPID"]
    second = renew(2)
    gw.wait_until(lambda: served(gw) == second.sha256, timeout=5.0)
    assert gw.unit("mosquitto")["MainPID"] == broker
    assert gw.access(f"{archive}/privkey2.pem") == "mosquitto:mosquitto 0600"


@pytest.mark.parametrize("half", [CERT, KEY])
def test_half_a_renewal_is_never_served_whatever_happens_meanwhile(
    gw: gateway.Gateway, ca: pki.Authority, half: str
) -> None:
    old = scenes.server(gw, ca)
    scenes.settled(gw)
    new = ca.server()
    other = KEY if half == CERT else CERT
    halves = {CERT: new.pem, KEY: new.key_pem()}
    gw.write(half, halves[half], mode=0o600, replace=True)
    status = scenes.settled(gw, state=None, seconds=2.0)
    assert status["state"] == "pending"
    assert "key-mismatch" in scenes.codes(status)
    for accident in (
        "systemctl kill -s HUP mosquitto",  # what logrotate does each day
        "systemctl reset-failed mosquitto; systemctl restart mosquitto",
        "systemctl kill -s KILL tedge-agentd",
        "systemctl kill -s KILL mosquitto",
    ):
        gw.sh(accident)
        gw.wait_until(
            lambda: clients.connect(gw, 8883, TLS).accepted, timeout=15.0, what=f"the listener after {accident}"
        )
        assert clients.handshake(gw, 8883).sha256 == old.sha256, accident
    gw.reboot()
    gw.wait_until(lambda: clients.connect(gw, 8883, TLS).accepted, timeout=15.0)
    assert clients.handshake(gw, 8883).sha256 == old.sha256
    gw.write(other, halves[other], mode=0o600, replace=True)
    gw.wait_until(lambda: served(gw) == new.sha256, timeout=5.0)
    scenes.settled(gw)


@pytest.mark.parametrize("content", ["garbage", "", None])
def test_what_was_served_last_is_served_on_when_a_source_is_spoiled(
    gw: gateway.Gateway, ca: pki.Authority, content: str | None
) -> None:
    old = scenes.server(gw, ca)
    scenes.settled(gw)
    if content is None:
        gw.files.unlink(CERT)
    else:
        gw.write(CERT, content)
    status = scenes.settled(gw, state="blocked")
    assert [one for one in status["findings"] if one["where"] == "mqtt.external.cert_file" and one["remedy"]]
    gw.run("systemctl restart mosquitto")
    assert clients.handshake(gw, 8883).sha256 == old.sha256
    gw.reboot()
    gw.wait_until(lambda: clients.connect(gw, 8883, TLS).accepted, timeout=15.0)
    assert clients.handshake(gw, 8883).sha256 == old.sha256


def test_another_kind_of_key_takes_a_restart_and_every_client_gets_the_new_certificate(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    scenes.server(gw, ca, key="rsa")
    scenes.settled(gw)
    for key in ("ec", "rsa"):
        before = gw.invocation("mosquitto")
        new = ca.server(key=key)
        scenes.write_pair(gw, new)
        gw.wait_until(lambda new=new: served(gw) == new.sha256, timeout=5.0)  # type: ignore[misc]
        assert gw.invocation("mosquitto") != before
        time.sleep(0.5)


def test_a_shared_device_pair_stays_the_clients(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    device = "/etc/tedge/device-certs"
    pair = ca.server()
    cert, key = f"{device}/tedge-certificate.pem", f"{device}/tedge-private-key.pem"
    gw.write(cert, pair.pem, owner="tedge", mode=0o444)
    gw.write(key, pair.key_pem(), owner="tedge", mode=0o400)
    standins.config_set(gw, "mqtt.external.cert_file", cert)
    standins.config_set(gw, "mqtt.external.key_file", key)
    status = scenes.settled(gw)
    assert clients.connect(gw, 8883, scenes.trusting(ca, tmp_path)).accepted
    assert gw.access(key) == "tedge:tedge 0400"
    before = status["counters"]["passes"]
    gw.run(["chown", "tedge:tedge", key, cert])  # as `tedge connect` does each time
    scenes.settled(gw)
    assert gw.access(key) == "tedge:tedge 0400"
    assert scenes.settled(gw)["counters"]["broker_restarts"] == 1
    assert before > 0
