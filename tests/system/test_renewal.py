"""Certificates are replaced by every tool there is: the sessions stay, and half a renewal is never served."""

import json
import pathlib
import time
from typing import Any

import pytest

from . import clients, gateway, pki, scenes
from .scenes import CA, CERT, CERTS, KEY

TLS = clients.Credentials(tls=True)


def served(gw: gateway.Gateway) -> str:
    """The sha256 of the certificate that is served; "" while the broker is being restarted."""
    try:
        return clients.handshake(gw, 8883).sha256
    except OSError:
        return ""


NEW_CERT, NEW_KEY = "/root/new.crt", "/root/new.key"
# The two halves of a renewal, as each tool replaces a file: in place, by rename, by a link, with a copy kept aside.
TOOLS = {
    "cp": (f"cp {NEW_CERT} {CERT}", f"cp {NEW_KEY} {KEY}"),
    "a slow cp, the key first": (
        f"cp {NEW_KEY} {KEY}",
        f"(head -c 300 {NEW_CERT}; sleep 0.4; tail -c +301 {NEW_CERT}) >{CERT}",
    ),
    "mv": (f"cp {NEW_KEY} {KEY}.part; mv {KEY}.part {KEY}", f"cp {NEW_CERT} {CERT}.part; mv {CERT}.part {CERT}"),
    "install": (f"install -m 644 {NEW_CERT} {CERT}", f"install -b -m 600 {NEW_KEY} {KEY}"),
    "an editor": (f"mv {CERT} {CERT}~; cat {NEW_CERT} >{CERT}", f"mv {KEY} {KEY}~; cat {NEW_KEY} >{KEY}"),
    "rsync": (
        f"cp -p {NEW_CERT} {CERTS}/.server.crt.f3Vq9x; mv {CERTS}/.server.crt.f3Vq9x {CERT}",
        f"cp -p {NEW_KEY} {CERTS}/.server.key.Zk20aM; mv {CERTS}/.server.key.Zk20aM {KEY}",
    ),
    "a link": (
        f"cp {NEW_CERT} {CERTS}/2.crt; ln -sfn 2.crt {CERT}",
        f"cp {NEW_KEY} {CERTS}/2.key; ln -s 2.key {CERTS}/k; mv -T {CERTS}/k {KEY}",
    ),
    "step": (f"cp {NEW_CERT} {CERTS}/.1; mv {CERTS}/.1 {CERT}", f"cp {NEW_KEY} {CERTS}/.2; mv {CERTS}/.2 {KEY}"),
}


def status_now(gw: gateway.Gateway) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(gw.run("tedge-agentd status --json", check=False).stdout)
    return status


def test_a_renewal_by_any_tool_is_reloaded_and_nobody_is_disconnected(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """Half of it waits without a complaint, whatever the broker is told meanwhile; the whole is served at once."""
    now = scenes.server(gw, ca)
    scenes.settled(gw)
    broker = gw.unit("mosquitto")["MainPID"]

    def bring(new: pki.Pair) -> None:
        gw.write(NEW_CERT, new.chain_pem)
        gw.write(NEW_KEY, new.key_pem(), mode=0o600)

    def is_served(new: pki.Pair, tool: str) -> None:
        gw.wait_until(lambda: served(gw) == new.sha256, what=f"the renewal by {tool}")
        scenes.settled(gw)

    with clients.Crowd(gw, 8883, TLS, count=500) as crowd:
        for tool, (first, second) in TOOLS.items():
            new = ca.server()
            bring(new)
            gw.sh(first)
            gw.wait_until(lambda: status_now(gw)["state"] == "pending", what=f"half of the renewal by {tool}")
            assert [(one["code"], one["severity"]) for one in status_now(gw)["findings"]] == [
                ("key-mismatch", "info")
            ]
            gw.run("systemctl kill -s HUP mosquitto")
            assert served(gw) == now.sha256, tool
            gw.sh(second)
            is_served(new, tool)
            assert gw.sh(f"stat -L -c '%U %a' {KEY}").stdout == "mosquitto 600\n", tool
            now = new
        # As `tedge cert renew` and `step ca renew` do: the key stays, the certificate waits under another name first.
        new = ca.issue("gateway", sans=pki.GATEWAY_NAMES, usage="server", key=now.key)
        bring(new)
        gw.sh(f"cp {NEW_CERT} {CERT}.new; chmod 444 {CERT}.new")
        scenes.settled(gw)
        assert served(gw) == now.sha256
        gw.sh(f"mv {CERT}.new {CERT}")
        is_served(new, "tedge cert renew")
        # Certificate and key in one file, the second time by a tool that leaves it open to all.
        for number in (1, 2):
            new = ca.server()
            gw.write(f"{CERTS}/both.pem", new.chain_pem + new.key_pem(), mode=0o644, replace=number == 1)
            if number == 1:
                pair = [f"mqtt.external.{half}_file={CERTS}/both.pem" for half in ("cert", "key")]
                gw.run(["tedge-agentd", "config", "set", *pair])
            is_served(new, "one file")
            assert gw.access(f"{CERTS}/both.pem") == "mosquitto:mosquitto 0600"
        assert crowd.dropped == 0
    assert gw.unit("mosquitto")["MainPID"] == broker
    counters = scenes.settled(gw)["counters"]
    assert counters["broker_reloads"] == len(TOOLS) + 3
    assert counters["broker_restarts"] == 1, "the one that opened the listener"


def test_certbots_symlinks_are_followed_into_its_archive(gw: gateway.Gateway, ca: pki.Authority) -> None:
    gw.write(
        "/etc/tedge-agentd/config.toml", 'managed_roots = ["/etc/tedge", "/etc/mosquitto", "/etc/letsencrypt"]\n'
    )
    unit = "/etc/systemd/system/tedge-agentd.service.d/letsencrypt.conf"
    gw.files.mkdir("/etc/systemd/system/tedge-agentd.service.d")
    gw.write(unit, "[Service]\nReadWritePaths=/etc/letsencrypt\n")
    live, archive = "/etc/letsencrypt/live/gateway", "/etc/letsencrypt/archive/gateway"
    gw.sh(f"mkdir -p {live} {archive}; chmod 700 /etc/letsencrypt/live /etc/letsencrypt/archive")
    authority = ca.intermediate()

    def archived(number: int) -> pki.Pair:
        pair = authority.server()
        gw.write(f"{archive}/fullchain{number}.pem", pair.chain_pem)
        gw.write(f"{archive}/privkey{number}.pem", pair.key_pem(), mode=0o600)
        return pair

    def link(number: int, name: str) -> None:
        gw.sh(
            f"rm -f {live}/{name}.pem; sleep 0.05; ln -s ../../archive/gateway/{name}{number}.pem {live}/{name}.pem"
        )

    first = archived(1)
    link(1, "fullchain")
    link(1, "privkey")
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart tedge-agentd")
    pair = [f"mqtt.external.cert_file={live}/fullchain.pem", f"mqtt.external.key_file={live}/privkey.pem"]
    gw.run(["tedge-agentd", "config", "set", "mqtt.external.bind.address=0.0.0.0", *pair])
    scenes.settled(gw)
    assert clients.handshake(gw, 8883).sha256 == first.sha256
    broker = gw.unit("mosquitto")["MainPID"]
    with clients.Crowd(gw, 8883, TLS, count=100) as crowd:
        second = archived(2)
        link(2, "fullchain")
        gw.wait_until(lambda: scenes.codes(status_now(gw)) == {"key-mismatch"})
        assert served(gw) == first.sha256
        link(2, "privkey")
        gw.wait_until(lambda: served(gw) == second.sha256)
        scenes.settled(gw)
        assert crowd.dropped == 0
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


SPOILED = {
    "an emptied certificate": (f": >{CERT}", "mqtt.external.cert_file"),
    "a deleted certificate": (f"rm {CERT}", "mqtt.external.cert_file"),
    "garbage for a certificate": (f"head -c 500 /dev/urandom >{CERT}", "mqtt.external.cert_file"),
    "an emptied key": (f": >{KEY}", "mqtt.external.key_file"),
    "garbage for a key": (f"head -c 500 /dev/urandom >{KEY}", "mqtt.external.key_file"),
    "an emptied CA": (f": >{CA}", "mqtt.external.ca_path"),
    "garbage for a CA": (f"head -c 500 /dev/urandom >{CA}", "mqtt.external.ca_path"),
    "no CA": (f"rm {CA}", "mqtt.external.ca_path"),
    "nothing left": (f"rm {CERT} {KEY}", "mqtt.external.key_file"),
}


def test_what_was_served_last_is_served_on_when_a_source_is_spoiled(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    """Through what others tell the broker, too, until the file is right again: the remedy shown makes it so."""
    old = scenes.mutual(gw, ca)
    restarts = scenes.settled(gw)["counters"]["broker_restarts"]
    child = scenes.client(ca, tmp_path)

    def serves_on(what: str) -> None:
        gw.wait_until(lambda: clients.connect(gw, 8883, child).accepted, timeout=15.0, what=what)
        assert clients.handshake(gw, 8883).sha256 == old.sha256, what
        assert not clients.connect(gw, 8883, TLS).accepted, what

    for what, (spoils, key) in SPOILED.items():
        gw.sh(spoils)
        status = scenes.settled(gw, state="blocked")
        (found,) = [one for one in status["findings"] if one["where"] == key]
        assert scenes.CERTS in found["message"], what
        gw.run("systemctl kill -s HUP mosquitto")
        serves_on(what)
        gw.sh("systemctl reset-failed mosquitto; systemctl restart mosquitto")
        serves_on(what)
        gw.sh(found["remedy"])
        status = scenes.settled(gw)
        assert status["findings"] == [], what
        assert status["counters"]["broker_restarts"] == restarts, what
        serves_on(what)
    gw.files.unlink(CERT)
    gw.reboot()
    serves_on("a reboot")
    gw.write(CERT, old.chain_pem)
    scenes.settled(gw)


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
