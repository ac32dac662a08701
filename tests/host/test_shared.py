"""What root reads in directories that a less trusted user may write."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tedge_agentd.host import opened, shared, walk
from tests.host.accounts import CLIENT, STRANGER

SECRET = b"root:$y$secret"


@pytest.fixture
def theirs(realm: Path) -> Path:
    """A directory of the clients', beside root's secret."""
    (realm / "secret").write_bytes(SECRET)
    (realm / "secret").chmod(0o600)
    directory = realm / "tedge"
    directory.mkdir()
    os.chown(directory, CLIENT.uid, CLIENT.gid)
    return directory


def roots(realm: Path) -> walk.Roots:
    return walk.Roots(managed=(str(realm / "tedge"),))


def test_who_decides_what_a_path_leads_to(realm: Path, theirs: Path) -> None:
    assert shared.writer(str(realm / "secret")) is None
    below = theirs / "root's"
    below.mkdir()
    for path in (theirs / "x", below / "x"):  # its owner may move a directory of root's away
        found = shared.writer(str(path))
        assert found is not None
        assert found.uid == CLIENT.uid
    below.chmod(0o775)
    os.chown(below, 0, STRANGER.gid)
    found = shared.writer(str(below / "x"))
    assert found is not None
    assert (found.uid, found.groups) == (shared.NOBODY, frozenset({STRANGER.gid}))


@pytest.mark.parametrize(
    "way", ["symlink", "symlink to a symlink", "hard link", "directory", "FIFO", "socket", "gone"]
)
def test_what_is_only_pointed_at_is_not_read(realm: Path, theirs: Path, way: str) -> None:
    named = theirs / "x.conf"
    if way == "symlink":
        named.symlink_to(realm / "secret")
    elif way == "symlink to a symlink":
        (theirs / "y").symlink_to(realm / "secret")
        named.symlink_to("y")
    elif way == "hard link":
        named.hardlink_to(realm / "secret")
    elif way == "directory":
        named.mkdir()
    elif way == "FIFO":
        os.mkfifo(named)
    elif way == "socket":
        os.mknod(named, 0o140666)
    with pytest.raises(opened.Refused):
        shared.read(str(named), roots(realm))


def test_what_lies_there_is_read_whoever_owns_it(realm: Path, theirs: Path) -> None:
    named = theirs / "x.conf"
    named.write_bytes(b"listener 1883\n")
    for uid, mode in ((0, 0o600), (0, 0o644), (CLIENT.uid, 0o644)):
        os.chown(named, uid, 0)
        named.chmod(mode)
        assert shared.read(str(named), roots(realm)) == b"listener 1883\n"


def test_a_link_to_what_its_maker_could_read_is_followed(realm: Path, theirs: Path) -> None:
    (realm / "public").write_bytes(b"x")
    (theirs / "x.conf").symlink_to(realm / "public")
    assert shared.read(str(theirs / "x.conf"), roots(realm)) == b"x"


def test_in_a_directory_of_roots_alone_roots_links_count(realm: Path) -> None:
    (realm / "secret").write_bytes(SECRET)
    (realm / "x.conf").symlink_to("secret")
    assert shared.read(str(realm / "x.conf"), roots(realm)) == SECRET


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.sampled_from(["x.conf", "y", "d/z", "../secret", "/", ".", ".."]), min_size=1, max_size=3),
)
def test_no_chain_of_links_leads_to_the_secret(realm: Path, theirs: Path, targets: list[str]) -> None:
    made = []
    for name, target in zip(["x.conf", "y", "d"], targets, strict=False):
        (theirs / name).symlink_to(target)
        made.append(theirs / name)
    try:
        assert shared.read(str(theirs / "x.conf"), roots(realm)) != SECRET
    except opened.Refused:
        pass
    finally:
        for path in made:
            path.unlink()
