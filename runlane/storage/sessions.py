"""Worker sessions: one row per running process, kept alive by its heartbeat.  Liveness, not history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from runlane.storage import tables
from runlane.storage.transaction import Transaction

_SESSIONS = tables.sessions
_EXPIRY: Select[Any] = select(_SESSIONS.c.expires_at).where(_SESSIONS.c.id == bindparam("session_id"))
_LOCKED = _EXPIRY.with_for_update()
_EXTEND = update(_SESSIONS).where(_SESSIONS.c.id == bindparam("session_id")).values(expires_at=bindparam("until"))
_EXPIRED = (
    select(_SESSIONS.c.id)
    .where(_SESSIONS.c.environment == bindparam("environment"), _SESSIONS.c.expires_at <= bindparam("now"))
    .order_by(_SESSIONS.c.expires_at)
    .limit(bindparam("most"))
)
_CLOSE = delete(_SESSIONS).where(_SESSIONS.c.id == bindparam("session_id"))
_ALIVE = (_SESSIONS.c.environment == bindparam("environment"), _SESSIONS.c.expires_at > bindparam("now"))
_COUNT_ALIVE, _KNOWN_TASKS = select(func.count()).where(*_ALIVE), select(_SESSIONS.c.tasks).where(*_ALIVE)


def _opening(insert: Any) -> Any:
    """A statement that makes a session, or changes the expiry of the one there is."""
    names = ("id", "environment", "worker_id", "started_at", "expires_at", "tasks")
    new = insert(_SESSIONS).values({name: bindparam(name) for name in names})
    return new.on_conflict_do_update(index_elements=["id"], set_={"expires_at": new.excluded.expires_at})


_OPEN = {"postgresql": _opening(postgresql.insert), "sqlite": _opening(sqlite.insert)}


def open_session(
    tx: Transaction,
    session_id: UUID,
    environment: str,
    worker_id: str,
    now: datetime,
    expires_at: datetime,
    tasks: Sequence[str] = (),
) -> None:
    """Register a worker process that knows these tasks; to repeat it changes the expiry only."""
    values = {"environment": environment, "worker_id": worker_id, "started_at": now, "expires_at": expires_at}
    tx.execute(_OPEN[tx.dialect.name], {"id": session_id, "tasks": list(tasks), **values})


def exists(tx: Transaction, session_id: UUID) -> bool:
    """Whether the session has a row."""
    return tx.execute(_EXPIRY, {"session_id": session_id}).first() is not None


def expires_at(tx: Transaction, session_id: UUID) -> datetime | None:
    """Until when the session is believed; None if it has no row."""
    found: datetime | None = tx.execute(_EXPIRY, {"session_id": session_id}).scalar_one_or_none()
    return found


def count_alive(tx: Transaction, environment: str, now: datetime) -> int:
    """How many worker processes of an environment are alive."""
    return int(tx.execute(_COUNT_ALIVE, {"environment": environment, "now": now}).scalar_one())


def known_tasks(tx: Transaction, environment: str, now: datetime) -> set[str] | None:
    """The tasks that the living worker processes know; None if one of them does not say, or there is none."""
    found: Sequence[Any] = tx.execute(_KNOWN_TASKS, {"environment": environment, "now": now}).scalars().all()
    return None if not found or None in found else set().union(*found)


def extend_session(tx: Transaction, session_id: UUID, expires_at: datetime) -> bool:
    """Keep a session alive until `expires_at`; False if it is gone, and with it every lease it held."""
    return tx.execute(_EXTEND, {"session_id": session_id, "until": expires_at}).rowcount == 1


def close_session(tx: Transaction, session_id: UUID) -> None:
    """Forget a session."""
    tx.execute(_CLOSE, {"session_id": session_id})


def expired_sessions(tx: Transaction, environment: str, now: datetime, limit: int) -> list[UUID]:
    """Sessions whose time has run out, oldest first."""
    return list(tx.execute(_EXPIRED, {"environment": environment, "now": now, "most": limit}).scalars())


def lock_expired(tx: Transaction, session_id: UUID) -> datetime | None:
    """Lock a session's row and return its expiry; None if there is no row.

    It waits for a heartbeat or another maintainer that holds the row: skipping it would look like no row at all.
    """
    expires_at: datetime | None = tx.execute(_LOCKED, {"session_id": session_id}).scalar_one_or_none()
    return expires_at
