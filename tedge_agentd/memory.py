"""What is remembered between passes, held in memory for as long as the disk does not take it."""

import contextlib

from . import apply, settings
from .core import errors, model, observed, operations
from .core.guards import Guards
from .core.ledger import Ledger
from .host import state
from .world import World


class Keeper:
    """The ledger and the guards, durable where the disk lets us. What the broker has read we know in any case."""

    def __init__(self) -> None:
        self.memory = state.Memory()
        self._unsaved: errors.TransientError | None = None

    @property
    def ledger(self) -> Ledger:
        return self.memory.ledger

    @property
    def guards(self) -> Guards:
        return Guards.from_dict(self.memory.retries)

    def recall(self, store: state.State) -> None:
        """Take from disk what another process may have written, unless the disk has not taken what we know."""
        with contextlib.suppress(OSError):  # what has to be written will say so
            store.prepare()
        if self._unsaved is None:
            self.memory = store.load()
            return
        try:
            store.save(self.memory)
            self._unsaved = None
        except OSError as error:
            self._unsaved = unwritable(error)

    def look_up(self, store: state.State) -> None:
        """As `recall`, but changing nothing."""
        self.memory = store.load()

    def save(self, store: state.State, remembered: Ledger, held: Guards | None = None) -> None:
        retries = self.memory.retries if held is None else held.to_dict()
        memory = state.Memory(ledger=remembered, retries=retries)
        if memory == self.memory and self._unsaved is None:
            return
        self.memory = memory
        try:
            store.save(memory)
            good = remembered.last_good
            store.forget(set(good.copies.values()) if good is not None else set())
        except OSError as error:
            self._unsaved = unwritable(error)

    def end(self, store: state.State) -> None:
        """The transaction is over. A record that cannot be removed is only further back than it could be."""
        try:
            store.end()
        except OSError as error:
            self._unsaved = unwritable(error)

    def after(self, plan: operations.Plan, seen: observed.Observed, result: apply.Result, world: World) -> Ledger:
        """The ledger after a broker part that succeeded. Copies that cannot be kept make no new last good."""
        try:
            return apply.remember(plan, seen, result, world, self.ledger)
        except OSError as error:
            self._unsaved = unwritable(error)
            return apply.remember(plan, seen, result, world, self.ledger, keep=False)

    def findings(self) -> tuple[model.Finding, ...]:
        """What is wrong with remembering."""
        found = []
        if self.memory.damaged:
            found.append(_damaged(self.memory.damaged))
        if self._unsaved is not None:
            found.append(_not_saved(self._unsaved))
        return tuple(found)


def unwritable(error: OSError) -> errors.TransientError:
    where = error.filename or settings.STATE_DIR
    return errors.TransientError(f"{where}: {error.strerror}", f"df -h {where}; findmnt -T {where}")


def _not_saved(error: errors.TransientError) -> model.Finding:
    return model.Finding(
        code="not-remembered",
        severity=model.Severity.ERROR,
        where=settings.STATE_DIR,
        message=f"what was done could not be remembered, which may cost one restart more later: {error}",
        remedy=error.remedy,
    )


def _damaged(reason: str) -> model.Finding:
    return model.Finding(
        code="state-damaged",
        severity=model.Severity.WARNING,
        where="/var/lib/tedge-agentd/state.json",
        message=f"what was remembered is lost, so the broker may be restarted once more than needed: {reason}",
        remedy="nothing to do",
    )
