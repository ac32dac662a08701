"""What is reloaded or restarted for which change, and nothing more, process by process."""

import dataclasses
import json
import time
from collections.abc import Callable

import pytest

from . import clients, conftest, gateway, pki, runs, scenes, standins
from .runs import BROKER
from .scenes import CA, CERTS, LAN

AGENT = "tedge-agent.service"
CLIENTS = frozenset(
    {
        AGENT,
        "tedge-mapper-c8y.service",
        "tedge-mapper-local.service",
        "tedge-mapper-c8y@prod.service",
        "c8y-firmware-plugin.service",
        "tedge-watchdog.service",
    }
)
# An HSM's signer, a renewal under way, an operator's session: their names match the patterns, or nearly.
BYSTANDERS = ("tedge-p11-server.service", "c8y-remote-access-plugin@1.service")
CA_DIRECTORY = "/etc/tedge/client-cas"
STATE = "/var/lib/tedge-agentd/state.json"
OTHER = pki.authority("another CA")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A change of a gateway at the third level, and what it is to cost."""

    change: Callable[[gateway.Gateway, pki.Authority], None]
    broker: str  # none, reload, restart
    clients: frozenset[str] = frozenset()


def _sets(**keys: object) -> Callable[[gateway.Gateway, pki.Authority], None]:
    """Set keys by their names below `mqtt`, `__` standing for a dot, in one write; None unsets."""

    def change(gw: gateway.Gateway, _: pki.Authority) -> None:
        names = {f"mqtt.{name.replace('__', '.')}": value for name, value in keys.items()}
        if assigned := [f"{name}={value}" for name, value in names.items() if value is not None]:
            gw.run(["tedge-agentd", "config", "set", *assigned])
        if unset := [name for name, value in names.items() if value is None]:  # without TLS, 1883 would be taken
            gw.run(["tedge-agentd", "config", "unset", *unset])

    return change


def _renews(key: str) -> Callable[[gateway.Gateway, pki.Authority], None]:
    return lambda gw, ca: scenes.write_pair(gw, ca.server(key=key))


def _appends(path: str, text: str | None = None) -> Callable[[gateway.Gateway, pki.Authority], None]:
    return lambda gw, _: gw.write(path, gw.read(path) + (OTHER.pem if text is None else text), replace=True)


def _adds_ca(gw: gateway.Gateway, _: pki.Authority) -> None:
    gw.write(f"{CA_DIRECTORY}/added.pem", OTHER.pem)


def _removes_ca(gw: gateway.Gateway, _: pki.Authority) -> None:
    gw.files.unlink(f"{CA_DIRECTORY}/second.pem")


def _other_tables(gw: gateway.Gateway, _: pki.Authority) -> None:
    gw.run(["tedge", "config", "set", "device.id", "another"])
    standins.write_toml(gw, "# a comment\n[c8y]\nurl = 'c8y.example'\n\n" + gw.read("/etc/tedge/tedge.toml"))


ROWS = {
    "the port": Row(change=_sets(external__bind__port=8884), broker="restart"),
    "the address, which the agent's HTTP server follows": Row(
        change=_sets(external__bind__address=LAN), broker="restart", clients=frozenset({AGENT})
    ),
    "the interface": Row(change=_sets(external__bind__interface="eth0"), broker="restart"),
    "the internal listener's port, which the clients follow": Row(
        change=_sets(bind__port=1884), broker="restart", clients=CLIENTS
    ),
    "TLS off": Row(
        change=_sets(
            external__cert_file=None, external__key_file=None, external__ca_path=None, external__bind__port=8883
        ),
        broker="restart",
    ),
    "no client certificates any more": Row(change=_sets(external__ca_path=None), broker="restart"),
    "no external listener any more": Row(
        change=_sets(
            external__cert_file=None, external__key_file=None, external__ca_path=None, external__bind__address=None
        ),
        broker="restart",
        clients=frozenset({AGENT}),
    ),
    "a CA added to the client CA file": Row(change=_appends(CA), broker="restart"),
    "a comment in the client CA file": Row(change=_appends(CA, "# as of today\n"), broker="none"),
    "the key's type": Row(change=_renews("rsa"), broker="restart"),
    "the certificate, with a key of the same type": Row(change=_renews("ec"), broker="reload"),
    "the directory of client CAs instead of the file": Row(
        change=_sets(external__ca_path=CA_DIRECTORY), broker="restart"
    ),
    "the clients' host": Row(change=_sets(client__host="localhost"), broker="none", clients=CLIENTS),
    "the clients' user name": Row(change=_sets(client__auth__username="gateway"), broker="none", clients=CLIENTS),
    "the topic root": Row(change=_sets(topic_root="other"), broker="none", clients=CLIENTS),
    "the device's topic": Row(change=_sets(device_topic_id="device/other//"), broker="none", clients=CLIENTS),
    "comments and other tables": Row(change=_other_tables, broker="none"),
}
CA_DIRECTORY_ROWS = {
    "a CA added to the directory": Row(change=_adds_ca, broker="none"),
    "a CA removed from the directory": Row(change=_removes_ca, broker="restart"),
}


@pytest.fixture
def level3(share_gateway: conftest.ShareGateway, ca: pki.Authority) -> gateway.Gateway:
    """The third level, every kind of client, and bystanders that run."""

    def prepare(gw: gateway.Gateway) -> None:
        scenes.mutual(gw, ca)
        gw.files.mkdir(CA_DIRECTORY)
        gw.write(f"{CA_DIRECTORY}/first.pem", ca.pem)
        gw.write(f"{CA_DIRECTORY}/second.pem", pki.authority("second CA").pem)
        for name in BYSTANDERS:
            unit = f"{name.partition('@')[0]}@.service" if "@" in name else name
            gw.write(f"/etc/systemd/system/{unit}", "[Service]\nExecStart=/bin/sleep infinity\n")
        gw.run("systemctl daemon-reload")
        gw.run(["systemctl", "start", *CLIENTS, *BYSTANDERS])
        standins.wait_connected(gw, [name.removesuffix(".service") for name in CLIENTS])
        scenes.settled(gw)
        gw.sh("cp -a /etc/tedge /root/as-it-was")

    gw = share_gateway(prepare)
    _put_back(gw)
    return gw


def _put_back(gw: gateway.Gateway) -> None:
    """Everything as it was before the first test, the budget of restarts and systemd's start limits included."""
    gw.sh("systemctl stop tedge-agentd; rm -rf /etc/tedge; cp -a /root/as-it-was /etc/tedge")
    memory = json.loads(gw.read(STATE))
    gw.write(STATE, json.dumps({**memory, "retries": {}}), replace=True)
    gw.run("systemctl reset-failed")
    gw.run(["systemctl", "start", *CLIENTS, *BYSTANDERS, "tedge-agentd"])
    scenes.settled(gw)
    gw.run("systemctl reset-failed")


def _observe(gw: gateway.Gateway, ca: pki.Authority, row: Row) -> None:
    watched = [BROKER, *CLIENTS, *BYSTANDERS]
    counters = scenes.settled(gw)["counters"]
    before, seen = runs.of(gw, watched), clients.handshake(gw).sha256
    row.change(gw, ca)
    status = scenes.settled(gw)
    after = runs.of(gw, watched)
    assert runs.restarted(before, after) == row.clients | ({BROKER} if row.broker == "restart" else set())
    assert all(run.active for run in after.values())
    done = {name: status["counters"][name] - counters[name] for name in counters if name != "passes"}
    assert done == {
        "broker_restarts": int(row.broker == "restart"),
        "broker_reloads": int(row.broker == "reload"),
        "client_restarts": len(row.clients),
        "rollbacks": 0,
    }
    if row.broker == "reload":
        assert clients.handshake(gw).sha256 != seen
    if row.broker == "restart" and row.clients:
        assert max(after[name].began for name in row.clients) > after[BROKER].began
        assert min(after[name].began for name in row.clients) > after[BROKER].began, "the broker comes first"


@pytest.mark.parametrize("name", ROWS)
def test_a_change_costs_what_it_needs_and_no_more(level3: gateway.Gateway, ca: pki.Authority, name: str) -> None:
    _observe(level3, ca, ROWS[name])


@pytest.mark.parametrize("name", CA_DIRECTORY_ROWS)
def test_a_change_of_the_ca_directory_costs_a_restart_only_for_what_was_taken_away(
    level3: gateway.Gateway, ca: pki.Authority, name: str
) -> None:
    standins.config_set(level3, "mqtt.external.ca_path", CA_DIRECTORY)
    _observe(level3, ca, CA_DIRECTORY_ROWS[name])


def test_the_contents_of_what_clients_read_restart_them(level3: gateway.Gateway, ca: pki.Authority) -> None:
    gw = level3
    bundle = f"{CERTS}/brokers-ca.crt"
    gw.write(bundle, ca.pem)
    own = ca.client("tedge")
    gw.write(f"{CERTS}/own.crt", own.pem)
    gw.write(f"{CERTS}/own.key", own.key_pem(), mode=0o600)
    _sets(
        client__port=8883,
        client__auth__ca_file=bundle,
        client__auth__cert_file=f"{CERTS}/own.crt",
        client__auth__key_file=f"{CERTS}/own.key",
    )(gw, ca)
    scenes.settled(gw)
    _observe(gw, ca, Row(change=_appends(bundle), broker="none", clients=CLIENTS))
    own = ca.client("tedge")

    def renew(gw: gateway.Gateway, _: pki.Authority) -> None:
        gw.write(f"{CERTS}/own.crt", own.pem, owner="tedge", replace=True)
        gw.write(f"{CERTS}/own.key", own.key_pem(), owner="tedge", mode=0o600, replace=True)

    _observe(gw, ca, Row(change=renew, broker="none", clients=CLIENTS))


def test_a_renewed_certificate_disconnects_nobody(level3: gateway.Gateway, ca: pki.Authority) -> None:
    gw = level3
    before = runs.broker(gw)
    with clients.KeepConnected(gw) as client, clients.OutageProbe(gw) as probe:
        for _ in range(3):
            pair = ca.server()
            scenes.write_pair(gw, pair)
            scenes.settled(gw)
            assert clients.handshake(gw).sha256 == pair.sha256
        assert client.disconnects == 0
        assert probe.lost_ms == 0
    assert runs.broker(gw) == before


def test_stopped_clients_stay_stopped(level3: gateway.Gateway) -> None:
    gw = level3
    gw.run(["systemctl", "stop", AGENT, "tedge-mapper-c8y@prod.service"])
    standins.config_set(gw, "mqtt.bind.port", 1884)
    scenes.settled(gw)
    assert not gw.active(AGENT)
    assert not gw.active("tedge-mapper-c8y@prod.service")
    assert gw.active("tedge-mapper-c8y.service")


def test_clients_are_not_restarted_into_settings_they_cannot_log_in_with(level3: gateway.Gateway) -> None:
    gw = level3
    before = runs.of(gw, [BROKER, *CLIENTS])
    standins.config_set(gw, "mqtt.client.port", 1999)
    status = scenes.settled(gw, state="blocked")
    assert "client-login" in scenes.codes(status)
    assert runs.of(gw, [BROKER, *CLIENTS]) == before
    standins.config_unset(gw, "mqtt.client.port")
    scenes.settled(gw)
    assert runs.restarted(before, runs.of(gw, [BROKER, *CLIENTS])) == set(), "they run with what is set now"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_changed_while_the_daemon_was_away_is_made_up_for(level3: gateway.Gateway, end: str) -> None:
    gw = level3
    before = runs.of(gw, [BROKER, *CLIENTS, *BYSTANDERS])
    if end == "stop":
        gw.run("systemctl stop tedge-agentd")
    else:
        gw.run("systemctl kill --signal=KILL --kill-who=main tedge-agentd")
    standins.config_set(gw, "mqtt.client.host", "localhost")
    standins.config_set(gw, "mqtt.external.bind.port", 8884)
    time.sleep(0.3)
    assert runs.of(gw, [BROKER, *CLIENTS, *BYSTANDERS]) == before, "somebody acted although the daemon was away"
    if end == "stop":
        gw.run("systemctl start tedge-agentd")
    gw.wait_until(lambda: gw.active("tedge-agentd"))
    scenes.settled(gw)
    after = runs.of(gw, [BROKER, *CLIENTS, *BYSTANDERS])
    assert runs.restarted(before, after) == {BROKER, *CLIENTS}


def test_a_daemon_that_is_restarted_restarts_nobody(level3: gateway.Gateway) -> None:
    gw = level3
    units = [BROKER, *CLIENTS, *BYSTANDERS]
    before, files = runs.of(gw, units), runs.files(gw)
    gw.run("systemctl restart tedge-agentd")
    scenes.settled(gw)
    gw.run("systemctl kill --signal=KILL --kill-who=main tedge-agentd")
    gw.wait_until(lambda: runs.daemon(gw).restarts == 1 and gw.active("tedge-agentd"))
    scenes.settled(gw)
    assert runs.of(gw, units) == before
    assert runs.files(gw) == files


def test_a_second_pass_changes_nothing(level3: gateway.Gateway) -> None:
    gw = level3
    units = [BROKER, *CLIENTS, *BYSTANDERS, runs.DAEMON]
    before, files = runs.of(gw, units), runs.files(gw)
    passes = scenes.settled(gw)["counters"]["passes"]
    for _ in range(3):
        gw.run("systemctl reload tedge-agentd")
        status = scenes.settled(gw)
        assert status["last_pass"]["actions"] == []
        assert not status["last_pass"]["changed"]
    assert status["counters"]["passes"] > passes
    assert runs.of(gw, units) == before
    assert runs.files(gw) == files
    assert gw.run("tedge-agentd plan", check=False).returncode == 0
