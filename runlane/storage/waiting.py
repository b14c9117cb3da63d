"""Runs that wait for their time, and slots that wait for their runs, as maintenance looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, case, func, or_, select, text

from runlane.projections.runs import Run
from runlane.storage import queries, tables
from runlane.storage.choices import OneOf
from runlane.storage.given_up import MOST_TRIES
from runlane.storage.transaction import Transaction

_C = tables.runs.c
# As the index `runs_waiting` says it: the planner compares texts, not meanings.
_WAITS = OneOf("status", *tables.WAITING)
_OCCUPIED = text("(lease_session_id is not null or reservation is not null)")
_ASKED = tables.outbox.c
# A reservation may stand behind the request that came with it; one that has expired has taken its request with it.
_SINCE = _C.sequence - case((_C.reservation.is_not(None), 1), else_=0)
# One that could not be published for all its tries is as good as none; one that was refused for good is not.
_LIVES = or_(_ASKED.status != "dead_lettered", _ASKED.attempts < MOST_TRIES)

# Constants, so that SQLAlchemy knows them again: building one each time costs more than it costs to execute.
_OF_QUEUE = (_C.environment == bindparam("environment"), _C.queue == bindparam("queue"))
_LEVEL = select(func.max(_C.priority)).where(*_OF_QUEUE, _WAITS)
_LEVEL_BELOW = _LEVEL.where(_C.priority < bindparam("level"))
_DUE = (
    select(_C.id)
    .where(*_OF_QUEUE, _WAITS, _C.priority == bindparam("level"), _C.due_at <= bindparam("now"))
    .order_by(_C.due_at, _C.id)
    .limit(bindparam("most"))
)
_UNASKED = (
    select(_C.id)
    .where(*_OF_QUEUE, text("status = 'queued'"))
    .where(_C.due_at <= bindparam("now"), _C.updated_at <= bindparam("before"))
    .where(~select(_ASKED.run_id).where(_ASKED.run_id == _C.id, _ASKED.sequence >= _SINCE, _LIVES).exists())
    .limit(bindparam("most"))
)
_RESERVED = queries.RUN.where(
    _C.environment == bindparam("environment"),
    _C.queue.in_(bindparam("queues", expanding=True)),
    _OCCUPIED,
    _C.reservation.is_not(None),
).order_by(_C.id)


def due_waiting(tx: Transaction, environment: str, queue: str, now: datetime, limit: int) -> list[UUID]:
    """Up to `limit` due runs of a queue that are scheduled, released or retrying, in claim order.

    Read level by level of priority: within one, runs that are not due yet come last and are not read.
    """
    mine: dict[str, Any] = {"environment": environment, "queue": queue}
    found: list[UUID] = []
    next_level = _LEVEL
    while len(found) < limit:
        level = tx.execute(next_level, mine).scalar_one()
        if level is None:
            break
        mine["level"] = level
        found += tx.execute(_DUE, {**mine, "now": now, "most": limit - len(found)}).scalars()
        next_level = _LEVEL_BELOW
    return found


def unasked(tx: Transaction, environment: str, queue: str, now: datetime, before: datetime, limit: int) -> list[UUID]:
    """Up to `limit` runs of a queue that were queued before then, and for whose delivery nobody has asked since.

    A process whose transport carries no wakeups may have queued them, or one that knew another limit of the queue; or
    the wakeup could not be published, and was given up.
    It looks at every queued run: not for every pass.
    """
    wanted = {"environment": environment, "queue": queue, "now": now, "before": before, "most": limit}
    return list(tx.execute(_UNASKED, wanted).scalars())


def reserved(tx: Transaction, environment: str, queues: Sequence[str]) -> list[Run]:
    """The runs of these queues that hold a reservation; at most as many as the queues' limits."""
    return queries.load(tx, _RESERVED, {"environment": environment, "queues": list(queues)})
