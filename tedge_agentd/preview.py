"""`plan` and `apply` for a terminal, and what `config set` asks before it writes."""

import difflib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from . import apply, reconcile, renewal, status, status_command
from .core import conflicts, desired, model, tedge_toml
from .host import files, opened
from .world import World

IN_SYNC, BLOCKED, CHANGES_DUE = 0, 1, 2
_LOOKS = 5  # each a second; one is enough unless somebody else starts a client just then


def show(world: World, *, as_json: bool, diff: bool) -> int:
    """Print what a pass would do now; return 0 in sync, 2 changes due, 1 blocked."""
    _prepare(world)
    report = _as_due(reconcile.Reconciler(world).preview())
    if as_json:
        print(json.dumps(_document(report, world), indent=1))
    else:
        print(_text(report, world))
        if diff:
            sys.stdout.write(_diff(report))
    return _code(report)


def apply_now(world: World) -> int:
    """Run one pass, and another look at the clients it has started; return 0 applied or in sync, 1 not."""
    _prepare(world)
    reconciler = reconcile.Reconciler(world)
    try:
        report = reconciler.run(ordered=True)
        done = report.done
        for _ in range(_LOOKS):
            if {finding.code for finding in report.findings if finding.waits} != {"client-started"}:
                break
            time.sleep(report.retry_in or 1.0)
            report = reconciler.run()
            done += report.done
    except files.Locked as error:
        print(f"tedge-agentd: {error}; try again when it is done", file=sys.stderr)
        return 1
    for one in done:
        print(f"{one.operation.describe()}{f': {one.error}' if one.error else ''}")
    print(_findings(report) + status.summary(report, world.epoch()))
    return 0 if report.outcome is reconcile.Outcome.IN_SYNC else 1


def _prepare(world: World) -> None:
    os.makedirs(world.runtime_dir, mode=0o755, exist_ok=True)


def _as_due(report: reconcile.Report) -> reconcile.Report:
    """The report of a pass that has not been run: what it would do is not done, and not proved."""
    if apply.touches_broker(report.plan):
        report = replace(report, verified=False)
    if report.outcome is reconcile.Outcome.IN_SYNC and report.plan.changes():
        report = replace(report, outcome=reconcile.Outcome.PENDING)
    return report


def _code(report: reconcile.Report) -> int:
    if report.outcome in {reconcile.Outcome.BLOCKED, reconcile.Outcome.DEGRADED}:
        return BLOCKED
    return CHANGES_DUE if report.plan.changes() or report.outcome is reconcile.Outcome.PENDING else IN_SYNC


def _document(report: reconcile.Report, world: World) -> dict[str, Any]:
    document = _status(report, world)
    for name in ("last_pass", "counters", "since", "pid", "pid_began"):
        del document[name]
    document["operations"] = [operation.describe() for operation in report.plan.operations]
    document["diff"] = _diff(report)
    return document


def _status(report: reconcile.Report, world: World) -> dict[str, Any]:
    renewers = renewal.Renewal(world.state.directory, lambda *_: None).renewers()
    return status.document(report, status.Context(epoch=world.epoch(), renewers=renewers))


def _text(report: reconcile.Report, world: World) -> str:
    in_use = "".join(f"{line}\n" for line in status_command.certificates(_status(report, world)))
    todo = "".join(f"would {operation.describe()}\n" for operation in report.plan.operations)
    return in_use + _findings(report) + (todo or "nothing to do\n") + f"state: {report.outcome.value}"


def _findings(report: reconcile.Report) -> str:
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.severity.value}: {finding.where}: {finding.message} [{finding.code}]\n")
        if finding.remedy:
            lines.append(f"  remedy: {finding.remedy}\n")
    return "".join(lines)


def _diff(report: reconcile.Report) -> str:
    """The listener file's change; empty where it stays as it is."""
    kinds = {type(operation).__name__ for operation in report.plan.operations}
    if report.plan.path is None or not kinds & {"WriteListenerFile", "RemoveListenerFile"}:
        return ""
    before = (report.seen.listener_data or b"").decode(errors="replace").splitlines(keepends=True)
    after = (report.plan.content or b"").decode().splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, report.plan.path, f"{report.plan.path} (planned)"))


# Before config set writes -----------------------------------------------------------------------------------


def system_settings(world: World) -> model.SystemSettings:
    """Who the thin-edge services run as; the default where system.toml is missing or wrong."""
    try:
        data = files.read_limited(world.settings.system_toml)
    except opened.Refused:
        data = None
    return tedge_toml.parse_system(data, world.settings.system_toml)[0]


def refusals(world: World, data: bytes) -> tuple[model.Finding, ...]:
    """Return the findings that would block, if tedge.toml read like this: what `config set` does not write."""
    where = world.settings.tedge_toml
    parsed = tedge_toml.parse(data, where)
    findings = list(parsed.findings)
    if parsed.settings is not None:
        accounts = world.accounts(system_settings(world))
        wish = desired.derive(parsed.settings, accounts, tedge_dir=world.settings.tedge_dir)
        findings += _between_its_keys(parsed.settings, wish)
    return tuple(finding for finding in findings if finding.blocks is not None)


def _between_its_keys(asked: model.TedgeSettings, wish: desired.Desired) -> Iterator[model.Finding]:
    """What the keys make of each other, with the one command that sets those which go together."""
    for found in wish.findings:
        together = found.code == "incomplete-tls"
        yield replace(found, remedy=desired.together(asked.external)) if together else found
    if wish.internal is not None and wish.external is not None and wish.external.interface is None:
        external = model.Listener(port=wish.external.port, address=wish.external.address)
        yield from conflicts.between(wish.internal, external)
