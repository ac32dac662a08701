"""The daemon's part in the local PKI: to look at start, hourly, when a renewal falls due, and when the clock was set.

What it writes are ordinary changes of watched files, which the next pass applies: by a reload, nobody disconnected.
"""

import os
import time
from collections.abc import Callable, Mapping

from . import settings
from .core import desired, model

EVERY_S = 3600.0  # core.pki renews in time for a look a day
SYNCHRONIZED_S = 60.0  # systemd-timesyncd sets the clock first, and says so a moment later
WORKER_S = 45.0  # for one key, below the service's WatchdogSec=; RSA-3072 takes some 20 s on a 600 MHz ARM11


class Renewal:
    """Looks after the local PKI, if there is one. Nothing of it is imported on a gateway without."""

    def __init__(
        self, state_dir: str, log: Callable[[str, str, str], None], *, progress: Callable[[], None] = lambda: None
    ) -> None:
        self._state_dir = state_dir
        self._log = log  # path, reason, end as a date to read
        self._progress = progress  # before each key that is made, for the watchdog
        self._next = 0.0
        self._moment = float("inf")  # of the next renewal, in seconds since the epoch
        self._clock_set = False
        self._names: tuple[str, ...] | None = None
        self._known: tuple[object, Mapping[str, str]] = (None, {})
        self.findings: tuple[model.Finding, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there is a local PKI."""
        return os.path.isdir(f"{self._state_dir}/pki")

    def due(self) -> float:
        """The next moment to look, in seconds of CLOCK_MONOTONIC. A clock that is set forward brings it nearer."""
        return min(self._next, time.monotonic() + self._moment - time.time())

    def clock_was_set(self) -> None:
        """Look at once, and again when it is known whether it was a time server that set it."""
        self._next = 0.0
        self._clock_set = True

    def reached_as(self, external: desired.External | None) -> None:
        """Take note of where the listener is; a server certificate that lacks its address is renewed soon."""
        if external is None or external.cert is None or not self.exists:
            return
        from .host import network  # noqa: PLC0415

        names = (os.uname().nodename, *network.reached_at(external.address, external.interface))
        if names != self._names:
            self._names = names
            self._next = 0.0

    def look(self, options: settings.Settings) -> bool:
        """Renew what is due; return whether anything was renewed or the findings changed. Raises nothing.

        What could not be renewed is tried again in an hour: a worker that fails must not be started all the time.
        """
        self._next = time.monotonic() + (SYNCHRONIZED_S if self._clock_set else EVERY_S)
        self._clock_set = False
        self._moment = float("inf")
        if not self.exists:
            return False
        from . import certs  # noqa: PLC0415  # memory that a gateway without a PKI does not need
        from .core.pki import utc  # noqa: PLC0415
        from .host import pki, pki_issuer, pki_make  # noqa: PLC0415

        def make(request: Mapping[str, object]) -> Mapping[str, object]:
            self._progress()
            return pki_make.run_worker(request, timeout_s=WORKER_S)

        now = int(time.time())
        synchronized = pki.clock_synchronized(self._state_dir, now)
        means = pki_issuer.Means(now=now, synchronized=synchronized, settings=certs.pki_settings(options), make=make)
        before = self.findings
        done = pki.sweep(self._state_dir, means, names=self._names)
        self.findings = done.findings
        self._moment = pki.next_moment(self._state_dir, now, self._names)
        for one in done.renewed:
            self._log(one.cert_path, one.reason, utc(one.not_after))
        return bool(done.renewed) or self.findings != before

    def renewers(self) -> Mapping[str, str]:
        """Who renews which certificate, by its sha256: a pair that the site replaced is its own. Raises nothing."""
        state = _state(f"{self._state_dir}/pki/issued.json")
        if state is None:
            return {}
        if self._known[0] != state:
            from .host import pki  # noqa: PLC0415

            self._known = (state, dict.fromkeys(pki.ours(self._state_dir), "tedge-agentd"))
        return self._known[1]


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
