"""The steps of a walk: directories held open by descriptor, one name looked up at a time."""

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass

from ..core import ownership
from ..core.shell import word
from .opened import Missing, Opened, Refused, Symlinked, Unreachable, access_of
from .users import Account

DEPTH = 64  # components; each is a descriptor held while walking
_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def split(asked: str, path: str) -> tuple[str, ...]:
    """Return the components of an absolute path, or refuse `asked` because of it. `..` is left to the caller."""
    if not path.startswith("/"):
        raise Refused(asked, "is not an absolute path", "write it from / on")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in path):
        raise Refused(asked, "contains control characters", "rename the file")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if len(parts) > DEPTH:
        raise Refused(asked, f"is more than {DEPTH} directories deep")
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one name in a directory was when it was looked up; `fd` is the trail's to close."""

    fd: int
    status: os.stat_result
    path: str
    asked: str

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    def link(self) -> str:
        """Return the target of this very symlink, whatever its name stands for by now."""
        try:
            return os.readlink("", dir_fd=self.fd)
        except OSError as error:
            raise Symlinked(self.asked, f"{self.path} cannot be read: {error.strerror}") from error


class Trail:
    """The way walked so far. Closes every descriptor it opened, but for the one `finish` hands on."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self._passed: list[ownership.Directory] = []
        self._held: list[tuple[Entry, ownership.Access]] = []
        self._loose: list[int] = []
        fd = os.open("/", _FLAGS | os.O_DIRECTORY)
        self._loose.append(fd)
        self.enter(Entry(fd=fd, status=os.fstat(fd), path="/", asked=asked))

    @property
    def here(self) -> str:
        return self._held[-1][0].path

    @property
    def is_roots_alone(self) -> bool:
        """Whether nobody but root could have changed a name in any directory passed."""
        return all(_roots_alone(directory.access) for directory in self._passed)

    def searchable(self, account: Account) -> bool:
        return ownership.permits(self._held[-1][1], account.uid, account.groups, ownership.SEARCH)

    def step(self, name: str) -> Entry:
        """Look a name up here. Nothing is followed, nothing can block."""
        here = self._held[-1][0]
        path = f"{here.path.rstrip('/')}/{name}"
        try:
            fd = os.open(name, _FLAGS, dir_fd=here.fd)
        except FileNotFoundError as error:
            reason = "does not exist" if path == self.asked else f"does not exist: there is no {path}"
            raise Missing(self.asked, reason, f"ls -ld {word(here.path)}") from error
        except OSError as error:
            raise Unreachable(self.asked, f"{path}: {error.strerror}", f"namei -l {word(self.asked)}") from error
        self._loose.append(fd)
        return Entry(fd=fd, status=os.fstat(fd), path=path, asked=self.asked)

    def enter(self, entry: Entry) -> None:
        """Go into a directory that was looked up here."""
        if len(self._held) > DEPTH:
            raise Refused(self.asked, f"is more than {DEPTH} directories deep")
        access = access_of(entry.fd, entry.status)
        self._held.append((entry, access))
        self._passed.append(ownership.Directory(path=entry.path, access=access))

    def up(self) -> None:
        """Go back to where this directory was entered from; in "/" stay."""
        if len(self._held) > 1:
            self._held.pop()

    def follow(self, symlink: Entry) -> list[str]:
        """Return the names of a symlink's target, last one first; an absolute one begins at "/" again."""
        text = symlink.link()
        if text.startswith("/"):
            del self._held[1:]
        return [name for name in reversed(text.split("/")) if name not in ("", ".")]

    def finish(self, entry: Entry | None = None) -> Opened:
        """End here, or at a name looked up here, and hand its descriptor on."""
        last = self._held[-1][0] if entry is None else entry
        opened = Opened(fd=last.fd, status=last.status, path=self.asked, real=last.path, chain=tuple(self._passed))
        self._loose.remove(last.fd)
        return opened

    def is_its_only_link(self, opened: Opened) -> bool:
        """Whether the name looked up here was, at one instant, the one and only link of what it led to.

        A link count of 1 alone proves nothing: it may have been 2 when the name was looked up, and the name be gone
        by now, so that the one link left is a foreign file. Such an entry is gone for ever: /proc calls it deleted,
        whatever is linked there later. The kernel lowers the count a moment before it drops the entry, both under the
        directory's lock; looking up a name never seen before takes that lock, so it waits for both.
        """
        if os.fstat(opened.fd).st_nlink != 1:
            return False
        with contextlib.suppress(OSError):
            os.stat(f".{secrets.token_hex(8)}", dir_fd=self._held[-1][0].fd, follow_symlinks=False)
        try:
            return os.readlink(f"/proc/self/fd/{opened.fd}") == opened.real
        except OSError:
            return False

    def close(self) -> None:
        for fd in self._loose:
            os.close(fd)
        self._loose.clear()


def _roots_alone(access: ownership.Access) -> bool:
    """Whether only root may write. With an ACL the group bits are its mask, which may speak of anybody."""
    group_writes = access.mode & 0o020 and (access.gid != 0 or access.acl is not None)
    return access.uid == 0 and not access.mode & 0o002 and not group_writes
