"""One container: namespaces of its own and an overlay of a base tree, in which systemd can be booted again and again.

A holder process, PID 1 of a PID namespace of its own, owns everything: the mounts live in its mount namespace, the
networks in network namespaces, every process of the gateway below it. When it ends - because the test run closes
its standard input, ends or is killed - the kernel takes all of that away. Nothing is ever mounted on the host.
"""

import contextlib
import ctypes
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

BOOT_SECONDS = 30.0
STOP_SECONDS = 30.0
CGROUPS = "/sys/fs/cgroup/tedge-agentd-tests"
PREFIX = "tedge-agentd-gateway-"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# systemd 257 wants a pure cgroup2 tree, which a mount namespace can have whatever the host uses.
# /run is private because nspawn leaves files there when it is killed.
_HOLDER = """
set -eu
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "$CGROUP"
mount -t tmpfs tmpfs /run
[ "$DISK" = real ] || mount -t tmpfs -o "size=$DISK,mode=0755" tmpfs "$WORK"
cd "$WORK"
mkdir -p upper work root
chmod 0755 upper
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=upper,workdir=work" root
ip link set lo up
unshare --net sh -c 'ip link set lo up; echo ready; exec sleep infinity' &
exec cat
"""


class Container:
    """Namespaces and files of one gateway; `boot` and `stop` may alternate any number of times."""

    def __init__(self, lower: Sequence[pathlib.Path], *, disk: str = "2g") -> None:
        """Open the namespaces. `lower` is ordered top first; `disk` is the size of a tmpfs, or `real`."""
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0
        self.holder = 0
        self.neighbour = 0  # a process in the network of the machines around the gateway
        self._networks: dict[int, int] = {}
        _sweep()
        self._work = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/var/tmp"))
        self._work.chmod(0o755)
        self._cgroup = f"{CGROUPS}/{os.getpid()}-{secrets.token_hex(4)}"
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        unshare = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            [*unshare, "/bin/sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._console,
            start_new_session=True,  # Ctrl-C is for the test run, which then takes everything away in order
            env={
                "PATH": os.defpath + ":/usr/sbin:/sbin",
                "CGROUP": self._cgroup,
                "DISK": disk,
                "WORK": str(self._work),
                "LOWER": ":".join(str(layer) for layer in lower),
            },
        )
        assert self._holder.stdout is not None
        try:
            if self._holder.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the gateway's namespaces could not be set up:\n{self.console()}")
            self.holder = _only_child(self._holder.pid)
            self.neighbour = _only_child(self.holder)
            self._networks = {
                pid: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                for pid in (self.holder, self.neighbour)
            }
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        return self.leader != 0 and self._nspawn is not None and self._nspawn.poll() is None

    @property
    def root(self) -> pathlib.Path:
        """The gateway's root directory as seen from here: with its /run and /tmp while it runs."""
        if self.running:
            return pathlib.Path(f"/proc/{self.leader}/root")
        return pathlib.Path(f"/proc/{self.holder}/root{self._work}/root")

    def boot(self) -> None:
        """Start systemd and return as soon as it exists; it may not have started anything yet."""
        assert not self.running, "the gateway runs already"
        nspawn = (
            "systemd-nspawn --quiet --register=no --keep-unit --settings=no --console=pipe --link-journal=no"
            # Without it PID 1 cannot give a unit a network of its own: a preflight would meet the live sockets.
            " --capability=CAP_NET_ADMIN"
            " --resolv-conf=off --timezone=off --machine=gateway --network-namespace-path=/proc/1/ns/net"
            f" --directory={self._work}/root --boot"
        )
        join = f"echo $$ >{self._cgroup}/cgroup.procs; exec {nspawn} </dev/null"
        enter = ["nsenter", f"--target={self.holder}", "--mount", "--pid", "--", "/bin/sh", "-ec", join]
        self._nspawn = subprocess.Popen(
            enter,
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.leader = self._await_leader()

    def _await_leader(self) -> int:
        assert self._nspawn is not None
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._nspawn.poll() is None:
            # nsenter forks (a PID namespace is entered by children); its child becomes nspawn, whose child is PID 1.
            chain = [self._nspawn.pid]
            for _ in range(2):
                chain += _children(chain[-1])[:1]
            if len(chain) == 3 and _comm(chain[2]) == "systemd":
                return chain[2]
            time.sleep(0.005)
        raise RuntimeError(f"the container did not start:\n{self.console()}")

    def stop(self) -> None:
        """Shut down cleanly, as a power button does."""
        assert self._nspawn is not None
        assert self.running, "the gateway is off"
        os.kill(self.leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        try:
            self._nspawn.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the gateway did not shut down:\n{self.console()}") from None
        self.leader = 0

    def kill(self) -> None:
        """End every process of the container at once; files stay."""
        if self._nspawn is None:
            return
        if self._nspawn.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader or self._nspawn.pid, signal.SIGKILL)
            try:
                self._nspawn.wait(5)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        self.leader = 0

    def close(self) -> None:
        """Take everything away. May be called twice."""
        self.kill()
        if self.holder and self._holder.poll() is None:
            self._remove_cgroups()
        if self._holder.stdin is not None:
            self._holder.stdin.close()  # the holder's cat ends, and the kernel ends all below it
        try:
            self._holder.wait(5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        while self._networks:
            os.close(self._networks.popitem()[1])
        if not self._console.closed:
            self._console.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _remove_cgroups(self) -> None:
        """Remove our cgroups, and those of test runs that were killed."""
        top = pathlib.Path(f"/proc/{self.holder}/root{CGROUPS}")
        for left in top.iterdir():
            owner = left.name.partition("-")[0]
            if left.name == pathlib.Path(self._cgroup).name or not pathlib.Path(f"/proc/{owner}").exists():
                _remove_cgroup(left)

    def console(self) -> str:
        """Return what the container wrote to its console."""
        self._console.flush()
        size = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), size, 0).decode(errors="replace")

    def in_network(self, action: Callable[[], T], *, outside: bool = False) -> T:
        """Call `action` in a thread that is inside the gateway's network; sockets it makes stay there for good.

        With `outside` it is the network of the machines around the gateway, which see it through its interfaces.
        """
        network = self._networks[self.neighbour if outside else self.holder]
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                if _libc.setns(network, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                results.append(action())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter, name="in-gateway-network")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _only_child(pid: int) -> int:
    (child,) = _children(pid)
    return child


def _comm(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _remove_cgroup(top: pathlib.Path) -> None:
    deadline = time.monotonic() + 2.0
    while top.is_dir() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # busy for an instant after its last process was killed
                os.rmdir(directory)
        time.sleep(0.002)


def _sweep() -> None:
    """Remove the work directories of test runs that were killed."""
    for left in pathlib.Path("/var/tmp").glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not pathlib.Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
