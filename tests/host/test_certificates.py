"""Inspecting certificates: hostile bytes first, then every case of the broker's own matrix, against a real broker."""

import datetime
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tedge_agentd.core import certificate_checks, model
from tedge_agentd.core.certificate_facts import CaFacts, PairFacts, Problem
from tedge_agentd.host import certificates, inspection, pem

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8, TRADITIONAL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()
LOCKED = serialization.BestAvailableEncryption(b"secret")
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Made:
    certificate: x509.Certificate
    key: Key

    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    def key_pem(self, form: serialization.PrivateFormat = PKCS8) -> bytes:
        return self.key.private_bytes(PEM, form, PLAIN)


def make(
    name: str = "gateway",
    issuer: Made | None = None,
    *,
    key: Key | None = None,
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + 100 * DAY,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> Made:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signer = issuer.key if issuer else key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Made(certificate=builder.sign(signer, digest), key=key)


@pytest.fixture(scope="module")
def ca() -> Made:
    return make("ca", extensions=(x509.BasicConstraints(ca=True, path_length=None),))


@pytest.fixture(scope="module")
def leaf(ca: Made) -> Made:
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("gateway"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
            x509.UniformResourceIdentifier("urn:x"),
        ]
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return make("gateway", ca, extensions=(names, usage))


def look(cert: bytes, key: bytes | None = None, inspector: certificates.Inspector | None = None) -> PairFacts:
    request = certificates.PairRequest(cert_path="/cert.pem", cert=cert, key_path="/key.pem", key=key)
    (facts,), _ = (inspector or certificates.Inspector()).inspect([request])
    return facts


def look_ca(*files: tuple[str, bytes]) -> CaFacts:
    _, (facts,) = certificates.Inspector().inspect((), [certificates.CaRequest(path="/ca", files=files)])
    return facts


def codes(facts: PairFacts) -> set[str]:
    return {problem.code for problem in facts.problems}


# Hostile bytes ----------------------------------------------------------------------------------------------


@st.composite
def mangled(draw: st.DrawFn, good: bytes) -> bytes:
    """Good material, cut, overwritten, doubled."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "overwrite", "insert"])):
            case "cut":
                del data[place : place + draw(st.integers(1, 200))]
            case "overwrite":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=3))
            case "insert":
                data[place:place] = draw(st.binary(max_size=20))
    return bytes(data)


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_no_bytes_crash_anything(data: st.DataObject) -> None:
    """A hundred hostile pairs a process: what one of them does to the worker must not reach the others."""
    good = make()
    der = good.certificate.public_bytes(DER)
    chains = st.one_of(
        st.binary(max_size=300),
        mangled(good.pem()),
        mangled(der),
        mangled(der).map(lambda bad: pem.Block(label="CERTIFICATE", der=bad or b"x").pem()),
    )
    keys = st.one_of(
        st.binary(max_size=300),
        mangled(good.key_pem()),
        mangled(good.key.private_bytes(DER, PKCS8, PLAIN)).map(
            lambda bad: pem.Block(label="PRIVATE KEY", der=bad or b"x").pem()
        ),
    )
    drawn = data.draw(st.lists(st.tuples(chains, keys), min_size=100, max_size=100))
    pairs = [
        certificates.PairRequest(cert_path=f"/{number}", cert=cert, key_path=f"/{number}.key", key=key)
        for number, (cert, key) in enumerate(drawn)
    ]
    last = certificates.PairRequest(cert_path="/good", cert=good.pem(), key_path="/good.key", key=good.key_pem())
    found, _ = certificates.Inspector().inspect([*pairs, last])
    assert len(found) == 101
    assert found[-1].problems == ()
    for facts, pair in zip(found, [*pairs, last], strict=True):
        assert "inspection-failed" not in codes(facts), pair
        for finding in certificate_checks.pair_findings(
            facts, role=model.Role.BROKER, cert_key="c", key_key="k", now=0.0, client_host="127.0.0.1"
        ):
            assert finding.message
        if facts.problems == ():
            combined = pem.combined(pair.cert, pair.key or b"")
            assert certificates.pair_problem(combined, pair.cert_path) is None


WORKERS = {
    "crash": "import os; os.abort()",
    "silence": "import time; time.sleep(60)",
    "nonsense": "print('{')",
    "another shape": "print('{\"items\": 5}')",
    "too few": "print('{\"items\": []}')",
    "empty answers": "import json,sys; print(json.dumps({'items': [{} for _ in json.load(sys.stdin)['items']]}))",
    "wrong types": (
        "import json,sys\n"
        "n = len(json.load(sys.stdin)['items'])\n"
        "print(json.dumps({'items': [{'certificates': [{'subject': 5}], 'der': 0}] * n}))"
    ),
    "too much": "print('x' * (17 << 20))",
    "failure": "import sys; print('{\"items\": [{}]}'); sys.exit(1)",
    "not there": "",
}


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_gone_wrong_is_a_problem_and_no_exception(tmp_path: Path, leaf: Made, name: str) -> None:
    worker = tmp_path / "worker.py"
    if WORKERS[name]:
        worker.write_text(WORKERS[name])
    inspector = certificates.Inspector(worker=str(worker), timeout_s=1.0)
    started = time.monotonic()
    pair = certificates.PairRequest(cert_path="/c", cert=leaf.pem(), key_path="/k", key=leaf.key_pem())
    (facts,), (authority,) = inspector.inspect([pair], [certificates.CaRequest(path="/ca", files=(("/ca/1", b"x"),))])
    assert time.monotonic() - started < 5.0
    assert codes(facts) == {"inspection-failed"}
    assert [problem.code for problem in authority.unusable] == ["inspection-failed"]
    assert authority.count == 0


def test_what_kills_the_worker_spoils_nothing_else(tmp_path: Path, leaf: Made) -> None:
    """A worker that dies of one request: the others are inspected one by one."""
    worker = tmp_path / "worker.py"
    source = Path(inspection.WORKER).read_text()
    poison = "\n    if b'POISON' in base64.b64decode(item['raw'] or ''):\n        os.abort()\n"
    mark = '    """Answer one request; see the module."""\n'
    assert mark in source
    worker.write_text(source.replace(mark, mark + poison))
    inspector = certificates.Inspector(worker=str(worker))
    good = certificates.PairRequest(cert_path="/c", cert=leaf.pem(), key_path="/k", key=leaf.key_pem())
    bad = certificates.PairRequest(cert_path="/bad", cert=b"POISON")
    (first, second, third), _ = inspector.inspect([good, bad, good])
    assert (codes(first), codes(second), codes(third)) == (set(), {"inspection-failed"}, set())


def test_a_failure_is_tried_again_later_and_facts_are_remembered(tmp_path: Path, leaf: Made) -> None:
    calls = tmp_path / "calls"
    worker = tmp_path / "worker.py"
    count = f"open({str(calls)!r}, 'a').write('x')\n"
    worker.write_text(count + "import os; os.abort()")
    now = [0.0]
    inspector = certificates.Inspector(worker=str(worker), clock=lambda: now[0])

    def asked() -> int:
        return len(calls.read_text())

    assert codes(look(leaf.pem(), leaf.key_pem(), inspector)) == {"inspection-failed"}
    look(leaf.pem(), leaf.key_pem(), inspector)
    assert asked() == 1
    worker.write_text(Path(inspection.WORKER).read_text().replace("import base64\n", f"import base64\n{count}", 1))
    now[0] = certificates.RETRY_S
    assert codes(look(leaf.pem(), leaf.key_pem(), inspector)) == set()
    for _ in range(3):
        now[0] += 1e9
        assert codes(look(leaf.pem(), leaf.key_pem(), inspector)) == set()
    assert asked() == 2
    look(leaf.pem() + b"\n", leaf.key_pem(), inspector)
    assert asked() == 3


def test_the_daemon_never_loads_cryptography(leaf: Made) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tedge_agentd.host import certificates\n"
        "cert, key = sys.stdin.buffer.read().split(b'|')\n"
        "r = certificates.PairRequest(cert_path='/c', cert=cert, key_path='/k', key=key)\n"
        "assert certificates.Inspector().inspect([r])[0][0].problems == ()\n"
        "print([m for m in sys.modules if m.startswith(('cryptography', '_cffi', 'ssl'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, os.getcwd()],
        input=leaf.pem() + b"|" + leaf.key_pem(),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"[]\n"


def test_the_worker_needs_nothing_of_ours_and_says_nothing_to_stderr(leaf: Made) -> None:
    request = {"items": [dict(inspection.Item.of(leaf.pem(), leaf.key_pem()).request)]}
    command = [sys.executable, "-I", "-W", "error", inspection.WORKER]
    done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, check=True, cwd="/")
    assert done.stderr == b""
    assert json.loads(done.stdout)["items"][0]["matches"] == 0


# Facts ------------------------------------------------------------------------------------------------------


def test_the_facts_of_a_chain(ca: Made, leaf: Made) -> None:
    facts = look(leaf.pem() + ca.pem(), leaf.key_pem())
    assert facts.problems == ()
    assert (facts.key_type, facts.key_bits) == ("EC", 256)
    found, issuer = facts.certificates
    assert found == model.Certificate(
        path="/cert.pem",
        subject="CN=gateway",
        issuer="CN=ca",
        sans=("DNS:gateway", "IP:127.0.0.1", "IP:::1", "URI:urn:x"),
        not_before=int((NOW - DAY).timestamp()),
        not_after=int((NOW + 100 * DAY).timestamp()),
        key_type="EC",
        key_bits=256,
        sha256=leaf.certificate.fingerprint(hashes.SHA256()).hex(),
        is_ca=False,
        version=3,
        self_signed=False,
        server_auth=True,
        client_auth=False,
    )
    assert (issuer.is_ca, issuer.self_signed, issuer.client_auth) == (True, True, True)


def test_a_version_1_certificate_is_known_as_one(tmp_path: Path) -> None:
    """As the guide's script makes them, with openssl x509 -req and no extension."""
    run = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-subj", "/CN=c", "-out", "r"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", "r", "-signkey", "k", "-days", "9", "-out", "c"]
    subprocess.run(sign, cwd=tmp_path, check=True, capture_output=True)
    facts = look((tmp_path / "c").read_bytes(), (tmp_path / "k").read_bytes())
    text = subprocess.run(
        ["openssl", "x509", "-in", "c", "-noout", "-text"], cwd=tmp_path, check=True, capture_output=True
    )
    assert facts.leaf is not None
    assert facts.leaf.version == (1 if b"Version: 1" in text.stdout else 3)
    assert (facts.key_type, facts.key_bits, facts.problems) == ("RSA", 2048, ())


def test_every_certificate_of_a_ca_directory_and_every_file_that_is_none(ca: Made, leaf: Made) -> None:
    other = make("other ca", extensions=(x509.BasicConstraints(ca=True, path_length=None),))
    facts = look_ca(
        ("/ca/one.pem", b"text\n" + ca.pem() + other.pem()),
        ("/ca/hash.0", ca.pem()),
        ("/ca/der.crt", ca.certificate.public_bytes(DER)),
        ("/ca/key.pem", ca.key_pem()),
        ("/ca/empty.pem", b""),
        ("/ca/damaged.pem", leaf.pem() + pem.Block(label="CERTIFICATE", der=b"no").pem()),
    )
    assert [certificate.subject for certificate in facts.certificates] == ["CN=ca", "CN=other ca", "CN=gateway"]
    assert facts.count == len(facts.digests) == 3
    assert [(problem.path, problem.code) for problem in facts.unusable] == [
        ("/ca/der.crt", "certificate-der"),
        ("/ca/key.pem", "certificate-none"),
        ("/ca/empty.pem", "certificate-none"),
        ("/ca/damaged.pem", "certificate-invalid"),
    ]


def test_many_authorities_are_counted_and_few_are_kept(ca: Made) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    many = tuple((f"/ca/{number}.pem", make(f"ca{number}", key=key).pem()) for number in range(300))
    facts = look_ca(*many)
    assert (facts.count, len(facts.certificates), facts.unusable) == (300, certificates.KEPT, ())


# The broker's matrix (facts/mosquitto.md 8) -----------------------------------------------------------------


def crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def matrix() -> dict[str, tuple[Callable[[Made, Made], tuple[bytes, bytes]], str]]:
    """Name -> (material, the code of the problem: "" where the broker takes it)."""
    rsa2048 = rsa.generate_private_key(65537, 2048)
    rsa1024 = rsa.generate_private_key(65537, 1024)  # refused, that is the point
    other = ec.generate_private_key(ec.SECP256R1())

    def one(made: Made) -> tuple[bytes, bytes]:
        return made.pem(), made.key_pem()

    locked = (
        lambda ca, leaf: (leaf.pem(), leaf.key.private_bytes(PEM, PKCS8, LOCKED)),
        lambda ca, leaf: (make(key=rsa2048).pem(), rsa2048.private_bytes(PEM, TRADITIONAL, LOCKED)),
    )
    return {
        "EC, PKCS#8": (lambda ca, leaf: one(leaf), ""),
        "EC, SEC1": (lambda ca, leaf: (leaf.pem(), leaf.key_pem(TRADITIONAL)), ""),
        "RSA, PKCS#8": (lambda ca, leaf: one(make(key=rsa2048)), ""),
        "RSA, PKCS#1": (
            lambda ca, leaf: (make(key=rsa2048).pem(), rsa2048.private_bytes(PEM, TRADITIONAL, PLAIN)),
            "",
        ),
        "Ed25519": (lambda ca, leaf: one(make(key=ed25519.Ed25519PrivateKey.generate())), ""),
        "chain": (lambda ca, leaf: (leaf.pem() + ca.pem(), leaf.key_pem()), ""),
        "expired": (lambda ca, leaf: one(make(start=NOW - 9 * DAY, end=NOW - DAY)), ""),
        "not yet valid": (lambda ca, leaf: one(make(start=NOW + DAY)), ""),
        "CRLF": (lambda ca, leaf: (crlf(leaf.pem()), crlf(leaf.key_pem())), ""),
        "both in both": (lambda ca, leaf: (leaf.pem() + leaf.key_pem(), leaf.key_pem() + leaf.pem()), ""),
        "text around": (lambda ca, leaf: (b"Bag\n" + leaf.pem() + b"x\n", b"Bag\n" + leaf.key_pem()), ""),
        "other key": (lambda ca, leaf: (leaf.pem(), make(key=other).key_pem()), "key-mismatch"),
        "other kind of key": (lambda ca, leaf: (leaf.pem(), make(key=rsa2048).key_pem()), "key-mismatch"),
        "chain in wrong order": (lambda ca, leaf: (ca.pem() + leaf.pem(), leaf.key_pem()), "chain-order"),
        "encrypted, PKCS#8": (locked[0], "key-encrypted"),
        "encrypted, PKCS#1": (locked[1], "key-encrypted"),
        "RSA-1024": (lambda ca, leaf: one(make(key=rsa1024)), "certificate-weak"),
        "DER certificate": (lambda ca, leaf: (leaf.certificate.public_bytes(DER), leaf.key_pem()), "certificate-der"),
        "DER key": (lambda ca, leaf: (leaf.pem(), leaf.key.private_bytes(DER, PKCS8, PLAIN)), "key-der"),
        "empty certificate": (lambda ca, leaf: (b"", leaf.key_pem()), "certificate-none"),
        "empty key": (lambda ca, leaf: (leaf.pem(), b""), "key-invalid"),
        "garbage": (lambda ca, leaf: (b"garbage", leaf.key_pem()), "certificate-none"),
        "key as certificate": (lambda ca, leaf: (leaf.key_pem(), leaf.key_pem()), "certificate-none"),
        "certificate as key": (lambda ca, leaf: (leaf.pem(), leaf.pem()), "key-invalid"),
        "truncated certificate": (lambda ca, leaf: (leaf.pem()[:-40], leaf.key_pem()), "certificate-none"),
        "truncated key": (lambda ca, leaf: (leaf.pem(), leaf.key_pem()[:-40]), "key-invalid"),
        "bad base64": (
            lambda ca, leaf: (leaf.pem().replace(b"\nMII", b"\n!!!", 1), leaf.key_pem()),
            "certificate-invalid",
        ),
        "damaged second certificate": (
            lambda ca, leaf: (leaf.pem() + pem.Block(label="CERTIFICATE", der=b"no").pem(), leaf.key_pem()),
            "certificate-invalid",
        ),
    }


MATRIX = matrix()


@pytest.mark.parametrize("name", MATRIX)
def test_we_and_a_real_broker_judge_alike(tmp_path: Path, ca: Made, leaf: Made, name: str) -> None:
    material, code = MATRIX[name]
    cert, key = material(ca, leaf)
    facts = look(cert, key)
    assert codes(facts) == ({code} if code else set())
    assert all(problem.message and problem.remedy for problem in facts.problems)
    assert broker_takes(tmp_path, cert, key) is (code == "")
    if code == "":
        combined = pem.combined(cert, key)
        assert certificates.pair_problem(combined, "/c") is None
        assert broker_takes(tmp_path, combined, combined)


MENDED = ("DER certificate", "DER key", "encrypted, PKCS#8", "encrypted, PKCS#1", "chain in wrong order")


@pytest.mark.parametrize("name", MENDED)
def test_what_is_shown_to_mend_it_mends_it_when_pasted(tmp_path: Path, ca: Made, leaf: Made, name: str) -> None:
    """Also where the files' names mean something to a shell: who writes tedge.toml chooses them, and root pastes."""
    directory = tmp_path / "it's a $(touch trap); touch trap #"
    directory.mkdir()
    cert, key = directory / "a b.crt", directory / "-k&.key"
    material, _ = MATRIX[name]
    for path, data in zip((cert, key), material(ca, leaf), strict=True):
        path.write_bytes(data)

    def found() -> tuple[Problem, ...]:
        request = certificates.PairRequest(
            cert_path=str(cert), cert=cert.read_bytes(), key_path=str(key), key=key.read_bytes()
        )
        return certificates.Inspector().inspect([request])[0][0].problems

    (problem,) = found()
    done = subprocess.run(
        ["sh", "-c", problem.remedy],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        input="secret\n",
        start_new_session=True,  # without a terminal OpenSSL asks on stdin
    )
    assert done.returncode == 0, done.stderr
    assert found() == ()
    assert sorted(path.name for path in directory.iterdir()) == ["-k&.key", "a b.crt"]
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]


def broker_takes(directory: Path, cert: bytes, key: bytes) -> bool:
    """Whether a real Mosquitto opens a TLS listener with these files."""
    directory.chmod(0o755)
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = directory / "mosquitto.conf"
    conf.write_text(
        f"user root\nlistener {port} 127.0.0.1\ncertfile {directory}/cert.pem\nkeyfile {directory}/key.pem\n"
    )
    ready = directory / "notify"
    ready.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(ready))
        notify.settimeout(0.02)
        broker = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
        assert broker, "mosquitto is not installed"
        child = subprocess.Popen(
            [broker, "-c", str(conf)],
            env={"NOTIFY_SOCKET": str(ready)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it asks for a passphrase on the terminal, if it has one
        )
        with child:
            try:
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline and child.poll() is None:
                    try:
                        if b"READY=1" in notify.recv(100):
                            return True
                    except TimeoutError:
                        continue
                assert child.returncode == 1, "neither ready nor refused"
                return False
            finally:
                child.kill()


# The last gate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("material", "code"),
    [
        (lambda leaf, other: leaf.pem() + leaf.key_pem(), None),
        (lambda leaf, other: leaf.key_pem() + leaf.pem(), None),
        (lambda leaf, other: leaf.pem() + other.key_pem(), "key-mismatch"),
        (lambda leaf, other: leaf.pem() + leaf.key.private_bytes(PEM, PKCS8, LOCKED), "key-encrypted"),
        (lambda leaf, other: leaf.pem(), "pair-refused"),
        (lambda leaf, other: b"", "pair-refused"),
        (lambda leaf, other: b"\0" * 100_000, "pair-refused"),
    ],
)
def test_the_last_gate_asks_nobody_for_a_passphrase(
    leaf: Made, material: Callable[[Made, Made], bytes], code: str | None
) -> None:
    problem = certificates.pair_problem(material(leaf, make()), "/c")
    assert (problem.code if problem else None) == code
