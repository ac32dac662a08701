"""Read the files that mqtt.client.auth.* names, on the clients' behalf and by the rules of the safe walk.

User tedge writes tedge.toml. A FIFO it names must not stop the daemon, a symlink not make root read another's key,
and root's login carry no file that user tedge could not read to a host that tedge.toml names.
"""

import errno
import os
from dataclasses import dataclass

from ..core import model
from . import opened, users, walk

_ERRORS = {opened.Missing: errno.ENOENT, opened.NotRegular: errno.EINVAL, opened.TooLarge: errno.EFBIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFiles:
    """A reader for one account. What is refused is raised as an OSError that names the path as it was configured."""

    roots: walk.Roots
    account: users.Account

    def read(self, path: str) -> bytes:
        try:
            with walk.open_source(path, self.roots, model.Role.CLIENT, self.account) as source:
                if not opened.readable(source, self.account):
                    raise opened.Unreadable(path, f"cannot be read by user {self.account.name}")
                return opened.read(source)
        except opened.Refused as error:
            raise _os_error(path, error) from error

    def names(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted."""
        try:
            with walk.open_source(path, self.roots, model.Role.CLIENT, self.account) as source:
                return tuple(name for name, *_ in opened.listing(source))
        except opened.Refused as error:
            raise _os_error(path, error) from error


def in_memory(data: bytes) -> int:
    """Return a descriptor of an anonymous file with these bytes, for what only takes paths: /proc/self/fd/N.

    The caller closes it. Nothing secret ever has a name that others see.
    """
    fd = os.memfd_create("material", os.MFD_CLOEXEC)
    try:
        write_all(fd, data)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _os_error(path: str, error: opened.Refused) -> OSError:
    return OSError(_ERRORS.get(type(error), errno.EACCES), error.reason, path)
