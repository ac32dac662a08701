"""Which directories have to be watched, and for which names, to notice a change of what some paths lead to."""

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator

_MAX_SYMLINKS = 40  # as the kernel (path_resolution(7))

Names = frozenset[str] | None  # None: every entry matters


def wanted(paths: Iterable[str]) -> dict[str, Names]:
    """Return the directories to watch for these paths, free of symlinks, with the names that matter in each.

    Each directory's own name in its parent is among them: that is how its replacement and its chmod are seen.
    """
    directories: dict[str, Names] = {}
    for directory, name in {entry for path in paths for entry in _trail(path)}:
        _add(directories, directory, name)
    for directory in list(directories):
        if directory != "/":
            _add(directories, os.path.dirname(directory), os.path.basename(directory))
    return directories


def covers(seen: Names, names: Names) -> bool:
    """Whether a watch for `seen` tells of every change to `names`."""
    return seen is None or (names is not None and names <= seen)


def _add(directories: dict[str, Names], directory: str, name: str | None) -> None:
    known = directories.get(directory, frozenset())
    directories[directory] = None if known is None or name is None else known | {name}


def _trail(path: str) -> Iterator[tuple[str, str | None]]:
    """Yield (directory, name) of what decides where a path leads: each symlink, the first missing entry, the end.

    A directory at the end is also yielded as (directory, None). Pairs hold real directories only.
    """
    here, rest, links = "/", deque(_names(path)), 0
    while rest:
        name = rest.popleft()
        if name == "..":
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, name)
        try:
            mode = os.lstat(entry).st_mode
            target = os.readlink(entry) if stat.S_ISLNK(mode) else ""
        except (OSError, ValueError):  # missing, too long, a NUL from tedge.toml; or not ours to see
            yield here, name
            return
        if stat.S_ISDIR(mode):
            here = entry
            continue
        yield here, name
        links += 1
        if not target or links > _MAX_SYMLINKS:  # a file, whether or not the path asks for more; or a loop
            return
        here = "/" if target.startswith("/") else here
        rest.extendleft(reversed(_names(target)))
    yield os.path.dirname(here), os.path.basename(here)
    yield here, None


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]
