"""Runs that wait for their time, and slots that wait for their runs, as maintenance looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from runlane.projections.runs import Run
from runlane.storage import queries, tables
from runlane.storage.transaction import Transaction

_C = tables.runs.c
# As the index `runs_waiting` says it: the planner compares texts, not meanings.
_WAITS = text("status in ('scheduled', 'released', 'retrying')")
_OCCUPIED = text("(lease_session_id is not null or reservation is not null)")


def due_waiting(tx: Transaction, environment: str, queue: str, now: datetime, limit: int) -> list[UUID]:
    """Up to `limit` due runs of a queue that are scheduled, released or retrying, in claim order.

    Read level by level of priority: within one, runs that are not due yet come last and are not read.
    """
    mine = (_C.environment == environment, _C.queue == queue, _WAITS)
    found: list[UUID] = []
    below: list[Any] = []
    while len(found) < limit:
        level = tx.execute(select(func.max(_C.priority)).where(*mine, *below)).scalar_one()
        if level is None:
            break
        due = select(_C.id).where(*mine, _C.priority == level, _C.due_at <= now)
        found += tx.execute(due.order_by(_C.due_at, _C.id).limit(limit - len(found))).scalars()
        below = [_C.priority < level]
    return found


def reserved(tx: Transaction, environment: str, queues: Sequence[str]) -> list[Run]:
    """The runs of these queues that hold a reservation; at most as many as the queues' limits."""
    held = (_C.environment == environment, _C.queue.in_(list(queues)), _OCCUPIED, _C.reservation.is_not(None))
    return queries.load(tx, queries.RUN.where(*held).order_by(_C.id))
