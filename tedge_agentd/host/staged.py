"""The staging directory: checked copies of what the broker reads, each name switched whole by one rename.

    server.pem                      certificate chain and key in one file, the broker's, 0600
    client-ca.pem                   a client CA file
    client-ca -> client-ca.DIGEST/  a client CA directory with its hash links

The directory is root's, readable for the broker's group (0750): not even the broker can swap a name in it.
"""

import contextlib
import os
import secrets
import shutil
import subprocess

from ..core import observed, staging
from . import files, opened

_NAMES = (observed.SERVER_PAIR, observed.CLIENT_CA_FILE)
_REHASH_S = 60.0  # 10,000 certificates take 5 s on two slow cores


class Staged:
    """The staging directory for one account. Remembers a directory's digest as long as nothing in it changed."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._digests: dict[tuple[str, int, int], str] = {}

    def digests(self) -> dict[str, str]:
        """Return the digest of every name that lies there; "" for one that is damaged or a stranger's."""
        found: dict[str, str] = {}
        for name in _NAMES:
            with contextlib.suppress(opened.Missing):
                try:
                    found[name] = staging.file_digest(files.read_limited(f"{self.directory}/{name}"))
                except opened.Refused as error:
                    if isinstance(error, opened.Missing):
                        raise
                    found[name] = ""
        path = f"{self.directory}/{observed.CLIENT_CA_DIRECTORY}"
        if os.path.lexists(path):
            found[observed.CLIENT_CA_DIRECTORY] = self._directory_digest(path)
        return found

    def _directory_digest(self, path: str) -> str:
        try:
            status = os.stat(path)
            key = (os.readlink(path), status.st_ino, status.st_mtime_ns)
            if key not in self._digests:
                entries = tuple(
                    (entry.name, files.read_limited(entry.path))
                    for entry in os.scandir(path)
                    if entry.is_file(follow_symlinks=False)
                )
                self._digests = {key: staging.directory_digest(entries)}
            return self._digests[key]
        except (OSError, opened.Refused):
            return ""

    def prepare(self, gid: int) -> None:
        """Make the directory where there is none, and put its owner and mode right."""
        os.makedirs(os.path.dirname(self.directory), mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.directory, mode=0o750)
        there = os.stat(self.directory, follow_symlinks=False)
        if (there.st_uid, there.st_gid) != (0, gid):
            os.chown(self.directory, 0, gid, follow_symlinks=False)
        if there.st_mode & 0o7777 != 0o750:
            os.chmod(self.directory, 0o750)  # noqa: S103  # the broker's group looks names up in it
        files.clean_strays(self.directory)

    def stage(self, name: str, content: bytes, *, uid: int, gid: int) -> None:
        """Switch one file to new contents. A crash leaves the old or the new one."""
        files.replace(f"{self.directory}/{name}", content, mode=0o600, uid=uid, gid=gid)

    def stage_directory(self, name: str, entries: staging.DirectoryFiles, *, gid: int) -> None:
        """Switch one directory of CA certificates, with its hash links. A crash leaves the old or the new."""
        link = f"{self.directory}/{name}"
        digest = staging.directory_digest(entries)
        made = f"{self.directory}/{name}.{digest[:16]}-{secrets.token_hex(4)}"
        try:
            fill_ca_directory(made, entries, gid=gid)
            temporary = f"{self.directory}/.{name}.{secrets.token_hex(8)}.tedge-agentd"
            os.symlink(os.path.basename(made), temporary)
            os.rename(temporary, link)
            _sync(self.directory)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        self._remove_directories(name, keep=os.path.basename(made))

    def unstage(self, name: str) -> None:
        """Remove a name that no setting needs any more."""
        files.remove(f"{self.directory}/{name}")
        self._remove_directories(name, keep="")

    def _remove_directories(self, name: str, *, keep: str) -> None:
        for entry in os.listdir(self.directory):
            if entry.startswith(f"{name}.") and entry not in {keep, *_NAMES}:
                shutil.rmtree(f"{self.directory}/{entry}", ignore_errors=True)


def fill_ca_directory(path: str, entries: staging.DirectoryFiles, *, gid: int) -> None:
    """Make a new directory of CA certificates for the broker's group, with the hash links OpenSSL looks for."""
    os.mkdir(path, mode=0o750)
    for name, content in entries:
        fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
        with os.fdopen(fd, "wb") as file:
            os.fchown(fd, 0, gid)
            os.fchmod(fd, 0o640)
            file.write(content)
    os.chown(path, 0, gid)
    os.chmod(path, 0o750)  # noqa: S103  # as above
    if entries:
        done = subprocess.run(
            ["/usr/bin/openssl", "rehash", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_REHASH_S,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(0, f"openssl rehash failed: {done.stderr.decode(errors='replace').strip()}", path)
    # All of them are on disk before the link is switched to them; one sync for what may be thousands of files.
    os.sync()


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
