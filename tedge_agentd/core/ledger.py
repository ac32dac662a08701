"""What the daemon remembers between passes, crashes and boots, and what follows from it.

The ledger never decides what is right, only what running processes have read: whether the broker serves what lies
on disk, and whether a client started before the last change of what it reads. Moments are monotonic within one boot,
so that a clock jump (a gateway without an RTC) neither hides nor invents a stale process.
"""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import model

VERSION = 1
_HISTORY = 8  # changes of the clients' settings in a row while none of them could be restarted


class Action(enum.Enum):
    """What the broker needs to serve a target, mildest first."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a broker process has read. `config` is the fingerprint of the listener file's meaning; `pair` that of the
    combined certificate and key, `key_type` its kind, `ca` the certificates that verify clients.
    """

    config: str
    pair: str | None = None
    key_type: str | None = None
    ca: frozenset[str] | None = None
    ca_is_dir: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Where the staged pair came from. `leaf` is the sha256 of the certificate that listeners present."""

    cert_path: str
    key_path: str
    fingerprint: str
    key_type: str
    leaf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """The listener file that last verified, with what it serves. `copies` are digests of the staged names it needs,
    whose contents lie in the state directory.
    """

    path: str
    content: bytes
    serving: Serving
    staged: Staged | None = None
    copies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInputs:
    """What clients read at their start: a fingerprint, and since when it has been so. None: before we looked.

    `before` is what it was earlier, oldest first: a setting that is changed and set back finds clients that never
    read the change, and leaves them alone.
    """

    fingerprint: str
    since: model.Stamp | None = None
    before: tuple[tuple[str, model.Stamp | None], ...] = ()

    def changed_to(self, fingerprint: str, now: model.Stamp) -> "ClientInputs":
        """The inputs from now on. Of changes that no client was restarted for, some are remembered, not all."""
        before = (*self.before, (self.fingerprint, self.since))[-_HISTORY:]
        return ClientInputs(fingerprint=fingerprint, since=now, before=before)

    def read_by(self, unit: model.UnitFacts, now: model.Stamp) -> str | None:
        """The fingerprint of what a running unit read when it started; None if that was too long ago to know."""
        for fingerprint, since in ((self.fingerprint, self.since), *reversed(self.before)):
            if started_after(unit, since, now):
                return fingerprint
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    serving: Serving | None = None
    invocation: str = ""  # the broker process `serving` was established for
    verified: str = ""  # the broker process that verified with `serving`
    on_disk: Serving | None = None
    since: model.Stamp | None = None  # when `on_disk` came to lie there
    staged: Staged | None = None
    last_good: LastGood | None = None
    clients: Mapping[str, ClientInputs] = field(default_factory=dict)


def fingerprint(*parts: bytes | str | None) -> str:
    """A stable digest of a sequence in which no two sequences share an encoding."""
    digest = hashlib.sha256()
    for part in parts:
        data = b"" if part is None else part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(b"-" if part is None else b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def started_after(unit: model.UnitFacts, since: model.Stamp | None, now: model.Stamp) -> bool:
    """Whether a unit's process began after a moment. A moment of an earlier boot is before every running process."""
    return since is None or since.boot_id != now.boot_id or unit.started_usec > since.usec


def broker_serves(ledger: Ledger, unit: model.UnitFacts, now: model.Stamp) -> Serving | None:
    """What the running broker has read; None when that is not known, so that only a restart makes it so."""
    if ledger.invocation and ledger.invocation == unit.invocation:
        return ledger.serving
    if ledger.on_disk is not None and started_after(unit, ledger.since, now):
        return ledger.on_disk
    return None


def broker_action(serving: Serving | None, target: Serving) -> tuple[Action, str]:
    """The mildest action after which a broker serves the target, and why (contract 8, facts/mosquitto.md 1)."""
    if serving is None:
        return Action.RESTART, "the broker has not read the listener file as it is now"
    if serving.config != target.config:
        return Action.RESTART, "the listeners changed"
    if serving.key_type != target.key_type:
        # OpenSSL keeps one certificate per key type: after a reload some clients would still get the old one.
        return Action.RESTART, f"the server key changed from {serving.key_type} to {target.key_type}"
    if _ca_needs_restart(serving, target):
        return Action.RESTART, "the client CA changed"
    if serving.pair != target.pair:
        return Action.RELOAD, "the server certificate was renewed"
    return Action.NONE, ""


def _ca_needs_restart(serving: Serving, target: Serving) -> bool:
    """A CA file is read at start only; a hashed directory is read live, but what was read once is kept."""
    if not target.ca_is_dir:
        return serving.ca != target.ca
    return bool((serving.ca or frozenset()) - (target.ca or frozenset()))


# JSON -------------------------------------------------------------------------------------------------------


def to_json(ledger: Ledger) -> dict[str, Any]:
    """The ledger as plain data. It holds no secret: pairs appear as digests only."""
    good = ledger.last_good
    return {
        "version": VERSION,
        "serving": _serving_out(ledger.serving),
        "invocation": ledger.invocation,
        "verified": ledger.verified,
        "on_disk": _serving_out(ledger.on_disk),
        "since": _stamp_out(ledger.since),
        "staged": _staged_out(ledger.staged),
        "last_good": None
        if good is None
        else {
            "path": good.path,
            "content": good.content.decode(),
            "serving": _serving_out(good.serving),
            "staged": _staged_out(good.staged),
            "copies": dict(good.copies),
        },
        "clients": {
            group: {
                "fingerprint": inputs.fingerprint,
                "since": _stamp_out(inputs.since),
                "before": [[fp, _stamp_out(since)] for fp, since in inputs.before],
            }
            for group, inputs in sorted(ledger.clients.items())
        },
    }


def from_json(data: object) -> Ledger:
    """The inverse of to_json. Raises ValueError on anything else, also on a later version's ledger."""
    try:
        assert isinstance(data, dict)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']} of the ledger is not known")
        good = data["last_good"]
        return Ledger(
            serving=_serving_in(data["serving"]),
            invocation=str(data["invocation"]),
            verified=str(data["verified"]),
            on_disk=_serving_in(data["on_disk"]),
            since=_stamp_in(data["since"]),
            staged=_staged_in(data["staged"]),
            last_good=None if good is None else _last_good_in(good),
            clients={
                str(group): ClientInputs(
                    fingerprint=str(inputs["fingerprint"]),
                    since=_stamp_in(inputs["since"]),
                    before=tuple((str(fp), _stamp_in(since)) for fp, since in inputs["before"]),
                )
                for group, inputs in data["clients"].items()
            },
        )
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"the ledger is damaged: {error!r}") from error


def _last_good_in(data: Mapping[str, Any]) -> LastGood:
    serving = _serving_in(data["serving"])
    assert serving is not None
    return LastGood(
        path=str(data["path"]),
        content=str(data["content"]).encode(),
        serving=serving,
        staged=_staged_in(data["staged"]),
        copies={str(name): str(digest) for name, digest in data["copies"].items()},
    )


def _serving_out(serving: Serving | None) -> dict[str, Any] | None:
    if serving is None:
        return None
    return {
        "config": serving.config,
        "pair": serving.pair,
        "key_type": serving.key_type,
        "ca": None if serving.ca is None else sorted(serving.ca),
        "ca_is_dir": serving.ca_is_dir,
    }


def _serving_in(data: Mapping[str, Any] | None) -> Serving | None:
    if data is None:
        return None
    ca = data["ca"]
    return Serving(
        config=str(data["config"]),
        pair=data["pair"],
        key_type=data["key_type"],
        ca=None if ca is None else frozenset(ca),
        ca_is_dir=bool(data["ca_is_dir"]),
    )


def _staged_out(staged: Staged | None) -> dict[str, str] | None:
    if staged is None:
        return None
    return {name: getattr(staged, name) for name in ("cert_path", "key_path", "fingerprint", "key_type", "leaf")}


def _staged_in(data: Mapping[str, Any] | None) -> Staged | None:
    return None if data is None else Staged(**{str(name): str(value) for name, value in data.items()})


def _stamp_out(stamp: model.Stamp | None) -> dict[str, Any] | None:
    return None if stamp is None else {"boot_id": stamp.boot_id, "usec": stamp.usec}


def _stamp_in(data: Mapping[str, Any] | None) -> model.Stamp | None:
    return None if data is None else model.Stamp(boot_id=str(data["boot_id"]), usec=int(data["usec"]))
