"""Idempotency keys: who owns one, locked while it is decided about."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import select

from runlane.storage import tables
from runlane.storage.transaction import Transaction

_KEYS = tables.idempotency_keys


@frozen
class Owner:
    """The run that last took a key, and when an operator has reset the key since."""

    run_id: UUID
    reset_at: datetime | None


def lock_owner(tx: Transaction, environment: str, task_id: str, key: str) -> Owner | None:
    """Who last took the key; its row stays locked until the transaction ends."""
    return _owner(tx, _of(environment, task_id, key).with_for_update())


def get_owner(tx: Transaction, environment: str, task_id: str, key: str) -> Owner | None:
    """Who last took the key, as a reader sees it."""
    return _owner(tx, _of(environment, task_id, key))


def _of(environment: str, task_id: str, key: str) -> Any:
    return select(_KEYS.c.run_id, _KEYS.c.reset_at).where(
        _KEYS.c.environment == environment, _KEYS.c.task_id == task_id, _KEYS.c.key == key
    )


def _owner(tx: Transaction, statement: Any) -> Owner | None:
    row = tx.execute(statement).first()
    return None if row is None else Owner(row.run_id, row.reset_at)
