"""The files that certificates come from, read by the rules of contract 7: nothing here is judged."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .core import desired, model
from .core.shell import word
from .host import certificates, opened, users, walk

EXTERNAL = desired.EXTERNAL_KEYS
_CA_NAMES = (".pem", ".crt", ".cer")  # what thin-edge takes for certificates in a directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file's bytes, or why there are none."""

    key: str
    path: str
    data: bytes | None = field(default=None, repr=False)
    finding: model.Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ca:
    """The files of a CA, or why there are none."""

    path: str = ""
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    is_dir: bool = False
    refused: model.Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the external listener is made of; all None where it has no TLS."""

    cert: Source | None = None
    key: Source | None = None
    ca: Ca | None = None

    def requests(self) -> tuple[list[certificates.PairRequest], list[certificates.CaRequest]]:
        """What can be inspected of it."""
        pairs, cas = [], []
        cert, key, ca = self.cert, self.key, self.ca
        if cert is not None and key is not None and cert.data is not None and key.data is not None:
            pairs.append(
                certificates.PairRequest(cert_path=cert.path, cert=cert.data, key_path=key.path, key=key.data)
            )
        if ca is not None and ca.refused is None:
            cas.append(certificates.CaRequest(path=ca.path, files=ca.files))
        return pairs, cas


def entries(
    directory: str, names: list[str], roots: walk.Roots, reader: users.Account, role: model.Role
) -> Iterator[tuple[str, bytes]]:
    """The certificate files of a directory; hash links name the same files again and are passed over."""
    for name in names:
        if not name.endswith(_CA_NAMES):
            continue
        path = f"{directory}/{name}"
        try:
            with walk.open_source(path, roots, role, reader) as source:
                if not source.is_dir:
                    yield path, opened.read(source)
        except opened.Refused:
            yield path, b""  # the inspection reports it as a file without a certificate


def read(  # noqa: PLR0913  # as the rules for it
    key: str,
    path: str,
    roots: walk.Roots,
    reader: users.Account,
    role: model.Role = model.Role.BROKER,
    *,
    owners: frozenset[int] | None = None,
) -> Source:
    """Read a source. One of an owner that is not among `owners` has to be readable for the reader itself."""
    try:
        with walk.open_source(path, roots, role, reader) as source:
            if owners is not None and source.access.uid not in owners and not opened.readable(source, reader):
                reason = f"belongs to uid {source.access.uid}, and user {reader.name} could not read it"
                raise opened.ForeignOwner(path, reason, f"chown {reader.name} {word(path)}")
            return Source(key=key, path=path, data=opened.read(source))
    except opened.Refused as error:
        return Source(key=key, path=path, finding=refused(key, error))


def refused(key: str, error: opened.Refused) -> model.Finding:
    is_missing = isinstance(error, opened.Missing)
    another = f"tedge config set {key} FILE"
    return model.Finding(
        code="source-missing" if is_missing else "source-refused",
        severity=model.Severity.ERROR,
        where=key,
        message=f"{error.path} {error.reason}",
        remedy=f"put the file there, or {another}" if is_missing else error.remedy or another,
        blocks=model.Area.BROKER,
    )
