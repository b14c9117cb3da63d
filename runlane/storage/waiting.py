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


def unasked(tx: Transaction, environment: str, queue: str, now: datetime, before: datetime, limit: int) -> list[UUID]:
    """Up to `limit` runs of a queue that were queued before then, and for whose delivery nobody has asked since.

    A process whose transport carries no wakeups may have queued them, or one that knew another limit of the queue.
    It looks at every queued run: not for every pass.
    """
    o = tables.outbox.c
    asked = select(o.run_id).where(o.run_id == _C.id, o.sequence >= _C.sequence - 1).exists()
    mine = (_C.environment == environment, _C.queue == queue, text("status = 'queued'"))
    statement = select(_C.id).where(*mine, _C.due_at <= now, _C.updated_at <= before, ~asked)
    return list(tx.execute(statement.limit(limit)).scalars())


def reserved(tx: Transaction, environment: str, queues: Sequence[str]) -> list[Run]:
    """The runs of these queues that hold a reservation; at most as many as the queues' limits."""
    held = (_C.environment == environment, _C.queue.in_(list(queues)), _OCCUPIED, _C.reservation.is_not(None))
    return queries.load(tx, queries.RUN.where(*held).order_by(_C.id))
