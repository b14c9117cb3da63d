"""One line of plain English per event of a run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from attrs import frozen

from runlane.events import (
    Recorded,
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
    RunSucceeded,
)
from runlane.values import SourceType


@frozen
class Moment:
    """One event, told."""

    sequence: int
    at: datetime
    since_start: timedelta
    text: str


def timeline(records: Iterable[Recorded]) -> tuple[Moment, ...]:
    """The history of one run, an entry per event, with the time since its creation."""
    moments: list[Moment] = []
    start: datetime | None = None
    for record in records:
        start = start or record.occurred_at
        moments.append(Moment(record.sequence, record.occurred_at, record.occurred_at - start, sentence(record)))
    return tuple(moments)


def sentence(record: Recorded) -> str:
    """What `record` says, in one plain sentence without a full stop."""
    match record.event:
        case RunCreated() as event:
            origin = {
                SourceType.TRIGGER: f"triggered by {record.actor}",
                SourceType.RUN_NOW: f"started in place by {record.actor}",
                SourceType.SCHEDULE: f"made by schedule {event.source.schedule_id}",
                SourceType.RERUN: f"rerun of {event.source.source_run_id} by {record.actor}",
                SourceType.MANUAL_RETRY: f"manual retry of {event.source.source_run_id} by {record.actor}",
            }[event.source.type]
            when = f", to start at {_time(event.run_at)}" if event.run_at else ""
            return f"created for task {event.task_id} on queue {event.queue}, {origin}{when}"
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
            return f"attempt {attempt} failed ({failure.code}: {failure.message}); next one at {_time(run_at)}"
        case RunReleased(attempt=attempt, run_at=run_at, reason=reason):
            return f"attempt {attempt} released the run until {_time(run_at)}" + (f": {reason}" if reason else "")
        case RunInterrupted(attempt=attempt, reason=reason):
            return f"attempt {attempt} was interrupted ({reason}); queued again"
        case RunLeaseExpired(attempt=attempt):
            return f"the worker of attempt {attempt} vanished; queued again"
        case RunFailed(attempt=attempt, failure=failure):
            return f"failed in attempt {attempt} ({failure.code}: {failure.message})"
        case RunCancellationRequested(reason=reason):
            return f"cancellation requested by {record.actor}" + (f": {reason}" if reason else "")
        case RunCancelled(reason=reason):
            return f"cancelled by {record.actor}" + (f": {reason}" if reason else "")
        case other:
            return type(other).__name__


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
