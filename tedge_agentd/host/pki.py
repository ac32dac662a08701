"""The local PKI as the daemon sees it: renew what is due, and say what an operator should know (contract 9)."""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core import errors, model
from ..core import pki as policy
from ..core import pki_register as reg
from . import files, opened
from .pki_issuer import Issuer, Means, Renewed, renewed
from .pki_store import Store, contents, digests

SYNCHRONIZED = "/run/systemd/timesync/synchronized"  # systemd-timesyncd.service(8)
TIMEDATECTL = "/usr/bin/timedatectl"
ANSWER_S = 10.0  # systemd-timedated is started to answer
LOOK_AGAIN = "tedge-agentd certs list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one look at the PKI has done, and what an operator should know."""

    renewed: tuple[Renewed, ...] = ()
    findings: tuple[model.Finding, ...] = ()


# The daemon's view ------------------------------------------------------------------------------------------


def status(state_dir: str) -> tuple[reg.Issued, ...]:
    """What this machine has issued. Raises InputError where the register is damaged."""
    return Store(state_dir).register().issued


def ours(state_dir: str) -> frozenset[str]:
    """The sha256 of every certificate that is renewed here, CAs included; none where the register is damaged."""
    try:
        register = Store(state_dir).register()
    except errors.InputError:
        return frozenset()
    leaves = (one.sha256 for one in register.issued if policy.is_ours_to_renew(one))
    return frozenset((*leaves, *(one.sha256 for one in register.authorities)))


def next_moment(state_dir: str, now: int, names: Sequence[str] | None = None) -> float:
    """When the next renewal falls due, in seconds since the epoch; infinity if none does. What is overdue is none."""
    try:
        register = Store(state_dir).register()
    except errors.InputError:
        return float("inf")
    return policy.next_moment(register, now, names)


def renew_due(
    state_dir: str, now: int, *, names: Sequence[str] | None = None, synchronized: bool = False
) -> tuple[Renewed, ...]:
    """The renewals of `sweep`, for those who do not report its findings."""
    return sweep(state_dir, Means(now=now, synchronized=synchronized), names=names).renewed


def sweep(state_dir: str, means: Means, *, names: Sequence[str] | None = None) -> Sweep:
    """Renew what is due, make the next CA when it is time, complete what was interrupted; ask at least daily.

    `names`: what the server is reached as now, None to leave its names alone. Costs a few file reads while nothing is
    due, and a worker process for each key otherwise. One failure does not keep the others from being renewed. While
    another process works on the PKI, nothing is done: the next call finds what is left. Raises nothing.
    """
    store = Store(state_dir)
    if not store.exists:
        return Sweep()
    renewals: tuple[Renewed, ...] = ()
    problems: tuple[model.Finding, ...] = ()
    try:
        if _has_work(store, means, names):
            with store.lock():
                renewals, problems = _work(store, means, names)
        return Sweep(renewed=renewals, findings=(*problems, *findings(store, means)))
    except files.Locked:
        return Sweep()
    except (errors.TedgeAgentdError, opened.Refused, OSError) as error:
        damaged = _finding("pki-damaged", store.root, str(error), getattr(error, "remedy", "") or LOOK_AGAIN)
        return Sweep(renewed=renewals, findings=(*problems, damaged))


def clock_synchronized(state_dir: str, now: int) -> bool:
    """Whether a time server is known to have set the clock since boot. Raises nothing; False is no proof.

    systemd-timesyncd leaves a mark. Of chrony and ntpd the kernel knows, which is asked only where it decides
    something: a process, and systemd-timedated behind it, are too much for every look.
    """
    if os.path.exists(SYNCHRONIZED):
        return True
    try:
        register = Store(state_dir).register()
    except errors.InputError:
        return False
    return policy.is_behind(register, now) and _kernel_is_synchronized()


def _kernel_is_synchronized() -> bool:
    """What timedatectl says of it: adjtimex(2) itself is nothing that the daemon's sandbox permits."""
    command = [TIMEDATECTL, "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == b"yes"


def _has_work(store: Store, means: Means, names: Sequence[str] | None) -> bool:
    register = store.register()
    return bool(
        not store.is_settled(register)
        or policy.rollover_due(register, means.now)
        or _unpublished(register)
        or _due(register, means, names)
    )


def _work(
    store: Store, means: Means, names: Sequence[str] | None
) -> tuple[tuple[Renewed, ...], tuple[model.Finding, ...]]:
    """Complete, roll over, renew; each on its own, so that one failure stops nothing else."""
    issuer = Issuer(store, means)
    renewals: list[Renewed] = []
    problems: list[model.Finding] = []

    def attempt(where: str, what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except (errors.TedgeAgentdError, opened.Refused, OSError) as error:
            remedy = getattr(error, "remedy", "") or LOOK_AGAIN
            problems.append(_finding("pki-renewal-failed", where, f"{what} failed: {error}", remedy))

    attempt(store.root, "completing an interrupted renewal", lambda: renewals.extend(issuer.recover()))
    if policy.rollover_due(store.register(), means.now):
        attempt(store.root, "making the next CA", issuer.create_authority)
    if _unpublished(register := store.register()):
        attempt(register.bundle_path, "publishing the new CA", issuer.publish)
    for one, reason in _due(store.register(), means, names):

        def renew(one: reg.Issued = one, reason: str = reason) -> None:
            renewals.append(renewed(issuer.renew(one, names), reason))

        attempt(one.cert_path, f"renewing {describe(one)}", renew)
    return tuple(renewals), tuple(problems)


def _unpublished(register: reg.Register) -> bool:
    return bool(register.bundle_path) and any(one.published is None for one in register.authorities)


def _due(register: reg.Register, means: Means, names: Sequence[str] | None) -> list[tuple[reg.Issued, str]]:
    """What is renewed now, and why: what is due, is still what was issued, and has a CA to sign it."""
    if policy.signer(register, means.now, means.settings.overlap) is None:
        return []
    reasons = (
        (one, policy.reason_to_renew(one, means.now, synchronized=means.synchronized, names=names))
        for one in register.issued
        if policy.is_ours_to_renew(one)
    )
    return [(one, why) for one, why in reasons if why and condition(one) is policy.Condition.GOOD]


# Conditions and findings ------------------------------------------------------------------------------------


def condition(one: reg.Issued) -> policy.Condition:
    """What lies where a pair was put."""
    if not one.cert_path:
        return policy.Condition.HANDED_OVER
    try:
        halves = {_half(one.cert_path, one.sha256), _half(one.key_path, one.key_sha256)}
    except (opened.Refused, OSError):
        return policy.Condition.UNREADABLE
    if policy.Condition.REPLACED in halves:
        return policy.Condition.REPLACED
    return halves.pop() if len(halves) == 1 else policy.Condition.HALF


def _half(path: str, expected: str) -> policy.Condition:
    data = contents(path)
    if data is None:
        return policy.Condition.MISSING
    return policy.Condition.GOOD if digests(data)[:1] == (expected,) else policy.Condition.REPLACED


def findings(store: Store, means: Means) -> tuple[model.Finding, ...]:
    """What an operator should know about the PKI as it is. Raises InputError where the register is damaged."""
    register = store.register()
    found = [finding for one in register.issued if (finding := _about(one, means)) is not None]
    if register.authorities and not policy.trusted(register, means.now):
        message = f"every CA of the local PKI has expired by this clock ({policy.utc(means.now)}): nothing is renewed"
        remedy = "check the clock (timedatectl); if it is right: tedge-agentd certs init --rollover"
        found.append(_finding("pki-ca-expired", store.root, message, remedy, model.Severity.ERROR))
    coming = policy.coming(register, means.now, means.settings.overlap)
    if coming is not None:
        message = f"a new CA is trusted now and will issue from {policy.utc(coming)} on"
        remedy = f"give {register.bundle_path} to every client before that"
        found.append(_finding("pki-rollover", register.bundle_path, message, remedy, model.Severity.INFO))
    return tuple(found)


def _about(one: reg.Issued, means: Means) -> model.Finding | None:
    now = means.now
    state = condition(one)
    what = describe(one)
    renew = f"tedge-agentd certs renew {one.role.value}"
    if state is policy.Condition.HANDED_OVER:
        if abs(one.not_after - now) > 30 * policy.DAY:
            return None
        message = f"the certificate of {what} ends {policy.utc(one.not_after)}; it was handed over with its key"
        return _finding("pki-child-expiring", one.name, message, f"{renew} {one.name} --out DIR, and hand it over")
    if state is policy.Condition.REPLACED:
        message = f"{what} is no longer what the local PKI issued, so it is not renewed"
        return _finding("pki-replaced", one.cert_path, message, "", model.Severity.INFO)
    if state is policy.Condition.MISSING:
        message = f"{what} was issued but is not there any more, so it is not renewed"
        return _finding("pki-missing", one.cert_path, message, renew, model.Severity.INFO)
    if state is not policy.Condition.GOOD:
        message = f"{what} is no whole pair of readable files ({one.cert_path}, {one.key_path}), so it is not renewed"
        return _finding("pki-half", one.cert_path, message, renew)
    if now < one.not_before and not means.synchronized:
        message = f"the clock says {policy.utc(now)}, but {what} is valid from {policy.utc(one.not_before)} on"
        return _finding("pki-clock", one.cert_path, message, f"timedatectl; if it is right: {renew} --trust-clock")
    return None


def _finding(
    code: str, where: str, message: str, remedy: str, severity: model.Severity = model.Severity.WARNING
) -> model.Finding:
    return model.Finding(code=code, severity=severity, where=where, message=message, remedy=remedy)


def describe(one: reg.Issued) -> str:
    """A certificate in an operator's words."""
    if one.role is reg.Role.CHILD:
        return f"child device {one.name}"
    return "the server certificate" if one.role is reg.Role.SERVER else "the client certificate of thin-edge"
