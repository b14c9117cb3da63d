"""The fold of a run's attempts, for operators: who tried, from when to when, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from attrs import evolve, frozen

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
from runlane.values import Failure


class AttemptOutcome(StrEnum):
    """How an attempt ended, or that it has not."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    RELEASED = "released"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    FAILED = "failed"
    CANCELLED = "cancelled"


@frozen
class Attempt:
    """One execution of a run's handler."""

    number: int
    session_id: UUID
    worker_id: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: AttemptOutcome = AttemptOutcome.RUNNING
    failure: Failure | None = None


def attempts(records: Iterable[Recorded]) -> tuple[Attempt, ...]:
    """The attempts told by a run's events, in order."""
    done: list[Attempt] = []
    for record in records:
        match record.event:
            case RunLeased(session_id=session_id, worker_id=worker_id, attempt=number):
                done.append(Attempt(number, session_id, worker_id, record.occurred_at))
            case RunSucceeded():
                _end(done, record, AttemptOutcome.SUCCEEDED)
            case RunRetryScheduled(failure=failure):
                _end(done, record, AttemptOutcome.RETRIED, failure)
            case RunReleased():
                _end(done, record, AttemptOutcome.RELEASED)
            case RunInterrupted():
                _end(done, record, AttemptOutcome.INTERRUPTED)
            case RunLeaseExpired():
                _end(done, record, AttemptOutcome.LOST)
            case RunFailed(failure=failure):
                _end(done, record, AttemptOutcome.FAILED, failure)
            case RunCancelled():
                _end(done, record, AttemptOutcome.CANCELLED)
            case RunCreated() | RunDeliveryRequested() | RunDispatchReserved() | RunDispatchReservationExpired():
                pass
            case RunCancellationRequested():
                pass
            case _:  # another stream's event says nothing about attempts
                pass
    return tuple(done)


def _end(done: list[Attempt], record: Recorded, outcome: AttemptOutcome, failure: Failure | None = None) -> None:
    if done and done[-1].outcome is AttemptOutcome.RUNNING:
        done[-1] = evolve(done[-1], finished_at=record.occurred_at, outcome=outcome, failure=failure)
