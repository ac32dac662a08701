"""Log in at the broker as the thin-edge services do, with their own settings."""

import contextlib
import enum
import errno
import os
import socket
import ssl
from dataclasses import dataclass

from tedge_agentd.core import model

from . import client_files, wire
from .client_files import ClientFiles

_CA_SUFFIXES = (".pem", ".cer", ".crt")  # the files of a ca_dir that thin-edge reads (facts/thin-edge.md 2)
_WRONG_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_NOT_NOW = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_CODES = {
    1: "the protocol version",
    2: "the client id",
    3: "them for now: it is not available",
    4: "their user name or password",
    5: "them: they are not authorised",
}


class Login(enum.Enum):
    ACCEPTED = "accepted"
    UNREACHABLE = "unreachable"
    SETTINGS = "settings"  # a file they name cannot be used
    TLS = "tls"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResult:
    """How it went, in a sentence for the operator, and what mends it. `code` is that of a CONNACK."""

    outcome: Login
    text: str
    remedy: str = ""
    code: int | None = None

    @property
    def accepted(self) -> bool:
        return self.outcome is Login.ACCEPTED


def login(client: model.ClientSettings, files: ClientFiles, *, timeout: float) -> LoginResult:
    """Connect to the broker with the clients' host, port, CA, certificate, user name and password, once.

    As in thin-edge, TLS is on if and only if the CA settings yield a certificate, the client's certificate counts
    only together with its key, and of the password file the first line is used; an unreadable one means no password.
    Files are read by the safe walk, and only if the clients themselves may read them. A host that is a name is looked
    up, which may take as long as the resolver does.
    """
    try:
        context, password = tls_context(client, files), password_of(client, files)
    except (OSError, ValueError) as error:
        return _unusable(client, error)
    try:
        wire.connect_packet(client.username, password)
    except OSError as error:
        return LoginResult(
            outcome=Login.SETTINGS,
            text=f"the clients' user name or password cannot be used: {error.strerror}",
            remedy="tedge config set mqtt.client.auth.username ...",
        )
    try:
        return _attempt(client, context, password, timeout)
    except ValueError as error:  # UnicodeError: no resolver is asked for such a name
        return LoginResult(
            outcome=Login.SETTINGS,
            text=f"mqtt.client.host is no name of a host: {error}",
            remedy="tedge config set mqtt.client.host ...",
        )
    except OSError as error:
        if _is_forbidden(error):
            return LoginResult(outcome=Login.ACCEPTED, text=f"{_where(client)} is beyond what the daemon may reach")
        return LoginResult(
            outcome=Login.UNREACHABLE,
            text=f"the clients are to connect to {_where(client)}, where nothing answers: {wire.explain(error)}",
            remedy="tedge config set mqtt.client.host ...; tedge config set mqtt.client.port ...",
        )


def _is_forbidden(error: OSError) -> bool:
    """Whether the unit's IPAddressDeny= stopped us: at the address itself, or at a name server."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, PermissionError)


def _attempt(
    client: model.ClientSettings,
    context: ssl.SSLContext | None,
    password: bytes | None,
    timeout: float,
    *,
    patient: bool = False,
) -> LoginResult:
    """Connect and log in. Raises OSError where nothing listens.

    A connection that broke after the handshake is tried again with patience: a refusal of our certificate may have
    been lost to a reset, because we spoke before it came.
    """
    with wire.Channel(client.host, client.port, timeout) as channel:
        greeted = False
        try:
            if context is not None:
                channel.start_tls(context, client.host)
                greeted = True
            if patient:
                with contextlib.suppress(TimeoutError):
                    channel.read(1, wire.REFUSAL_S)
            code = channel.login(client.username, password)
            if code is None:
                raise ConnectionResetError(errno.ECONNRESET, "connection closed")
        except OSError as error:
            lost = greeted and not isinstance(error, ssl.SSLError | TimeoutError)
            if not lost or patient:
                return _broken(client, error, channel, tls=context is not None)
        else:
            return _answered(client, code)
    return _attempt(client, context, password, timeout, patient=True)


def _answered(client: model.ClientSettings, code: int) -> LoginResult:
    if code == 0:
        return LoginResult(outcome=Login.ACCEPTED, code=0, text=f"the clients can log in at {_where(client)}")
    return LoginResult(
        outcome=Login.REFUSED,
        code=code,
        text=f"the broker at {_where(client)} refuses {_CODES.get(code, 'the clients')} (CONNACK {code})",
        remedy=_REFUSED_REMEDY[client.username is not None],
    )


def _where(client: model.ClientSettings) -> str:
    return f"{client.host}:{client.port}"


_REFUSED_REMEDY = {
    True: "check mqtt.client.auth.username and the first line of the file of mqtt.client.auth.password_file",
    False: "tedge config set mqtt.client.auth.username ...; tedge config set mqtt.client.auth.password_file ...",
}


_NOT_ACCEPTED = {
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "renew the certificate of mqtt.client.auth.cert_file",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "let its CA issue mqtt.client.auth.cert_file again, for a client",
}


def tls_context(client: model.ClientSettings, files: ClientFiles) -> ssl.SSLContext | None:
    """Return how the clients do TLS, None if they do not."""
    authorities = _authorities(client, files)
    if not authorities:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False  # rustls looks at subject alternative names only
    context.load_verify_locations(cadata="\n".join(authorities))
    if client.cert_file and client.key_file:
        _load_pair(context, files.read(client.cert_file), files.read(client.key_file))
    return context


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Load a pair without naming its files again: between two looks they might be other ones."""
    descriptors = []
    try:
        for data in (cert, key):
            descriptors.append(client_files.in_memory(data))
        certfile, keyfile = (f"/proc/self/fd/{fd}" for fd in descriptors)
        context.load_cert_chain(certfile, keyfile, password=_no_passphrase)
    finally:
        for fd in descriptors:
            os.close(fd)


def _authorities(client: model.ClientSettings, files: ClientFiles) -> list[str]:
    paths = [client.ca_file] if client.ca_file else []
    if client.ca_dir:
        names = [name for name in files.names(client.ca_dir) if name.endswith(_CA_SUFFIXES)]
        paths += [os.path.join(client.ca_dir, name) for name in names]
    texts = []
    for path in paths:
        text = files.read(path).decode("ascii", "ignore")
        if "-----BEGIN CERTIFICATE-----" in text:
            texts.append(text)
    return texts


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")


def password_of(client: model.ClientSettings, files: ClientFiles) -> bytes | None:
    if client.username is None or not client.password_file:
        return None
    try:
        return files.read(client.password_file).partition(b"\n")[0].rstrip(b"\r")
    except OSError:
        return None


def _unusable(client: model.ClientSettings, error: OSError | ValueError) -> LoginResult:
    named = getattr(error, "filename", None)
    detail = wire.explain(error) if isinstance(error, OSError) else str(error)
    keys = {
        "mqtt.client.auth.ca_file": client.ca_file,
        "mqtt.client.auth.ca_dir": client.ca_dir,
        "mqtt.client.auth.cert_file": client.cert_file,
        "mqtt.client.auth.key_file": client.key_file,
    }
    guilty = next((key for key, path in keys.items() if named and path and str(named).startswith(path)), None)
    what = f"{guilty} ({named})" if guilty else " and ".join(f"{key} ({path})" for key, path in keys.items() if path)
    return LoginResult(
        outcome=Login.SETTINGS,
        text=f"the clients cannot use {what}: {detail}",
        remedy=f"tedge config set {guilty or 'mqtt.client.auth.cert_file'} ...",
    )


def _broken(client: model.ClientSettings, error: OSError, channel: wire.Channel, *, tls: bool) -> LoginResult:
    """Explain a connection that was made and then failed."""
    where, said = _where(client), wire.explain(error)
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if isinstance(error, ssl.SSLCertVerificationError):
        text, remedy = _untrusted(client, where, error)
    elif "CERTIFICATE_REQUIRED" in reason or ("HANDSHAKE_FAILURE" in reason and not client.cert_file):
        text = f"the broker at {where} asks the clients for a certificate, and they have none"
        remedy = "tedge config set mqtt.client.auth.cert_file ...; tedge config set mqtt.client.auth.key_file ..."
    elif "ALERT" in reason and client.cert_file:
        text = f"the broker at {where} does not accept the clients' certificate {client.cert_file}: {said}"
        remedy = _NOT_ACCEPTED.get(reason, "check that mqtt.external.ca_path holds the CA that issued it")
    elif tls and not channel.speaks_tls:
        text = f"the clients use TLS at {where}, where the broker does not: {said}"
        remedy = "set mqtt.client.port to the port with TLS, or tedge config unset mqtt.client.auth.ca_file"
    elif tls:
        text, remedy = f"TLS between the clients and {where} fails: {said}", "journalctl -u mosquitto -e"
    else:
        text = f"the broker at {where} drops the clients, as it does where it wants TLS: {said}"
        remedy = "tedge config set mqtt.client.auth.ca_file ..., or set mqtt.client.port to a port without TLS"
    return LoginResult(outcome=Login.TLS if tls else Login.REFUSED, text=text, remedy=remedy)


def _untrusted(client: model.ClientSettings, where: str, error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    if error.verify_code in _WRONG_NAME:
        return (
            f"the broker's certificate is not for {client.host}, the name the clients use",
            "tedge config set mqtt.client.host <a name in the certificate>, or issue one with that name",
        )
    if error.verify_code in _NOT_NOW:
        return (
            f"the broker's certificate is not valid now: {wire.explain(error)}",
            "renew the certificate of mqtt.external.cert_file",
        )
    authority = client.ca_file or client.ca_dir
    return (
        f"the clients do not trust the broker's certificate: {wire.explain(error)} in {authority}",
        f"openssl s_client -connect {where} -CAfile {authority} </dev/null",
    )
