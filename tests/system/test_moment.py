"""The right moment: nothing is restarted in the middle of what a restart would break."""

import json
import pathlib
import time
from typing import Any

import pytest

from . import clients, gateway, pki, scenes, standins
from .conftest import MakeGateway

TOPIC = "te/device/main///cmd/software_update/c8y-17"
LOCK = "/var/lib/dpkg/lock-frontend"
# Takes the lock as apt does, and holds it until it is told to stop.
HOLD = (
    "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    "open('/run/held', 'w').close(); time.sleep({seconds})"
)


def pending(gw: gateway.Gateway, what: str) -> dict[str, Any]:
    """Wait until the status shows the restart as deferred."""

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = json.loads(gw.run("tedge-agentd status --json", check=False).stdout)
        deferred = [finding for finding in status["findings"] if finding["code"] == "deferred"]
        shown = status["state"] == "pending" and any(what in finding["message"] for finding in deferred)
        return status if shown else None

    status = gw.wait_until(look, what="a deferral")
    assert status is not None
    return status


def change_clients(gw: gateway.Gateway) -> None:
    standins.config_set(gw, "mqtt.client.host", "localhost")


def state_file(gw: gateway.Gateway, name: str, text: str) -> None:
    for directory in ("/data", "/data/tedge", "/data/tedge/agent", "/etc/tedge/.agent"):
        gw.files.mkdir(directory, owner="tedge", mode=0o755)
    gw.write(name, text, owner="tedge")


# Operations -------------------------------------------------------------------------------------------------


def test_an_operation_on_mqtt_keeps_tedge_agent_and_nobody_else(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    clients.publish(gw, TOPIC, json.dumps({"status": "executing", "updateList": []}), "-r")
    agent, mapper = gw.invocation("tedge-agent"), gw.invocation("tedge-mapper-c8y")
    change_clients(gw)
    status = pending(gw, "software_update")
    assert [found["where"] for found in status["findings"] if found["code"] == "deferred"] == ["tedge-agent.service"]
    assert gw.invocation("tedge-agent") == agent
    assert gw.invocation("tedge-mapper-c8y") != mapper
    clients.publish(gw, TOPIC, json.dumps({"status": "successful"}), "-r")
    ended = time.monotonic()
    gw.wait_until(lambda: gw.invocation("tedge-agent") != agent)
    assert time.monotonic() - ended < 5
    assert scenes.settled(gw)["findings"] == []


@pytest.mark.parametrize(
    ("path", "busy", "idle"),
    [
        ("/etc/tedge/.agent/software-current-operation", 'operation = "update"\n', ""),
        ("/data/tedge/agent/restart-current-operation", '{"operation": "restart"}', ""),
        (
            "/data/tedge/agent/workflows",
            json.dumps({"version": "V1", "commands": {TOPIC: {"status": "step-2", "unix_timestamp": 1}}}),
            '{"version": "V1", "commands": {}}',
        ),
    ],
)
def test_an_operation_that_the_agent_has_written_down_keeps_it(
    gw: gateway.Gateway, path: str, busy: str, idle: str
) -> None:
    scenes.settled(gw)
    state_file(gw, path, busy)
    agent = gw.invocation("tedge-agent")
    change_clients(gw)
    pending(gw, "tedge-agent")
    assert gw.invocation("tedge-agent") == agent
    state_file(gw, path, idle)
    gw.wait_until(lambda: gw.invocation("tedge-agent") != agent)


def test_an_operation_does_not_keep_the_broker(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """Clients come back by themselves when the broker does; an operation goes on meanwhile."""
    scenes.settled(gw)
    clients.publish(gw, TOPIC, json.dumps({"status": "executing"}), "-r")
    agent = gw.invocation("tedge-agent")
    scenes.write_pair(gw, ca.server())
    standins.config_set(gw, "mqtt.external.cert_file", scenes.CERT)
    standins.config_set(gw, "mqtt.external.key_file", scenes.KEY)
    scenes.settled(gw)
    assert clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted
    assert gw.invocation("tedge-agent") == agent


def test_a_deferral_ends_after_max_deferral_and_says_so(gw: gateway.Gateway) -> None:
    gw.write("/etc/tedge-agentd/config.toml", "max_deferral = 4\n")
    scenes.settled(gw)
    clients.publish(gw, TOPIC, json.dumps({"status": "executing"}), "-r")
    agent = gw.invocation("tedge-agent")
    change_clients(gw)
    begun = time.monotonic()
    pending(gw, "software_update")
    gw.wait_until(lambda: gw.invocation("tedge-agent") != agent)
    assert time.monotonic() - begun > 3.5
    scenes.settled(gw)
    assert any("max_deferral" in text for text in gw.messages("tedge-agentd"))


def test_a_deferral_outlives_the_daemon(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    clients.publish(gw, TOPIC, json.dumps({"status": "executing"}), "-r")
    agent = gw.invocation("tedge-agent")
    change_clients(gw)
    pending(gw, "software_update")
    killed = gw.unit("tedge-agentd")["MainPID"]
    gw.run("systemctl kill --signal=KILL tedge-agentd")
    gw.wait_until(lambda: gw.active("tedge-agentd") and gw.unit("tedge-agentd")["MainPID"] not in ("0", killed))
    pending(gw, "software_update")
    assert gw.invocation("tedge-agent") == agent
    gw.run(["mosquitto_pub", "-r", "-n", "-t", TOPIC])
    gw.wait_until(lambda: gw.invocation("tedge-agent") != agent)


def test_live_messages_and_answers_on_command_topics_are_no_operations(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    clients.publish(gw, TOPIC, json.dumps({"status": "failed"}), "-r")
    clients.publish(gw, "te/device/main///cmd/restart", "{}", "-r")  # a capability
    clients.publish(gw, "te/device/child///cmd/restart/1", json.dumps({"status": "executing"}), "-r")
    agent = gw.invocation("tedge-agent")
    change_clients(gw)
    scenes.settled(gw)
    assert gw.invocation("tedge-agent") != agent


# Renewals ---------------------------------------------------------------------------------------------------


def test_nothing_is_restarted_while_the_certificate_renewer_runs(gw: gateway.Gateway, ca: pki.Authority) -> None:
    gw.write(
        "/etc/systemd/system/tedge-cert-renewer@.service.d/slow.conf",
        "[Service]\nExecStart=\nExecStart=/bin/sleep 8\n",
    )
    gw.run("systemctl daemon-reload")
    scenes.settled(gw)
    broker, agent = gw.invocation("mosquitto"), gw.invocation("tedge-agent")
    gw.run("systemctl start --no-block tedge-cert-renewer@c8y")
    scenes.server(gw, ca)
    change_clients(gw)
    status = pending(gw, "tedge-cert-renewer@c8y.service")
    where = " ".join(found["where"] for found in status["findings"] if found["code"] == "deferred")
    assert "mosquitto.service" in where
    assert (gw.invocation("mosquitto"), gw.invocation("tedge-agent")) == (broker, agent)
    scenes.settled(gw, seconds=20.0)
    assert gw.invocation("mosquitto") != broker
    assert gw.invocation("tedge-agent") != agent
    assert gw.unit("tedge-cert-renewer@c8y.service")["Result"] == "success"


# Packages ---------------------------------------------------------------------------------------------------


def test_nothing_is_restarted_while_packages_are_installed(gw: gateway.Gateway, ca: pki.Authority) -> None:
    scenes.settled(gw)
    broker = gw.invocation("mosquitto")
    gw.run(["systemd-run", "--unit=apt-like", "python3", "-c", HOLD.format(seconds=5)])
    gw.wait_until(lambda: gw.exists("/run/held"))
    scenes.server(gw, ca)
    pending(gw, "packages")
    assert gw.invocation("mosquitto") == broker
    gw.run("systemctl stop apt-like")
    scenes.settled(gw)
    assert gw.invocation("mosquitto") != broker
    assert clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted


def test_a_broker_that_fails_meanwhile_is_brought_back_at_once(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    gw.run(["systemd-run", "--unit=apt-like", "python3", "-c", HOLD.format(seconds=60)])
    gw.wait_until(lambda: gw.exists("/run/held"))
    gw.write("/etc/tedge/mosquitto-conf/tedge-mosquitto.conf", "listener 1883 203.0.113.1\n")
    gw.run("systemctl restart mosquitto", check=False)
    gw.wait_until(lambda: clients.connect(gw, 1883).accepted, timeout=15)


def test_our_own_installation_by_tedge_agent_is_not_cut_short(
    thin_edge: gateway.Gateway, deb: pathlib.Path, ca: pki.Authority
) -> None:
    """apt runs in tedge-agent's own cgroup: whoever restarts tedge-agent kills its installation."""
    gw = thin_edge
    scenes.server(gw, ca)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    gw.write("/root/package.deb", deb.read_bytes())
    gw.write(
        "/etc/systemd/system/tedge-agent.service.d/operation.conf",
        "[Service]\nUser=\nEnvironment=DEBIAN_FRONTEND=noninteractive\nExecStartPost=/bin/sh /root/operation\n",
    )
    gw.write("/root/operation", "apt-get -qy install /root/package.deb >/root/apt.log 2>&1; echo $? >/root/apt.rc\n")
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart --no-block tedge-agent")
    gw.wait_until(lambda: gw.exists("/root/apt.rc"), timeout=60)
    assert gw.read("/root/apt.rc").strip() == "0", gw.read("/root/apt.log")
    gw.wait_until(lambda: clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted, timeout=15)
    scenes.settled(gw)
    assert gw.run("dpkg --audit").stdout == ""


def test_an_upgrade_of_the_broker_by_apt_is_left_to_apt(make_gateway: MakeGateway, deb: pathlib.Path) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw)
    gw.boot()
    before = scenes.settled(gw)
    starts = scenes.starts(gw, "mosquitto")
    gw.run("apt-get -qy install --reinstall mosquitto", timeout=120)
    after = scenes.settled(gw)
    assert after["counters"]["broker_restarts"] == before["counters"]["broker_restarts"]
    assert scenes.starts(gw, "mosquitto") - starts <= 1
    assert clients.connect(gw, 1883).accepted
