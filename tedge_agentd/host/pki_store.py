"""The local PKI on disk, below the state directory: the register, the CAs and what is being issued.

    pki/                   0700
      issued.json          the register
      lock                 held by whoever changes anything here
      ca/SERIAL/           one CA: cert.pem, key.pem (0600), record.json
      pending/SERIAL/      a pair that is complete but not yet known to be in its place: the same three files

A directory whose name ends in `.tmp` is unfinished or done with, and is swept away. Everything else appears by a
rename of a complete directory, so a crash at any instant leaves nothing, or something that can be carried on with.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..core import errors, model
from ..core import pki_register as reg
from . import files, opened, pem, walk

RECORD = "record.json"
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One of those directories and the pair in it."""

    path: str

    def key(self) -> bytes:
        return files.read_limited(os.path.join(self.path, "key.pem"))

    def cert(self) -> bytes:
        return files.read_limited(os.path.join(self.path, "cert.pem"))

    def issued(self) -> reg.Issued:
        return self._record(reg.issued_from)

    def authority(self) -> reg.Authority:
        return self._record(reg.authority_from)

    def _record(self, parse: Callable[[Mapping[str, Any]], R]) -> R:
        path = os.path.join(self.path, RECORD)
        try:
            return parse(json.loads(files.read_limited(path)))
        except (opened.Refused, ValueError, KeyError, TypeError) as error:
            raise errors.InputError(f"{path} is damaged: {error}", f"rm -r {self.path}") from error


class Store:
    """The PKI of one state directory. Callers hold `lock()` while they change anything."""

    def __init__(self, state_dir: str) -> None:
        self.root = os.path.join(state_dir, "pki")
        self._register = os.path.join(self.root, "issued.json")
        self._authorities = os.path.join(self.root, "ca")
        self._pending = os.path.join(self.root, "pending")

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.root)

    def prepare(self) -> None:
        """Make the directories; needed once."""
        for path in (self.root, self._authorities, self._pending):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def lock(self, wait_s: float = 0.0) -> files.Lock:
        return files.Lock(os.path.join(self.root, "lock"), wait_s=wait_s)

    def register(self) -> reg.Register:
        """What was issued. Raises InputError where the file does not say."""
        try:
            return reg.parse(files.read_limited(self._register, 16 << 20))
        except opened.Missing:
            return reg.Register()
        except (opened.Refused, ValueError) as error:
            raise errors.InputError(
                f"the register of issued certificates, {self._register}, cannot be read: {error}",
                f"restore it from a backup, or move it away and run: tedge-agentd certs init (the CAs in "
                f"{self._authorities} are kept, issued certificates are forgotten)",
            ) from error

    def save(self, register: reg.Register) -> None:
        replace(self._register, reg.render(register), mode=0o600)

    # Rooms ------------------------------------------------------------------------------------------------------

    def new_room(self, *, authority: bool = False) -> Room:
        """An empty directory for a pair in the making."""
        parent = self._authorities if authority else self._pending
        path = os.path.join(parent, f"{secrets.token_hex(8)}.tmp")
        os.mkdir(path, 0o700)
        return Room(path=path)

    def complete(self, room: Room, record: reg.Authority | reg.Issued) -> Room:
        """Give a room its record and its name: from here on a crash does not lose it."""
        replace(os.path.join(room.path, RECORD), json.dumps(reg.to_plain(record)).encode(), mode=0o600)
        parent = os.path.dirname(room.path)
        final = os.path.join(parent, f"{record.serial:032x}")
        os.rename(room.path, final)
        _sync(parent)
        return Room(path=final)

    def pending(self) -> tuple[Room, ...]:
        """What was completed, but perhaps not put in its place."""
        return tuple(Room(path=path) for path in _finished(self._pending))

    def authorities(self) -> tuple[Room, ...]:
        return tuple(Room(path=path) for path in _finished(self._authorities))

    def authority(self, authority: reg.Authority) -> Room:
        return Room(path=os.path.join(self._authorities, authority.directory))

    def is_settled(self, register: reg.Register) -> bool:
        """Whether nothing is unfinished and every CA is known: whether `Issuer.recover` has nothing to do."""
        known = {one.directory for one in register.authorities}
        return not any(_names(self._pending)) and all(
            os.path.basename(path) in known for path in _names(self._authorities)
        )

    def discard(self, room: Room) -> None:
        """Remove a room. A crash in the middle leaves it with a name that `sweep` removes."""
        dead = room.path
        if not dead.endswith(".tmp"):
            dead = f"{room.path}.tmp"
            os.rename(room.path, dead)
        _remove(dead)

    def sweep(self, directories: Iterable[str]) -> None:
        """Remove what crashes left behind, here and where pairs are put."""
        for directory in {self.root, *directories}:
            clean(directory)
        for parent in (self._authorities, self._pending):
            for path in _names(parent):
                if path.endswith(".tmp"):
                    _remove(path)


def _names(parent: str) -> Iterator[str]:
    try:
        names = sorted(os.listdir(parent))
    except FileNotFoundError:
        return
    yield from (os.path.join(parent, name) for name in names)


def _finished(parent: str) -> Iterator[str]:
    return (path for path in _names(parent) if not path.endswith(".tmp"))


def _remove(path: str) -> None:
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    os.rmdir(path)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Files elsewhere --------------------------------------------------------------------------------------------


def replace(path: str, data: bytes, *, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """files.replace, for ourselves where no owner is given."""
    files.replace(
        path,
        data,
        mode=mode,
        uid=os.geteuid() if uid is None else uid,
        gid=os.getegid() if gid is None else gid,
    )


def replace_pair(pairs: Mapping[str, tuple[bytes, int]], *, uid: int, gid: int) -> None:
    """Put several files in their places, each complete and on disk beside its place before the first is renamed.

    So a full disk or a crash leaves the old pair; between the renames there is a mixture of an instant, which the
    daemon waits out (contract 9), and which the caller's pending room completes after a crash.
    """
    try:
        for path, (data, mode) in pairs.items():
            replace(_beside(path), data, mode=mode, uid=uid, gid=gid)
    except OSError:
        forget_pair(pairs)
        raise
    for path in pairs:
        with walk.trusted_directory(os.path.dirname(path)) as parent:
            source, target = os.path.basename(_beside(path)), os.path.basename(path)
            os.rename(source, target, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
            _sync(f"/proc/self/fd/{parent.fd}")


def forget_pair(paths: Iterable[str]) -> None:
    """Remove what was to become a pair."""
    for path in paths:
        files.remove(_beside(path))


def clean(directory: str) -> None:
    """Remove what interrupted writes left in a directory. There is no other writer of ours: we hold the lock."""
    try:
        files.clean_strays(directory, time.time() + 2 * files.STRAY_AGE_S)
    except (opened.Refused, OSError):
        return  # of no use, but of no harm either; the next write there says what is wrong


def _beside(path: str) -> str:
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tedge-agentd-next")


def make_directory(path: str, mode: int) -> None:
    """Make a missing directory, ours, in one that exists; one that is there is left as it is."""
    parent, name = os.path.split(path)
    with walk.trusted_directory(parent) as there:
        try:
            os.mkdir(name, 0o700, dir_fd=there.fd)
        except FileExistsError:
            return
        # By descriptor: the parent may be another user's, who may swap the name meanwhile.
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=there.fd)
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def contents(path: str) -> bytes | None:
    """What lies at a path, None for nothing. Raises Refused where that is not a plain file."""
    roots = walk.Roots(managed=(os.path.dirname(path),), broker_dir="/nonexistent")
    try:
        with walk.open_managed(path, roots, model.Role.BROKER) as found:
            return opened.read(found)
    except opened.Missing:
        return None


def digests(data: bytes) -> tuple[str, ...]:
    """The sha256 of the body of each PEM block, which for a certificate is its usual fingerprint."""
    return tuple(hashlib.sha256(block.der).hexdigest() for block in pem.blocks(data) if block.der is not None)
