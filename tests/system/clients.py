"""MQTT clients of a gateway. Certificates are files of this machine; connections are made inside its network."""

import contextlib
import dataclasses
import enum
import hashlib
import json
import pathlib
import select
import socket
import ssl
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from .gateway import Gateway
from .thin_edge import wire

_REPOSITORY = pathlib.Path(__file__).parents[2]
_PACKAGE = pathlib.Path(__file__).parent


class Outcome(enum.Enum):
    ACCEPTED = "accepted"
    REFUSED = "refused by the broker"
    TLS_REFUSED = "TLS handshake refused by the broker"
    UNTRUSTED = "TLS handshake refused by the client"
    UNREACHABLE = "nobody answers"


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How a connection ended: what CONNACK said (code 4 and 5 are refusals), or the TLS alert's name."""

    outcome: Outcome
    detail: str = ""
    code: int | None = None

    @property
    def accepted(self) -> bool:
        return self.outcome is Outcome.ACCEPTED


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """What a client brings along. It speaks TLS if it has a `ca`, a `cert` or `tls`; with a `ca` it checks names."""

    ca: pathlib.Path | None = None
    cert: pathlib.Path | None = None
    key: pathlib.Path | None = None
    username: str | None = None
    password: str | None = None
    tls: bool = False
    tls_version: ssl.TLSVersion | None = None

    def context(self) -> ssl.SSLContext | None:
        if not (self.tls or self.ca or self.cert):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.hostname_checks_common_name = False
        if self.ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        if self.tls_version is not None:
            context.minimum_version = context.maximum_version = self.tls_version
        return context


ANONYMOUS = Credentials()


def connect(
    gw: Gateway,
    port: int = 1883,
    credentials: Credentials = ANONYMOUS,
    *,
    host: str = "127.0.0.1",
    client_id: str = "probe",
    outside: bool = False,
    timeout: float = 5.0,
) -> Result:
    """Try to log in once and say exactly how it went. `outside` connects from another machine of the network."""
    login = wire.connect(client_id, username=credentials.username, password=credentials.password)
    context = credentials.context()

    def attempt() -> Result:
        try:
            plain = socket.create_connection((host, port), timeout=timeout)
        except OSError as error:
            return Result(Outcome.UNREACHABLE, str(error))
        with plain:
            if context is None:
                return _log_in(plain, login)
            try:
                plain.getpeername()  # wrap_socket leaks the socket of a connection that was reset meanwhile
                tls = context.wrap_socket(plain, server_hostname=host)
            except ssl.SSLCertVerificationError as error:
                return Result(Outcome.UNTRUSTED, error.verify_message)
            except OSError as error:
                return Result(Outcome.TLS_REFUSED, _reason(error))
            with tls:
                try:
                    _await_verdict(tls)
                except OSError as error:
                    return Result(Outcome.TLS_REFUSED, _reason(error))
                return _log_in(tls, login)

    return gw.in_network(attempt, outside=outside)


def _log_in(connection: wire.Connection, login: bytes) -> Result:
    try:
        connection.sendall(login)
        kind, body = wire.read(connection)
    except OSError as error:
        return Result(Outcome.REFUSED, _reason(error))
    if kind != wire.CONNACK:
        return Result(Outcome.REFUSED, f"packet {kind} instead of CONNACK")
    if body[1]:
        return Result(Outcome.REFUSED, f"CONNACK {body[1]}", body[1])
    with contextlib.suppress(OSError):
        connection.sendall(wire.DISCONNECT)
    return Result(Outcome.ACCEPTED, code=0)


def _await_verdict(tls: ssl.SSLSocket) -> None:
    """Wait until the broker judged our certificate: in TLS 1.3 its alert, or its session tickets, come afterwards.

    Writing before the alert was read can turn it into a connection reset (RFC 8446, 4.6.1 and 6.2).
    """
    if tls.version() != "TLSv1.3" or not select.select([tls], [], [], 1.0)[0]:
        return
    timeout = tls.gettimeout()
    tls.setblocking(False)
    try:
        if tls.recv(1) == b"":
            raise wire.Closed("closed after the handshake")
    except ssl.SSLWantReadError:
        pass
    finally:
        tls.settimeout(timeout)


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error)


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What a TLS listener presents."""

    certificate: bytes  # DER
    tls_version: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.certificate).hexdigest()

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.certificate)


def handshake(gw: Gateway, port: int = 8883, *, host: str = "127.0.0.1", outside: bool = False) -> Served:
    """Return the certificate a listener presents, whoever issued it. Raises OSError if there is none."""
    context = Credentials(tls=True).context()
    assert context is not None

    def shake() -> Served:
        with socket.create_connection((host, port), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname=host) as tls:
                return Served(tls.getpeercert(binary_form=True) or b"", tls.version() or "")

    return gw.in_network(shake, outside=outside)


def publish(gw: Gateway, topic: str, payload: str, *options: str, check: bool = True) -> bool:
    """Run mosquitto_pub inside the gateway; `options` as for it. Return whether it succeeded."""
    done = gw.run(["mosquitto_pub", "-t", topic, "-m", payload, *options], check=check)
    return done.returncode == 0


def subscribe(gw: Gateway, topic: str, *options: str, count: int = 1, seconds: int = 5) -> list[str]:
    """Run mosquitto_sub inside the gateway; return up to `count` messages that arrive within `seconds`."""
    limits = ["-C", str(count), "-W", str(seconds)]
    return gw.run(["mosquitto_sub", "-t", topic, *limits, *options], check=False).stdout.splitlines()


class ClientProcess:
    """A client in a process of its own inside the gateway's network, from `with` to the end of its block."""

    kind = ""

    def __init__(
        self,
        gw: Gateway,
        port: int = 1883,
        credentials: Credentials = ANONYMOUS,
        *,
        host: str = "127.0.0.1",
        outside: bool = False,
        **options: Any,
    ) -> None:
        """Set up; `options` are those of the kind of client, see client_process."""
        plain = {
            name: str(value) if isinstance(value, pathlib.Path) else value
            for name, value in dataclasses.asdict(credentials).items()
        }
        self._arguments = json.dumps({"host": host, "port": port, "credentials": plain, **options})
        self._enter = gw.enter_network(outside=outside)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        module = f"{__package__}.client_process"
        top = _REPOSITORY if module.startswith("tests.") else _PACKAGE.parent
        self._process = subprocess.Popen(
            [*self._enter, sys.executable, "-m", module, self.kind, self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=top,
        )
        try:
            self._reply()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.stdin is not None:
            self._process.stdin.close()  # which ends it
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def report(self) -> dict[str, Any]:
        """Return what the client has seen so far."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("report\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the {self.kind} client ended; is the broker up? See its output on stderr")
        reply: dict[str, Any] = json.loads(line)
        return reply


class KeepConnected(ClientProcess):
    """A paho client that stays connected and comes back when it is cut off, subscribed to `topic`."""

    kind = "keep"

    @property
    def disconnects(self) -> int:
        return int(self.report()["disconnects"])


class OutageProbe(ClientProcess):
    """Asks the broker for a sign of life every 20 ms, and measures how long it gave none.

    With `new_connections=True` each sign is a new login instead of a ping on one connection that stays.
    """

    kind = "probe"

    @property
    def lost_ms(self) -> float:
        return float(self.report()["lost_ms"])


class Crowd(ClientProcess):
    """`count` connections that never come back once they are dropped."""

    kind = "crowd"

    @property
    def dropped(self) -> int:
        """How many do not answer any more."""
        return int(self.report()["dropped"])
