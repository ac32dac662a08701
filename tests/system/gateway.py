"""A gateway under test: Debian with systemd, D-Bus and Mosquitto, booted in a container, used like a machine."""

import json
import os
import pathlib
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from . import basetree, container, rootfs

T = TypeVar("T")

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "TERM": "dumb",
}
LAN = "eth0"
LAN_ADDRESS = "192.0.2.10/24"  # RFC 5737: an address that is nobody's
NEIGHBOUR_ADDRESS = "192.0.2.20/24"


class CommandError(AssertionError):
    """A command in the gateway failed that should not have."""


class Gateway:
    """One gateway. As a context manager it ends with everything taken away; `boot` starts it.

    Between creation and `boot` its files can be written already, as on an image that was prepared.
    """

    def __init__(self, suite: str, *, deb: pathlib.Path | None = None, lan: bool = True, disk: str = "2g") -> None:
        """Make a gateway, still off. `deb` is installed as on an image: enabled, first started by the first boot.

        `lan` adds the interface eth0 with 192.0.2.10/24; `disk` is the size of the RAM disk, or `real`.
        """
        self.suite = suite
        layers = [basetree.deb_layer(suite, deb)] if deb is not None else []
        self._container = container.Container([*layers, basetree.base_tree(suite)], disk=disk)
        try:
            if lan:
                self.add_interface(LAN, LAN_ADDRESS, neighbour=[NEIGHBOUR_ADDRESS])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- power ---------------------------------------------------------------------------------------------------

    def boot(self, *, timeout: float = 30.0) -> Self:
        """Switch on and return when systemd has finished starting up (state `running` or `degraded`)."""
        self._container.boot()
        deadline = time.monotonic() + timeout
        private = self._container.root / "run/systemd/private"
        while time.monotonic() < deadline and self._container.running:
            if private.exists() and self.state() in ("running", "degraded"):
                return self
            time.sleep(0.02)
        raise RuntimeError(f"{self.suite}: systemd did not finish starting up:\n{self._container.console()}")

    def shutdown(self) -> None:
        """Switch off cleanly; files stay."""
        self._container.stop()

    def reboot(self) -> None:
        """Shut down cleanly and boot again; files and interfaces stay."""
        self.shutdown()
        self.boot()

    def power_cut(self) -> None:
        """End everything at once. Files stay as the last write left them: unlike on a disk, no fsync is needed."""
        self._container.kill()

    def close(self) -> None:
        """Take the gateway away: processes, mounts, namespaces, files."""
        self._container.close()

    @property
    def running(self) -> bool:
        return self._container.running

    @property
    def leader(self) -> int:
        """The process id, on this machine, of the gateway's systemd."""
        return self._container.leader

    def state(self) -> str:
        """Return what `systemctl is-system-running` says."""
        return self.run("systemctl is-system-running", check=False).stdout.strip()

    # -- commands ------------------------------------------------------------------------------------------------

    def command(self, command: str | Sequence[str], *, user: str | None = None) -> list[str]:
        """Return the argument vector that runs `command` (no shell) in the gateway, for use with Popen."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        enter = ["nsenter", f"--target={self.leader}", "--all", "--"]
        if user is not None:
            uid, gid, _ = self.files.account(user)
            enter += ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--"]
        return [*enter, *words]

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        user: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, without a shell, in all of the gateway's namespaces; output is captured as text."""
        assert self.running, "the gateway is off"
        home = self.files.account(user)[2] if user is not None else "/root"
        done = subprocess.run(
            self.command(command, user=user),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**ENVIRONMENT, "HOME": home, "USER": user or "root", **(env or {})},
            check=False,
        )
        if check and done.returncode:
            raise CommandError(f"{command!r} ended with {done.returncode}\n{done.stdout}\n{done.stderr}".rstrip())
        return done

    def sh(
        self, script: str, *, check: bool = True, user: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script, which stops at the first failing command."""
        return self.run(["/bin/sh", "-euc", script], check=check, user=user, timeout=timeout)

    # -- files ---------------------------------------------------------------------------------------------------

    @property
    def files(self) -> rootfs.RootFs:
        """The gateway's files; see `rootfs.RootFs` for all that can be done with them."""
        return rootfs.RootFs(self._container.root)

    def path(self, path: str) -> pathlib.Path:
        """Return a path of the gateway as this machine sees it. Do not follow absolute symlinks with it."""
        return self._container.root / path.lstrip("/")

    def read(self, path: str) -> str:
        return self.files.read(path).decode()

    def write(
        self, path: str, data: str | bytes, *, owner: str | None = None, mode: int = 0o644, replace: bool = False
    ) -> None:
        """Write a file in place, or with `replace` through a rename; `owner` is `user` or `user:group`."""
        self.files.write(path, data, owner=owner, mode=mode, replace=replace)

    def stat(self, path: str) -> os.stat_result:
        return self.files.stat(path)

    def access(self, path: str) -> str:
        """Return owner, group and mode as `tedge:tedge 0644`."""
        return self.files.access(path)

    def exists(self, path: str) -> bool:
        return self.files.exists(path)

    # -- systemd -------------------------------------------------------------------------------------------------

    def unit(self, name: str) -> dict[str, str]:
        """Return all properties of a unit as `systemctl show` prints them."""
        shown = self.run(["systemctl", "show", name]).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def active(self, name: str) -> bool:
        return self.run(["systemctl", "is-active", "--quiet", name], check=False).returncode == 0

    def invocation(self, name: str) -> str:
        """Return the id of a unit's current run; another one means that it was restarted in between."""
        return self.run(["systemctl", "show", "--property=InvocationID", "--value", name]).stdout.strip()

    def journal(
        self, unit: str | None = None, *, since: float | None = None, match: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return journal entries of all boots, oldest first. `since` is a time.time(), `match` as for journalctl."""
        words = ["journalctl", "--output=json", "--no-pager", "--quiet", "--all"]
        words += [f"--unit={unit}"] if unit is not None else []
        words += [f"--since=@{since:.6f}"] if since is not None else []
        lines = self.run([*words, *match]).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def messages(self, unit: str | None = None, *, since: float | None = None) -> list[str]:
        """Return the messages of the journal as text."""
        return [str(entry.get("MESSAGE", "")) for entry in self.journal(unit, since=since)]

    def broker_log(self) -> str:
        """Return Mosquitto's own log file."""
        path = "/var/log/mosquitto/mosquitto.log"
        return self.files.read(path).decode(errors="replace") if self.exists(path) else ""

    # -- packages ------------------------------------------------------------------------------------------------

    def install_deb(self, deb: pathlib.Path) -> None:
        """Install a package file with apt, as an operator does. All it depends on comes from /opt/debs."""
        self.write(f"/root/{deb.name}", deb.read_bytes())
        self.run(["apt-get", "-qy", "install", f"/root/{deb.name}"], timeout=120)

    def install(self, *packages: str) -> None:
        """Install Debian packages kept in the tree (mosquitto, the Python libraries); needs no network."""
        self.run(["apt-get", "-qy", "install", *packages], timeout=120)

    def remove(self, *packages: str) -> None:
        self.run(["apt-get", "-qy", "remove", *packages], timeout=120)

    def purge(self, *packages: str) -> None:
        self.run(["apt-get", "-qy", "purge", *packages], timeout=120)

    # -- network -------------------------------------------------------------------------------------------------

    def ip(self, *words: str, outside: bool = False) -> str:
        """Run ip(8) in the gateway's network, also while the gateway is off, or in the network around it."""
        return self._container.in_network(
            lambda: subprocess.run(["ip", *words], check=True, capture_output=True, text=True), outside=outside
        ).stdout

    def add_interface(self, name: str, *addresses: str, neighbour: Sequence[str] = ()) -> None:
        """Add a network interface with addresses such as `192.0.2.10/24` or `2001:db8::10/64`, and bring it up.

        Its cable ends at an interface of the same name outside, which gets the addresses `neighbour`.
        """
        peer = ["peer", "name", name, "netns", str(self._container.neighbour)]
        self.ip("link", "add", name, "type", "veth", *peer)
        for address in addresses:
            self.add_address(name, address)
        for address in neighbour:
            self.ip("address", "add", address, "dev", name, outside=True)
        self.ip("link", "set", name, "up")
        self.ip("link", "set", name, "up", outside=True)

    def remove_interface(self, name: str) -> None:
        self.ip("link", "delete", name)

    def add_address(self, interface: str, address: str) -> None:
        extra = ["nodad"] if ":" in address else []  # a tentative address cannot be bound for a second
        self.ip("address", "add", address, "dev", interface, *extra)

    def remove_address(self, interface: str, address: str) -> None:
        self.ip("address", "delete", address, "dev", interface)

    def in_network(self, action: Callable[[], T], *, outside: bool = False) -> T:
        """Call `action` in a thread inside the gateway's network; sockets it opens stay inside for good.

        With `outside`, it is the network of the machines around the gateway.
        """
        return self._container.in_network(action, outside=outside)

    def enter_network(self, *, outside: bool = False) -> list[str]:
        """Return the words that put a command of this machine into the gateway's network, or the one around it."""
        process = self._container.neighbour if outside else self._container.holder
        return ["nsenter", f"--target={process}", "--net", "--"]

    # -- waiting and telling -------------------------------------------------------------------------------------

    def wait_until(
        self, predicate: Callable[[], T], *, timeout: float = 10.0, interval: float = 0.02, what: str = ""
    ) -> T:
        """Return the first true value of `predicate`, asked again and again; an AssertionError after `timeout`."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout:g} s in vain for {what or predicate}; last value {value!r}")
            time.sleep(interval)
        return value

    def report(self) -> list[tuple[str, str]]:
        """Return what helps to understand a failure: titles and texts."""
        sections = [("console", self._container.console()[-4000:])]
        if self.running:
            journal = self.run("journalctl --no-pager --output=short-precise --lines=400", check=False)
            sections.append(("journal", journal.stdout))
            sections.append(("failed units", self.run("systemctl --failed --no-legend", check=False).stdout))
        sections.append(("broker log", self.broker_log()[-8000:]))
        return [(title, text) for title, text in sections if text.strip()]
