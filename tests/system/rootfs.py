"""Files of a gateway from outside: paths are resolved inside its root, whatever symlinks stand in the way."""

import ctypes
import os
import pathlib
import secrets
import stat as stat_module
import struct
from collections.abc import Callable

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_IN_ROOT = 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class RootFs:
    """The files under `root`. An absolute symlink in there leads to the gateway's file, never to the host's."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Return a descriptor of the file at `path` of the gateway."""
        top = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, _RESOLVE_IN_ROOT)
            fd: int = _libc.syscall(_SYS_OPENAT2, top, os.fsencode(path), how, len(how))
            if fd < 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), path)
            return fd
        finally:
            os.close(top)

    def directory(self, path: str) -> int:
        """Return a descriptor of a directory of the gateway, for the calls that take `dir_fd`."""
        return self.open(path, os.O_PATH | os.O_DIRECTORY)

    def read(self, path: str) -> bytes:
        with os.fdopen(self.open(path), "rb") as file:
            return file.read()

    def write(
        self, path: str, data: str | bytes, *, owner: str | None = None, mode: int = 0o644, replace: bool = False
    ) -> None:
        """Write a file, truncating it in place as `cat >` does, or with `replace` by a rename as careful tools do.

        `owner` is `user`, `user:group` or numbers, looked up in the gateway's passwd. Parent directories are made.
        """
        self.mkdir(os.path.dirname(path))
        target = f"{os.path.dirname(path)}/.tmp{secrets.token_hex(3)}" if replace else path
        fd = self.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if owner is not None:
                os.fchown(fd, *self.ids(owner))
            os.fchmod(fd, mode)
        if replace:
            self._in_parent(
                path,
                lambda name, parent: os.rename(os.path.basename(target), name, src_dir_fd=parent, dst_dir_fd=parent),
            )

    def mkdir(self, path: str, *, owner: str | None = None, mode: int | None = None) -> None:
        """Make a directory and its parents; owner and mode are set on the last one, also if it exists."""
        parts = [part for part in path.split("/") if part]
        for depth in range(1, len(parts) + 1):
            step = "/" + "/".join(parts[:depth])
            try:
                os.close(self.directory(step))
            except FileNotFoundError:
                self._in_parent(step, lambda name, parent: os.mkdir(name, 0o755, dir_fd=parent))
        if owner is not None or mode is not None:
            fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if owner is not None:
                    os.fchown(fd, *self.ids(owner))
                if mode is not None:
                    os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def symlink(self, target: str, path: str) -> None:
        self._in_parent(path, lambda name, parent: os.symlink(target, name, dir_fd=parent))

    def unlink(self, path: str) -> None:
        self._in_parent(path, lambda name, parent: os.unlink(name, dir_fd=parent))

    def rename(self, old: str, new: str) -> None:
        source, target = self.directory(os.path.dirname(old)), self.directory(os.path.dirname(new))
        try:
            os.rename(os.path.basename(old), os.path.basename(new), src_dir_fd=source, dst_dir_fd=target)
        finally:
            os.close(source)
            os.close(target)

    def stat(self, path: str) -> os.stat_result:
        """Return what lstat says: of a symlink itself, not of its target."""
        parent = self.directory(os.path.dirname(path) or "/")
        try:
            return os.stat(os.path.basename(path) or ".", dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def access(self, path: str) -> str:
        """Return owner, group and mode as `tedge:tedge 0644`."""
        found = self.stat(path)
        user, group = self._name("passwd", found.st_uid), self._name("group", found.st_gid)
        return f"{user}:{group} {stat_module.S_IMODE(found.st_mode):04o}"

    def exists(self, path: str) -> bool:
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def listdir(self, path: str) -> list[str]:
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def ids(self, owner: str) -> tuple[int, int]:
        """Return uid and gid of `user` (with its own group) or `user:group`."""
        user, _, group = owner.partition(":")
        uid = int(user) if user.isdecimal() else self.account(user)[0]
        if not group:
            return uid, uid if user.isdecimal() else self.account(user)[1]
        return uid, int(group) if group.isdecimal() else int(self._entry("group", group)[2])

    def account(self, user: str) -> tuple[int, int, str]:
        """Return uid, primary gid and home directory of a user of the gateway."""
        entry = self._entry("passwd", user)
        return int(entry[2]), int(entry[3]), entry[5]

    def _entry(self, database: str, name: str) -> list[str]:
        for line in self.read(f"/etc/{database}").decode().splitlines():
            if line.startswith(f"{name}:"):
                return line.split(":")
        raise LookupError(f"the gateway has no {name} in /etc/{database}")

    def _name(self, database: str, number: int) -> str:
        for line in self.read(f"/etc/{database}").decode().splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2] == str(number):
                return fields[0]
        return str(number)

    def _in_parent(self, path: str, action: Callable[[str, int], None]) -> None:
        parent = self.directory(os.path.dirname(path) or "/")
        try:
            action(os.path.basename(path), parent)
        finally:
            os.close(parent)
