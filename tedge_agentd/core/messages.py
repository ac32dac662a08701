"""Which MQTT messages make the daemon visible: its registration, its health and its alarms (facts/thin-edge.md 6).

Everything here is a retained message on a topic of ours, so that what is to be said can be compared with what the
broker holds: nothing is said twice.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import model

SERVICE = "tedge-agentd"
CERTIFICATE = "tedge_agentd_certificate"
BLOCKED = "tedge_agentd_blocked"
DEGRADED = "tedge_agentd_degraded"
ALARMS = (CERTIFICATE, BLOCKED, DEGRADED)

# Settings come one by one: what is blocked between the first and the last of them is nobody's alarm.
GRACE_S = 30.0
# A state that should pass by itself (half a renewal, a package on its way) and does not.
PENDING_S = 3600.0
_TEXT_LIMIT = 600  # characters; clouds cut longer ones
_EXPIRED = frozenset({"certificate-expired", "ca-expired"})
_EXPIRY = _EXPIRED | {"certificate-expires", "ca-expires"}


# Topics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Where the service is found: `te/device/main/service/tedge-agentd` and below."""

    parent: str  # the device's topic id: "device/main//"
    service: str
    device: str  # the device's own topic, which ends in an empty segment

    @property
    def health(self) -> str:
        return f"{self.service}/status/health"

    @property
    def checks(self) -> tuple[str, ...]:
        """Who publishes here asks for a sign of life: from this service, or from all of the device's."""
        return (f"{self.service}/cmd/health/check", f"{self.device}/cmd/health/check")

    def alarm(self, kind: str) -> str:
        return f"{self.service}/a/{kind}"

    @property
    def alarms(self) -> tuple[str, ...]:
        return tuple(self.alarm(kind) for kind in ALARMS)

    @property
    def retained(self) -> tuple[str, ...]:
        """The topics of which the broker may still hold what was said before."""
        return (self.service, self.health, *self.alarms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How services of thin-edge word what they say: service.type and service.timestamp_format of tedge.toml."""

    service_type: str = "service"
    times: str = "unix"  # or "rfc-3339"; alarms have theirs, which is always the latter


def topics(root: str, device: str) -> Topics | None:
    """Return the service's topics, None where thin-edge has none: its own services only know `device/NAME//`.

    Both values are of tedge.toml: a wildcard or a control character makes no topic (MQTT 3.1.1, 4.7.1 and 1.5.3).
    """
    match device.split("/"):
        case ["device", name, "", ""] if name and root and _is_plain(root) and _is_plain(name):
            pass
        case _:
            return None
    if root.startswith(("/", "$")) or root.endswith("/"):
        return None
    return Topics(parent=device, service=f"{root}/device/{name}/service/{SERVICE}", device=f"{root}/device/{name}//")


def _is_plain(text: str) -> bool:
    return len(text.encode(errors="replace")) <= 256 and text.isprintable() and not set("+#") & set(text)


# What is to be said -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm in thin-edge's words. It is raised once it has been due for `wait_s`, or at once if it stands."""

    kind: str
    severity: str  # "critical", "major", "minor", "warning"
    text: str
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarms:
    """Those to be raised, at most one of a kind. Others are cleared, except `kept`, which stay as they are."""

    raised: tuple[Alarm, ...] = ()
    kept: frozenset[str] = frozenset()


def alarms(state: str, age_s: float, findings: Iterable[model.Finding]) -> Alarms:
    """Return the alarms of a daemon that has been in a state of status.json for so long, with these findings.

    A pending pass neither raises nor clears what a pass before it said of the broker: it has not decided yet.
    """
    found = tuple(findings)
    raised = [_certificate(found)]
    kept: frozenset[str] = frozenset()
    if state == "degraded":
        text = _text([f for f in found if f.severity is model.Severity.ERROR], "the last good state is kept")
        raised.append(Alarm(kind=DEGRADED, severity="critical", text=text))
    elif state == "blocked":
        text = _text([f for f in found if f.blocks is not None and not f.waits], "a change is not applied")
        raised.append(Alarm(kind=BLOCKED, severity="major", text=text, wait_s=_left(GRACE_S, age_s)))
    elif state == "pending":
        waiting = [f for f in found if f.waits and f.severity is not model.Severity.INFO]
        if waiting and age_s >= PENDING_S:
            raised.append(Alarm(kind=BLOCKED, severity="warning", text=_text(waiting, "a change is waiting")))
        kept = frozenset({BLOCKED, DEGRADED}) - {alarm.kind for alarm in raised if alarm is not None}
    return Alarms(raised=tuple(alarm for alarm in raised if alarm is not None), kept=kept)


def _left(span_s: float, age_s: float) -> float:
    """What is left of a span; a clock that was set back must not make it longer."""
    return min(span_s, max(0.0, span_s - age_s))


def _certificate(findings: Iterable[model.Finding]) -> Alarm | None:
    ending = sorted((f for f in findings if f.code in _EXPIRY), key=_urgency)
    if not ending:
        return None
    severity = ("critical", "major", "warning")[_urgency(ending[0])]
    return Alarm(kind=CERTIFICATE, severity=severity, text=_text(ending, ""))


def _urgency(finding: model.Finding) -> int:
    if finding.code in _EXPIRED:
        return 0
    return 1 if finding.severity is model.Severity.ERROR else 2


def _text(findings: list[model.Finding], otherwise: str) -> str:
    if not findings:
        return otherwise
    first = findings[0]
    text = f"{first.where}: {first.message}"
    if first.remedy:
        text += f"; remedy: {first.remedy}"
    if len(text) > _TEXT_LIMIT:
        text = text[: _TEXT_LIMIT - 3] + "..."
    return f"{text} (and {len(findings) - 1} more)" if len(findings) > 1 else text


# Messages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A retained message. An empty payload takes away what was retained."""

    topic: str
    payload: bytes


def registration(where: Topics, form: Form) -> Message:
    entity = {"@parent": where.parent, "@type": "service", "name": SERVICE, "type": form.service_type}
    return Message(topic=where.service, payload=_json(entity))


def up(where: Topics, pid: int, epoch: float, form: Form) -> Message:
    time = round(epoch, 3) if form.times == "unix" else _rfc_3339(epoch)
    return Message(topic=where.health, payload=_json({"pid": pid, "status": "up", "time": time}))


def down(where: Topics, pid: int) -> Message:
    return Message(topic=where.health, payload=_json({"pid": pid, "status": "down"}))


def cleared(topic: str) -> Message:
    return Message(topic=topic, payload=b"")


def _raised(where: Topics, alarm: Alarm, epoch: float) -> Message:
    payload = _json({"text": alarm.text, "severity": alarm.severity, "time": _rfc_3339(epoch)})
    return Message(topic=where.alarm(alarm.kind), payload=payload)


def _rfc_3339(epoch: float) -> str:
    return datetime.datetime.fromtimestamp(max(0.0, epoch), datetime.UTC).isoformat(timespec="milliseconds")


def due(  # noqa: PLR0913  # keyword-only, each a fact of the moment
    where: Topics,
    wanted: Alarms,
    known: Mapping[str, bytes],
    *,
    pid: int,
    epoch: float,
    form: Form = Form(),  # frozen
    waited_s: float = 0.0,
) -> tuple[tuple[Message, ...], float | None]:
    """Return what has to be published, and in how many seconds more will be due (None: nothing, as things are).

    `known` is what the broker holds by topic, `waited_s` how long ago `wanted` was decided. Moments do not count for
    equality: an alarm that stands is not raised again because it is later now.
    """
    result = [registration(where, form), up(where, pid, epoch, form)]
    rest: list[float] = []
    raised = set()
    for alarm in wanted.raised:
        topic = where.alarm(alarm.kind)
        left = alarm.wait_s - waited_s
        raised.add(alarm.kind)
        if left > 0 and not known.get(topic):
            rest.append(left)
        else:
            result.append(_raised(where, alarm, epoch))
    gone = [
        kind for kind in ALARMS if kind not in raised and kind not in wanted.kept and known.get(where.alarm(kind))
    ]
    result += [cleared(where.alarm(kind)) for kind in gone]
    return tuple(message for message in result if not _says(known.get(message.topic), message)), min(
        rest, default=None
    )


def _says(held: bytes | None, message: Message) -> bool:
    """Whether a retained payload says the same as a message, but for the moment."""
    if not held or not message.payload:
        return (held or b"") == message.payload
    return bool(_timeless(held) == _timeless(message.payload))


def _timeless(payload: bytes) -> Any:
    try:
        table = json.loads(payload)
    except (ValueError, RecursionError):
        return payload
    if isinstance(table, dict) and "time" in table:
        table["time"] = isinstance(table["time"], str)  # its format counts, its value does not
    return table if isinstance(table, dict) else payload


def _json(table: Mapping[str, object]) -> bytes:
    return json.dumps(table, separators=(",", ":")).encode()
