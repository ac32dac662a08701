"""Replacing, removing, reading and locking files."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tedge_agentd.host import files
from tedge_agentd.host import opened as op
from tests.host.accounts import BROKER, CLIENT


def put(path: Path, data: bytes, **more: int) -> None:
    files.replace(str(path), data, **{"mode": 0o644, "uid": 0, "gid": 0, "durable": False, **more})  # type: ignore[arg-type]


# Replacing --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=5000),
    mode=st.sampled_from([0o600, 0o644, 0o640, 0o400]),
    owner=st.sampled_from([0, BROKER.uid]),
    before=st.sampled_from(["nothing", "file", "symlink", "dangling", "fifo", "socket"]),
    durable=st.booleans(),
)
def test_the_name_becomes_a_file_with_exactly_this(  # noqa: PLR0917  # hypothesis gives them by name
    realm: Path, data: bytes, mode: int, owner: int, before: str, durable: bool
) -> None:
    target, bystander = realm / "x.conf", realm / "bystander"
    bystander.write_bytes(b"untouched")
    target.unlink(missing_ok=True)
    match before:
        case "file":
            target.write_bytes(b"old")
        case "symlink":
            target.symlink_to(bystander)
        case "dangling":
            target.symlink_to("nothing")
        case "fifo":
            os.mkfifo(target)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(target))
    files.replace(str(target), data, mode=mode, uid=owner, gid=owner, durable=durable)
    found = target.lstat()
    assert stat.S_ISREG(found.st_mode)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, owner, mode)
    assert target.read_bytes() == data
    assert bystander.read_bytes() == b"untouched"
    assert sorted(os.listdir(realm)) == ["bystander", "x.conf"]


def test_a_reader_sees_the_old_or_the_new_never_a_mixture(realm: Path) -> None:
    target = realm / "x.conf"
    versions = [bytes([65 + number]) * 50_000 for number in range(4)]
    put(target, versions[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(400):
        put(target, versions[number % 4])
    stop.set()
    reader.join()
    assert seen <= set(versions)
    assert len(seen) > 1


def test_killed_at_any_instant_it_leaves_the_old_or_the_new(realm: Path) -> None:
    target = realm / "x.conf"
    old, new = b"old " * 20_000, b"new " * 20_000
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tedge_agentd.host import files\n"
        "data = [b'old ' * 20000, b'new ' * 20000]\n"
        "print(flush=True)\n"
        "for n in range(10**9): files.replace(sys.argv[2], data[n % 2], mode=0o644, uid=0, gid=0)\n"
    )
    for number in range(12):
        put(target, old)
        command = [sys.executable, "-c", script, os.getcwd(), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.003 + number * 0.0017)
            child.kill()
        assert target.read_bytes() in (old, new)
        left = [name for name in os.listdir(realm) if name != "x.conf"]
        assert all(files.STRAY.fullmatch(name) and not name.endswith(".conf") for name in left)
        assert files.clean_strays(str(realm), time.time() + 2 * files.STRAY_AGE_S) == tuple(sorted(left))
        assert os.listdir(realm) == ["x.conf"]


def test_a_user_who_swaps_names_in_the_directory_gains_nothing(realm: Path) -> None:
    """thin-edge's mosquitto-conf is tedge:tedge 0775."""
    theirs = realm / "theirs"
    theirs.mkdir()
    os.chown(theirs, CLIENT.uid, CLIENT.gid)
    sentinel = realm / "sentinel"
    sentinel.write_bytes(b"untouched")
    sentinel.chmod(0o600)
    before = sentinel.stat()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(CLIENT.gid)
        os.setuid(CLIENT.uid)
        while True:
            with suppress(OSError):
                for name in os.listdir(theirs):
                    with suppress(OSError):
                        (theirs / name).unlink()
                        (theirs / name).symlink_to(sentinel)
    refused = written = 0
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            try:
                put(theirs / "x.conf", b"listener 1883\n")
                written += 1
            except (op.Changed, OSError):
                refused += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    after = sentinel.stat()
    assert sentinel.read_bytes() == b"untouched"
    assert (after.st_mode, after.st_uid, after.st_ctime_ns) == (before.st_mode, before.st_uid, before.st_ctime_ns)
    assert refused > 0, "no swap ever met a write: it proves nothing"
    assert written + refused > 100


def test_a_directory_behind_somebody_elses_symlink_is_not_written_to(realm: Path) -> None:
    theirs = realm / "theirs"
    theirs.mkdir()
    os.chown(theirs, CLIENT.uid, CLIENT.gid)
    (theirs / "conf").symlink_to(realm)
    with pytest.raises(op.Symlinked):
        put(theirs / "conf/x.conf", b"")
    with pytest.raises(op.Missing):
        put(realm / "none/x.conf", b"")
    (realm / "alias").symlink_to("theirs")  # root's own, in root's directory
    put(realm / "alias/x.conf", b"y")
    assert (theirs / "x.conf").read_bytes() == b"y"


@pytest.mark.parametrize("step", ["fchown", "fchmod", "write", "fsync", "rename"])
def test_a_failure_at_any_step_leaves_the_old_file_alone(
    realm: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = realm / "x.conf"
    put(target, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space") as caught:
        files.replace(str(target), b"new", mode=0o644, uid=0, gid=0)
    monkeypatch.undo()
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert os.listdir(realm) == ["x.conf"]


def test_a_really_full_disk_leaves_the_old_file_alone(realm: Path) -> None:
    script = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tedge_agentd.host import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "files.replace(sys.argv[2], b'new' * 1000, mode=0o644, uid=0, gid=0)\n"
    )
    target = realm / "x.conf"
    put(target, b"old")
    command = [sys.executable, "-c", script, os.getcwd(), str(target)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert b"File too large" in done.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(realm) == ["x.conf"]


def test_a_directory_in_the_way_is_not_replaced(realm: Path) -> None:
    (realm / "x.conf").mkdir()
    with pytest.raises(IsADirectoryError):
        put(realm / "x.conf", b"")
    assert os.listdir(realm) == ["x.conf"]


def test_a_long_name_fits(realm: Path) -> None:
    put(realm / ("é" * 125), b"x")
    assert len(os.listdir(realm)) == 1


# Removing ---------------------------------------------------------------------------------------------------


def test_remove_takes_the_name_and_not_what_it_points_to(realm: Path) -> None:
    put(realm / "kept", b"x")
    (realm / "link").symlink_to("kept")
    assert files.remove(str(realm / "link"))
    assert not files.remove(str(realm / "link"))
    assert not files.remove(str(realm / "none/at/all"))
    assert os.listdir(realm) == ["kept"]
    (realm / "dir").mkdir()
    with pytest.raises(IsADirectoryError):
        files.remove(str(realm / "dir"))


def test_strays_are_ours_and_old(realm: Path) -> None:
    now = time.time()
    ours = ".x.conf.0123456789abcdef.tedge-agentd"
    fresh = ".x.conf.0123456789abcde0.tedge-agentd"
    future = ".x.conf.0123456789abcde1.tedge-agentd"
    for name in (ours, fresh, future, "x.conf", ".x.conf.tedge-agentd", ".x.0123456789abcdef.tedge-agentd.conf"):
        put(realm / name, b"")
    (realm / ".d.0123456789abcdef.tedge-agentd").mkdir()
    os.utime(realm / ours, (now - 100, now - 100))
    os.utime(realm / fresh, (now - 1, now - 1))
    os.utime(realm / future, (now + 1e6, now + 1e6))  # written before the clock was set back
    assert files.clean_strays(str(realm), now) == (future, ours)
    assert not (realm / ours).exists()
    assert files.clean_strays(str(realm / "none"), now) == ()


# Reading ----------------------------------------------------------------------------------------------------


def test_reading_never_blocks_and_never_swallows_the_disk(realm: Path) -> None:
    put(realm / "x", b"x" * 1000)
    (realm / "link").symlink_to("x")
    os.mkfifo(realm / "fifo")
    (realm / "huge").touch()
    os.truncate(realm / "huge", 1 << 40)
    started = time.monotonic()
    assert files.read_limited(str(realm / "x"), 1000) == b"x" * 1000
    assert files.read_limited(str(realm / "link")) == b"x" * 1000
    table = {
        "fifo": op.NotRegular,
        "huge": op.TooLarge,
        "none": op.Missing,
        "x/y": op.Missing,
        ".": op.NotRegular,
        "\n": op.Refused,
    }
    for name, refusal in table.items():
        with pytest.raises(refusal):
            files.read_limited(f"{realm}/{name}")
    with pytest.raises(op.TooLarge):
        files.read_limited(str(realm / "x"), 999)
    with pytest.raises(op.NotRegular):
        files.read_limited("/dev/zero")
    with pytest.raises(op.Refused):
        files.read_limited("relative")
    assert time.monotonic() - started < 2.0


# The lock ---------------------------------------------------------------------------------------------------


def test_one_holder_at_a_time_who_says_who_it_is(realm: Path) -> None:
    path = str(realm / "lock")
    with files.Lock(path, name="tedge-agentd apply"):
        assert stat.S_IMODE((realm / "lock").stat().st_mode) == 0o600
        with pytest.raises(files.Locked) as caught, files.Lock(path):
            pass
        assert caught.value.holder == f"{os.getpid()} tedge-agentd apply"
        started = time.monotonic()
        with pytest.raises(files.Locked), files.Lock(path, wait_s=0.2):
            pass
        assert 0.2 <= time.monotonic() - started < 1.0
    with files.Lock(path):
        pass


def test_a_waiter_gets_it_when_it_is_let_go(realm: Path) -> None:
    path = str(realm / "lock")
    got = threading.Event()

    def wait() -> None:
        with files.Lock(path, wait_s=10):
            got.set()

    waiter = threading.Thread(target=wait)
    with files.Lock(path):
        waiter.start()
        assert not got.wait(0.2)
    assert got.wait(5)
    waiter.join()


def test_a_killed_holder_holds_nothing(realm: Path) -> None:
    path = realm / "lock"
    script = "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.flock(f,2); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(files.Locked), files.Lock(str(path)):
            pass
        child.kill()
        child.wait()
        with files.Lock(str(path)):
            pass


def test_an_error_inside_lets_go(realm: Path) -> None:
    path = realm / "lock"
    with pytest.raises(KeyError), files.Lock(str(path)):
        raise KeyError
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
