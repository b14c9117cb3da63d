"""Deliveries: asking for wakeups, setting slots aside for them, and what a wakeup that has come is good for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from attrs import frozen

from runlane import decisions
from runlane.engine.lease import Holder
from runlane.events import RunStep
from runlane.projections.runs import Run
from runlane.storage import claims, given_up, log, partitions, queries, queues, waiting
from runlane.storage.partitions import Partition
from runlane.storage.transaction import Transaction
from runlane.values import SYSTEM, RunStatus
from runlane.wakeup import Wakeup


class DeliveryOutcome(StrEnum):
    """Whether a wakeup led to an attempt."""

    EXECUTED = "executed"
    IGNORED = "ignored"


class IgnoreReason(StrEnum):
    """Why a wakeup was ignored; the run goes its way without it."""

    NOT_FOUND = "not_found"
    TERMINAL = "terminal"
    NOT_DUE = "not_due"
    WRONG_QUEUE = "wrong_queue"
    ALREADY_LEASED = "already_leased"
    CANCELLATION_REQUESTED = "cancellation_requested"
    NO_CAPACITY = "no_capacity"
    UNKNOWN_TASK = "unknown_task"
    WRONG_ENVIRONMENT = "wrong_environment"
    LOST_RACE = "lost_race"


@frozen
class Delivery:
    """What came of a wakeup: the run as it is then, if there is one, and the reason if nothing was executed."""

    outcome: DeliveryOutcome
    reason: IgnoreReason | None = None
    run: Run | None = None


@frozen
class Consumer:
    """What the process that got a wakeup may execute: these queues (with these limits) and these tasks."""

    queues: Collection[str]
    tasks: Collection[str]
    limits: Mapping[str, int]


def ignored(reason: IgnoreReason, run: Run | None = None) -> Delivery:
    """The wakeup was of no use."""
    return Delivery(DeliveryOutcome.IGNORED, reason, run)


def accept(tx: Transaction, environment: str, holder: Holder, wakeup: Wakeup, consumer: Consumer) -> Run | Delivery:
    """Lease the run of a wakeup, or say why not; the wakeup itself is believed in nothing."""
    if wakeup.environment != environment:
        return ignored(IgnoreReason.WRONG_ENVIRONMENT)
    seen = queries.get_run(tx, environment, wakeup.run_id)
    if seen is None:
        return ignored(IgnoreReason.NOT_FOUND)
    if (reason := _refusal(seen, wakeup, consumer, tx.now())) is not None:
        return ignored(reason, seen)
    # It waits: a claim that locks more rows than it leases would otherwise have the wakeup thrown away.
    run = next(iter(claims.lock_runs(tx, [wakeup.run_id])), None)
    if run is None:
        return ignored(IgnoreReason.NOT_FOUND)
    if (reason := _refusal(run, wakeup, consumer, tx.now())) is not None:
        return ignored(reason, run)
    limit = consumer.limits.get(run.queue)
    if not _has_slot(tx, run, limit):
        return ignored(IgnoreReason.NO_CAPACITY, run)
    events = decisions.lease(run, holder.session_id, holder.worker_id, limit)
    change = decisions.advance(run, events, tx.now(), holder.actor)
    return ignored(IgnoreReason.LOST_RACE, run) if log.append_runs(tx, [change]) else change.after


def _refusal(run: Run, wakeup: Wakeup, consumer: Consumer, now: datetime) -> IgnoreReason | None:
    if run.is_terminal:
        return IgnoreReason.TERMINAL
    if run.status is RunStatus.CANCELLATION_REQUESTED:
        return IgnoreReason.CANCELLATION_REQUESTED
    if run.lease is not None:
        return IgnoreReason.ALREADY_LEASED
    if run.queue != wakeup.queue or run.queue not in consumer.queues:
        return IgnoreReason.WRONG_QUEUE
    if run.task_id not in consumer.tasks:
        return IgnoreReason.UNKNOWN_TASK
    if run.due_at is None or run.due_at > now:
        return IgnoreReason.NOT_DUE
    return None


def _has_slot(tx: Transaction, run: Run, limit: int | None) -> bool:
    """Whether a locked run may start: its queue is not paused, and has a slot for it."""
    control = queues.get_queue(tx, run.environment, run.queue)
    if control is not None and control.paused:
        return False
    if limit is None:
        return True
    partition = Partition(run.queue, run.concurrency_key, limit)
    slots = partitions.lock(tx, run.environment, [partition])[partition]
    return slots.reserved > 0 if run.reservation is not None else slots.free > 0


def request_deliveries(tx: Transaction, run_ids: Sequence[UUID]) -> int:
    """Ask for the deliveries of due runs that waited for their time; of how many."""
    runs = claims.lock_runs(tx, run_ids)
    now = tx.now()
    return _append(tx, [(run, decisions.request_delivery(run, now)) for run in runs], now)


def request_again(tx: Transaction, run_ids: Sequence[UUID], max_events: int) -> int:
    """Ask for the deliveries of queued runs that nobody has asked for as they are; of how many."""
    runs = claims.lock_runs(tx, run_ids)
    now = tx.now()
    return _append(tx, [(run, decisions.request_again(run, now, max_events)) for run in runs], now)


def reserve_slots(
    tx: Transaction,
    environment: str,
    limits: Mapping[str, int],
    timeouts: Mapping[str, timedelta],
    tasks: Sequence[str],
    max_events: int,
    limit: int,
) -> int:
    """Set slots of bounded queues aside for up to `limit` due runs, and ask for their deliveries; for how many."""
    runs = partitions.lock_unreserved(tx, environment, limits, tasks, tx.now(), limit)
    now = tx.now()
    decided = [(run, decisions.reserve(run, now, timeouts.get(run.queue), max_events)) for run in runs]
    return _append(tx, decided, now)


def expire_reservations(tx: Transaction, run_ids: Sequence[UUID]) -> int:
    """Give back the slots of runs that nobody has claimed in time, or whose wakeup was given up; how many."""
    runs = claims.lock_runs(tx, run_ids)
    now, unwoken = tx.now(), given_up.without_wakeup(tx, runs)
    return _append(tx, [(run, decisions.expire_reservation(run, now, run.id in unwoken)) for run in runs], now)


def expired_reservations(tx: Transaction, environment: str, queues: Sequence[str], batch: int) -> list[UUID]:
    """The runs of these queues whose slots are to be given back, as it seems without a lock."""
    now, held = tx.now(), waiting.reserved(tx, environment, queues)
    unwoken: set[UUID] = set()
    for start in range(0, len(held), batch):
        unwoken |= given_up.without_wakeup(tx, held[start : start + batch])
    return [run.id for run in held if decisions.expire_reservation(run, now, run.id in unwoken)]


def _append(tx: Transaction, decided: Sequence[tuple[Run, tuple[RunStep, ...]]], now: datetime) -> int:
    changes = [decisions.advance(run, events, now, SYSTEM) for run, events in decided if events]
    return len(changes) - len(log.append_runs(tx, changes)) if changes else 0
