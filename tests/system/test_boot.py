"""Booting: before the broker, never in its way, and what changed while the machine was off costs no restart."""

import pathlib

from . import clients, gateway, pki, scenes, standins
from .conftest import MakeGateway


def broker_starts(gw: gateway.Gateway) -> int:
    """How often systemd has started the broker since this boot."""
    said = gw.run("journalctl --boot --unit=mosquitto --output=cat").stdout.splitlines()
    return sum(line.startswith("Started mosquitto") for line in said)


def monotonic(gw: gateway.Gateway, unit: str, which: str) -> int:
    return int(gw.run(["systemctl", "show", "--value", f"--property={which}Monotonic", unit]).stdout)


def test_what_changed_while_the_machine_was_off_is_served_by_the_brokers_first_start(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.settled(gw)
    gw.shutdown()
    scenes.write_pair(gw, ca.server())
    gw.write(scenes.CA, ca.pem)
    toml = f'[mqtt.external]\ncert_file = "{scenes.CERT}"\nkey_file = "{scenes.KEY}"\nca_path = "{scenes.CA}"\n'
    standins.write_toml(gw, f'[config]\nversion = "2"\n{toml}')
    gw.boot()
    child = scenes.client(ca, tmp_path)
    gw.wait_until(lambda: clients.connect(gw, 8883, child).accepted)
    status = scenes.settled(gw)
    assert all(one["verified"] for one in status["listeners"])
    assert status["counters"]["broker_restarts"] == 0
    assert broker_starts(gw) == 1
    assert gw.unit("mosquitto")["NRestarts"] == "0"


def test_a_reboot_without_a_change_restarts_nothing_and_the_daemon_comes_first(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    gw.reboot()
    standins.wait_connected(gw)
    status = scenes.settled(gw)
    counters = status["counters"]
    assert (counters["broker_restarts"], counters["broker_reloads"], counters["client_restarts"]) == (0, 0, 0)
    assert broker_starts(gw) == 1
    ready = monotonic(gw, "tedge-agentd", "ActiveEnterTimestamp")
    assert ready <= monotonic(gw, "mosquitto", "ExecMainStartTimestamp")


def test_a_power_cut_after_a_change_leaves_a_gateway_that_serves(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.mutual(gw, ca)
    gw.power_cut()
    gw.boot()
    child = scenes.client(ca, tmp_path)
    gw.wait_until(lambda: clients.connect(gw, 8883, child).accepted)
    scenes.settled(gw)
    assert not clients.connect(gw, 8883, scenes.trusting(ca, tmp_path)).accepted


def test_a_daemon_that_is_started_late_restarts_the_broker_without_waiting_for_itself(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    """Being ordered before the broker, a job for it would wait for the end of our own start."""
    gw.run("systemctl stop tedge-agentd")
    pair = scenes.server(gw, ca)
    gw.run("systemctl start tedge-agentd", timeout=10)
    gw.wait_until(lambda: clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted, timeout=5.0)
    assert clients.handshake(gw, 8883).sha256 == pair.sha256


def test_thin_edge_may_come_after_the_daemon(make_gateway: MakeGateway, deb: pathlib.Path) -> None:
    gw = make_gateway(deb=deb)
    gw.boot()
    status = scenes.settled(gw)
    assert "tedge-not-installed" in scenes.codes(status)
    standins.install(gw)
    standins.config_set(gw, "mqtt.external.bind.address", scenes.LAN)
    gw.wait_until(lambda: clients.connect(gw, 1883, host=scenes.LAN, outside=True).accepted, timeout=15.0)
    scenes.settled(gw)
