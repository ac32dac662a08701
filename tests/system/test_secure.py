"""One command from a fresh gateway to a working level, its certificates renewed by the daemon ever after."""

import json
import pathlib
import re
import shlex

import pytest

from . import clients, gateway, pki, scenes, standins

REGISTER = "/var/lib/tedge-agentd/pki/issued.json"
BUNDLE = "/etc/tedge/server-certs/tedge-agentd-ca.crt"


def secure(gw: gateway.Gateway, level: str) -> str:
    return gw.run(["tedge-agentd", "secure", level], timeout=40).stdout


def host_copy(gw: gateway.Gateway, path: str, directory: pathlib.Path) -> pathlib.Path:
    copy = directory / pathlib.PurePosixPath(path).name
    copy.write_text(gw.read(path))
    return copy


def pasted(gw: gateway.Gateway, said: str) -> None:
    """Do what the command says a child device does, line by line, and hear it."""
    lines = re.findall(r"^  (tedge-agentd certs .*|mosquitto_pub .*)$", said, re.MULTILINE)
    assert lines, said
    topic = re.findall(r"-t (\S+)", lines[-1])[0]
    for line in lines[:-1]:
        gw.run(["env", "--chdir=/root", *shlex.split(line)])
    gw.run(["env", "--chdir=/root", *shlex.split(lines[-1]), "-r"])
    assert clients.subscribe(gw, topic) == ['{"temperature": 21}']
    clients.publish(gw, topic, "", "-r")


def test_mutual_tls_by_one_command_with_the_gateways_own_clients(gw: gateway.Gateway, tmp_path: pathlib.Path) -> None:
    before = gw.invocation("mosquitto")
    said = secure(gw, "mutual")
    assert gw.invocation("mosquitto") != before
    pasted(gw, said)
    assert clients.subscribe(gw, "te/device/sensor1///m/", "-W", "1", count=0) == []
    ca = host_copy(gw, BUNDLE, tmp_path)
    assert not clients.connect(gw, 8883, clients.Credentials(ca=ca)).accepted
    child = clients.Credentials(
        ca=ca,
        cert=host_copy(gw, "/root/sensor1/sensor1.crt", tmp_path),
        key=host_copy(gw, "/root/sensor1/sensor1.key", tmp_path),
    )
    assert clients.connect(gw, 8883, child).accepted
    gw.wait_until(
        lambda: all(
            standins.connected(gw, one)[-1:] == ["127.0.0.1:8883 (tls)"] for one in standins.DEFAULT_SERVICES
        ),
        what="thin-edge's services on the mutual listener",
    )
    status = scenes.settled(gw)
    assert status["counters"]["broker_restarts"] == 1
    assert {one["renewed_by"] for one in status["certificates"] if one["role"] == "server"} == {"tedge-agentd"}


def test_the_levels_go_up_and_down_and_say_what_they_open(gw: gateway.Gateway, tmp_path: pathlib.Path) -> None:
    said = secure(gw, "server")
    assert "Everybody who reaches port 8883 on all addresses may read and publish everything, encrypted." in said
    pasted(gw, said)
    assert f"mosquitto_pub -h {scenes.LAN} " in said, "where a child device finds it, too"
    ca = clients.Credentials(ca=host_copy(gw, BUNDLE, tmp_path))
    assert clients.connect(gw, 8883, ca).accepted
    said = secure(gw, "mutual")
    assert f"Only who has a certificate that {BUNDLE} vouches for gets in at port 8883 on all addresses." in said
    pasted(gw, said)
    pasted(gw, secure(gw, "mutual"))  # for the next device, as the first has its certificate
    assert not clients.connect(gw, 8883, ca).accepted
    said = secure(gw, "server")
    assert "encrypted: client certificates are not asked for any more." in said
    assert clients.connect(gw, 8883, ca).accepted
    said = secure(gw, "none")
    assert "Nothing is open to other devices" in said
    assert clients.connect(gw, 8883, ca).outcome is clients.Outcome.UNREACHABLE
    assert clients.connect(gw, 1883).accepted
    gw.wait_until(lambda: standins.connected(gw, "tedge-agent")[-1:] == ["127.0.0.1:1883 (plain)"])
    assert "asks for it already" in secure(gw, "none")


def test_what_is_printed_works_behind_an_interface_too(gw: gateway.Gateway) -> None:
    """Where the gateway's own name leads to loopback, which is not listened on."""
    gw.run(["tedge-agentd", "config", "set", "mqtt.external.bind.interface=eth0"])
    scenes.settled(gw)
    for level in ("server", "mutual"):
        pasted(gw, secure(gw, level))
    said = secure(gw, "none")
    assert "port 1883 on eth0 may read and publish everything, unencrypted: there is no TLS any more." in said
    assert "anyone who reaches eth0 port 1883" in said
    pasted(gw, said)


def test_a_pair_of_the_sites_own_is_kept_and_who_verifies_it_is_told_its_issuer(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    pair = scenes.server(gw, ca)
    scenes.settled(gw)
    said = secure(gw, "server")
    assert clients.handshake(gw, 8883).sha256 == pair.sha256
    assert "A child device needs the certificate of CN=Test CA, and then:" in said
    gw.write("/root/FILE", ca.pem)
    pasted(gw, said)
    said = secure(gw, "mutual")
    assert "needs a certificate and the certificate of CN=Test CA, and then connects with it:" in said
    pasted(gw, said)
    assert clients.handshake(gw, 8883).sha256 == pair.sha256


def test_without_the_daemon_the_settings_are_written_and_it_is_said(gw: gateway.Gateway) -> None:
    gw.run("systemctl stop tedge-agentd")
    done = gw.run(["tedge-agentd", "secure", "server"], check=False)
    assert done.returncode == 3
    assert "systemctl start tedge-agentd" in done.stderr
    gw.run("systemctl start tedge-agentd")
    scenes.settled(gw)
    assert clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted


def test_a_user_who_is_not_root_is_told_to_be(gw: gateway.Gateway) -> None:
    done = gw.run(["tedge-agentd", "secure", "mutual"], user="tedge", check=False)
    assert done.returncode == 1
    assert "sudo tedge-agentd secure mutual" in done.stderr


@pytest.mark.parametrize("how", ["restart", "reboot"])
def test_the_daemon_renews_what_is_due_and_nobody_is_disconnected(gw: gateway.Gateway, how: str) -> None:
    """The register says that it was issued 300 days ago: the clock of a container is the machine's, and stays."""
    secure(gw, "server")
    old = clients.handshake(gw, 8883).sha256
    register = json.loads(gw.read(REGISTER))
    for one in register["issued"]:
        for moment in ("issued", "not_before", "not_after"):
            one[moment] -= 300 * 86400
    if how == "reboot":
        gw.write(REGISTER, json.dumps(register), mode=0o600)
        gw.reboot()
        gw.wait_until(lambda: clients.connect(gw, 8883, clients.Credentials(tls=True)).accepted)
        assert clients.handshake(gw, 8883).sha256 != old
        return
    broker = gw.unit("mosquitto")["MainPID"]
    with clients.Crowd(gw, 8883, clients.Credentials(tls=True), count=100) as crowd:
        gw.write(REGISTER, json.dumps(register), mode=0o600)
        gw.run("systemctl restart tedge-agentd")
        gw.wait_until(lambda: clients.handshake(gw, 8883).sha256 != old)
        scenes.settled(gw)
        assert crowd.dropped == 0
    assert gw.unit("mosquitto")["MainPID"] == broker
    assert any("renewed /etc/tedge/server-certs" in line for line in gw.messages("tedge-agentd"))


def test_a_damaged_register_is_a_finding_and_costs_nothing(gw: gateway.Gateway) -> None:
    secure(gw, "mutual")
    before = gw.invocation("tedge-agentd")
    gw.write(REGISTER, "garbage", mode=0o600)
    gw.run("systemctl reload tedge-agentd")
    status = scenes.settled(gw)
    assert {one["renewed_by"] for one in status["certificates"]} == {""}
    assert gw.invocation("tedge-agentd") == before
    gw.run("systemctl restart tedge-agentd")
    assert "pki-damaged" in scenes.codes(scenes.settled(gw))
