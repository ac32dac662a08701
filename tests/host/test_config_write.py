"""A link in user tedge's directory leads root to no file that is not its maker's. Needs root, to be two users."""

import os
from pathlib import Path

import pytest

from tedge_agentd import config_write

TEDGE = 12345
NEW = b"new = 1\n"


def update(path: Path) -> bool:
    owner = config_write.Owner(uid=TEDGE, gid=TEDGE)
    lock = path.parents[1] / "run" / "lock"
    return config_write.update(str(path), lambda _: NEW, lock_path=str(lock), owner=owner)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    (tmp_path / "tedge").mkdir()
    return tmp_path / "tedge" / "tedge.toml"


@pytest.mark.parametrize("exists", [True, False])
def test_a_users_link_to_a_file_of_root_is_refused(link: Path, tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "roots.toml"
    if exists:
        target.write_bytes(b"old = 1\n")
    link.symlink_to(target)
    os.chown(link, TEDGE, TEDGE, follow_symlinks=False)
    with pytest.raises(config_write.NotWrittenError, match="does not belong to the user who made the link"):
        update(link)
    assert target.exists() == exists
    assert not exists or target.read_bytes() == b"old = 1\n"
    assert sorted(os.listdir(tmp_path)) == sorted(["run", "tedge", *(["roots.toml"] if exists else [])])


def test_a_users_link_is_refused_behind_one_of_root(link: Path, tmp_path: Path) -> None:
    target, middle = tmp_path / "roots.toml", tmp_path / "middle"
    target.write_bytes(b"old = 1\n")
    middle.symlink_to(target)
    os.chown(middle, TEDGE, TEDGE, follow_symlinks=False)
    link.symlink_to(middle)
    with pytest.raises(config_write.NotWrittenError):
        update(link)
    assert target.read_bytes() == b"old = 1\n"


@pytest.mark.parametrize(("maker", "owner"), [(TEDGE, TEDGE), (0, TEDGE), (0, 0)])
def test_a_link_of_root_or_to_its_makers_own_file_is_followed(
    link: Path, tmp_path: Path, maker: int, owner: int
) -> None:
    target = tmp_path / "data.toml"
    target.write_bytes(b"old = 1\n")
    target.chmod(0o640)
    os.chown(target, owner, owner)
    link.symlink_to(target)
    os.chown(link, maker, maker, follow_symlinks=False)
    assert update(link)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert (target.stat().st_uid, target.stat().st_gid, target.stat().st_mode & 0o7777) == (owner, owner, 0o640)


def test_a_new_file_belongs_to_the_owner_that_is_given(link: Path) -> None:
    assert update(link)
    assert (link.stat().st_uid, link.stat().st_gid, link.stat().st_mode & 0o7777) == (TEDGE, TEDGE, 0o644)
    assert not update(link)
