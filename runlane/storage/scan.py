"""Tables read from end to end in constant memory, as the driver gives them.

To verify a log is to read all of it.  SQLAlchemy's way from a row of the driver's to one of its own takes longer than
the fold and the digest together, so here its rows come straight, in pages: ids and JSON are text on every database,
instants are what the database keeps, text on SQLite and microseconds since 2000 on PostgreSQL (``stored_instant``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from functools import cache, lru_cache
from itertools import count
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError

from runlane import digests
from runlane.storage import tables
from runlane.storage.transaction import Transaction

#: How many rows are fetched at once.
BATCH = 2000
_names = count(1)
_AS_TEXT = (tables.Guid, tables.Json, tables.Status)
Row = tuple[Any, ...]
#: Microseconds from 1970 to 2000, where PostgreSQL begins to count.
_TO_2000 = 946_684_800_000_000


@frozen
class Range:
    """Ids from `first` on and before `behind`, as they are stored; None is no bound."""

    first: str | None = None
    behind: str | None = None


EVERYTHING = Range()


@lru_cache(4096)
def _since_2000(at: datetime) -> int:
    return digests.microseconds(at) - _TO_2000


_as_text = lru_cache(4096)(tables.instant_to_text)


def stored_instant(tx: Transaction) -> Callable[[datetime], Any]:
    """What makes of an instant the value that rows hold here."""
    return _as_text if tx.schema is None else _since_2000


def read_instant(stored: int) -> datetime:
    """The instant that a row of PostgreSQL's holds.

    Raises:
        ValueError: it is beyond the calendar.
    """
    try:
        return digests.instant(stored + _TO_2000)
    except OverflowError:
        raise ValueError("an instant beyond the calendar") from None


def scan(
    tx: Transaction,
    table: Table,
    columns: Sequence[str],
    order: Sequence[str],
    environment: str | None,
    prefix: str = "",
    only: tuple[str, UUID] | None = None,
    since: datetime | None = None,
    within: Range = EVERYTHING,
) -> Generator[list[Row], None, None]:
    """The rows of `table`, these columns, in this order, of one environment or of all; in pages.

    Args:
        prefix: how the column ``type`` has to begin.
        only: a column that has to hold this id, and the id.
        since: of events only the streams, of other tables only the rows that moved at or after this instant.
        within: only these, by the first column of `order`.

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
    conditions |= {f"{order[0]} >=": within.first, f"{order[0]} <": within.behind}
    given = {condition: value for condition, value in conditions.items() if value}
    text = _select(table, tuple(columns), tuple(order), tx.schema, tuple(given))
    return pages(tx, text, list(given.values()))


def flow(tx: Transaction, text: str, asked: Sequence[Any], batch: int = BATCH) -> Generator[Row, None, None]:
    """The rows of ``pages``, one by one."""
    with closing(pages(tx, text, asked, batch)) as found:
        for rows in found:
            yield from rows


def pages(tx: Transaction, text: str, asked: Sequence[Any], batch: int = BATCH) -> Generator[list[Row], None, None]:
    """The rows of a statement in the driver's own words, so many at a time.

    Raises:
        DBAPIError: what SQLAlchemy would have raised.
    """
    connection = tx.connection.connection.driver_connection
    assert connection is not None
    dialect = tx.connection.dialect
    error_class: type[Exception] = dialect.loaded_dbapi.Error
    cursor = connection.cursor() if tx.schema is None else _server_side(connection)
    try:
        dialect.do_execute(cursor, text, asked)
        yield from _fetched(cursor, batch) if tx.schema is None else _fetched_ahead(cursor, batch)
    except error_class as error:
        raise DBAPIError.instance(text, asked, error, error_class, hide_parameters=True, dialect=dialect) from error
    finally:
        cursor.close()


def _fetched(cursor: Any, batch: int) -> Iterator[list[Row]]:
    while rows := cursor.fetchmany(batch):
        yield rows


def _fetched_ahead(cursor: Any, batch: int) -> Iterator[list[Row]]:
    """The same, but the server is at the next page while one is worked on; the connection goes on being of use."""
    rows = cursor.fetchmany(batch)
    if len(rows) < batch:
        if rows:
            yield rows
        return
    with ThreadPoolExecutor(1, "runlane-scan") as thread:
        while rows:
            coming = thread.submit(cursor.fetchmany, batch)
            yield rows
            rows = coming.result()


def _server_side(connection: Any) -> Any:
    """A cursor whose rows come in binary: instants and digests are not spelled out only to be parsed again."""
    from psycopg.types.numeric import Int8BinaryLoader

    cursor = connection.cursor(name=f"runlane_scan_{next(_names)}", binary=True)
    cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)
    return cursor


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
