"""The guide's level with a user name and a password: its file's owner, its changes, and logins that would fail."""

import time

import pytest

from . import clients, gateway, pki, runs, scenes, standins

PASSWORD = "/etc/tedge/mqtt-password"
BROKERS = "/etc/mosquitto/passwd"  # what the site's own listener checks it with
UNITS = [runs.BROKER, *(f"{name}.service" for name in standins.DEFAULT_SERVICES)]
LOGIN = ("mqtt.client.auth.username=gateway", f"mqtt.client.auth.password_file={PASSWORD}")
SITE = f"listener 1884 127.0.0.1\nallow_anonymous false\npassword_file {BROKERS}\n"
SITE_TLS = "certfile /etc/mosquitto/certs/site.crt\nkeyfile /etc/mosquitto/certs/site.key\n"


def broker_takes(gw: gateway.Gateway, password: str) -> None:
    gw.sh(f"touch {BROKERS}; mosquitto_passwd -b {BROKERS} gateway {password}")
    gw.sh(f"chown mosquitto: {BROKERS}; chmod 600 {BROKERS}; systemctl reload mosquitto")


def followed(gw: gateway.Gateway, before: dict[str, runs.Run]) -> set[str]:
    return runs.restarted(before, runs.of(gw, UNITS))


@pytest.mark.parametrize("tls", [False, True], ids=["alone", "on top of TLS"])
def test_clients_log_in_with_a_password_and_follow_its_changes(
    gw: gateway.Gateway, ca: pki.Authority, tls: bool
) -> None:
    """The daemon's own listeners take no passwords: a site that wants them brings one of its own."""
    keys = [
        "mqtt.client.port=1884",
        "mqtt.client.auth.username=gateway",
        f"mqtt.client.auth.password_file={PASSWORD}",
    ]
    if tls:
        pair = ca.server()
        gw.write("/etc/mosquitto/certs/site.crt", pair.chain_pem)
        gw.write("/etc/mosquitto/certs/site.key", pair.key_pem(), owner="mosquitto", mode=0o600)
        gw.write("/etc/tedge/site-ca.crt", ca.pem)
        keys.append("mqtt.client.auth.ca_file=/etc/tedge/site-ca.crt")
    broker_takes(gw, "first")
    gw.write("/etc/mosquitto/conf.d/site.conf", SITE + (SITE_TLS if tls else ""))
    gw.run("systemctl restart mosquitto")
    gw.write(PASSWORD, "first\n")
    since = time.time()
    gw.run(["tedge-agentd", "config", "set", *keys])
    assert scenes.settled(gw)["findings"] == [], "a port of the site's is no mistake"
    assert gw.access(PASSWORD) == "tedge:tedge 0600"
    gw.wait_until(
        lambda: all(
            standins.connected(gw, name, since=since)[-1:] == [f"127.0.0.1:1884 ({'tls' if tls else 'plain'})"]
            for name in standins.DEFAULT_SERVICES
        ),
        what="the clients on the site's listener",
    )
    before = runs.of(gw, UNITS)

    def is_refused(code: str, where: str) -> None:
        status = scenes.settled(gw, state="blocked")
        (found,) = [one for one in status["findings"] if one["severity"] == "error"]
        assert (found["code"], found["where"]) == (code, where)
        assert found["remedy"]
        assert followed(gw, before) == set(), "what runs goes on with the password that it has read"

    gw.write(PASSWORD, "wrong\n", mode=0o640)
    is_refused("client-login", "mqtt.client")
    assert gw.access(PASSWORD) == "tedge:tedge 0600"
    gw.write(PASSWORD, "", mode=0o600)
    is_refused("client-login", "mqtt.client")
    gw.files.unlink(PASSWORD)
    is_refused("file-missing", "mqtt.client.auth.password_file")
    gw.write(PASSWORD, "first\n", owner="mosquitto", mode=0o600)
    is_refused("ownership", "mqtt.client.auth.password_file")
    gw.write(PASSWORD, "first\n", mode=0o644, replace=True)
    assert scenes.settled(gw)["findings"] == []
    assert followed(gw, before) == set(), "the password is the one they have read"

    # Changed on the clients' side first: tried again until the broker takes it, by which nothing can be seen.
    gw.write(PASSWORD, "second\nits second line is a remark\n", mode=0o400, replace=True)
    is_refused("client-login", "mqtt.client")
    broker_takes(gw, "second")
    gw.wait_until(
        lambda: followed(gw, before) == set(UNITS[1:]), timeout=30, what="the clients with the new password"
    )
    assert scenes.settled(gw)["findings"] == []
    assert gw.access(PASSWORD) == "tedge:tedge 0400"
    assert not clients.connect(gw, 1884, clients.Credentials(tls=tls)).accepted


def test_a_site_may_serve_port_1883_itself_and_ask_for_a_password_there(gw: gateway.Gateway) -> None:
    broker_takes(gw, "secret")
    gw.write(PASSWORD, "secret\n")
    gw.run(["tedge-agentd", "config", "set", *LOGIN, "mqtt.bind.enabled=false"])
    scenes.settled(gw)
    gw.write("/etc/mosquitto/conf.d/site.conf", SITE.replace("1884", "1883"))
    assert scenes.settled(gw)["findings"] == []
    assert gw.files.listdir("/etc/tedge/mosquitto-conf") == [], "thin-edge's file would keep the broker from starting"
    assert not clients.connect(gw, 1883).accepted
    assert clients.connect(gw, 1883, clients.Credentials(username="gateway", password="secret")).accepted
    before = runs.of(gw, UNITS)
    gw.write(PASSWORD, "secret\nrotated on Monday\n", mode=0o600, replace=True)
    scenes.settled(gw)
    assert followed(gw, before) == set(UNITS[1:])
