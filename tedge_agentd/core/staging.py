"""What the broker is to read, as an image: names below the staging directory and their contents.

The broker never reads a source: a renewal replaces certificate and key one after the other, and any SIGHUP, crash or
reboot in between would leave a dead listener (contract 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import ledger, model, observed

DirectoryFiles = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The whole staging directory as it is to be: files and directories of CA certificates by name."""

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    directories: Mapping[str, DirectoryFiles] = field(default_factory=dict, repr=False)

    def digests(self) -> dict[str, str]:
        """A digest per name, comparable with those of what lies on disk."""
        return {
            **{name: file_digest(content) for name, content in self.files.items()},
            **{name: directory_digest(files) for name, files in self.directories.items()},
        }


def file_digest(content: bytes) -> str:
    return ledger.fingerprint(content)


def directory_digest(files: DirectoryFiles) -> str:
    """The digest of a directory's certificates; its hash links follow from them."""
    return ledger.fingerprint(*(part for entry in sorted(files) for part in entry))


def image(pair: observed.Pair | None, cas: observed.ClientCas | None) -> Image:
    """The image for a usable pair and CA. A CA file becomes one bundle, a directory one file per certificate."""
    files: dict[str, bytes] = {}
    directories: dict[str, DirectoryFiles] = {}
    if pair is not None and pair.combined is not None:
        files[observed.SERVER_PAIR] = pair.combined
    if cas is not None and cas.certificates is not None:
        if cas.is_dir:
            entries = tuple((f"{digest[:32]}.pem", pem) for digest, pem in cas.certificates)
            directories[observed.CLIENT_CA_DIRECTORY] = entries
        else:
            files[observed.CLIENT_CA_FILE] = b"".join(pem for _, pem in cas.certificates)
    return Image(files=files, directories=directories)


def tls(staging_dir: str, pair: observed.Pair | None, cas: observed.ClientCas | None) -> model.Tls | None:
    """TLS as the listener file names it: the staged pair, and the staged client CA where one is asked for."""
    if pair is None:
        return None
    client_ca = None
    if cas is not None:
        name = observed.CLIENT_CA_DIRECTORY if cas.is_dir else observed.CLIENT_CA_FILE
        client_ca = model.ClientCa(path=f"{staging_dir}/{name}", is_dir=cas.is_dir)
    path = f"{staging_dir}/{observed.SERVER_PAIR}"
    return model.Tls(certfile=path, keyfile=path, client_ca=client_ca)
