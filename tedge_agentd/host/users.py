"""Names to numbers: the accounts files belong to, as this machine knows them now."""

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user with every group its processes have, the primary one included."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]


class Users(Protocol):
    """Who is who. None: there is no such name (yet: its package may still be on its way)."""

    def account(self, name: str) -> Account | None: ...

    def group(self, name: str) -> int | None: ...

    def name(self, uid: int) -> str: ...


class SystemUsers:
    """The machine's own users, each looked up once: make one for each pass."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account | None] = {}
        self._groups: dict[str, int | None] = {}

    def account(self, name: str) -> Account | None:
        if name not in self._accounts:
            self._accounts[name] = _account(name)
        return self._accounts[name]

    def group(self, name: str) -> int | None:
        if name not in self._groups:
            try:
                self._groups[name] = grp.getgrnam(name).gr_gid
            except (KeyError, ValueError):  # ValueError: a NUL in the name
                self._groups[name] = None
        return self._groups[name]

    def name(self, uid: int) -> str:
        """What to call a uid in a sentence."""
        try:
            return f"user {pwd.getpwuid(uid).pw_name}"
        except KeyError:
            return f"uid {uid}"


def _account(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None
    groups = frozenset(os.getgrouplist(name, entry.pw_gid))
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedUsers:
    """Users given as data, for tests and for machines described on paper."""

    accounts: Mapping[str, Account] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)

    def account(self, name: str) -> Account | None:
        return self.accounts.get(name)

    def group(self, name: str) -> int | None:
        return self.groups.get(name)

    def name(self, uid: int) -> str:
        return next((f"user {a.name}" for a in self.accounts.values() if a.uid == uid), f"uid {uid}")
