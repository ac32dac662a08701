"""The right moment: what is under way on the machine that a restart would break, and for how long that counts.

Sources: facts/thin-edge.md 5 (an operation of tedge-agent fails when it is restarted, and apt dies with it; the
certificate renewer reconnects by itself), contract 8.
"""

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass

from . import model

# The services that carry operations out. The others follow the broker and come back by themselves.
OPERATORS = frozenset({"tedge-agent.service", "c8y-firmware-plugin.service"})
_FINAL = frozenset({"successful", "failed"})
_DEPTH_LIMIT = 200  # commands of one state file that are looked at


class Scope(enum.Enum):
    """What is not restarted meanwhile."""

    OPERATORS = "operators"
    BROKER = "broker"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something under way. `what` completes the sentence "... until ... is over"; `remedy` shows it."""

    what: str
    scope: Scope
    remedy: str


# What waits -------------------------------------------------------------------------------------------------


def keeps_broker(activity: Activity) -> bool:
    return activity.scope in {Scope.BROKER, Scope.EVERYTHING}


def keeps_client(activity: Activity, unit: str) -> bool:
    if activity.scope is Scope.OPERATORS:
        return unit in OPERATORS
    return activity.scope is Scope.EVERYTHING


def own_job(broker: model.UnitFacts) -> Activity:
    """Somebody starts, stops or restarts the broker just now: `tedge connect`, apt, an operator."""
    return Activity(
        what=f"the start or stop of {broker.name} that somebody has asked for",
        scope=Scope.BROKER,
        remedy="systemctl list-jobs",
    )


def finding(activity: Activity, units: Iterable[str]) -> model.Finding:
    """The finding `deferred`: nothing is wrong, and it passes by itself."""
    where = ", ".join(sorted(units))
    return model.Finding(
        code="deferred",
        severity=model.Severity.INFO,
        where=where,
        message=f"the restart of {where} waits until {activity.what} is over",
        remedy=activity.remedy,
        waits=True,
    )


def ended(activity: Activity) -> model.Finding:
    """The remark that a restart was not put off any longer."""
    return model.Finding(
        code="deferral-ended",
        severity=model.Severity.WARNING,
        where="max_deferral",
        message=f"{activity.what} is not over, but restarts have waited for as long as max_deferral allows",
        remedy=activity.remedy,
    )


# For how long -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Since when something waits, in seconds of CLOCK_MONOTONIC; None: nothing does."""

    since: float | None = None

    def waiting(self, now: float) -> "Patience":
        """Something waits. A moment in the future is of an earlier boot: then the wait begins anew."""
        return self if self.since is not None and self.since <= now else Patience(since=now)

    def is_over(self, now: float, most_s: float) -> bool:
        return self.since is not None and self.since <= now and now - self.since >= most_s

    def to_dict(self) -> dict[str, object]:
        return {"since": self.since}

    @classmethod
    def from_dict(cls, data: object) -> "Patience":
        since = data.get("since") if isinstance(data, dict) else None
        is_time = isinstance(since, int | float) and not isinstance(since, bool) and 0 <= since < 1e15
        return cls(since=float(since)) if is_time and since is not None else cls()


# thin-edge's operations -------------------------------------------------------------------------------------


def is_under_way(payload: bytes) -> bool:
    """Whether a retained command is one that thin-edge has not ended: its status is neither successful nor failed."""
    try:
        command = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    status = command.get("status") if isinstance(command, dict) else None
    return isinstance(status, str) and status not in _FINAL


def operations_in(data: bytes) -> tuple[str, ...]:
    """Return the topics of the commands that a state file of tedge-agent's workflows holds and that have not ended.

    `{"version": "V1", "commands": {topic: {"status": ..., ...}}}`; anything else holds none.
    """
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return ()
    commands = state.get("commands") if isinstance(state, dict) else None
    if not isinstance(commands, dict):
        return ()
    return tuple(
        str(topic)
        for topic, command in list(commands.items())[:_DEPTH_LIMIT]
        if isinstance(command, dict) and isinstance(command.get("status"), str) and command["status"] not in _FINAL
    )


def operation_name(topic: str) -> str:
    """`te/device/main///cmd/software_update/123` -> `software_update`; of anything else nothing is repeated."""
    words = topic.split("/")
    name = words[-2] if len(words) > 2 and words[-3:-2] == ["cmd"] else ""
    return name if name and name.isascii() and name.replace("_", "").replace("-", "").isalnum() else "an operation"
