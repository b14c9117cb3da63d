"""Leases: claiming due runs, giving them back, recovering those whose owner has vanished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from types import MappingProxyType
from uuid import UUID

from attrs import frozen

from runlane import decisions
from runlane.decisions import Change, Interrupted
from runlane.engine.complete import Wakes, no_wakeups
from runlane.engine.trigger import NewRun, Triggered, birth, give_birth, trigger
from runlane.errors import InvariantViolation, QueueCapacityExceeded
from runlane.events import RunStep
from runlane.policy import ONE_ATTEMPT
from runlane.projections.runs import Run
from runlane.storage import claims, log, partitions, sessions
from runlane.storage.floors import Floors, Look, Stretch
from runlane.storage.partitions import Partition
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction
from runlane.values import SYSTEM, Actor, ActorType, RunStatus, TriggerOutcome

#: No queue has a limit.
UNLIMITED: Mapping[str, int] = MappingProxyType({})


@frozen
class Recovered:
    """What was taken from a session: runs queued again or failed, cancellations finalized; whether some are left."""

    runs: int = 0
    cancelled: int = 0
    more: bool = False


@frozen
class Holder:
    """A worker session that takes leases, and under which name."""

    session_id: UUID
    worker_id: str

    @property
    def actor(self) -> Actor:
        """The worker as the cause of events."""
        return Actor(ActorType.WORKER, self.worker_id)


def claim(
    tx: Transaction,
    environment: str,
    holder: Holder,
    queues: Sequence[str],
    tasks: Sequence[str],
    limit: int,
    now: datetime,
    limits: Mapping[str, int] = UNLIMITED,
    floors: Floors | None = None,
) -> list[Run]:
    """Lease up to `limit` runs that are due at `now`, best first; only of these queues and tasks.

    Nothing if the holder's session has ended; where nothing was found, ``is_open`` tells which it was.

    Args:
        limits: the concurrency limits of queues that have one.
        floors: where the claims of this worker go on; without them it looks everywhere.
    """
    unlimited = [queue for queue in queues if queue not in limits]
    bounded = {queue: limits[queue] for queue in queues if queue in limits}
    # Those first: they may wait for a lock, and what is locked meanwhile would be hidden from other workers.
    slotted = partitions.lock_due(tx, environment, holder.session_id, bounded, tasks, now, limit)
    if not slotted:
        return claim_unlimited(tx, environment, holder, unlimited, tasks, limit, now, floors)
    stretches, everywhere = (floors or Floors()).stretches(unlimited)
    asked = monotonic()
    found = claims.lock_due(tx, environment, holder.session_id, stretches, tasks, now, limit)
    seconds = monotonic() - asked
    all_found = len(found) < limit and len(slotted) + len(found) <= limit
    found = sorted(slotted + found, key=_rank)[:limit]
    if floors is not None:
        mine = [run for run in found if run.queue not in bounded]
        last = (mine[-1].priority, mine[-1].due_at, mine[-1].id) if mine and mine[-1].due_at is not None else None
        floors.learn(Look(len(mine), last, all_found, now, seconds, everywhere))
    return _lease(tx, holder, found, bounded, tx.now())  # as it is after the wait


def claim_unlimited(
    tx: Transaction,
    environment: str,
    holder: Holder,
    queues: Sequence[str],
    tasks: Sequence[str],
    limit: int,
    now: datetime | None = None,
    floors: Floors | None = None,
    beside: Successes | None = None,
) -> list[Run]:
    """``claim`` for queues without a limit, in one statement, whose moment it is unless `now` is given.

    Args:
        beside: attempts that succeeded, appended by the same statement.
    """
    stretches, everywhere = (floors or Floors()).stretches(queues)
    asked = monotonic()
    who = holder.session_id, holder.worker_id
    leased, due_at = claims.lease_due(tx, environment, *who, stretches, tasks, now, limit, beside)
    if floors is not None:
        last = None if due_at is None else (leased[-1].priority, due_at, leased[-1].id)
        now = min((run.updated_at for run in leased), default=None) if now is None else now
        floors.learn(Look(len(leased), last, len(leased) < limit, now, monotonic() - asked, everywhere))
    return leased


def _lease(
    tx: Transaction, holder: Holder, found: Sequence[Run], bounded: Mapping[str, int], now: datetime
) -> list[Run]:
    """Lease runs that are locked."""
    actor = holder.actor
    leases: dict[tuple[int, int | None], tuple[RunStep, ...]] = {}  # first attempts share one event, and so on
    changes = []
    for run in found:
        most = bounded.get(run.queue)
        events = leases.get((run.attempt_count, most))
        if events is None:
            events = decisions.lease(run, holder.session_id, holder.worker_id, most)
            leases[run.attempt_count, most] = events
        changes.append(decisions.advance(run, events, now, actor))
    leased = [change.after for change in changes]
    lost = log.append_runs(tx, changes)
    return [run for run in leased if run.id not in lost]


def may_claim(tx: Transaction, environment: str, holder: Holder, queues: Sequence[str], tasks: Sequence[str]) -> bool:
    """Whether a claim would find something, or find that the session has ended; only reads, for SQLite."""
    return any_due(tx, environment, holder, queues, tasks) or not is_open(tx, holder)


def any_due(tx: Transaction, environment: str, holder: Holder, queues: Sequence[str], tasks: Sequence[str]) -> bool:
    """Whether a run of queues without a limit is due, be it that another transaction has it locked; only reads."""
    everywhere = [Stretch(queue) for queue in queues]
    return claims.any_due(tx, environment, holder.session_id, everywhere, tasks, tx.now())


def _rank(run: Run) -> tuple[int, datetime | None, UUID]:
    """The claim order."""
    return -run.priority, run.due_at, run.id


def is_open(tx: Transaction, holder: Holder) -> bool:
    """Whether the holder's session has its row still."""
    return sessions.exists(tx, holder.session_id)


def create_leased(
    tx: Transaction, environment: str, holder: Holder, new: NewRun, limit: int | None = None
) -> Triggered:
    """Create a run and take its first lease in one step; or find the owner of its idempotency key, leased or not.

    Args:
        limit: the concurrency limit of the run's queue, if it has one.

    Raises:
        QueueCapacityExceeded: every slot of the run's partition is in use; the caller's transaction must not commit.
    """
    if limit is not None:
        found = trigger(tx, environment, [new])[0]
        return _lease_bounded(tx, holder, found.run, limit) if found.outcome is TriggerOutcome.CREATED else found
    now = tx.now()
    created = birth(new, environment, now)
    leased = decisions.advance(
        created.after, decisions.lease(created.after, holder.session_id, holder.worker_id), now, holder.actor
    )
    change = Change(None, created.records + leased.records, leased.after)
    return give_birth(tx, [change], now)[0]


def _lease_bounded(tx: Transaction, holder: Holder, run: Run, limit: int) -> Triggered:
    """Lease a run that this transaction has made, if its partition has a slot.

    The lease is written once the slot is certain, so that at no position of the log there is one lease too many.
    """
    partition = Partition(run.queue, run.concurrency_key, limit)
    if not partitions.lock(tx, run.environment, [partition])[partition].free:
        place = f"queue {run.queue!r}" + (f", concurrency key {run.concurrency_key!r}" if run.concurrency_key else "")
        raise QueueCapacityExceeded(
            f"{place}: all {limit} slots are in use",
            meta={"queue": run.queue, "concurrency_key": run.concurrency_key, "concurrency_limit": limit},
        )
    events = decisions.lease(run, holder.session_id, holder.worker_id, limit)
    change = decisions.advance(run, events, tx.now(), holder.actor)
    if log.append_runs(tx, [change]):
        raise InvariantViolation(f"run {run.id} was changed before the transaction that made it has ended")
    return Triggered(change.after, TriggerOutcome.CREATED)


def give_back(
    tx: Transaction,
    holder: Holder,
    strays: dict[UUID, int],
    reason: str,
    max_events: int,
    wakes: Wakes = no_wakeups,
) -> int:
    """Queue again those of `strays` (run to attempt) that the session still holds; how many those were."""
    runs = claims.lock_runs(tx, list(strays))
    now = tx.now()
    changes = []
    for run in runs:
        events = decisions.complete(
            run,
            holder.session_id,
            strays[run.id],
            Interrupted(reason),
            ONE_ATTEMPT,
            now,
            0.0,
            max_events,
            wakes(run.queue),
        )
        if events:
            changes.append(decisions.advance(run, events, now, holder.actor))
    return len(changes) - len(log.append_runs(tx, changes)) if changes else 0


def recover_session(
    tx: Transaction,
    session_id: UUID,
    max_lost: Callable[[str], int],
    max_events: int,
    wakes: Wakes = no_wakeups,
    limit: int = 500,
    run_ids: Sequence[UUID] | None = None,
) -> Recovered:
    """Take the runs of a session whose time has run out, or that has no row, away from it.

    Args:
        run_ids: only these of its runs; the session stays then.
    """
    expires_at = sessions.lock_expired(tx, session_id)
    now = tx.now()
    if expires_at is not None and expires_at > now:
        return Recovered()
    runs = claims.lock_leased(tx, session_id, limit, run_ids)
    changes = [
        decisions.advance(run, events, now, SYSTEM)
        for run in runs
        if (events := decisions.recover(run, max_lost(run.task_id), max_events, wakes(run.queue)))
    ]
    lost = log.append_runs(tx, changes) if changes else set()
    done = [change.after for change in changes if change.after.id not in lost]
    if expires_at is not None and len(runs) < limit and run_ids is None:
        sessions.close_session(tx, session_id)
    cancelled = sum(run.status is RunStatus.CANCELLED for run in done)
    return Recovered(len(done) - cancelled, cancelled, len(runs) == limit)
