"""Idempotency keys: who owns one, locked while it is decided about."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select

from runlane.storage import tables
from runlane.storage.transaction import Transaction

_KEYS = tables.idempotency_keys


def lock_owner(tx: Transaction, environment: str, task_id: str, key: str) -> UUID | None:
    """The run that last took the key; its row stays locked until the transaction ends."""
    statement = (
        select(_KEYS.c.run_id)
        .where(_KEYS.c.environment == environment, _KEYS.c.task_id == task_id, _KEYS.c.key == key)
        .with_for_update()
    )
    owner: UUID | None = tx.execute(statement).scalar_one_or_none()
    return owner
