"""PostgreSQL: batches of rows as parameters.

The driver's own text with ``%b`` arrays, not SQLAlchemy expressions: binary array parameters cost a sixtieth of what
text ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    **dict.fromkeys(
        ("due_at", "run_at", "updated_at", "created_at", "started_at", "finished_at", "leased_at"), "timestamptz"
    ),
}

#: Which columns of a batch differ between its rows.
Shape = tuple[bool, ...]


class Batch:
    """Rows as parameters of a statement.

    A column with the same value in every row, as most have, travels as that one value, the others as arrays.  Which
    are which decides the statement's text; of all that are possible few occur.
    """

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        # The first column is the key: it must be an array, as it tells how many rows there are.
        columns = list(zip(*rows, strict=True))
        self.shape: Shape = (True, *(column.count(column[0]) != len(column) for column in columns[1:]))
        marked = list(zip(columns, self.shape, strict=True))
        shared = (column[0] for column, differs in marked if not differs)
        self.parameters: tuple[Any, ...] = (*shared, *(list(column) for column, differs in marked if differs))


def source(name: str, columns: Sequence[str], shape: Shape, ordinality: bool = False) -> str:
    """A FROM item of the rows of a batch, each column by its name."""
    kinds = [(column, _TYPES.get(column, "text"), differs) for column, differs in zip(columns, shape, strict=True)]
    arrays = ", ".join(f"%b::{kind}[]" for _, kind, differs in kinds if differs)
    names = ", ".join(column for column, _, differs in kinds if differs)
    # In the order of the parameters: what is the same in all rows, then the arrays.
    shared = ", ".join(f"%b::{kind} as {column}" for column, kind, differs in kinds if not differs)
    both = ", ".join(part for part in (shared, names) if part)
    if ordinality:
        return f"(select {both}, ord from unnest({arrays}) with ordinality as {name}_({names}, ord)) {name}"
    return f"(select {both} from unnest({arrays}) as {name}_({names})) {name}"
