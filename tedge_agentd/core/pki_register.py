"""What the local PKI has issued, as frozen data and as JSON (`issued.json`). It holds no secret: keys are digests."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any

VERSION = 1


class Role(enum.Enum):
    """Who presents a certificate, which decides its extended key usage and whether the daemon may renew it."""

    SERVER = "server"  # the broker
    TEDGE = "tedge"  # the thin-edge services of this machine
    CHILD = "child"  # handed over to another device, key and all: only its operator can renew it


class KeyType(enum.Enum):
    EC_P256 = "ec"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """One CA of the local PKI. Times in seconds since the epoch; `published` is when clients were first given it.

    `created` is the clock at its making; `not_before` lies earlier, see `core.pki.RELEASED`.
    """

    serial: int
    sha256: str  # of the DER, lower-case hex
    subject: str
    key_type: KeyType
    not_before: int
    not_after: int
    created: int
    published: int | None = None

    @property
    def directory(self) -> str:
        """Its directory's name below `ca/`."""
        return f"{self.serial:032x}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate of the local PKI and the pair of files it lives in ("" for what was handed over).

    `issued` is the clock at its making and begins its life; `not_before` lies earlier. `names` are its SANs,
    `extra_names` those of them an operator asked for, which a renewal keeps.
    """

    role: Role
    name: str  # the common name: the MQTT user name on a mutual listener
    cert_path: str
    key_path: str
    serial: int
    sha256: str  # of the DER, lower-case hex
    key_sha256: str  # of the private key's DER
    issuer: str  # sha256 of the authority
    names: tuple[str, ...]
    extra_names: tuple[str, ...] = ()
    key_type: KeyType
    lifetime: int  # seconds, as asked for: what a renewal gives again
    issued: int
    not_before: int
    not_after: int
    owner: str
    group: str
    cert_mode: int = 0o644
    key_mode: int = 0o600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """All of it. `bundle_path` is the file with the CA certificates that clients and broker trust."""

    authorities: tuple[Authority, ...] = ()  # oldest first
    issued: tuple[Issued, ...] = ()
    bundle_path: str = ""

    def find(self, role: Role, name: str | None = None) -> Issued | None:
        """The certificate of a role, by name where the role has several."""
        return next((one for one in self.issued if one.role is role and name in (None, one.name)), None)

    def with_issued(self, new: Issued) -> "Register":
        """The register with this one in the place of its predecessor: the same role and name, or the same file."""
        kept = (
            one
            for one in self.issued
            if (one.role, one.name) != (new.role, new.name) and not (one.cert_path and one.cert_path == new.cert_path)
        )
        return dataclasses.replace(self, issued=(*kept, new))

    def with_authority(self, new: Authority) -> "Register":
        kept = [one for one in self.authorities if one.serial != new.serial]
        return dataclasses.replace(self, authorities=tuple(sorted((*kept, new), key=lambda one: one.created)))


# JSON -------------------------------------------------------------------------------------------------------


def render(register: Register) -> bytes:
    """The register as JSON, stable so that it can be compared and read by people."""
    data = {
        "version": VERSION,
        "bundle_path": register.bundle_path,
        "authorities": [to_plain(one) for one in register.authorities],
        "issued": [to_plain(one) for one in register.issued],
    }
    return json.dumps(data, indent=1).encode() + b"\n"


def parse(data: bytes) -> Register:
    """The inverse of render. Raises ValueError on anything else, also on a later version's register."""
    try:
        plain = json.loads(data)
        if plain["version"] != VERSION:
            raise ValueError(f"version {plain['version']} of the register is not known")
        return Register(
            authorities=tuple(authority_from(one) for one in plain["authorities"]),
            issued=tuple(issued_from(one) for one in plain["issued"]),
            bundle_path=str(plain["bundle_path"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged: {error!r}") from error


def to_plain(record: Authority | Issued) -> dict[str, Any]:
    """One record as plain data: serials in hex, as `openssl x509 -serial` shows them, modes in octal."""
    plain = dataclasses.asdict(record)
    plain["serial"] = f"{record.serial:x}"
    plain["key_type"] = record.key_type.value
    if isinstance(record, Issued):
        plain["role"] = record.role.value
        plain["cert_mode"], plain["key_mode"] = f"{record.cert_mode:o}", f"{record.key_mode:o}"
    return plain


def authority_from(plain: Mapping[str, Any]) -> Authority:
    """The inverse of to_plain. Raises KeyError, TypeError or ValueError."""
    published = plain["published"]
    return Authority(
        serial=int(plain["serial"], 16),
        sha256=str(plain["sha256"]),
        subject=str(plain["subject"]),
        key_type=KeyType(plain["key_type"]),
        not_before=int(plain["not_before"]),
        not_after=int(plain["not_after"]),
        created=int(plain["created"]),
        published=None if published is None else int(published),
    )


def issued_from(plain: Mapping[str, Any]) -> Issued:
    """The inverse of to_plain. Raises KeyError, TypeError or ValueError."""
    return Issued(
        role=Role(plain["role"]),
        name=str(plain["name"]),
        cert_path=str(plain["cert_path"]),
        key_path=str(plain["key_path"]),
        serial=int(plain["serial"], 16),
        sha256=str(plain["sha256"]),
        key_sha256=str(plain["key_sha256"]),
        issuer=str(plain["issuer"]),
        names=tuple(map(str, plain["names"])),
        extra_names=tuple(map(str, plain["extra_names"])),
        key_type=KeyType(plain["key_type"]),
        lifetime=int(plain["lifetime"]),
        issued=int(plain["issued"]),
        not_before=int(plain["not_before"]),
        not_after=int(plain["not_after"]),
        owner=str(plain["owner"]),
        group=str(plain["group"]),
        cert_mode=int(plain["cert_mode"], 8),
        key_mode=int(plain["key_mode"], 8),
    )
