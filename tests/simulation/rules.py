"""What the specification says of each event, beside a memory of its own: no fold and no decision of Runlane's is used.

The follower of ``tests.stateful`` knows what a history must look like, whatever the settings; these rules know what the
tasks and queues of this play have promised, and what operators have asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from attrs import define

from runlane.errors import ErrorCode
from runlane.events import (
    QueuePaused,
    QueueResumed,
    Recorded,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunsPruned,
    RunSucceeded,
    ScheduleFired,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
)
from tests.simulation.cast import TASKS

RETRIES = {one.id: one.retry for one in TASKS}
_OF_A_HOLDER = (RunSucceeded, RunFailed, RunReleased, RunRetryScheduled, RunInterrupted, RunLeaseExpired)


@define
class _Memory:
    """What is known of a run that has not been pruned."""

    created: RunCreated
    due_at: datetime | None
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    holder: tuple[UUID, int] | None = None
    is_asked_to_stop: bool = False
    ended_at: datetime | None = None


class Rules:
    """Looks at events in the order of the log.

    Args:
        max_events: the greatest length of a run's history.
    """

    def __init__(self, max_events: int) -> None:
        self._max_events = max_events
        self._runs: dict[UUID, _Memory] = {}
        self._paused: set[str] = set()
        self._sleeping: set[UUID] = set()
        self._last_prune: RunsPruned | None = None
        #: Sessions whose leases were taken away, for whoever empties it.
        self.expired: list[UUID] = []

    def see(self, record: Recorded) -> None:
        """The next event."""
        event = record.event
        match event:
            case RunCreated():
                self._runs[record.stream_id] = _Memory(event, event.run_at or record.occurred_at)
            case QueuePaused(queue=queue):
                self._paused.add(queue)
            case QueueResumed(queue=queue):
                self._paused.discard(queue)
            case SchedulePaused() | ScheduleRemoved():
                self._sleeping.add(record.stream_id)
            case ScheduleResumed():
                self._sleeping.discard(record.stream_id)
            case ScheduleFired():
                assert record.stream_id not in self._sleeping, "10: a paused schedule has fired"
                assert event.scheduled_for <= record.occurred_at, "10: a schedule has fired before its time"
            case RunsPruned():
                self._last_prune = event
            case _ if record.stream_id in self._runs:
                self._advance(self._runs[record.stream_id], record)

    def forget(self, ids: Collection[UUID]) -> None:
        """The last prune has removed these."""
        for id in ids:
            run = self._runs.pop(id)
            assert self._last_prune is not None
            assert run.ended_at is not None, f"run {id} was pruned while it was active"
            assert run.ended_at < self._last_prune.before, f"run {id} was pruned before its time"

    def _advance(self, run: _Memory, record: Recorded) -> None:
        event, id = record.event, record.stream_id
        if isinstance(event, _OF_A_HOLDER):
            assert (event.session_id, event.attempt) == run.holder, f"invariant 3: run {id} was not leased to that"
            run.holder = None
        elif isinstance(event, RunCancelled):
            run.holder = None
        if run.is_asked_to_stop:
            assert isinstance(event, RunCancelled | RunFailed), f"invariant 12: run {id} was asked to stop, and went on"
        match event:
            case RunLeased():
                self._lease(run, event, record)
            case RunCancellationRequested():
                run.is_asked_to_stop = True
            case RunRetryScheduled():
                self._retry(run, event, record)
            case RunReleased():
                run.due_at = event.run_at
            case RunInterrupted():
                run.due_at = record.occurred_at
            case RunLeaseExpired():
                self._lose(run, event, record)
            case RunFailed():
                self._fail(run, event, record)
        if isinstance(event, RunSucceeded | RunFailed | RunCancelled):
            run.ended_at = record.occurred_at

    def _lease(self, run: _Memory, event: RunLeased, record: Recorded) -> None:
        id, created = record.stream_id, run.created
        assert run.holder is None, f"invariant 2: run {id} was leased twice"
        assert event.attempt == run.attempts + 1, f"run {id} goes from attempt {run.attempts} to {event.attempt}"
        # Who asks for a run here and now does not wait for the queue.
        if created.source.type != "run_now" or event.attempt > 1:
            assert created.queue not in self._paused, f"run {id} was leased from {created.queue}, which is paused"
        assert run.due_at is not None, f"run {id} was leased, and waits for nothing"
        assert run.due_at <= record.occurred_at, f"run {id} was leased before its time"
        run.attempts, run.due_at = event.attempt, None
        run.holder = event.session_id, event.attempt

    def _retry(self, run: _Memory, event: RunRetryScheduled, record: Recorded) -> None:
        run.failures += 1
        budget = RETRIES[run.created.task_id].max_attempts
        assert event.failure.retryable, f"run {record.stream_id} is tried again although that is of no use"
        assert run.failures < budget, f"run {record.stream_id} is tried more often than {budget} times"
        run.due_at = event.run_at

    def _lose(self, run: _Memory, event: RunLeaseExpired, record: Recorded) -> None:
        run.losses += 1
        most = RETRIES[run.created.task_id].max_lost
        assert run.losses < most, f"run {record.stream_id} was lost {run.losses} times, and {most} are too many"
        run.due_at = record.occurred_at
        self.expired.append(event.session_id)

    def _fail(self, run: _Memory, event: RunFailed, record: Recorded) -> None:
        retry, code, id = RETRIES[run.created.task_id], event.failure.code, record.stream_id
        if code == ErrorCode.LEASE_LOST:
            assert run.losses + 1 == retry.max_lost, f"run {id} failed after {run.losses + 1} losses"
            self.expired.append(event.session_id)
        elif code == ErrorCode.HISTORY_LIMIT:
            assert record.sequence + 3 >= self._max_events, f"run {id} failed with {record.sequence} events"
        elif event.failure.retryable and not run.is_asked_to_stop:
            assert run.failures + 1 >= retry.max_attempts, f"run {id} failed after {run.failures + 1} failures"
