"""PostgreSQL: batches of rows as parameters.

The driver's own text with ``%b`` arrays, not SQLAlchemy expressions: binary array parameters cost a sixtieth of what
text ones do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID


class Uuids(list[UUID]):
    """Ids, none of them missing."""


class Texts(list[str]):
    """Texts, none of them missing."""


class Digests(list[bytes]):
    """Digests of events, none of them missing."""


class Optional(list[Any]):
    """Values of a type, of which some may be missing."""


class OptionalUuids(Optional):
    """Ids."""


class OptionalTexts(Optional):
    """Texts."""


class Smallints(Optional):
    """Integers of two bytes."""


class Integers(Optional):
    """Integers of four bytes."""


class Instants(Optional):
    """Moments, each with its time zone."""


_TYPES = {
    "id": "uuid",
    "stream_id": "uuid",
    "sequence": "int",
    "expected": "int",
    "version": "smallint",
    "occurred_at": "timestamptz",
    "status": "text",
    "priority": "smallint",
    "attempt_count": "int",
    "failure_count": "int",
    "retry_count": "int",
    "release_count": "int",
    "lost_count": "int",
    "lease_session_id": "uuid",
    "source_run_id": "uuid",
    "parent_run_id": "uuid",
    "digest": "bytea",
    **dict.fromkeys(
        ("due_at", "run_at", "updated_at", "created_at", "started_at", "finished_at", "leased_at"), "timestamptz"
    ),
}

#: Columns that always have a value, and differ from row to row as a rule (``postgres_packing``).
_PACKED: dict[str, type[list[Any]]] = {"id": Uuids, "stream_id": Uuids, "data": Texts}
_PACKED_BY_TYPE: dict[str, type[list[Any]]] = {
    "uuid": OptionalUuids,
    "text": OptionalTexts,
    "smallint": Smallints,
    "int": Integers,
    "timestamptz": Instants,
}

#: Which columns of a batch differ between its rows.
Shape = tuple[bool, ...]


class Batch:
    """Rows as parameters of a statement.

    A column with the same value in every row, as most have, travels as that one value, the others as arrays.  Which
    are which decides the statement's text; of all that are possible few occur.
    """

    def __init__(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        # The first column is the key: it must be an array, as it tells how many rows there are.
        columns = list(zip(*rows, strict=True))
        self.shape: Shape = (True, *(column.count(column[0]) != len(column) for column in columns[1:]))
        marked = list(zip(names, columns, self.shape, strict=True))
        shared = (column[0] for _, column, differs in marked if not differs)
        arrays = (packed(name, column) for name, column, differs in marked if differs)
        self.parameters: tuple[Any, ...] = (*shared, *arrays)


def packed(column: str, values: Iterable[Any]) -> list[Any]:
    """The values of a column in many rows, as the driver packs them best."""
    return (_PACKED.get(column) or _PACKED_BY_TYPE.get(type_of(column), list))(values)


def type_of(column: str) -> str:
    """The type of a column's values as parameters."""
    return _TYPES.get(column, "text")


def source(name: str, columns: Sequence[str], shape: Shape, ordinality: bool = False) -> str:
    """A FROM item of the rows of a batch, each column by its name."""
    kinds = [(column, type_of(column), differs) for column, differs in zip(columns, shape, strict=True)]
    arrays = ", ".join(f"%b::{kind}[]" for _, kind, differs in kinds if differs)
    names = ", ".join(column for column, _, differs in kinds if differs)
    # In the order of the parameters: what is the same in all rows, then the arrays.
    shared = ", ".join(f"%b::{kind} as {column}" for column, kind, differs in kinds if not differs)
    both = ", ".join(part for part in (shared, names) if part)
    if ordinality:
        return f"(select {both}, ord from unnest({arrays}) with ordinality as {name}_({names}, ord)) {name}"
    return f"(select {both} from unnest({arrays}) as {name}_({names})) {name}"
