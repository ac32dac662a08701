"""A file held by an O_PATH descriptor: what it is, who can read it, its bytes. Opening it blocks on nothing."""

import os
import stat
from types import TracebackType
from typing import Self

from ..core import ownership
from ..core.shell import word
from .users import Account

ACL = "system.posix_acl_access"
LIMIT = 1 << 20  # bytes: the largest certificate bundle of a distribution has a quarter of it
ENTRIES = 1 << 16  # names in one directory


class Refused(Exception):  # noqa: N818  # a verdict on a path, not a fault of ours
    """A path that is left alone. `reason` follows the path in a sentence; `remedy` is a command or an edit."""

    code = "file-refused"

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.remedy = remedy


class Missing(Refused):
    code = "file-missing"


class NotRegular(Refused):
    """A FIFO, socket, device or directory where a file is expected (or a file where a directory is)."""

    code = "file-not-regular"


class HardLinked(Refused):
    """The inode has other names, which may lie in another user's realm (CVE-2017-18078)."""

    code = "file-hard-link"


class Symlinked(Refused):
    """A symlink where none is followed, or too many of them."""

    code = "file-symlink"


class OutsideRoots(Refused):
    code = "file-outside-roots"


class WritableParent(Refused):
    code = "file-parent-writable"


class Unreadable(Refused):
    """The account that needs the file cannot read it."""

    code = "file-unreadable"


class ForeignOwner(Refused):
    code = "file-foreign-owner"


class WrongContent(Refused):
    code = "file-wrong-content"


class TooLarge(Refused):
    code = "file-too-large"


class Busy(Refused):
    """Somebody holds a lease on the file. Passes by itself."""

    code = "file-busy"


class Changed(Refused):
    """The file is not what it was a moment ago. Passes by itself: the next pass looks again."""

    code = "file-changed"


class Unreachable(Refused):
    """The system refused; the reason is its own text."""

    code = "file-unreachable"


class Opened:
    """An inode that was reached by a safe walk, with the facts of the way. A context manager; owns `fd` (O_PATH)."""

    __slots__ = ("access", "chain", "fd", "path", "real", "stat")

    def __init__(
        self, *, fd: int, status: os.stat_result, path: str, real: str, chain: tuple[ownership.Directory, ...]
    ) -> None:
        self.fd = fd
        self.stat = status
        self.path = path  # as asked for
        self.real = real  # where the walk ended: no symlink in it
        self.chain = chain  # every directory passed, "/" first, those on the way to a symlink included
        self.access = access_of(fd, status)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def access_of(fd: int, status: os.stat_result) -> ownership.Access:
    try:
        acl = os.getxattr(f"/proc/self/fd/{fd}", ACL)
    except OSError:  # ENODATA: no ACL; ENOTSUP: the file system has none
        acl = None
    return ownership.Access(uid=status.st_uid, gid=status.st_gid, mode=stat.S_IMODE(status.st_mode), acl=acl)


def obstacle(opened: Opened, account: Account) -> ownership.Directory | None:
    """Return the first directory, or the file itself, that keeps the account from reading it; None: it can."""
    last = ownership.Directory(path=opened.real, access=opened.access)
    return ownership.first_obstacle(opened.chain, last, account.uid, account.groups, is_dir=opened.is_dir)


def readable(opened: Opened, account: Account) -> bool:
    """Whether the account can read the file by the owners, modes and ACLs of the whole way to it."""
    return obstacle(opened, account) is None


def kind_name(mode: int) -> str:
    """What an inode is, in an operator's word."""
    names = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symlink",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return names.get(stat.S_IFMT(mode), "something unknown")


def read(opened: Opened, limit: int = LIMIT) -> bytes:
    """Return the bytes of a regular file. Never blocks and never reads another inode than the one that was checked.

    Raises TooLarge above `limit` bytes; Busy where a lease is held: without O_NONBLOCK the owner of a file could make
    root wait for /proc/sys/fs/lease-break-time, 45 s, at each open (fcntl(2), F_SETLEASE).
    """
    if not stat.S_ISREG(opened.stat.st_mode):
        raise NotRegular(opened.path, f"is {kind_name(opened.stat.st_mode)}, not a file")
    fd = _reopen(opened, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (opened.stat.st_dev, opened.stat.st_ino):
            raise Changed(opened.path, "was replaced while it was opened")
        data = bytearray()
        while len(data) <= limit and (chunk := os.read(fd, min(limit + 1 - len(data), 1 << 16))):
            data += chunk
    except OSError as error:
        raise Unreachable(opened.path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(data) > limit:
        raise TooLarge(opened.path, f"is larger than {limit} bytes", f"ls -l {word(opened.path)}")
    return bytes(data)


def listing(opened: Opened) -> tuple[tuple[str, int, int, int, int, int], ...]:
    """Return (name, device, inode, size, mtime_ns, ctime_ns) of everything in a directory, sorted by name.

    Symlinks are followed for these numbers (zeros: dangling), so an equal listing means unchanged contents. It costs
    a stat a name, which is what a pass over thousands of CA files can afford.
    """
    fd = _reopen(opened, os.O_RDONLY | os.O_DIRECTORY)
    found = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                except OSError:
                    numbers = (0, 0, 0, 0, 0)
                found.append((entry.name, *numbers))
                if len(found) > ENTRIES:
                    raise TooLarge(opened.path, f"holds more than {ENTRIES} names")
    finally:
        os.close(fd)
    return tuple(sorted(found))


def _reopen(opened: Opened, flags: int) -> int:
    """Open the very inode of an O_PATH descriptor. Leaves no trace in its access time where that is allowed."""
    path = f"/proc/self/fd/{opened.fd}"
    try:
        try:
            return os.open(path, flags | os.O_NOATIME | os.O_CLOEXEC)
        except PermissionError:  # O_NOATIME is for the owner and CAP_FOWNER
            return os.open(path, flags | os.O_CLOEXEC)
    except BlockingIOError as error:
        raise Busy(opened.path, "is held by a lease of another process", f"fuser -v {opened.path}") from error
    except OSError as error:
        raise Unreachable(opened.path, f"cannot be opened: {error.strerror}") from error
