"""Fingerprints of what processes read at their start: files and directories of CA certificates."""

import hashlib

from ..core import model
from . import opened, users, walk

MISSING = "missing"
UNREADABLE = "unreadable"


class Contents:
    """Digests of contents. A directory is read again only when its listing (names, inodes, sizes, times) changed."""

    def __init__(self) -> None:
        self._directories: dict[str, tuple[object, str]] = {}

    def digest(self, path: str, roots: walk.Roots, reader: users.Account) -> str:
        """Return the sha256 of a file's or a directory's contents as the reader sees them, or a word why not."""
        try:
            with walk.open_source(path, roots, model.Role.CLIENT, reader) as source:
                if source.is_dir:
                    return self._directory(path, source, roots, reader)
                return hashlib.sha256(opened.read(source)).hexdigest()
        except opened.Missing:
            return MISSING
        except opened.Refused:
            return UNREADABLE

    def _directory(self, path: str, source: opened.Opened, roots: walk.Roots, reader: users.Account) -> str:
        listing = opened.listing(source)
        known = self._directories.get(path)
        if known is not None and known[0] == listing:
            return known[1]
        digest = hashlib.sha256()
        for name, *_ in listing:
            if name.endswith((".pem", ".cer", ".crt")):  # what thin-edge reads there (facts/thin-edge.md 1.4)
                digest.update(f"{name}\0{self._entry(f'{path}/{name}', roots, reader)}\n".encode())
        self._directories[path] = (listing, digest.hexdigest())
        return digest.hexdigest()

    def _entry(self, path: str, roots: walk.Roots, reader: users.Account) -> str:
        try:
            with walk.open_source(path, roots, model.Role.CLIENT, reader) as source:
                return UNREADABLE if source.is_dir else hashlib.sha256(opened.read(source)).hexdigest()
        except opened.Missing:
            return MISSING
        except opened.Refused:
            return UNREADABLE
