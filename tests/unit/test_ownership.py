"""Whose a file may become, with which mode, and who can read it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import model, ownership
from tedge_agentd.core.ownership import READ, SEARCH, Access, Directory

KIND = model.FileKind
modes = st.integers(0, 0o7777)
ids = st.sampled_from([1, 2, 3])
needs = st.sampled_from([READ, SEARCH, READ | SEARCH])


@given(mode=modes, kind=st.sampled_from(KIND))
def test_a_wanted_mode_wants_nothing_more(mode: int, kind: model.FileKind) -> None:
    wanted = ownership.wanted_mode(kind, mode)
    assert ownership.wanted_mode(kind, wanted) == wanted


@given(mode=modes, kind=st.sampled_from([KIND.KEY, KIND.PASSWORD]))
def test_a_secret_is_its_owners_alone_and_never_wider_than_it_was_for_writing(
    mode: int, kind: model.FileKind
) -> None:
    wanted = ownership.wanted_mode(kind, mode)
    assert wanted in (0o400, 0o600)
    assert wanted & 0o222 == mode & 0o200


@pytest.mark.parametrize(
    ("kind", "mode", "wanted"),
    [
        (KIND.KEY, 0o644, 0o600),
        (KIND.KEY, 0o640, 0o600),
        (KIND.KEY, 0o400, 0o400),
        (KIND.KEY, 0o440, 0o400),
        (KIND.KEY, 0o000, 0o400),
        (KIND.KEY, 0o4755, 0o600),
        (KIND.PASSWORD, 0o664, 0o600),
        (KIND.PASSWORD, 0o400, 0o400),
        (KIND.CERTIFICATE, 0o600, 0o644),
        (KIND.CERTIFICATE, 0o777, 0o644),
        (KIND.CA, 0o600, 0o600),
    ],
)
def test_the_wanted_modes_of_the_contract(kind: model.FileKind, mode: int, wanted: int) -> None:
    assert ownership.wanted_mode(kind, mode) == wanted


@given(owner=ids, wanted=ids)
def test_only_roots_file_changes_hands(owner: int, wanted: int) -> None:
    assert ownership.may_take(0, wanted)
    assert ownership.may_take(owner, wanted) is (owner == wanted)


@given(mode=modes, uid=ids, gid=ids, who=ids, groups=st.frozensets(ids), need=needs)
def test_exactly_one_class_of_bits_decides(  # noqa: PLR0917  # hypothesis gives them by name
    mode: int, uid: int, gid: int, who: int, groups: frozenset[int], need: int
) -> None:
    shift = 6 if who == uid else 3 if gid in groups else 0
    granted = ownership.permits(Access(uid=uid, gid=gid, mode=mode), who, groups, need)
    assert granted is ((mode >> shift) & need == need)


@given(mode=modes, need=needs)
def test_root_passes(mode: int, need: int) -> None:
    assert ownership.permits(Access(uid=1, gid=1, mode=mode), 0, (), need)


@given(acl=st.binary(max_size=60), need=needs)
def test_a_damaged_acl_crashes_nobody(acl: bytes, need: int) -> None:
    ownership.permits(Access(uid=1, gid=1, mode=0o700, acl=acl), 2, (2,), need)


def entries(*rows: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


@pytest.mark.parametrize(
    ("acl", "mode", "granted"),
    [
        (entries((0x02, 4, 7), (0x10, 7, 0)), 0o600, True),  # a named user
        (entries((0x02, 4, 7), (0x10, 0, 0)), 0o600, False),  # masked
        (entries((0x02, 0, 7), (0x10, 7, 0)), 0o644, False),  # named to be kept out
        (entries((0x08, 4, 70), (0x10, 7, 0)), 0o600, True),  # a named group
        (entries((0x04, 0, 0), (0x08, 4, 70), (0x10, 7, 0)), 0o600, True),  # any matching group grants
        (entries((0x04, 0, 0), (0x10, 7, 0)), 0o604, False),  # the owning group is kept out
        (entries((0x02, 0, 8), (0x10, 7, 0)), 0o604, True),  # nobody is meant: the bits of others
        (b"", 0o644, False),
        (b"\1\0\0\0", 0o644, False),
    ],
)
def test_acls_decide_as_acl5_has_it(acl: bytes, mode: int, granted: bool) -> None:
    access = Access(uid=1, gid=50, mode=mode, acl=acl)
    assert ownership.permits(access, 7, {50, 70}, READ) is granted


def test_the_first_obstacle_is_named() -> None:
    def at(path: str, mode: int) -> Directory:
        return Directory(path=path, access=Access(uid=1, gid=1, mode=mode))

    chain = (at("/", 0o755), at("/a", 0o700), at("/a/b", 0o700))
    assert ownership.first_obstacle(chain, at("/a/b/c", 0o644), 2, (), is_dir=False) == chain[1]
    assert ownership.first_obstacle(chain, at("/a/b/c", 0o600), 1, (), is_dir=False) is None
    assert ownership.first_obstacle(chain[:1], at("/a", 0o711), 2, (), is_dir=True) == at("/a", 0o711)
    assert ownership.first_obstacle(chain[:1], at("/a", 0o755), 2, (), is_dir=True) is None
