"""Which worker process keeps house: a lease that saves work, and that nothing depends on."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from attrs import frozen
from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from runlane.storage import tables
from runlane.storage.transaction import Transaction

_TABLE = tables.maintainers
_C = _TABLE.c


@frozen
class Maintainer:
    """The session that keeps house for a set of definitions, until when."""

    session_id: UUID
    expires_at: datetime


def find(tx: Transaction, environment: str, definitions: str) -> Maintainer | None:
    """Who keeps house at present, or did last."""
    mine = (_C.environment == environment, _C.definitions == definitions)
    row = tx.execute(select(_C.session_id, _C.expires_at).where(*mine)).first()
    return None if row is None else Maintainer(row.session_id, row.expires_at)


def take(tx: Transaction, environment: str, definitions: str, seen: Maintainer | None, wanted: Maintainer) -> bool:
    """Follow `seen` as maintainer, or go on as it; False if somebody else was faster."""
    if seen is None:
        values = {
            "environment": environment,
            "definitions": definitions,
            "session_id": wanted.session_id,
            "expires_at": wanted.expires_at,
        }
        new = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(_TABLE).values(**values)
        return tx.execute(new.on_conflict_do_nothing().returning(_C.environment)).first() is not None
    still = (_C.session_id == seen.session_id, _C.expires_at == seen.expires_at)
    taken = update(_TABLE).where(_C.environment == environment, _C.definitions == definitions, *still)
    return tx.execute(taken.values(session_id=wanted.session_id, expires_at=wanted.expires_at)).rowcount == 1


def retire(tx: Transaction, environment: str, definitions: str, session_id: UUID) -> None:
    """Leave the house to others at once."""
    mine = (_C.environment == environment, _C.definitions == definitions, _C.session_id == session_id)
    tx.execute(delete(_TABLE).where(*mine))
