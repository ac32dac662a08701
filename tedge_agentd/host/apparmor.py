"""Which AppArmor profile confines the broker. Machines without AppArmor cost one failing open a pass."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tedge_agentd.core import apparmor

from . import files, opened

_MOST = 500  # files below /etc/apparmor.d that are looked through
_MOST_INCLUDED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the kernel and the administrator keep profiles."""

    loaded: str = "/sys/kernel/security/apparmor/profiles"
    policies: str = "/etc/apparmor.d"


class Confinement:
    """Finds the broker's profile among those that are loaded, and reads its text when that has changed.

    The process's own label (/proc/PID/attr/current) is hidden from the daemon by its sandbox. That a profile of the
    broker's name is enforced says the same of every broker that starts from now on.
    """

    def __init__(self, places: Places = Places()) -> None:  # frozen
        self._places = places
        self._seen: tuple[object, ...] = ()
        self._stamps: list[tuple[str, object]] = []
        self._profile: apparmor.Profile | None = None

    def profile(self, binary: str) -> apparmor.Profile | None:
        """Return the enforced profile of a program; None where nothing confines it."""
        try:
            with open(self._places.loaded, encoding="utf-8", errors="replace") as file:
                enforced = apparmor.enforced(file.read())
        except OSError:
            return None
        name = next((name for name in enforced if name in apparmor.names_for(binary)), None)
        if name is None:
            return None
        seen = (name, *(_stamp(path) for path in (self._places.policies, f"{self._places.policies}/local")))
        known = self._profile
        if seen != self._seen or known is None or any(_stamp(path) != at for path, at in self._stamps):
            self._profile, self._seen = self._read(name), seen
        return self._profile

    def _read(self, name: str) -> apparmor.Profile | None:
        self._stamps = []
        for path, text in self._texts():
            if apparmor.describes(text, name):
                named = f"local/{os.path.basename(path)}"
                local = f"{self._places.policies}/{named}" if named in apparmor.includes(text) else None
                return apparmor.Profile(name=name, file=path, texts=self._whole(path, text), local=local)
        return None

    def _whole(self, path: str, text: str) -> tuple[str, ...]:
        """Return a profile's text and all that it includes, and remember what those files looked like."""
        texts, waiting, seen = [text], list(apparmor.includes(text)), {path}
        self._stamps = [(path, _stamp(path))]
        while waiting and len(seen) < _MOST_INCLUDED:
            entry = os.path.join(self._places.policies, waiting.pop(0))
            if entry in seen:
                continue
            seen.add(entry)
            self._stamps.append((entry, _stamp(entry)))
            if os.path.isdir(entry):
                with contextlib.suppress(OSError):
                    waiting += [f"{entry}/{name}" for name in sorted(os.listdir(entry))]
            elif (included := self._text(entry)) is not None:
                texts.append(included)
                waiting += apparmor.includes(included)
        return tuple(texts)

    def _texts(self) -> Iterator[tuple[str, str]]:
        try:
            names = sorted(os.listdir(self._places.policies))[:_MOST]
        except OSError:
            return
        for name in names:
            path = f"{self._places.policies}/{name}"
            if (text := self._text(path)) is not None:
                yield path, text

    def _text(self, path: str) -> str | None:
        try:
            return files.read_limited(path).decode("utf-8", "replace")
        except (opened.Refused, OSError):
            return None


def _stamp(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
