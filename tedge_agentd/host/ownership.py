"""Put owner and mode of the files that tedge.toml names right, and take nothing else (contract 7)."""

import os
import stat
from collections.abc import Callable

from ..core import model, ownership
from ..core.shell import word
from . import opened as op
from . import pem, users, walk

PASSWORD_LIMIT = 64 << 10  # bytes; tedge reads its first line


def examine(rule: model.FileRule, roots: walk.Roots, people: users.Users) -> model.FileFacts:
    """Return what is at a rule's path and whether the rule may be applied to it. Changes nothing, raises no Refused.

    The content is looked at only where owner or mode would change, so a converged file costs a walk.
    """
    readers = _readers(rule, people)
    try:
        with walk.open_managed(rule.path, roots, rule.role) as opened:
            facts = _facts(rule, opened, readers)
            refusal = _refusal(rule, opened, people)
    except op.Refused as error:
        return _from_outside(rule, error, readers)
    return _with_problem(facts, refusal)


def fix(
    rule: model.FileRule, facts: model.FileFacts, mode: int, roots: walk.Roots, people: users.Users
) -> model.FileFacts:
    """Give the file the rule's owner and group and this mode; return what it is then.

    Every rule is checked again on the descriptor that is changed. Raises Refused where one does not hold, and Changed
    where the file is no longer what `facts` said: the plan was made for another one. A crash in the middle leaves a
    key closed to everybody but root or its new owner, and the next pass finishes.
    """
    with walk.open_managed(rule.path, roots, rule.role) as opened:
        now = _facts(rule, opened, ())
        if (now.real, now.uid, now.gid, now.mode) != (facts.real, facts.uid, facts.gid, facts.mode):
            raise op.Changed(rule.path, "changed since it was looked at", "tedge-agentd plan")
        refusal = _refusal(rule, opened, people)
        if refusal is not None:
            raise refusal
        wanted = _owner(rule, people)
        if wanted is None:
            raise op.NotRegular(rule.path, "is a CA, whose owner is never changed")
        take(opened, *wanted, mode)
    return examine(rule, roots, people)


def take(opened: op.Opened, uid: int, gid: int, mode: int) -> bool:
    """Set owner, group and mode of the opened inode; return whether anything had to change.

    What is right already is not touched: not even its ctime. A secret (no bits for group and others in `mode`) is
    closed before it changes hands. Raises ForeignOwner for a file that is neither root's nor already this user's.
    """
    found = os.fstat(opened.fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise op.Changed(opened.path, "is no longer a file with one link")
    if not ownership.may_take(found.st_uid, uid):
        raise _foreign(opened.path, f"uid {found.st_uid}")
    return _set(opened, uid, gid, mode)


def _set(opened: op.Opened, uid: int, gid: int, mode: int) -> bool:
    found = os.fstat(opened.fd)
    wanted = (uid, gid, mode)
    if _triple(found) == wanted:
        return False
    # fchown and fchmod refuse an O_PATH descriptor (EBADF); its name in /proc is the inode itself, not a symlink.
    path = f"/proc/self/fd/{opened.fd}"
    try:
        if not mode & 0o077 and stat.S_IMODE(found.st_mode) & ~(mode & 0o600):
            os.chmod(path, mode & 0o600)
        if (found.st_uid, found.st_gid) != (uid, gid):
            os.chown(path, uid, gid)
        if stat.S_IMODE(os.fstat(opened.fd).st_mode) != mode:
            os.chmod(path, mode)
    except OSError as error:
        reason = f"cannot be given to its reader: {error.strerror}"
        raise op.Unreachable(
            opened.path, reason, f"lsattr {word(opened.real)}; findmnt -T {word(opened.real)}"
        ) from error
    if _triple(os.fstat(opened.fd)) != wanted:
        raise op.Changed(opened.path, "was changed by somebody else at the same time")
    return True


def give_back(path: str, uid: int, gid: int, mode: int, roots: walk.Roots) -> None:
    """Give a file back to root, or let its owner keep it with another group or mode, as it was before.

    Raises Refused where the path no longer leads to a plain file below a managed root, and ForeignOwner where this
    would hand one user's file to another.
    """
    with walk.open_managed(path, roots, model.Role.BROKER) as opened:
        if opened.is_dir or uid not in (0, opened.access.uid):
            raise _foreign(path, f"uid {opened.access.uid}")
        _set(opened, uid, gid, mode & 0o777)


def _triple(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def _foreign(path: str, owner: str) -> op.ForeignOwner:
    reason = f"belongs to {owner}, neither to root nor to the user it is meant for, so it is not ours to take"
    return op.ForeignOwner(path, reason, f"chown root {word(path)}")


def _owner(rule: model.FileRule, people: users.Users) -> tuple[int, int] | None:
    """Return the uid and gid the rule asks for, None where it asks for none. Raises Missing for unknown names."""
    if rule.owner is None:
        return None
    account = people.account(rule.owner)
    if account is None:
        raise op.Missing(
            rule.path, f"is to be user {rule.owner}'s, who does not exist", f"getent passwd {rule.owner}"
        )
    gid = account.gid if rule.group is None else people.group(rule.group)
    if gid is None:
        raise op.Missing(
            rule.path, f"is to be group {rule.group}'s, which does not exist", f"getent group {rule.group}"
        )
    return account.uid, gid


def _readers(rule: model.FileRule, people: users.Users) -> tuple[users.Account, ...]:
    return tuple(account for name in rule.readers if (account := people.account(name)) is not None)


def _facts(rule: model.FileRule, opened: op.Opened, readers: tuple[users.Account, ...]) -> model.FileFacts:
    return model.FileFacts(
        path=rule.path,
        real=opened.real,
        exists=True,
        uid=opened.access.uid,
        gid=opened.access.gid,
        mode=opened.access.mode,
        readable_by=frozenset(account.name for account in readers if op.readable(opened, account)),
    )


def _with_problem(facts: model.FileFacts, refusal: op.Refused | None) -> model.FileFacts:
    if refusal is None:
        return facts
    return model.FileFacts(
        path=facts.path,
        real=facts.real,
        exists=facts.exists,
        uid=facts.uid,
        gid=facts.gid,
        mode=facts.mode,
        problem=refusal.reason,
        remedy=refusal.remedy,
        readable_by=facts.readable_by,
    )


def _refusal(rule: model.FileRule, opened: op.Opened, people: users.Users) -> op.Refused | None:
    """Return why the rule may not be applied to what was reached, None if it may or if there is nothing to do."""
    try:
        wanted = _owner(rule, people)
        if wanted is None:
            return None
        if opened.is_dir:
            raise op.NotRegular(rule.path, "is a directory, not a file", f"tedge config set {rule.key} FILE")
        if not ownership.may_take(opened.access.uid, wanted[0]):
            raise _foreign(rule.path, people.name(opened.access.uid))
        if (*wanted, ownership.wanted_mode(rule.kind, opened.access.mode)) != _triple(opened.stat):
            _CONTENT[rule.kind](rule.path, opened)
    except op.Refused as refusal:
        return refusal
    return None


def _from_outside(rule: model.FileRule, refusal: op.Refused, readers: tuple[users.Account, ...]) -> model.FileFacts:
    """Return the facts of a file that is not taken, as far as its readers could find them out themselves."""
    facts = model.FileFacts(path=rule.path, real=rule.path, exists=not isinstance(refusal, op.Missing))
    for account in readers:
        try:
            with walk.open_outside(rule.path, account) as opened:
                facts = _facts(rule, opened, readers)
                break
        except op.Missing:
            facts = model.FileFacts(path=rule.path, real=rule.path, exists=False)
        except op.Refused:
            continue
    if rule.owner is None and facts.readable_by:  # a CA may lie anywhere
        return facts
    return _with_problem(facts, refusal)


# What a file must hold to be taken --------------------------------------------------------------------------


def _certificate_content(path: str, opened: op.Opened) -> None:
    data = op.read(opened)
    if not pem.certificates(data):
        raise op.WrongContent(
            path, "holds no certificate in PEM, so its owner is left alone", f"head -1 {word(path)}"
        )
    if pem.keys(data):
        remedy = f"keep the key in a file of its own, or name {path} as the key file too"
        raise op.WrongContent(path, "holds a private key beside the certificate; 0644 would publish it", remedy)


def _key_content(path: str, opened: op.Opened) -> None:
    if not pem.keys(op.read(opened)):
        raise op.WrongContent(
            path, "holds no private key in PEM, so its owner is left alone", f"head -1 {word(path)}"
        )


def _password_content(path: str, opened: op.Opened) -> None:
    data = op.read(opened, PASSWORD_LIMIT)
    if b"\0" in data:
        raise op.WrongContent(path, "holds binary data, not a password", "write the password into its first line")


def _ca_content(path: str, opened: op.Opened) -> None:
    """A CA is never taken."""


_CONTENT: dict[model.FileKind, Callable[[str, op.Opened], None]] = {
    model.FileKind.CERTIFICATE: _certificate_content,
    model.FileKind.KEY: _key_content,
    model.FileKind.PASSWORD: _password_content,
    model.FileKind.CA: _ca_content,
}
