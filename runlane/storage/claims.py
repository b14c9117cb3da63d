"""Claimable work, and the runs that worker sessions hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import ColumnElement, Select, bindparam, literal_column, select

from runlane import codec
from runlane.events import RunLeased
from runlane.projections.runs import Run
from runlane.storage import log, queries, rows, tables
from runlane.storage.dialect import LeaseTerms
from runlane.storage.floors import Stretch
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction
from runlane.values import Actor, ActorType, RunStatus

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
_LOCKED_LEASED_AMONG = _LOCKED_LEASED.where(_RUNS.c.id.in_(bindparam("ids", expanding=True)))
_ONE: ColumnElement[int] = literal_column("1")  # of a parameter the planner believes that it is a tenth of the table
_LEASES = select(_RUNS.c.id, _RUNS.c.attempt_count, _RUNS.c.status).where(
    _RUNS.c.lease_session_id == bindparam("session_id")
)


def _next_holder(*conditions: ColumnElement[bool]) -> Any:
    """The first of the sessions that hold runs."""
    holder = _RUNS.c.lease_session_id
    return select(holder).where(holder.is_not(None), *conditions).order_by(holder).limit(_ONE).scalar_subquery()


def _orphaned() -> Select[Any]:
    """Sessions one after the other by a look into the index each, however many runs they hold."""
    held = select(_next_holder().label("id")).cte("held", recursive=True)
    held = held.union_all(select(_next_holder(_RUNS.c.lease_session_id > held.c.id)).where(held.c.id.is_not(None)))
    environment = select(_RUNS.c.environment).where(_RUNS.c.lease_session_id == held.c.id).limit(_ONE).scalar_subquery()
    has_row = select(_SESSIONS.c.id).where(_SESSIONS.c.id == held.c.id).exists()
    mine = (held.c.id.is_not(None), ~has_row, environment == bindparam("environment"))
    return select(held.c.id).where(*mine).limit(bindparam("most"))


_ORPHANED = _orphaned()


def lock_due(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    stretches: Sequence[Stretch],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
) -> list[Run]:
    """Up to `limit` runs of these parts of queues that are due at `now`, best first.

    They are locked for this transaction and skipped by all others.

    None for a session without a row: maintenance has ended it, and would take the lease away again as a loss.
    """
    if not stretches or not tasks or limit < 1:
        return []
    found = tx.dialect.lock_due(tx.statements, environment, session_id, stretches, tasks, now, limit)
    if len(found) > limit:
        raise AssertionError(f"claimed {len(found)} runs where at most {limit} were asked for")
    return [rows.run_from_row(row, rows.created_from(row[-2], row[-1], row[0])) for row in found]


def any_due(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    stretches: Sequence[Stretch],
    tasks: Sequence[str],
    now: datetime,
) -> bool:
    """Whether ``lock_due`` would find a run if nobody else had locked any; only reads."""
    if not stretches or not tasks:
        return False
    return tx.dialect.any_due(tx.statements, environment, session_id, stretches, tasks, now)


def lease_due(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    worker_id: str,
    stretches: Sequence[Stretch],
    tasks: Sequence[str],
    now: datetime | None,
    limit: int,
    beside: Successes | None = None,
) -> tuple[list[Run], datetime | None]:
    """The same, leased to the session already; and since when the last of them was due.  `now` is else the moment of
    the statement, which appends what succeeded `beside` it, too."""
    if not stretches or not tasks or limit < 1:
        if beside is not None:
            log.append_successes(tx, beside)
        return [], None
    stored = codec.encode(RunLeased(session_id, worker_id, 1))
    before, _, behind = stored.data.rpartition("1")  # the number of the attempt comes last
    actor = Actor(ActorType.WORKER, worker_id).text
    terms = LeaseTerms(session_id, worker_id, actor, stored.version, before, behind)
    found, due_at = log.append_leases(tx, environment, terms, stretches, tasks, now, limit, beside)
    if len(found) > limit:
        raise AssertionError(f"claimed {len(found)} runs where at most {limit} were asked for")
    return found, due_at


def lock_runs(tx: Transaction, ids: Sequence[UUID]) -> list[Run]:
    """The runs with these ids, locked in id order."""
    return queries.load(tx, _LOCKED, {"ids": list(ids)})


def lock_leased(tx: Transaction, session_id: UUID, limit: int, among: Sequence[UUID] | None = None) -> list[Run]:
    """Up to `limit` runs leased to a session, locked; those that others hold at the moment are left out."""
    asked = {"session_id": session_id, "most": limit}
    if among is None:
        return queries.load(tx, _LOCKED_LEASED, asked)
    return queries.load(tx, _LOCKED_LEASED_AMONG, {**asked, "ids": list(among)})


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
