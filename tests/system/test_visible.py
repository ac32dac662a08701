"""Seen in the cloud: what is on the broker for thin-edge to pass on, at which moments, and what is not."""

import contextlib
import json
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from . import clients, conftest, gateway, pki, scenes, standins

SERVICE = "te/device/main/service/tedge-agentd"
HEALTH = f"{SERVICE}/status/health"
CHECKS = (f"{SERVICE}/cmd/health/check", "te/device/main///cmd/health/check")
DIAG = "/usr/share/tedge/diag-plugins/50_tedge-agentd.sh"
CONFIG = "/usr/share/tedge/config-plugins/tedge-agentd"


class Watcher:
    """mosquitto_sub, writing down with its time what is published for others to see."""

    def __init__(self, gw: gateway.Gateway) -> None:
        self._gw = gw

    def rows(self) -> list[tuple[float, str, str]]:
        """What was published while it was connected, retained messages of before left out."""
        rows = [line.split("\t") for line in self._gw.read("/root/seen").splitlines()]
        return [(float(row[0]), row[2], row[3]) for row in rows if row[1] == "0" and row[2] not in CHECKS]

    def topics(self) -> list[str]:
        return [topic for _, topic, _ in self.rows()]


@contextlib.contextmanager
def watching(gw: gateway.Gateway) -> Iterator[Watcher]:
    words = ["mosquitto_sub", "-t", f"{SERVICE}/#", "-F", "%U\t%r\t%t\t%p"]
    process = subprocess.Popen(
        gw.command(["sh", "-c", f"exec {' '.join(repr(word) for word in words)} >/root/seen"]),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        gw.wait_until(lambda: gw.exists("/root/seen") and gw.read("/root/seen").count("\n") >= 2, what="the watcher")
        yield Watcher(gw)
    finally:
        process.terminate()
        process.wait()


def held(gw: gateway.Gateway) -> dict[str, dict[str, Any]]:
    """What the broker retains of the service, by what follows its topic."""
    words = ["mosquitto_sub", "-t", f"{SERVICE}/#", "-t", SERVICE, "--retained-only", "-W", "1", "-F", "%t\t%p"]
    lines = gw.run(words, check=False).stdout.splitlines()
    return {
        topic.removeprefix(SERVICE): json.loads(text) for topic, _, text in (row.partition("\t") for row in lines)
    }


def status_of(gw: gateway.Gateway) -> str:
    return str(held(gw).get("/status/health", {}).get("status"))


def pid(gw: gateway.Gateway) -> int:
    return int(gw.unit(scenes.UNIT)["MainPID"])


def wait_up(gw: gateway.Gateway) -> None:
    gw.wait_until(lambda: is_up(gw), what="the health message")


def is_up(gw: gateway.Gateway) -> bool:
    health = held(gw).get("/status/health", {})
    return health == {"pid": pid(gw), "status": "up", "time": health.get("time")}


# Registration and health ------------------------------------------------------------------------------------


def test_it_is_a_service_of_the_device_from_its_first_start_on(gw: gateway.Gateway) -> None:
    wait_up(gw)
    assert held(gw)[""] == {
        "@parent": "device/main//",
        "@type": "service",
        "name": "tedge-agentd",
        "type": "service",
    }
    assert set(held(gw)) == {"", "/status/health"}
    for topic in CHECKS:
        before = held(gw)["/status/health"]["time"]
        clients.publish(gw, topic, "{}")
        gw.wait_until(lambda before=before: held(gw)["/status/health"]["time"] > before, what="an answer")  # type: ignore[misc]
    gw.reboot()
    wait_up(gw)


def test_its_end_is_seen_however_it_ends(gw: gateway.Gateway) -> None:
    wait_up(gw)
    first = pid(gw)
    with watching(gw) as watcher:
        gw.run(["kill", "-9", str(first)])
        gw.wait_until(lambda: len(watcher.rows()) == 2, what="down and up")
        down, again = (json.loads(text) for _, _, text in watcher.rows())
        assert down == {"pid": first, "status": "down"}
        assert (again["pid"], again["status"]) == (pid(gw), "up")
        second = pid(gw)
        gw.run("systemctl stop tedge-agentd")
        gw.wait_until(lambda: len(watcher.rows()) == 3, what="down")
        assert json.loads(watcher.rows()[-1][2]) == {"pid": second, "status": "down"}


@pytest.mark.slow
def test_where_the_broker_does_not_hear_it_nobody_waits_and_the_next_start_sets_it_right(gw: gateway.Gateway) -> None:
    broker = "systemctl kill --kill-whom=main mosquitto --signal"
    for away, back, left in (
        ("systemctl stop mosquitto", "systemctl start mosquitto", "up"),  # nobody could say otherwise
        (f"{broker}=STOP", f"{broker}=CONT", "down"),  # it hears what was said once it goes on
    ):
        wait_up(gw)
        gw.run(away)
        begun = time.monotonic()
        gw.run("systemctl stop tedge-agentd")
        assert time.monotonic() - begun < 8.0, "a second for its last word, and a slow machine"
        assert gw.unit(scenes.UNIT)["Result"] == "success"
        gw.run(back)
        assert status_of(gw) == left
        gw.run("systemctl start tedge-agentd")
        wait_up(gw)
        gw.run(away)
        died = pid(gw)
        gw.run(["kill", "-9", str(died)])
        gw.wait_until(lambda died=died: pid(gw) not in (0, died), timeout=20, what="the next one")  # type: ignore[misc]
        gw.run(back)
        wait_up(gw)


def test_with_another_topic_root_and_device_it_is_found_there_alone(gw: gateway.Gateway) -> None:
    wait_up(gw)
    starts = scenes.starts(gw, "tedge-agent")
    standins.config_set(gw, "service.type", "systemd")
    standins.config_set(gw, "service.timestamp_format", "rfc-3339")
    gw.wait_until(lambda: held(gw)[""]["type"] == "systemd", what="the registration with its type")
    gw.wait_until(lambda: str(held(gw)["/status/health"]["time"]).endswith("+00:00"), what="a time in words")
    scenes.settled(gw)
    assert scenes.starts(gw, "tedge-agent") == starts, "nothing of it is MQTT's"
    standins.config_set(gw, "mqtt.topic_root", "acme")
    standins.config_set(gw, "mqtt.device_topic_id", "device/gw-7//")
    topic = "acme/device/gw-7/service/tedge-agentd/status/health"
    gw.wait_until(lambda: clients.subscribe(gw, topic, seconds=1), what="the health message there")
    for place in (SERVICE, "acme/device/main/service/tedge-agentd", "te/device/gw-7/service/tedge-agentd"):
        gw.wait_until(
            lambda place=place: not clients.subscribe(gw, f"{place}/#", seconds=1),  # type: ignore[misc]
            what=f"nothing left below {place}",
        )


def test_it_is_seen_through_a_mutual_listener_with_the_clients_certificate(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    scenes.mutual(gw, ca)
    own = ca.client("tedge")
    for name, text in (("client.crt", own.pem), ("client.key", own.key_pem()), ("broker-ca.crt", ca.pem)):
        gw.write(f"{scenes.CERTS}/{name}", text)
    for key, value in (("ca_file", "broker-ca.crt"), ("cert_file", "client.crt"), ("key_file", "client.key")):
        standins.config_set(gw, f"mqtt.client.auth.{key}", f"{scenes.CERTS}/{value}")
    standins.config_set(gw, "mqtt.client.port", 8883)
    scenes.settled(gw)
    memory = "/var/lib/tedge-agentd/publish.json"
    gw.wait_until(
        lambda: json.loads(gw.read(memory))["target"]["client"]["port"] == 8883, what="its connection there"
    )
    assert gw.access(memory) == "root:root 0600"
    clients.publish(gw, CHECKS[0], "{}")
    wait_up(gw)


# Alarms -----------------------------------------------------------------------------------------------------


def test_a_certificate_that_ends_soon_is_an_alarm_until_it_is_renewed(gw: gateway.Gateway, ca: pki.Authority) -> None:
    ending = ca.issue("gateway", usage="server", sans=["127.0.0.1", "localhost"], ends=5 * pki.DAY)
    scenes.server(gw, ca)
    scenes.write_pair(gw, ending)
    status = scenes.settled(gw)
    assert "certificate-expires" in scenes.codes(status)
    name = "/a/tedge_agentd_certificate"
    gw.wait_until(lambda: name in held(gw), what="the alarm")
    alarm = held(gw)[name]
    assert alarm["severity"] == "warning"
    assert "expires within 7 days" in alarm["text"]
    restarts = status["counters"]["broker_restarts"]
    with watching(gw) as watcher:
        scenes.write_pair(gw, ca.server())
        status = scenes.settled(gw)
        gw.wait_until(watcher.rows, what="its end")
        assert [row[1:] for row in watcher.rows()] == [(f"{SERVICE}{name}", "")]
    assert status["counters"]["broker_restarts"] == restarts
    assert name not in held(gw)


@pytest.mark.slow
def test_a_blocked_state_that_lasts_is_an_alarm_until_it_is_over(gw: gateway.Gateway, ca: pki.Authority) -> None:
    wait_up(gw)
    with watching(gw) as watcher:
        begun = time.time()
        scenes.write_pair(gw, ca.server())
        standins.config_set(gw, "mqtt.external.cert_file", scenes.CERT)
        scenes.settled(gw, state="blocked")
        gw.wait_until(watcher.rows, timeout=45.0, what="the alarm")
        (when, topic, text), *others = watcher.rows()
        assert not others
        assert topic == f"{SERVICE}/a/tedge_agentd_blocked"
        assert 28 < when - begun < 40
        alarm = json.loads(text)
        assert alarm["severity"] == "major"
        assert "mqtt.external.key_file" in alarm["text"]
        assert "tedge config" in alarm["text"]
        standins.config_set(gw, "mqtt.external.key_file", scenes.KEY)
        scenes.settled(gw)
    gw.wait_until(lambda: "/a/tedge_agentd_blocked" not in held(gw), what="its end")


@pytest.mark.slow
def test_a_tedge_toml_that_nobody_can_read_is_an_alarm_where_it_was_seen_last(gw: gateway.Gateway) -> None:
    wait_up(gw)
    standins.write_toml(gw, "this is = no [toml\n")
    gw.run("systemctl restart tedge-agentd")
    gw.wait_until(lambda: "/a/tedge_agentd_blocked" in held(gw), timeout=45.0, what="the alarm")
    assert "tedge.toml" in held(gw)["/a/tedge_agentd_blocked"]["text"]


def test_a_broker_that_does_not_take_the_new_state_is_an_alarm_at_once(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    wait_up(gw)
    picky = "if grep -rq 8883 /etc/tedge/mosquitto-conf; then exit 1; fi"
    gw.write("/etc/systemd/system/mosquitto.service.d/picky.conf", f"[Service]\nExecStartPre=/bin/sh -c '{picky}'\n")
    gw.run("systemctl daemon-reload")
    scenes.server(gw, ca)
    scenes.settled(gw, state="degraded", seconds=30.0)
    gw.wait_until(lambda: "/a/tedge_agentd_degraded" in held(gw), what="the alarm")
    assert held(gw)["/a/tedge_agentd_degraded"]["severity"] == "critical"
    gw.files.unlink("/etc/systemd/system/mosquitto.service.d/picky.conf")
    gw.run("systemctl daemon-reload")
    gw.run("systemctl reset-failed mosquitto", check=False)
    gw.run(["tedge", "config", "set", "mqtt.external.bind.port", "8884"])
    scenes.settled(gw, seconds=30.0)
    gw.wait_until(lambda: "/a/tedge_agentd_degraded" not in held(gw), what="its end")


def test_with_the_package_go_its_alarms(gw: gateway.Gateway, ca: pki.Authority) -> None:
    scenes.server(gw, ca)
    scenes.write_pair(gw, ca.issue("gateway", usage="server", sans=["127.0.0.1"], starts=-9 * pki.DAY, ends=-pki.DAY))
    gw.wait_until(lambda: "/a/tedge_agentd_certificate" in held(gw), what="the alarm")
    assert held(gw)["/a/tedge_agentd_certificate"]["severity"] == "critical"
    gw.run("apt-get remove -y tedge-agentd")
    assert {name: value.get("status") for name, value in held(gw).items()} == {"": None, "/status/health": "down"}


# No noise ---------------------------------------------------------------------------------------------------


def test_six_settings_in_a_row_are_heard_by_nobody(gw: gateway.Gateway, ca: pki.Authority) -> None:
    wait_up(gw)
    scenes.wait_longer_for_a_burst(gw)
    scenes.write_pair(gw, ca.server())
    gw.write(scenes.CA, ca.pem)
    before = held(gw)
    keys = ["bind.port 8884", f"bind.address {scenes.LAN}", f"cert_file {scenes.CERT}", f"key_file {scenes.KEY}"]
    keys += [f"ca_path {scenes.CA}", "bind.port 8885"]
    with watching(gw) as watcher:
        gw.sh("\n".join(f"tedge config set mqtt.external.{key}" for key in keys))
        status = scenes.settled(gw)
        time.sleep(3.0)  # time for the watcher to come back, and for us
        assert watcher.rows() == []
    assert status["counters"]["broker_restarts"] == 1
    # Not even the same said again: the moment of it is part of what is retained.
    assert held(gw) == before
    clients.publish(gw, CHECKS[0], "{}")
    gw.wait_until(lambda: held(gw) != before, what="a sign of life: it is connected")


def test_without_thin_edge_nothing_is_said(make_gateway: conftest.MakeGateway, deb: pathlib.Path) -> None:
    gw = make_gateway(deb=deb).boot()
    gw.wait_until(lambda: gw.active(scenes.UNIT))
    gw.run(["systemctl", "reload", scenes.UNIT])
    assert clients.subscribe(gw, "te/#", seconds=2) == []
    assert not gw.exists("/var/lib/tedge-agentd/publish.json")
    standins.install(gw)
    gw.run("systemctl restart mosquitto")
    gw.wait_until(lambda: status_of(gw) == "up", what="the health message, once thin-edge is there")


# Files for the cloud ----------------------------------------------------------------------------------------


def test_diagnostics_are_collected_without_secrets(gw: gateway.Gateway, ca: pki.Authority) -> None:
    pair = scenes.mutual(gw, ca)
    scenes.settled(gw)
    gw.write("/etc/mosquitto/conf.d/tedge-mosquitto.conf", "# by hand\nremote_password hunter2\n")
    gw.files.mkdir("/root/out")
    gw.run([DIAG, "collect", "--output-dir", "/root/out", "--config-dir", "/etc/tedge"])
    names = set(gw.files.listdir("/root/out"))
    assert {"status.json", "plan.json", "journal.log", "listener-file.conf", "config.toml"} <= names
    for name in ("status.json", "plan.json"):
        assert json.loads(gw.read(f"/root/out/{name}"))["version"] == 1
    text = "".join(gw.read(f"/root/out/{name}") for name in names)
    assert "listener 8883" in gw.read("/root/out/listener-file.conf")
    assert "tedge-agentd" in gw.read("/root/out/journal.log")
    assert "PRIVATE KEY" not in text
    assert "hunter2" not in text
    assert pair.key_pem().splitlines()[1] not in text
    assert gw.run([DIAG, "collect", "--output-dir", "/nowhere"], check=False).returncode == 1


def test_a_planted_link_takes_nothing_along(gw: gateway.Gateway) -> None:
    gw.run(["ln", "-sfn", "/etc/shadow", "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"], user="tedge")
    gw.run("systemctl stop tedge-agentd")
    gw.files.mkdir("/root/out")
    gw.run(["ln", "-sfn", "/etc/shadow", "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"], user="tedge")
    gw.run([DIAG, "collect", "--output-dir", "/root/out"])
    assert "root:" not in gw.read("/root/out/listener-file.conf")


def test_diagnostics_skip_where_the_command_is_gone(gw: gateway.Gateway) -> None:
    gw.run(["mv", "/usr/bin/tedge-agentd", "/usr/bin/away"])
    gw.files.mkdir("/root/out")
    assert gw.run([DIAG, "collect", "--output-dir", "/root/out"], check=False).returncode == 2
    assert gw.run([CONFIG, "list"], check=False).returncode == 1


def test_the_cloud_fetches_settings_status_and_plan_and_sets_none(gw: gateway.Gateway) -> None:
    assert gw.run([CONFIG, "list"]).stdout.split() == ["settings", "status", "plan"]
    assert gw.run([CONFIG, "get", "settings"]).stdout == gw.read("/etc/tedge-agentd/config.toml")
    assert json.loads(gw.run([CONFIG, "get", "status"]).stdout)["state"] == "in-sync"
    assert json.loads(gw.run([CONFIG, "get", "plan"]).stdout)["state"] == "in-sync"
    assert gw.run([CONFIG, "get", "../../shadow"], check=False).returncode == 1
    for verb in ("prepare", "set", "verify", "rollback"):
        done = gw.run([CONFIG, verb, "settings", "/root/new", "--work-dir", "/tmp"], check=False)
        assert done.returncode == 1
        assert "not set from afar" in done.stderr


def test_the_plugins_bring_no_environment_along(gw: gateway.Gateway) -> None:
    gw.write("/tmp/evil/json.py", "open('/root/pwned', 'w')\n")
    gw.write("/tmp/evil/timeout", "#!/bin/sh\ntouch /root/pwned\n", mode=0o755)
    evil = {"PYTHONPATH": "/tmp/evil", "PATH": "/tmp/evil:/usr/bin:/bin"}
    gw.run([CONFIG, "get", "status"], env=evil)
    gw.files.mkdir("/root/out")
    gw.run([DIAG, "collect", "--output-dir", "/root/out"], env=evil)
    assert not gw.exists("/root/pwned")


def test_the_package_ships_the_plugins_where_thin_edge_looks(gw: gateway.Gateway) -> None:
    shipped = gw.run("dpkg -L tedge-agentd").stdout.splitlines()
    for path in (DIAG, CONFIG):
        assert path in shipped
        assert gw.access(path) == "root:root 0755"


# Metrics ----------------------------------------------------------------------------------------------------


def test_metrics_are_written_where_the_sandbox_lets_them(gw: gateway.Gateway) -> None:
    directory = "/var/lib/prometheus/node-exporter"
    gw.files.mkdir(directory)
    gw.write("/etc/tedge-agentd/config.toml", f'metrics_dir = "{directory}"\n')
    status = scenes.settled(gw)
    found = next(one for one in status["findings"] if one["code"] == "metrics-not-written")
    assert f"ReadWritePaths=-{directory}" in found["remedy"]
    gw.write("/etc/systemd/system/tedge-agentd.service.d/metrics.conf", f"[Service]\nReadWritePaths=-{directory}\n")
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart tedge-agentd")
    assert "metrics-not-written" not in scenes.codes(scenes.settled(gw))
    assert gw.files.listdir(directory) == ["tedge-agentd.prom"]
    assert gw.access(f"{directory}/tedge-agentd.prom") == "root:root 0644"
    assert 'tedge_agentd_state{state="in-sync"} 1\n' in gw.read(f"{directory}/tedge-agentd.prom")
