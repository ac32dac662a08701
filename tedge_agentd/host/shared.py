"""Read as root, where a less trusted user may put names, nothing that this user only points at.

/etc/tedge and thin-edge's directory of broker configuration are user tedge's. A symlink from there to /etc/shadow, or
with protected_hardlinks off a hard link, must not have its lines told in a finding, or written to a listener file.
"""

import grp
import os
import pwd

from ..core import model
from . import files, opened, users, walk

NOBODY = 65534


def writer(path: str) -> users.Account | None:
    """Return who besides root decides what a path leads to; None where root alone does.

    The last directory on the way that is not root's alone counts. Where it is a group that may write, that is uid
    NOBODY with this group. Raises Refused: the directory cannot be reached, or only by a symlink that is not root's.
    """
    with walk.trusted_directory(os.path.dirname(path)) as parent:
        for directory in reversed(parent.chain):
            access = directory.access
            if access.uid != 0:
                return _account(access.uid, access.gid)
            if access.mode & 0o002:
                return users.Account(name="nobody", uid=NOBODY, gid=NOBODY, groups=frozenset())
            if access.mode & 0o020 and (access.gid != 0 or access.acl is not None):
                return users.Account(
                    name=_group_name(access.gid), uid=NOBODY, gid=access.gid, groups=frozenset({access.gid})
                )
    return None


def read(path: str, roots: walk.Roots) -> bytes:
    """Return the bytes of a file that lies there itself, or that who may write there could read too.

    Lies there: a regular file whose only link was walked to, below a managed root. Never blocks. Raises Refused.
    """
    who = writer(path)
    if who is None:
        return files.read_limited(path)
    try:
        with walk.open_managed(path, roots, model.Role.CA) as source:
            if source.real == os.path.normpath(path) or opened.readable(source, who):
                return opened.read(source)
    except opened.Missing:
        raise
    except opened.Refused:
        pass
    with walk.open_outside(path, who) as source:
        return opened.read(source)


def _account(uid: int, gid: int) -> users.Account:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return users.Account(name=f"uid {uid}", uid=uid, gid=gid, groups=frozenset({gid}))
    found = users.SystemUsers().account(name)
    assert found is not None
    return found


def _group_name(gid: int) -> str:
    try:
        return f"of group {grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"of group {gid}"
