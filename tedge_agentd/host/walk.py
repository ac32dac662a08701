"""The safe walk: reach the file a setting names, as root, without being led anywhere else.

Whoever may write tedge.toml, or a directory on the way, chooses the path and may swap names while we walk. So a path
is walked from "/" one component at a time, each opened with O_PATH|O_NOFOLLOW relative to the descriptor of the one
before it, and everything later happens to the descriptor that was checked. What openat2(2) would add is atomic
handling of `..` and of symlinks inside one call; below a root this walk takes neither, and elsewhere it reads the
symlink from its own descriptor, so it needs no system call that Python has no name for. facts/platform.md C.3 has the
CVEs that come of chown without it.
"""

import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from ..core import model
from ..core.shell import word
from .opened import (
    Changed,
    HardLinked,
    Missing,
    NotRegular,
    Opened,
    OutsideRoots,
    Refused,
    Symlinked,
    Unreadable,
    WritableParent,
    kind_name,
    obstacle,
)
from .trail import Entry, Trail, split
from .users import Account

FINAL_HOPS = 4  # a symlink to a symlink: certbot and /etc/alternatives need two
TRUSTED_HOPS = 8
OUTSIDE_HOPS = 40  # as the kernel, path_resolution(7)
MOVE = "move it below a managed root, or add its directory to managed_roots in /etc/tedge-agentd/config.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Below which directories files are read and taken as root.

    Files of the clients are never taken below the broker's configuration directory: user tedge writes tedge.toml, and
    a root-owned key below /etc/mosquitto must not become tedge's because tedge.toml names it.
    """

    managed: tuple[str, ...] = ("/etc/tedge", "/etc/mosquitto")
    broker_dir: str = "/etc/mosquitto"

    def forbidden(self, role: model.Role) -> tuple[str, ...]:
        return (self.broker_dir,) if role is model.Role.CLIENT else ()


# Below the managed roots ------------------------------------------------------------------------------------


def open_managed(path: str, roots: Roots, role: model.Role) -> Opened:
    """Open the file or directory below a managed root that `path` names, or raise the Refused that says why not.

    A root may be reached through symlinks that only root could have made (/etc/tedge -> /data/tedge); below it no
    directory is a symlink. The last component may be one: its target passes the same rules, walked again from its
    root. A file has one link; no directory on the way is writable by everybody without the sticky bit.
    """
    target = path
    for _ in range(FINAL_HOPS + 1):
        found = _walk_managed(path, target, roots, role)
        if isinstance(found, Opened):
            try:
                _check(found)
            except Refused:
                found.close()
                raise
            return found
        target = found
    raise Symlinked(path, f"goes through more than {FINAL_HOPS} symlinks", f"namei -l {word(path)}")


def _walk_managed(path: str, target: str, roots: Roots, role: model.Role) -> Opened | str:
    """Walk one path without following its last component; return what is there, or where a symlink there points."""
    parts = split(path, target)
    if ".." in parts:
        raise OutsideRoots(path, f"contains `..` ({target})", "write the path without it")
    root = _root_of(parts, roots.managed)
    if root is None:
        raise OutsideRoots(path, f"is outside of the managed roots ({', '.join(roots.managed)})", MOVE)
    with closing(Trail(path)) as trail:
        _walk_trusted(trail, root)
        last: Entry | None = None
        for position, name in enumerate(parts[len(root) :], start=len(root) + 1):
            entry = trail.step(name)
            if entry.is_dir:
                trail.enter(entry)
            elif position == len(parts):
                last = entry
            elif entry.is_symlink:
                raise Symlinked(
                    path,
                    f"{entry.path} is a symlink to a directory, which is not followed",
                    f"ls -l {word(entry.path)}",
                )
            else:
                raise Missing(path, f"does not exist: {entry.path} is {kind_name(entry.status.st_mode)}")
        if last is not None and last.is_symlink:
            return _final_target(path, last, trail.here)
        opened = trail.finish(last)
        if last is not None and opened.stat.st_nlink == 1 and not trail.is_its_only_link(opened):
            opened.close()
            raise Changed(path, "was moved or linked while it was looked at", f"ls -li {word(path)}")
    if _root_of(split(path, opened.real), roots.forbidden(role)) is not None:
        opened.close()
        raise OutsideRoots(
            path, f"is the broker's ({opened.real}), not for the clients", "use a copy below /etc/tedge"
        )
    return opened


def _final_target(path: str, link: Entry, directory: str) -> str:
    """Return the absolute path a symlink names. Leading `..` climb from the real directory, which has no symlink."""
    text = link.link()
    if text.startswith("/"):
        return text
    base = split(path, directory)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        parts.pop(0)
        base = base[:-1]
    return "/" + "/".join((*base, *parts))


def _root_of(parts: Sequence[str], roots: Sequence[str]) -> tuple[str, ...] | None:
    """Return the root, as written or as it really lies, that these components start with."""
    for root in roots:
        written = split(root, root)
        if tuple(parts[: len(written)]) == written:
            return written
    for root in roots:
        try:
            with trusted_directory(root) as opened:
                real = split(root, opened.real)
        except Refused:
            continue
        if tuple(parts[: len(real)]) == real:
            return real
    return None


def _check(opened: Opened) -> None:
    if not opened.is_dir:
        if not stat.S_ISREG(opened.stat.st_mode):
            raise NotRegular(
                opened.path, f"is {kind_name(opened.stat.st_mode)}, not a file", f"ls -l {word(opened.path)}"
            )
        if opened.stat.st_nlink != 1:
            reason = f"has {opened.stat.st_nlink} hard links, of which others may be somebody else's"
            real = opened.real
            raise HardLinked(opened.path, reason, f"cp -p {real} {real}.new && mv {real}.new {real}")
    for directory in opened.chain:
        if directory.access.mode & 0o1002 == 0o0002:
            reason = f"lies below {directory.path}, where everybody may swap files"
            raise WritableParent(opened.path, reason, f"chmod o-w {word(directory.path)}")


# Directories that root trusts -------------------------------------------------------------------------------


@contextmanager
def trusted_directory(path: str) -> Iterator[Opened]:
    """Open a directory to work in. Symlinks on the way count only where root alone could have made them.

    The directory itself may be another user's (thin-edge's mosquitto-conf is): names in it may be swapped at any
    time, so the caller works with `dir_fd` and descriptors alone.
    """
    with closing(Trail(path)) as trail:
        _walk_trusted(trail, split(path, path))
        opened = trail.finish()
    with opened:
        yield opened


def _walk_trusted(trail: Trail, parts: Sequence[str]) -> None:
    todo = list(reversed(parts))
    hops = 0
    while todo:
        name = todo.pop()
        if name == "..":
            trail.up()
            continue
        entry = trail.step(name)
        if entry.is_dir:
            trail.enter(entry)
            continue
        if not entry.is_symlink:
            raise NotRegular(trail.asked, f"{entry.path} is {kind_name(entry.status.st_mode)}, not a directory")
        hops += 1
        if hops > TRUSTED_HOPS or entry.status.st_uid != 0 or not trail.is_roots_alone:
            reason = f"{entry.path} is a symlink that others than root could have made"
            raise Symlinked(trail.asked, reason, f"namei -l {word(trail.asked)}")
        todo += trail.follow(entry)


# Anywhere else ----------------------------------------------------------------------------------------------


def open_outside(path: str, reader: Account) -> Opened:
    """Open, for reading alone, what the reader could open itself: then root's reading gives nobody anything.

    Symlinks are followed anywhere, by hand: each directory must be searchable for the reader before a name is looked
    up in it, so that not even the existence of a file leaks. Raises Unreadable where the reader is stopped.
    """
    todo = list(reversed(split(path, path)))
    hops = 0
    with closing(Trail(path)) as trail:
        last: Entry | None = None
        while todo and last is None:
            if not trail.searchable(reader):
                raise Unreadable(path, f"cannot be reached by user {reader.name}: {trail.here} is closed to it", MOVE)
            name = todo.pop()
            if name == "..":
                trail.up()
                continue
            entry = trail.step(name)
            if entry.is_dir:
                trail.enter(entry)
            elif not entry.is_symlink:
                last = entry
            else:
                hops += 1
                if hops > OUTSIDE_HOPS:
                    raise Symlinked(path, "goes through too many symlinks", f"namei -l {word(path)}")
                todo += trail.follow(entry)
        if todo and last is not None:
            raise Missing(path, f"does not exist: {last.path} is {kind_name(last.status.st_mode)}")
        opened = trail.finish(last)
    try:
        if not opened.is_dir and not stat.S_ISREG(opened.stat.st_mode):
            raise NotRegular(path, f"is {kind_name(opened.stat.st_mode)}, not a file", f"ls -l {word(path)}")
        if (stop := obstacle(opened, reader)) is not None:
            raise Unreadable(path, f"cannot be read by user {reader.name}: {stop.path} is closed to it", MOVE)
    except Refused:
        opened.close()
        raise
    return opened


def open_source(path: str, roots: Roots, role: model.Role, reader: Account) -> Opened:
    """Open what may be read on the reader's behalf: by the rules of the managed roots, or because it could itself.

    The error is that of the managed roots where the path lies below one, else the reader's.
    """
    try:
        return open_managed(path, roots, role)
    except (Missing, NotRegular):
        raise
    except Refused as refusal:
        try:
            return open_outside(path, reader)
        except Refused:
            if isinstance(refusal, OutsideRoots):
                raise
        raise
