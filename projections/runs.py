"""The fold of a run: what its events make of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

from attrs import evolve

from runlane.errors import ErrorCode, InvariantViolation
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
    RunStep,
    RunSucceeded,
)
from runlane.structs import struct
from runlane.values import (
    CLAIMABLE,
    LEASED,
    TERMINAL,
    Cancellation,
    Counters,
    Failure,
    Lease,
    Reservation,
    RunStatus,
    Source,
)

#: The statuses in which each event may happen: the whole lifecycle, in one table.
OPEN_TO: dict[type[RunStep], frozenset[RunStatus]] = {
    RunDeliveryRequested: CLAIMABLE,
    RunDispatchReserved: frozenset({RunStatus.QUEUED}),
    RunDispatchReservationExpired: frozenset({RunStatus.QUEUED}),
    RunLeased: CLAIMABLE,
    RunSucceeded: frozenset({RunStatus.RUNNING}),
    RunRetryScheduled: frozenset({RunStatus.RUNNING}),
    RunReleased: frozenset({RunStatus.RUNNING}),
    RunInterrupted: frozenset({RunStatus.RUNNING}),
    RunLeaseExpired: frozenset({RunStatus.RUNNING}),
    RunFailed: LEASED,
    RunCancellationRequested: frozenset({RunStatus.RUNNING}),
    RunCancelled: CLAIMABLE | LEASED,
}


@struct
class Run:
    """A run as of its last event.

    `created` is the first event: identity, keys and payload, which never change.  `due_at` is the instant from which
    the run may be claimed (None while leased and at the end); `run_at` the instant somebody asked for, if any.
    """

    id: UUID
    environment: str
    created: RunCreated
    created_at: datetime
    sequence: int
    status: RunStatus
    updated_at: datetime
    due_at: datetime | None = None
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    counters: Counters = Counters()
    lease: Lease | None = None
    failure: Failure | None = None
    result: Any = None
    reservation: Reservation | None = None
    cancellation: Cancellation | None = None

    @property
    def task_id(self) -> str:
        """The task that this run executes."""
        return self.created.task_id

    @property
    def queue(self) -> str:
        """The queue it waits in."""
        return self.created.queue

    @property
    def payload(self) -> Any:
        """The validated payload as plain JSON values."""
        return self.created.payload

    @property
    def priority(self) -> int:
        """Higher is claimed first."""
        return self.created.priority

    @property
    def source(self) -> Source:
        """What brought it into being."""
        return self.created.source

    @property
    def idempotency_key(self) -> str | None:
        """The key under which a repeated trigger finds this run."""
        return self.created.idempotency_key

    @property
    def idempotency_ttl(self) -> str | None:
        """How long the key is kept after the end, as captured at creation."""
        return self.created.idempotency_ttl

    @property
    def singleton_key(self) -> str | None:
        """The key of which only one active run may exist."""
        return self.created.singleton_key

    @property
    def concurrency_key(self) -> str | None:
        """The partition of the queue's capacity it counts in."""
        return self.created.concurrency_key

    @property
    def correlation_id(self) -> str | None:
        """The caller's own reference."""
        return self.created.correlation_id

    @property
    def trace_carrier(self) -> Mapping[str, str] | None:
        """Trace context of the caller, as it was given."""
        return self.created.trace_carrier

    @property
    def meta(self) -> Mapping[str, Any]:
        """Facts the caller attached."""
        return self.created.meta or {}

    @property
    def attempt_count(self) -> int:
        """How often it was leased."""
        return self.counters.attempts

    @property
    def failure_count(self) -> int:
        """How many attempts failed."""
        return self.counters.failures

    @property
    def retry_count(self) -> int:
        """How many failures were followed by a retry."""
        return self.counters.retries

    @property
    def release_count(self) -> int:
        """How often its handler asked to continue later."""
        return self.counters.releases

    @property
    def lost_count(self) -> int:
        """How often its worker vanished."""
        return self.counters.losses

    @property
    def is_terminal(self) -> bool:
        """Whether no event can follow, ever."""
        return self.status in TERMINAL

    @property
    def is_active(self) -> bool:
        """Whether the run can still move."""
        return self.status not in TERMINAL


def born(first: Recorded) -> Run:
    """The run that its first event brings into being.

    Raises:
        InvariantViolation: the event is no ``run.created`` with sequence 1.
    """
    event = first.event
    if not isinstance(event, RunCreated) or first.sequence != 1:
        raise InvariantViolation(f"run {first.stream_id} begins with {_name(first)}, not with RunCreated as event 1")
    at = first.occurred_at
    waits = event.run_at is not None and event.run_at > at
    return Run(
        first.stream_id,
        first.environment,
        event,
        at,
        1,
        RunStatus.SCHEDULED if waits else RunStatus.QUEUED,
        at,
        event.run_at if waits else at,
        event.run_at,
    )


def after(run: Run, record: Recorded) -> Run:
    """The run once `record` has happened.  Pure: no clock, no policy, no I/O.

    Raises:
        InvariantViolation: the event cannot follow: wrong stream, gap, backward time, or closed to it in this status.
    """
    event: RunStep = record.event  # type: ignore[assignment]  # of any other class, it is refused
    at = record.occurred_at
    if (
        run.status not in OPEN_TO.get(type(event), ())
        or record.sequence != run.sequence + 1
        or record.stream_id.int != run.id.int  # two UUIDs are compared by Python code, ten times slower
        or record.environment != run.environment
        or at < run.updated_at
    ):
        raise InvariantViolation(f"{_name(record)} cannot follow event {run.sequence} of {run.status} run {run.id}")
    match event:
        case RunDeliveryRequested():
            waits = run.due_at is not None and run.due_at > at
            return _next(run, record, run.status if waits else RunStatus.QUEUED, run.due_at, run.run_at)
        case RunLeased():
            if run.due_at is None or run.due_at > at or event.attempt != run.counters.attempts + 1:
                raise InvariantViolation(f"attempt {event.attempt} of run {run.id} is not due or out of order")
            return _leased(run, record, event)
        case RunSucceeded():
            _fence(run, event.session_id, event.attempt)
            return _next(run, record, RunStatus.SUCCEEDED, result=event.result)
        case RunDispatchReserved():
            reservation = Reservation(at, event.expires_at)
            return evolve(run, sequence=record.sequence, updated_at=at, reservation=reservation)
        case RunDispatchReservationExpired():
            return evolve(run, sequence=record.sequence, updated_at=at, reservation=None)
        case RunRetryScheduled():
            _fence(run, event.session_id, event.attempt)
            step = _next(run, record, RunStatus.RETRYING, event.run_at, event.run_at)
            counters = evolve(run.counters, failures=run.counters.failures + 1, retries=run.counters.retries + 1)
            return evolve(step, counters=counters, failure=event.failure)
        case RunReleased():
            _fence(run, event.session_id, event.attempt)
            step = _next(run, record, RunStatus.RELEASED, event.run_at, event.run_at)
            return evolve(step, counters=evolve(run.counters, releases=run.counters.releases + 1))
        case RunInterrupted():
            _fence(run, event.session_id, event.attempt)
            return _next(run, record, RunStatus.QUEUED, at)
        case RunLeaseExpired():
            _fence(run, event.session_id, event.attempt)
            step = _next(run, record, RunStatus.QUEUED, at)
            return evolve(step, counters=evolve(run.counters, losses=run.counters.losses + 1))
        case RunFailed():
            _fence(run, event.session_id, event.attempt)
            lost = int(event.failure.code == ErrorCode.LEASE_LOST)
            counters = evolve(run.counters, failures=run.counters.failures + 1, losses=run.counters.losses + lost)
            return evolve(_next(run, record, RunStatus.FAILED), counters=counters, failure=event.failure)
        case RunCancellationRequested():
            return evolve(
                run,
                sequence=record.sequence,
                updated_at=at,
                status=RunStatus.CANCELLATION_REQUESTED,
                cancellation=Cancellation(at, record.actor, event.reason),
            )
        case RunCancelled():
            cancellation = run.cancellation or Cancellation(at, record.actor, event.reason)
            return evolve(_next(run, record, RunStatus.CANCELLED), cancellation=cancellation, reservation=None)
        case unhandled:
            assert_never(unhandled)


def replay(records: Iterable[Recorded]) -> Run:
    """The run that a whole stream, from its first event, folds to.

    Raises:
        InvariantViolation: the stream is empty, has a gap, or an event that cannot follow.
    """
    stream = iter(records)
    first = next(stream, None)
    if first is None:
        raise InvariantViolation("a run without events cannot be folded")
    run = born(first)
    for record in stream:
        run = after(run, record)
    return run


_NO_FAILURE = frozenset({RunStatus.SUCCEEDED, RunStatus.RELEASED})


def _next(
    run: Run,
    record: Recorded,
    status: RunStatus,
    due_at: datetime | None = None,
    run_at: datetime | None = None,
    result: Any = None,
) -> Run:
    """The run in `status` without a lease, ended if that is terminal; what is not given is as it was.

    A failure stays until an attempt comes to something better; the history keeps it anyway.

    Spelled out rather than evolved: this is the hot step, and copying by name costs three times as much.
    """
    return Run(
        run.id,
        run.environment,
        run.created,
        run.created_at,
        record.sequence,
        status,
        record.occurred_at,
        due_at,
        run_at,
        run.started_at,
        record.occurred_at if status in TERMINAL else None,
        run.counters,
        None,
        None if status in _NO_FAILURE else run.failure,
        result,
        run.reservation,
        run.cancellation,
    )


def _leased(run: Run, record: Recorded, event: RunLeased) -> Run:
    at, was = record.occurred_at, run.counters
    return Run(
        run.id,
        run.environment,
        run.created,
        run.created_at,
        record.sequence,
        RunStatus.RUNNING,
        at,
        None,
        None,
        run.started_at or at,
        None,
        Counters(event.attempt, was.failures, was.retries, was.releases, was.losses),
        Lease(event.session_id, event.worker_id, event.attempt, at),
        run.failure,
        None,
        None,
        run.cancellation,
    )


def _fence(run: Run, session_id: UUID, attempt: int) -> None:
    """Refuse what a worker says about a lease that is not the open one."""
    lease = run.lease
    if lease is None or lease.session_id.int != session_id.int or lease.attempt != attempt:
        raise InvariantViolation(f"attempt {attempt} of session {session_id} does not hold the lease of run {run.id}")


def _name(record: Recorded) -> str:
    return f"{type(record.event).__name__} (event {record.sequence})"
