"""Reading what operators decided about queues."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from runlane.projections.queues import QueueControl
from runlane.storage import tables
from runlane.storage.transaction import Transaction

_QUEUES = tables.queues
_OF_ENVIRONMENT = select(_QUEUES).where(_QUEUES.c.environment == bindparam("environment")).order_by(_QUEUES.c.name)
_NAMED = select(_QUEUES).where(_QUEUES.c.environment == bindparam("environment"), _QUEUES.c.name == bindparam("name"))


def queues_of(tx: Transaction, environment: str) -> list[QueueControl]:
    """Every queue of an environment that was ever paused, by name."""
    return [QueueControl(**row._mapping) for row in tx.execute(_OF_ENVIRONMENT, {"environment": environment})]


def get_queue(tx: Transaction, environment: str, name: str) -> QueueControl | None:
    """The queue of this name, if it was ever paused."""
    row = tx.execute(_NAMED, {"environment": environment, "name": name}).first()
    return None if row is None else QueueControl(**row._mapping)
