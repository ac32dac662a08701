"""The right services: those that run and match, no others; and what becomes of each."""

import json
import pathlib
import time

import pytest

from . import gateway, pki, scenes, standins
from .conftest import MakeGateway

CUSTOM = """\
[Unit]
Description=A plugin of the community

[Service]
ExecStart=/bin/sleep infinity
{extra}
"""
NEVER = ("tedge-p11-server", "c8y-remote-access-plugin@1")  # nor a renewer: while one runs, everything waits
MAPPERS = ("tedge-mapper-c8y", "tedge-mapper-c8y@site", "tedge-mapper-local")


def add_unit(gw: gateway.Gateway, name: str, *, extra: str = "") -> None:
    gw.write(f"/etc/systemd/system/{name}.service", CUSTOM.format(extra=extra))
    gw.run("systemctl daemon-reload")
    gw.run(["systemctl", "start", name])


@pytest.fixture
def crowded(make_gateway: MakeGateway, deb: pathlib.Path) -> gateway.Gateway:
    """A gateway with services of every kind."""
    gw = make_gateway(deb=deb)
    services = ("tedge-agent", *MAPPERS, "c8y-firmware-plugin", "tedge-watchdog")
    standins.install(gw, services=services)
    gw.boot()
    standins.wait_connected(gw, services)
    for name in (*NEVER, "tedge-mapper-own", "tedge-container-plugin", "unrelated"):
        add_unit(gw, name)
    scenes.settled(gw)
    return gw


def invocations(gw: gateway.Gateway, *names: str) -> dict[str, str]:
    return {name: gw.invocation(f"{name}.service") for name in names}


def test_every_running_client_follows_a_change_once_and_nobody_else(crowded: gateway.Gateway) -> None:
    gw = crowded
    clients = ("tedge-agent", *MAPPERS, "tedge-mapper-own", "c8y-firmware-plugin", "tedge-watchdog")
    others = (*NEVER, "tedge-container-plugin", "unrelated", "tedge-agentd", "mosquitto")
    gw.run("systemctl stop tedge-mapper-local")
    before, aside = invocations(gw, *clients), invocations(gw, *others)
    starts = {name: scenes.starts(gw, name) for name in clients}
    standins.config_set(gw, "mqtt.client.host", "localhost")
    status = scenes.settled(gw)
    after = invocations(gw, *clients)
    changed = {name for name in clients if after[name] != before[name]}
    assert changed == {*clients} - {"tedge-mapper-local"}
    assert all(scenes.starts(gw, name) == starts[name] + 1 for name in changed)
    assert not gw.active("tedge-mapper-local"), "stopped stays stopped"
    assert invocations(gw, *others) == aside
    assert status["counters"]["client_restarts"] == len(changed)


def test_a_plugin_of_the_community_follows_by_setting(crowded: gateway.Gateway) -> None:
    gw = crowded
    gw.write("/etc/tedge-agentd/config.toml", 'extra_client_units = ["tedge-container-plugin.service"]\n')
    scenes.settled(gw)
    before = gw.invocation("tedge-container-plugin")
    standins.config_set(gw, "mqtt.client.host", "localhost")
    scenes.settled(gw)
    assert gw.invocation("tedge-container-plugin") != before


def test_no_setting_makes_the_daemon_restart_what_must_never_be(crowded: gateway.Gateway) -> None:
    gw = crowded
    gw.write("/etc/tedge-agentd/config.toml", 'extra_client_units = ["tedge-*", "c8y-*"]\n')
    scenes.settled(gw)
    before = invocations(gw, *NEVER, "tedge-agentd")
    standins.config_set(gw, "mqtt.client.host", "localhost")
    scenes.settled(gw)
    assert invocations(gw, *NEVER, "tedge-agentd") == before


@pytest.mark.parametrize("how", ["crash", "stop", "power-cut"])
def test_a_service_that_started_before_a_change_nobody_saw_is_stale(gw: gateway.Gateway, how: str) -> None:
    scenes.settled(gw)
    if how == "crash":
        gw.run("systemctl kill --signal=KILL tedge-agentd")
    else:
        gw.run("systemctl stop tedge-agentd")
    before = gw.invocation("tedge-agent")
    standins.config_set(gw, "mqtt.client.host", "localhost")
    if how == "power-cut":
        gw.power_cut()
        gw.boot()
        standins.wait_connected(gw)
        starts = scenes.starts(gw, "tedge-agent")
        status = scenes.settled(gw)
        assert status["counters"]["client_restarts"] == 0, "it has read the new settings at its start"
        assert scenes.starts(gw, "tedge-agent") == starts
        return
    gw.run("systemctl start tedge-agentd")
    scenes.settled(gw)
    assert gw.invocation("tedge-agent") != before


def test_a_service_started_after_the_change_is_left_alone(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    gw.run("systemctl stop tedge-agentd")
    standins.config_set(gw, "mqtt.client.host", "localhost")
    gw.run("systemctl restart tedge-agent")
    agent, mapper = gw.invocation("tedge-agent"), gw.invocation("tedge-mapper-c8y")
    gw.run("systemctl start tedge-agentd")
    scenes.settled(gw)
    # The daemon cannot know when the file changed while it was away: it may restart a service once too often,
    # but never leave a stale one.
    assert gw.invocation("tedge-mapper-c8y") != mapper
    assert agent


def test_a_client_that_fails_after_its_restart_is_told_with_its_last_words(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    gw.write(
        "/etc/systemd/system/tedge-mapper-c8y.service.d/broken.conf",
        "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo the CA file is empty, giving up; exit 255'\n",
    )
    gw.run("systemctl daemon-reload")
    standins.config_set(gw, "mqtt.client.host", "localhost")
    status = scenes.settled(gw, state="degraded")
    (finding,) = [found for found in status["findings"] if found["code"] == "client-failed"]
    assert finding["where"] == "tedge-mapper-c8y.service"
    assert finding["severity"] == "error"
    assert "the CA file is empty, giving up" in finding["message"]
    assert "journalctl -u tedge-mapper-c8y.service" in finding["remedy"]
    starts = scenes.starts(gw, "tedge-mapper-c8y")
    time.sleep(3)
    assert scenes.starts(gw, "tedge-mapper-c8y") == starts, "it is not started again and again"
    gw.files.unlink("/etc/systemd/system/tedge-mapper-c8y.service.d/broken.conf")
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart tedge-mapper-c8y")  # the remedy
    assert scenes.settled(gw)["findings"] == []


def test_a_client_that_failed_for_its_settings_comes_back_with_better_ones(gw: gateway.Gateway) -> None:
    """A mistake in tedge.toml, a restart by somebody else, the mistake mended: hands-off, and no truck is sent."""
    scenes.settled(gw)
    gw.write(
        "/etc/systemd/system/tedge-mapper-c8y.service.d/picky.conf",
        "[Service]\nRestart=no\nExecStartPre=/bin/sh -c '! grep -q unbearable /etc/tedge/tedge.toml'\n",
    )
    gw.run("systemctl daemon-reload")
    standins.config_set(gw, "mqtt.topic_root", "unbearable")
    scenes.settled(gw, state="degraded")
    gw.wait_until(lambda: gw.unit("tedge-mapper-c8y.service")["ActiveState"] == "failed")
    starts = gw.unit("tedge-mapper-c8y.service")["InactiveEnterTimestampMonotonic"]
    gw.run("systemctl reload tedge-agentd")
    scenes.settled(gw, state="degraded")
    assert gw.unit("tedge-mapper-c8y.service")["InactiveEnterTimestampMonotonic"] == starts, "one attempt a change"
    standins.config_set(gw, "mqtt.topic_root", "better")
    assert scenes.settled(gw)["findings"] == []
    assert gw.active("tedge-mapper-c8y")
    good = gw.read("/etc/tedge/tedge.toml")
    before = gw.invocation("tedge-agent")
    gw.write("/etc/tedge/tedge.toml", good + "[[[ # unbearable\n")
    scenes.settled(gw, state="blocked")
    gw.run("systemctl restart tedge-mapper-c8y", check=False)
    gw.wait_until(lambda: gw.unit("tedge-mapper-c8y.service")["ActiveState"] == "failed")
    gw.write("/etc/tedge/tedge.toml", good)
    assert scenes.settled(gw)["findings"] == []
    assert gw.active("tedge-mapper-c8y")
    assert gw.invocation("tedge-agent") == before, "it ran all the time, with what is there again"


def test_many_changes_in_a_row_leave_every_client_running(gw: gateway.Gateway) -> None:
    """systemd refuses to start what was started five times in ten seconds, however good it is."""
    for number in range(8):
        gw.run(["tedge-agentd", "config", "set", f"mqtt.topic_root=root{number}"])
        status = scenes.settled(gw)
    assert status["findings"] == []
    assert gw.active("tedge-agent")
    assert gw.active("tedge-mapper-c8y")


def test_a_client_that_had_failed_before_is_a_warning_and_stays_failed(gw: gateway.Gateway) -> None:
    gw.write(
        "/etc/systemd/system/tedge-mapper-own.service",
        "[Service]\nExecStart=/bin/sh -c 'echo there is no cloud; exit 1'\n",
    )
    gw.run("systemctl daemon-reload")
    gw.run("systemctl start tedge-mapper-own", check=False)
    gw.wait_until(lambda: gw.unit("tedge-mapper-own.service")["ActiveState"] == "failed")
    status = scenes.settled(gw)
    (finding,) = [found for found in status["findings"] if found["code"] == "client-failed"]
    assert finding["severity"] == "warning"
    assert "there is no cloud" in finding["message"]
    standins.config_set(gw, "mqtt.client.host", "localhost")
    scenes.settled(gw)
    assert gw.unit("tedge-mapper-own.service")["ActiveState"] == "failed"


def test_clients_are_restarted_after_the_broker_has_verified(gw: gateway.Gateway, ca: pki.Authority) -> None:
    scenes.settled(gw)
    scenes.server(gw, ca)
    gw.write(f"{scenes.CERTS}/ca.crt", ca.pem)
    for key, value in (("port", "8883"), ("auth.ca_file", f"{scenes.CERTS}/ca.crt")):
        standins.config_set(gw, f"mqtt.client.{key}", value)
    scenes.settled(gw)
    broker = int(gw.unit("mosquitto.service")["ActiveEnterTimestampMonotonic"])
    for name in standins.DEFAULT_SERVICES:
        assert int(gw.unit(f"{name}.service")["ExecMainStartTimestampMonotonic"]) > broker


def test_settings_with_which_nobody_can_log_in_restart_nobody(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    before = invocations(gw, *standins.DEFAULT_SERVICES)
    standins.config_set(gw, "mqtt.client.port", 8883)
    status = scenes.settled(gw, state="blocked")
    assert "client-login" in scenes.codes(status)
    assert invocations(gw, *standins.DEFAULT_SERVICES) == before
    standins.config_unset(gw, "mqtt.client.port")
    scenes.settled(gw)


def test_status_lists_services_with_what_was_done(gw: gateway.Gateway) -> None:
    scenes.settled(gw)
    data = json.loads(gw.run("tedge-agentd status --json").stdout)
    assert {service["unit"] for service in data["services"]} == {
        "mosquitto.service",
        *(f"{name}.service" for name in standins.DEFAULT_SERVICES),
    }
