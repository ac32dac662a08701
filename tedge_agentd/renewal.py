"""The daemon's part in the local PKI: at start and every hour it renews what it issued and what is due.

What it writes are ordinary changes of watched files, which the next pass applies: by a reload, nobody disconnected.
"""

import os
import time
from collections.abc import Callable, Mapping

from . import settings
from .core import model

EVERY_S = 3600.0  # core.pki renews in time for a look a day


class Renewal:
    """Looks after the local PKI, if there is one. Nothing of it is imported on a gateway without."""

    def __init__(self, state_dir: str, log: Callable[[str, str, str], None]) -> None:
        self._state_dir = state_dir
        self._log = log  # path, reason, end as a date to read
        self._next = 0.0
        self.findings: tuple[model.Finding, ...] = ()

    def due(self) -> float:
        """The next moment to look, in seconds of CLOCK_MONOTONIC."""
        return self._next

    def look(self, options: settings.Settings) -> bool:
        """Renew what is due; return whether anything was renewed or the findings changed. Raises nothing."""
        self._next = time.monotonic() + EVERY_S
        if not os.path.isdir(f"{self._state_dir}/pki"):
            return False
        from . import certs  # noqa: PLC0415  # memory that a gateway without a PKI does not need
        from .core.pki import utc  # noqa: PLC0415
        from .host import pki, pki_issuer  # noqa: PLC0415

        means = pki_issuer.Means(
            now=int(time.time()), synchronized=pki.clock_synchronized(), settings=certs.pki_settings(options)
        )
        before = self.findings
        done = pki.sweep(self._state_dir, means)
        self.findings = done.findings
        for one in done.renewed:
            self._log(one.cert_path, one.reason, utc(one.not_after))
        return bool(done.renewed) or self.findings != before

    def renewers(self) -> Mapping[str, str]:
        """Who renews which certificate, by its path."""
        if not os.path.isdir(f"{self._state_dir}/pki"):
            return {}
        from .host import pki  # noqa: PLC0415

        return {issued.cert_path: "tedge-agentd" for issued in pki.status(self._state_dir) if issued.cert_path}
