"""The clients and the certificates: what the other system tests measure with."""

import dataclasses
import pathlib
import ssl

import pytest

from . import brokers, clients, gateway, pki


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
    served = brokers.serve_mutual_tls(bare, ca)
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
    brokers.serve_mutual_tls(bare, ca, identity=False)
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
    brokers.serve_mutual_tls(bare, ca)
    cert, key = ca.client().write(tmp_path, "client")
    credentials = clients.Credentials(ca=ca.write(tmp_path / "ca.crt"), cert=cert, key=key)
    with clients.Crowd(bare, 8883, credentials, count=100) as crowd:
        assert crowd.dropped == 0
        bare.run("systemctl reload mosquitto")
        assert crowd.dropped == 0
        bare.run("systemctl restart mosquitto")
        assert crowd.dropped == 100


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
