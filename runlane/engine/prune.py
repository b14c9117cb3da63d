"""Pruning: ended runs that are old enough go, and the log says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from attrs import evolve, frozen

from runlane import decisions
from runlane.errors import ConfigurationInvalid
from runlane.storage import checkpoints, epochs, log, prune
from runlane.storage.transaction import Transaction
from runlane.values import Actor, RunStatus

#: How many runs one event tells of: each adds some 170 bytes to it, and the log is read many events at a time.
_TOLD_AT_ONCE = 100
Keep = Callable[[Transaction, Sequence[UUID]], str]


@frozen
class Old:
    """Which runs to prune: of these statuses, last updated before the cutoff, by id behind `after`, so many at most."""

    older_than: timedelta | datetime
    statuses: Sequence[RunStatus]
    limit: int
    after: UUID | None = None

    def cutoff(self, now: datetime) -> datetime:
        """The instant before which a run is old enough.

        Raises:
            ConfigurationInvalid: it lies in the future, so that what ends at this moment would go.
        """
        if isinstance(self.older_than, datetime):
            if self.older_than > now:
                raise ConfigurationInvalid(f"older_than must not lie in the future: {self.older_than.isoformat()}")
            return self.older_than
        try:
            return now - self.older_than
        except OverflowError:  # older than the calendar
            return datetime.min.replace(tzinfo=UTC)


@frozen
class Removed:
    """What went: runs, events, keys, the cutoff; the id of the last run, if more are old enough; the archive."""

    runs: int
    events: int
    keys: int
    cutoff: datetime
    last: UUID | None = None
    archive: str | None = None


def find(tx: Transaction, environment: str, old: Old) -> Removed:
    """What ``remove`` would remove; nothing is written."""
    return _find(tx, environment, old, old.cutoff(tx.now()), lock=False)[0]


def remove(
    tx: Transaction,
    environment: str,
    old: Old,
    actor: Actor,
    reason: str | None = None,
    keep: Keep | None = None,
) -> Removed:
    """Remove ended runs with their events and keys, and append ``environment.pruned`` for each hundred of them.

    Args:
        keep: writes the histories of these runs somewhere durable first, and returns the SHA-256 (hex) of what it
            wrote; the events say it.  What it wrote stays where the transaction does not commit.

    Raises:
        InvariantViolation: the history of a run is damaged; nothing is removed.
    """
    # First of all, so that two at once see each other's work: neither counts what the other removes.
    log.lock_environment(tx, environment)
    now = tx.now()
    found, sequences = _find(tx, environment, old, old.cutoff(now), lock=True)
    ids = list(sequences)
    bounds = checkpoints.bounds(tx, environment, prune.lowest_position(tx, ids) - 1) if ids else []
    archive = keep(tx, ids) if keep is not None and ids else None
    epoch = epochs.token(tx) or None
    for some in (ids[start : start + _TOLD_AT_ONCE] for start in range(0, len(ids), _TOLD_AT_ONCE)):
        part = {run_id: sequences[run_id] for run_id in some}
        heads = prune.read_heads(tx, part, bounds)
        event = decisions.pruned(part, found.cutoff, old.statuses, heads, reason, archive, epoch)
        prune.remove(tx, log.append_environment(tx, environment, event, now, actor), part)
    return evolve(found, archive=archive)


def _find(
    tx: Transaction, environment: str, old: Old, cutoff: datetime, *, lock: bool
) -> tuple[Removed, dict[UUID, int]]:
    found = prune.ended_runs(tx, environment, old.statuses, cutoff, old.after, old.limit + 1)
    ids = list(found)[: old.limit]
    heads = {run_id: found[run_id] for run_id in ids}
    if ids and lock:  # ended runs do not change, so that those that were found are still there
        prune.lock(tx, ids)
    keys = prune.count_keys(tx, ids) if ids else 0
    last = ids[-1] if len(found) > len(ids) else None
    return Removed(len(heads), sum(heads.values()), keys, cutoff, last), heads
