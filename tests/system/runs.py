"""Who ran when, and what lies where: the evidence of what was done to a gateway, and of what was not."""

import dataclasses
from collections.abc import Iterable, Mapping

from .gateway import Gateway

BROKER = "mosquitto.service"
DAEMON = "tedge-agentd.service"
_PLACES = ("/etc/tedge", "/etc/mosquitto", "/var/lib/tedge-agentd")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One unit's current run. `began` is in microseconds of CLOCK_MONOTONIC."""

    invocation: str
    pid: int
    began: int
    active: bool
    restarts: int  # by systemd itself, after a failure


def of(gw: Gateway, units: Iterable[str]) -> dict[str, Run]:
    """Return the current run of each unit, by its full name."""
    properties = "Id,InvocationID,MainPID,ExecMainStartTimestampMonotonic,ActiveState,NRestarts"
    shown = gw.run(["systemctl", "show", f"--property={properties}", *units]).stdout
    runs = {}
    for block in shown.strip().split("\n\n"):
        found = dict(line.split("=", 1) for line in block.splitlines())
        runs[found["Id"]] = Run(
            invocation=found["InvocationID"],
            pid=int(found["MainPID"]),
            began=int(found["ExecMainStartTimestampMonotonic"]),
            active=found["ActiveState"] == "active",
            restarts=int(found["NRestarts"]),
        )
    return runs


def broker(gw: Gateway) -> Run:
    return of(gw, [BROKER])[BROKER]


def daemon(gw: Gateway) -> Run:
    return of(gw, [DAEMON])[DAEMON]


def restarted(before: Mapping[str, Run], after: Mapping[str, Run]) -> set[str]:
    """Return the units that run as another process than before, or do not run any more."""
    return {
        name for name, run in before.items() if (run.invocation, run.pid) != (after[name].invocation, after[name].pid)
    }


def files(gw: Gateway, *places: str) -> dict[str, str]:
    """Return inode, owner, mode and the times of every file that a pass could write, by path.

    What the daemon remembers of its messages is no pass's: its health has a new process id after each start.
    """
    form = "%p\\t%i %u:%g %m %s %T@ %C@\\n"
    lines = gw.run(["find", *(places or _PLACES), "-printf", form]).stdout.splitlines()
    kept = (line.split("\t", 1) for line in lines)
    return {
        path: rest for path, rest in kept if not path.endswith("/publish.json") and path != "/var/lib/tedge-agentd"
    }
