"""Rows and their attrs form; those of ``runs`` in one order of columns, used by every statement on every database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from runlane import codec, jsontext
from runlane.errors import InvariantViolation
from runlane.events import RunCreated, RunSucceeded
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.storage import tables
from runlane.values import Actor, Cancellation, Counters, Lease, Reservation, RunStatus

#: Set at birth, never changed.
IDENTITY: tuple[str, ...] = (
    "environment",
    "task_id",
    "queue",
    "priority",
    "created_at",
    "source_run_id",
    "parent_run_id",
    "schedule_id",
    "idempotency_key",
    "singleton_key",
    "concurrency_key",
    "correlation_id",
)
#: Written by every step, as the fold says.
STATE: tuple[str, ...] = (
    "id",
    "sequence",
    "status",
    "due_at",
    "run_at",
    "updated_at",
    "started_at",
    "finished_at",
    "attempt_count",
    "failure_count",
    "retry_count",
    "release_count",
    "lost_count",
    "lease_session_id",
    "lease_worker_id",
    "leased_at",
    "failure",
    "reservation",
    "cancellation",
)
BIRTH = STATE + IDENTITY

#: The columns a run is read from, in this order; then its first event's data and, if it has one, its result event's.
READ: tuple[str, ...] = (
    "id",
    "environment",
    "created_at",
    "sequence",
    "status",
    "updated_at",
    "due_at",
    "run_at",
    "started_at",
    "finished_at",
    "attempt_count",
    "failure_count",
    "retry_count",
    "release_count",
    "lost_count",
    "lease_session_id",
    "lease_worker_id",
    "leased_at",
    "failure",
    "reservation",
    "cancellation",
)

#: What a claim reads of a run that it has leased; all else is known or empty then.
LEASED: tuple[str, ...] = (
    "id",
    "created_at",
    "sequence",
    "updated_at",
    "started_at",
    "attempt_count",
    "failure_count",
    "retry_count",
    "release_count",
    "lost_count",
    "failure",
)


def state_values(run: Run) -> tuple[Any, ...]:
    """The values of ``STATE``: UUIDs and datetimes as such, JSON as text."""
    counters, lease = run.counters, run.lease
    return (
        run.id,
        run.sequence,
        str(run.status),
        run.due_at,
        run.run_at,
        run.updated_at,
        run.started_at,
        run.finished_at,
        counters.attempts,
        counters.failures,
        counters.retries,
        counters.releases,
        counters.losses,
        None if lease is None else lease.session_id,
        None if lease is None else lease.worker_id,
        None if lease is None else lease.leased_at,
        None if run.failure is None else jsontext.dumps(codec.to_json(run.failure)),
        None if run.reservation is None else jsontext.dumps(_reservation(run.reservation)),
        None if run.cancellation is None else jsontext.dumps(_cancellation(run.cancellation)),
    )


def birth_values(run: Run) -> tuple[Any, ...]:
    """The values of ``BIRTH``."""
    created = run.created
    source = created.source
    return (
        *state_values(run),
        run.environment,
        created.task_id,
        created.queue,
        created.priority,
        run.created_at,
        source.source_run_id,
        source.parent_run_id,
        source.schedule_id,
        created.idempotency_key,
        created.singleton_key,
        created.concurrency_key,
        created.correlation_id,
    )


def run_from_row(row: Sequence[Any], created: RunCreated, result: Any = None) -> Run:
    """The run of a row of ``READ`` columns, with instants as datetimes, ids as UUIDs, and JSON as text or values."""
    lease = None if row[15] is None else Lease(row[15], row[16], row[10], row[17])
    return Run(
        row[0],
        row[1],
        created,
        row[2],
        row[3],
        RunStatus(row[4]),
        row[5],
        row[6],
        row[7],
        row[8],
        row[9],
        Counters(row[10], row[11], row[12], row[13], row[14]),
        lease,
        None if row[18] is None else codec.failure_from_json(_value(row[18])),
        result,
        None if row[19] is None else _reservation_from(_value(row[19])),
        None if row[20] is None else _cancellation_from(_value(row[20])),
    )


def leased_from_row(row: Sequence[Any], environment: str, session_id: UUID, worker_id: str) -> Run:
    """The run of a row of ``LEASED`` columns, its first event's version and data and what not, held by this session."""
    run_id, created_at, sequence, at, started_at, attempt, failures, retries, releases, losses, failure, *first = row
    return Run(
        run_id,
        environment,
        created_from(first[0], first[1], run_id),
        created_at,
        sequence,
        RunStatus.RUNNING,
        at,
        None,
        None,
        started_at,
        None,
        Counters(attempt, failures, retries, releases, losses),
        Lease(session_id, worker_id, attempt, at),
        None if failure is None else codec.failure_from_json(_value(failure)),
    )


def created_from(version: int, data: bytes | str, run_id: UUID) -> RunCreated:
    """The first event of a run, from its stored data."""
    event = codec.decode("run.created", version, data)
    if not isinstance(event, RunCreated):
        raise InvariantViolation(f"event 1 of run {run_id} is no run.created")
    return event


def result_from(version: int, data: bytes | str) -> Any:
    """The result in the stored data of a ``run.succeeded`` event."""
    event = codec.decode("run.succeeded", version, data)
    return event.result if isinstance(event, RunSucceeded) else None


def _value(stored: Any) -> Any:
    return jsontext.decode(stored) if isinstance(stored, (str, bytes)) else stored


def _reservation(reservation: Reservation) -> dict[str, Any]:
    return {"reserved_at": reservation.reserved_at, "expires_at": reservation.expires_at}


def _reservation_from(value: dict[str, Any]) -> Reservation:
    expires_at = value["expires_at"]
    return Reservation(
        datetime.fromisoformat(value["reserved_at"]), None if expires_at is None else datetime.fromisoformat(expires_at)
    )


def _cancellation(cancellation: Cancellation) -> dict[str, Any]:
    return {
        "requested_at": cancellation.requested_at,
        "actor": str(cancellation.actor),
        "reason": cancellation.reason,
    }


def _cancellation_from(value: dict[str, Any]) -> Cancellation:
    return Cancellation(datetime.fromisoformat(value["requested_at"]), Actor.parse(value["actor"]), value["reason"])


def schedule_values(state: ScheduleState) -> dict[str, Any]:
    """The row of a schedule, by column."""
    return {column.name: getattr(state, column.name) for column in tables.schedules.columns}


def queue_values(state: QueueControl) -> dict[str, Any]:
    """The row of a queue, by column."""
    return {column.name: getattr(state, column.name) for column in tables.queues.columns}
