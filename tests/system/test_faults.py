"""A pass that dies, or fails to write, at every point: what lies on disk is old or new, and the next converges.

The passes run as `tedge-agentd apply` outside of the unit, under strace, which injects the fault. Two targets take
turns: mutual TLS on port 8883 with a CA directory, and on 8884 with a CA file and another pair, so that each pass has
files to own, to stage, to write and to remove, and the broker to restart.

There are about a hundred points, of which one run tries some; TEDGE_AGENTD_TEST_EVERY=1 tries them all (minutes).
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from . import basetree, clients, conftest, gateway, measured, pki, scenes, standins
from .scenes import UNIT

FILE = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
STAGING = "/etc/mosquitto/certs/tedge-agentd"
STATE = "/var/lib/tedge-agentd"
TLS = clients.Credentials(tls=True)
CALLS = (
    "write,pwrite64,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,link,linkat,"
    "fchown,chown,fchownat,lchown,fchmod,chmod,fchmodat,fsync,fdatasync,sync,ftruncate"
)
KILLED = (137, -9)
EVERY = int(os.environ.get("TEDGE_AGENTD_TEST_EVERY", "7"))
ONE_RESTART_MS = 1500.0  # 120 ms on an idle machine


@dataclass
class Lab:
    """A gateway whose daemon is stopped, and two targets that take turns."""

    gw: gateway.Gateway
    pairs: tuple[pki.Pair, pki.Pair]
    turn: int = 0
    seen: dict[str, set[bytes]] = field(default_factory=dict)  # whole contents that may lie at a path

    @property
    def port(self) -> int:
        return (8883, 8884)[self.turn % 2]

    def next(self) -> None:
        """Ask for the other target, as an operator who edits the file and copies certificates does."""
        self.turn += 1
        scenes.write_pair(self.gw, self.pairs[self.turn % 2], owner=("root", "mosquitto")[self.turn // 2 % 2])
        ca = (f"{scenes.CERTS}/cas", scenes.CA)[self.turn % 2]
        standins.write_toml(
            self.gw,
            f'[mqtt.external]\nca_path = "{ca}"\ncert_file = "{scenes.CERT}"\nkey_file = "{scenes.KEY}"\n'
            f"[mqtt.external.bind]\nport = {self.port}\n",
        )

    def apply(self, *prefix: str) -> int:
        return self.gw.run([*prefix, "tedge-agentd", "apply"], check=False).returncode

    def strace(self, *inject: str) -> int:
        """Run a pass with faults. The tracer's own status is that of the pass; strace dies of the same signal."""
        faults = [word for fault in inject for word in ("-e", f"inject={fault}")]
        return self.apply("strace", "-f", "-qqq", "-o", "/dev/null", *faults)

    def look(self) -> dict[str, bytes]:
        """What the broker would read, by path: the listener file and the staged copies, links resolved."""
        found = {FILE: self.gw.files.read(FILE)} if self.gw.exists(FILE) else {}
        for name in self.gw.files.listdir(STAGING) if self.gw.exists(STAGING) else ():
            if name in {"server.pem", "client-ca.pem"}:
                found[f"{STAGING}/{name}"] = self.gw.files.read(f"{STAGING}/{name}")
            elif name == "client-ca":
                names = self.gw.files.listdir(f"{STAGING}/{name}")
                found[f"{STAGING}/{name}"] = b"\n".join(
                    entry.encode() + b" " + self.gw.files.read(f"{STAGING}/{name}/{entry}") for entry in names
                )
        return found

    def check_whole(self) -> None:
        """Nothing is torn: each file is one of those that a pass which came to its end has left."""
        for path, content in self.look().items():
            assert content in self.seen.get(path, set()), f"{path} is neither old nor new: {content[:200]!r}"

    def note(self) -> None:
        for path, content in self.look().items():
            self.seen.setdefault(path, set()).add(content)

    def converge(self) -> None:
        """One pass without faults is enough."""
        self.apply()
        if self.turn % 5 == 0:
            plan = json.loads(self.gw.run("tedge-agentd plan --json", check=False).stdout)
            assert plan["operations"] == [], plan
        served = clients.handshake(self.gw, self.port)
        assert served.sha256 == self.pairs[self.turn % 2].sha256
        assert clients.connect(self.gw, self.port, TLS).outcome is clients.Outcome.TLS_REFUSED
        assert clients.connect(self.gw, 1883).accepted
        assert not self.gw.exists(f"{STATE}/transaction.json")

    def strays(self) -> list[str]:
        found = self.gw.sh(
            f"find {STAGING} {STATE} /etc/tedge/mosquitto-conf /run/tedge-agentd -name '.*tedge-agentd' -o -name"
            " 'preflight-*'"
        )
        return found.stdout.split()


@pytest.fixture
def lab(gw: gateway.Gateway, ca: pki.Authority) -> Lab:
    gw.run(["systemctl", "stop", UNIT])
    gw.files.mkdir(f"{scenes.CERTS}/cas")
    gw.write(f"{scenes.CERTS}/cas/one.pem", ca.pem)
    gw.write(f"{scenes.CERTS}/cas/two.pem", pki.authority("second").pem)
    gw.write(scenes.CA, ca.pem)
    lab = Lab(gw, (ca.server(), ca.server()))
    for _ in range(2):
        lab.next()
        lab.converge()
        lab.note()
    return lab


@dataclass
class Damage:
    """What faults cost a client that stays connected on the internal listener."""

    attempts: int = 0
    outages: int = 0
    lost_ms: float = 0.0
    longest_ms: float = 0.0

    def add(self, probe: clients.OutageProbe, already: int) -> int:
        report = probe.report()
        new = report["outages"][already:]
        self.attempts += 1
        self.outages += len(new)
        self.lost_ms += sum(outage["ms"] for outage in new)
        self.longest_ms = max([self.longest_ms, *(outage["ms"] for outage in new)])
        # The change itself, and once more where the pass died before it was known what the broker had read.
        assert len(new) <= 2, new
        return already + len(new)

    def note(self, gw: gateway.Gateway, fault: str) -> None:
        mean = self.lost_ms / max(self.outages, 1)
        measured.note(
            "faults",
            fault=fault,
            release=gw.suite,
            attempts=self.attempts,
            restarts=self.outages,
            **{"mean outage of one, ms": round(mean), "longest, ms": round(self.longest_ms)},
        )
        assert self.longest_ms < ONE_RESTART_MS


def points(lab: Lab) -> int:
    """How many changes of files a pass makes itself; its helpers make some more."""
    lab.next()
    lab.apply("strace", "-f", "-qqq", "-o", "/root/trace", "-e", f"trace={CALLS}")
    lab.check_whole()
    lines = lab.gw.read("/root/trace").splitlines()
    first = lines[0].split()[0]
    return sum(line.split()[0] == first and "+++" not in line and "---" not in line for line in lines)


def _offset(lab: Lab) -> int:
    """Where a run begins that does not try them all: the releases share the points between them."""
    turn = (*basetree.SUITES, basetree.MOVING).index(lab.gw.suite)
    return turn * (EVERY // 2) % EVERY if EVERY > 1 else 0


@pytest.mark.slow
def test_killed_at_every_change_of_a_file(lab: Lab) -> None:
    damage, already = Damage(), 0
    last = points(lab)
    assert last > 60, "there are more changes than that in a pass"
    with clients.OutageProbe(lab.gw) as probe:
        for number in range(1 + _offset(lab), last + 1, EVERY):
            lab.next()
            lab.strace(f"{CALLS}:signal=SIGKILL:when={number}")
            lab.check_whole()
            lab.converge()
            already = damage.add(probe, already)
    damage.note(lab.gw, f"SIGKILL at the Nth change of a file, N in steps of {EVERY}")
    assert lab.strays() == []


KILLER = """
import os, signal, sys
from tedge_agentd import execute, preview, world
real, left = execute.execute, [int(sys.argv[1])]
def tick():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(operation, *more):
    tick()
    real(operation, *more)
    tick()
execute.execute = counted
sys.exit(preview.apply_now(world.real()))
"""


@pytest.mark.slow
def test_killed_before_and_after_every_operation(lab: Lab) -> None:
    damage, already, number, status = Damage(), 0, 0, KILLED[0]
    lab.gw.write("/root/killer.py", KILLER)
    with clients.OutageProbe(lab.gw) as probe:
        while status in KILLED:
            number += 1
            lab.next()
            status = lab.gw.run(["/usr/bin/python3", "/root/killer.py", str(number)], check=False).returncode
            lab.check_whole()
            lab.converge()
            already = damage.add(probe, already)
    assert number > 10
    damage.note(lab.gw, "SIGKILL before and after every operation")


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
def test_every_kind_of_write_that_fails(lab: Lab, error: str) -> None:
    """Each kind of call fails once, at some point, and then always: nothing is torn, and the broker is up."""
    damage, already = Damage(), 0
    with clients.OutageProbe(lab.gw) as probe:
        kinds = ("write", "fsync", "renameat,rename", "fchown,chown", "mkdir", "unlinkat,unlink", "symlink")
        cases = [(calls, when) for calls in kinds for when in ("1", "3", "5+", "1+")]
        # The last one, so that no preflight comes after it: the next pass removes what could not be.
        for calls, when in (*cases[_offset(lab) :: EVERY], ("unlinkat,unlink", "3")):
            lab.next()
            status = lab.strace(f"{calls}:error={error}:when={when}")
            assert status not in KILLED
            lab.check_whole()
            assert clients.connect(lab.gw, 1883).accepted
            lab.converge()
            already = damage.add(probe, already)
    damage.note(lab.gw, f"{error} from every kind of call")
    lab.next()
    lab.converge()  # what could not be removed after a preflight goes with the next one
    assert lab.strays() == []


# The daemon in its unit, on a machine that fails it --------------------------------------------------------


@dataclass
class Watched:
    """What a fault may not do: restart the broker more often than the change needs, or stop the daemon."""

    gw: gateway.Gateway
    probe: clients.OutageProbe
    broker: str
    daemon: str

    def port(self, number: int) -> None:
        standins.config_set(self.gw, "mqtt.external.bind.port", number)

    def served(self, number: int, *, within: float = 30.0) -> float:
        """Wait, without asking the daemon for anything, until a port is served; return the seconds it took."""
        begun = time.monotonic()
        self.gw.wait_until(lambda: clients.connect(self.gw, number, TLS).accepted, timeout=within, interval=0.1)
        return time.monotonic() - begun

    def untouched(self) -> bool:
        return self.gw.invocation("mosquitto") == self.broker and self.probe.report()["outages"] == []

    def over(self, fault: str, *, restarts: int = 1) -> None:
        """The fault is over: everything is in order again, and this is what it cost."""
        scenes.settled(self.gw, seconds=30)
        report = self.probe.report()
        assert len(report["outages"]) <= restarts, report
        assert self.gw.unit(UNIT)["NRestarts"] == "0" or "sandbox" in fault, "the daemon went on"
        lost = [outage["ms"] for outage in report["outages"]]
        measured.note(
            "faults",
            fault=fault,
            release=self.gw.suite,
            attempts=1,
            restarts=len(lost),
            **{
                "mean outage of one, ms": round(sum(lost) / max(len(lost), 1)),
                "longest, ms": round(max(lost, default=0)),
            },
        )


@contextlib.contextmanager
def watching(gw: gateway.Gateway, ca: pki.Authority) -> Iterator[Watched]:
    scenes.server(gw, ca)
    scenes.settled(gw)
    with clients.OutageProbe(gw) as probe:
        yield Watched(gw, probe, gw.invocation("mosquitto"), gw.invocation(UNIT))


def test_a_full_disk(make_gateway: conftest.MakeGateway, deb: pathlib.Path, ca: pki.Authority) -> None:
    gw = make_gateway(deb=deb, disk="96m")
    standins.install(gw)
    gw.boot()
    standins.wait_connected(gw)
    with watching(gw, ca) as watched:
        gw.sh("dd if=/dev/zero of=/var/fill bs=64k 2>/dev/null || true; dd if=/dev/zero of=/var/fill2 bs=512 || true")
        text = gw.read("/etc/tedge/tedge.toml")
        assert "0.0.0.0" in text
        with gw.path("/etc/tedge/tedge.toml").open("r+") as file:  # in place, which takes no space
            file.write(text.replace('"0.0.0.0"  ', '"127.0.0.2"').replace('"0.0.0.0"', '"127.0.0.2"'))
        status = scenes.settled(gw, state=None)
        assert scenes.codes(status) & {"write-failed", "preflight-unavailable", "toml-syntax"}, status["findings"]
        assert watched.untouched()
        gw.sh("rm /var/fill /var/fill2")
        gw.wait_until(lambda: clients.connect(gw, 8883, TLS, host="127.0.0.2").accepted, timeout=40, interval=0.2)
        watched.over("the disk is full, then not any more")


def test_without_d_bus(gw: gateway.Gateway, ca: pki.Authority) -> None:
    with watching(gw, ca) as watched:
        gw.run("systemctl stop dbus.socket dbus.service")
        watched.port(8884)
        status = scenes.settled(gw, state=None)
        assert "systemd-unavailable" in scenes.codes(status)
        assert watched.untouched()
        gw.run("systemctl start dbus.socket dbus.service")
        watched.served(8884)
        watched.over("no D-Bus")


def test_with_d_bus_dying_all_the_time(gw: gateway.Gateway, ca: pki.Authority) -> None:
    with watching(gw, ca) as watched:
        for round_ in range(8):
            gw.run("systemctl kill --signal=KILL dbus.service", check=False)
            if round_ == 2:
                watched.port(8884)
            time.sleep(0.15)
            gw.run("systemctl reset-failed dbus.service dbus.socket", check=False)
            gw.run("systemctl start dbus.socket", check=False)
        watched.served(8884, within=60)
        # A restart that was asked for while the line broke is not known to have happened.
        watched.over("D-Bus is killed 8 times in two seconds", restarts=3)


def test_with_a_slow_d_bus(gw: gateway.Gateway, ca: pki.Authority) -> None:
    with watching(gw, ca) as watched:
        gw.run("systemctl kill --signal=STOP dbus.service")
        watched.port(8884)
        time.sleep(5)
        assert watched.untouched()
        gw.run("systemctl kill --signal=CONT dbus.service")
        watched.served(8884)
        watched.over("D-Bus answers after 5 s")


@pytest.mark.parametrize("where", [scenes.CERTS, "/etc/tedge"])
def test_an_overflow_of_the_kernels_queue_of_events(gw: gateway.Gateway, ca: pki.Authority, where: str) -> None:
    """The event that matters is the one that the kernel had no room for."""
    with watching(gw, ca) as watched:
        pid = gw.unit(UNIT)["MainPID"]
        gw.run(["kill", "-STOP", pid])
        gw.sh(
            f"cd {where}; for i in $(seq 1 400); do seq -f flood-$i-%g 50 | xargs touch; done; rm -rf flood-*-[0-4]*"
        )
        watched.port(8884)
        gw.run(["kill", "-CONT", pid])
        took = watched.served(8884, within=60)
        assert took < 10, f"found after {took:.0f} s"
        watched.over(f"the kernel's queue of events overflows in {where}")


@pytest.mark.slow
def test_a_hundred_thousand_events(gw: gateway.Gateway, ca: pki.Authority) -> None:
    with watching(gw, ca) as watched:
        gw.files.mkdir("/etc/tedge/cas")
        gw.write("/etc/tedge/cas/one.pem", ca.pem)
        standins.config_set(gw, "mqtt.external.ca_path", "/etc/tedge/cas")
        before = scenes.settled(gw)["counters"]["passes"]
        resident = int(gw.run(["ps", "-o", "rss=", "-p", gw.unit(UNIT)["MainPID"]]).stdout)
        begun = time.monotonic()
        burst = "seq -f f-%g 100 | xargs touch; seq -f f-%g 100 | xargs rm"
        gw.sh(f"cd /etc/tedge/cas; for i in $(seq 1 500); do {burst}; done")
        took = time.monotonic() - begun
        passes = scenes.settled(gw)["counters"]["passes"] - before
        grown = int(gw.run(["ps", "-o", "rss=", "-p", gw.unit(UNIT)["MainPID"]]).stdout) - resident
        assert passes <= took + 3, f"{passes} passes in {took:.1f} s"
        assert grown < 8192, f"{grown} kB more"
        watched.over("100,000 events", restarts=1)


def test_the_watched_directories_are_replaced(gw: gateway.Gateway, ca: pki.Authority) -> None:
    with watching(gw, ca) as watched:
        certs = scenes.CERTS
        gw.sh(f"cp -a {certs} {certs}.new; mv {certs} {certs}.old; mv {certs}.new {certs}; rm -rf {certs}.old")
        pair = ca.server()
        scenes.write_pair(gw, pair, owner="mosquitto")
        gw.wait_until(lambda: clients.handshake(gw).sha256 == pair.sha256)
        assert watched.untouched(), "a renewal in a directory that was replaced is a reload"
        gw.run(["mount", "-t", "tmpfs", "tmpfs", certs])
        status = scenes.settled(gw, state=None)
        assert status["state"] != "in-sync"
        gw.run(["umount", certs])
        scenes.settled(gw)
        assert watched.untouched()
        gw.sh("mv /etc/tedge/mosquitto-conf /root/away")
        scenes.settled(gw, state=None)
        gw.sh("mv /root/away /etc/tedge/mosquitto-conf")
        scenes.settled(gw)
        assert watched.untouched()
        watched.over("directories are replaced, mounted over, moved away", restarts=0)


def test_etc_tedge_is_replaced_as_a_whole(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """The unit's mount namespace still has the old directory; the daemon has itself started anew with the new one."""
    with watching(gw, ca) as watched:
        gw.sh("cp -a /etc/tedge /etc/tedge.new; mv /etc/tedge /root/tedge.old; mv /etc/tedge.new /etc/tedge")
        watched.port(8884)
        gw.run(["systemctl", "reload", UNIT], check=False)
        watched.served(8884, within=30)
        watched.over("/etc/tedge is replaced as a whole (sandbox)")


def test_without_any_watch(gw: gateway.Gateway, ca: pki.Authority) -> None:
    """The kernel's limits of inotify are used up: the daemon says so, and looks by the clock."""
    gw.write("/etc/tedge-agentd/config.toml", "resync = 2\n")
    with watching(gw, ca) as watched:
        gw.run(["systemctl", "stop", UNIT])
        tracer = "/usr/bin/strace -f -qqq -o /dev/null -e trace=inotify_init1,inotify_add_watch"
        faults = "-e inject=inotify_init1:error=EMFILE -e inject=inotify_add_watch:error=ENOSPC"
        unit = "systemd-run --unit=blind --property=Type=notify --property=NotifyAccess=all"
        gw.run(f"{unit} {tracer} {faults} tedge-agentd run")
        status = scenes.settled(gw, state=None, seconds=20)
        assert "watch-degraded" in scenes.codes(status)
        watched.port(8884)
        took = watched.served(8884)
        assert took < 6
        gw.run("systemctl stop blind")
        gw.run(["systemctl", "start", UNIT])
        watched.over("no inotify watch is to be had")


@pytest.mark.parametrize("seconds", [1_000_000, -30])
def test_a_clock_that_jumps(gw: gateway.Gateway, ca: pki.Authority, seconds: int) -> None:
    """The monotonic clock of a time namespace is beside that of systemd: no process is stale, or fresh, for ever."""
    with watching(gw, ca) as watched:
        gw.run(["systemctl", "stop", UNIT])
        shifted = ["unshare", "--time", f"--monotonic={seconds}", f"--boottime={seconds}", "--fork", "tedge-agentd"]
        standins.config_set(gw, "mqtt.external.bind.port", 8884)
        gw.run([*shifted, "apply"], check=False)
        assert clients.connect(gw, 8884, TLS).accepted
        for command in (["tedge-agentd", "apply"], [*shifted, "apply"], ["tedge-agentd", "apply"]):
            gw.run(command, check=False)
        assert clients.connect(gw, 8884, TLS).accepted
        gw.run(["systemctl", "start", UNIT])
        watched.over(f"the clock is {seconds} s off, and right again", restarts=2)
