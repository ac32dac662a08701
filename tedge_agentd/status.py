"""The daemon's view for people and programs: status.json, its one line for systemd, and its text for a terminal."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import reconcile, status_command
from .core import guards, ledger, model, observed, operations, plan
from .host import files

SECONDS_A_DAY = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Since the daemon started."""

    passes: int = 0
    broker_restarts: int = 0
    broker_reloads: int = 0
    client_restarts: int = 0
    rollbacks: int = 0

    def after(self, report: reconcile.Report) -> "Counters":
        return replace(
            self,
            passes=self.passes + 1,
            broker_restarts=self.broker_restarts + report.count(operations.RestartBroker),
            broker_reloads=self.broker_reloads + report.count(operations.ReloadBroker),
            client_restarts=self.client_restarts + report.count(operations.RestartClient),
            rollbacks=self.rollbacks + int(report.rolled_back),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a report does not know: who runs, since when it has been so, and what has been counted."""

    pid: int = 0
    pid_began: int | None = None  # which tells it from a later process of the same id
    since: float = 0.0  # seconds since the epoch
    epoch: float = 0.0
    counters: Counters = field(default_factory=Counters)
    renewers: Mapping[str, str] = field(default_factory=dict)  # who renews a certificate, by its sha256


def document(report: reconcile.Report, context: Context) -> dict[str, Any]:
    """Return status.json's contents (contract 4). It holds no secret: 0644, and shown to anybody who asks."""
    made = report.plan
    return {
        "version": status_command.VERSION,
        "pid": context.pid,
        "pid_began": context.pid_began,
        "state": report.outcome.value,
        "since": context.since,
        "inputs": inputs(report),
        "summary": summary(report, context.epoch),
        "listener_file": made.path,
        "listeners": _listeners(report),
        "files": _files(report),
        "certificates": [_certificate(c, _renewer(c, report, context), context) for c in report.seen.certificates],
        "services": _services(report),
        "findings": [_finding(finding) for finding in report.findings],
        "last_pass": {
            "started": report.started,
            "started_usec": report.began,
            "duration_ms": round(report.duration_ms, 1),
            "changed": bool(report.done),
            "actions": [
                {"action": done.operation.describe(), "ms": round(done.duration_ms, 1), "error": done.error}
                for done in report.done
            ],
            "result": report.outcome.value,
        },
        "counters": asdict(context.counters),
    }


def inputs(report: reconcile.Report) -> str:
    """A fingerprint of what was asked for: equal fingerprints ask for the same."""
    clients = [inputs.fingerprint for _, inputs in sorted(report.plan.clients)]
    return ledger.fingerprint(guards.target_of(report.plan), *clients)[:16]


def summary(report: reconcile.Report, epoch: float) -> str:
    """One ASCII line such as `in sync: 8883 mutual on 0.0.0.0, certificate good for 364 d`."""
    text = f"{report.outcome.value.replace('-', ' ')}: {plan.describe(report.serves)}"
    served = [c for c in report.seen.certificates if c.role == "server"]
    if served and report.plan.staged is not None:
        text += f", certificate {_validity(served[0].facts, epoch)}"
    worst = [finding for finding in report.findings if finding.severity is model.Severity.ERROR]
    if worst:
        text += f"; {worst[0].where}: {worst[0].message}"
    return text


def _validity(leaf: model.Certificate, epoch: float) -> str:
    if epoch < leaf.not_before:
        return "not valid yet: is the clock right?"
    left = days_left(leaf.not_after, epoch)
    return f"good for {left} d" if epoch < leaf.not_after else "expired"


def days_left(not_after: int, epoch: float) -> int:
    return int((not_after - epoch) // SECONDS_A_DAY)


def _listeners(report: reconcile.Report) -> list[dict[str, Any]]:
    return [
        {
            "address": str(listener.address) if listener.address is not None else "",
            "interface": listener.interface or "",
            "port": listener.port,
            "level": listener.level.value,
            "verified": report.verified,
        }
        for listener in (report.serves.listeners if report.serves is not None else ())
    ]


def _files(report: reconcile.Report) -> list[dict[str, Any]]:
    """Each source file as the pass found it; what the pass put right counts as right."""
    fixed = {
        done.operation.rule.path
        for done in report.done
        if isinstance(done.operation, operations.Own) and not done.error
    }
    due = {op.rule.path for op in report.plan.operations if isinstance(op, operations.Own)}
    wish = report.inputs.wish
    result = []
    for rule in wish.rules if wish is not None else ():
        facts = report.seen.files.get(rule.path)
        if facts is None:
            continue
        ok = facts.exists and facts.problem is None and (rule.path not in due or rule.path in fixed)
        result.append(
            {
                "path": rule.path,
                "key": rule.key,
                "role": rule.role.value,
                "owner": rule.owner or "",
                "group": rule.group or "",
                "mode": f"{facts.mode:04o}" if facts.exists else "",
                "ok": ok,
            }
        )
    return result


def _renewer(entry: observed.CertificateInUse, report: reconcile.Report, context: Context) -> str:
    """Who replaces a certificate before it ends; "" if nobody we know."""
    wish = report.inputs.wish
    if wish is not None and os.path.normpath(entry.facts.path) in wish.device_certs:
        return "thin-edge"
    return context.renewers.get(entry.facts.sha256, "")


def _certificate(entry: observed.CertificateInUse, renewer: str, context: Context) -> dict[str, Any]:
    facts = entry.facts
    return {
        "path": facts.path,
        "role": entry.role,
        "renewed_by": renewer,
        "subject": facts.subject,
        "issuer": facts.issuer,
        "sans": list(facts.sans),
        "not_after": facts.not_after,
        "days_left": days_left(facts.not_after, context.epoch),
        "sha256": facts.sha256,
    }


def _services(report: reconcile.Report) -> list[dict[str, Any]]:
    acts: dict[str, tuple[str, str]] = {}
    for done in report.done:
        match done.operation:
            case (
                operations.RestartBroker(unit=unit, reason=reason)
                | operations.RestartClient(unit=unit, reason=reason)
            ):
                acts[unit] = ("restart", reason)
            case operations.ReloadBroker(unit=unit, reason=reason):
                acts.setdefault(unit, ("reload", reason))
            case _:
                pass
    units = [(report.seen.broker, "broker")] if report.seen.broker is not None else []
    units += [(unit, "client") for unit in report.seen.clients]
    return [
        {
            "unit": unit.name,
            "role": role,
            "state": unit.active_state,
            "action": acts.get(unit.name, ("none", ""))[0],
            "reason": acts.get(unit.name, ("none", ""))[1],
        }
        for unit, role in units
        if unit is not None
    ]


def _finding(finding: model.Finding) -> dict[str, str]:
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "where": finding.where,
        "message": finding.message,
        "remedy": finding.remedy,
    }


# The file ---------------------------------------------------------------------------------------------------


def write(path: str, data: Mapping[str, Any]) -> None:
    """Replace status.json in one step. It lies on a tmpfs: not worth an fsync."""
    text = json.dumps(data, indent=1)
    files.replace(path, text.encode(), mode=0o644, uid=os.geteuid(), gid=os.getegid(), durable=False)
