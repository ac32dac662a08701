"""Certificates of every sort for the tests, good ones and bad ones."""

import contextlib
import dataclasses
import datetime
import hashlib
import ipaddress
import pathlib
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
DAY = datetime.timedelta(days=1)
GATEWAY_NAMES = ("gateway", "localhost", "127.0.0.1", "::1", "192.0.2.10")


def new_key(kind: str = "ec") -> Key:
    """Return a fresh key: `ec` (P-256), `ec384`, `rsa` (2048), `rsa1024` (too small for OpenSSL) or `ed25519`."""
    match kind:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "ec384":
            return ec.generate_private_key(ec.SECP384R1())
        case "rsa" | "rsa1024":
            return rsa.generate_private_key(65537, 1024 if kind == "rsa1024" else 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(kind)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate, its key, and the intermediates between it and the root."""

    certificate: bytes  # DER
    key: Key
    chain: tuple[bytes, ...] = ()

    @property
    def pem(self) -> str:
        return to_pem(self.certificate)

    @property
    def chain_pem(self) -> str:
        """The certificate followed by the intermediates."""
        return "".join(to_pem(der) for der in (self.certificate, *self.chain))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.certificate).hexdigest()

    def key_pem(self, *, traditional: bool = False, password: str | None = None) -> str:
        """Return the key as PKCS#8, or in the older form of its kind; encrypted if there is a password."""
        form = serialization.PrivateFormat.TraditionalOpenSSL if traditional else serialization.PrivateFormat.PKCS8
        secret = (
            serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        )
        return self.key.private_bytes(serialization.Encoding.PEM, form, secret).decode()

    def key_der(self) -> bytes:
        plain = serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain)

    def write(self, directory: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Write `name`.crt (with the chain) and `name`.key on this machine; return their paths."""
        cert, key = directory / f"{name}.crt", directory / f"{name}.key"
        cert.write_text(self.chain_pem)
        key.write_text(self.key_pem())
        return cert, key


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority: a root, or one below another."""

    name: x509.Name
    pair: Pair

    @property
    def pem(self) -> str:
        return self.pair.pem

    def write(self, path: pathlib.Path) -> pathlib.Path:
        path.write_text(self.pem)
        return path

    def issue(
        self,
        name: str,
        *,
        sans: Iterable[str] = (),
        usage: str = "any",
        key: str | Key = "ec",
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 365 * DAY,
        version: int = 3,
    ) -> Pair:
        """Issue a certificate, valid between two times relative to now; `usage` is `server`, `client` or `any`.

        Version 1 has no extensions, whatever was asked for.
        """
        private = new_key(key) if isinstance(key, str) else key
        builder = _builder(_name(name), self.name, private, starts, ends)
        builder = _extended(builder, private, self.pair.key, authority=False)
        if names := [_general_name(san) for san in sans]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usages = {"server": [ExtendedKeyUsageOID.SERVER_AUTH], "client": [ExtendedKeyUsageOID.CLIENT_AUTH], "any": []}
        if usages[usage]:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages[usage]), critical=False)
        der = _sign(builder, self.pair.key)
        if version == 1:
            der = _as_version_1(der, self.pair.key)
        below_root = (self.pair.certificate, *self.pair.chain) if self.pair.chain or not self._is_root() else ()
        return Pair(certificate=der, key=private, chain=below_root)

    def server(self, name: str = "gateway", *, sans: Iterable[str] = GATEWAY_NAMES, key: str = "ec") -> Pair:
        """Issue a good certificate for a gateway's broker."""
        return self.issue(name, sans=sans, usage="server", key=key)

    def client(self, name: str = "client", *, key: str = "ec") -> Pair:
        """Issue a good certificate for a client."""
        return self.issue(name, usage="client", key=key)

    def intermediate(self, name: str = "Test Intermediate") -> "Authority":
        private = new_key()
        builder = _builder(_name(name), self.name, private, -DAY, 3650 * DAY)
        der = _sign(_extended(builder, private, self.pair.key, authority=True), self.pair.key)
        chain = () if self._is_root() else (self.pair.certificate, *self.pair.chain)
        return Authority(name=_name(name), pair=Pair(certificate=der, key=private, chain=chain))

    def _is_root(self) -> bool:
        certificate = x509.load_der_x509_certificate(self.pair.certificate)
        return certificate.issuer == certificate.subject


def authority(name: str = "Test CA", *, key: str = "ec") -> Authority:
    """Return a new root authority."""
    private = new_key(key)
    builder = _builder(_name(name), _name(name), private, -DAY, 3650 * DAY)
    der = _sign(_extended(builder, private, private, authority=True), private)
    return Authority(name=_name(name), pair=Pair(certificate=der, key=private))


def self_signed(name: str = "gateway", *, sans: Iterable[str] = GATEWAY_NAMES) -> Pair:
    """Return a certificate that signs itself and is no authority."""
    private = new_key()
    builder = _builder(_name(name), _name(name), private, -DAY, 365 * DAY)
    names = x509.SubjectAlternativeName([_general_name(san) for san in sans])
    return Pair(certificate=_sign(builder.add_extension(names, critical=False), private), key=private)


def to_pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, starts: datetime.timedelta, ends: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now + starts).not_valid_after(now + ends)


def _extended(builder: x509.CertificateBuilder, key: Key, issuer: Key, *, authority: bool) -> x509.CertificateBuilder:
    """Add what strict verifiers ask for (RFC 5280, 4.2.1; Python 3.13 checks all of it by default)."""
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_encipherment=not authority and isinstance(key, rsa.RSAPrivateKey),
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=authority, path_length=None), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder


def _sign(builder: x509.CertificateBuilder, key: Key) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def _as_version_1(der: bytes, key: Key) -> bytes:
    """Drop version and extensions and sign again (RFC 5280, 4.1): no library offers to make such certificates."""
    tbs, algorithm, _ = _elements(_content(der))
    kept = [element for element in _elements(_content(tbs)) if element[0] not in (0xA0, 0xA3)]
    body = _element(0x30, b"".join(kept))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(body)
    return _element(0x30, body + algorithm + _element(0x03, b"\0" + signature))


def _header(data: bytes) -> tuple[int, int]:
    """Return the lengths of a DER element's header and content."""
    if data[1] < 0x80:
        return 2, data[1]
    count = data[1] & 0x7F
    return 2 + count, int.from_bytes(data[2 : 2 + count], "big")


def _content(element: bytes) -> bytes:
    header, length = _header(element)
    return element[header : header + length]


def _elements(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = sum(_header(data))
        found.append(data[:size])
        data = data[size:]
    return found


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
