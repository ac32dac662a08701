"""Probes and logins against a real Mosquitto on the loopback, healthy and in every wrong state that we know of."""

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tedge_agentd.core import model
from tedge_agentd.host import client_files, probe, users, walk, wire
from tests.host.accounts import CLIENT

LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
NONE, SERVER, MUTUAL = model.Level.NONE, model.Level.SERVER, model.Level.MUTUAL
LOOK = probe.Look(network=model.Network())
ROOT = users.Account(name="root", uid=0, gid=0, groups=frozenset({0}))


def log_in(client: model.ClientSettings, *, timeout: float) -> probe.LoginResult:
    """Log in with files that anybody may name."""
    files = client_files.ClientFiles(roots=walk.Roots(managed=()), account=ROOT)
    return probe.login(client, files, timeout=timeout)


# Certificates -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    sha256: str
    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey


def issue(
    directory: Path, name: str, issuer: Identity | None = None, *, sans: tuple[str, ...] = (), days: int = 30
) -> Identity:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - datetime.timedelta(days=1))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    if sans:
        names = [x509.IPAddress(ipaddress.ip_address(s)) if s[0].isdigit() else x509.DNSName(s) for s in sans]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer.private if issuer else private, hashes.SHA256())
    cert, key = directory / f"{name}.crt", directory / f"{name}.key"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Identity(cert=cert, key=key, sha256=fingerprint, certificate=certificate, private=private)


@dataclasses.dataclass(frozen=True)
class Pki:
    ca: Identity
    server: Identity
    renewed: Identity
    expired: Identity
    client: Identity
    other_ca: Identity
    stranger: Identity


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("pki")
    ca, other = issue(directory, "ca"), issue(directory, "other-ca")
    names = ("127.0.0.1", "localhost")
    return Pki(
        ca=ca,
        server=issue(directory, "server", ca, sans=names),
        renewed=issue(directory, "renewed", ca, sans=names),
        expired=issue(directory, "expired", ca, sans=names, days=-1),
        client=issue(directory, "client", ca),
        other_ca=other,
        stranger=issue(directory, "stranger", other),
    )


# Brokers ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Broker:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def reload(self) -> None:
        before = self.lines()
        self.process.send_signal(signal.SIGHUP)
        until(lambda: len(self.lines()) > len(before))

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def listener(self, level: model.Level) -> model.Listener:
        ca = model.ClientCa(path="/staged/client-ca.pem", is_dir=False)
        tls = model.Tls(certfile="/staged/s.pem", keyfile="/staged/s.pem", client_ca=ca if level is MUTUAL else None)
        return model.Listener(port=self.port, address=LOOPBACK, tls=None if level is NONE else tls)


StartBroker = Callable[..., Broker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartBroker]:
    """Start brokers on a free port of the loopback with the lines of one listener."""
    running: list[subprocess.Popen[bytes]] = []

    def start_one(*lines: str, port: int | None = None, wait: bool = True) -> Broker:
        port = port or free_port()
        number = len(running)
        conf, log = tmp_path / f"broker{number}.conf", tmp_path / f"broker{number}.log"
        # as root if we are root: the user mosquitto cannot see the test's directory
        text = ["per_listener_settings true", "user root", f"listener {port} 127.0.0.1", *lines]
        conf.write_text("\n".join(text) + "\n")
        with log.open("wb") as output:
            running.append(subprocess.Popen(["/usr/sbin/mosquitto", "-c", conf], stdout=output, stderr=output))
        broker = Broker(port=port, process=running[-1], log=log)
        if wait:
            until(lambda: "running" in log.read_text() or running[-1].poll() is not None)
            assert running[-1].poll() is None, log.read_text()
        return broker

    yield start_one
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def healthy(start: StartBroker, pki: Pki) -> Callable[[model.Level], Broker]:
    """Start a broker as the product configures it at a level."""

    def of(level: model.Level) -> Broker:
        return start(*level_lines(level, pki, pki.server))

    return of


def level_lines(level: model.Level, pki: Pki, server: Identity) -> list[str]:
    if level is NONE:
        return ["allow_anonymous true"]
    pair = [f"certfile {server.cert}", f"keyfile {server.key}", "tls_version tlsv1.2"]
    if level is SERVER:
        return ["allow_anonymous true", *pair]
    return [
        "allow_anonymous false",
        "require_certificate true",
        "use_identity_as_username true",
        *pair,
        f"cafile {pki.ca.cert}",
    ]


def free_port() -> int:
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port: int = finder.getsockname()[1]
        return port


def until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that sends the same bytes to whoever connects, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(0.5)
                    with contextlib.suppress(OSError):
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(4096):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def problem_of(result: probe.ProbeResult, level: model.Level, leaf: str | None = None) -> str:
    problem = result.problem(level, leaf)
    assert problem is not None
    return problem


# Probes -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    answer=st.one_of(st.binary(max_size=64), st.binary(max_size=32).map(lambda tail: b"\x16\x03\x03\x00\x10" + tail)),
    level=st.sampled_from(model.Level),
)
def test_nothing_but_a_broker_passes_for_one(answer: bytes, level: model.Level) -> None:
    with answering(answer) as port:
        listener = Broker(port=port, process=None, log=Path()).listener(level)  # type: ignore[arg-type]
        result = probe.probe(listener, LOOPBACK, 2.0)
    if answer[:2] == b"\x20\x02" and answer[3:4] == b"\x00" and level is NONE:
        assert result.problem(level, None) is None
    else:
        assert result.problem(level, None) is not None


@given(username=st.none() | st.text(max_size=300), password=st.none() | st.binary(max_size=300))
def test_a_connect_packet_is_as_long_as_it_says(username: str | None, password: bytes | None) -> None:
    packet = wire.connect_packet(username, password)
    length = shift = 0
    position = 1
    while True:
        byte = packet[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    assert len(packet) == position + length


@pytest.mark.parametrize("level", model.Level)
def test_a_broker_configured_for_a_level_has_no_problem_at_it(
    healthy: Callable[[model.Level], Broker], pki: Pki, level: model.Level
) -> None:
    broker = healthy(level)
    result = probe.probe(broker.listener(level), LOOPBACK, 5.0)
    assert result.problem(level, None if level is NONE else pki.server.sha256) is None
    assert result.certificate == (None if level is NONE else pki.server.sha256)
    assert not result.exposed(level)


@pytest.mark.parametrize(
    ("running", "asked", "says"),
    [
        (NONE, SERVER, "lets clients in without encryption"),
        (NONE, MUTUAL, "lets clients in without encryption"),
        (SERVER, NONE, "drops clients"),
        (SERVER, MUTUAL, "lets clients in without a certificate"),
        (MUTUAL, NONE, "drops clients"),
        (MUTUAL, SERVER, "asks clients for a certificate"),
    ],
)
def test_a_broker_at_another_level_is_told_apart(
    healthy: Callable[[model.Level], Broker], running: model.Level, asked: model.Level, says: str
) -> None:
    broker = healthy(running)
    result = probe.probe(broker.listener(asked), LOOPBACK, 5.0)
    assert says in problem_of(result, asked)
    assert result.exposed(asked) is ("lets clients in" in says)


def test_a_mutual_listener_that_refuses_within_tls_1_2_is_healthy(
    healthy: Callable[[model.Level], Broker], pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_tls_1_2(monkeypatch)
    result = probe.probe(healthy(MUTUAL).listener(MUTUAL), LOOPBACK, 5.0)
    assert (result.answer, result.certificate) == (probe.Answer.NO_CERTIFICATE, pki.server.sha256)
    assert result.problem(MUTUAL, pki.server.sha256) is None


@pytest.mark.parametrize("level", [SERVER, MUTUAL])
def test_a_listener_that_lost_its_key_at_a_reload_is_found(
    start: StartBroker, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: model.Level
) -> None:
    pair = copied(pki.server, tmp_path)
    broker = start(*level_lines(level, pki, pair))
    shutil.copy(pki.renewed.cert, pair.cert)
    broker.reload()
    until(lambda: "Error when reloading certificate" in broker.log.read_text())
    for version in ("1.3", "1.2"):
        if version == "1.2":
            only_tls_1_2(monkeypatch)
        result = probe.probe(broker.listener(level), LOOPBACK, 5.0)
        assert (result.tls, result.certificate) == (True, None)
        assert "no usable certificate and key" in problem_of(result, level)


def test_another_certificate_than_the_staged_one_is_a_problem(
    healthy: Callable[[model.Level], Broker], pki: Pki
) -> None:
    result = probe.probe(healthy(SERVER).listener(SERVER), LOOPBACK, 5.0)
    assert pki.renewed.sha256[:16] in problem_of(result, SERVER, pki.renewed.sha256)


def test_a_mutual_listener_where_only_mqtt_refuses_is_a_problem(start: StartBroker, pki: Pki) -> None:
    """The state after a reload of Mosquitto 2.1 that failed between two lines (facts/mosquitto.md 0.2)."""
    broker = start("allow_anonymous false", f"certfile {pki.server.cert}", f"keyfile {pki.server.key}")
    result = probe.probe(broker.listener(MUTUAL), LOOPBACK, 5.0)
    assert (result.answer, result.code) == (probe.Answer.REFUSED, 5)
    assert "does not ask clients for a certificate" in problem_of(result, MUTUAL)


def test_certfile_without_keyfile_is_seen_to_be_plaintext(start: StartBroker, pki: Pki) -> None:
    """Mosquitto 2.0.11 opens a plain listener then (facts/mosquitto.md 0.8)."""
    broker = start("allow_anonymous true", f"certfile {pki.server.cert}")
    result = probe.probe(broker.listener(SERVER), LOOPBACK, 5.0)
    assert result.exposed(SERVER)
    assert "without encryption" in problem_of(result, SERVER)


def test_an_anonymous_client_refused_at_a_plain_listener_is_a_problem(start: StartBroker) -> None:
    broker = start("allow_anonymous false")
    result = probe.probe(broker.listener(NONE), LOOPBACK, 5.0)
    assert "refuses anonymous clients (CONNACK 5)" in problem_of(result, NONE)


@pytest.mark.parametrize("level", model.Level)
def test_a_port_where_nobody_listens_is_not_reachable(level: model.Level) -> None:
    listener = Broker(port=free_port(), process=None, log=Path()).listener(level)  # type: ignore[arg-type]
    result = probe.probe(listener, LOOPBACK, 5.0)
    assert not result.reachable
    assert "Connection refused" in problem_of(result, level)


@pytest.mark.parametrize("level", model.Level)
def test_a_broker_that_hangs_costs_no_more_than_the_time_given(
    healthy: Callable[[model.Level], Broker], level: model.Level
) -> None:
    broker = healthy(level)
    broker.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    result = probe.probe(broker.listener(level), LOOPBACK, 0.4)
    assert time.monotonic() - began < 1.0
    assert result.reachable
    assert result.problem(level, None) is not None


@pytest.mark.parametrize(("level", "most"), [(NONE, 3), (SERVER, 3), (MUTUAL, 3)])
def test_a_probe_costs_the_brokers_log_three_lines_at_most(
    healthy: Callable[[model.Level], Broker], level: model.Level, most: int
) -> None:
    broker = healthy(level)
    before = len(broker.lines())
    probe.probe(broker.listener(level), LOOPBACK, 5.0)
    until(lambda: "disconnected" in broker.log.read_text() or "error" in broker.log.read_text())
    time.sleep(0.05)
    assert before < len(broker.lines()) <= before + most, broker.lines()[before:]


# Verification -----------------------------------------------------------------------------------------------


def test_verification_waits_for_a_broker_that_is_still_starting(start: StartBroker) -> None:
    port = free_port()
    listener = model.Listener(port=port, address=LOOPBACK)
    later = threading.Timer(0.15, start, ["allow_anonymous true"], {"port": port, "wait": False})
    later.start()
    try:
        assert probe.verify(listener, None, LOOK, timeout=5.0) is None
    finally:
        later.join()


def test_verification_waits_for_the_certificate_that_a_reload_brings(
    start: StartBroker, pki: Pki, tmp_path: Path
) -> None:
    pair = copied(pki.server, tmp_path)
    broker = start(*level_lines(MUTUAL, pki, pair))
    shutil.copy(pki.renewed.cert, pair.cert)
    shutil.copy(pki.renewed.key, pair.key)
    broker.process.send_signal(signal.SIGHUP)
    assert probe.verify(broker.listener(MUTUAL), pki.renewed.sha256, LOOK, timeout=5.0) is None


def test_verification_gives_up_when_its_time_is_over(healthy: Callable[[model.Level], Broker]) -> None:
    broker = healthy(SERVER)
    began = time.monotonic()
    assert probe.verify(broker.listener(SERVER), "0" * 64, LOOK, timeout=0.5) is not None
    assert time.monotonic() - began < 1.5


def test_verification_reports_an_open_door_at_once(healthy: Callable[[model.Level], Broker]) -> None:
    broker = healthy(NONE)
    began = time.monotonic()
    problem = probe.verify(broker.listener(MUTUAL), None, LOOK, timeout=30.0)
    assert problem is not None
    assert "without encryption" in problem
    assert time.monotonic() - began < 3.0


def test_verification_reaches_a_listener_at_the_address_of_its_interface(start: StartBroker) -> None:
    broker = start("allow_anonymous true")
    network = model.Network(interfaces={"lan0": model.Interface(name="lan0", ipv4=LOOPBACK)})
    listener = model.Listener(port=broker.port, interface="lan0")
    assert probe.verify(listener, None, probe.Look(network=network), timeout=2.0) is None


def test_waiting_for_a_port_ends_when_it_listens_or_in_time() -> None:
    port = free_port()
    assert not probe.wait_listening(LOOPBACK, port, 0.1)
    with socket.create_server(("127.0.0.1", port)):
        assert probe.wait_listening(LOOPBACK, port, 1.0)


# Logins -----------------------------------------------------------------------------------------------------


def settings_for(broker: Broker, **more: str | None) -> model.ClientSettings:
    return dataclasses.replace(model.ClientSettings(host="127.0.0.1", port=broker.port), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("level", model.Level)
def test_clients_with_the_right_settings_can_log_in(
    healthy: Callable[[model.Level], Broker], pki: Pki, level: model.Level, host: str
) -> None:
    more = {"host": host}
    if level is not NONE:
        more["ca_file"] = str(pki.ca.cert)
    if level is MUTUAL:
        more |= {"cert_file": str(pki.client.cert), "key_file": str(pki.client.key)}
    result = log_in(settings_for(healthy(level), **more), timeout=5.0)
    assert result.accepted, result


def test_a_directory_of_authorities_serves_as_well_as_a_file(
    healthy: Callable[[model.Level], Broker], pki: Pki, tmp_path: Path
) -> None:
    shutil.copy(pki.ca.cert, tmp_path / "ours.pem")
    shutil.copy(pki.other_ca.cert, tmp_path / "other.crt")
    (tmp_path / "README").write_text("no certificate")
    assert log_in(settings_for(healthy(SERVER), ca_dir=str(tmp_path)), timeout=5.0).accepted


def test_without_an_authority_clients_do_not_use_tls(
    healthy: Callable[[model.Level], Broker], tmp_path: Path
) -> None:
    assert log_in(settings_for(healthy(NONE), ca_dir=str(tmp_path)), timeout=5.0).accepted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrong:
    """Settings that cannot work with a broker at a level. Values that name a member of the PKI become its files."""

    running: model.Level
    settings: dict[str, str]
    outcome: str
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Wrong(running=SERVER, settings={}, outcome="refused", says="as it does where it wants TLS"),
        Wrong(running=NONE, settings={"ca_file": "ca"}, outcome="tls", says="where the broker does not"),
        Wrong(running=SERVER, settings={"ca_file": "other_ca"}, outcome="tls", says="do not trust"),
        Wrong(running=SERVER, settings={"host": "127.0.0.2"}, outcome="unreachable", says="nothing answers"),
        Wrong(running=MUTUAL, settings={"ca_file": "ca"}, outcome="tls", says="asks the clients for a certificate"),
        Wrong(
            running=MUTUAL,
            settings={"ca_file": "ca", "cert_file": "client"},
            outcome="tls",
            says="asks the clients for a certificate",
        ),
        Wrong(
            running=MUTUAL,
            settings={"ca_file": "ca", "cert_file": "stranger", "key_file": "stranger"},
            outcome="tls",
            says="does not accept the clients' certificate",
        ),
        Wrong(
            running=MUTUAL,
            settings={"ca_file": "ca", "cert_file": "client", "key_file": "stranger"},
            outcome="settings",
            says="key values mismatch",
        ),
        Wrong(
            running=SERVER,
            settings={"ca_file": "/nowhere/ca.pem"},
            outcome="settings",
            says="mqtt.client.auth.ca_file (/nowhere/ca.pem)",
        ),
    ],
)
def test_wrong_settings_are_explained(healthy: Callable[[model.Level], Broker], pki: Pki, case: Wrong) -> None:
    more = {
        key: str(getattr(getattr(pki, value), "key" if key == "key_file" else "cert"))
        if hasattr(pki, value)
        else value
        for key, value in case.settings.items()
    }
    result = log_in(settings_for(healthy(case.running), **more), timeout=5.0)
    assert (result.outcome.value, result.accepted) == (case.outcome, False), result
    assert case.says in result.text
    assert result.remedy


def test_a_name_that_the_certificate_lacks_is_explained(start: StartBroker, pki: Pki, tmp_path: Path) -> None:
    elsewhere = issue(tmp_path, "elsewhere", pki.ca, sans=("gateway.example",))
    broker = start(*level_lines(SERVER, pki, elsewhere))
    result = log_in(settings_for(broker, ca_file=str(pki.ca.cert)), timeout=5.0)
    assert "is not for 127.0.0.1" in result.text


def test_a_common_name_does_not_stand_in_for_a_missing_san(start: StartBroker, pki: Pki, tmp_path: Path) -> None:
    named = issue(tmp_path, "localhost", pki.ca)
    broker = start(*level_lines(SERVER, pki, named))
    result = log_in(settings_for(broker, host="localhost", ca_file=str(pki.ca.cert)), timeout=5.0)
    assert "is not for localhost" in result.text


def test_an_expired_certificate_is_explained(start: StartBroker, pki: Pki) -> None:
    broker = start(*level_lines(SERVER, pki, pki.expired))
    result = log_in(settings_for(broker, ca_file=str(pki.ca.cert)), timeout=5.0)
    assert "not valid now: certificate has expired" in result.text


def test_an_encrypted_key_is_explained_and_asks_nobody(
    healthy: Callable[[model.Level], Broker], pki: Pki, tmp_path: Path
) -> None:
    key = tmp_path / "encrypted.key"
    algorithm = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(
        pki.client.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, algorithm)
    )
    more = {"ca_file": str(pki.ca.cert), "cert_file": str(pki.client.cert), "key_file": str(key)}
    assert "the key is encrypted" in log_in(settings_for(healthy(MUTUAL), **more), timeout=5.0).text


@pytest.mark.parametrize(
    ("content", "accepted"), [("right", True), ("right\n", True), ("right\r\nmore\n", True), ("wrong\n", False)]
)
def test_the_first_line_of_the_password_file_is_the_password(
    start: StartBroker, tmp_path: Path, content: str, accepted: bool
) -> None:
    known, mine = tmp_path / "known", tmp_path / "mine"
    known.touch()
    subprocess.run(["mosquitto_passwd", "-b", known, "te", "right"], check=True, capture_output=True)
    mine.write_bytes(content.encode())
    broker = start("allow_anonymous false", f"password_file {known}")
    result = log_in(settings_for(broker, username="te", password_file=str(mine)), timeout=5.0)
    assert result.accepted is accepted
    assert result.code == (0 if accepted else 5)


@pytest.mark.parametrize("kind", ["closed", "symlink", "hard link", "FIFO"])
def test_root_sends_no_password_that_the_clients_could_not_read(realm: Path, kind: str) -> None:
    """Whoever writes tedge.toml names the file and the host: root's login must not carry root's files out."""
    secret, named = realm / "secret", realm / "named"
    secret.write_text("of root's")
    secret.chmod(0o600)
    if kind == "symlink":
        named.symlink_to(secret)
    elif kind == "hard link":
        named.hardlink_to(secret)
    elif kind == "FIFO":
        os.mkfifo(named, 0o666)
    else:
        named = secret
    files = client_files.ClientFiles(roots=walk.Roots(managed=(str(realm),)), account=CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = model.ClientSettings(port=server.getsockname()[1], username="te", password_file=str(named))
        caller = threading.Thread(target=probe.login, args=(client, files), kwargs={"timeout": 0.3})
        caller.start()
        with server.accept()[0] as connection:
            sent = connection.recv(1000)
        caller.join(5)
        assert not caller.is_alive()
    assert b"MQTT" in sent
    assert b"of root" not in sent


@pytest.mark.parametrize(
    "settings",
    [
        {"username": "u" * 65536},
        {"host": "h" * 65536},
        {"host": "a\0b"},
        {"host": "\udcff"},
        {"host": "a..b"},
        {"host": "\u202e"},
        {"host": "with space"},
    ],
    ids=["username of 64 KiB", "host of 64 KiB", "NUL", "surrogate", "empty label", "no letter", "space"],
)
def test_no_setting_raises(settings: dict[str, str]) -> None:
    result = log_in(dataclasses.replace(model.ClientSettings(port=free_port()), **settings), timeout=1.0)  # type: ignore[arg-type]
    assert not result.accepted
    assert result.remedy


# Helpers ----------------------------------------------------------------------------------------------------


def copied(identity: Identity, directory: Path) -> Identity:
    cert, key = directory / "copy.crt", directory / "copy.key"
    shutil.copy(identity.cert, cert)
    shutil.copy(identity.key, key)
    os.chmod(key, 0o600)
    return dataclasses.replace(identity, cert=cert, key=key)


def only_tls_1_2(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    monkeypatch.setattr(probe, "_context", lambda: context)
