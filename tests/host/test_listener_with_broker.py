"""The real broker is asked whether our reading of its configuration is its own."""

import dataclasses
import datetime
import ipaddress
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tedge_agentd.core import candidate, conf_lines, conflicts, listener, model, mosquitto_conf
from tests.unit.test_conflicts import INTERFACES, OVERLAPS

BROKER = "/usr/sbin/mosquitto"
LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
PATIENCE = 10.0  # seconds; the broker needs 15 ms


# The broker -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came of a start: whether the broker accepted its configuration, and what it printed by then."""

    accepted: bool
    stderr: str

    def ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"Opening \S+ listen socket on port (\d+)", self.stderr)]


@contextmanager
def started(main: Path, *, alone: bool = False) -> Iterator[Said]:
    """Start the real broker until it says READY=1 or ends. `alone`: in a network of its own, with a loopback only."""
    assert os.geteuid() == 0, "run as root: the broker gets namespaces and drops to its own user"
    command = [BROKER, "-c", str(main)]
    if alone:
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as output:
        Path(place).chmod(0o755)
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready.bind(f"{place}/notify")
        Path(f"{place}/notify").chmod(0o777)
        ready.settimeout(0.005)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "NOTIFY_SOCKET": f"{place}/notify"},
            start_new_session=True,
        )
        try:
            accepted = _is_ready(ready, process)
            output.seek(0)
            yield Said(accepted=accepted, stderr=output.read().decode(errors="replace"))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
            ready.close()


def _is_ready(ready: socket.socket, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(int(PATIENCE / 0.005)):
        try:
            if b"READY=1" in ready.recv(4096):
                return True
        except TimeoutError:
            if process.poll() is not None:
                return False
    pytest.fail("the broker neither accepted nor refused its configuration")


class Disk:
    """Reads the files of a test as the daemon would."""

    def read(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise mosquitto_conf.ConfReadError(str(error.strerror)) from error

    def list_dir(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(os.listdir(path))
        except OSError as error:
            raise mosquitto_conf.ConfReadError(str(error.strerror)) from error


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tedge-agentd-test-", dir="/run"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def lay_out(place: Path, main: bytes | str, files: dict[str, bytes | str]) -> Path:
    """Write a configuration with one included directory, `{dir}` in the texts."""
    directory = place / "conf.d"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(_filled(data, directory))
    (place / "mosquitto.conf").write_bytes(_filled(main, directory))
    return place / "mosquitto.conf"


def _filled(data: bytes | str, directory: Path) -> bytes:
    return (data.encode() if isinstance(data, str) else data).replace(b"{dir}", str(directory).encode())


def free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


# Certificates -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    ca: bytes
    server: bytes  # certificate and key in one PEM
    client: bytes
    server_der: bytes


@pytest.fixture(scope="module")
def pki() -> Pki:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("test CA", ca_key, None, None)
    server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    server, client = _certificate("server", server_key, ca, ca_key), _certificate("client-1", client_key, ca, ca_key)
    pem = serialization.Encoding.PEM
    return Pki(
        ca=ca.public_bytes(pem),
        server=server.public_bytes(pem) + _key(server_key),
        client=client.public_bytes(pem) + _key(client_key),
        server_der=server.public_bytes(serialization.Encoding.DER),
    )


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer_key or key, hashes.SHA256())
    )


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# Clients ----------------------------------------------------------------------------------------------------


def connack(stream: socket.socket) -> int | None:
    """Send an anonymous MQTT 3.1.1 CONNECT and return the broker's answer; None if it hangs up."""
    stream.sendall(b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06tester")
    answer = stream.recv(4)
    return answer[3] if len(answer) == 4 else None


def plain_login(port: int) -> int | None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
        return connack(stream)


def plain_answer(port: int) -> int | None:
    """What plain MQTT gets from a TLS port: no answer, or none at all."""
    try:
        return plain_login(port)
    except ConnectionError:
        return None


def tls_login(
    port: int, client: Path | None = None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> tuple[bytes | None, int | None]:
    """Return the certificate the broker presents, and its answer to an anonymous CONNECT."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if client is not None:
        context.load_cert_chain(client)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw, context.wrap_socket(raw) as stream:
        return stream.getpeercert(binary_form=True), connack(stream)


# Our own file -----------------------------------------------------------------------------------------------


@contextmanager
def served(place: Path, file: model.ListenerFile) -> Iterator[Said]:
    # user root: the odd directories of these tests are root's.
    main = lay_out(place, "user root\ninclude_dir {dir}\n", {"tedge-mosquitto.conf": listener.render(file)})
    with started(main) as said:
        yield said


def test_a_plain_listener_admits_everyone(place: Path) -> None:
    (port,) = free_ports(1)
    with served(place, model.ListenerFile(internal=model.Listener(port=port, address=LOOPBACK))) as said:
        assert said.accepted, said.stderr
        assert plain_login(port) == 0


ODD = " #\"'\\$%&;*?~`|<>(){}[]!=:,-.aZ0äß\u00a0\u2028é𝄞"

# Every kind of character that a path may have and that another parser would treat in some way of its own.
odd_names = (
    st.text(st.sampled_from(ODD) | st.characters(codec="utf-8"), min_size=1, max_size=30)
    .filter(lambda name: conf_lines.is_broker_text(name) and "/" not in name and name not in {".", ".."})
    .filter(lambda name: name == name.strip() and len(name.encode()) < 200)
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(name=odd_names, ca_name=odd_names)
def test_the_broker_reads_odd_paths_as_themselves(place: Path, pki: Pki, name: str, ca_name: str) -> None:
    """A server listener and a mutual one, both with this very certificate, and each closed or open as intended."""
    odd = Path(tempfile.mkdtemp(dir=place))
    for directory, content in ((odd / name, pki.server), (odd / f"{ca_name}.d", pki.ca)):
        directory.mkdir(exist_ok=True)
        (directory / f"x{ca_name}").write_bytes(content)
    (odd / "client.pem").write_bytes(pki.client)
    pair = f"{odd}/{name}/x{ca_name}"
    server = model.Tls(certfile=pair, keyfile=pair)
    mutual = dataclasses.replace(server, client_ca=model.ClientCa(path=f"{odd}/{ca_name}.d/x{ca_name}", is_dir=False))
    open_port, closed_port = free_ports(2)
    file = model.ListenerFile(
        internal=model.Listener(port=open_port, address=LOOPBACK, tls=server),
        external=model.Listener(port=closed_port, address=LOOPBACK, tls=mutual),
        sources=(("mqtt.external.cert_file", pair),),
    )
    with served(place, file) as said:
        assert said.accepted, said.stderr
        assert tls_login(open_port) == (pki.server_der, 0)
        assert tls_login(closed_port, odd / "client.pem") == (pki.server_der, 0)
        with pytest.raises(ssl.SSLError):
            tls_login(closed_port)
    shutil.rmtree(odd)


def test_a_client_ca_directory_admits_its_clients_alone(place: Path, pki: Pki) -> None:
    directory = place / "client-ca"
    directory.mkdir()
    (directory / "ca.pem").write_bytes(pki.ca)
    subprocess.run(["openssl", "rehash", str(directory)], check=True)
    (place / "server.pem").write_bytes(pki.server)
    (place / "client.pem").write_bytes(pki.client)
    tls = model.Tls(
        certfile=f"{place}/server.pem",
        keyfile=f"{place}/server.pem",
        client_ca=model.ClientCa(path=str(directory), is_dir=True),
    )
    (port,) = free_ports(1)
    with served(place, model.ListenerFile(external=model.Listener(port=port, address=LOOPBACK, tls=tls))) as said:
        assert said.accepted, said.stderr
        assert tls_login(port, place / "client.pem") == (pki.server_der, 0)
        with pytest.raises(ssl.SSLError):
            tls_login(port)
        assert plain_answer(port) is None


def test_a_listener_without_tls_version_is_no_weaker(place: Path, pki: Pki) -> None:
    """The reason why thin-edge's own rendering needs no restart: TLS 1.1 is refused without it too."""
    (place / "server.pem").write_bytes(pki.server)
    (port,) = free_ports(1)
    block = (
        f"listener {port} 127.0.0.1\nallow_anonymous true\ncertfile {place}/server.pem\nkeyfile {place}/server.pem\n"
    )
    with started(lay_out(place, f"user root\n{block}", {})) as said:
        assert said.accepted, said.stderr
        assert tls_login(port) == (pki.server_der, 0)
        command = [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{port}",
            "-tls1_1",
            "-cipher",
            "DEFAULT:@SECLEVEL=0",
        ]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
        assert b"alert" in run.stderr
        assert b"BEGIN CERTIFICATE" not in run.stdout


# Our reading against the broker's ---------------------------------------------------------------------------

OPEN = "allow_anonymous true\n"

# name: (main file, included files). Whether the broker starts is asked of the broker, not stated here.
TREES: dict[str, tuple[bytes | str, dict[str, bytes | str]]] = {
    "nothing": ("", {}),
    "one listener": ("listener 8883 127.0.0.1\n", {}),
    "both families": ("listener 8883\n", {}),
    "leading spaces": ("   listener    8883    127.0.0.1   \n", {}),
    "a tab before": ("\tlistener 8883\n", {}),
    "a tab between": ("listener\t8883\n", {}),
    "a tab after the port": ("listener 8883\t127.0.0.1\n", {}),
    "a tab line": ("\t\n", {}),
    "an indented comment": ("listener 8883\n # x\n", {}),
    "a comment after": ("listener 8883 127.0.0.1 # x\n", {}),
    "a comment for an address": ("listener 8883 #127.0.0.1\n", {}),
    "CRLF": ("listener 8883 127.0.0.1\r\nallow_anonymous true\r\n", {}),
    "CR first": ("\rlistener 8883\nlistener 8884\n", {}),
    "CR inside": ("listener 8883\rlistener 127.0.0.1\n", {}),
    "no line end": ("listener 8883", {}),
    "a byte order mark": ("\ufefflistener 8883\n", {}),
    "a byte order mark before a comment": ("\ufeff# x\n", {}),
    "no port": ("listener\n", {}),
    "port 0": ("listener 0\n", {}),
    "port 70000": ("listener 70000\n", {}),
    "a negative port": ("listener -1\n", {}),
    "a word for a port": ("listener abc\n", {}),
    "a zero before": ("listener 08883\n", {}),
    "a letter after": ("listener 8883x\n", {}),
    "a plus before": ("listener +8883\n", {}),
    "IPv6": ("listener 8883 ::1\n", {}),
    "IPv6 in brackets": ("listener 8883 [::1]\n", {}),
    "an old spelling": ("listener 8883 127.1\n", {}),
    "a star": ("listener 8883 *\n", {}),
    "no such setting": ("listener% 8883\n", {}),
    "the old port": ("port 1884\n", {}),
    "the old port and address": ("bind_address 127.0.0.1\nport 1884\n", {}),
    "a stray interface option": ("listener 8883\ninclude_dir {dir}\n", {"a.conf": "max_connections 3\n"}),
    "a stray harmless option": ("listener 8883\ninclude_dir {dir}\n", {"a.conf": "max_connections -1\nmax_qos 2\n"}),
    "a stray requirement of one": ("listener 8883\ninclude_dir {dir}\n", {"a.conf": "require_certificate true\n"}),
    "a stray requirement of none": ("listener 8883\ninclude_dir {dir}\n", {"a.conf": "require_certificate false\n"}),
    "a stray socket domain": ("listener 8883\ninclude_dir {dir}\n", {"a.conf": "socket_domain ipv4\n"}),
    "a stray protocol": ("listener 8883\ninclude_dir {dir}\n", {"a.conf": "protocol mqtt\ntls_version tlsv1.2\n"}),
    "a stray password file": (
        "per_listener_settings true\nlistener 8883\ninclude_dir {dir}\n",
        {"a.conf": "password_file {dir}/passwords\n", "passwords": ""},
    ),
    "a global password file": ("listener 8883\npassword_file {dir}/passwords\n", {"passwords": ""}),
    "an old port beside a listener": ("listener 8883\nport 1884\n", {}),
    "options of the listener above the include": ("listener 8883\ninclude_dir {dir}\nmax_connections 3\n", {}),
    "an included listener": ("include_dir {dir}\n", {"a.conf": "listener 8883\n", "b.conf": "listener 8884\n"}),
    "not included": ("include_dir {dir}\n", {"a.CONF": "x\n", "b.conf.bak": "x\n", "c": "x\n", ".conf": "x\n"}),
    "a hidden file": ("include_dir {dir}\n", {".a.conf": "listener 8883\n"}),
    "no such directory": ("include_dir {dir}/nowhere\n", {}),
    "two spaces before the directory": ("include_dir  {dir}\n", {}),
    "a space behind the directory": ("include_dir {dir} \n", {}),
    "no directory": ("include_dir\n", {}),
    "a nested include": ("include_dir {dir}\n", {"a.conf": "include_dir /nowhere\n"}),
    "an empty value": ("listener 8883\ncertfile\n", {}),
    "a control character": ("listener 8883\ncertfile /a\x01b\n", {}),
    "a non-character": ("listener 8883\ncertfile /a\ufffeb\n", {}),
    "bad UTF-8": (b"listener 8883\ncertfile /a\xffb\n", {}),
    "bad UTF-8 in a comment": (b"# \xff\nlistener 8883\n", {}),
    "a long line": ("listener 8883\n# " + "x" * 70000 + "\nlistener 8884\n", {}),
    "a long value": ("listener 8883\ncertfile /" + "x" * 70000 + "\n", {}),
    "order in the directory": (
        "include_dir {dir}\n",
        {
            "B.conf": "listener 9002\n",
            "a.conf": "listener 9001\n",
            "b.conf": "listener 9003\n",
            "10.conf": "listener 9000\n",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_what_we_find_refused_is_refused_and_what_we_see_opened_is_opened(place: Path, name: str) -> None:
    main = lay_out(place, *TREES[name])
    conf = mosquitto_conf.read_tree(str(main), Disk())
    refused = [finding for finding in conf.findings if finding.blocks is not None]
    with started(main, alone=True) as said:
        assert said.accepted is not bool(refused), f"{refused}\n{said.stderr}"
        if said.accepted:
            seen = {found.port for found in conf.listeners} or {1883}
            assert set(said.ports()) == seen
            assert list(dict.fromkeys(said.ports())) == ([found.port for found in conf.listeners] or [1883])
        elif "Error found at" in said.stderr:
            # The broker counts a line that it fails to take in whole.
            assert f"Error found at {refused[0].where}." in said.stderr


def test_after_a_nul_byte_the_broker_starts_without_what_follows(place: Path) -> None:
    """Why a NUL byte is a finding although the broker starts: it would leave a listener open."""
    main = lay_out(place, "listener 8883\n# a\0b\nlistener 8884\n", {})
    conf = mosquitto_conf.read_tree(str(main), Disk())
    with started(main, alone=True) as said:
        assert said.accepted
        assert set(said.ports()) == {found.port for found in conf.listeners} == {8883}


@pytest.mark.parametrize(
    ("main", "files"),
    [
        ("allow_anonymous true\ninclude_dir {dir}\n", {}),
        ("per_listener_settings true\nallow_anonymous true\ninclude_dir {dir}\n", {}),
        ("include_dir {dir}\nallow_anonymous true\n", {}),
        ("per_listener_settings true\ninclude_dir {dir}\n", {}),
        ("include_dir {dir}\nper_listener_settings true\n", {}),
        ("include_dir {dir}\n", {"a.conf": "listener 9000\nallow_anonymous true\n"}),
        ("include_dir {dir}\n", {"a.conf": "listener 9000\nuse_identity_as_username true\nmax_connections 3\n"}),
        ("include_dir {dir}\n", {"a.conf": "auto_id_prefix x\n"}),
        ("include_dir {dir}\n", {"z.conf": "listener 9000\nallow_anonymous true\n"}),
        ("include_dir {dir}\n", {"z.conf": "per_listener_settings true\n"}),
        ("include_dir {dir}\n", {"z.conf": "password_file {dir}/passwords\n", "passwords": ""}),
    ],
)
def test_the_order_of_per_listener_settings(place: Path, main: str, files: dict[str, bytes | str]) -> None:
    wanted = model.ListenerFile(internal=model.Listener(port=8883, address=LOOPBACK))
    ours = {"tedge-mosquitto.conf": listener.render(wanted)}
    path = lay_out(place, main, {**files, **ours})
    conf = mosquitto_conf.read_tree(str(path), Disk())
    found = conflicts.find(conf, str(place / "conf.d/tedge-mosquitto.conf"), wanted, {})
    refused = [finding for finding in found if finding.blocks is not None]
    with started(path, alone=True) as said:
        assert said.accepted is not bool(refused), f"{found}\n{said.stderr}"


# What a sandbox with one IPv6 address cannot tell (the IPv6 half of an interface), and what this machine's /etc/hosts
# decides (whether localhost is ::1 too).
BEYOND = {("2001:db8::1", "listener 8883\nbind_interface ETH0"), ("::1", "listener 8883 localhost")}


@pytest.mark.parametrize(
    ("external", "lines", "collides"), [one for one in OVERLAPS if (str(one[0].address), one[1]) not in BEYOND]
)
def test_the_broker_refuses_a_candidate_exactly_for_the_conflicts_we_find(
    place: Path, external: model.Listener, lines: str, collides: bool
) -> None:
    """Addresses of other machines included: the candidate is what a sandbox with a loopback alone can try."""
    file = model.ListenerFile(external=external)
    path = lay_out(place, "include_dir {dir}\n", {"zz.conf": f"{lines}\n"})
    conf = mosquitto_conf.read_tree(str(path), Disk())
    own = str(place / "conf.d/tedge-mosquitto.conf")
    trial = candidate.candidate(
        conf, own, listener.render(file), interfaces=INTERFACES, sandbox=candidate.Sandbox(root=f"{place}/trial")
    )
    for name, data in trial.files.items():
        Path(f"{place}/trial{name}").parent.mkdir(parents=True, exist_ok=True)
        Path(f"{place}/trial{name}").write_bytes(data)
    with started(Path(f"{place}/trial{trial.main}"), alone=True) as said:
        if "gone0" in lines:  # refused for itself, not for a conflict
            finding = candidate.explain(trial, said.stderr, {})
            assert not said.accepted
            assert (finding.where, finding.remedy) == (f"{place}/conf.d/zz.conf:2", "ip address show dev gone0")
            return
        assert said.accepted is not collides, said.stderr
        if collides:
            finding = candidate.explain(trial, said.stderr, {})
            assert finding.where == f"{place}/conf.d/zz.conf:1"
            assert "Address already in use" in finding.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        (b"", "it holds no certificate in PEM"),
        (b"garbage\n", "it holds no certificate in PEM"),
        ("cut", "the file is cut off"),
    ],
)
def test_a_refused_certificate_is_explained(place: Path, pki: Pki, content: bytes | str | None, reason: str) -> None:
    pem = place / "refused.pem"
    pem.unlink(missing_ok=True)
    if content is not None:
        pem.write_bytes(pki.server[:300] if isinstance(content, str) else content)
    tls = model.Tls(certfile="/staged/refused.pem", keyfile="/staged/refused.pem")
    file = model.ListenerFile(external=model.Listener(port=8883, tls=tls))
    conf = mosquitto_conf.read_tree(str(lay_out(place, "include_dir {dir}\n", {})), Disk())
    sandbox = candidate.Sandbox(staging={"/staged": str(place)})
    own = str(place / "conf.d/tedge-mosquitto.conf")
    trial = candidate.candidate(conf, own, listener.render(file), interfaces={}, sandbox=sandbox)
    for name, data in trial.files.items():
        Path(name).write_bytes(data)
    with started(Path(trial.main), alone=True) as said:
        assert not said.accepted
        finding = candidate.explain(trial, said.stderr, {"/staged/refused.pem": "mqtt.external.cert_file"})
    assert finding.where == "mqtt.external.cert_file"
    assert finding.message.endswith(f'certificate "/staged/refused.pem". Check certfile. ({reason})')
