"""Reading the log across streams: what somebody has written, and what was done with a key; the newest first.

Nothing but these questions needs an index by actor or key, so each reads the log, or the runs, of the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, or_, select

from runlane.decisions import key_stream
from runlane.events import Recorded
from runlane.storage import past, tables
from runlane.storage.streams import ENVELOPE
from runlane.storage.transaction import Transaction

_EVENTS, _RUNS, _KEYS = tables.events.c, tables.runs.c, tables.idempotency_keys.c
_PAGE: Any = (
    select(*ENVELOPE)
    .where(_EVENTS.environment == bindparam("environment"), _EVENTS.position < bindparam("before"))
    .order_by(_EVENTS.position.desc())
    .limit(bindparam("most"))
)
_BY = _PAGE.where(_EVENTS.actor.in_(bindparam("actors", expanding=True)))
_CARRY = select(_RUNS.id).where(
    _RUNS.environment == bindparam("environment"),
    or_(
        _RUNS.idempotency_key == bindparam("key"),
        _RUNS.singleton_key == bindparam("key"),
        _RUNS.concurrency_key == bindparam("key"),
    ),
)
_WITH = _PAGE.where(
    or_(
        _EVENTS.stream_id.in_(_CARRY) & (_EVENTS.sequence == 1),
        _EVENTS.stream_id.in_(bindparam("streams", expanding=True)),
    )
)
#: The tasks of which a key was or is an idempotency key: together they know all whose runs are not all pruned.
_TASKS = (
    select(_RUNS.task_id)
    .where(_RUNS.environment == bindparam("environment"), _RUNS.idempotency_key == bindparam("key"))
    .union(select(_KEYS.task_id).where(_KEYS.environment == bindparam("environment"), _KEYS.key == bindparam("key")))
)


def written_by(
    tx: Transaction, environment: str, actors: Sequence[str], before: int, limit: int
) -> tuple[Recorded, ...]:
    """Up to `limit` events that these actors have written, in front of the position `before`."""
    asked = {"environment": environment, "actors": list(actors), "before": before, "most": limit}
    return tuple(past.recorded(row) for row in tx.execute(_BY, asked))


def with_key(tx: Transaction, environment: str, key: str, before: int, limit: int) -> tuple[Recorded, ...]:
    """Up to `limit` births of runs that carry this key, and resets of it, in front of the position `before`."""
    mine = {"environment": environment, "key": key}
    tasks = tx.execute(_TASKS, mine).scalars()
    asked = {
        **mine,
        "streams": [key_stream(environment, task_id, key) for task_id in tasks],
        "before": before,
        "most": limit,
    }
    return tuple(past.recorded(row) for row in tx.execute(_WITH, asked))
