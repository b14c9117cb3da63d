"""Raw looks into a database between two steps, on the driver's own connection: they are most of what a step reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg

from runlane import jsontext
from runlane.storage import rows
from runlane.storage.database import Database
from runlane.storage.tables import instant_to_text

_EVENTS = "stream_id, sequence, type, version, data, occurred_at, environment, actor, position"
_READ = _EVENTS.replace("data", "data::text")
_NEWS = (
    f"select {', '.join(f'e.{name}' for name in _READ.split(', '))}, {', '.join(f'r.{name}' for name in rows.BIRTH)}"
    " from events e left join runs r on r.id = e.stream_id where e.position > %s order by e.position"
)
_OUTBOX = "select run_id, sequence, status, due_at, attempts from outbox where environment ="
_JSON = [rows.BIRTH.index(name) for name in ("failure", "reservation", "cancellation")]


class Reader(Protocol):
    """What a follower of the log asks of a database."""

    def last_position(self) -> int:
        """The position of the newest event."""
        ...

    def after(self, position: int) -> Iterator[tuple[Any, ...]]:
        """The events behind a position, of whatever environment."""
        ...

    def news(self, position: int) -> tuple[list[tuple[Any, ...]], dict[UUID, tuple[Any, ...]]]:
        """What ``after`` gives, and the ``rows`` of the runs that these events are of."""
        ...

    def rows(self, ids: Sequence[UUID]) -> dict[UUID, tuple[Any, ...]]:
        """The rows of these runs, in the columns of ``rows.BIRTH``."""
        ...

    def as_stored(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The values of a folded run as ``rows`` would give them."""
        ...

    def outbox(self, environment: str) -> dict[tuple[UUID, int], tuple[str, datetime | None, int]]:
        """Status, due time and attempts of each row of the outbox, by run and sequence."""
        ...

    def remains(self, ids: Sequence[UUID]) -> int:
        """How many rows of runs, events and keys speak of these runs."""
        ...

    def close(self) -> None:
        """Close what is its own."""
        ...


def reader_of(database: Database) -> Reader:
    """The reader for a database; of one in memory it shares the only connection."""
    if database.schema is not None:
        return OfPostgres(database)
    return OfSqlite(database)


class OfSqlite:
    """Instants and ids are text."""

    def __init__(self, database: Database) -> None:
        self._own = None
        if database.is_memory:
            borrowed = database.engine.raw_connection()
            self._execute: Any = borrowed.driver_connection.execute
            borrowed.close()
        else:
            self._own = sqlite3.connect(str(database.url.database), isolation_level=None, check_same_thread=False)
            self._execute = self._own.execute

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    def last_position(self) -> int:
        return self._execute("select max(position) from events").fetchone()[0] or 0

    def after(self, position: int) -> Iterator[tuple[Any, ...]]:
        found = self._execute(f"select {_EVENTS} from events where position > ? order by position", (position,))
        for row in found.fetchall():
            yield UUID(row[0]), *row[1:5], datetime.fromisoformat(row[5]), *row[6:]

    def news(self, position: int) -> tuple[list[tuple[Any, ...]], dict[UUID, tuple[Any, ...]]]:
        events = list(self.after(position))
        runs = {row[0]: None for row in events if row[2].startswith("run.")}
        return events, self.rows(list(runs)) if runs else {}

    def rows(self, ids: Sequence[UUID]) -> dict[UUID, tuple[Any, ...]]:
        marks = ",".join("?" * len(ids))
        found = self._execute(
            f"select {', '.join(rows.BIRTH)} from runs where id in ({marks})", [str(id) for id in ids]
        )
        return {UUID(row[0]): row for row in found.fetchall()}

    def as_stored(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            instant_to_text(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
            for value in values
        )

    def outbox(self, environment: str) -> dict[tuple[UUID, int], tuple[str, datetime | None, int]]:
        found = self._execute(f"{_OUTBOX} ?", (environment,)).fetchall()
        return {
            (UUID(row[0]), row[1]): (row[2], None if row[3] is None else datetime.fromisoformat(row[3]), row[4])
            for row in found
        }

    def remains(self, ids: Sequence[UUID]) -> int:
        marks, named = ",".join("?" * len(ids)), [str(id) for id in ids]
        tables = (("runs", "id"), ("events", "stream_id"), ("idempotency_keys", "run_id"), ("outbox", "run_id"))
        return sum(
            self._execute(f"select count(*) from {table} where {column} in ({marks})", named).fetchone()[0]
            for table, column in tables
        )


class OfPostgres:
    """Instants, ids and JSON are what psycopg makes of them.

    Each statement keeps one plan, along indexes: statistics are never right where every row is new.
    """

    _OPTIONS = (
        "-c timezone=UTC -c search_path=runlane -c jit=off -c plan_cache_mode=force_generic_plan"
        " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    )

    def __init__(self, database: Database) -> None:
        url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=1, options=self._OPTIONS)

    def last_position(self) -> int:
        return self._connection.execute("select max(position) from events").fetchone()[0] or 0  # type: ignore[index]

    def after(self, position: int) -> Iterator[tuple[Any, ...]]:
        query = f"select {_READ} from events where position > %s order by position"
        yield from self._connection.execute(query, (position,)).fetchall()  # type: ignore[arg-type]

    def news(self, position: int) -> tuple[list[tuple[Any, ...]], dict[UUID, tuple[Any, ...]]]:
        width = _READ.count(",") + 1
        found = self._connection.execute(_NEWS, (position,)).fetchall()  # type: ignore[arg-type]
        return [row[:width] for row in found], {row[0]: row[width:] for row in found if row[width] is not None}

    def rows(self, ids: Sequence[UUID]) -> dict[UUID, tuple[Any, ...]]:
        query = f"select {', '.join(rows.BIRTH)} from runs where id = any(%s)"
        return {row[0]: row for row in self._connection.execute(query, (list(ids),)).fetchall()}  # type: ignore[arg-type]

    def as_stored(self, values: Sequence[Any]) -> tuple[Any, ...]:
        stored = list(values)
        for place in _JSON:
            if stored[place] is not None:
                stored[place] = jsontext.decode(stored[place])
        return tuple(stored)

    def outbox(self, environment: str) -> dict[tuple[UUID, int], tuple[str, datetime | None, int]]:
        return {row[:2]: row[2:] for row in self._connection.execute(f"{_OUTBOX} %s", (environment,)).fetchall()}

    def remains(self, ids: Sequence[UUID]) -> int:
        tables = (("runs", "id"), ("events", "stream_id"), ("idempotency_keys", "run_id"), ("outbox", "run_id"))
        return sum(
            self._connection.execute(f"select count(*) from {table} where {column} = any(%s)", (list(ids),)).fetchone()[
                0
            ]  # type: ignore[arg-type,index]
            for table, column in tables
        )

    def close(self) -> None:
        self._connection.close()
