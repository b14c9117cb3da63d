"""One line of plain English per event, and the history of a run in such lines with the time between them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import assert_never

from attrs import frozen

from runlane.events import (
    EnvironmentEvent,
    IdempotencyReset,
    KeyEvent,
    LogCheckpointed,
    QueueEvent,
    QueuePaused,
    QueueResumed,
    Recorded,
    RowRepaired,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunDeliveryRequested,
    RunDispatchReservationExpired,
    RunDispatchReserved,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunsPruned,
    RunSucceeded,
    ScheduleChanged,
    ScheduleEvent,
    ScheduleFired,
    SchedulePaused,
    ScheduleRegistered,
    ScheduleRemoved,
    ScheduleResumed,
    TablesRebuilt,
)
from runlane.values import Actor, Failure, SourceType

#: The births that an operator asks for; the reason is kept in the run's meta.
_REPEATS = frozenset({SourceType.RERUN, SourceType.MANUAL_RETRY})
#: Characters of a failure's message that a sentence has room for.
_MESSAGE = 300


@frozen
class Moment:
    """One event, told.

    Attributes:
        sequence: which event of the run.
        at: when it happened.
        since_start: the time since the creation of the run.
        since_last: the time since the event before; zero for the first one.
        actor: who caused it.
        reason: what was said for it, if anything was: for a cancellation, a release, an interruption, a rerun, a retry.
        text: all that in one sentence, without a full stop.
    """

    sequence: int
    at: datetime
    since_start: timedelta
    since_last: timedelta
    actor: Actor
    reason: str | None
    text: str


def timeline(records: Iterable[Recorded], repeated: RunCreated | None = None) -> tuple[Moment, ...]:
    """The history of one run, an entry per event.

    Args:
        repeated: the birth of the run that this one repeats, if it is a rerun or a manual retry and that is known: a
            reason may have been taken over from there.
    """
    moments: list[Moment] = []
    asked: Recorded | None = None
    for record in records:
        at, event = record.occurred_at, record.event
        first, last = (moments[0].at, moments[-1].at) if moments else (at, at)
        text = sentence(record)
        if isinstance(event, RunCancelled) and asked is not None:
            text = _carried_out(record, asked)
        elif isinstance(event, RunCreated) and repeated is not None and reason_of(record) == _kept_reason(repeated):
            text += " (as for the run it repeats)" if reason_of(record) else ""
        elif isinstance(event, RunCancellationRequested):
            asked = record
        moments.append(Moment(record.sequence, at, at - first, at - last, record.actor, reason_of(record), text))
    return tuple(moments)


def reason_of(record: Recorded) -> str | None:
    """What was said for an event, if its kind has room for a reason and one was given."""
    match record.event:
        case RunCreated() as event if event.source.type in _REPEATS:
            return _kept_reason(event)
        case (
            RunReleased(reason=reason)
            | RunInterrupted(reason=reason)
            | RunCancellationRequested(reason=reason)
            | RunCancelled(reason=reason)
            | SchedulePaused(reason=reason)
            | ScheduleResumed(reason=reason)
            | QueuePaused(reason=reason)
            | QueueResumed(reason=reason)
            | IdempotencyReset(reason=reason)
        ):
            return reason or None
        case _:
            return None


def sentence(record: Recorded) -> str:
    """What `record` says, in one plain sentence without a full stop."""
    match record.event:
        case RunCreated() as event:
            # A rerun keeps the parent of the run that it repeats; it was not made in there.
            parent = f" in run {event.source.parent_run_id}" if event.source.parent_run_id else ""
            origin = {
                SourceType.TRIGGER: f"triggered by {record.actor}{parent}",
                SourceType.RUN_NOW: f"started in place by {record.actor}{parent}",
                SourceType.SCHEDULE: f"made by schedule {event.source.schedule_id}",
                SourceType.RERUN: f"rerun of {event.source.source_run_id} by {record.actor}",
                SourceType.MANUAL_RETRY: f"manual retry of {event.source.source_run_id} by {record.actor}",
            }[event.source.type]
            when = f", to start at {_time(event.run_at)}" if event.run_at else ""
            why = _because(reason_of(record))
            return f"created for task {event.task_id} on queue {event.queue}, {origin}{when}{why}"
        case RunDeliveryRequested():
            return "delivery requested"
        case RunDispatchReserved():
            return "a slot of its queue was reserved"
        case RunDispatchReservationExpired():
            return "the reserved slot was given back unused"
        case RunLeased(worker_id=worker_id, attempt=attempt):
            return f"attempt {attempt} started on {worker_id}"
        case RunSucceeded(attempt=attempt):
            return f"attempt {attempt} succeeded"
        case RunRetryScheduled(attempt=attempt, failure=failure, run_at=run_at):
            return f"attempt {attempt} failed ({_failed(failure)}); next one at {_time(run_at)}"
        case RunReleased(attempt=attempt, run_at=run_at, reason=reason):
            return f"attempt {attempt} released the run until {_time(run_at)}" + _because(reason)
        case RunInterrupted(attempt=attempt, reason=reason):
            return f"attempt {attempt} was interrupted ({reason}); queued again"
        case RunLeaseExpired(attempt=attempt):
            return f"the worker of attempt {attempt} vanished; queued again"
        case RunFailed(attempt=attempt, failure=failure):
            return f"failed in attempt {attempt} ({_failed(failure)})"
        case RunCancellationRequested(reason=reason):
            return f"cancellation requested by {record.actor}" + _because(reason)
        case RunCancelled(reason=reason):
            return f"cancelled by {record.actor}" + _because(reason)
        case event:
            return _of_another_stream(event, record.actor)


def _of_another_stream(event: ScheduleEvent | QueueEvent | KeyEvent | EnvironmentEvent, actor: Actor) -> str:
    """What an event of a schedule, queue, key or environment says."""
    match event:
        case ScheduleRegistered():
            return f"schedule registered for task {event.task_id} on queue {event.queue}"
        case ScheduleChanged():
            return f"schedule changed, for task {event.task_id} on queue {event.queue}"
        case ScheduleFired():
            missed = f", and for {event.collapsed} that were missed before" if event.collapsed else ""
            return f"schedule fired for {_time(event.scheduled_for)}{missed}: run {event.run_id}"
        case SchedulePaused(reason=reason):
            return f"schedule paused by {actor}" + _because(reason)
        case ScheduleResumed(reason=reason):
            return f"schedule resumed by {actor}" + _because(reason)
        case ScheduleRemoved():
            return "schedule removed"
        case QueuePaused(queue=queue, reason=reason):
            return f"queue {queue} paused by {actor}" + _because(reason)
        case QueueResumed(queue=queue, reason=reason):
            return f"queue {queue} resumed by {actor}" + _because(reason)
        case IdempotencyReset(task_id=task_id, key=key, run_id=run_id, reason=reason):
            return f"idempotency key {key} of task {task_id} freed from run {run_id} by {actor}" + _because(reason)
        case RunsPruned(runs=runs, events=events, before=before, reason=reason):
            gone = f"{_counted(runs, 'run')} with {_counted(events, 'event')}"
            return f"{gone} pruned by {actor}, last updated before {_time(before)}" + _because(reason)
        case LogCheckpointed(number=number, leaves=leaves, key=key):
            what = f"{_counted(leaves, 'stream')}, up to position {event.to_position}"
            return f"checkpoint {number} of the log by {actor}: {what}" + (", signed" if key else "")
        case RowRepaired(run_id=run_id, fields=fields, reason=reason):
            return f"row of run {run_id} repaired by {actor} ({', '.join(fields)})" + _because(reason)
        case TablesRebuilt(runs=runs, differences=differences, reason=reason):
            found = f"{_counted(runs, 'run')}, {_counted(differences, 'difference')}"
            return f"tables rebuilt by {actor}: {found}" + _because(reason)
        case unhandled:
            assert_never(unhandled)


def _carried_out(record: Recorded, asked: Recorded) -> str:
    """The end of a run that was asked to stop: by whom it was ended, and by whom that had been asked."""
    return f"cancelled by {record.actor}, as asked by {asked.actor}" + _because(reason_of(asked))


def _because(reason: str | None) -> str:
    return f": {' '.join(reason.split())}" if reason else ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _kept_reason(created: RunCreated) -> str | None:
    reason = (created.meta or {}).get("reason")
    return reason if isinstance(reason, str) and reason else None


def _failed(failure: Failure) -> str:
    """A failure on one line; messages may be long, and of many lines."""
    message = " ".join(failure.message.split())
    return f"{failure.code}: {message if len(message) <= _MESSAGE else message[: _MESSAGE - 1] + '…'}"


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
