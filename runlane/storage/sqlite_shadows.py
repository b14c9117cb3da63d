"""SQLite: shadows are temporary tables of one connection.

They lie in a file of their own, so nothing of the database is locked while they are filled, and a process that is
killed leaves none.  SQLite can rename no index: the live tables are put right row by row, under the write lock.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, func, select

from runlane.storage import tables
from runlane.storage.folding import Row
from runlane.storage.shadows import LIVE, PREFIX, PRUNED, RESETS, Shadows
from runlane.storage.transaction import Transaction

_EVENTS = tables.events.c
_MARK = select(func.coalesce(func.max(_EVENTS.position), 0))
_TOUCHED = (
    select(_EVENTS.stream_id, func.min(_EVENTS.type), func.max(_EVENTS.type == PRUNED))
    .where(_EVENTS.position > bindparam("mark"))
    .group_by(_EVENTS.stream_id)
)


class SqliteShadows:
    """How a rebuild works on one file, or on one database in memory."""

    schema = "temp"
    is_json_opaque = False

    def put(self, tx: Transaction, name: str, columns: Sequence[str], found: Sequence[Row]) -> None:
        values = ", ".join("?" * len(columns))
        statement = f"insert into temp.{PREFIX}{name} ({', '.join(columns)}) values ({values})"
        tx.connection.exec_driver_sql(statement, [tuple(map(_plain, row)) for row in found])

    def lock(self, tx: Transaction) -> bool:
        """Nothing: a temporary table is in nobody else's way."""
        return True

    def unlock(self, tx: Transaction) -> None:
        """Nothing."""

    def create(self, tx: Transaction) -> None:
        """Make empty shadows; those of a rebuild that failed go."""
        self.drop(tx)
        for name, live in {**LIVE, RESETS: LIVE["idempotency_keys"]}.items():
            columns = ", ".join(live.columns.keys())
            create = f"create temp table {PREFIX}{name} as select {columns} from main.{live.name} where 0"
            tx.connection.exec_driver_sql(create)

    def add_keys(self, tx: Transaction) -> None:
        """What rows are found by, once the first ones are there."""
        for name, live in {**LIVE, RESETS: LIVE["idempotency_keys"]}.items():
            keys = ", ".join(live.primary_key.columns.keys())
            tx.connection.exec_driver_sql(f"create unique index temp.{PREFIX}{name}_key on {PREFIX}{name} ({keys})")

    def add_indexes(self, tx: Transaction) -> None:
        """None: the live tables keep theirs."""

    def mark(self, tx: Transaction) -> str:
        """How far the log has been read: the single writer makes positions commit order."""
        return str(tx.execute(_MARK).scalar_one())

    def touched(self, tx: Transaction, mark: str) -> Generator[Sequence[Any], None, None]:
        """The streams that were appended to since: id, the least of the new events' types, and whether one of these
        tells of pruned runs."""
        with tx.execute(_TOUCHED, {"mark": int(mark)}) as found:
            yield from found

    def can_wait(self, tx: Transaction, milliseconds: int) -> None:
        """The transaction holds the only write lock already."""

    def exchange(self, tx: Transaction, shadows: Shadows) -> None:
        """Put what the live tables hold in its place."""
        shadows.put_right(tx)

    def hold(self, tx: Transaction) -> None:
        """The transaction holds the only write lock already."""

    def drop(self, tx: Transaction) -> None:
        """Remove the shadows."""
        for name in (*LIVE, RESETS):
            tx.connection.exec_driver_sql(f"drop table if exists temp.{PREFIX}{name}")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return tables.instant_to_text(value)
    return str(value) if isinstance(value, UUID) else value
