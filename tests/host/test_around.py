"""What goes on around the daemon: the package manager's lock, tedge-agent's notes, the journal, AppArmor."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tedge_agentd.core import model
from tedge_agentd.host import agent_state, apparmor, last_lines, package_lock, users

COMMANDS = {"te/device/main///cmd/firmware_update/1": {"status": "executing", "unix_timestamp": 1, "payload": {}}}


def account(uid: int) -> users.Account:
    return users.Account(name="someone", uid=uid, gid=uid, groups=frozenset({uid}))


# The lock ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path) -> str:
    path = tmp_path / "lock-frontend"
    path.touch(mode=0o640)
    return str(path)


def test_the_lock_of_another_process_is_seen_and_never_taken(lock: str) -> None:
    assert not package_lock.held(lock)
    program = (
        f"import fcntl,sys; f=open({lock!r},'w'); fcntl.lockf(f,fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert package_lock.held(lock)
        assert package_lock.held(lock)
        other.communicate()
    assert not package_lock.held(lock)
    with open(lock, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("kind", ["missing", "fifo", "link", "directory"])
def test_what_is_no_lock_is_held_by_nobody(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    assert not package_lock.held(str(path))


# tedge-agent's notes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("software-current-operation", "", ()),
        ("software-current-operation", "\n", ()),
        ("software-current-operation", 'operation_id = "1"\noperation = "update"\n', ("software",)),
        ("restart-current-operation", "{}", ("restart",)),
        ("workflows", json.dumps({"version": "V1", "commands": COMMANDS}), ("firmware_update",)),
        ("workflows/main", json.dumps({"version": "V1", "commands": COMMANDS}), ("firmware_update",)),
        ("workflows", json.dumps({"version": "V1", "commands": {}}), ()),
        ("workflows", "torn {", ()),
        ("something-else", "x", ()),
    ],
)
def test_what_tedge_agent_has_written_down(tmp_path: Path, name: str, data: str, expected: tuple[str, ...]) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(data)
    assert agent_state.under_way((str(tmp_path), "/nowhere"), account(os.getuid())) == expected


def test_no_note_makes_root_read_what_its_writer_could_not(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "software-current-operation").symlink_to(secret)
    os.mkfifo(notes / "restart-current-operation")
    for directory in (tmp_path, notes):
        directory.chmod(0o755)
    assert agent_state.under_way((str(notes),), account(12345)) == ()


# The journal ------------------------------------------------------------------------------------------------


def failed(invocation: str) -> model.UnitFacts:
    return model.UnitFacts(name="x.service", load_state="loaded", active_state="failed", invocation=invocation)


def test_the_last_lines_are_asked_for_once_a_run_and_are_short_plain_and_without_keys() -> None:
    asked = []

    def journal(unit: model.UnitFacts) -> str:
        asked.append(unit.invocation)
        key = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"
        return f"one\ntwo\n\n{'long ' * 100}\n\x1b[31mred\n{key}"

    lines = last_lines.LastLines(journal, sleep=lambda _: None)
    for _ in range(3):
        found = lines.of(failed("a1"))
        assert len(found) <= 3
        assert all(len(line) <= 160 and line.isprintable() for line in found)
        assert "MIIE" not in str(found)
    lines.of(failed("b2"))
    assert asked == ["a1", "b2"]
    assert lines.of(failed("")) == ()


def test_without_a_journal_there_are_no_lines() -> None:
    def nothing(unit: model.UnitFacts) -> str:
        raise FileNotFoundError(unit.name)

    assert last_lines.LastLines(nothing, sleep=lambda _: None).of(failed("a1")) == ()


def test_a_journal_that_is_behind_is_asked_again_once() -> None:
    answers = iter(["", "at last\n"])
    assert last_lines.LastLines(lambda _: next(answers), sleep=lambda _: None).of(failed("a1")) == ("at last",)


# AppArmor ---------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> apparmor.Places:
    (tmp_path / "policies/local").mkdir(parents=True)
    return apparmor.Places(loaded=str(tmp_path / "profiles"), policies=str(tmp_path / "policies"))


def test_the_enforced_profile_is_found_with_its_local_rules_and_read_again_after_a_change(
    places: apparmor.Places,
) -> None:
    confinement = apparmor.Confinement(places)
    assert confinement.profile("/usr/sbin/mosquitto") is None
    Path(places.loaded).write_text("other (enforce)\n/usr/sbin/mosquitto (enforce)\n")
    assert confinement.profile("/usr/sbin/mosquitto") is None, "its text is nowhere"
    text = Path(places.policies, "usr.sbin.mosquitto")
    text.write_text("/usr/sbin/mosquitto {\n  /etc/mosquitto/* r,\n}\n")
    Path(places.policies, "local/usr.sbin.mosquitto").write_text("/not/included r,\n")
    found = confinement.profile("/usr/sbin/mosquitto")
    assert found is not None
    assert (found.local, found.texts) == (None, (text.read_text(),)), "what is not included is no part of it"
    local = "#include <local/usr.sbin.mosquitto>\n"
    text.write_text(f"/usr/sbin/mosquitto {{\n  /etc/mosquitto/* r,\n  {local}}}\n")
    Path(places.policies, "local/usr.sbin.mosquitto").unlink()
    Path(places.policies, "another").write_text("/usr/bin/another {\n}\n")
    found = confinement.profile("/usr/sbin/mosquitto")
    assert found is not None
    assert (found.name, found.file) == ("/usr/sbin/mosquitto", str(text))
    assert found.local == f"{places.policies}/local/usr.sbin.mosquitto"
    Path(places.policies, "local/usr.sbin.mosquitto").write_text("/x r,\n")
    found = confinement.profile("/usr/sbin/mosquitto")
    assert found is not None
    assert "/x r," in found.texts[1]
    Path(places.policies, "local/usr.sbin.mosquitto").write_text("/x r,\n/y r,\n")
    found = confinement.profile("/usr/sbin/mosquitto")
    assert found is not None
    assert "/y r," in found.texts[1]
    # What is included may include, and directories are.
    Path(places.policies, "local/usr.sbin.mosquitto").write_text(f"{local}include if exists <more.d>\n")
    Path(places.policies, "more.d").mkdir()
    assert confinement.profile("/usr/sbin/mosquitto") is not None
    Path(places.policies, "more.d/site").write_text("/z r,\n")
    found = confinement.profile("/usr/sbin/mosquitto")
    assert found is not None
    assert found.texts[2:] == ("/z r,\n",)
    Path(places.loaded).write_text("/usr/sbin/mosquitto (complain)\n")
    assert confinement.profile("/usr/sbin/mosquitto") is None
