"""What holds the daemon back although a plan is due: a failed target, a spent budget, another writer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from . import backoff, deferral, ledger, model, observed, operations

# Each attempt costs two restarts of the broker, so patience is cheaper than zeal.
RETRY = backoff.Backoff(first_s=30.0, cap_s=3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """Remembered over crashes. `failed` is the fingerprint of the target that did not verify, with the reason;
    `fallen` that of the last good state, if the broker did not take that either.
    """

    failed: str = ""
    reason: str = ""
    retry: backoff.Retry = field(default_factory=backoff.Retry)
    fallen: str = ""
    budget: backoff.Budget = field(default_factory=backoff.Budget)
    fight: backoff.FightDetector = field(default_factory=backoff.FightDetector)
    foreign: str = ""  # the foreign listener file that was counted last
    patience: deferral.Patience = field(default_factory=deferral.Patience)

    def to_dict(self) -> dict[str, object]:
        return {
            "failed": self.failed,
            "reason": self.reason,
            "retry": self.retry.to_dict(),
            "fallen": self.fallen,
            "budget": self.budget.to_dict(),
            "fight": self.fight.to_dict(),
            "foreign": self.foreign,
            "patience": self.patience.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Guards":
        """Take anything: a damaged memory costs the memory, never the daemon."""

        def text(name: str) -> str:
            value = data.get(name)
            return value if isinstance(value, str) else ""

        return cls(
            failed=text("failed"),
            reason=text("reason"),
            retry=backoff.Retry.from_dict(data.get("retry")),
            fallen=text("fallen"),
            budget=backoff.Budget.from_dict(data.get("budget")),
            fight=backoff.FightDetector.from_dict(data.get("fight")),
            foreign=text("foreign"),
            patience=deferral.Patience.from_dict(data.get("patience")),
        )

    def failure(self, target: str, reason: str, now: float) -> "Guards":
        """Note that a target did not verify: it is tried again later and later, another one at once."""
        before = self.retry if target == self.failed else backoff.Retry()
        return replace(self, failed=target, reason=reason, retry=before.failed(RETRY, now=now))

    def fell(self, target: str) -> "Guards":
        """Note that not even the last good state was served: it is left alone as long as what failed before it."""
        return replace(self, fallen=target)

    def success(self) -> "Guards":
        """Note that what is asked for was served."""
        return replace(self, failed="", reason="", retry=backoff.Retry(), fallen="")

    def is_waiting(self, target: str, now: float) -> bool:
        """Whether a target is not to be tried now, because it was not served a short while ago."""
        return target != "" and target in {self.failed, self.fallen} and self.retry.wait_s(now) > 0

    def restarted(self, now: float) -> "Guards":
        return replace(self, budget=self.budget.spend(now))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the guards say of a plan. `hold`: leave everything of the broker alone. `wait`: for how many seconds.
    `rescue`: what to fall back to instead of what the plan has.
    """

    guards: Guards
    findings: tuple[model.Finding, ...] = ()
    hold: bool = False
    degraded: bool = False
    wait: float | None = None
    rescue: observed.Rescue = observed.Rescue.NONE

    @property
    def objects(self) -> bool:
        """Whether there has to be another plan."""
        return bool(self.findings) or self.rescue is not observed.Rescue.NONE

    def then(self, later: "Verdict") -> "Verdict":
        """Both, the later one being about the plan that this one made necessary."""
        waits = [wait for wait in (self.wait, later.wait) if wait is not None]
        return replace(
            later,
            findings=(*self.findings, *later.findings),
            hold=self.hold or later.hold,
            degraded=self.degraded or later.degraded,
            wait=min(waits, default=None),
        )


def target_of(plan: operations.Plan) -> str:
    """The fingerprint of what a plan is to serve, by which a failed attempt is recognised."""
    serving = plan.serving
    if serving is None:
        return ""
    ca = None if serving.ca is None else ",".join(sorted(serving.ca))
    return ledger.fingerprint(serving.config, serving.pair, serving.key_type, ca)


def judge(
    guards: Guards, plan: operations.Plan, seen: observed.Observed, now: float, *, ordered: bool = False
) -> Verdict:
    """Judge a plan, `now` in seconds of CLOCK_MONOTONIC. An order of the operator's is carried out at once."""
    target = target_of(plan)
    if guards.is_waiting(target, now) and not ordered:
        wait = guards.retry.wait_s(now)
        if not plan.fallback:
            return Verdict(guards=guards, findings=(degraded(guards),), degraded=True, wait=wait)
        if seen.rescue is not observed.Rescue.INTERNAL:
            return Verdict(guards=guards, rescue=observed.Rescue.INTERNAL, wait=wait)
    guards, fighting = _writers(guards, plan, seen, target, now)
    # A broker that has failed is brought back whatever holds: each of the other writer's restarts may have spent
    # systemd's start limit (facts/mosquitto.md 11), and then nobody else starts it.
    dead = seen.broker is not None and seen.broker.has_failed
    if fighting > 0 and not ordered and not dead:
        assert plan.path is not None
        return Verdict(guards=guards, findings=(_fight(plan.path),), hold=True, wait=fighting)
    if any(isinstance(op, operations.RestartBroker) for op in plan.operations):
        wait = guards.budget.revival_wait_s(now) if dead else guards.budget.wait_s(now)
        if wait > 0 and not ordered:
            return Verdict(guards=guards, findings=(_budget(wait),), hold=True, wait=wait)
    return Verdict(guards=guards)


def _writers(
    guards: Guards, plan: operations.Plan, seen: observed.Observed, target: str, now: float
) -> tuple[Guards, float]:
    """Count a foreign rewrite of what we had put there, once, and return for how long to leave it alone."""
    writes = any(isinstance(op, operations.WriteListenerFile) for op in plan.operations)
    ours = seen.ledger.on_disk
    if not writes or ours is None or plan.serving is None or ours.config != plan.serving.config:
        return guards, 0.0
    found = ledger.fingerprint(seen.listener_data)
    if found != guards.foreign:
        guards = replace(guards, foreign=found, fight=guards.fight.foreign(now=now, inputs=target))
    return guards, guards.fight.wait_s(now=now, inputs=target)


def repaired(guards: Guards, plan: operations.Plan, seen: observed.Observed, now: float) -> Guards:
    """Note that a foreign rewrite was put right."""
    if guards.foreign and guards.foreign == ledger.fingerprint(seen.listener_data):
        return replace(guards, foreign="", fight=guards.fight.repaired(now=now, inputs=target_of(plan)))
    return guards


def degraded(guards: Guards) -> model.Finding:
    """The finding for a broker that runs with less than what is asked for, because it did not take that."""
    return model.Finding(
        code="rolled-back",
        severity=model.Severity.ERROR,
        where="mqtt.external",
        message=f"the broker did not serve what tedge.toml asks for ({guards.reason}); the last good state is kept",
        remedy="journalctl -u mosquitto -e; it is tried again by itself, at once when a setting changes, and by"
        " tedge-agentd apply",
        blocks=model.Area.BROKER,
    )


def _fight(path: str) -> model.Finding:
    return model.Finding(
        code="fight",
        severity=model.Severity.ERROR,
        where=path,
        message="another writer keeps changing it; it is left alone until that stops",
        remedy="find the other writer, or leave it the file: tedge config set mqtt.bind.enabled false",
        blocks=model.Area.BROKER,
    )


def _budget(wait: float) -> model.Finding:
    return model.Finding(
        code="restart-budget",
        severity=model.Severity.WARNING,
        where="mosquitto.service",
        message=f"the broker was restarted often lately; the next restart waits {wait:.0f} s",
        remedy="if it repeats, see what keeps changing: journalctl -u tedge-agentd",
        blocks=model.Area.BROKER,
        waits=True,
    )
