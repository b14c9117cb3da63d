"""The other half of the folds: state + command + now -> events, or a refusal; schedules have a module of their own.

Pure: the clock, the drawn jitter and the policy are arguments, and what was decided is in the events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID, uuid5

from attrs import evolve

from runlane.errors import ErrorCode, RunStateInvalid
from runlane.events import (
    Head,
    IdempotencyReset,
    QueueEvent,
    QueuePaused,
    QueueResumed,
    Recorded,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunDeliveryRequested,
    RunDispatchReservationExpired,
    RunDispatchReserved,
    RunEvent,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunsPruned,
    RunStep,
    RunSucceeded,
)
from runlane.policy import Retry
from runlane.projections import queues, runs
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.structs import struct
from runlane.values import LEASED, WAITING, Actor, Failure, RunStatus, Source, SourceType, duration, later

#: The greatest number of events a run may have before it fails with ``history_limit``.
MAX_EVENTS = 10_000
#: Of the ids that are made of names.
NAMESPACE = UUID("6f1d7c1e-6c0b-5f5e-9b0a-52756e6c616e")
_DELIVER_NOW = RunDeliveryRequested()
_MILLISECOND = timedelta(milliseconds=1)


# What an attempt came to, as the executor saw it.
@struct
class Succeeded:
    """The handler returned `result`, checked JSON."""

    result: Any = None


@struct
class Failed:
    """The handler raised, or could not be called."""

    failure: Failure


@struct
class Released:
    """The handler returned a release: exactly one of `delay` and `run_at` is given."""

    delay: timedelta | None = None
    run_at: datetime | None = None
    reason: str | None = None
    meta: Mapping[str, Any] | None = None


@struct
class Interrupted:
    """The attempt stopped because its signal asked it to, or was cut off."""

    reason: str


Outcome = Succeeded | Failed | Released | Interrupted


@struct
class Change:
    """What a decision does to a run: the state it was made on, its events, and the state they fold to."""

    before: Run | None
    records: tuple[Recorded, ...]
    after: Run


@struct
class QueueChange:
    """What a decision does to a queue."""

    before: QueueControl | None
    records: tuple[Recorded, ...]
    after: QueueControl


def begin(run_id: UUID, environment: str, events: Sequence[RunEvent], at: datetime, actor: Actor) -> Change:
    """The change that brings a run into being by `events`, the first of them ``RunCreated``."""
    records = tuple(Recorded(run_id, n, event, at, environment, actor) for n, event in enumerate(events, 1))
    return Change(None, records, runs.replay(records))


def advance(run: Run, events: Sequence[RunStep], at: datetime, actor: Actor) -> Change:
    """The change that `events` make to `run`; time never runs backwards within a run."""
    at = max(at, run.updated_at)
    records = []
    after = run
    for event in events:
        record = Recorded(run.id, after.sequence + 1, event, at, run.environment, actor)
        after = runs.after(after, record)
        records.append(record)
    return Change(run, tuple(records), after)


def create(created: RunCreated, delay: timedelta | None, now: datetime, deliver: bool = True) -> tuple[RunEvent, ...]:
    """A triggered run: due now its delivery is requested at once, if `deliver`, otherwise when its time has come."""
    if delay is not None:
        created = evolve(created, run_at=later(now, delay))
    if not deliver or (created.run_at is not None and created.run_at > now):
        return (created,)
    return created, _DELIVER_NOW


def lease(run: Run, session_id: UUID, worker_id: str, concurrency_limit: int | None = None) -> tuple[RunStep, ...]:
    """A claim by a worker session; the fold refuses it if the run is not claimable.

    `concurrency_limit` is the one under which the storage found a free slot.
    """
    return (RunLeased(session_id, worker_id, run.counters.attempts + 1, concurrency_limit),)


def complete(
    run: Run,
    session_id: UUID,
    attempt: int,
    outcome: Outcome,
    retry: Retry,
    now: datetime,
    spread: float,
    max_events: int = MAX_EVENTS,
    wake: bool = False,
) -> tuple[RunStep, ...]:
    """What the outcome of `attempt` means for the run as it is now; nothing if the lease is not ours any more.

    Args:
        spread: the jitter drawn for this decision, -1 to 1.
        wake: a run that is queued again asks for its delivery at once.
    """
    held = run.lease
    if run.status not in LEASED or held is None or held.session_id != session_id or held.attempt != attempt:
        return ()
    if run.status is RunStatus.CANCELLATION_REQUESTED:
        if isinstance(outcome, Failed):
            return (RunFailed(session_id, attempt, outcome.failure),)
        return (RunCancelled(run.cancellation.reason if run.cancellation else None),)
    event = _ended(run, session_id, attempt, outcome, retry, now, spread)
    if not isinstance(event, (RunSucceeded, RunFailed)) and _is_full(run, max_events):
        return (_history_limit(run, session_id, attempt, max_events),)
    return (event, _DELIVER_NOW) if wake and isinstance(event, RunInterrupted) else (event,)


def _ended(
    run: Run, session_id: UUID, attempt: int, outcome: Outcome, retry: Retry, now: datetime, spread: float
) -> RunStep:
    match outcome:
        case Succeeded(result=result):
            return RunSucceeded(session_id, attempt, result)
        case Released():
            run_at = outcome.run_at if outcome.delay is None else later(now, outcome.delay)
            return RunReleased(session_id, attempt, run_at or now, outcome.reason, outcome.meta)
        case Interrupted(reason=reason):
            return RunInterrupted(session_id, attempt, reason)
        case Failed(failure=failure):
            if not failure.retryable or run.counters.failures + 1 >= retry.max_attempts:
                return RunFailed(session_id, attempt, failure)
            return _retry(run, session_id, attempt, failure, retry, now, spread)
        case unhandled:
            assert_never(unhandled)


def _is_full(run: Run, max_events: int) -> bool:
    """Whether a run that goes on would pass the limit: how this attempt ends, a reserved delivery (two events), another
    lease and another outcome have to fit."""
    return run.sequence + 4 >= max_events


def _history_limit(run: Run, session_id: UUID, attempt: int, max_events: int) -> RunFailed:
    message = f"the run has {run.sequence} events and at most {max_events} are allowed"
    return RunFailed(session_id, attempt, Failure(ErrorCode.HISTORY_LIMIT, message, False))


def _retry(
    run: Run, session_id: UUID, attempt: int, failure: Failure, retry: Retry, now: datetime, spread: float
) -> RunRetryScheduled:
    number = run.counters.retries + 1
    base = retry.backoff.before_retry(number) // _MILLISECOND
    jitter = retry.delay(number, spread) // _MILLISECOND - base
    run_at = later(now, (base + jitter) * _MILLISECOND, "the retry delay")
    return RunRetryScheduled(session_id, attempt, failure, run_at, base, jitter)


def recover(run: Run, max_lost: int, max_events: int = MAX_EVENTS, wake: bool = False) -> tuple[RunStep, ...]:
    """What becomes of a run whose worker session has expired; `wake` as in ``complete``."""
    if run.lease is None:
        return ()
    session_id, attempt = run.lease.session_id, run.lease.attempt
    if run.status is RunStatus.CANCELLATION_REQUESTED:
        return (RunCancelled(run.cancellation.reason if run.cancellation else None),)
    losses = run.counters.losses + 1
    if losses >= max_lost:
        message = f"its worker vanished {losses} times; the last one was {run.lease.worker_id}"
        return (RunFailed(session_id, attempt, Failure(ErrorCode.LEASE_LOST, message, False)),)
    if _is_full(run, max_events):
        return (_history_limit(run, session_id, attempt, max_events),)
    lost = RunLeaseExpired(session_id, attempt)
    return (lost, _DELIVER_NOW) if wake else (lost,)


def request_delivery(run: Run, now: datetime) -> tuple[RunStep, ...]:
    """A due run that waited for its time asks for its delivery; nothing if it is not such a run any more."""
    waits = run.status in WAITING and run.due_at is not None and run.due_at <= now
    return (_DELIVER_NOW,) if waits else ()


def request_again(run: Run, now: datetime, max_events: int = MAX_EVENTS) -> tuple[RunStep, ...]:
    """A queued run asks for its delivery once more; nothing if its history would become too long by that."""
    waits = run.status is RunStatus.QUEUED and run.due_at is not None and run.due_at <= now
    return (_DELIVER_NOW,) if waits and run.sequence + 4 <= max_events else ()


def reserve(run: Run, now: datetime, timeout: timedelta | None, max_events: int = MAX_EVENTS) -> tuple[RunStep, ...]:
    """Set a slot aside for a due run, for `timeout` at most, and ask for its delivery.

    Nothing if its history would become too long by that: polling workers claim it without.  The two events, the end of
    the reservation, a lease, a request to cancel and an outcome have to fit.
    """
    if run.sequence + 6 > max_events:
        return ()
    reserved = RunDispatchReserved(None if timeout is None else later(now, timeout, "dispatch_timeout"))
    # A reservation is for queued runs, and asking for the delivery is what queues one that waited for its time.
    return (reserved, _DELIVER_NOW) if run.status is RunStatus.QUEUED else (_DELIVER_NOW, reserved)


def expire_reservation(run: Run, now: datetime, given_up: bool = False) -> tuple[RunStep, ...]:
    """Give back a slot that nobody has claimed in time, or whose wakeup was given up; nothing if it is not so."""
    if run.reservation is None:
        return ()
    expires_at = run.reservation.expires_at
    is_late = expires_at is not None and expires_at <= now
    return (RunDispatchReservationExpired(),) if is_late or given_up else ()


def cancel(run: Run, reason: str | None, meta: Mapping[str, Any] | None) -> tuple[RunStep, ...]:
    """A request to stop: a waiting run is cancelled, a leased one is asked to, and asking twice changes nothing.

    Raises:
        RunStateInvalid: the run has ended.
    """
    if run.is_terminal:
        raise RunStateInvalid(f"run {run.id} has ended as {run.status}; only an active run can be cancelled")
    if run.status is RunStatus.CANCELLATION_REQUESTED:
        return ()
    return (RunCancelled(reason, meta),) if run.lease is None else (RunCancellationRequested(reason, meta),)


def again(source: Run, type_: SourceType) -> RunCreated:
    """The birth of a run that repeats `source` as it was asked for; it carries no idempotency key.

    Raises:
        RunStateInvalid: `source` is active, or a manual retry is asked of a run that has not failed.
    """
    if type_ is SourceType.MANUAL_RETRY and source.status is not RunStatus.FAILED:
        raise RunStateInvalid(f"run {source.id} is {source.status}; only a failed run can be retried")
    if source.is_active:
        raise RunStateInvalid(f"run {source.id} is still {source.status}; only an ended run can be run again")
    return evolve(
        source.created,
        source=Source(type_, source_run_id=source.id, parent_run_id=source.source.parent_run_id),
        run_at=None,
        idempotency_key=None,
        idempotency_ttl=None,
    )


def keeps_key(owner: Run, now: datetime) -> bool:
    """Whether `owner` still owns its idempotency key: while active, and afterwards by outcome and retention."""
    if owner.is_active:
        return True
    if owner.status is RunStatus.FAILED or owner.idempotency_ttl in (None, "active"):
        return False
    return now - owner.created_at < duration("idempotency_ttl", owner.idempotency_ttl)


def reset_key(owner: Run, reason: str | None) -> IdempotencyReset:
    """Free an idempotency key from its ended owner.

    Raises:
        RunStateInvalid: the owner is active.
    """
    if owner.is_active:
        raise RunStateInvalid(
            f"run {owner.id} owns the key and is still {owner.status}; only the key of an ended run can be reset"
        )
    return IdempotencyReset(owner.task_id, owner.idempotency_key or "", owner.id, reason)


def key_stream(environment: str, task_id: str, key: str) -> UUID:
    """The id of an idempotency key's stream of events; none of the three parts contains a colon."""
    return uuid5(NAMESPACE, f"idempotency:{environment}:{task_id}:{key}")


def environment_stream(environment: str) -> UUID:
    """The id of an environment's own stream of events."""
    return uuid5(NAMESPACE, f"environment:{environment}")


def pruned(
    sequences: Mapping[UUID, int],
    before: datetime,
    statuses: Iterable[RunStatus],
    heads: Iterable[Head] = (),
    reason: str | None = None,
    archive: str | None = None,
    epoch: str | None = None,
) -> RunsPruned:
    """The event that tells which runs are removed; `sequences` has the last one of each."""
    lines = "\n".join(f"{run_id}:{sequences[run_id]}" for run_id in sorted(sequences))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    counts = (len(sequences), sum(sequences.values()))
    return RunsPruned(*counts, before, tuple(sorted(statuses)), digest, tuple(heads), reason, archive, epoch)


def pause_queue(state: QueueControl | None, name: str, reason: str | None) -> tuple[QueueEvent, ...]:
    """Nothing is claimed from the queue any more; nothing happens if it is paused already."""
    return () if state is not None and state.paused else (QueuePaused(name, reason),)


def resume_queue(state: QueueControl | None, name: str, reason: str | None) -> tuple[QueueEvent, ...]:
    """The queue goes on; nothing happens if it is not paused."""
    return (QueueResumed(name, reason),) if state is not None and state.paused else ()


def queue_stream(environment: str, name: str) -> UUID:
    """The id of a queue's stream of events."""
    return uuid5(NAMESPACE, f"queue:{environment}:{name}")


def move_queue(
    environment: str, name: str, state: QueueControl | None, events: Sequence[QueueEvent], at: datetime, actor: Actor
) -> QueueChange:
    """The change that `events` make to a queue; time never runs backwards within it."""
    stream = queue_stream(environment, name)
    at = at if state is None else max(at, state.updated_at)
    records = []
    after = state
    for event in events:
        record = Recorded(stream, 1 if after is None else after.sequence + 1, event, at, environment, actor)
        after = queues.after(after, record)
        records.append(record)
    if after is None:
        raise ValueError("a change of a queue needs at least one event")
    return QueueChange(state, tuple(records), after)
