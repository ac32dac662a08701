"""One pass: load -> desired -> observe -> plan -> preflight -> apply -> verify -> report."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import apply, memory, moment, observe, settings
from .core import client_plan, deferral, errors, guards, listener, model, observed, operations, plan
from .host import files, opened, preflight, users
from .rehearsal import Rehearsal
from .world import World

# Nothing tells of these when they pass, so they are looked at again by the clock: after so many seconds.
_LOCK_S = 20.0  # below the service's WatchdogSec=
_SILENT = {
    "account-missing": 15.0,
    "address-not-local": 15.0,
    "address-not-on-interface": 15.0,
    "broker-not-installed": 15.0,
    "broker-unit": 15.0,
    "client-login": 15.0,
    "client-started": 1.0,
    "clients-wait": 15.0,
    "deferred": 2.0,
    "interface-missing": 15.0,
    "interface-without-address": 15.0,
    "key-mismatch": 31.0,  # then it is news
    "leftover": 15.0,
    "not-remembered": 15.0,
    "not-serving": 15.0,
    "port-in-use": 15.0,
    "preflight-unavailable": 15.0,
    "systemd-unavailable": 15.0,
    "unit-changing": 2.0,
    "write-failed": 15.0,
}


class Outcome(enum.Enum):
    """`status.json`'s state (contract 4)."""

    IN_SYNC = "in-sync"
    PENDING = "pending"
    BLOCKED = "blocked"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pass found and did. `retry_in`: seconds until to look again without being asked; None: at a change."""

    outcome: Outcome
    plan: operations.Plan
    seen: observed.Observed
    inputs: observe.Inputs
    findings: tuple[model.Finding, ...]
    done: tuple[apply.Done, ...] = ()
    rolled_back: bool = False
    verified: bool = False  # the running broker has been proven to serve what the plan says
    serves: model.ListenerFile | None = None  # what lies on disk for the broker after the pass
    retry_in: float | None = None
    started: float = 0.0  # seconds since the epoch
    began: int = 0  # microseconds of CLOCK_MONOTONIC
    duration_ms: float = 0.0

    def count(self, kind: type) -> int:
        return sum(isinstance(entry.operation, kind) for entry in self.done)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    inputs: observe.Inputs
    seen: observed.Observed
    plan: operations.Plan


class Reconciler:
    """Runs passes, one at a time on the machine (a lock), and remembers between them what the ledger says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._rehearsal = Rehearsal()
        self._keeper = memory.Keeper()

    def preview(self) -> Report:
        """Return what a pass would do now, changing nothing."""
        started, begun = self.world.epoch(), self.world.stamp()
        self._keeper.look_up(self.world.state)
        view, verdict = self._judged()
        if apply.touches_broker(view.plan):
            view = self._rehearsed(view)
        return self._report(view, verdict, apply.Result(), started, begun)

    def run(self, before_jobs: Callable[[], None] = lambda: None, *, ordered: bool = False) -> Report:
        """Run one pass. Raises files.Locked while another process runs one, and SandboxStaleError.

        `before_jobs` is called before systemd is asked to reload or restart the broker, if the pass does that.
        `ordered`: an operator asked for it, so nothing that failed before is waited for.

        A pass that dies anywhere leaves the listener file and each staged name old or new, never torn; the next one
        completes it, or rolls it back by the undo record that was durable before the first change.
        """
        world = self.world
        with files.Lock(f"{world.runtime_dir}/pass.lock", wait_s=_LOCK_S, given_up=world.systemd.stopping):
            started, begun = world.epoch(), world.stamp()
            self._keeper.recall(world.state)
            preflight.sweep(world.runtime_dir)
            view, verdict = self._judged(ordered=ordered)
            if apply.touches_broker(view.plan):
                view = self._rehearsed(view)
            result = apply.Result()
            self._remember_clients(view)
            if any(isinstance(op, operations.ReloadBroker | operations.RestartBroker) for op in view.plan.operations):
                before_jobs()
            self._apply_broker(view, verdict, result)
            if result.must_be_undone:
                view, verdict = self._rescue(view, verdict, result)
            elif result.failed is None and not result.interrupted:
                apply.client_part(view.plan, world, result)
            return self._report(view, verdict, result, started, begun)

    # Looking and deciding -----------------------------------------------------------------------------------

    def _look(self, rescue: observed.Rescue = observed.Rescue.NONE, *, told: bool = False) -> _View:
        world = self.world
        world.people = users.SystemUsers()
        options, wrong = _read_settings(world.settings_path)
        if not wrong:
            world.settings = options
        inputs = observe.load(world)
        seen = observe.look(world, inputs, self._keeper.ledger)
        return self._planned(inputs, replace(seen, findings=(*wrong, *seen.findings), rescue=rescue, told=told))

    def _planned(self, inputs: observe.Inputs, seen: observed.Observed) -> _View:
        options = self.world.settings
        made = plan.plan(inputs.wish, seen, staging_dir=options.staging_dir, broker_unit=options.broker_unit)
        return _View(inputs=inputs, seen=seen, plan=made)

    def _again(
        self,
        view: _View,
        *findings: model.Finding,
        hold: bool = False,
        rescue: observed.Rescue = observed.Rescue.NONE,
    ) -> _View:
        """Plan once more from the same look, with something more against it."""
        seen = replace(view.seen, findings=(*view.seen.findings, *findings), hold=hold or view.seen.hold)
        if rescue is not observed.Rescue.NONE:
            seen = replace(seen, rescue=rescue)
        return self._planned(view.inputs, seen)

    def _judged(self, *, ordered: bool = False) -> tuple[_View, guards.Verdict]:
        view, held = self._at_the_right_moment(self._look())
        verdict = guards.Verdict(guards=held)
        while True:
            more = guards.judge(verdict.guards, view.plan, view.seen, self._now(), ordered=ordered)
            verdict = verdict.then(more)
            if not more.objects:
                return view, verdict
            view = self._again(view, *more.findings, hold=more.hold, rescue=more.rescue)

    def _at_the_right_moment(self, view: _View) -> tuple[_View, guards.Guards]:
        """Leave out the restarts that would break what is under way, for at most `max_deferral`."""
        held, now = self._keeper.guards, self._now()
        found = moment.look(self.world, view.inputs, view.plan)
        if not found:
            return view, replace(held, patience=deferral.Patience())
        patience = held.patience.waiting(now)
        held = replace(held, patience=patience)
        if patience.is_over(now, self.world.settings.max_deferral):
            return self._again(view, *(deferral.ended(activity) for activity in found)), held
        return self._planned(view.inputs, replace(view.seen, under_way=found)), held

    def _rehearsed(self, view: _View) -> _View:
        """Try the plan on the side. What the broker refuses is not applied; nor is a fallback that it refuses.

        A broker that is down anyway gets the internal listener alone, where that is all it takes.
        """
        refusal = self._rehearsal.refusal(view.plan, view.inputs, view.seen, self.world)
        if refusal is None:
            return view
        view = self._again(view, refusal)
        if not apply.touches_broker(view.plan):
            return view
        if self._rehearsal.refusal(view.plan, view.inputs, view.seen, self.world) is None:
            return view
        if _revives(view):
            alone = self._again(view, rescue=observed.Rescue.INTERNAL)
            if not apply.touches_broker(alone.plan):
                return alone
            if self._rehearsal.refusal(alone.plan, alone.inputs, alone.seen, self.world) is None:
                return alone
        return self._again(view, hold=True)

    # Acting -------------------------------------------------------------------------------------------------

    def _remember_clients(self, view: _View) -> None:
        """Durable before the first restart: a client that is not reached by this pass is stale at the next."""
        before, world = self._keeper.ledger, self.world
        self._keeper.save(world.state, replace(before, clients={**before.clients, **dict(view.plan.clients)}))

    def _apply_broker(self, view: _View, verdict: guards.Verdict, result: apply.Result) -> None:
        """Carry the broker's part out and remember it; `result.failed` says why not."""
        made, world, held = view.plan, self.world, verdict.guards
        if made.changes():
            try:
                if made.path is not None and apply.touches_broker(made):
                    apply.original(world, made.path, view.seen.listener_data)
                world.state.begin(apply.undo_record(made, view.seen))
            except OSError as error:
                result.failed = memory.unwritable(error)  # what cannot be undone is not begun
                return
        apply.broker_part(made, view.seen, world, result)
        for _ in range(result.count(operations.RestartBroker)):
            held = held.restarted(self._now())
        if result.failed is not None:
            if result.must_be_undone:
                held = held.failure(guards.target_of(made), str(result.failed), self._now())
            if result.told:
                self._keeper.save(world.state, apply.failed_ledger(made, world, self._keeper.ledger), held)
            elif not result.done:
                self._keeper.end(world.state)
            return
        if result.interrupted:
            self._keeper.save(world.state, apply.failed_ledger(made, world, self._keeper.ledger), held)
            return
        if result.did((operations.WriteListenerFile,)):
            held = guards.repaired(held, made, view.seen, self._now())
        remembered = self._keeper.ledger
        if made.serving is not None or apply.touches_broker(made):
            remembered = self._keeper.after(made, view.seen, result, world)
        served = made.serving is not None and not made.fallback
        self._keeper.save(world.state, remembered, held.success() if served else held)
        self._keeper.end(world.state)

    def _rescue(self, view: _View, verdict: guards.Verdict, result: apply.Result) -> tuple[_View, guards.Verdict]:
        """Bring the broker back: as it last verified, else as it was before, else with the internal listener alone.

        Each way is restarted into and verified. The listener file of before is only tried where nothing has ever
        verified: then it is what the machine ran with until now. A last good state that is what has just failed, or
        that failed a short while ago, is passed over.
        """
        world, held, restarts = self.world, self._keeper.guards, result.count(operations.RestartBroker)
        undo = world.state.under_way() or apply.undo_record(view.plan, view.seen)
        apply.give_back(undo, world, result)
        result.failed = None
        for rescue in (observed.Rescue.LAST_GOOD, observed.Rescue.INTERNAL):
            if rescue is observed.Rescue.LAST_GOOD and self._keeper.ledger.last_good is None:
                if apply.run_all(apply.put_back(undo, world), view.seen, world, result):
                    break
                continue
            view = self._look(rescue, told=True)
            target = guards.target_of(view.plan)
            if rescue is observed.Rescue.LAST_GOOD and held.is_waiting(target, self._now()):
                continue
            attempt = apply.Result(done=result.done)
            apply.broker_part(view.plan, view.seen, world, attempt)
            if attempt.interrupted:  # the next pass sees what came of it
                self._keeper.save(world.state, apply.failed_ledger(view.plan, world, self._keeper.ledger))
                break
            if attempt.failed is None and view.plan.serving is not None:
                self._keeper.save(world.state, self._keeper.after(view.plan, view.seen, attempt, world))
                break
            if rescue is observed.Rescue.LAST_GOOD:
                held = held.fell(target)
            self._keeper.save(world.state, apply.failed_ledger(view.plan, world, self._keeper.ledger))
        else:
            result.findings.append(apply.broker_down_finding(world.settings.broker_unit))
        self._keeper.end(world.state)
        result.rolled_back = True
        for _ in range(result.count(operations.RestartBroker) - restarts):
            held = held.restarted(self._now())
        self._keeper.save(world.state, self._keeper.ledger, held)
        result.findings.append(guards.degraded(held))
        return view, replace(verdict, guards=held, degraded=True, wait=held.retry.wait_s(self._now()))

    def _now(self) -> float:
        return self.world.stamp().usec / 1e6

    def _verified(self, view: _View, result: apply.Result) -> bool:
        known, broker = self._keeper.ledger, view.seen.broker
        restarted = result.did((operations.RestartBroker,))
        proven = bool(known.verified) and known.verified == known.invocation
        return proven and result.failed is None and (restarted or (broker is not None and broker.is_active))

    def _report(
        self, view: _View, verdict: guards.Verdict, result: apply.Result, started: float, begun: model.Stamp
    ) -> Report:
        findings = list(dict.fromkeys((*view.plan.findings, *result.findings)))
        if result.failed is not None:
            findings.append(_failed(result, self.world.settings.broker_unit))
        findings += _started(result)
        if _stays_down(view, result):
            findings.append(apply.broker_down_finding(self.world.settings.broker_unit))
        findings += self._keeper.findings()
        findings = list(dict.fromkeys(findings))
        outcome = _outcome(findings, degraded=verdict.degraded)
        waits = [verdict.wait] if verdict.wait is not None else []
        waits += [_SILENT[finding.code] for finding in findings if finding.code in _SILENT]
        return Report(
            outcome=outcome,
            plan=view.plan,
            seen=view.seen,
            inputs=view.inputs,
            findings=tuple(findings),
            done=tuple(result.done),
            rolled_back=result.rolled_back,
            verified=self._verified(view, result),
            serves=_serves(view, result),
            retry_in=min(waits, default=None),
            started=started,
            began=begun.usec,
            duration_ms=(self.world.stamp().usec - begun.usec) / 1000,
        )


def _serves(view: _View, result: apply.Result) -> model.ListenerFile | None:
    """What the listener file means after the pass: the plan's, or where that left it alone, what was found."""
    if view.plan.target is not None and result.failed is None:
        return view.plan.target
    data = view.seen.listener_data
    return None if data is None else listener.parse(data).file


def _outcome(findings: list[model.Finding], *, degraded: bool) -> Outcome:
    if degraded or any(f.code == "client-failed" and f.severity is model.Severity.ERROR for f in findings):
        return Outcome.DEGRADED
    if any(finding.blocks is not None and not finding.waits for finding in findings):
        return Outcome.BLOCKED
    if any(finding.waits for finding in findings):
        return Outcome.PENDING
    return Outcome.IN_SYNC


def _started(result: apply.Result) -> list[model.Finding]:
    names = [done.operation.unit for done in result.done if isinstance(done.operation, operations.RestartClient)]
    return [client_plan.started(names)] if names else []


def _read_settings(path: str) -> tuple[settings.Settings, tuple[model.Finding, ...]]:
    try:
        return settings.parse(files.read_limited(path), path)
    except opened.Missing:
        return settings.parse(None)
    except opened.Refused as error:
        return settings.Settings(), (settings.unreadable(path, error.reason),)


def _revives(view: _View) -> bool:
    """Whether the plan is to bring back a broker that is down."""
    broker = view.seen.broker
    restarts = any(isinstance(op, operations.RestartBroker) for op in view.plan.operations)
    return restarts and broker is not None and not broker.is_active


def _stays_down(view: _View, result: apply.Result) -> bool:
    """Whether the broker has failed, and this pass had no way left to bring it back."""
    broker = view.seen.broker
    return broker is not None and broker.has_failed and not result.told


def _failed(result: apply.Result, unit: str) -> model.Finding:
    error = result.failed
    assert error is not None
    if isinstance(error, errors.VerifyError):
        # It was not us who started it last: it is told, not acted on.
        return model.Finding(
            code="not-serving",
            severity=model.Severity.ERROR,
            where=unit,
            message=f"the broker runs but does not serve what lies on disk: {error}",
            remedy=f"systemctl restart {unit}",
            blocks=model.Area.CLIENTS,
        )
    after = "the broker is looked at again shortly" if result.told else "what runs is untouched"
    return model.Finding(
        code="write-failed",
        severity=model.Severity.ERROR,
        where="tedge-agentd",
        message=f"{error}; {after}",
        remedy=error.remedy,
        blocks=model.Area.ALL,
    )
