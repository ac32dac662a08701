"""`status`: what the daemon says of itself, now or once everything on disk has been dealt with.

Imports nothing of the daemon: scripts call it often, and unprivileged users may.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from .host import processes

VERSION = 1  # of status.json
CODES = {"in-sync": 0, "blocked": 1, "degraded": 1, "pending": 2}  # exit statuses by state
NOT_RUNNING = 3

_POLL_S = 0.02
# Without the right to ask for a pass, none having begun for this long means that nothing was due: the longest delay
# of an event (0.5 s in watchdog) and the longest settle time (1 s) are over.
_UNASKED_S = 2.0


def view(runtime_dir: str, *, wait: float | None) -> tuple[dict[str, Any] | None, bool]:
    """Return status.json's contents, None where no daemon runs, and whether waiting for it to settle timed out."""
    path = f"{runtime_dir}/status.json"
    called = time.monotonic()
    data = _running(path)
    if wait is None:
        return data, False
    asked = False
    while time.monotonic() - called < wait:
        data = _running(path)
        if data is not None and not asked:
            asked = _ask(data["pid"])
        if data is not None and data["state"] != "pending":
            if data["last_pass"]["started_usec"] >= called * 1e6:
                return data, False
            if not asked and time.monotonic() - called > _UNASKED_S:
                return data, False
        time.sleep(_POLL_S)
    return data, data is not None


def _running(path: str) -> dict[str, Any] | None:
    """The document of a daemon that is alive."""
    data = read(path)
    if data is None or processes.began(data["pid"]) != data.get("pid_began"):
        return None
    return data


def _ask(pid: int) -> bool:
    """Ask the daemon for a pass now, as `systemctl reload` does; return whether we may."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
        return True
    return False


def read(path: str) -> dict[str, Any] | None:
    """Return what the daemon last wrote; None where there is nothing to read."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("version") == VERSION else None


def text(data: Mapping[str, Any]) -> str:
    """Return a status document for a terminal, most important first."""
    lines = [f"state: {data['state']}"]
    lines += [
        f"listener: port {entry['port']} {entry['level']} on "
        f"{entry['address'] or entry['interface'] or 'all addresses'}{'' if entry['verified'] else ' (not verified)'}"
        for entry in data["listeners"]
    ]
    lines += certificates(data)
    lines += [
        f"file: {entry['path']} {entry['owner'] or '-'}:{entry['group'] or '-'} {entry['mode'] or 'missing'}"
        + ("" if entry["ok"] else " (not right, see findings)")
        for entry in data["files"]
    ]
    lines += [
        f"service: {entry['unit']} {entry['state']}"
        + (f", {entry['action']}: {entry['reason']}" if entry["action"] != "none" else "")
        for entry in data["services"]
    ]
    for entry in data["findings"]:
        lines.append(f"{entry['severity']}: {entry['where']}: {entry['message']} [{entry['code']}]")
        if entry["remedy"]:
            lines.append(f"  remedy: {entry['remedy']}")
    return "\n".join(lines)


def certificates(data: Mapping[str, Any]) -> list[str]:
    """A line for each certificate in use."""
    return [
        f"certificate: {entry['path']} ({entry['role']}) {entry['subject']}"
        + (f" for {', '.join(entry['sans'])}" if entry["sans"] else "")
        + (f", issued by {entry['issuer']}" if entry["issuer"] != entry["subject"] else "")
        + f", {entry['days_left']} d left"
        + (f", renewed by {entry['renewed_by']}" if entry["renewed_by"] else "")
        for entry in data["certificates"]
    ]
