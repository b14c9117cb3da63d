"""Tables read from end to end in constant memory, as the driver gives them.

To verify a log is to read all of it.  SQLAlchemy's way from a row of the driver's to one of its own takes longer than
the fold and the digest together, so here its rows come straight: ids and JSON are text on every database, instants are
what the database keeps (text on SQLite).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from functools import cache
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError

from runlane.storage import tables
from runlane.storage.transaction import Transaction

#: How many rows are fetched at once.
BATCH = 2000
_names = count(1)
_AS_TEXT = (tables.Guid, tables.Json, tables.Status)


def scan(
    tx: Transaction,
    table: Table,
    columns: Sequence[str],
    order: Sequence[str],
    environment: str | None,
    prefix: str = "",
    only: tuple[str, UUID] | None = None,
    since: datetime | None = None,
) -> Generator[tuple[Any, ...], None, None]:
    """The rows of `table`, these columns, in this order, of one environment or of all.

    Args:
        prefix: how the column ``type`` has to begin.
        only: a column that has to hold this id, and the id.
        since: of events only the streams, of other tables only the rows that moved at or after this instant.

    Raises:
        DBAPIError: what SQLAlchemy would have raised.
    """
    conditions: dict[str, Any] = {
        "environment =": environment,
        "type like": prefix and f"{prefix}%",
        f"{only[0] if only else ''} =": only and (only[1] if tx.schema else str(only[1])),
    }
    if since is not None:
        moved = tables.instant_to_text(since) if tx.schema is None else since
        conditions["moved since" if table is tables.events else "updated_at >="] = moved
    given = {condition: value for condition, value in conditions.items() if value}
    text = _select(table, tuple(columns), tuple(order), tx.schema, tuple(given))
    yield from flow(tx, text, list(given.values()))


def flow(
    tx: Transaction, text: str, asked: Sequence[Any], batch: int = BATCH
) -> Generator[tuple[Any, ...], None, None]:
    """The rows of a statement in the driver's own words, fetched so many at a time.

    Raises:
        DBAPIError: what SQLAlchemy would have raised.
    """
    connection = tx.connection.connection.driver_connection
    assert connection is not None
    server_side = {} if tx.schema is None else {"name": f"runlane_scan_{next(_names)}"}
    dialect = tx.connection.dialect
    error_class: type[Exception] = dialect.loaded_dbapi.Error
    cursor = connection.cursor(**server_side)
    try:
        dialect.do_execute(cursor, text, asked)
        while rows := cursor.fetchmany(batch):
            yield from rows
    except error_class as error:
        raise DBAPIError.instance(text, asked, error, error_class, dialect=dialect) from error
    finally:
        cursor.close()


@cache
def _select(
    table: Table, columns: Sequence[str], order: Sequence[str], schema: str | None, conditions: Sequence[str]
) -> str:
    mark, name = ("?", table.name) if schema is None else ("%s", f'"{schema}".{table.name}')
    read = [
        f"{one}::text" if schema is not None and isinstance(table.c[one].type, _AS_TEXT) else one for one in columns
    ]
    moved = f"stream_id in (select m.stream_id from {name} m where m.occurred_at >= {mark})"
    told = [moved if one == "moved since" else f"{one} {mark}" for one in conditions]
    where = f" where {' and '.join(told)}" if told else ""
    return f"select {', '.join(read)} from {name}{where} order by {', '.join(f'{name}.{one}' for one in order)}"
