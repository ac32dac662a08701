"""Others write the listener file too: `tedge connect`, `reconnect`, `refresh-bridges`, and people in conf.d."""

import pathlib
import time

import pytest

from . import clients, gateway, pki, scenes, standins
from .conftest import MakeGateway
from .scenes import LAN
from .thin_edge import config

FILE = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
BEFORE_MOVE = "/etc/mosquitto/conf.d/tedge-mosquitto.conf"
BY_HAND = "/etc/mosquitto/conf.d/guide.conf"


def rewrite(gw: gateway.Gateway) -> None:
    """Write the listener file as thin-edge does, without its restart of the broker."""
    gw.write(FILE, config.render(standins.read_toml(gw)), replace=True)


@pytest.mark.parametrize("command", ["connect c8y", "reconnect c8y", "refresh-bridges"])
@pytest.mark.parametrize("level", ["none", "server", "mutual"])
def test_thin_edges_own_restart_is_enough_or_costs_one_more(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path, command: str, level: str
) -> None:
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    standins.config_set(gw, "mqtt.external.bind.address", "0.0.0.0")
    if level == "server":
        scenes.server(gw, ca)
    elif level == "mutual":
        scenes.mutual(gw, ca)
    before = scenes.settled(gw)
    starts = scenes.starts(gw, "mosquitto")
    done = gw.run(["tedge", *command.split()])
    assert "cancel" not in done.stderr.lower(), "its stop or start was cut short by us"
    after = scenes.settled(gw)
    assert after["listeners"] == before["listeners"]
    ours = after["counters"]["broker_restarts"] - before["counters"]["broker_restarts"]
    # Without use_identity_as_username thin-edge's mutual listener refuses everybody: that has to be mended.
    assert ours <= (1 if level == "mutual" else 0)
    assert scenes.starts(gw, "mosquitto") - starts == 1 + ours
    who = {
        "none": clients.Credentials(),
        "server": scenes.trusting(ca, tmp_path),
        "mutual": scenes.client(ca, tmp_path),
    }[level]
    assert clients.connect(gw, 8883, who, host=LAN).accepted


def test_a_rewrite_of_the_same_meaning_is_left_as_it_is(gw: gateway.Gateway) -> None:
    standins.config_set(gw, "mqtt.external.bind.port", 1884)
    scenes.settled(gw)
    starts = scenes.starts(gw, "mosquitto")
    rewrite(gw)
    theirs = gw.read(FILE)
    status = scenes.settled(gw)
    assert gw.read(FILE) == theirs
    assert scenes.starts(gw, "mosquitto") == starts
    assert status["state"] == "in-sync"


def test_a_capath_that_is_a_file_and_a_missing_port_never_reach_the_broker(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.mutual(gw, ca)  # the port unset, ca_path a file: thin-edge renders no listener at all
    scenes.settled(gw)
    starts = scenes.starts(gw, "mosquitto")
    rewrite(gw)
    scenes.settled(gw)
    assert scenes.starts(gw, "mosquitto") == starts, "the broker had not read it"
    assert "require_certificate true" in gw.read(FILE)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    rewrite(gw)
    scenes.settled(gw)
    assert f"capath {scenes.CA}" not in gw.read(FILE)
    assert clients.connect(gw, 8883, scenes.client(ca, tmp_path)).accepted


def test_ten_rewrites_in_a_row_end_in_a_finding_and_not_in_a_tug_of_war(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.mutual(gw, ca)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    scenes.settled(gw)
    starts = scenes.starts(gw, "mosquitto")
    for _ in range(10):
        rewrite(gw)
        gw.run("tedge-agentd status --wait 5", check=False)
    status = scenes.settled(gw, state="blocked")
    assert "fight" in scenes.codes(status)
    assert scenes.starts(gw, "mosquitto") == starts
    assert gw.active("mosquitto")
    assert clients.connect(gw, 8883, scenes.client(ca, tmp_path)).accepted
    standins.config_set(gw, "mqtt.external.bind.port", 8884)  # something new to write ends it at once
    scenes.settled(gw)
    assert clients.connect(gw, 8884, scenes.client(ca, tmp_path)).accepted


@pytest.mark.parametrize("pause", [0.3, 0.0])
def test_ten_rewrites_that_restart_the_broker_do_not_leave_it_dead(
    gw: gateway.Gateway, ca: pki.Authority, pause: float
) -> None:
    """They exhaust systemd's start limit on their own where they come fast enough: it is brought back then."""
    scenes.mutual(gw, ca)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    scenes.settled(gw)
    for _ in range(10):
        gw.run("tedge refresh-bridges", check=False)
        time.sleep(pause)
    gw.wait_until(lambda: gw.active("mosquitto") and clients.connect(gw, 1883).accepted, timeout=20)
    status = scenes.settled(gw, seconds=5, state=None)
    deaths = sum("start-limit-hit" in line for line in gw.messages("mosquitto"))
    most = 1 + 5 + 1 + deaths
    assert status["counters"]["broker_restarts"] <= most, "one to begin with, five repairs until it is a fight"
    # What thin-edge rendered lets nobody in from outside: wrong, but closed.
    assert not clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted


# mqtt.bind.enabled = false ----------------------------------------------------------------------------------


def test_bind_disabled_leaves_the_broker_to_the_site_even_if_refresh_bridges_does_not(
    make_gateway: MakeGateway, deb: pathlib.Path
) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw, listeners=False)
    by_hand = "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\n"
    gw.write(BY_HAND, by_hand)
    standins.write_toml(gw, '[config]\nversion = "2"\n[mqtt.bind]\nenabled = false\n')
    gw.boot()
    scenes.settled(gw)
    assert not gw.exists(FILE)
    starts = scenes.starts(gw, "mosquitto")
    gw.run("tedge connect c8y")
    scenes.settled(gw)
    assert not gw.exists(FILE)
    assert scenes.starts(gw, "mosquitto") == starts + 1
    gw.run("tedge refresh-bridges", check=False)  # writes the file all the same, and the broker does not start
    gw.wait_until(lambda: gw.active("mosquitto") and clients.connect(gw, 1883).accepted, timeout=15)
    assert not gw.exists(FILE)
    assert gw.read(BY_HAND) == by_hand


# Sites that were set up by hand -----------------------------------------------------------------------------


def by_the_guide(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """The guide's first step, with what it lacks for Mosquitto 2 (allow_anonymous)."""
    gw.files.mkdir(scenes.CERTS)
    scenes.write_pair(gw, ca.server(), owner="mosquitto")
    gw.write(scenes.CA, ca.pem)
    gw.write(
        BY_HAND,
        "# MQTT over TLS\n\nlistener 8883\nallow_anonymous false\nrequire_certificate true\n"
        f"use_identity_as_username true\ncafile {scenes.CA}\ncertfile {scenes.CERT}\nkeyfile {scenes.KEY}\n",
    )


def test_a_site_set_up_by_hand_goes_on_and_is_told_what_to_do(
    make_gateway: MakeGateway, deb: pathlib.Path, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw)
    by_the_guide(gw, ca)
    gw.boot()
    child = scenes.client(ca, tmp_path)
    assert scenes.settled(gw)["findings"] == []
    starts = scenes.starts(gw, "mosquitto")
    # The operator asks for the same in tedge.toml, as the guide's second step does, and forgets the first.
    for key, value in (("cert_file", scenes.CERT), ("key_file", scenes.KEY), ("ca_path", scenes.CA)):
        standins.config_set(gw, f"mqtt.external.{key}", value)
    status = scenes.settled(gw, state="blocked")
    (finding,) = [found for found in status["findings"] if found["code"] == "listener-conflict"]
    assert finding["where"] == f"{BY_HAND}:3"
    assert BY_HAND in finding["remedy"]
    assert scenes.starts(gw, "mosquitto") == starts
    assert clients.connect(gw, 8883, child, host=LAN).accepted
    gw.files.unlink(BY_HAND)  # the remedy
    scenes.settled(gw)
    assert scenes.starts(gw, "mosquitto") == starts + 1
    assert clients.connect(gw, 8883, child, host=LAN).accepted


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("aaa.conf", "listener 1883\n", "listener-conflict"),
        ("zzz.conf", "listener 1883 0.0.0.0\n", "listener-conflict"),
        ("zzz.conf", "per_listener_settings false\n", "per-listener-settings"),
    ],
)
def test_a_file_that_would_keep_the_broker_from_starting_is_named_before_it_does(
    gw: gateway.Gateway, ca: pki.Authority, name: str, text: str, code: str
) -> None:
    before = gw.invocation("mosquitto")
    gw.write(f"/etc/mosquitto/conf.d/{name}", text)
    scenes.server(gw, ca)
    status = scenes.settled(gw, state="blocked")
    found = [finding for finding in status["findings"] if finding["where"] == f"/etc/mosquitto/conf.d/{name}:1"]
    assert found, status["findings"]
    assert all(finding["remedy"] for finding in found)
    assert gw.invocation("mosquitto") == before
    assert clients.connect(gw, 1883).accepted
    assert code in {finding["code"] for finding in found}


def test_bridge_files_keep_working(gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path) -> None:
    bridge = (
        "connection edge_to_c8y\naddress 192.0.2.20:8883\nremote_clientid device\nlocal_clientid Cumulocity\n"
        "try_private false\nstart_type automatic\ncleansession true\nnotifications true\n"
        "notifications_local_only true\n"
        "notification_topic te/device/main/service/mosquitto-c8y-bridge/status/health\n"
        'bridge_attempt_unsubscribe false\ntopic s/us/# out 2 c8y/ ""\n'
    )
    gw.write("/etc/tedge/mosquitto-conf/c8y-bridge.conf", bridge)
    scenes.mutual(gw, ca)
    status = scenes.settled(gw)
    assert status["findings"] == []
    assert clients.connect(gw, 8883, scenes.client(ca, tmp_path)).accepted
    assert gw.read("/etc/tedge/mosquitto-conf/c8y-bridge.conf") == bridge
    assert "Connecting bridge" in gw.broker_log()


# The listener file moves ------------------------------------------------------------------------------------


@pytest.fixture
def without_include(make_gateway: MakeGateway, deb: pathlib.Path, ca: pki.Authority) -> gateway.Gateway:
    """A gateway on which thin-edge's directory is not included yet, so that the listener file is in conf.d."""
    gw = make_gateway(deb=deb)
    standins.install(gw, listeners=False)
    conf = gw.read("/etc/mosquitto/mosquitto.conf")
    gw.write("/etc/mosquitto/mosquitto.conf", conf.replace("include_dir /etc/tedge/mosquitto-conf\n", ""))
    gw.boot()
    scenes.mutual(gw, ca)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    assert scenes.settled(gw)["listener_file"] == BEFORE_MOVE
    return gw


def test_the_listener_file_moves_to_thin_edges_directory_without_a_restart(
    without_include: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    gw = without_include
    starts = scenes.starts(gw, "mosquitto")
    standins.include(gw)
    status = scenes.settled(gw)
    assert status["listener_file"] == FILE
    assert gw.exists(FILE)
    assert not gw.exists(BEFORE_MOVE)
    assert scenes.starts(gw, "mosquitto") == starts
    gw.run(["systemctl", "restart", "mosquitto"])
    assert clients.connect(gw, 8883, scenes.client(ca, tmp_path)).accepted
    assert scenes.settled(gw)["findings"] == []


def test_thin_edges_installation_after_ours_ends_with_one_file_and_a_broker(
    without_include: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    gw = without_include
    standins.include(gw)
    gw.run("tedge refresh-bridges", check=False)  # as its postinst does, at once
    gw.wait_until(lambda: clients.connect(gw, 8883, scenes.client(ca, tmp_path)).accepted, timeout=15)
    status = scenes.settled(gw)
    assert not gw.exists(BEFORE_MOVE)
    assert status["counters"]["rollbacks"] == 0
    starts = scenes.starts(gw, "mosquitto")
    gw.purge("tedge-agentd")
    assert not gw.exists(BEFORE_MOVE)
    assert clients.connect(gw, 1883).accepted
    assert scenes.starts(gw, "mosquitto") <= starts + 1
