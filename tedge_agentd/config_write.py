"""Replace tedge.toml so that neither our own writers nor `tedge config set` lose anything by it.

Ours take turns by a lock. tedge takes none, and renames over the file (facts/thin-edge.md 2); therefore what is on
disk is compared with what was read immediately before our own rename, and the edit is made again if they differ.
The directory is user tedge's: everything below it goes by descriptors, and a link is followed only as far as its
maker's own files.
"""

import contextlib
import os
import secrets
import stat
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .core.toml_load import MAX_BYTES
from .host import files, walk

_ATTEMPTS = 20  # each needs another writer to finish in the microseconds between our comparison and the last one
_HOPS = 8
_LOCK_WAIT_S = 30.0
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Change = Callable[[bytes | None], bytes | None]


class NotWrittenError(Exception):
    """Nothing was written; the text says why, `remedy` what helps."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a new file becomes. One that exists keeps its owner, group and mode."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The file as it was read; both None where there is none."""

    data: bytes | None = None
    status: os.stat_result | None = None

    def identity(self) -> tuple[int, int, int, int] | None:
        status = self.status
        return None if status is None else (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def update(path: str, change: Change, *, lock_path: str, owner: Owner) -> bool:
    """Replace the file with what `change` makes of its bytes (None: there is no file); return whether it did.

    `change` returns None, or what it was given, for nothing to do; it is called again when another writer was
    faster, and may raise to leave everything as it is. A crash leaves the old file or the new one, whole, and at most
    a `.tmpXXXXXX` as tedge's own would be. Raises NotWrittenError, files.Locked, walk's Refused and OSError.
    """
    os.makedirs(os.path.dirname(lock_path), mode=0o755, exist_ok=True)
    with files.Lock(lock_path, wait_s=_LOCK_WAIT_S, name="tedge-agentd config"):
        for _ in range(_ATTEMPTS):
            with _target(os.path.abspath(path)) as (directory, name):
                found = _read(directory, name, path)
                data = change(found.data)
                if data is None or data == found.data:
                    return False
                if _replaced(directory, name, found, data, owner):
                    return True
    raise NotWrittenError(f"{path} kept changing while it was written", "try again when nothing else is writing it")


@contextlib.contextmanager
def _target(path: str) -> Iterator[tuple[int, str]]:
    """The directory, opened, and the name of the file behind `path`: links are replaced where they point to."""
    maker: int | None = None
    here = path
    for _ in range(_HOPS):
        parent, name = os.path.split(here)
        with walk.trusted_directory(parent) as opened:
            directory = os.open(f"/proc/self/fd/{opened.fd}", _DIRECTORY)
        try:
            status = _lstat(directory, name)
            if status is None or not stat.S_ISLNK(status.st_mode):
                if maker not in (None, 0) and (status is None or status.st_uid != maker):
                    raise NotWrittenError(
                        f"{path} is a link to {here}, which does not belong to the user who made the link",
                        f"ls -l {path} {here}",
                    )
                yield directory, name
                return
            maker = status.st_uid if maker in (None, 0) else maker
            here = os.path.join(parent, os.readlink(name, dir_fd=directory))
        finally:
            os.close(directory)
    raise NotWrittenError(f"{path} is a link to a link, and so on", f"namei -l {path}")


def _lstat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _read(directory: int, name: str, path: str) -> _Found:
    try:
        file = os.open(name, _READ, dir_fd=directory)
    except FileNotFoundError:
        return _Found()
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotWrittenError(f"{path} is no regular file", f"ls -l {path}")
        return _Found(data=read_all(file), status=status)
    finally:
        os.close(file)


def read_all(file: int) -> bytes:
    """What there is, up to one byte more than is ever accepted."""
    parts: list[bytes] = []
    left = MAX_BYTES + 1
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _replaced(directory: int, name: str, found: _Found, data: bytes, owner: Owner) -> bool:
    """Rename new contents over the file, unless it is no longer what was found."""
    temporary = ".tmp" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(6))
    try:
        _write(directory, temporary, found, data, owner)
        if not _is_still(directory, name, found):
            return False
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        temporary = ""
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
    os.fsync(directory)
    return True


def _write(directory: int, name: str, found: _Found, data: bytes, owner: Owner) -> None:
    uid, gid, mode = owner.uid, owner.gid, 0o644
    if found.status is not None:
        uid, gid, mode = found.status.st_uid, found.status.st_gid, stat.S_IMODE(found.status.st_mode)
    file = os.open(name, _CREATE, 0o600, dir_fd=directory)
    try:
        made = os.fstat(file)
        if (made.st_uid, made.st_gid) != (uid, gid):
            os.fchown(file, uid, gid)
        os.fchmod(file, mode)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def _is_still(directory: int, name: str, found: _Found) -> bool:
    status = _lstat(directory, name)
    if _Found(status=status).identity() != found.identity():
        return False
    if status is None:
        return True
    # The time of a change has the kernel's tick for its unit: what was written in place within it shows by contents.
    return stat.S_ISREG(status.st_mode) and _read(directory, name, name).data == found.data
