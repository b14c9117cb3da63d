"""Removing ended runs with their histories: the only deletes of events, runs and idempotency keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select

from runlane.errors import InvariantViolation
from runlane.events import Recorded
from runlane.storage import outbox, tables
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus

_RUNS, _EVENTS, _KEYS = tables.runs, tables.events, tables.idempotency_keys
_OWNS: ColumnElement[bool] = and_(
    _KEYS.c.environment == _RUNS.c.environment,
    _KEYS.c.task_id == _RUNS.c.task_id,
    _KEYS.c.key == _RUNS.c.idempotency_key,
    _KEYS.c.run_id == _RUNS.c.id,
)


def ended_runs(
    tx: Transaction,
    environment: str,
    statuses: Sequence[RunStatus],
    before: datetime,
    after: UUID | None,
    limit: int,
    *,
    lock: bool,
) -> dict[UUID, int]:
    """Up to `limit` runs of these statuses last updated before then, by id, behind `after`; each with its sequence."""
    statement = select(_RUNS.c.id, _RUNS.c.sequence).where(
        _RUNS.c.environment == environment, _RUNS.c.status.in_(list(statuses)), _RUNS.c.updated_at < before
    )
    if after is not None:
        statement = statement.where(_RUNS.c.id > after)
    statement = statement.order_by(_RUNS.c.id).limit(limit)
    found = tx.execute(statement.with_for_update() if lock else statement)
    return {row.id: row.sequence for row in found}


def check_histories(tx: Transaction, heads: Mapping[UUID, int]) -> None:
    """Raise unless the log holds exactly the events that the rows of these runs stand for.

    Raises:
        InvariantViolation: naming a run whose row and history disagree; what is damaged is evidence, and stays.
    """
    c = _EVENTS.c
    statement = select(c.stream_id, func.max(c.sequence), func.count()).where(c.stream_id.in_(list(heads)))
    rows: Sequence[Any] = tx.execute(statement.group_by(c.stream_id)).all()
    found = {row[0]: (row[1], row[2]) for row in rows}
    for run_id, head in heads.items():
        if found.get(run_id) != (head, head):
            raise InvariantViolation(
                f"run {run_id} is not pruned: its row and its history disagree; look at `runlane audit verify`"
            )


def lock_keys(tx: Transaction, ids: Sequence[UUID], *, lock: bool) -> int:
    """Lock the keys these runs own, in the order in which everybody does; how many they are."""
    statement = select(_KEYS.c.run_id).join(_RUNS, _OWNS).where(_RUNS.c.id.in_(list(ids)))
    statement = statement.order_by(_KEYS.c.environment, _KEYS.c.task_id, _KEYS.c.key)
    return len(tx.execute(statement.with_for_update(of=_KEYS) if lock else statement).all())


def remove(tx: Transaction, told: Recorded, heads: Mapping[UUID, int]) -> None:
    """Delete these runs, their events and the keys they own, as the event `told`, just appended, says."""
    outbox.remove(tx, list(heads))
    deleted = tx.dialect.delete_runs(tx.connection, (told.stream_id, told.sequence), list(heads))
    if deleted != sum(heads.values()):
        raise InvariantViolation(f"{deleted} events were deleted where {sum(heads.values())} were told of")
