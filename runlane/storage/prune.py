"""Removing ended runs with their histories: the only deletes of events, runs and idempotency keys.

What locks and deletes is spelled out per database: on PostgreSQL in functions that may do what their caller may not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, func, select

from runlane.errors import InvariantViolation
from runlane.events import Head, Recorded
from runlane.storage import tables
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus

_RUNS, _EVENTS, _KEYS = tables.runs, tables.events, tables.idempotency_keys
_OWNS: ColumnElement[bool] = and_(
    _KEYS.c.environment == _RUNS.c.environment,
    _KEYS.c.task_id == _RUNS.c.task_id,
    _KEYS.c.key == _RUNS.c.idempotency_key,
    _KEYS.c.run_id == _RUNS.c.id,
)

# Constants, so that SQLAlchemy knows them again: building one each time costs more than it costs to execute.
_ENDED = (
    select(_RUNS.c.id, _RUNS.c.sequence)
    .where(
        _RUNS.c.environment == bindparam("environment"),
        _RUNS.c.status.in_(bindparam("statuses", expanding=True)),
        _RUNS.c.updated_at < bindparam("before"),
    )
    .order_by(_RUNS.c.id)
    .limit(bindparam("most"))
)
_ENDED_BEHIND = _ENDED.where(_RUNS.c.id > bindparam("behind"))
_HISTORIES = (
    select(_EVENTS.c.stream_id, _EVENTS.c.sequence, _EVENTS.c.position, _EVENTS.c.digest)
    .where(_EVENTS.c.stream_id.in_(bindparam("ids", expanding=True)))
    .order_by(_EVENTS.c.stream_id, _EVENTS.c.sequence)
    .execution_options(yield_per=1000)
)
_LOWEST = select(func.min(_EVENTS.c.position, type_=BigInteger)).where(
    _EVENTS.c.stream_id.in_(bindparam("ids", expanding=True)), _EVENTS.c.sequence == 1
)
_OWNED = (
    select(func.count()).select_from(_KEYS.join(_RUNS, _OWNS)).where(_RUNS.c.id.in_(bindparam("ids", expanding=True)))
)


def ended_runs(
    tx: Transaction,
    environment: str,
    statuses: Sequence[RunStatus],
    before: datetime,
    after: UUID | None,
    limit: int,
) -> dict[UUID, int]:
    """Up to `limit` runs of these statuses last updated before then, by id, behind `after`; each with its sequence."""
    asked: dict[str, Any] = {"environment": environment, "statuses": list(statuses), "before": before, "most": limit}
    found = tx.execute(_ENDED if after is None else _ENDED_BEHIND, asked | ({} if after is None else {"behind": after}))
    return {row.id: row.sequence for row in found}


def lowest_position(tx: Transaction, ids: Sequence[UUID]) -> int:
    """Where in the log the first of these runs begins."""
    found: int | None = tx.execute(_LOWEST, {"ids": list(ids)}).scalar()
    return found or 0


def read_heads(tx: Transaction, sequences: Mapping[UUID, int], bounds: Sequence[int]) -> list[Head]:
    """The last event of each of these runs in each stretch of the log that it has events in.

    Args:
        sequences: the last one of each run, as its row says.
        bounds: the last positions of the stretches, ascending; what is behind them all is one more.

    Raises:
        InvariantViolation: naming a run whose row and history disagree; what is damaged is evidence, and stays.
    """
    heads: list[Head] = []
    found: dict[UUID, int] = {}
    with tx.execute(_HISTORIES, {"ids": list(sequences)}) as events:
        for run_id, history in groupby(events, key=itemgetter(0)):
            last: Any = None
            for place, event in enumerate(history, 1):
                if last is not None and bisect_left(bounds, last.position) != bisect_left(bounds, event.position):
                    heads.append(_head(last))
                found[run_id] = event.sequence if event.sequence == place else -1
                last = event
            heads.append(_head(last))
    for run_id, sequence in sequences.items():
        if found.get(run_id) != sequence:
            raise InvariantViolation(
                f"run {run_id} is not pruned: its row and its history disagree; look at `runlane audit verify`"
            )
    return heads


def _head(event: Any) -> Head:
    return Head(event.stream_id, event.sequence, event.position, event.digest.hex())


def lock(tx: Transaction, ids: Sequence[UUID]) -> None:
    """Lock these runs, and the keys they own in the order in which everybody does."""
    tx.dialect.lock_for_pruning(tx.statements, ids)


def count_keys(tx: Transaction, ids: Sequence[UUID]) -> int:
    """How many keys these runs own."""
    return int(tx.execute(_OWNED, {"ids": list(ids)}).scalar_one())


def remove(tx: Transaction, told: Recorded, sequences: Mapping[UUID, int]) -> None:
    """Delete these runs, their events, wakeups and keys, as the event `told`, just appended, says."""
    deleted = tx.dialect.delete_runs(tx.statements, (told.stream_id, told.sequence), list(sequences))
    if deleted != sum(sequences.values()):
        raise InvariantViolation(f"{deleted} events were deleted where {sum(sequences.values())} were told of")
