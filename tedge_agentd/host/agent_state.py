"""What tedge-agent has written down about the operations it carries out."""

import os
import stat
from collections.abc import Iterator

from tedge_agentd.core import deferral

from . import opened, users, walk

# Beside <tedge dir>/.agent, which is used where this cannot be written (facts/thin-edge.md 5).
DATA = "/data/tedge/agent"
_CURRENT = "-current-operation"  # software-, restart-; empty while there is none
_WORKFLOWS = "workflows"
_MOST = 64  # files of one directory


def under_way(directories: tuple[str, ...], account: users.Account) -> tuple[str, ...]:
    """Return the names of the operations that have begun and not ended, read as the user they belong to.

    User tedge may make anything of these names; what is not a plain file that it could read itself says nothing.
    """
    found: list[str] = []
    for directory in directories:
        for path in _files(directory):
            found += _named(path, account)
    return tuple(dict.fromkeys(found))


def _files(directory: str) -> Iterator[str]:
    """The state files: `software-current-operation` and the like, `workflows`, or the files below it."""
    for name in _names(directory):
        path = f"{directory}/{name}"
        if name.endswith(_CURRENT):
            yield path
        elif name == _WORKFLOWS:
            if _is_directory(path):
                yield from (f"{path}/{entry}" for entry in _names(path))
            else:
                yield path


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))[:_MOST]
    except OSError:
        return []


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _named(path: str, account: users.Account) -> list[str]:
    try:
        with walk.open_outside(path, account) as source:
            data = opened.read(source)
    except (opened.Refused, OSError):
        return []
    name = path.rpartition("/")[2]
    if name.endswith(_CURRENT):
        return [name.removesuffix(_CURRENT)] if data.strip() else []
    return [deferral.operation_name(topic) for topic in deferral.operations_in(data)]
