"""Say "look again" when something that a pass reads may have changed, and remember nothing else.

Built on the inotify emitters of the watchdog library, without its observer: an emitter is two threads around one
inotify instance, and the observer would add a third thread, an unbounded queue, and watches that cannot be scheduled
again once their directory was replaced (facts/platform.md D.4).

What no event tells, and the periodic full pass must therefore cover:
- an overflow of the kernel's queue, which the library drops silently (watchdog #654);
- a mount over a watched directory, and a directory renamed two or more levels above what was named;
- a hard link made to a file, and a file written through one, through mmap, or by another machine (NFS, 9p, FUSE);
- what lies below a subdirectory, or behind a symlink inside a directory, that was not named itself.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from . import watch_emitter, watch_paths
from .watch_paths import Names

Identity = tuple[int, int]  # st_dev, st_ino


class Watch:
    """Wakes its owner on the first change to what `set_paths` named since the last `take`.

    The owner calls `check`, then `take`, then reads the world, and calls `set_paths` when it has learnt what matters.
    `wake` is called from other threads, once per transition from clean to dirty, whatever the number of events; it
    must not block. All other methods belong to one thread. No error of the system escapes: what cannot be watched is
    compared at each `check`, and named by `problems`.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._dirty = False
        self._closed = False
        self._paths: frozenset[str] = frozenset()
        self._armed: dict[str, _Armed] = {}
        self._polled: dict[str, _Polled] = {}
        self._probe = watch_emitter.Probe()

    def set_paths(self, paths: Iterable[str]) -> bool:
        """Watch these files and directories: absolute paths, existing or not. Returns as `check` does.

        A file is watched through its directory, by name; of a directory every entry matters, but nothing below them.
        Symlinks are watched at each link and at the target, missing paths at the nearest existing parent.
        """
        self._paths = frozenset(path for path in paths if path.startswith("/"))
        return self.check()

    def check(self) -> bool:
        """Arm what appeared, was replaced or lost its watch; compare what cannot be watched.

        Returns True, and counts as a change, if anything differs or was armed: nobody saw what happened there before.
        """
        changed = self._reconcile(watch_paths.wanted(self._paths))
        for directory, polled in self._polled.items():
            stamp = _stamp(directory, polled.names)
            changed |= stamp != polled.stamp
            polled.stamp = stamp
        if changed:
            self._mark()
        return changed

    def take(self) -> bool:
        """Return whether anything changed since the last call, and start afresh."""
        with self._lock:
            dirty, self._dirty = self._dirty, False
        return dirty

    def problems(self) -> tuple[str, ...]:
        """Say which directories are only compared at each `check`, why, and what mends it. Empty when all is well."""
        return tuple(self._polled[directory].problem for directory in sorted(self._polled))

    def close(self) -> None:
        """Stop all threads. `wake` is not called any more."""
        with self._lock:
            self._closed = True
        while self._armed:
            self._armed.popitem()[1].emitter.end()
        self._probe.close()
        self._polled.clear()
        self._paths = frozenset()

    def _mark(self) -> None:
        with self._lock:
            if self._dirty or self._closed:
                return
            self._dirty = True
        self._wake()

    def _reconcile(self, wanted: Mapping[str, Names]) -> bool:
        """Bring the watches in line; return whether more is seen than before."""
        for directory in self._polled.keys() - wanted.keys():
            del self._polled[directory]
        for directory in list(self._armed):
            if directory not in wanted or not self._armed[directory].sound(directory):
                self._armed.pop(directory).emitter.end()
        grown = False
        for directory, names in wanted.items():
            armed = self._armed.get(directory)
            if armed is None:
                grown |= self._arm(directory, names)
            else:
                grown |= not watch_paths.covers(armed.emitter.names, names)
                armed.emitter.names = names
        return grown

    def _arm(self, directory: str, names: Names) -> bool:
        """Watch a directory by events, else by comparing; return whether the next `check` has to look again.

        It has to after arming too: what appeared in between may lead on to further directories.
        """
        identity = _identity(directory)
        emitter = watch_emitter.Emitter(directory, names, self._mark)
        failure: Exception | None = None
        try:
            self._probe.ask(directory)
            emitter.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread to be had
            failure = error
        if identity is None or identity != _identity(directory):
            emitter.end()
            return True  # gone or replaced since the paths were resolved
        if failure is not None:
            emitter.end()
            polled = self._polled.setdefault(directory, _Polled())
            polled.names, polled.problem = names, watch_emitter.problem(directory, failure)
            return False
        self._polled.pop(directory, None)
        self._armed[directory] = _Armed(emitter=emitter, identity=identity)
        return True


@dataclass(slots=True, kw_only=True)
class _Armed:
    """A directory that is watched by events."""

    emitter: watch_emitter.Emitter
    identity: Identity

    def sound(self, directory: str) -> bool:
        """Whether it still watches what the path leads to (no event tells that a directory was moved away)."""
        return self.emitter.works() and self.identity == _identity(directory)


@dataclass(slots=True, kw_only=True)
class _Polled:
    """A directory that is compared instead."""

    names: Names = None
    problem: str = ""
    stamp: int | None = None


def _identity(directory: str) -> Identity | None:
    try:
        status = os.lstat(directory)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _stamp(directory: str, names: Names) -> int:
    """Return a number that differs when an entry changed.

    The ctime moves with contents, owner and mode alike, but only in steps of some milliseconds.
    """
    try:
        found = os.listdir(directory) if names is None else names
    except OSError:
        found = []
    return hash(tuple((name, _looks(os.path.join(directory, name))) for name in sorted(found)))


def _looks(path: str) -> tuple[int, ...]:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return ()
    return (found.st_ino, found.st_ctime_ns, found.st_size, found.st_mode, found.st_uid, found.st_gid)
