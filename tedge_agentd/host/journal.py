"""Say what was decided: to the journal with fields and ids, to a terminal in plain lines, else with `<N>` prefixes.

Every record passes through `redact`. Callers name a kind of event and, as `message`, the line a person reads:
`get().info("started", message="tedge-agentd 1.0 started", version="1.0")`; the kinds with an id of their own have a
function here and an entry in packaging/debian/tedge-agentd.catalog, which `journalctl -x` shows.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from ..core import model
from . import bus
from .redact import Plain, redact

IDENTIFIER = "tedge-agentd"

# Made once, at random (sd-id128(3)); never to be changed: operators' filters and the catalog go by them.
MESSAGE_IDS = {
    "started": "a26d15e35ef242869c21414e1f8aee04",
    "stopping": "28c94d96589b495b89dc70d950a6e4ba",
    "pass-done": "9a9faa0a360d4e7e9f763dba4f6f2b52",
    "finding-appeared": "9cd0db1520f44b0c8ab4a32373213b37",
    "finding-cleared": "d92516afe83f4af5b07290b85052e145",
    "rolled-back": "2d7254377ff74cacad2a15b425f9215b",
    "certificate-renewed": "a4a0294d9f794b9793ee8143d77a3206",
    "internal-error": "4d595ab00e644e6c999d005775e5ccfe",
}

# Levels of structlog to those of syslog(3); pystemd passes on what it is given, and 20 is no priority.
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_LEVELS = {"critical": 50, "error": 40, "warning": 30, "info": 20, "debug": 10}
_COLOURS = {2: "31;1", 3: "31", 4: "33", 7: "2"}
_LIMIT = 8192  # characters of a value; a hostile tedge.toml is not to fill the journal
_NAME_LIMIT = 64  # journald drops fields with longer names (systemd.journal-fields(7))

Sink = Callable[[int, dict[str, str]], None]


def configure(level: str = "info", *, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Send records from `level` on (debug, info, warning, error) where stderr, or `stream`, leads."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _Speaker(_sink(sys.stderr if stream is None else stream, environ)),
    ]
    structlog.configure(processors=processors, wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))


def get() -> FilteringBoundLogger:
    """Return the logger. `message=` is the line to read; all other keywords become fields `TEDGE_*`."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


# The canonical lines (contract 10) --------------------------------------------------------------------------


def started(version: str) -> None:
    get().info("started", message=f"tedge-agentd {version} started", version=version)


def stopping(reason: str) -> None:
    get().info("stopping", message=f"stopping: {reason}", reason=reason)


def pass_done(
    *,
    result: str,
    previous: str | None,
    duration_ms: float,
    actions: Sequence[str] = (),
    detail: str = "",
) -> bool:
    """Log a pass that changed something, or ended in another state than the one before; return whether it did.

    `actions` are the operations' own descriptions of what was done, `detail` is what the status line says. An idle
    resync is only seen at level debug.
    """
    news = bool(actions) or result != previous
    state = result if previous in (None, result) else f"{result} (was {previous})"
    message = (
        f"{state} after {duration_ms:.0f} ms{': ' if detail else ''}{detail} [{'; '.join(actions) or 'no change'}]"
    )
    level = {"blocked": "warning", "degraded": "error"}.get(result, "info") if news else "debug"
    fields = {"result": result, "previous": previous, "actions": list(actions), "detail": detail}
    getattr(get(), level)("pass-done", message=message, duration_ms=round(duration_ms, 1), **fields)
    return news


def finding_appeared(finding: model.Finding) -> None:
    """Log a finding when it is new, at its severity."""
    remedy = f". To mend it: {finding.remedy}" if finding.remedy else ""
    message = f"{finding.code}: {finding.where}: {finding.message.rstrip('.')}{remedy}"
    getattr(get(), finding.severity.value)("finding-appeared", message=message, **_about(finding))


def finding_cleared(finding: model.Finding) -> None:
    """Log that a finding no longer stands."""
    message = f"cleared: {finding.code}: {finding.where}: {finding.message.rstrip('.')}"
    get().info("finding-cleared", message=message, **_about(finding))


def rolled_back(reason: str, restored: str) -> None:
    """Log that what was applied did not verify, and what runs again instead."""
    get().error("rolled-back", message=f"rolled back: {reason}; {restored}", reason=reason, restored=restored)


def certificate_renewed(path: str, subject: str, not_after: str) -> None:
    """Log that the local PKI renewed a certificate; `not_after` as a date to read."""
    message = f"renewed {path} ({subject}), good until {not_after}"
    get().info("certificate-renewed", message=message, path=path, subject=subject, not_after=not_after)


def internal_error(doing: str) -> None:
    """Log the exception being handled, which is a mistake of the daemon's own, with its traceback."""
    error = sys.exc_info()[1]
    message = f"internal error while {doing}: {type(error).__name__}: {error}"
    get().error("internal-error", message=message, doing=doing, exc_info=True)


def _about(finding: model.Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "where": finding.where,
        "reason": finding.message,
        "remedy": finding.remedy or "no single command does; see tedge-agentd status",
        "blocks": finding.blocks,
    }


# From an event to a record ----------------------------------------------------------------------------------


class _Speaker:
    """The last processor of structlog: turns an event into a record and sends it. Logging never raises."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, _logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> NoReturn:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone: there is nowhere left to say so
            self._sink(_PRIORITIES.get(str(event_dict.get("level")), 6), record(event_dict))
        raise structlog.DropEvent


def record(event_dict: Mapping[str, Any]) -> dict[str, str]:
    """Return what a journal entry holds beside its priority: MESSAGE, MESSAGE_ID and TEDGE_* fields, all of it clean.

    MESSAGE is one line. The other values keep their line breaks; containers are JSON; None is left out.
    """
    plain = redact(event_dict)
    assert isinstance(plain, dict)
    event, message = _value(plain.pop("event", "")), plain.pop("message", None)
    plain.pop("level", None)
    traceback = plain.pop("exception", None)
    if message is None:
        pairs = (f"{name}={_value(value)}" for name, value in plain.items() if value is not None)
        message = " ".join((event, *pairs))
    fields = {_name(name): _value(value) for name, value in plain.items() if value is not None}
    if traceback is not None:
        fields["TEDGE_TRACEBACK"] = _value(str(traceback)[-_LIMIT:])  # its end says what happened
    fields |= {"MESSAGE": _line(_value(message)), "TEDGE_EVENT": _line(event), "SYSLOG_IDENTIFIER": IDENTIFIER}
    if event in MESSAGE_IDS:
        fields["MESSAGE_ID"] = MESSAGE_IDS[event]
    return fields


def _name(key: str) -> str:
    return ("TEDGE_" + re.sub(r"[^A-Z0-9_]", "_", key.upper()))[:_NAME_LIMIT]


def _value(value: Plain) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text[:_LIMIT])
    return text if len(text) <= _LIMIT else text[:_LIMIT]


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """Return a control character, a lone surrogate or a direction mark so that it can be seen and does nothing."""
    return char.encode("unicode_escape").decode("ascii")


# Where it goes ----------------------------------------------------------------------------------------------


def _sink(stream: TextIO, environ: Mapping[str, str]) -> Sink:
    if _is_journal(stream, environ):
        journal = bus.low_layer("journal")

        return lambda priority, fields: journal.sendv(PRIORITY=str(priority), **fields)
    colours = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    prefixes = not stream.isatty()

    def write(priority: int, fields: dict[str, str]) -> None:
        lines = [fields["MESSAGE"], *fields.get("TEDGE_TRACEBACK", "").splitlines()]
        prefix = (
            f"<{priority}>" if prefixes else f"\x1b[{_COLOURS[priority]}m" if colours and priority in _COLOURS else ""
        )
        suffix = "\x1b[0m" if prefix and not prefixes else ""
        stream.write("".join(f"{prefix}{line}{suffix}\n" for line in lines))
        stream.flush()

    return write


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the one that systemd connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
