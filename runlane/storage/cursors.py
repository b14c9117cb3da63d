"""Named cursors: how far each follower of an environment has come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from attrs import frozen
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from runlane.errors import ConflictKind, StorageConflict
from runlane.storage import tables
from runlane.storage.transaction import Transaction

_TABLE = tables.cursors
_C = _TABLE.c
_MINE = (_C.environment == bindparam("of_environment"), _C.name == bindparam("of_name"))
_FIND = select(_C.name, _C.cursor, _C.version, _C.moved_by, _C.updated_at).where(*_MINE)
_LOCK = _FIND.with_for_update()
_MOVE = (
    update(_TABLE)
    .where(*_MINE, _C.version == bindparam("seen"))
    .values(
        cursor=bindparam("to_cursor"),
        version=bindparam("to_version"),
        moved_by=bindparam("by"),
        updated_at=bindparam("at"),
    )
)
_ALL = (
    select(_C.name, _C.cursor, _C.version, _C.moved_by, _C.updated_at)
    .where(_C.environment == bindparam("of_environment"))
    .order_by(_C.name)
)


@frozen
class Named:
    """A named cursor as it is stored; `version` 0 is one that is not stored yet."""

    name: str
    cursor: str
    version: int
    moved_by: UUID | None = None
    updated_at: datetime | None = None


def find(tx: Transaction, environment: str, name: str) -> Named | None:
    """The cursor of this name."""
    row = tx.execute(_FIND, {"of_environment": environment, "of_name": name}).first()
    return None if row is None else Named(row.name, row.cursor, row.version, row.moved_by, row.updated_at)


def lock(tx: Transaction, environment: str, name: str) -> Named | None:
    """The cursor of this name, which nobody else can move until the transaction ends; waits for who is moving it."""
    row = tx.execute(_LOCK, {"of_environment": environment, "of_name": name}).first()
    return None if row is None else Named(row.name, row.cursor, row.version, row.moved_by, row.updated_at)


def every(tx: Transaction, environment: str) -> list[Named]:
    """All cursors of an environment, by name."""
    found = tx.execute(_ALL, {"of_environment": environment}).all()
    return [Named(row.name, row.cursor, row.version, row.moved_by, row.updated_at) for row in found]


def move(tx: Transaction, environment: str, seen: Named, cursor: str, by: UUID, at: datetime) -> Named:
    """Move a cursor on from where `by` has seen it; the cursor as it is now.

    May be repeated: what `by` has moved already is left as it is.

    Raises:
        StorageConflict: somebody else has moved it since, or removed it (kind ``sequence``).
    """
    moved = Named(seen.name, cursor, seen.version + 1, by, at)
    if seen.version == 0:
        row = {
            "environment": environment,
            "name": seen.name,
            "cursor": cursor,
            "version": moved.version,
            "moved_by": by,
            "updated_at": at,
        }
        new = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(_TABLE).values(**row)
        done = tx.execute(new.on_conflict_do_nothing().returning(_C.name)).first() is not None
    else:
        asked = {"of_environment": environment, "of_name": seen.name, "seen": seen.version}
        to = {"to_cursor": cursor, "to_version": moved.version, "by": by, "at": at}
        done = tx.execute(_MOVE, {**asked, **to}).rowcount == 1
    if done:
        return moved
    now = find(tx, environment, seen.name)
    if now is not None and (now.version, now.moved_by, now.cursor) == (moved.version, by, cursor):
        return now
    behind = seen.version > (0 if now is None else now.version)
    why = "the batch before was rolled back" if behind else "another follower has moved it"
    raise StorageConflict(
        f"cursor {seen.name!r} does not move: {why}; roll this batch back too, and follow the name anew",
        kind=ConflictKind.SEQUENCE,
        retryable=False,
        meta={"name": seen.name, "cursor": None if now is None else now.cursor},
    )


def remove(tx: Transaction, environment: str, names: Sequence[str]) -> None:
    """Forget cursors; who holds one of them can no longer move it."""
    tx.execute(delete(_TABLE).where(_C.environment == environment, _C.name.in_(list(names))))
