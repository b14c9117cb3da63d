"""What the projections here share: adding to counters in rows, whether they are there or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, func
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")


def add(
    connection: Connection,
    table: Table,
    found: Sequence[Mapping[str, Any]],
    counters: Sequence[str],
    *,
    least: Sequence[str] = (),
    most: Sequence[str] = (),
) -> None:
    """Insert rows, or add their counters to those of the rows that have their key.

    Args:
        least, most: columns that keep the lesser or the greater of both values.
    """
    if not found:
        return
    on_postgres = connection.dialect.name == "postgresql"
    new: Any = (postgresql if on_postgres else sqlite).insert(table)
    lesser, greater = (func.least, func.greatest) if on_postgres else (func.min, func.max)
    changed = {name: table.c[name] + new.excluded[name] for name in counters}
    changed |= {name: lesser(table.c[name], new.excluded[name]) for name in least}
    changed |= {name: greater(table.c[name], new.excluded[name]) for name in most}
    connection.execute(new.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed), list(found))


def put(connection: Connection, table: Table, found: Sequence[Mapping[str, Any]], values: Sequence[str]) -> None:
    """Insert rows, or replace `values` of the rows that have their key."""
    if not found:
        return
    new: Any = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
    changed = {name: new.excluded[name] for name in values}
    connection.execute(new.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed), list(found))


def chunks(values: Iterable[T], size: int = 500) -> Iterator[list[T]]:
    """The values, so many at a time: databases take only so many parameters."""
    part: list[T] = []
    for value in values:
        part.append(value)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
