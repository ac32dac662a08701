"""PEM blocks in bytes of any origin (RFC 7468, and the headers of RFC 1421 that OpenSSL still writes). Pure."""

import binascii
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass

CERTIFICATES = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})
# OpenSSL's own "TRUSTED CERTIFICATE" is none of them: cryptography and rustls cannot read it.
KEYS = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "DSA PRIVATE KEY"})
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_END = re.compile(rb"-----END ([A-Z0-9 ]{1,40})-----")
_HEADER = re.compile(rb"[A-Za-z0-9-]{1,40}:.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One PEM block. `der` is its decoded body, None where that is no base64."""

    label: str
    der: bytes | None
    encrypted: bool = False

    def pem(self) -> bytes:
        """Write the block anew from its decoded body: nothing else of its source survives."""
        body = b64encode(self.der or b"").decode()
        lines = [body[start : start + 64] for start in range(0, len(body), 64)]
        return "\n".join((f"-----BEGIN {self.label}-----", *lines, f"-----END {self.label}-----", "")).encode()

    def __repr__(self) -> str:
        return f"Block({self.label})"  # a key must not end in a log by accident


def blocks(data: bytes) -> Iterator[Block]:
    """Yield the complete blocks of any bytes, in order, as OpenSSL finds them: text around is passed over.

    A block that never ends, or that another one begins in, is none. Takes time linear in the size of `data`.
    """
    label = b""
    body: list[bytes] = []
    for raw in data.split(b"\n"):
        line = raw.rstrip(b" \t\r")
        if (begin := _BEGIN.fullmatch(line)) is not None:
            label, body = begin[1], []
        elif label and (end := _END.fullmatch(line)) is not None:
            if end[1] == label:
                yield _block(label.decode(), body)
            label = b""
        elif label:
            body.append(line)


def _block(label: str, lines: list[bytes]) -> Block:
    encrypted = label == "ENCRYPTED PRIVATE KEY"
    if lines and _HEADER.fullmatch(lines[0]):
        blank = lines.index(b"") if b"" in lines else len(lines)
        encrypted = encrypted or any(
            line.startswith(b"Proc-Type:") and line.endswith(b"ENCRYPTED") for line in lines[:blank]
        )
        lines = lines[blank + 1 :]
    try:
        der = binascii.a2b_base64(b"".join(line.strip() for line in lines), strict_mode=True)
    except binascii.Error:
        der = None
    return Block(label=label, der=der or None, encrypted=encrypted)


def certificates(data: bytes) -> tuple[Block, ...]:
    return tuple(block for block in blocks(data) if block.label in CERTIFICATES)


def keys(data: bytes) -> tuple[Block, ...]:
    return tuple(block for block in blocks(data) if block.label in KEYS)


def combined(cert_pem: bytes, key_pem: bytes) -> bytes:
    """Return what the broker is to read as certfile and keyfile at once: the chain, leaf first, then the one key.

    Only whole certificate and unencrypted key blocks are copied, written anew from their decoded bodies. Mosquitto
    2.0.11 reads both orders of certificate and key. Raises ValueError where there is no such pair; whether the halves
    belong together is `certificates.pair_problem`'s to say.
    """
    chain = certificates(cert_pem)
    found = keys(key_pem)
    if not chain or any(block.der is None for block in chain):
        raise ValueError("no certificate chain in PEM")
    if not found or found[0].der is None or found[0].encrypted:
        raise ValueError("no unencrypted private key in PEM")
    return b"".join(block.pem() for block in (*chain, found[0]))


def bundle(*sources: bytes) -> bytes:
    """Return the certificate blocks of the sources and nothing else, each once, in order: a `cafile`."""
    unique = dict.fromkeys(block for source in sources for block in certificates(source) if block.der is not None)
    return b"".join(block.pem() for block in unique)
