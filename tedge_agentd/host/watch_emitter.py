"""One watched directory: an emitter of the watchdog library, kept from doing what a daemon cannot live with.

Read with watchdog 2.2.1 and 6.0.0, which differ in little but their types.
"""

# mypy: allow-untyped-calls, no-warn-return-any

import contextlib
import ctypes
import errno
import inspect
import logging
import math
import os
import threading
from collections.abc import Callable
from typing import Any

from watchdog import events
from watchdog.observers.api import EventQueue, ObservedWatch
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_buffer import InotifyBuffer

from .watch_paths import Names

# The library holds a move out of a directory back for 0.5 s, and all events behind it, to pair it with a move into
# one; and if the clock is set back meanwhile, for as long as that. Paired or not, a move is "look again" to us.
InotifyBuffer.delay = -math.inf

# watchdog 6 logs an error when an emitter is stopped at the wrong moment. That is ours to judge, not the journal's.
logging.getLogger("watchdog").addHandler(logging.NullHandler())

# Where the library takes a filter (4.0 and later), these classes leave IN_OPEN and IN_CLOSE_NOWRITE out of the
# kernel's mask: a directory such as /etc/ssl/certs is read all the time. Modified stands for writes, truncate(2),
# chmod and chown.
_CHANGES = [events.FileCreatedEvent, events.FileDeletedEvent, events.FileModifiedEvent, events.FileClosedEvent]
_READS = frozenset({"opened", "closed_no_write"})  # reported from 2.3 and 4.0 on; our own reads must not wake us
_OPTIONS: dict[str, Any] = (
    {"event_filter": _CHANGES} if "event_filter" in inspect.signature(InotifyEmitter).parameters else {}
)


class Emitter(InotifyEmitter):
    """Calls `changed`, from its own thread, when one of the names in a directory changes; None: any entry.

    With names, the events about the directory itself are left out: the library invents one after each event about an
    entry, in the same words it has for a real chmod or chown of the directory. Those are seen in the parent, which is
    watched for the directory's name.
    """

    def __init__(self, directory: str, names: Names, changed: Callable[[], None]) -> None:
        super().__init__(EventQueue(), ObservedWatch(directory, recursive=False), **_OPTIONS)
        self.names = names
        self._changed = changed
        self._ending = threading.Lock()

    def queue_event(self, event: events.FileSystemEvent) -> None:
        """Take an event from the library, in place of its queue."""
        if event.event_type in _READS:
            return
        if event.event_type in {"moved", "deleted"}:
            with contextlib.suppress(AttributeError):  # the library keeps every move for ever, 2.2.1 to 6.0.0
                self._reader()._inotify.clear_move_records()
        if self.names is None or self._concerns(event, self.names):
            self._changed()

    def _concerns(self, event: events.FileSystemEvent, names: frozenset[str]) -> bool:
        if event.src_path == self.watch.path:
            return event.event_type == "deleted"
        paths = (event.src_path, getattr(event, "dest_path", ""))
        return any(str(path).rpartition("/")[2] in names for path in paths)

    def run(self) -> None:
        """Run until stopped. An error before that counts as a change, so that somebody looks and re-arms."""
        try:
            super().run()
        except Exception:  # 2.2.1 trips over its own missing reader when it is stopped
            if self.should_keep_running():
                self._changed()

    def works(self) -> bool:
        """Whether both threads live: the library goes on without the one that reads the kernel's queue."""
        reader = self._reader()
        return self.is_alive() and reader is not None and reader.is_alive()

    def _reader(self) -> Any:
        return self._inotify

    def stop(self) -> None:
        """Stop once: the library stops an emitter itself when its directory is deleted, and closing the same
        descriptor number twice may hit somebody else's file."""
        if self._ending.acquire(blocking=False):
            super().stop()

    def start(self) -> None:
        """Watch from now on, or raise OSError or (no thread to be had) RuntimeError; `end` cleans up in any case."""
        super().start()

    def end(self) -> None:
        """Stop, and wait for the threads; also after a start that failed half way."""
        self.stop()
        with contextlib.suppress(RuntimeError):  # never started
            self.join()


class Probe:
    """Tells beforehand whether a watch can be had.

    The library leaks a descriptor, and with it one of the user's inotify instances, each time it fails to add a
    watch (2.2.1 to 6.0.0); and it takes EACCES for success and sees nothing ever after. One instance is kept for the
    question, since the kernel takes 10 ms to close one.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1

    def ask(self, directory: str) -> None:
        """Raise OSError if a watch cannot be had now."""
        if self._descriptor < 0:
            self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "no inotify instance")
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _IN_DELETE_SELF)
        if watch < 0:
            raise OSError(ctypes.get_errno(), "no inotify watch")
        self._libc.inotify_rm_watch(self._descriptor, watch)
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 4096)  # IN_IGNORED, of the watch just removed

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_IN_DELETE_SELF = 0x400
_REMEDIES = {
    errno.EMFILE: "raise fs.inotify.max_user_instances with sysctl, or LimitNOFILE of the unit",
    errno.ENOSPC: "raise fs.inotify.max_user_watches with sysctl",
    errno.EACCES: "let the daemon read the directory",
}


def problem(directory: str, error: Exception) -> str:
    """Say that a directory is not watched, why, and what mends it."""
    number = getattr(error, "errno", None) or 0
    reason = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if number else str(error)
    remedy = _REMEDIES.get(number, "see what the machine is short of")
    return f"{directory} is not watched, only compared now and then: {reason}; {remedy}, it is tried again by itself"
