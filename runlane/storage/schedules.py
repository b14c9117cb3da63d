"""Reading schedules, and locking the one that is about to fire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from attrs import frozen
from sqlalchemy import bindparam, select, text, tuple_

from runlane.projections.schedules import ScheduleState
from runlane.storage import tables
from runlane.storage.transaction import Transaction

_SCHEDULES = tables.schedules
_OF_STREAM = select(_SCHEDULES).where(_SCHEDULES.c.stream_id == bindparam("stream_id"))
_LOCKED = _OF_STREAM.with_for_update()
_LOCKED_AMONG = (
    select(_SCHEDULES)
    .where(_SCHEDULES.c.stream_id.in_(bindparam("stream_ids", expanding=True)))
    .order_by(_SCHEDULES.c.stream_id)
    .with_for_update(skip_locked=True)
)
_OF_ENVIRONMENT = (
    select(_SCHEDULES).where(_SCHEDULES.c.environment == bindparam("environment")).order_by(_SCHEDULES.c.schedule_id)
)
_OCCURRENCE = select(tables.occurrences.c.id).where(
    tables.occurrences.c.environment == bindparam("environment"),
    tables.occurrences.c.schedule_id == bindparam("schedule_id"),
    tables.occurrences.c.scheduled_for == bindparam("scheduled_for"),
)
_DUE = (
    select(_SCHEDULES.c.next_at, _SCHEDULES.c.stream_id)
    .where(
        _SCHEDULES.c.environment == bindparam("environment"),
        _SCHEDULES.c.next_at <= bindparam("now"),
        _SCHEDULES.c.next_at.is_not(None),
        text("not paused"),  # as the index `schedules_due` says it: SQLite compares words
        _SCHEDULES.c.task_id.in_(bindparam("tasks", expanding=True)),
    )
    .order_by(_SCHEDULES.c.next_at, _SCHEDULES.c.stream_id)
    .limit(bindparam("most"))
)
_DUE_BEHIND = _DUE.where(
    tuple_(_SCHEDULES.c.next_at, _SCHEDULES.c.stream_id)
    > tuple_(
        bindparam("behind_at", type_=_SCHEDULES.c.next_at.type),
        bindparam("behind", type_=_SCHEDULES.c.stream_id.type),
    )
)


@frozen
class Due:
    """A schedule that is due since `at`."""

    at: datetime
    stream_id: UUID


def schedules_of(tx: Transaction, environment: str) -> list[ScheduleState]:
    """Every schedule ever registered in an environment, by id."""
    return [ScheduleState(**row._mapping) for row in tx.execute(_OF_ENVIRONMENT, {"environment": environment})]


def due_schedules(
    tx: Transaction, environment: str, tasks: Sequence[str], now: datetime, limit: int, behind: Due | None = None
) -> list[Due]:
    """Up to `limit` schedules of these tasks that are due, the longest waiting first; only those that come `behind`."""
    asked = {"environment": environment, "now": now, "tasks": list(tasks), "most": limit}
    if behind is None:
        found = tx.execute(_DUE, asked)
    else:
        found = tx.execute(_DUE_BEHIND, {**asked, "behind_at": behind.at, "behind": behind.stream_id})
    return [Due(row.next_at, row.stream_id) for row in found]


def get_schedule(tx: Transaction, stream_id: UUID) -> ScheduleState | None:
    """The schedule whose stream this is."""
    row = tx.execute(_OF_STREAM, {"stream_id": stream_id}).first()
    return None if row is None else ScheduleState(**row._mapping)


def lock_schedule(tx: Transaction, stream_id: UUID) -> ScheduleState | None:
    """The schedule, locked for this transaction, which waits for who holds it; None if there is none."""
    row = tx.execute(_LOCKED, {"stream_id": stream_id}).first()
    return None if row is None else ScheduleState(**row._mapping)


def lock_schedules(tx: Transaction, stream_ids: Sequence[UUID]) -> list[ScheduleState]:
    """Those of these schedules that nobody else holds, locked for this transaction, by stream."""
    return [ScheduleState(**row._mapping) for row in tx.execute(_LOCKED_AMONG, {"stream_ids": list(stream_ids)})]


def has_fired(tx: Transaction, environment: str, schedule_id: str, scheduled_for: datetime) -> bool:
    """Whether the occurrence at this nominal time has made its run, which may have been pruned since."""
    wanted = {"environment": environment, "schedule_id": schedule_id, "scheduled_for": scheduled_for}
    return tx.execute(_OCCURRENCE, wanted).first() is not None
