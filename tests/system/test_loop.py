"""The daemon's loop: when it looks, how often, what tells it to, and how it ends."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from . import clients, gateway, pki, runs, scenes, standins

STATUS = "/run/tedge-agentd/status.json"
OPTIONS = "/etc/tedge-agentd/config.toml"
SLOW = "/etc/systemd/system/mosquitto.service.d/slow.conf"
LOCK = "/run/tedge-agentd/pass.lock"
HOLD = f"import fcntl, sys; f = open('{LOCK}', 'r+'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"


def status(gw: gateway.Gateway) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gw.read(STATUS))
    return found


def passes(gw: gateway.Gateway) -> int:
    return int(status(gw)["counters"]["passes"])


def at_rest(gw: gateway.Gateway, seconds: float = 3.0) -> int:
    """Wait until there has been no pass for a while; how many there have been."""
    seen = [(time.monotonic(), passes(gw))]

    def is_over() -> bool:
        now, count = time.monotonic(), passes(gw)
        if count != seen[-1][1]:
            seen.append((now, count))
        return now - seen[-1][0] >= seconds

    gw.wait_until(is_over, timeout=30.0, interval=0.1, what="the passes to end")
    return seen[-1][1]


@contextlib.contextmanager
def writing(gw: gateway.Gateway) -> Iterator[None]:
    """Write to tedge.toml some twenty times a second, and nothing that matters."""
    script = "while :; do echo '# noise' >>/etc/tedge/tedge.toml; sleep 0.05; done"
    writer = subprocess.Popen(gw.command(["sh", "-c", script]))
    try:
        yield
    finally:
        writer.kill()
        writer.wait()


@contextlib.contextmanager
def holding_the_lock(gw: gateway.Gateway) -> Iterator[None]:
    """Be another process that runs a pass, and does not end it."""
    command = gw.command(["python3", "-c", HOLD])
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


# When it looks ----------------------------------------------------------------------------------------------


def test_a_stream_of_writes_does_not_put_a_change_off(gw: gateway.Gateway) -> None:
    gw.write(OPTIONS, "settle_quiet = 1\nsettle_max = 2\n")
    scenes.settled(gw)
    with writing(gw):
        begun, before = time.monotonic(), passes(gw)
        standins.config_set(gw, "mqtt.external.bind.port", 8884)
        gw.wait_until(lambda: clients.connect(gw, 8884).accepted, timeout=20.0, what="the change to be served")
        gw.wait_until(lambda: passes(gw) >= before + 3, timeout=20.0, what="more passes")
        took, ran = time.monotonic() - begun, passes(gw) - before
    assert ran <= took / 2 + 3, "at most one each settle_max, and those that look after what a pass has done"
    assert status(gw)["counters"]["broker_restarts"] == 1
    assert scenes.settled(gw)["state"] == "in-sync"


def test_its_own_writes_are_no_news_to_it(gw: gateway.Gateway, ca: pki.Authority) -> None:
    before = at_rest(gw)
    scenes.wait_longer_for_a_burst(gw)
    scenes.mutual(gw, ca)  # owners, copies, listener file, the broker, its clients: all of it is watched
    gw.run([scenes.UNIT, "status", "--wait", "20"])
    after = at_rest(gw)
    assert status(gw)["state"] == "in-sync"
    assert after - before <= 8, "two for each burst that was asked for, and a look at what has just been started"
    # What means nothing is looked at once, and leaves everything as it is.
    runs_before, files_before = runs.broker(gw), runs.files(gw, "/etc/mosquitto", "/var/lib/tedge-agentd")
    standins.write_toml(gw, gw.read("/etc/tedge/tedge.toml") + "# a comment\n")
    gw.wait_until(lambda: passes(gw) > after, what="a pass")
    assert at_rest(gw) - after <= 2
    assert status(gw)["last_pass"]["changed"] is False
    assert (runs.broker(gw), runs.files(gw, "/etc/mosquitto", "/var/lib/tedge-agentd")) == (runs_before, files_before)


def test_it_looks_when_told_to_and_by_the_clock_and_otherwise_sleeps(gw: gateway.Gateway) -> None:
    before, broker = at_rest(gw), runs.broker(gw)
    pid = int(gw.unit(scenes.UNIT)["MainPID"])
    woken = _woken(gw, pid)
    time.sleep(10.0)
    assert _woken(gw, pid) - woken <= 3  # 6 a minute are allowed; a look of ours in between costs none
    for number, command in enumerate(
        (["systemctl", "reload", scenes.UNIT], ["kill", "-HUP", str(pid)], [scenes.UNIT, "status", "--wait", "20"]), 1
    ):
        asked = time.time()
        gw.run(command)
        gw.wait_until(lambda asked=asked: status(gw)["last_pass"]["started"] >= asked, what=f"a pass by {command}")  # type: ignore[misc]
        assert passes(gw) == before + number
    gw.write(OPTIONS, "resync = 1\n")
    scenes.settled(gw)
    before = passes(gw)
    gw.wait_until(lambda: passes(gw) >= before + 3, timeout=20.0, what="passes that nothing but time asks for")
    assert status(gw)["last_pass"]["actions"] == []
    assert int(gw.unit(scenes.UNIT)["MainPID"]) == pid
    assert runs.broker(gw) == broker


def _woken(gw: gateway.Gateway, pid: int) -> int:
    """How often threads of a process have come back from a sleep."""
    texts = (gw.read(f"/proc/{pid}/task/{task}/status") for task in gw.files.listdir(f"/proc/{pid}/task"))
    lines = [line for text in texts for line in text.splitlines() if line.startswith("voluntary_ctxt_switches")]
    return sum(int(line.split()[1]) for line in lines)


# How it ends ------------------------------------------------------------------------------------------------


def stop(gw: gateway.Gateway) -> float:
    """Stop the daemon; how long it took from its SIGTERM to its end, in seconds, by systemd's own clock."""
    begun = time.time()
    gw.run("systemctl stop tedge-agentd")
    unit = gw.unit(scenes.UNIT)
    assert (unit["ActiveState"], unit["Result"]) == ("inactive", "success")
    told = gw.journal(since=begun, match=[f"UNIT={scenes.UNIT}.service", "JOB_TYPE=stop"])
    stopping = int(told[0]["__MONOTONIC_TIMESTAMP"])
    return (int(unit["InactiveEnterTimestampMonotonic"]) - stopping) / 1e6


def test_told_to_stop_it_stops_whatever_it_does(gw: gateway.Gateway, ca: pki.Authority) -> None:
    took = {"idle": stop(gw)}
    gw.run("systemctl start tedge-agentd")
    with writing(gw):
        took["events"] = stop(gw)
    gw.run("systemctl start tedge-agentd")
    with holding_the_lock(gw):
        standins.config_set(gw, "mqtt.external.bind.port", 8884)
        gw.wait_until(lambda: _has_open(gw, LOCK), what="a pass that waits for the lock")
        took["another's pass"] = stop(gw)
    gw.run("systemctl start tedge-agentd")
    scenes.settled(gw)
    # The broker's start waits for our end, because we are ordered before it: it must not be waited for then.
    gw.write(SLOW, "[Service]\nExecStop=/bin/sleep 2\n")
    gw.run("systemctl daemon-reload")
    standins.config_set(gw, "mqtt.external.bind.port", 8885)
    gw.wait_until(lambda: gw.unit("mosquitto")["ActiveState"] == "deactivating", what="the broker to be restarted")
    took["the broker's restart"] = stop(gw)
    gw.wait_until(lambda: clients.connect(gw, 1883).accepted, what="the broker to be back")
    assert max(took.values()) < 5.0, took  # 0.1 s, and 0.6 s for the last; systemd kills after 20 s
    gw.files.unlink(SLOW)
    gw.run("systemctl daemon-reload")
    gw.run("systemctl start tedge-agentd")
    scenes.settled(gw)
    assert clients.connect(gw, 8885).accepted


def _has_open(gw: gateway.Gateway, path: str) -> bool:
    pid = gw.unit(scenes.UNIT)["MainPID"]
    opened = gw.run(["ls", "-l", f"/proc/{pid}/fd"], check=False).stdout
    return any(line.endswith(f" {path}") for line in opened.splitlines())


def test_there_is_one_of_it_and_one_pass_at_a_time(gw: gateway.Gateway) -> None:
    before = runs.daemon(gw)
    second = gw.run(f"{scenes.UNIT} run", check=False)
    assert second.returncode == 1
    assert (
        f"another tedge-agentd runs already: /run/tedge-agentd/daemon.lock is held by {before.pid}" in second.stderr
    )
    assert "remedy: systemctl status tedge-agentd" in second.stderr
    done = []
    with holding_the_lock(gw):
        apply = threading.Thread(target=lambda: done.append(gw.run(f"{scenes.UNIT} apply", timeout=60)))
        apply.start()
        time.sleep(1.5)
        assert done == [], "it waits for its turn"
    apply.join()
    assert "in sync" in done[0].stdout
    assert runs.daemon(gw) == before


@pytest.mark.slow
def test_one_that_hangs_is_replaced_and_the_broker_does_not_notice(gw: gateway.Gateway) -> None:
    gw.write("/etc/systemd/system/tedge-agentd.service.d/quick.conf", "[Service]\nWatchdogSec=3s\n")
    gw.run("systemctl daemon-reload")
    gw.run("systemctl restart tedge-agentd")
    scenes.settled(gw)
    first, broker = runs.daemon(gw), runs.broker(gw)
    time.sleep(7.0)
    assert runs.daemon(gw) == first, "it pings in time, also where there is nothing to do"
    with clients.OutageProbe(gw) as probe:
        gw.run(["kill", "-STOP", str(first.pid)])
        gw.wait_until(lambda: runs.daemon(gw).pid not in (0, first.pid), timeout=40.0, what="another daemon")
        scenes.settled(gw)
        assert probe.lost_ms == 0
    assert runs.broker(gw) == broker
    assert any("watchdog" in line.lower() for line in gw.messages())
    assert gw.unit(scenes.UNIT)["NRestarts"] == "1"
    standins.config_set(gw, "mqtt.external.bind.port", 8884)
    scenes.settled(gw)
    assert clients.connect(gw, 8884).accepted
