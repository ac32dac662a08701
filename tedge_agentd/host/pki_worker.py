"""Makes keys and certificates in a process of its own: JSON on stdin, JSON on stdout, keys straight into files.

python3-cryptography costs 15 MB and is needed minutes a year, so the daemon never imports it. This file is run by its
path under `python3 -I`, which ignores the environment and the current directory, and therefore imports nothing of
ours: it is the same file installed and in a checkout. It decides nothing: names and times come with the request.

Every file is made with O_EXCL in the directory of the request, with mode 0600 from its first byte, and is on disk
to stay before the answer is given. A crash leaves files in a directory that nobody has been told about.
"""

import datetime
import ipaddress
import json
import os
import resource
import secrets
import sys
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Make what is asked: {"make": "authority" | "server" | "client", "directory", "common_name", "key_type",
    "not_before", "not_after"} and for a leaf {"authority": directory, "dns", "addresses", "uris"}.

    Leaves cert.pem and key.pem in the directory; returns their digests and the serial.
    """
    key = _new_key(request["key_type"])
    serial = secrets.randbits(128) or 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(request["common_name"]))
        .serial_number(serial)
        .not_valid_before(_moment(request["not_before"]))
        .not_valid_after(_moment(request["not_after"]))
        .public_key(key.public_key())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if request["make"] == "authority":
        certificate = _authority(builder, key, request)
    else:
        certificate = _leaf(builder, key, request)
    key_der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    directory = os.open(request["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _write(directory, "key.pem", key_pem)
        _write(directory, "cert.pem", certificate.public_bytes(serialization.Encoding.PEM))
        os.fsync(directory)
    finally:
        os.close(directory)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key_der)
    return {
        "serial": f"{serial:x}",
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "key_sha256": digest.finalize().hex(),
    }


def _new_key(kind: str) -> Key:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    sizes = {"rsa-2048": 2048, "rsa-3072": 3072}
    return rsa.generate_private_key(public_exponent=65537, key_size=sizes[kind])


def _authority(builder: x509.CertificateBuilder, key: Key, request: dict[str, Any]) -> x509.Certificate:
    # pathlen 0: it signs leaves only, so a leaf that calls itself a CA is refused by every verifier.
    return (
        builder.issuer_name(_name(request["common_name"]))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _leaf(builder: x509.CertificateBuilder, key: Key, request: dict[str, Any]) -> x509.Certificate:
    """Sign with the authority. The extensions are those that RFC 5280 4.2 and rustls ask of an end entity."""
    with open(os.path.join(request["authority"], "key.pem"), "rb") as file:
        signer = serialization.load_pem_private_key(file.read(), password=None)
    with open(os.path.join(request["authority"], "cert.pem"), "rb") as file:
        issuer = x509.load_pem_x509_certificate(file.read())
    assert isinstance(signer, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in request["dns"]]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in request["addresses"]]
    names += [x509.UniformResourceIdentifier(uri) for uri in request["uris"]]
    if not names:
        raise ValueError("a certificate without a name is refused by strict verifiers")
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    # In TLS 1.2 an RSA server may also be asked to decrypt the session key.
    encipherment = request["make"] == "server" and isinstance(key, rsa.RSAPrivateKey)
    return (
        builder.issuer_name(issuer.subject)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False, encipherment=encipherment), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[request["make"]]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _key_usage(*, ca: bool, encipherment: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _moment(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _write(directory: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    """Answer one request: {"ok": {...}} or {"error": "..."}."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no private key in a core dump
    try:
        answer: dict[str, Any] = {"ok": handle(json.load(sys.stdin))}
    except (OSError, ValueError, KeyError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
