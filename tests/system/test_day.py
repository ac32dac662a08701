"""A day in the life of a gateway: each start of the broker and of a client is counted and has its reason."""

import itertools
import json
import pathlib

import pytest

from . import clients, gateway, pki, scenes, standins
from .conftest import MakeGateway
from .scenes import LAN
from .test_package import with_version

COUNTED = ("mosquitto", *standins.DEFAULT_SERVICES)
BROKER_ONLY = {"mosquitto": 1}
NOTHING: dict[str, int] = {}


class Ledger:
    """Counts starts between two looks, and compares them with what may have happened."""

    def __init__(self, gw: gateway.Gateway) -> None:
        self.gw = gw
        self.seen = self._count()

    def _count(self) -> dict[str, int]:
        return {unit: scenes.starts(self.gw, unit) for unit in COUNTED}

    def spent(self, why: str, expected: dict[str, int]) -> None:
        """Check what was started since the last call: exactly this, for this reason."""
        scenes.settled(self.gw, state=None)
        now = self._count()
        found = {unit: now[unit] - self.seen[unit] for unit in COUNTED if now[unit] != self.seen[unit]}
        self.seen = now
        assert found == expected, why


def settled_clean(gw: gateway.Gateway) -> None:
    status = scenes.settled(gw)
    assert [finding for finding in status["findings"] if finding["severity"] != "info"] == []


def test_a_day(  # one story, told in order
    make_gateway: MakeGateway, deb: pathlib.Path, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw)
    gw.boot()
    standins.wait_connected(gw)
    settled_clean(gw)
    day = Ledger(gw)
    assert day.seen == {"mosquitto": 1, "tedge-agent": 1, "tedge-mapper-c8y": 1}, "the first boot starts each once"

    gw.run("tedge connect c8y")
    day.spent("connect stops and starts the broker itself; the clients come back by themselves", BROKER_ONLY)

    pair = scenes.mutual(gw, ca)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    day.spent(
        "a new listener; and tedge-agent's HTTP server follows mqtt.external.bind.address",
        {"mosquitto": 1, "tedge-agent": 1},
    )
    child = scenes.client(ca, tmp_path)
    assert clients.connect(gw, 8883, child, host=LAN, outside=True).accepted
    assert clients.handshake(gw, 8883).sha256 == pair.sha256

    own = ca.client("gateway")
    gw.write(f"{scenes.CERTS}/client.crt", own.pem)
    gw.write(f"{scenes.CERTS}/client.key", own.key_pem(), mode=0o600)
    gw.write(f"{scenes.CERTS}/ca.crt", ca.pem)
    auth = f"{scenes.CERTS}/client"
    settings = f"ca_file={scenes.CERTS}/ca.crt cert_file={auth}.crt key_file={auth}.key".split()
    gw.run(
        ["tedge-agentd", "config", "set", "mqtt.client.port=8883", *(f"mqtt.client.auth.{word}" for word in settings)]
    )
    day.spent("the clients move to the mutual listener", {"tedge-agent": 1, "tedge-mapper-c8y": 1})
    for service in standins.DEFAULT_SERVICES:
        gw.wait_until(lambda s=service: standins.connected(gw, s)[-1:] == ["127.0.0.1:8883 (tls)"])  # type: ignore[misc]

    with clients.KeepConnected(gw, 8883, child) as kept:
        renewed = ca.server()
        scenes.write_pair(gw, renewed)
        gw.wait_until(lambda: clients.handshake(gw, 8883).sha256 == renewed.sha256)
        day.spent("a renewal is a reload", NOTHING)
        assert kept.disconnects == 0, "and disconnects nobody"

    later = ca.client("gateway")
    gw.write(f"{auth}.key", later.key_pem(), mode=0o600)
    gw.write(f"{auth}.crt", later.pem)
    day.spent("the clients load their own certificate at their start", {"tedge-agent": 1, "tedge-mapper-c8y": 1})

    gw.run("tedge reconnect c8y")
    starts = scenes.starts(gw, "mosquitto")
    scenes.settled(gw)
    day.seen["mosquitto"] += 1  # thin-edge's own
    ours = scenes.starts(gw, "mosquitto") - day.seen["mosquitto"]
    assert ours in {0, 1}, "one more where the broker had read thin-edge's file, which refuses every certificate"
    day.spent("reconnect", {"mosquitto": ours} if ours else NOTHING)
    assert starts
    assert clients.connect(gw, 8883, child, host=LAN, outside=True).accepted

    gw.install_deb(with_version(deb, "99.0", tmp_path))
    day.spent("an upgrade of the daemon restarts the daemon", NOTHING)
    settled_clean(gw)

    # A bad push from the cloud: config_update writes as user tedge, in the middle of its operation.
    good = gw.read("/etc/tedge/tedge.toml")
    topic = "te/device/main///cmd/config_update/c8y-1"
    clients.publish(gw, topic, json.dumps({"status": "executing"}), "-r")
    with clients.OutageProbe(gw, 1883) as outage:
        gw.sh("printf 'mqtt = [broken' >/etc/tedge/tedge.toml", user="tedge")
        status = scenes.settled(gw, state="blocked")
        assert scenes.codes(status) & {"toml-syntax"}
        gw.sh(
            "cat >/etc/tedge/tedge.toml <<'END'\n" + good.replace("server.key", "other.key") + "END\n", user="tedge"
        )
        scenes.settled(gw, state=None)
        gw.write("/etc/tedge/tedge.toml", good, owner="tedge", replace=True)
        clients.publish(gw, topic, json.dumps({"status": "failed"}), "-r")
        day.spent("what cannot be applied is not applied, and the way back is none", NOTHING)
        assert outage.lost_ms < 100, "a ping that the machine was slow to answer is none"
    settled_clean(gw)

    gw.reboot()
    standins.wait_connected(gw)
    day.spent("a boot starts each once", {"mosquitto": 1, "tedge-agent": 1, "tedge-mapper-c8y": 1})
    settled_clean(gw)
    assert clients.connect(gw, 8883, child, host=LAN, outside=True).accepted

    gw.shutdown()
    text = good.replace("port = 8883", "port = 8884")
    gw.write("/etc/tedge/tedge.toml", text, owner="tedge")
    gw.boot()
    standins.wait_connected(gw)
    day.spent(
        "what changed while it was off is read by the start itself",
        {"mosquitto": 1, "tedge-agent": 1, "tedge-mapper-c8y": 1},
    )
    assert clients.connect(gw, 8884, child, host=LAN, outside=True).accepted
    for unit in ("tedge-agentd", *COUNTED):
        assert gw.active(unit), unit


# Installing and removing in any order -----------------------------------------------------------------------

PACKAGES = ("mosquitto", "thin-edge", "tedge-agentd")
ORDERS = list(itertools.permutations(PACKAGES))


def install_thin_edge(gw: gateway.Gateway) -> None:
    """As the packages do: the files, the include, and `refresh-bridges` from tedge-mapper's postinst."""
    standins.install(gw, services=(), listeners=False)
    gw.run("systemctl daemon-reload")
    if gw.exists("/etc/mosquitto/mosquitto.conf"):
        gw.run("tedge refresh-bridges", check=False)
    gw.run(["systemctl", "start", *standins.DEFAULT_SERVICES])


def remove_thin_edge(gw: gateway.Gateway) -> None:
    gw.run(["systemctl", "stop", *standins.DEFAULT_SERVICES], check=False)
    gw.sh("rm -rf /etc/tedge /usr/bin/tedge /usr/bin/tedge-service /usr/lib/systemd/system/tedge-agent.service")
    gw.sh("rm -f /usr/lib/systemd/system/tedge-mapper* /usr/lib/systemd/system/tedge-watchdog.service")
    gw.sh("sed -i '\\#include_dir /etc/tedge/mosquitto-conf#d' /etc/mosquitto/mosquitto.conf || :")
    gw.run("systemctl daemon-reload")


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_installed_in_any_order_it_serves(
    bare: gateway.Gateway, deb: pathlib.Path, ca: pki.Authority, tmp_path: pathlib.Path, order: tuple[str, ...]
) -> None:
    gw = bare
    gw.purge("mosquitto")
    for package in order:
        if package == "mosquitto":
            gw.install("mosquitto")
            if gw.exists("/etc/tedge"):
                standins.include(gw)  # an operator's part: thin-edge's package had no file to put it into
        elif package == "thin-edge":
            install_thin_edge(gw)
        else:
            gw.write("/root/package.deb", deb.read_bytes())
            gw.run("apt-get -qy --no-install-recommends install /root/package.deb", timeout=120)
    scenes.mutual(gw, ca)
    standins.config_set(gw, "mqtt.external.bind.port", 8883)
    child = scenes.client(ca, tmp_path)
    gw.wait_until(lambda: clients.connect(gw, 8883, child).accepted, timeout=15)
    settled_clean(gw)
    assert clients.connect(gw, 1883).accepted
    gw.reboot()
    gw.wait_until(lambda: clients.connect(gw, 8883, child).accepted, timeout=15)
    settled_clean(gw)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_removed_in_any_order_the_broker_serves_as_long_as_it_is_there(
    gw: gateway.Gateway, ca: pki.Authority, order: tuple[str, ...]
) -> None:
    scenes.mutual(gw, ca)
    scenes.settled(gw)
    gone: set[str] = set()
    for package in order:
        if package == "thin-edge":
            remove_thin_edge(gw)
        else:
            gw.purge(package)
        gone.add(package)
        if "mosquitto" not in gone:
            gw.wait_until(lambda: clients.connect(gw, 1883).accepted, timeout=15, what=f"a broker without {gone}")
            restart = gw.run("systemctl restart mosquitto", check=False)
            assert restart.returncode == 0, f"the broker does not start any more without {gone}"
            gw.wait_until(lambda: clients.connect(gw, 1883).accepted, timeout=15, what=f"a broker without {gone}")
        if "tedge-agentd" not in gone:
            assert gw.active("tedge-agentd")
            status = scenes.settled(gw, state=None)
            assert status["state"] in {"in-sync", "pending"}, (package, status["findings"])
    failed = gw.run("systemctl --failed --no-legend --plain").stdout
    assert failed == "", failed
