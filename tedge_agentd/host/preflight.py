"""Start a candidate configuration with the real broker, aside: nothing of the running one is touched."""

import contextlib
import fcntl
import functools
import itertools
import os
import pwd
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from tedge_agentd.core import errors

from . import services

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PREFIX = "preflight-"
_RECURSIVE = 0x4000  # MS_REC of mount(2)
_STDERR_BYTES = 16384
_TIMESTAMP = re.compile(r"^\d{9,}: ", re.MULTILINE)
_ADDRESS_ERRORS = ("Address already in use", "Cannot assign requested address")
Hide = Callable[[str], bool]
_SYSTEMD_FAILED = 200  # from here on, exit statuses are systemd's own (systemd.exec(5))


class PreflightError(errors.TransientError):
    """The preflight itself could not be run, so it says nothing about the candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The whole configuration to try, as the broker would find it.

    `files`: absolute path -> content of every configuration file, what is included as well; a `*.conf` file that
    stands in one of their directories, or of `directories`, and is not among them counts as removed. `staged`:
    name -> content of the staging directory. Addresses must have been rewritten to loopback ones: nothing else exists
    in the sandbox.
    """

    files: Mapping[str, bytes]
    directories: tuple[str, ...] = ()
    staged: Mapping[str, bytes] = field(default_factory=dict)
    staging_dir: str = "/etc/mosquitto/certs/tedge-agentd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """The broker to try it with: its live command line, its user, and the directories it writes to.

    `state` is seen with all it holds but databases (plugins read their files there), `scratch` is seen empty.
    """

    command: tuple[str, ...] = ("/usr/sbin/mosquitto", "-c", "/etc/mosquitto/mosquitto.conf")
    main_conf: str = "/etc/mosquitto/mosquitto.conf"
    user: str = "mosquitto"
    state: tuple[str, ...] = ("/var/lib/mosquitto",)
    scratch: tuple[str, ...] = ("/var/log/mosquitto", "/run/mosquitto")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResult:
    """`accepted`: the broker read everything, bound its sockets and loaded its keys. exit_status < 0: a signal."""

    accepted: bool
    stderr: str
    exit_status: int
    duration_ms: float

    @property
    def reason(self) -> str:
        """What the broker complained about, in one line."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return "; ".join([line for line in lines if "rror" in line or "Warning" in line] or lines[-1:])


def preflight(
    systemd: services.Systemd, candidate: Candidate, broker: Broker, *, runtime_dir: str, timeout_s: float = 10.0
) -> PreflightResult:
    """Return whether the broker starts with the candidate, and what it said if not.

    It runs as the broker's user with its live command line in a transient unit: the candidate is mounted over the
    real paths, everything else is read-only (Mosquitto 2.1 wipes its database on a failed start), and the network is
    an empty one. What only shows in a handshake is not seen: nobody outside can connect to it. `runtime_dir` must be
    a directory that PID 1 sees, too. Raises PreflightError, services.UnitError, BusUnavailableError, OSError. A crash
    in the middle leaves a closed directory (swept by the next call) and a unit that ends after `timeout_s`.
    """
    with _directory(runtime_dir) as root:
        log = os.path.join(root, "log")
        layout = _Layout(root, broker.user)
        _lay_out(layout, candidate, broker)
        unit = f"tedge-agentd-{os.path.basename(root)}.service"
        result = systemd.transient(unit, _properties(layout, broker, log), timeout_s)
        said = _tail(log)
    accepted, status = result.result == "done", result.exec_main_status
    if not accepted and (status >= _SYSTEMD_FAILED or result.result != "failed"):
        raise PreflightError(
            f"the broker could not be started for a preflight: {result.result}, status {status}. {said}".strip(),
            f"journalctl -u {unit}",
        )
    if not accepted and any(text in said for text in _ADDRESS_ERRORS) and not _has_own_network(systemd, unit):
        raise PreflightError(
            "this machine does not let systemd start the broker in a network of its own (a container without"
            " CAP_NET_ADMIN?), so a preflight meets the running broker's sockets",
            "systemd-run --pipe -p PrivateNetwork=yes ip address",
        )
    if status < 0:
        said += f"(ended by signal {-status} after {result.duration_ms / 1000:.1f} s)"
    return PreflightResult(accepted=accepted, stderr=said, exit_status=status, duration_ms=result.duration_ms)


class _Layout:
    """The files of the candidate below `root`, and what is mounted where."""

    def __init__(self, root: str, user: str) -> None:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise PreflightError(f"the broker's user {user} does not exist", f"getent passwd {user}") from None
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.read_only: list[tuple[str, str, bool, int]] = []  # source, target, may be missing, flags
        self.writable: list[tuple[str, str, bool, int]] = []
        self._root = root
        self._numbers = itertools.count()
        self._stands_for: dict[str, str] = {}  # a directory of the machine -> ours

    def write(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Write a file of the broker's user into our place of a directory."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, mode)
            os.fchown(fd, self.uid, self.gid)

    def new(self) -> str:
        """Return a path that is not taken."""
        return os.path.join(self._root, str(next(self._numbers)))

    def replace_file(self, path: str, content: bytes) -> None:
        """Make an existing file of the machine appear with another content."""
        source = self.new()
        self.write(source, content)
        self.read_only.append((source, path, False, 0))

    def replace_directory(self, path: str, hide: Hide, *, writable: bool = False) -> str:
        """Return our stand-in for a directory of the machine: with its other contents, but for what `hide` names.

        It has the owner and mode of the real one; one that is `writable` is the broker's. A directory that does not
        exist gets a place in the stand-in of its parent, because nothing may be created on the machine.
        """
        if path in self._stands_for:
            return self._stands_for[path]
        exists = os.path.isdir(path)
        parent = "" if exists else self.replace_directory(os.path.dirname(path), _nothing)
        ours = self.new() if exists else os.path.join(parent, os.path.basename(path))
        os.mkdir(ours, 0o700)
        if exists:
            self._keep_contents(path, ours, hide)
        if exists or writable:
            (self.writable if writable else self.read_only).append((ours, path, False, _RECURSIVE))
        mode, uid, gid = 0o700, self.uid, self.gid
        if exists and not writable:
            found = os.stat(path)
            mode, uid, gid = found.st_mode & 0o777, found.st_uid, found.st_gid
        os.chmod(ours, mode)
        os.chown(ours, uid, gid)
        self._stands_for[path] = ours
        return ours

    def _keep_contents(self, path: str, ours: str, hide: Hide) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                place = os.path.join(ours, entry.name)
                if hide(entry.name) or entry.path == os.path.dirname(self._root):
                    continue
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), place)
                    continue
                if entry.is_dir():
                    os.mkdir(place, 0o700)
                else:
                    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                self.read_only.append((entry.path, entry.path, True, _RECURSIVE))


def _lay_out(layout: _Layout, candidate: Candidate, broker: Broker) -> None:
    for path, content in candidate.files.items():
        directory, name = os.path.split(path)
        if path == broker.main_conf and os.path.exists(path):
            layout.replace_file(path, content)  # beside it are the keys and passwords of other listeners
            continue
        names = {os.path.basename(other) for other in candidate.files if os.path.dirname(other) == directory}
        ours = layout.replace_directory(directory, functools.partial(_is_replaced, names))
        layout.write(os.path.join(ours, name), content)
    for directory in candidate.directories:
        if os.path.isdir(directory):
            layout.replace_directory(directory, functools.partial(_is_replaced, frozenset()))
    staged = layout.replace_directory(candidate.staging_dir, _everything)
    for name, content in candidate.staged.items():
        os.makedirs(os.path.dirname(os.path.join(staged, name)), exist_ok=True)
        layout.write(os.path.join(staged, name), content)
    for path in broker.state:
        layout.replace_directory(path, _is_database, writable=True)
    for path in broker.scratch:
        layout.replace_directory(path, _everything, writable=True)


def _properties(layout: _Layout, broker: Broker, log: str) -> tuple[services.Property, ...]:
    return (
        ("Description", "s", "Preflight of a candidate for the MQTT broker's configuration"),
        ("ExecStart", "a(sasb)", [(broker.command[0], broker.command, False)]),
        ("User", "s", broker.user),
        ("CapabilityBoundingSet", "t", 0),
        ("NoNewPrivileges", "b", True),
        ("PrivateNetwork", "b", True),
        ("ProtectSystem", "s", "strict"),
        # PrivateTmp= would make directories in the machine's /tmp
        ("TemporaryFileSystem", "a(ss)", [("/tmp", "mode=1777"), ("/var/tmp", "mode=1777")]),  # noqa: S108
        ("BindPaths", "a(ssbt)", layout.writable),
        ("BindReadOnlyPaths", "a(ssbt)", layout.read_only),
        ("StandardInput", "s", "null"),  # an encrypted key makes the broker ask for a pass phrase
        ("StandardOutputFileToAppend", "s", log),
        ("StandardErrorFileToAppend", "s", log),
    )


@contextlib.contextmanager
def _directory(runtime_dir: str) -> Iterator[str]:
    """Make a directory of one's own, under a lock that lasts as long as its maker."""
    sweep(runtime_dir)
    root = os.path.join(runtime_dir, f"{_PREFIX}{secrets.token_hex(4)}")
    os.mkdir(root, 0o700)
    fd = os.open(root, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(fd)


def sweep(runtime_dir: str) -> None:
    """Remove what preflights have left that died, or could not remove it: there are keys in it."""
    for name in os.listdir(runtime_dir):
        if name.startswith(_PREFIX):
            _sweep(os.path.join(runtime_dir, name))


def _sweep(left: str) -> None:
    with contextlib.suppress(OSError):  # it is gone, or in use
        fd = os.open(left, _DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(fd)


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _STDERR_BYTES))
            return _TIMESTAMP.sub("", file.read().decode(errors="replace"))
    except FileNotFoundError:  # systemd did not come so far
        return ""


def _has_own_network(systemd: services.Systemd, unit: str) -> bool:
    """Return whether PrivateNetwork= is more than a wish here: systemd goes on without it where it is not permitted.

    Told by the number of interfaces a unit sees. Only the loopback one has to be there, and it has to be up.
    """
    script = "n=0; while read -r line; do n=$((n+1)); done </proc/self/net/dev; exit $n"
    properties: tuple[services.Property, ...] = (
        ("ExecStart", "a(sasb)", [("/bin/sh", ("/bin/sh", "-c", script), False)]),
        ("PrivateNetwork", "b", True),
    )
    with open("/proc/self/net/dev", "rb") as file:
        here = len(file.readlines())
    return systemd.transient(f"network-of-{unit}", properties, 5.0).exec_main_status != here


def _is_replaced(names: Set[str], name: str) -> bool:
    return name in names or name.endswith(".conf")


def _nothing(_: str) -> bool:
    return False


def _everything(_: str) -> bool:
    return True


def _is_database(name: str) -> bool:
    return name.endswith((".db", ".db.new"))
