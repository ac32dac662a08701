"""The harness itself: what the other system tests rely on."""

import dataclasses
import json
import os
import pathlib
import ssl
import subprocess
import time

import pytest

from . import clients, container, gateway, pki, standins
from .conftest import MakeGateway


def test_a_gateway_boots_quickly_with_systemd_dbus_and_the_broker(make_gateway: MakeGateway) -> None:
    began = time.monotonic()
    gw = make_gateway().boot()
    assert time.monotonic() - began < 5.0
    assert gw.state() == "running"
    assert gw.active("dbus.service")
    assert gw.unit("mosquitto")["ActiveState"] == "active"


def test_commands_run_as_the_user_asked_for(bare: gateway.Gateway) -> None:
    assert bare.run("id -un").stdout == "root\n"
    assert bare.run("id -un", user="mosquitto").stdout == "mosquitto\n"
    assert bare.run("cat", input="through a pipe").stdout == "through a pipe"
    assert bare.run("false", check=False).returncode == 1
    with pytest.raises(gateway.CommandError, match="no such place"):
        bare.sh("echo no such place >&2; exit 7")


def test_files_are_those_the_gateway_sees(bare: gateway.Gateway) -> None:
    bare.write("/etc/there/file", "text", owner="mosquitto", mode=0o640)
    assert bare.run("stat -c '%U:%G %a' /etc/there/file").stdout == "mosquitto:mosquitto 640\n"
    assert bare.access("/etc/there/file") == "mosquitto:mosquitto 0640"
    bare.write("/run/there", "in memory")
    assert bare.run("cat /run/there").stdout == "in memory"
    before = bare.stat("/etc/there/file").st_ino
    bare.write("/etc/there/file", "replaced", replace=True)
    assert bare.stat("/etc/there/file").st_ino != before
    assert bare.files.listdir("/etc/there") == ["file"]


def test_an_absolute_symlink_leads_to_the_gateways_file(bare: gateway.Gateway) -> None:
    bare.write("/etc/real", "of the gateway")
    bare.files.symlink("/etc/real", "/etc/link")
    assert bare.read("/etc/link") == "of the gateway"
    bare.write("/etc/link", "changed")
    assert bare.read("/etc/real") == "changed"


def test_a_reboot_and_a_power_cut_keep_files_and_interfaces(bare: gateway.Gateway) -> None:
    bare.write("/etc/kept", "kept")
    bare.add_interface("wlan0", "198.51.100.7/24", "2001:db8::7/64")
    for off in (bare.shutdown, bare.power_cut):
        boot = bare.read("/proc/sys/kernel/random/boot_id")
        off()
        assert not bare.running
        assert bare.read("/etc/kept") == "kept"
        bare.boot()
        assert bare.read("/proc/sys/kernel/random/boot_id") != boot
        assert "198.51.100.7/24" in bare.run("ip -brief address show wlan0").stdout
        assert bare.active("mosquitto")


def test_interfaces_come_and_go(bare: gateway.Gateway) -> None:
    assert "192.0.2.10/24" in bare.run("ip -brief address show eth0").stdout
    bare.remove_address("eth0", "192.0.2.10/24")
    assert "192.0.2.10/24" not in bare.run("ip -brief address show eth0").stdout
    bare.remove_interface("eth0")
    assert bare.run("ip link show eth0", check=False).returncode != 0


def test_mosquitto_can_be_purged_and_installed_again_without_a_network(bare: gateway.Gateway) -> None:
    bare.purge("mosquitto")
    assert not bare.exists("/etc/mosquitto/mosquitto.conf")
    assert not bare.exists("/usr/sbin/mosquitto")
    bare.install("mosquitto")
    assert bare.active("mosquitto")


def test_a_package_is_installed_without_a_network(bare: gateway.Gateway, tmp_path: pathlib.Path) -> None:
    bare.purge("python3-watchdog")
    bare.install_deb(_package(tmp_path))
    assert bare.run("harness-sample").stdout == "hello\n"
    assert bare.run("dpkg-query -W -f '${db:Status-Status}' python3-watchdog").stdout == "installed"


def test_a_package_can_be_on_the_image(make_gateway: MakeGateway, tmp_path: pathlib.Path) -> None:
    gw = make_gateway(deb=_package(tmp_path)).boot()
    assert gw.run("harness-sample").stdout == "hello\n"
    assert gw.run("dpkg-query -W -f '${db:Status-Status}' harness-sample").stdout == "installed"


def test_nothing_is_left_behind(suite: str) -> None:
    before = _traces()
    gw = gateway.Gateway(suite)
    namespaces = {os.readlink(f"/proc/{gw._container.holder}/ns/{kind}") for kind in ("mnt", "net", "pid")}
    gw.boot()
    namespaces |= {os.readlink(f"/proc/{gw.leader}/ns/{kind}") for kind in ("mnt", "net", "pid", "cgroup")}
    background = subprocess.Popen(gw.command("sleep 1000"))
    assert _namespaces() & namespaces
    gw.close()
    assert background.wait(5) != 0
    assert not _namespaces() & namespaces
    assert _traces() <= before


def test_clients_reach_the_broker(bare: gateway.Gateway) -> None:
    clients.publish(bare, "greeting", "hello", "-r")
    assert clients.subscribe(bare, "greeting") == ["hello"]
    assert clients.connect(bare, 1883).accepted
    assert clients.connect(bare, 1884).outcome is clients.Outcome.UNREACHABLE
    with clients.KeepConnected(bare) as keep:
        assert keep.report()["connected"]
        assert keep.disconnects == 0
        bare.run("systemctl restart mosquitto")
        bare.wait_until(lambda: keep.report()["connects"] == 2)
        assert keep.disconnects == 1


def test_clients_say_how_a_mutual_tls_listener_took_them(
    bare: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    served = _serve_mutual_tls(bare, ca)
    trusted = ca.write(tmp_path / "ca.crt")
    cert, key = ca.client("device-1").write(tmp_path, "client")
    other_cert, other_key = pki.authority("Other CA").client("stranger").write(tmp_path, "stranger")
    good = clients.Credentials(ca=trusted, cert=cert, key=key)

    def outcome(credentials: clients.Credentials) -> tuple[clients.Outcome, str]:
        result = clients.connect(bare, 8883, credentials)
        return result.outcome, result.detail

    assert outcome(good) == (clients.Outcome.ACCEPTED, "")
    old_tls = dataclasses.replace(good, tls_version=ssl.TLSVersion.TLSv1_2)
    assert outcome(old_tls) == (clients.Outcome.ACCEPTED, "")
    refused, reason = outcome(clients.Credentials(ca=trusted))
    assert refused is clients.Outcome.TLS_REFUSED
    assert "CERTIFICATE_REQUIRED" in reason
    refused, reason = outcome(clients.Credentials(ca=trusted, tls_version=ssl.TLSVersion.TLSv1_2))
    assert refused is clients.Outcome.TLS_REFUSED
    assert "HANDSHAKE_FAILURE" in reason
    refused, reason = outcome(clients.Credentials(ca=trusted, cert=other_cert, key=other_key))
    assert refused is clients.Outcome.TLS_REFUSED
    assert "UNKNOWN_CA" in reason
    distrusting = dataclasses.replace(good, ca=pki.authority().write(tmp_path / "other.crt"))
    assert outcome(distrusting)[0] is clients.Outcome.UNTRUSTED
    assert outcome(clients.ANONYMOUS)[0] is clients.Outcome.REFUSED
    assert clients.handshake(bare, 8883).sha256 == served.sha256
    assert clients.connect(bare, 8883, good, host="192.0.2.10", outside=True).accepted


def test_a_certificate_without_identity_mapping_is_refused_by_connack(
    bare: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    _serve_mutual_tls(bare, ca, identity=False)
    cert, key = ca.client().write(tmp_path, "client")
    result = clients.connect(bare, 8883, clients.Credentials(ca=ca.write(tmp_path / "ca.crt"), cert=cert, key=key))
    assert (result.outcome, result.code) == (clients.Outcome.REFUSED, 5)


@pytest.mark.parametrize("new_connections", [False, True])
def test_the_outage_probe_measures_a_restart_and_nothing_else(bare: gateway.Gateway, new_connections: bool) -> None:
    with clients.OutageProbe(bare, new_connections=new_connections) as probe:
        bare.wait_until(lambda: probe.report()["signs"] > 25)
        assert probe.lost_ms == 0
        bare.run("systemctl restart mosquitto")
        bare.wait_until(lambda: not probe.report()["down"])
        report = probe.report()
        assert len(report["outages"]) == 1
        assert 5 < report["lost_ms"] < 1000


def test_a_crowd_counts_those_dropped(bare: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path) -> None:
    _serve_mutual_tls(bare, ca)
    cert, key = ca.client().write(tmp_path, "client")
    credentials = clients.Credentials(ca=ca.write(tmp_path / "ca.crt"), cert=cert, key=key)
    with clients.Crowd(bare, 8883, credentials, count=100) as crowd:
        assert crowd.dropped == 0
        bare.run("systemctl reload mosquitto")
        assert crowd.dropped == 0
        bare.run("systemctl restart mosquitto")
        assert crowd.dropped == 100


def test_thin_edges_services_connect_as_its_user_and_tell_their_health(thin_edge: gateway.Gateway) -> None:
    topic = "te/device/main/service/tedge-agent/status/health"
    assert json.loads(clients.subscribe(thin_edge, topic)[0])["status"] == "up"
    pid = thin_edge.unit("tedge-agent")["MainPID"]
    assert thin_edge.run(["ps", "-o", "user=", "-p", pid]).stdout.strip() == "tedge"
    assert standins.connected(thin_edge, "tedge-mapper-c8y") == ["127.0.0.1:1883 (plain)"]
    assert thin_edge.access("/etc/tedge") == "tedge:tedge 0775"
    thin_edge.run("systemctl stop tedge-agent")
    assert json.loads(clients.subscribe(thin_edge, topic)[0])["status"] == "down"


def test_thin_edges_services_read_their_settings_only_at_their_start(
    thin_edge: gateway.Gateway, ca: pki.Authority
) -> None:
    _serve_mutual_tls(thin_edge, ca, internal=False)
    pair = ca.client("tedge")
    certs = "/etc/tedge/device-certs"
    for name, text in (("ca.crt", ca.pem), ("local.crt", pair.pem), ("local.key", pair.key_pem())):
        thin_edge.write(f"{certs}/{name}", text, owner="tedge", mode=0o600)
    standins.config_set(thin_edge, "mqtt.client.port", 8883)
    for key, name in (("ca_file", "ca.crt"), ("cert_file", "local.crt"), ("key_file", "local.key")):
        standins.config_set(thin_edge, f"mqtt.client.auth.{key}", f"{certs}/{name}")
    plain = ["127.0.0.1:1883 (plain)"] * 2  # at the boot, and after the broker was restarted
    thin_edge.wait_until(lambda: standins.connected(thin_edge, "tedge-agent") == plain)
    thin_edge.run("systemctl restart tedge-agent")
    thin_edge.wait_until(lambda: standins.connected(thin_edge, "tedge-agent")[-1] == "127.0.0.1:8883 (tls)")


def test_every_kind_of_service_starts(make_gateway: MakeGateway) -> None:
    services = ["tedge-agent", "tedge-mapper-c8y", "tedge-mapper-c8y@prod", "c8y-firmware-plugin"]
    services += ["tedge-watchdog", "tedge-mapper-local"]
    gw = make_gateway()
    standins.install(gw, services=services)
    gw.boot()
    standins.wait_connected(gw, services)
    gw.run("systemctl start tedge-cert-renewer@c8y")
    assert gw.state() == "running"


def test_config_set_writes_as_thin_edge_does(thin_edge: gateway.Gateway) -> None:
    toml = '# a comment\n[config]\nversion = "2"\n[mqtt]\nunknown = 1\n[c8y]\nurl = "a.example"\n'
    standins.write_toml(thin_edge, toml)
    before = thin_edge.stat("/etc/tedge/tedge.toml").st_ino
    standins.config_set(thin_edge, "mqtt.external.bind.port", 8883)
    assert thin_edge.access("/etc/tedge/tedge.toml") == "tedge:tedge 0644"
    assert thin_edge.access("/etc/tedge") == "tedge:tedge 0755"
    assert thin_edge.stat("/etc/tedge/tedge.toml").st_ino != before
    assert [name for name in thin_edge.files.listdir("/etc/tedge") if name.startswith(".tmp")] == []
    assert "comment" not in thin_edge.read("/etc/tedge/tedge.toml")
    assert standins.read_toml(thin_edge) == {
        "config": {"version": "2"},
        "c8y": {"url": "a.example"},
        "mqtt": {"external": {"bind": {"port": 8883}}},
    }
    standins.config_set(thin_edge, "mqtt.external.bind.address", "0.0.0.0", user="tedge")
    assert thin_edge.access("/etc/tedge/tedge.toml") == "tedge:tedge 0644"
    standins.config_unset(thin_edge, "mqtt.external.bind.port")
    assert standins.read_toml(thin_edge)["mqtt"] == {"external": {"bind": {"address": "0.0.0.0"}}}


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("set mqtt.external.bind.port 99999", 1, "1: number too large to fit in target type"),
        ("set mqtt.external.bind.address gateway", 1, "1: invalid IP address syntax"),
        ("set mqtt.client.cafile /x", 2, "Unknown tedge config key: 'mqtt.client.cafile'"),
        ("get mqtt.client.port", 1, "The provided config key: 'mqtt.client.port' is not set"),
    ],
)
def test_config_refuses_as_thin_edge_does(thin_edge: gateway.Gateway, words: str, status: int, text: str) -> None:
    done = thin_edge.run(f"tedge config {words}", check=False)
    assert done.returncode == status
    assert text in done.stderr


def test_an_old_tedge_toml_is_migrated_by_the_next_process(thin_edge: gateway.Gateway) -> None:
    standins.write_toml(thin_edge, "[mqtt]\nexternal_port = 8883\nbind_address = '127.0.0.1'\n")
    thin_edge.run("systemctl restart tedge-agent")
    assert standins.read_toml(thin_edge) == {
        "config": {"version": "2"},
        "mqtt": {"external": {"bind": {"port": 8883}}, "bind": {"address": "127.0.0.1"}},
    }


def test_connect_renders_the_listener_file_and_restarts_the_broker(thin_edge: gateway.Gateway) -> None:
    path = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
    standins.config_set(thin_edge, "mqtt.external.bind.port", 8884)
    before = thin_edge.invocation("mosquitto")
    thin_edge.run("tedge connect c8y")
    assert thin_edge.invocation("mosquitto") != before
    assert thin_edge.read(path).endswith("listener 8884 \nallow_anonymous true\nrequire_certificate false\n")
    assert thin_edge.access(path) == "root:root 0644"
    assert clients.connect(thin_edge, 8884, host="192.0.2.10", outside=True).accepted
    standins.config_unset(thin_edge, "mqtt.external.bind.port")
    thin_edge.run("tedge refresh-bridges")
    assert clients.connect(thin_edge, 8884).outcome is clients.Outcome.UNREACHABLE


def test_certificates_are_as_good_or_bad_as_asked_for(bare: gateway.Gateway, ca: pki.Authority) -> None:
    def text(pair: pki.Pair) -> str:
        return bare.run("openssl x509 -noout -text", input=pair.pem).stdout

    def verified(pair: pki.Pair, *options: str) -> str:
        bare.write("/root/ca.crt", ca.pem)
        bare.write("/root/chain.crt", pair.chain_pem)
        words = ["openssl", "verify", "-CAfile", "/root/ca.crt", "-untrusted", "/root/chain.crt", *options]
        done = bare.run([*words, "/root/chain.crt"], check=False)
        return done.stdout + done.stderr

    day = pki.DAY
    assert "Version: 3" in text(ca.server())
    assert "OK" in verified(ca.server(), "-x509_strict", "-verify_ip", "192.0.2.10", "-purpose", "sslserver")
    assert "Version: 1" in text(ca.issue("old", version=1))
    assert "OK" in verified(ca.issue("old", version=1))
    assert "expired" in verified(ca.issue("late", starts=-2 * day, ends=-day))
    assert "not yet valid" in verified(ca.issue("early", starts=day, ends=2 * day))
    assert "OK" in verified(ca.intermediate().server(), "-x509_strict")
    assert "self-signed" in verified(pki.self_signed())
    assert "1024 bit" in text(ca.issue("weak", key="rsa1024"))
    for pair in (ca.issue("rsa", key="rsa"), ca.issue("ec")):
        bare.run("openssl pkey -noout -passin pass:secret", input=pair.key_pem(password="secret"))
        bare.run("openssl pkey -noout", input=pair.key_pem(traditional=True))
    assert ca.server().key_pem(password="secret").startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")


def _serve_mutual_tls(
    gw: gateway.Gateway, ca: pki.Authority, *, identity: bool = True, internal: bool = True
) -> pki.Pair:
    """Configure the broker by hand, as the guide would have it, and restart it."""
    pair = ca.server()
    for name, text in (("ca.crt", ca.pem), ("server.crt", pair.pem), ("server.key", pair.key_pem())):
        gw.write(f"/etc/mosquitto/certs/{name}", text, owner="mosquitto", mode=0o600)
    lines = ["per_listener_settings true", "listener 1883 127.0.0.1", "allow_anonymous true"] if internal else []
    lines += ["listener 8883", "allow_anonymous false", "require_certificate true"]
    lines += ["use_identity_as_username true"] if identity else []
    files = {"cafile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
    lines += [f"{option} /etc/mosquitto/certs/{name}" for option, name in files.items()]
    gw.write("/etc/mosquitto/conf.d/zz-tls.conf", "\n".join(lines) + "\n")
    gw.run("systemctl restart mosquitto")
    return pair


def _package(where: pathlib.Path) -> pathlib.Path:
    tree = where / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: harness-sample\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
        "Depends: python3-watchdog, python3-pystemd\nDescription: sample\n"
    )
    (tree / "usr/bin/harness-sample").write_text("#!/bin/sh\necho hello\n")
    (tree / "usr/bin/harness-sample").chmod(0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, where], check=True, capture_output=True)
    (deb,) = where.glob("*.deb")
    return deb


def _namespaces() -> set[str]:
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for kind in ("mnt", "net", "pid", "cgroup"):
            try:
                found.add(os.readlink(process / "ns" / kind))
            except OSError:
                continue
    return found


def _traces() -> set[str]:
    """Return what this process could leave on the machine."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    own = f"{container.PREFIX}{os.getpid()}-"
    return {line for line in mounts if own in line} | {str(path) for path in pathlib.Path("/var/tmp").glob(f"{own}*")}
