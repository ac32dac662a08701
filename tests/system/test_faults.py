"""A pass that dies, or fails to write, at every point: what lies on disk is old or new, and the next converges.

The passes run as `tedge-agentd apply` outside of the unit, under strace, which injects the fault. Two targets take
turns: mutual TLS on port 8883 with a CA directory, and on 8884 with a CA file and another pair, so that each pass has
files to own, to stage, to write and to remove, and the broker to restart.

There are about a hundred points, of which one run tries some; TEDGE_AGENTD_TEST_EVERY=1 tries them all (minutes).
"""

import json
import os
from dataclasses import dataclass, field

import pytest

from . import clients, gateway, measured, pki, scenes, standins
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


@pytest.mark.slow
def test_killed_at_every_change_of_a_file(lab: Lab) -> None:
    damage, already = Damage(), 0
    last = points(lab)
    assert last > 60, "there are more changes than that in a pass"
    with clients.OutageProbe(lab.gw) as probe:
        for number in range(1 + lab.gw.leader % EVERY, last + 1, EVERY):
            lab.next()
            lab.strace(f"{CALLS}:signal=SIGKILL:when={number}")
            lab.check_whole()
            lab.converge()
            already = damage.add(probe, already)
    damage.note(lab.gw, "SIGKILL at the Nth change of a file, for every N")
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
        for calls, when in cases[lab.gw.leader % EVERY :: EVERY]:
            lab.next()
            status = lab.strace(f"{calls}:error={error}:when={when}")
            assert status not in KILLED
            lab.check_whole()
            assert clients.connect(lab.gw, 1883).accepted
            lab.converge()
            already = damage.add(probe, already)
    damage.note(lab.gw, f"{error} from every kind of call")
    assert lab.strays() == []
