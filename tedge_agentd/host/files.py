"""Write, remove, read and lock files so that a crash at any instant leaves the old or the new, never a mixture."""

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..core.shell import word
from . import opened as op
from . import trail, walk

# `.NAME.0123456789abcdef.tedge-agentd`: ends in no `.conf`, so an include_dir passes it over (facts/mosquitto.md 4).
STRAY = re.compile(r"\..+\.[0-9a-f]{16}\.tedge-agentd")
STRAY_AGE_S = 60.0  # no write takes that long; a younger one may be another process's, under way
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(  # noqa: PLR0913  # keyword-only, in the words of chmod and chown
    path: str, data: bytes, *, mode: int, uid: int, gid: int, durable: bool = True
) -> None:
    """Make `path` a file with these bytes, owner and mode, in one step for every reader.

    The order is snapd's: write a temporary file in the same directory, chown and chmod its descriptor, fsync it,
    rename it, fsync the directory. A symlink or another file at the target's name is replaced, never followed. After
    a crash the old or the new file is there, whole; at most a temporary one is left, for `clean_strays`. Raises
    OSError (no space, read-only, ...) or Refused (the way to the directory), the old file untouched; and Changed
    where somebody who may write the directory swapped the file before it was in place.
    """
    directory, name = os.path.split(path)
    with walk.trusted_directory(directory) as parent:
        with _Directory(parent) as fd:
            temporary = f".{name[:48]}.{secrets.token_hex(8)}.tedge-agentd"
            try:
                written = _write(fd, temporary, data, mode=mode, uid=uid, gid=gid, durable=durable)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException as error:
                _unlink(fd, temporary)
                if isinstance(error, OSError):
                    error.filename, error.filename2 = path, None
                raise
            if durable:
                _sync(fd)
            found = _lstat(fd, name)
            if found is None or (found.st_dev, found.st_ino) != (written.st_dev, written.st_ino):
                raise op.Changed(
                    path, "was replaced by somebody else while it was written", f"ls -ld {word(directory)}"
                )


def remove(path: str, *, durable: bool = True) -> bool:
    """Remove a name that is no directory (a symlink itself, not its target); return whether it was there."""
    directory, name = os.path.split(path)
    try:
        with walk.trusted_directory(directory) as parent, _Directory(parent) as fd:
            removed = _unlink(fd, name)
            if removed and durable:
                _sync(fd)
            return removed
    except op.Missing:
        return False


def clean_strays(directory: str, now: float | None = None) -> tuple[str, ...]:
    """Remove what a crash in `replace` left in a directory; return the names. `now` is seconds since the epoch."""
    horizon = (time.time() if now is None else now) - STRAY_AGE_S
    removed = []
    try:
        with walk.trusted_directory(directory) as parent, _Directory(parent) as fd:
            for name in sorted(filter(STRAY.fullmatch, os.listdir(fd))):
                found = _lstat(fd, name)
                # A stamp of the future (no RTC) counts as old: the clock was set back since.
                young = found is not None and horizon < found.st_mtime <= horizon + STRAY_AGE_S
                if found is not None and stat.S_ISREG(found.st_mode) and not young and _unlink(fd, name):
                    removed.append(name)
    except op.Missing:
        pass
    return tuple(removed)


def read_limited(path: str, limit: int = op.LIMIT) -> bytes:
    """Return the bytes of a file that root trusts (symlinks are followed), without ever blocking on a FIFO or lease.

    For mosquitto.conf and the like. What another user may write or point elsewhere is read by `walk.open_source`.
    Raises Refused: Missing, NotRegular, TooLarge, Busy, Unreachable.
    """
    trail.split(path, path)
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise op.Missing(path, "does not exist", f"ls -l {word(path)}") from error
    except OSError as error:
        raise op.Unreachable(path, f"cannot be opened: {error.strerror}", f"namei -l {word(path)}") from error
    with op.Opened(fd=fd, status=os.fstat(fd), path=path, real=path, chain=()) as opened:
        return op.read(opened, limit)


# The lock ---------------------------------------------------------------------------------------------------


class Locked(Exception):  # noqa: N818  # a state of the lock, not a fault
    """Another process holds the lock. `holder` is what it says of itself: its pid and command, "" if nothing."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(f"{path} is held by {holder or 'another process'}")
        self.holder = holder


class Lock:
    """One writer at a time, by flock(2): the kernel lets go when the holder ends, however it ends.

    The file is root's alone (0600): whoever can open a file can lock it, and so could stop the daemon. `wait_s` is
    how long `with` waits before it raises Locked, less if `given_up` says so; 0 does not wait.
    """

    def __init__(
        self,
        path: str,
        *,
        wait_s: float = 0.0,
        name: str = "tedge-agentd",
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self._wait_s = wait_s
        self._given_up = given_up
        self._name = name
        self._fd = -1

    def __enter__(self) -> Self:
        directory, name = os.path.split(self.path)
        with walk.trusted_directory(directory) as parent, _Directory(parent) as there:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=there)
        try:
            self._acquire(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {self._name}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def _acquire(self, fd: int) -> None:
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                left = deadline - time.monotonic()
                if left <= 0 or self._given_up():
                    raise Locked(self.path, os.pread(fd, 200, 0).decode(errors="replace").strip()) from error
                time.sleep(min(left, 0.05))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1


# Descriptors ------------------------------------------------------------------------------------------------


class _Directory:
    """A directory that was reached by a walk, opened for fsync and listing, which O_PATH does not allow."""

    def __init__(self, parent: op.Opened) -> None:
        self._fd = os.open(f"/proc/self/fd/{parent.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _write(  # noqa: PLR0913  # as `replace`
    fd: int, name: str, data: bytes, *, mode: int, uid: int, gid: int, durable: bool
) -> os.stat_result:
    file = os.open(name, _CREATE, 0o600, dir_fd=fd)
    try:
        os.fchown(file, uid, gid)
        os.fchmod(file, mode)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        if durable:
            os.fsync(file)
        return os.fstat(file)
    finally:
        os.close(file)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync for directories
            raise


def _unlink(fd: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


def _lstat(fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
