"""Reads certificates and keys in a process of its own: JSON on stdin, JSON on stdout, nothing else.

python3-cryptography costs the daemon memory for ever and parses what anybody may have written, so it is loaded here,
in a process that ends. This file is run by its path under `python3 -I` and imports nothing of ours: it is the same
file installed and in a checkout. It judges nothing: problems come back as short codes.

Request: {"items": [{"chain": [DER], "raw": bytes | null, "key": PEM | null, "key_raw": bytes | null}]}, bytes in
base64. `raw` is what is no PEM: is it DER? Answer: {"items": [{"certificates": [facts | null], "der": bool, "key":
{"type", "bits", "error"}, "matches": index of the certificate of that key or -1, "openssl": reason | null}]}.
"""

import base64
import contextlib
import datetime
import json
import os
import resource
import ssl
import sys
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

_BAD = (ValueError, TypeError, UnsupportedAlgorithm, KeyError, OverflowError)
_CPU_S = 8
_MEMORY = 1 << 30  # address space, not resident


def inspect(item: dict[str, Any]) -> dict[str, Any]:
    """Answer one request; see the module."""
    chain = [_certificate(base64.b64decode(der)) for der in item["chain"]]
    answer: dict[str, Any] = {
        "certificates": [facts for facts, _ in chain],
        "der": item["raw"] is not None and _is_der(base64.b64decode(item["raw"])),
    }
    if item["key"] is not None or item["key_raw"] is not None:
        answer.update(_key(item, [public for _, public in chain]))
    return answer


def _certificate(der: bytes) -> tuple[dict[str, Any] | None, bytes | None]:
    """The facts and the public key of one certificate, None and None where it is none."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificate.public_key()
        extensions: x509.Extensions | None
        try:
            extensions = certificate.extensions
        except _BAD:  # a malformed or doubled extension: OpenSSL refuses such a certificate only when it is used
            extensions = None
        facts = {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "sans": _sans(extensions),
            "not_before": _moment(certificate, "not_valid_before"),
            "not_after": _moment(certificate, "not_valid_after"),
            "key_type": _key_type(public),
            "key_bits": _key_bits(public),
            "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            "is_ca": _is_ca(extensions),
            "version": certificate.version.value + 1,
            "self_signed": certificate.subject == certificate.issuer,
            "server_auth": _allows(extensions, ExtendedKeyUsageOID.SERVER_AUTH),
            "client_auth": _allows(extensions, ExtendedKeyUsageOID.CLIENT_AUTH),
        }
        return facts, _spki(public)
    except _BAD:
        return None, None


def _moment(certificate: x509.Certificate, name: str) -> int:
    """Seconds since the epoch. cryptography 42 has the `_utc` names and warns of the old ones; 38 has only those."""
    aware: datetime.datetime | None = getattr(certificate, f"{name}_utc", None)
    if aware is None:
        naive: datetime.datetime = getattr(certificate, name)
        aware = naive.replace(tzinfo=datetime.UTC)
    return int(aware.timestamp())


def _sans(extensions: x509.Extensions | None) -> list[str]:
    if extensions is None:
        return []
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = {"DNSName": "DNS", "IPAddress": "IP", "RFC822Name": "email", "UniformResourceIdentifier": "URI"}
    return [f"{kinds[type(name).__name__]}:{name.value}" for name in names if type(name).__name__ in kinds]


def _is_ca(extensions: x509.Extensions | None) -> bool:
    if extensions is None:
        return False
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _allows(extensions: x509.Extensions | None, usage: x509.ObjectIdentifier) -> bool:
    if extensions is None:
        return True
    try:
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


def _key_type(key: object) -> str:
    kinds = {
        "RSA": (rsa.RSAPublicKey, rsa.RSAPrivateKey),
        "EC": (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey),
        "Ed25519": (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey),
        "Ed448": (ed448.Ed448PublicKey, ed448.Ed448PrivateKey),
        "DSA": (dsa.DSAPublicKey, dsa.DSAPrivateKey),
    }
    return next((name for name, classes in kinds.items() if isinstance(key, classes)), type(key).__name__)


def _key_bits(key: object) -> int:
    return {"Ed25519": 256, "Ed448": 456}.get(_key_type(key)) or int(getattr(key, "key_size", 0))


def _spki(public: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = public.public_bytes(serialization.Encoding.DER, form)
    return data


def _is_der(data: bytes) -> bool:
    return _certificate(data)[0] is not None


def _key(item: dict[str, Any], publics: list[bytes | None]) -> dict[str, Any]:
    failed = {"type": "", "bits": 0}
    if item["key"] is None:
        try:
            serialization.load_der_private_key(base64.b64decode(item["key_raw"]), None)
        except _BAD:
            return {"key": {**failed, "error": "none"}, "matches": -1, "openssl": None}
        return {"key": {**failed, "error": "der"}, "matches": -1, "openssl": None}
    pem = item["key"].encode()
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        return {"key": {**failed, "error": "encrypted"}, "matches": -1, "openssl": None}
    except _BAD:
        return {"key": {**failed, "error": "invalid"}, "matches": -1, "openssl": None}
    public = _spki(key.public_key())
    matches = publics.index(public) if public in publics else -1
    facts = {"type": _key_type(key), "bits": _key_bits(key), "error": None}
    return {"key": facts, "matches": matches, "openssl": _openssl(item["chain"], pem) if matches == 0 else None}


def _openssl(chain: list[str], key: bytes) -> str | None:
    """What OpenSSL has against the pair as a server's, None if nothing. The broker uses the same library."""
    blocks = [ssl.DER_cert_to_PEM_cert(base64.b64decode(der)).encode() for der in chain]
    file = os.memfd_create("pair")
    try:
        os.write(file, b"".join((*blocks, key)))
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{file}")
    except (ssl.SSLError, OSError) as error:
        return str(getattr(error, "reason", None) or error)
    finally:
        os.close(file)
    return None


def _limit() -> None:
    """Bound what hostile bytes can cost. The unit's sandbox may forbid setrlimit(2), and bounds us then itself."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: _CPU_S, resource.RLIMIT_AS: _MEMORY}
    for kind, value in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def main() -> None:
    """Answer what stands on stdin, once the descriptor that is named says so."""
    _limit()
    if len(sys.argv) > 1 and not os.read(int(sys.argv[1]), 1):
        return  # there is no question after all
    request = json.load(sys.stdin.buffer)
    json.dump({"items": [inspect(item) for item in request["items"]]}, sys.stdout)


if __name__ == "__main__":
    main()
