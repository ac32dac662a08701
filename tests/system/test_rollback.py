"""A broker that the preflight accepted and that fails all the same: what last verified comes back, and soon."""

import json
import time
from typing import Any

import pytest

from . import clients, conftest, gateway, measured, pki, scenes, standins
from .scenes import LAN, UNIT

FILE = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
DROP_IN = "/etc/systemd/system/mosquitto.service.d/99-trap.conf"
STATE = "/var/lib/tedge-agentd/state.json"
BACK_MS = 1500.0  # three restarts of the broker at 120 ms each, and a machine that does something else besides
TLS = clients.Credentials(tls=True)
# Of several listeners the external one is the last; a trap that wants to know which file it has looks for its port.
HAS = f'grep -q "^listener {{port}}" {FILE}'


def trap(gw: gateway.Gateway, *lines: str) -> None:
    """Put a drop-in beside the broker's unit: no preflight starts that."""
    gw.write(DROP_IN, "\n".join(["[Service]", *lines, ""]))
    gw.run("systemctl daemon-reload")


def spring(gw: gateway.Gateway) -> None:
    gw.files.unlink(DROP_IN)
    gw.run("systemctl daemon-reload")


def refuse(*ports: int) -> str:
    """The line that keeps the broker from starting with a listener on one of these ports."""
    wanted = "|".join(f"^listener {port}" for port in ports)
    return f"ExecStartPre=/bin/sh -c '! grep -qE \"{wanted}\" {FILE}'"


def served(gw: gateway.Gateway, ca: pki.Authority) -> str:
    """Set up TLS on port 8883, let it verify, and return the listener file."""
    scenes.server(gw, ca)
    scenes.settled(gw)
    return gw.read(FILE)


def ask_for(gw: gateway.Gateway, port: int, state: str | None = "degraded") -> dict[str, Any]:
    standins.config_set(gw, "mqtt.external.bind.port", port)
    return scenes.settled(gw, state=state, seconds=30)


def told(gw: gateway.Gateway, what: str, *lost_ms: float, seconds: float | None = None) -> None:
    internal, external = (*(f"{ms:.0f}" for ms in lost_ms), "", "")[:2]
    row = {"internal listener lost, ms": internal, "external, ms": external}
    took = "" if seconds is None else f"{seconds:.1f}"
    measured.note("rollback", **{"the broker fails because": what, "release": gw.suite, "settled, s": took, **row})


def quiet(gw: gateway.Gateway, seconds: float = 2.0) -> bool:
    """Whether the broker stays the same process for a while, although something makes the daemon look again."""
    before = gw.invocation("mosquitto")
    gw.write("/etc/tedge/noise", str(time.time()))
    time.sleep(seconds)
    return gw.invocation("mosquitto") == before and gw.active("mosquitto")


# What fails at the real start -------------------------------------------------------------------------------

TRAPS = {
    "a drop-in refuses to start it": (refuse(8884),),
    "the port is taken while it restarts": ("ExecStopPost=+/bin/systemctl --no-block start thief.service",),
    "the program fails outside of the preflight": (),  # see below
    "it starts with another configuration": (
        "ExecStart=",
        f"ExecStart=/bin/sh -c 'if {HAS.format(port=8884)}; then echo listener 1883 127.0.0.1 >/run/other.conf;"
        " echo allow_anonymous true >>/run/other.conf; exec /usr/sbin/mosquitto -c /run/other.conf; fi;"
        " exec /usr/sbin/mosquitto -c /etc/mosquitto/mosquitto.conf'",
    ),
    "it takes connections and does not answer": (
        # A SIGTERM that comes too soon after its start is lost, and stopping it then takes 90 s.
        f"ExecStartPost=/bin/sh -c 'if {HAS.format(port=8884)}; then sleep 0.1; kill -STOP $MAINPID; fi'",
    ),
}


def set_trap(gw: gateway.Gateway, name: str) -> None:
    if name == "the program fails outside of the preflight":
        gw.run("mv /usr/sbin/mosquitto /usr/sbin/mosquitto.real")
        outside = "grep -q mosquitto.service /proc/self/cgroup"  # not by the user: from 2.1 on both are the broker's
        script = f"#!/bin/sh\n{outside} && {HAS.format(port=8884)} && exit 1\n"
        gw.write("/usr/sbin/mosquitto", f'{script}exec /usr/sbin/mosquitto.real "$@"\n', mode=0o755)
        return
    if name == "the port is taken while it restarts":
        listen = 'import socket,time; s = socket.create_server(("0.0.0.0", 8884)); time.sleep(600)'
        gw.write(
            "/etc/systemd/system/thief.service", f"[Service]\nType=exec\nExecStart=/usr/bin/python3 -c '{listen}'\n"
        )
        # It has to be quicker than the broker.
        trap(gw, *TRAPS[name], "ExecStartPre=/bin/sleep 0.3")
        return
    trap(gw, *TRAPS[name])


@pytest.mark.parametrize("name", TRAPS)
def test_the_last_good_state_comes_back_within_seconds(gw: gateway.Gateway, ca: pki.Authority, name: str) -> None:
    good = served(gw, ca)
    pair = gw.files.read("/etc/mosquitto/certs/tedge-agentd/server.pem")
    set_trap(gw, name)
    begun = time.monotonic()
    with clients.OutageProbe(gw) as internal, clients.OutageProbe(gw, 8883, TLS) as external:
        status = ask_for(gw, 8884, state=None)
        took = time.monotonic() - begun
        gw.wait_until(lambda: not internal.report()["down"] and not external.report()["down"])
        lost = internal.lost_ms, external.lost_ms
    told(gw, name, lost[0], lost[1], seconds=took)
    # Once the thief is seen, the port is what keeps the setting from being tried, not the failure.
    assert status["state"] in {"degraded", "blocked"}
    assert scenes.codes(status) <= {"rolled-back", "port-in-use"}
    assert status["counters"]["rollbacks"] == 1
    assert gw.read(FILE) == good
    assert gw.files.read("/etc/mosquitto/certs/tedge-agentd/server.pem") == pair
    # A broker that does not answer is given the whole time that a slow one may need.
    waits = 5500.0 if "answer" in name or "another" in name else 0.0
    assert max(lost) < BACK_MS + waits + (1000 if "taken" in name else 0)
    assert quiet(gw)
    assert clients.connect(gw, 8883, TLS).accepted


# When it is tried again -------------------------------------------------------------------------------------


def test_a_failed_setting_is_left_alone_until_something_changes(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    trap(gw, refuse(8884))
    ask_for(gw, 8884)
    before = gw.invocation("mosquitto")
    gw.write(f"{scenes.CERTS}/unrelated", "x")
    gw.run(["systemctl", "reload", UNIT])
    standins.config_set(gw, "device.id", "another table")
    scenes.settled(gw, state="degraded")
    assert gw.invocation("mosquitto") == before
    status = ask_for(gw, 8885, state="in-sync")
    assert status["listeners"][-1]["port"] == 8885
    assert "rolled-back" not in scenes.codes(status)


def test_an_operators_order_tries_it_again_at_once(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    trap(gw, refuse(8884))
    ask_for(gw, 8884)
    spring(gw)
    gw.run("tedge-agentd apply")
    assert clients.connect(gw, 8884, TLS).accepted
    assert scenes.settled(gw)["listeners"][-1]["port"] == 8884


def test_time_tries_it_again_and_waits_longer_after_each_failure(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    trap(gw, refuse(8884))
    delays: list[float] = []
    for _ in range(3):
        ask_for(gw, 8884) if not delays else scenes.settled(gw, state="degraded")
        gw.run(["systemctl", "stop", UNIT])
        memory = json.loads(gw.read(STATE))
        delays.append(memory["retries"]["retry"]["delay_s"])
        memory["retries"]["retry"]["failed_at"] -= delays[-1]
        memory["retries"]["budget"]["spent"] = []
        gw.write(STATE, json.dumps(memory), mode=0o600)
        gw.run(["systemctl", "start", UNIT])
    assert delays == [30.0, 60.0, 120.0]
    spring(gw)
    gw.run(["systemctl", "stop", UNIT])
    memory = json.loads(gw.read(STATE))
    memory["retries"]["retry"]["failed_at"] -= 240.0
    gw.write(STATE, json.dumps(memory), mode=0o600)
    gw.run(["systemctl", "start", UNIT])
    assert scenes.settled(gw)["listeners"][-1]["port"] == 8884


# When the last good state does not come back either ---------------------------------------------------------


def test_the_internal_listener_is_served_alone_when_the_last_good_state_fails_too(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    served(gw, ca)
    trap(gw, refuse(8883, 8884))
    with clients.OutageProbe(gw) as probe:
        status = ask_for(gw, 8884)
        gw.wait_until(lambda: not probe.report()["down"])
        lost = probe.lost_ms
    told(gw, "neither it nor the last good state starts: the internal listener alone", lost)
    assert lost < 2 * BACK_MS
    assert [one["port"] for one in status["listeners"]] == [1883]
    assert {"rolled-back"} <= scenes.codes(status)
    assert quiet(gw, 4.0), "it is not tried again and again"
    spring(gw)
    gw.run("tedge-agentd apply")
    assert scenes.settled(gw)["listeners"][-1]["port"] == 8884


def test_a_damaged_copy_of_the_last_good_state_leaves_the_internal_listener(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    served(gw, ca)
    gw.sh("for f in /var/lib/tedge-agentd/last-good/*; do echo damaged >$f; done")
    trap(gw, refuse(8884))
    scenes.write_pair(gw, ca.server())  # so that what is staged is not the last good any more
    status = ask_for(gw, 8884)
    assert status["state"] == "degraded"
    gw.wait_until(lambda: clients.connect(gw, 1883).accepted)
    assert clients.connect(gw, 8884, TLS).outcome is clients.Outcome.UNREACHABLE


def test_a_broker_that_nothing_starts_is_said_so_and_comes_back_with_what_kept_it_down(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    served(gw, ca)
    trap(gw, "ExecStartPre=/bin/false")
    status = ask_for(gw, 8884)
    assert "broker-down" in scenes.codes(status)
    spring(gw)
    begun = time.monotonic()
    gw.wait_until(lambda: clients.connect(gw, 1883).accepted, timeout=60, interval=0.2)
    told(gw, "nothing starts it, until the cause is removed", seconds=time.monotonic() - begun)


def test_an_interface_that_is_gone_at_boot_leaves_the_internal_listener(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    gw.add_interface("lan1", "198.51.100.1/24")
    served(gw, ca)
    standins.config_unset(gw, "mqtt.external.bind.address")
    standins.config_set(gw, "mqtt.external.bind.interface", "lan1")
    scenes.settled(gw)
    assert clients.connect(gw, 8883, TLS, host="198.51.100.1").accepted
    gw.shutdown()
    gw.remove_interface("lan1")
    gw.boot()
    gw.wait_until(lambda: clients.connect(gw, 1883).accepted)
    status = scenes.settled(gw, state="blocked")
    assert "interface-missing" in scenes.codes(status)
    assert clients.connect(gw, 1883).accepted
    gw.add_interface("lan1", "198.51.100.1/24")
    gw.run(["systemctl", "reload", UNIT])
    scenes.settled(gw)
    assert clients.connect(gw, 8883, TLS, host="198.51.100.1").accepted


# The first takeover -----------------------------------------------------------------------------------------


def test_without_a_last_good_state_the_file_of_before_comes_back(
    make_gateway: conftest.MakeGateway, deb: Any, ca: pki.Authority
) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw)
    # A site that was set up by hand, with a listener that the daemon does not know of.
    gw.write(FILE, "listener 1883 127.0.0.1\nallow_anonymous true\nlistener 1885 127.0.0.1\n")
    gw.files.unlink(f"/etc/systemd/system/multi-user.target.wants/{UNIT}.service")
    gw.boot()
    before = gw.read(FILE)
    scenes.server(gw, ca)
    trap(gw, refuse(8883))
    with clients.OutageProbe(gw) as probe:
        gw.run(["systemctl", "start", UNIT])
        status = scenes.settled(gw, state="degraded")
        lost = probe.lost_ms
    told(gw, "the first takeover fails: the file of before comes back", lost)
    assert "rolled-back" in scenes.codes(status)
    assert gw.read(FILE) == before
    assert clients.connect(gw, 1885).accepted
    assert lost < BACK_MS
    assert quiet(gw)


# Without any change of ours ---------------------------------------------------------------------------------


def test_a_broker_that_is_killed_is_verified_anew(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    before = scenes.settled(gw)["counters"]
    gw.run("systemctl kill --signal=SEGV mosquitto")
    gw.wait_until(lambda: clients.connect(gw, 8883, TLS).accepted)
    status = scenes.settled(gw)
    assert all(one["verified"] for one in status["listeners"])
    assert status["counters"]["broker_restarts"] - before["broker_restarts"] <= 1


def test_a_broker_that_systemd_gave_up_is_brought_back(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    trap(gw, "Restart=no")
    gw.run("systemctl kill --signal=KILL mosquitto")
    gw.wait_until(lambda: clients.connect(gw, 8883, TLS).accepted)
    scenes.settled(gw)


def test_a_broker_that_the_operator_stopped_stays_stopped(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    gw.run("systemctl stop mosquitto")
    ask_for(gw, 8884, state=None)
    time.sleep(1)
    assert not gw.active("mosquitto")
    gw.run("systemctl start mosquitto")
    scenes.settled(gw)
    assert clients.connect(gw, 8884, TLS).accepted


def test_a_masked_broker_is_a_finding_and_is_served_once_it_is_not(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    gw.run("systemctl mask mosquitto")  # it runs on
    before = gw.invocation("mosquitto")
    status = ask_for(gw, 8884, state=None)
    assert "broker-unit" in scenes.codes(status)
    assert (gw.active("mosquitto"), gw.invocation("mosquitto")) == (True, before)
    gw.run("systemctl unmask mosquitto")
    gw.run(["systemctl", "reload", UNIT])
    scenes.settled(gw)
    assert clients.connect(gw, 8884, TLS).accepted


def test_a_broker_that_is_removed_and_comes_back_is_served_again(gw: gateway.Gateway, ca: pki.Authority) -> None:
    served(gw, ca)
    gw.run("dpkg --remove --force-depends mosquitto")
    status = scenes.settled(gw, state=None)
    assert "broker-unit" in scenes.codes(status)
    standins.config_set(gw, "mqtt.external.bind.address", LAN)
    gw.sh("dpkg -i --force-depends /opt/debs/mosquitto_[0-9]*.deb")
    standins.include(gw)
    gw.run("systemctl restart mosquitto")
    gw.wait_until(lambda: clients.connect(gw, 8883, TLS, host=LAN).accepted, timeout=20)
    scenes.settled(gw)
