"""The safe walk and what is taken by it: properties under attack first, then tables, then examples."""

import fcntl
import os
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tedge_agentd.core import model
from tedge_agentd.core import ownership as decide
from tedge_agentd.host import opened as op
from tedge_agentd.host import ownership, users, walk
from tests.host.accounts import BROKER, CLIENT, STRANGER

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"
KIND, ROLE = model.FileKind, model.Role


class Gateway:
    """A small /etc: tedge's own directory, the broker's, and a place that is nobody's business."""

    def __init__(self, realm: Path) -> None:
        self.realm = realm
        self.tedge = realm / "etc/tedge"
        self.mosquitto = realm / "etc/mosquitto"
        self.elsewhere = realm / "home/stranger"
        for directory in (self.tedge / "certs", self.mosquitto / "certs", self.elsewhere):
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        for directory in (self.tedge, self.tedge / "certs"):
            directory.chmod(0o775)
            os.chown(directory, CLIENT.uid, CLIENT.gid)
        os.chown(self.elsewhere, STRANGER.uid, STRANGER.gid)
        self.roots = walk.Roots(managed=(str(self.tedge), str(self.mosquitto)), broker_dir=str(self.mosquitto))

    def put(self, path: Path, data: bytes = KEY, mode: int = 0o600, owner: int = 0) -> Path:
        path.write_bytes(data)
        path.chmod(mode)
        os.chown(path, owner, owner)
        return path

    def rule(self, path: Path, role: model.Role = ROLE.BROKER, kind: model.FileKind = KIND.KEY) -> model.FileRule:
        who = None if role is ROLE.CA else (BROKER if role is ROLE.BROKER else CLIENT).name
        readers = (BROKER.name,) if who is None else (who,)
        return model.FileRule(
            path=str(path), key="mqtt.a.key_file", role=role, kind=kind, owner=who, group=who, readers=readers
        )


@pytest.fixture
def gateway(realm: Path) -> Gateway:
    return Gateway(realm)


def look(path: Path) -> tuple[int, int, int, int, bytes]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_ctime_ns, path.read_bytes()


def apply(gateway: Gateway, rule: model.FileRule, people: users.Users) -> model.FileFacts:
    facts = ownership.examine(rule, gateway.roots, people)
    assert facts.problem is None, facts
    return ownership.fix(rule, facts, decide.wanted_mode(rule.kind, facts.mode), gateway.roots, people)


# Under attack -----------------------------------------------------------------------------------------------

ROUNDS_S = 1.5


@contextmanager
def attacker(step: Callable[[int], None]) -> Iterator[Callable[[], int]]:
    """Swap names as fast as another process can: a fork, so that it does not share our interpreter's lock."""
    counter_read, counter_write = os.pipe()
    child = os.fork()
    if child == 0:
        running = True

        def stop(*_: object) -> None:
            nonlocal running
            running = False

        signal.signal(signal.SIGTERM, stop)
        rounds = 0
        while running:
            with suppress(OSError):
                step(rounds)
            rounds += 1
        os.write(counter_write, struct.pack("<Q", rounds))
        os._exit(0)
    os.close(counter_write)
    ended: list[int] = []

    def end() -> int:
        if not ended:
            os.kill(child, signal.SIGTERM)
            ended.append(struct.unpack("<Q", os.read(counter_read, 8))[0])
            os.waitpid(child, 0)
            os.close(counter_read)
        return ended[0]

    try:
        yield end
    finally:
        end()


def attacks(gateway: Gateway, sentinel: Path) -> dict[str, Callable[[int], None]]:
    """Every way to swap what lies at etc/tedge/certs/x.pem, one attack a name."""
    target = gateway.tedge / "certs/x.pem"
    spare = gateway.tedge / "certs/spare"
    away = gateway.tedge / "away"
    bad = gateway.tedge / "bad"
    good = gateway.tedge / "good.pem"

    def swap(make: Callable[[Path], None]) -> Callable[[int], None]:
        def step(number: int) -> None:
            with suppress(FileNotFoundError):
                spare.unlink()
            if number % 2:
                make(spare)
            else:
                good.rename(spare) if good.exists() else spare.write_bytes(KEY)
            spare.rename(target)

        return step

    def socket_at(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))

    def directories(number: int) -> None:
        if number % 2 == 0:
            (gateway.tedge / "certs").rename(away)
            bad.symlink_to(sentinel.parent)
            bad.rename(gateway.tedge / "certs")
        else:
            (gateway.tedge / "certs").rename(bad)
            away.rename(gateway.tedge / "certs")
            bad.unlink()

    return {
        "symlink": swap(lambda path: path.symlink_to(sentinel)),
        "hard link": swap(lambda path: os.link(sentinel, path)),
        "FIFO": swap(os.mkfifo),
        "socket": swap(socket_at),
        "directory": swap(lambda path: path.mkdir()),
        "directories renamed and linked": directories,
    }


@pytest.mark.parametrize(
    "name", ["symlink", "hard link", "FIFO", "socket", "directory", "directories renamed and linked"]
)
def test_no_swap_makes_us_touch_or_read_a_foreign_file(gateway: Gateway, people: users.FixedUsers, name: str) -> None:
    # A root-owned key outside of every root: the most tempting thing there is. Named as in the swapped directory.
    secret = KEY.replace(b"MAA=", b"MQA=")
    sentinel = gateway.put(gateway.elsewhere / "x.pem", secret)
    before = look(sentinel)
    path = gateway.put(gateway.tedge / "certs/x.pem")
    rule = gateway.rule(path)
    rounds = taken = read = 0
    deadline = time.monotonic() + ROUNDS_S
    with attacker(attacks(gateway, sentinel)[name]) as end:
        while time.monotonic() < deadline:
            rounds += 1
            try:
                facts = ownership.examine(rule, gateway.roots, people)
                if facts.exists and facts.problem is None:
                    ownership.fix(rule, facts, 0o600, gateway.roots, people)
                    taken += 1
                with walk.open_source(rule.path, gateway.roots, ROLE.BROKER, BROKER) as opened:
                    assert op.read(opened) != secret
                    read += 1
            except op.Refused:
                continue
        swaps = end()
    assert look(sentinel)[:3] == before[:3]
    assert look(sentinel)[4] == before[4]
    if name != "hard link":  # linking alone moves the ctime
        assert look(sentinel) == before
    assert rounds > 300
    assert swaps > 300
    assert taken + read > 0, "the attack left no room for a single success: it proves nothing"


def test_a_lease_of_the_owner_does_not_make_us_wait(gateway: Gateway) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem")
    holder = os.open(path, os.O_RDWR)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what the kernel tells the holder of a lease
    try:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        started = time.monotonic()
        with walk.open_managed(str(path), gateway.roots, ROLE.BROKER) as opened, pytest.raises(op.Busy):
            op.read(opened)
        assert time.monotonic() - started < 1.0
    finally:
        os.close(holder)
        signal.signal(signal.SIGIO, before)


def test_a_descriptor_is_never_leaked(gateway: Gateway, people: users.FixedUsers) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem")
    (gateway.tedge / "certs/loop").symlink_to("loop")
    (gateway.tedge / "certs/out").symlink_to("/etc/shadow")
    os.mkfifo(gateway.tedge / "certs/fifo")
    names = [str(path), *(f"{gateway.tedge}/certs/{name}" for name in ("loop", "out", "fifo", "none", "x.pem/y"))]
    before = len(os.listdir("/proc/self/fd"))
    for name in [*names, "/etc/shadow", "/root/x", "relative", "/a/../b", "/\n"]:
        for role in ROLE:
            ownership.examine(gateway.rule(Path(name), role), gateway.roots, people)
    assert len(os.listdir("/proc/self/fd")) == before


# What may be reached ----------------------------------------------------------------------------------------


def links(gateway: Gateway) -> dict[str, tuple[str, type[op.Refused] | None]]:
    """Paths below etc/tedge/certs, and how the walk ends."""
    certs = gateway.tedge / "certs"
    gateway.put(certs / "x.pem")
    gateway.put(gateway.mosquitto / "certs/b.pem")
    gateway.put(gateway.elsewhere / "foreign.pem")
    os.link(gateway.put(certs / "one"), certs / "two")
    (certs / "sub").mkdir()
    gateway.put(certs / "sub/y.pem")
    (certs / "open").mkdir()
    (certs / "open").chmod(0o777)
    gateway.put(certs / "open/z.pem")
    (certs / "tmp").mkdir()
    (certs / "tmp").chmod(0o1777)
    gateway.put(certs / "tmp/z.pem")
    os.mkfifo(certs / "fifo")
    for name, target in {
        "relative": "x.pem",
        "climbing": "../certs/sub/y.pem",
        "absolute": str(certs / "x.pem"),
        "broker": str(gateway.mosquitto / "certs/b.pem"),
        "outside": str(gateway.elsewhere / "foreign.pem"),
        "climbing-out": "../../../home/stranger/foreign.pem",
        "dotted": str(certs / "sub/../x.pem"),
        "dangling": "nothing",
        "loop": "loop",
        "four": "three",
        "three": "second",
        "second": "first",
        "first": "x.pem",
        "five": "four",
        "dir": "sub",
    }.items():
        (certs / name).symlink_to(target)
    return {
        "x.pem": ("x.pem", None),
        "sub/y.pem": ("sub/y.pem", None),
        "//x.pem": ("x.pem", None),
        "./x.pem": ("x.pem", None),
        "relative": ("x.pem", None),
        "climbing": ("sub/y.pem", None),
        "absolute": ("x.pem", None),
        "broker": ("../../mosquitto/certs/b.pem", None),
        "four": ("x.pem", None),
        "tmp/z.pem": ("tmp/z.pem", None),
        "five": ("", op.Symlinked),
        "loop": ("", op.Symlinked),
        "dir/y.pem": ("", op.Symlinked),
        "outside": ("", op.OutsideRoots),
        "climbing-out": ("", op.OutsideRoots),
        "dotted": ("", op.OutsideRoots),
        "../certs/x.pem": ("", op.OutsideRoots),
        "dangling": ("", op.Missing),
        "nothing": ("", op.Missing),
        "nothing/at/all": ("", op.Missing),
        "x.pem/more": ("", op.Missing),
        "one": ("", op.HardLinked),
        "two": ("", op.HardLinked),
        "fifo": ("", op.NotRegular),
        "open/z.pem": ("", op.WritableParent),
        "a" * 300: ("", op.Unreachable),
        "d/" * 80: ("", op.Refused),
    }


def test_the_walk_ends_as_the_table_says(gateway: Gateway) -> None:
    for name, (real, refusal) in links(gateway).items():
        path = f"{gateway.tedge}/certs/{name}"
        if refusal is None:
            with walk.open_managed(path, gateway.roots, ROLE.BROKER) as opened:
                assert opened.real == os.path.normpath(f"{gateway.tedge}/certs/{real}"), name
        else:
            with pytest.raises(refusal) as caught:
                walk.open_managed(path, gateway.roots, ROLE.BROKER)
            assert caught.value.reason, name


def test_files_of_the_clients_are_never_the_brokers(gateway: Gateway, people: users.FixedUsers) -> None:
    key = gateway.put(gateway.mosquitto / "certs/server.key")
    link = gateway.tedge / "certs/link"
    link.symlink_to(key)
    for path in (key, link):
        with walk.open_managed(str(path), gateway.roots, ROLE.BROKER):
            pass
        with pytest.raises(op.OutsideRoots, match="is the broker's"):
            walk.open_managed(str(path), gateway.roots, ROLE.CLIENT)
        facts = ownership.examine(gateway.rule(path, ROLE.CLIENT), gateway.roots, people)
        assert facts.problem is not None
        assert facts.readable_by == frozenset()
    # nor through a root that holds both, nor through another name of the broker's directory
    (gateway.realm / "etc/other").symlink_to("mosquitto")
    wide = walk.Roots(managed=(str(gateway.realm / "etc"),), broker_dir=str(gateway.realm / "etc/other"))
    with pytest.raises(op.OutsideRoots):
        walk.open_managed(str(key), wide, ROLE.CLIENT)


def test_a_root_may_be_a_symlink_that_only_root_could_make(gateway: Gateway) -> None:
    key = gateway.put(gateway.tedge / "certs/x.pem")
    alias = gateway.realm / "alias"
    alias.symlink_to("etc/tedge")
    roots = walk.Roots(managed=(str(alias),), broker_dir=str(gateway.mosquitto))
    for path in (alias / "certs/x.pem", key):  # as written, and as it really lies
        with walk.open_managed(str(path), roots, ROLE.CLIENT) as opened:
            assert opened.real == str(key)
    os.chown(alias, STRANGER.uid, STRANGER.gid, follow_symlinks=False)
    with pytest.raises(op.Symlinked):
        walk.open_managed(str(alias / "certs/x.pem"), roots, ROLE.CLIENT)
    theirs = gateway.elsewhere / "alias"  # root's symlink, but its owner's directory
    theirs.symlink_to(gateway.tedge)
    with pytest.raises(op.Symlinked):
        walk.open_managed(str(theirs / "certs/x.pem"), walk.Roots(managed=(str(theirs),)), ROLE.CLIENT)


# What the reader could read itself --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_readable_is_what_the_kernel_says(gateway: Gateway, seed: int) -> None:
    """Compared with access(2) of a process of that user, over all modes of the file and its directory."""
    path = gateway.put(gateway.tedge / "certs/x.pem")
    modes = [bits << shift for bits in range(8) for shift in (0, 3, 6)]
    cases = [
        (directory, file, owner) for directory in modes for file in modes for owner in (0, CLIENT.uid, BROKER.uid)
    ]
    expected, found = [], []
    script = "import os,sys\nfor line in sys.stdin:\n print(int(os.access(line[:-1], os.R_OK)), flush=True)"
    child = subprocess.Popen(
        ["/usr/bin/python3", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=CLIENT.uid,
        group=CLIENT.gid,
        extra_groups=[],
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        for directory, file, owner in cases[seed::6]:
            os.chown(path.parent, owner, BROKER.gid if seed % 2 else CLIENT.gid)
            os.chown(path, owner, CLIENT.gid if seed % 3 else BROKER.gid)
            path.parent.chmod(directory & ~0o002)
            path.chmod(file)
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            expected.append(child.stdout.readline() == "1\n")
            with walk.open_managed(str(path), gateway.roots, ROLE.BROKER) as opened:
                found.append(op.readable(opened, CLIENT))
    assert found == expected
    assert len(set(found)) == 2


def test_an_acl_counts_as_the_kernel_counts_it(gateway: Gateway) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem", mode=0o640)

    def acl(*entries: tuple[int, int, int]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    anybody = 0xFFFFFFFF
    table = {
        (((0x02, 4, CLIENT.uid)), 7): True,
        (((0x02, 4, CLIENT.uid)), 0): False,  # masked
        (((0x02, 0, CLIENT.uid)), 7): False,
        (((0x08, 4, CLIENT.gid)), 7): True,
        (((0x02, 4, BROKER.uid)), 7): False,
    }
    for (entry, mask), expected in table.items():
        rest = ((0x01, 6, anybody), entry, (0x04, 0, anybody), (0x10, mask, anybody), (0x20, 0, anybody))
        os.setxattr(path, op.ACL, acl(*sorted(rest)))
        with walk.open_managed(str(path), gateway.roots, ROLE.BROKER) as opened:
            assert op.readable(opened, CLIENT) is expected, (entry, mask)
        can = ["/usr/bin/python3", "-c", f"import os,sys; sys.exit(not os.access({str(path)!r}, os.R_OK))"]
        kernel = subprocess.run(can, user=CLIENT.uid, group=CLIENT.gid, extra_groups=[], check=False)
        assert (kernel.returncode == 0) is expected, (entry, mask)


def test_outside_only_what_the_reader_can_read(gateway: Gateway) -> None:
    public = gateway.put(gateway.elsewhere / "public.pem", CERTIFICATE, 0o644)
    private = gateway.put(gateway.elsewhere / "private.pem", KEY, 0o600, STRANGER.uid)
    closed = gateway.elsewhere / "closed"
    closed.mkdir(mode=0o700)
    gateway.put(closed / "inside.pem", CERTIFICATE, 0o644)
    (gateway.elsewhere / "link").symlink_to("../stranger/./link2")
    (gateway.elsewhere / "link2").symlink_to(public)
    (gateway.elsewhere / "through").symlink_to("closed/../public.pem")
    (gateway.elsewhere / "loop").symlink_to("loop")
    os.mkfifo(gateway.elsewhere / "fifo")
    (gateway.elsewhere / "fifo").chmod(0o644)
    for name in ("public.pem", "link", "../stranger/link2"):
        with walk.open_outside(f"{gateway.elsewhere}/{name}", CLIENT) as opened:
            assert (opened.real, op.read(opened)) == (str(public), CERTIFICATE)
    refusals = {
        "private.pem": op.Unreadable,
        "closed/inside.pem": op.Unreadable,
        "closed/nothing.pem": op.Unreadable,  # not even that it is missing
        "through": op.Unreadable,
        "loop": op.Symlinked,
        "fifo": op.NotRegular,
        "nothing": op.Missing,
        "public.pem/more": op.Missing,
    }
    for name, refusal in refusals.items():
        with pytest.raises(refusal) as caught:
            walk.open_outside(f"{gateway.elsewhere}/{name}", CLIENT)
        assert refusal is not op.Unreadable or "managed_roots" in caught.value.remedy
    with walk.open_outside(str(private), STRANGER) as opened:
        assert op.read(opened) == KEY


def test_a_source_below_a_root_that_breaks_its_rules_may_be_read_if_its_reader_can(gateway: Gateway) -> None:
    public = gateway.put(gateway.elsewhere / "public.pem", CERTIFICATE, 0o644)
    link = gateway.tedge / "certs/link"
    link.symlink_to(public)
    with walk.open_source(str(link), gateway.roots, ROLE.CLIENT, CLIENT) as opened:
        assert op.read(opened) == CERTIFICATE
    public.chmod(0o600)
    with pytest.raises(op.Unreadable):
        walk.open_source(str(link), gateway.roots, ROLE.CLIENT, CLIENT)


# Taking -----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.integers(0, 0o777),
    owner=st.sampled_from([0, BROKER.uid, CLIENT.uid, STRANGER.uid]),
    group=st.sampled_from([0, BROKER.gid, CLIENT.gid]),
    role=st.sampled_from([ROLE.BROKER, ROLE.CLIENT]),
    kind=st.sampled_from([KIND.KEY, KIND.CERTIFICATE, KIND.PASSWORD]),
)
def test_what_is_taken_is_right_and_stays_untouched_afterwards(  # noqa: PLR0917  # hypothesis gives them by name
    gateway: Gateway,
    people: users.FixedUsers,
    mode: int,
    owner: int,
    group: int,
    role: model.Role,
    kind: model.FileKind,
) -> None:
    content = CERTIFICATE if kind is KIND.CERTIFICATE else KEY
    path = gateway.put(gateway.tedge / "certs/x.pem", content, mode)
    os.chown(path, owner, group)
    rule = gateway.rule(path, role, kind)
    account = BROKER if role is ROLE.BROKER else CLIENT
    before = look(path)
    facts = ownership.examine(rule, gateway.roots, people)
    assert look(path) == before
    if owner not in (0, account.uid):
        assert facts.problem is not None
        with pytest.raises(op.ForeignOwner):
            ownership.fix(rule, facts, 0o600, gateway.roots, people)
        assert look(path) == before
        return
    after = apply(gateway, rule, people)
    assert (after.uid, after.gid) == (account.uid, account.gid)
    assert after.mode == (0o644 if kind is KIND.CERTIFICATE else (mode & 0o200) | 0o400)
    assert after.readable_by == {account.name}
    settled = look(path)
    assert settled[4] == content
    apply(gateway, rule, people)
    assert look(path) == settled  # the ctime too


def test_a_key_is_closed_before_it_changes_hands(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem", mode=0o644)
    seen = []
    real_chown = os.chown

    def chown(name: str, uid: int, gid: int) -> None:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        real_chown(name, uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    with walk.open_managed(str(path), gateway.roots, ROLE.BROKER) as opened:
        assert ownership.take(opened, BROKER.uid, BROKER.gid, 0o400)
    assert seen == [0o400]
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_a_file_goes_back_to_root_or_stays_with_its_owner(gateway: Gateway) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem", owner=BROKER.uid)
    with pytest.raises(op.ForeignOwner):
        ownership.give_back(str(path), CLIENT.uid, CLIENT.gid, 0o640, gateway.roots)
    ownership.give_back(str(path), BROKER.uid, 0, 0o640, gateway.roots)
    assert look(path)[:3] == (BROKER.uid, 0, 0o640)
    ownership.give_back(str(path), 0, 0, 0o6644, gateway.roots)
    assert look(path)[:3] == (0, 0, 0o644)
    with pytest.raises(op.ForeignOwner):
        ownership.give_back(str(path.parent), 0, 0, 0o644, gateway.roots)


def test_a_plan_made_for_another_state_is_not_carried_out(gateway: Gateway, people: users.FixedUsers) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem", mode=0o640)
    facts = ownership.examine(gateway.rule(path), gateway.roots, people)
    path.chmod(0o400)
    with pytest.raises(op.Changed):
        ownership.fix(gateway.rule(path), facts, 0o600, gateway.roots, people)
    assert look(path)[:3] == (0, 0, 0o400)


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        (KIND.KEY, b"root:x:0:0\n", "no private key"),
        (KIND.KEY, CERTIFICATE, "no private key"),
        (KIND.KEY, b"", "no private key"),
        (KIND.KEY, KEY.replace(b"PRIVATE", b"OPENSSH PRIVATE"), "no private key"),
        (KIND.CERTIFICATE, KEY, "no certificate"),
        (KIND.CERTIFICATE, CERTIFICATE + KEY, "would publish"),
        (KIND.PASSWORD, b"\x7fELF\0", "binary"),
        (KIND.PASSWORD, b"x" * (64 << 10) + b"x", "larger"),
        (KIND.KEY, KEY + b"x" * (1 << 20), "larger"),
    ],
)
def test_what_does_not_look_like_it_is_not_taken(
    gateway: Gateway, people: users.FixedUsers, kind: model.FileKind, content: bytes, says: str
) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem", content, 0o640)
    before = look(path)
    facts = ownership.examine(gateway.rule(path, ROLE.CLIENT, kind), gateway.roots, people)
    assert says in (facts.problem or "")
    with pytest.raises(op.Refused):
        ownership.fix(gateway.rule(path, ROLE.CLIENT, kind), facts, 0o600, gateway.roots, people)
    assert look(path) == before


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_every_kind_of_key_is_taken(gateway: Gateway, people: users.FixedUsers, label: str) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem", KEY.replace(b"PRIVATE KEY", label.encode()))
    assert apply(gateway, gateway.rule(path), people).uid == BROKER.uid


def test_a_ca_is_only_looked_at(gateway: Gateway, people: users.FixedUsers) -> None:
    public = gateway.put(gateway.elsewhere / "ca.pem", CERTIFICATE, 0o644, STRANGER.uid)
    secret = gateway.put(gateway.elsewhere / "closed.pem", CERTIFICATE, 0o600, STRANGER.uid)
    cases = {public: True, secret: False, gateway.elsewhere: True, gateway.tedge / "certs": True}
    for path, usable in cases.items():
        facts = ownership.examine(gateway.rule(path, ROLE.CA, KIND.CA), gateway.roots, people)
        assert (facts.exists, facts.problem is None) == (True, usable), facts
        assert (BROKER.name in facts.readable_by) is usable
    missing = ownership.examine(gateway.rule(gateway.tedge / "no.pem", ROLE.CA, KIND.CA), gateway.roots, people)
    assert not missing.exists


def test_unknown_names_are_a_problem_and_no_crash(gateway: Gateway, people: users.FixedUsers) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem")
    nobody = users.FixedUsers()
    facts = ownership.examine(gateway.rule(path), gateway.roots, nobody)
    assert "does not exist" in (facts.problem or "")
    assert look(path)[:3] == (0, 0, 0o600)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_no_text_of_a_setting_is_too_odd(gateway: Gateway, people: users.FixedUsers, text: str) -> None:
    for path in (text, f"/{text}", f"{gateway.tedge}/{text}"):
        rule = model.FileRule(
            path=path, key="k", role=ROLE.BROKER, kind=KIND.KEY, owner=BROKER.name, group=None, readers=(BROKER.name,)
        )
        assert ownership.examine(rule, gateway.roots, people).problem is not None


def test_a_listing_tells_when_something_changed(gateway: Gateway) -> None:
    directory = gateway.tedge / "certs"
    gateway.put(directory / "a.pem", CERTIFICATE, 0o644)
    (directory / "link").symlink_to("a.pem")
    (directory / "dangling").symlink_to("nothing")

    def stamp() -> object:
        with walk.open_managed(str(directory), gateway.roots, ROLE.CA) as opened:
            return op.listing(opened)

    first = stamp()
    assert stamp() == first
    (directory / "a.pem").write_bytes(KEY)
    second = stamp()
    assert second != first
    (directory / "nothing").write_bytes(b"")
    assert stamp() != second


def test_threads_may_walk_at_the_same_time(gateway: Gateway) -> None:
    path = gateway.put(gateway.tedge / "certs/x.pem")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(200):
                with walk.open_managed(str(path), gateway.roots, ROLE.BROKER) as opened:
                    assert op.read(opened) == KEY
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
