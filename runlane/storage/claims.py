"""Claimable work, and the runs that worker sessions hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import Select, bindparam, select

from runlane.projections.runs import Run
from runlane.storage import queries, rows, tables
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus

_RUNS, _SESSIONS = tables.runs, tables.sessions
_LOCKED = (
    queries.RUN.where(_RUNS.c.id.in_(bindparam("ids", expanding=True))).order_by(_RUNS.c.id).with_for_update(of=_RUNS)
)
_LOCKED_UNLESS_HELD = queries.RUN.where(_RUNS.c.id == bindparam("run_id")).with_for_update(of=_RUNS, skip_locked=True)
# In no order: to have the first few by id, the planner would walk the whole table by id.  Nothing waits here.
_LOCKED_LEASED = (
    queries.RUN.where(_RUNS.c.lease_session_id == bindparam("session_id"))
    .limit(bindparam("most"))
    .with_for_update(of=_RUNS, skip_locked=True)
)
_LEASES = select(_RUNS.c.id, _RUNS.c.attempt_count, _RUNS.c.status).where(
    _RUNS.c.lease_session_id == bindparam("session_id")
)
_ORPHANED: Select[Any] = (
    select(_RUNS.c.lease_session_id)
    .where(
        _RUNS.c.lease_session_id.is_not(None),
        _RUNS.c.environment == bindparam("environment"),
        ~select(_SESSIONS.c.id).where(_SESSIONS.c.id == _RUNS.c.lease_session_id).exists(),
    )
    .distinct()
    .limit(bindparam("most"))
)


def lock_due(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    queues: Sequence[str],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
) -> list[Run]:
    """Up to `limit` runs that are due at `now`, best first, locked for this transaction and skipped by all others.

    None for a session without a row: maintenance has ended it, and would take the lease away again as a loss.
    """
    if not queues or not tasks or limit < 1:
        return []
    found = tx.dialect.lock_due(tx.connection, environment, session_id, queues, tasks, now, limit)
    if len(found) > limit:
        raise AssertionError(f"claimed {len(found)} runs where at most {limit} were asked for")
    return [rows.run_from_row(row, rows.created_from(row[-2], row[-1], row[0])) for row in found]


def lock_runs(tx: Transaction, ids: Sequence[UUID]) -> list[Run]:
    """The runs with these ids, locked in id order."""
    return queries.load(tx, _LOCKED, {"ids": list(ids)})


def lock_leased(tx: Transaction, session_id: UUID, limit: int) -> list[Run]:
    """Up to `limit` runs leased to a session, locked; those that others hold at the moment are left out."""
    return queries.load(tx, _LOCKED_LEASED, {"session_id": session_id, "most": limit})


@frozen
class HeldLease:
    """A run leased to a session."""

    run_id: UUID
    attempt: int
    is_cancellation_requested: bool


def leases_of(tx: Transaction, session_id: UUID) -> list[HeldLease]:
    """The runs leased to a session."""
    rows: Sequence[Any] = tx.execute(_LEASES, {"session_id": session_id}).all()
    return [HeldLease(row[0], row[1], row[2] == RunStatus.CANCELLATION_REQUESTED) for row in rows]


def orphaned_sessions(tx: Transaction, environment: str, limit: int) -> list[UUID]:
    """Sessions that hold runs but have no row: nobody keeps them alive."""
    return list(tx.execute(_ORPHANED, {"environment": environment, "most": limit}).scalars())
