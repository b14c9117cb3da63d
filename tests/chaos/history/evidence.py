"""What there is to judge by: the log, the tables, the effects of handlers, and what clients were told.

Plain reads of files and tables; nothing of Runlane is imported here, nor anywhere else in this package.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen

_EVENTS = (
    "select position, stream_id, sequence, type, occurred_at, data from {}events where position > {} order by position"
)
_TABLES = ("runs", "idempotency_keys", "schedules", "occurrences")

Row = Mapping[str, Any]


@frozen
class Event:
    """One row of the log."""

    position: int
    stream: str
    sequence: int
    type: str
    at: datetime
    data: Mapping[str, Any]


@frozen
class Effect:
    """A handler began, or came to its end; `token` is the session that holds the lease, `at` seconds since 1970."""

    run: str
    attempt: int
    token: str
    began: bool
    pid: int
    at: float


@frozen
class Call:
    """What a client asked for, and what it was told: ``ok``, ``failed`` or ``unknown``.

    `name` is also the correlation id of every run that the call makes, or stands in its payload under ``call``.  `ids`
    are run ids of the client's own, `runs`
    those it was told, `count` how many runs it asked for.
    """

    name: str
    kind: str
    answer: str
    count: int = 1
    ids: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    task: str = ""
    key: str | None = None
    why: str = ""


@frozen
class Promised:
    """What the program under test has configured: limits of queues, and seconds between occurrences of schedules."""

    limits: Mapping[str, int] = Factory(dict)
    periods: Mapping[str, float] = Factory(dict)


@define
class Evidence:
    """Everything that a history left behind; of `pruned` runs only events are left, kept before they went."""

    events: Sequence[Event] = ()
    runs: Sequence[Row] = ()
    keys: Sequence[Row] = ()
    schedules: Sequence[Row] = ()
    occurrences: Sequence[Row] = ()
    effects: Sequence[Effect] = ()
    calls: Sequence[Call] = ()
    promised: Promised = Promised()
    pruned: frozenset[str] = frozenset()


def read_sqlite(path: Path | str) -> Evidence:
    """The log and the tables of an SQLite file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("begin")
        events = events_of_sqlite(connection)
        tables = [[dict(row) for row in connection.execute(f"select * from {table}")] for table in _TABLES]
    finally:
        connection.close()
    return Evidence(events, *(list(map(_plain, rows)) for rows in tables))


def read_postgres(conninfo: str, schema: str = "runlane") -> Evidence:
    """The log and the tables of a PostgreSQL database, in one snapshot."""
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        events = events_of_postgres(connection, schema)
        tables = [connection.execute(f"select * from {schema}.{table}".encode()).fetchall() for table in _TABLES]
    return Evidence(events, *(list(map(_plain, rows)) for rows in tables))


def events_of_sqlite(connection: sqlite3.Connection, after: int = 0) -> list[Event]:
    """The log behind a position."""
    rows = connection.execute(_EVENTS.format("", after))
    return [Event(row[0], row[1], row[2], row[3], instant(row[4]), json.loads(row[5])) for row in rows]


def events_of_postgres(connection: Any, schema: str = "runlane", after: int = 0) -> list[Event]:
    """The same; what is still being written may get a place before what is there already."""
    from psycopg.rows import tuple_row

    rows = connection.cursor(row_factory=tuple_row).execute(_EVENTS.format(f"{schema}.", after).encode())
    return [Event(row[0], str(row[1]), row[2], row[3], row[4].astimezone(UTC), row[5]) for row in rows]


def read_effects(paths: Iterable[Path]) -> list[Effect]:
    """The lines that handlers wrote: ``run attempt token started|ended pid time``; each was one write."""
    found = []
    for line in _lines(paths):
        run, attempt, token, what, pid, at = line.split()
        found.append(Effect(run, int(attempt), token, what == "started", int(pid), float(at)))
    return found


def read_calls(paths: Iterable[Path]) -> list[Call]:
    """What clients wrote: a line before each call, and one behind it.  Who died in between was told nothing."""
    asked: dict[str, Mapping[str, Any]] = {}
    told: dict[str, Mapping[str, Any]] = {}
    for line in _lines(paths):
        record = json.loads(line)
        (told if "answer" in record else asked)[record["call"]] = record
    return [
        _call(record, told.get(name, {"answer": "unknown", "why": "the client died"})) for name, record in asked.items()
    ]


def _call(asked: Mapping[str, Any], told: Mapping[str, Any]) -> Call:
    return Call(
        asked["call"],
        asked["kind"],
        told["answer"],
        asked.get("count", 1),
        tuple(asked.get("ids", ())),
        tuple(told.get("runs", ())),
        tuple(told.get("outcomes", ())),
        asked.get("task", ""),
        asked.get("key"),
        told.get("why", ""),
    )


def instant(value: Any) -> datetime:
    """An instant, as either database keeps it."""
    return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC)


def _plain(row: Row) -> Row:
    """Ids as text, instants aware, JSON as values: the same from either database."""
    return {name: _value(name, value) for name, value in row.items() if name != "digest"}


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith("_at") or name == "scheduled_for":
        return instant(value)
    if name in ("failure", "cadence") and isinstance(value, str):
        return json.loads(value)
    if name.endswith("_id") or name == "id":
        return str(value)
    return value


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        if path.exists():
            yield from path.read_text().splitlines()
