"""Idempotency keys: who owns one, locked while it is decided about."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import Select, bindparam, exists, select

from runlane.decisions import key_stream
from runlane.storage import tables
from runlane.storage.transaction import Transaction

_KEYS = tables.idempotency_keys
_OF_KEY: Any = select(_KEYS.c.run_id, _KEYS.c.reset_at).where(
    _KEYS.c.environment == bindparam("environment"),
    _KEYS.c.task_id == bindparam("task_id"),
    _KEYS.c.key == bindparam("key"),
)
_LOCKED = _OF_KEY.with_for_update()
_RESET: Any = select(_KEYS).where(_KEYS.c.reset_at.is_not(None))
_RESET_HERE = _RESET.where(_KEYS.c.environment == bindparam("environment"))
_EVENTS = tables.events.c
_TOLD = select(
    exists().where(
        _EVENTS.stream_id == bindparam("stream_id"),
        _EVENTS.environment == bindparam("environment"),
        _EVENTS.occurred_at == bindparam("reset_at"),
    )
)


@frozen
class Owner:
    """The run that last took a key, and when an operator has reset the key since."""

    run_id: UUID
    reset_at: datetime | None


def lock_owner(tx: Transaction, environment: str, task_id: str, key: str) -> Owner | None:
    """Who last took the key; its row stays locked until the transaction ends."""
    return _owner(tx, _LOCKED, environment, task_id, key)


def get_owner(tx: Transaction, environment: str, task_id: str, key: str) -> Owner | None:
    """Who last took the key, as a reader sees it."""
    return _owner(tx, _OF_KEY, environment, task_id, key)


def untold_resets(tx: Transaction, environment: str | None) -> Iterator[tuple[UUID, datetime]]:
    """The streams of keys that are said to have been reset at a time at which their log tells of nothing."""
    resets = tx.execute(_RESET) if environment is None else tx.execute(_RESET_HERE, {"environment": environment})
    for row in resets.all():
        stream_id = key_stream(row.environment, row.task_id, row.key)
        asked = {"stream_id": stream_id, "environment": row.environment, "reset_at": row.reset_at}
        if not tx.execute(_TOLD, asked).scalar_one():
            yield stream_id, row.reset_at


def _owner(tx: Transaction, statement: Select[Any], environment: str, task_id: str, key: str) -> Owner | None:
    row = tx.execute(statement, {"environment": environment, "task_id": task_id, "key": key}).first()
    return None if row is None else Owner(row.run_id, row.reset_at)
