"""Creating runs, under idempotency keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from attrs import frozen

from runlane import decisions
from runlane.decisions import Change
from runlane.errors import ConflictKind, StorageConflict
from runlane.events import RunCreated
from runlane.projections.runs import Run
from runlane.storage import keys, log, queries
from runlane.storage.transaction import Transaction
from runlane.values import Actor, TriggerOutcome


@frozen
class NewRun:
    """A validated request for a run."""

    id: UUID
    created: RunCreated
    actor: Actor
    delay: timedelta | None = None


@frozen
class Triggered:
    """What a trigger came to: the run, and whether it was created or owns the key already."""

    run: Run
    outcome: TriggerOutcome


def trigger(tx: Transaction, environment: str, wanted: Sequence[NewRun]) -> list[Triggered]:
    """Create the wanted runs, or find the owners of their keys; outcomes in the order of the requests.

    Raises:
        StorageConflict: a run with one of the ids exists (kind ``run_exists``).
    """
    now = tx.now()
    return give_birth(tx, [birth(new, environment, now) for new in wanted], now)


def give_birth(tx: Transaction, births: Sequence[Change], now: datetime) -> list[Triggered]:
    """Append births; where somebody else owns the key, the owner instead."""
    lost = log.append_runs(tx, births)
    done = {
        change.after.id: Triggered(change.after, TriggerOutcome.CREATED)
        for change in births
        if change.after.id not in lost
    }
    # One order of keys for everybody, so that two batches cannot wait for each other in a circle.
    contested = sorted((c for c in births if c.after.id in lost), key=lambda c: (c.after.task_id, _key(c)))
    for change in contested:
        done[change.after.id] = _settle_key(tx, change, now)
    return [done[change.after.id] for change in births]


def birth(new: NewRun, environment: str, now: datetime) -> Change:
    """The change that creates a run."""
    return decisions.begin(new.id, environment, decisions.create(new.created, new.delay, now), now, new.actor)


def _settle_key(tx: Transaction, change: Change, now: datetime) -> Triggered:
    """The owner of the key if it keeps it, else the new run as the next owner."""
    run = change.after
    for _ in range(3):
        owner_id = keys.lock_owner(tx, run.environment, run.task_id, _key(change))
        if owner_id is None:  # freed meanwhile
            if run.id not in log.append_runs(tx, [change]):
                return Triggered(run, TriggerOutcome.CREATED)
            continue
        owner = queries.get_run(tx, run.environment, owner_id)
        if owner is not None and decisions.keeps_key(owner, now):
            return Triggered(owner, TriggerOutcome.REUSED_IDEMPOTENT)
        if log.take_over_key(tx, change, owner_id):
            return Triggered(run, TriggerOutcome.CREATED)
    raise StorageConflict(
        f"idempotency key {_key(change)!r} changes hands too fast", kind=ConflictKind.IDEMPOTENCY_OWNER
    )


def _key(change: Change) -> str:
    return change.after.idempotency_key or ""
