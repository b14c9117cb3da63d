"""PostgreSQL: the statement that creates runs which differ by their ids and payloads alone.

One folded run stands for all.  What they have in common travels once, and what nearly every run is born with stands in
the statement's text, as the driver takes some microseconds for each parameter.  The moment is the statement's own, so
it works out the digests by itself, each event's on a level of its own above that of the event before it.  ``offset 0``
keeps the planner from working one out again wherever it is named.

A lone run has a statement without arrays, as most of the time of such a small one goes into its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from functools import cache
from itertools import repeat
from typing import Any
from uuid import UUID

from attrs import frozen

from runlane import digests
from runlane.storage.dialect import Alike, EventRow, RunRow
from runlane.storage.postgres_batches import Digests, type_of
from runlane.storage.postgres_claims import digest, flat
from runlane.storage.rows import BIRTH

#: What is the moment of its birth in a run that is due at once.
STAMPED = frozenset({"occurred_at", "created_at", "updated_at", "due_at"})
EVENT = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor", "data", "digest")
_CAST = {
    "data": "json",
    "status": "{schema}.run_status",
    "failure": "json",
    "reservation": "json",
    "cancellation": "json",
}
#: What has few values when a run is born.
_SETTLED = frozenset(
    {"sequence", "status", "attempt_count", "failure_count", "retry_count", "release_count", "lost_count"}
)
_NOTHING = "{}"


def cast(schema: str, value: str, column: str | None = None) -> str:
    """The value of a column, which is the column of this name unless it is another one's."""
    kind = _CAST.get(column or value)
    return value if kind is None else f"{value}::{kind.format(schema=schema)}"


@frozen
class Mould:
    """What a statement has in its text: the columns of the run that have a value, each with that value if it is
    settled; of the events their sequence, type and version, and the data if it is settled."""

    columns: tuple[tuple[str, Any], ...]
    events: tuple[tuple[int, str, int, str | None], ...]


def moulded(run: RunRow, events: Sequence[EventRow]) -> tuple[Mould, list[Any], list[Any]]:
    """The mould of a birth, and what is left for parameters: data of the events behind the first, columns of the run.

    Args:
        events: those of the run; the data of the first one, which carries the payload, is not looked at.
    """
    columns: list[tuple[str, Any]] = []
    left: list[Any] = []
    for name, value in zip(BIRTH, run, strict=True):
        if value is not None:
            settled = name in _SETTLED
            columns.append((name, value if settled else None))
            if not settled and name not in STAMPED and name not in _GIVEN:
                left.append(value)
    told = [event[7] for event in events[1:]]
    texts = (None, *(data if data == _NOTHING else None for data in told))
    kept = tuple((event[1], event[2], event[3], data) for event, data in zip(events, texts, strict=True))
    return Mould(tuple(columns), kept), [data for data in told if data != _NOTHING], left


#: Columns that come from what the event has.
_GIVEN = frozenset({"id", "environment"})


class Form(Enum):
    """How runs are given to the statement, and who works out their digests."""

    LONE = "one run"
    MANY = "arrays"
    DIGESTED = "arrays, with digests made before, as the moment is known"


def inserting(schema: str, alike: Alike, form: Form) -> tuple[str, tuple[Any, ...], tuple[Any, ...]]:
    """The statement (``inserting_alike``), and what ``moulded`` leaves for its parameters."""
    made = alike.made.get((schema, form))
    if made is None:
        mould, data_behind, columns = moulded(alike.run, alike.events)
        made = inserting_alike(schema, mould, form), tuple(data_behind), tuple(columns)
        alike.made[schema, form] = made
    statement, behind, left = made
    return statement, behind, left


@cache
def inserting_alike(schema: str, mould: Mould, form: Form) -> str:
    """The statement.

    Parameters: the moment, else that of the statement; environment and actor; the data of the events behind the first
    as ``moulded`` leaves it; the id and the data of the first event, or arrays of them, and of the digests of each
    event; columns as ``moulded`` leaves them.
    """
    last = len(mould.events)
    events = ", ".join(
        f"({sequence}, {_text(type_)}, {version}::smallint, data_{n}, digest_{n})"
        for n, (sequence, type_, version, _) in enumerate(mould.events, 1)
    )
    names = ", ".join(name for name, _ in mould.columns)
    values = ", ".join(_value(schema, name, value) for name, value in mould.columns)
    runs = f"insert into {schema}.runs ({names}, digest) select {values}, digest_{last} from k"
    told = " returning created_at" if form is Form.LONE else ") select at from k limit 1"
    return flat(f"""
        with {_runs(schema, mould, form)}, e as (
          insert into {schema}.events ({", ".join(EVENT)})
          select id, sequence, type, version, at, environment, actor, data::json, digest
          from k cross join lateral (values {events}) as e_ (sequence, type, version, data, digest)
          order by ord, sequence
        ){" " if form is Form.LONE else ", r as ("}{runs}{told}""")


def digests_of(
    events: Sequence[EventRow], ids: Sequence[UUID], data: Sequence[str], now: datetime
) -> tuple[Digests, ...]:
    """The digests of each run's events at that moment: those of the first events, then of the second ones, and so on.

    Args:
        events: those of one run; the others' differ by the data of the first.
    """
    at = digests.microseconds(now)
    streams, found = [str(id) for id in ids], list[Digests]()
    before: Iterable[bytes] = repeat(digests.START)
    texts: Iterable[str] = data
    for event in events:
        if found:
            before, texts = found[-1], repeat(event[7])
        found.append(Digests(map(digests.alike(*event[1:4], at, *event[5:7]), before, streams, texts)))
    return tuple(found)


def _value(schema: str, column: str, value: int | str | None) -> str:
    if column in STAMPED:
        return "at"
    if column in _GIVEN:
        return column
    if value is None:
        return cast(schema, f"%b::{type_of(column)}", column)
    return cast(schema, _text(value) if isinstance(value, str) else str(value), column)


def _text(value: str) -> str:
    quoted = value.replace("'", "''").replace("%", "%%")
    return f"'{quoted}'::text"


def _told(mould: Mould) -> str:
    """What the runs have in common."""
    told = ["coalesce(%b::timestamptz, clock_timestamp()) as at, %b::text as environment, %b::text as actor"]
    told += [
        f"{'%b::text' if data is None else _text(data)} as data_{n}" for n, (*_, data) in enumerate(mould.events[1:], 2)
    ]
    return ", ".join(told)


def _runs(schema: str, mould: Mould, form: Form) -> str:
    """The common table expressions up to ``k``: the runs, with the digests of their events."""
    if form is Form.LONE:
        lone = f"select {_told(mould)}, %b::uuid as id, %b::text as data_1, 1 as ord offset 0"
        return f"k as materialized ({_digested(schema, mould, lone)})"
    made = range(1, len(mould.events) + 1) if form is Form.DIGESTED else ()
    arrays = ", ".join(("%b::uuid[]", "%b::text[]", *("%b::bytea[]" for _ in made)))
    names = ", ".join(("id", "data_1", *(f"digest_{n}" for n in made), "ord"))
    level = f"select * from told cross join unnest({arrays}) with ordinality as t_ ({names})"
    # One moment for all, in whatever order the planner joins them.
    return f"""told as materialized (select {_told(mould)}),
          k as materialized ({level if made else _digested(schema, mould, level)})"""


def _digested(schema: str, mould: Mould, level: str) -> str:
    """Runs, and the digest of each of their events, which takes in that of the event before."""
    before = "''::bytea"
    for n, (sequence, type_, version, _) in enumerate(mould.events, 1):
        event = (before, "id", f"{sequence}", _text(type_), f"{version}::smallint", "at", "environment", "actor")
        level = f"select *, {digest(schema, *event, f'data_{n}')} as digest_{n} from ({level}) level_{n} offset 0"
        before = f"digest_{n}"
    return level
