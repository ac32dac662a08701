"""A gateway's wall clock, moved without moving this machine's: see clock.c, which is preloaded where time matters.

In there are the broker, the daemon, its preflights and thin-edge's services, and what is run by `Clock.run`. What the
daemon starts without an environment (it makes keys, and reads certificates) asks for no time: it is told.
"""

import os
import pathlib
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence

from .gateway import Gateway

DAY = 86400
OFFSET = "/etc/clock-offset"
LIBRARY = "/usr/lib/clock.so"
SOURCE = pathlib.Path(__file__).with_name("clock.c")
# A name that ends in a dash is for all units that begin so (systemd.unit(5)): the daemon, its preflights, thin-edge.
UNITS = ("mosquitto", "tedge-")


class Clock:
    """The clock of a gateway. It keeps its offset over reboots, as one with a battery does."""

    def __init__(self, gw: Gateway) -> None:
        """Give the gateway, which is off, a clock that can be set."""
        assert not gw.running, "its processes have their clock already"
        self._gw = gw
        self.offset = 0
        gw.write(OFFSET, struct.pack("q", 0))
        gw.write(LIBRARY, _built(), mode=0o755)
        for units in UNITS:
            drop_in = f"[Service]\nEnvironment=LD_PRELOAD={LIBRARY}\n"
            gw.write(f"/etc/systemd/system/{units}.service.d/clock.conf", drop_in)

    @property
    def now(self) -> float:
        """What the gateway takes for the time, in seconds since the epoch."""
        return time.time() + self.offset

    def set(self, offset: float) -> None:
        """Set the clock to so many seconds ahead of this machine's, or behind it, for all processes at once."""
        self.offset = int(offset)
        fd = self._gw.files.open(OFFSET, os.O_WRONLY)
        try:
            os.pwrite(fd, struct.pack("q", self.offset), 0)  # in place: processes have this very page mapped
        finally:
            os.close(fd)

    def run(
        self, command: Sequence[str], *, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the gateway, by its clock."""
        return self._gw.run(["env", f"LD_PRELOAD={LIBRARY}", *command], check=check, timeout=timeout)


def _built() -> bytes:
    """Return clock.c as a library for this machine, made by a compiler of 300 kB."""
    with tempfile.TemporaryDirectory() as directory:
        compiled, linked = pathlib.Path(directory, "clock.o"), pathlib.Path(directory, "clock.so")
        # Linked by ld: a library of tcc's own asks for an executable stack, which the daemon's sandbox refuses.
        for command in (
            ["tcc", "-Wall", "-Werror", "-nostdinc", "-fPIC", "-c", "-o", str(compiled), str(SOURCE)],
            ["ld", "-shared", "-z", "noexecstack", "-o", str(linked), str(compiled)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{SOURCE} does not become a library:\n{done.stdout}\n{done.stderr}")
        return linked.read_bytes()
