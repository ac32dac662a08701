"""Whose a file may become, with which mode, and who can read it: decisions on numbers alone (contract 7)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from . import model

READ = 0o4
SEARCH = 0o1


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Owner, group, permission bits and POSIX ACL (as the kernel stores it, None: there is none) of one inode."""

    uid: int
    gid: int
    mode: int
    acl: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """One directory that was passed on the way to a file."""

    path: str
    access: Access


def wanted_mode(kind: model.FileKind, current_mode: int) -> int:
    """Return the permission bits a file of this kind is to have, given those it has.

    Keys and passwords lose every bit of group and others and keep an owner's wish for read-only (0600 or 0400;
    thin-edge makes its device key 0400). A certificate is public: 0644. A CA is never changed.
    """
    match kind:
        case model.FileKind.KEY | model.FileKind.PASSWORD:
            return (current_mode & 0o200) | 0o400
        case model.FileKind.CERTIFICATE:
            return 0o644
        case model.FileKind.CA:
            return current_mode


def may_take(owner_uid: int, wanted_uid: int) -> bool:
    """Whether a file of this owner may become `wanted_uid`'s: root's may, and what is already theirs."""
    return owner_uid in (0, wanted_uid)


def permits(access: Access, uid: int, groups: Iterable[int], need: int) -> bool:
    """Whether the kernel grants `need` (READ, SEARCH or both) to a process of this user, as acl(5) decides it.

    The first class that matches decides, even when a later one would grant more. Root passes: it searches and reads
    everything.
    """
    if uid == 0:
        return True
    if uid == access.uid:
        return access.mode >> 6 & need == need
    members = frozenset(groups)
    if access.acl is not None:
        return _acl_permits(access, uid, members, need)
    return access.mode >> (3 if access.gid in members else 0) & need == need


_USER, _GROUP_OBJ, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10  # linux/posix_acl.h


def _acl_permits(access: Access, uid: int, groups: frozenset[int], need: int) -> bool:
    """acl(5), for one who is not the owner. What is not an ACL of version 2 grants nothing."""
    acl = access.acl or b""
    if len(acl) < 4 or len(acl) % 8 != 4 or struct.unpack_from("<I", acl) != (2,):
        return False
    entries: list[tuple[int, int, int]] = list(struct.iter_unpack("<HHI", acl[4:]))
    mask = next((perm for tag, perm, _ in entries if tag == _MASK), 0o7)
    for tag, perm, who in entries:
        if tag == _USER and who == uid:
            return perm & mask & need == need
    of_groups = [
        perm
        for tag, perm, who in entries
        if (tag == _GROUP_OBJ and access.gid in groups) or (tag == _GROUP and who in groups)
    ]
    if of_groups:
        return any(perm & mask & need == need for perm in of_groups)
    return access.mode & need == need


def first_obstacle(
    chain: Iterable[Directory], last: Directory, uid: int, groups: Iterable[int], *, is_dir: bool
) -> Directory | None:
    """Return what keeps this user from reading `last` (a directory: from listing it), None if nothing does."""
    members = frozenset(groups)
    for directory in chain:
        if not permits(directory.access, uid, members, SEARCH):
            return directory
    return None if permits(last.access, uid, members, READ | SEARCH if is_dir else READ) else last
