"""The staging directory: each name old or new, whole, and nobody's but root's to change."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tedge_agentd.core import staging
from tedge_agentd.host import staged

GID = 65534


@pytest.fixture(scope="module")
def cas(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three CA certificates."""
    there = tmp_path_factory.mktemp("cas")
    made = [there / f"ca{number}.pem" for number in range(3)]
    for path in made:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(there / "key.pem")]
        request = ["openssl", "req", "-x509", *key, "-subj", f"/CN={path.stem}", "-days", "30", "-out", str(path)]
        subprocess.run(request, check=True, capture_output=True)
    return made


@pytest.fixture
def there(tmp_path: Path) -> staged.Staged:
    made = staged.Staged(str(tmp_path / "certs" / "staged"))
    made.prepare(GID)
    return made


def entries(*paths: Path) -> staging.DirectoryFiles:
    return tuple((f"{number}.pem", path.read_bytes()) for number, path in enumerate(paths))


def test_the_directory_is_roots_and_open_to_the_brokers_group_alone(there: staged.Staged) -> None:
    os.chmod(there.directory, 0o777)
    os.chown(there.directory, GID, GID)
    there.prepare(GID)
    status = os.stat(there.directory)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, GID, 0o750)


def test_what_is_staged_is_the_brokers_and_is_told_by_its_digest(there: staged.Staged) -> None:
    assert there.digests() == {}
    there.stage("server.pem", b"pair", uid=GID, gid=GID)
    status = os.stat(f"{there.directory}/server.pem")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (GID, GID, 0o600)
    assert there.digests() == {"server.pem": staging.file_digest(b"pair")}
    there.unstage("server.pem")
    assert there.digests() == {}


def test_a_directory_is_switched_whole_with_hash_links(there: staged.Staged, cas: list[Path]) -> None:
    for chosen in (cas[:1], cas, cas[1:]):
        there.stage_directory("client-ca", entries(*chosen), gid=GID)
        assert there.digests() == {"client-ca": staging.directory_digest(entries(*chosen))}
        listed = os.listdir(f"{there.directory}/client-ca")
        assert sum(name.endswith(".0") for name in listed) == len(chosen)
        assert len(os.listdir(there.directory)) == 2, "the link, and the one directory it names"
    checked = subprocess.run(
        ["openssl", "verify", "-no-CAfile", "-CApath", f"{there.directory}/client-ca", cas[1]],
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    there.unstage("client-ca")
    assert os.listdir(there.directory) == []


def test_a_change_in_a_staged_directory_is_seen(there: staged.Staged, cas: list[Path]) -> None:
    there.stage_directory("client-ca", entries(*cas[:2]), gid=GID)
    before = there.digests()
    time.sleep(0.02)  # a directory's time of change is that of the kernel's tick: up to 10 ms
    os.unlink(f"{there.directory}/client-ca/0.pem")
    assert there.digests() != before


def test_unstaging_a_file_leaves_the_directory_of_a_like_name(there: staged.Staged, cas: list[Path]) -> None:
    there.stage("client-ca.pem", b"bundle", uid=GID, gid=GID)
    there.stage_directory("client-ca", entries(*cas[:1]), gid=GID)
    there.unstage("client-ca")
    assert set(there.digests()) == {"client-ca.pem"}
    there.stage_directory("client-ca", entries(*cas[:1]), gid=GID)
    there.unstage("client-ca.pem")
    assert set(there.digests()) == {"client-ca"}


def test_a_stranger_at_a_staged_name_is_seen_and_replaced(there: staged.Staged) -> None:
    os.mkfifo(f"{there.directory}/server.pem")
    assert there.digests() == {"server.pem": ""}
    there.stage("server.pem", b"pair", uid=GID, gid=GID)
    assert there.digests() == {"server.pem": staging.file_digest(b"pair")}


def test_a_failing_rehash_leaves_the_old_directory(
    there: staged.Staged, cas: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    there.stage_directory("client-ca", entries(*cas[:1]), gid=GID)
    before = there.digests()
    failed = subprocess.CompletedProcess([], 1, stderr=b"no")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match="rehash"):
        there.stage_directory("client-ca", entries(*cas[:2]), gid=GID)
    assert there.digests() == before
    assert len(os.listdir(there.directory)) == 2
