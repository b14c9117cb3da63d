"""Results on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report.rows import rows


def console() -> Console:
    """Where tables go: as wide as the terminal, or 120 columns in a file."""
    return Console(width=None if Console().is_terminal else 120)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in (*columns, *right):
        made.add_column(column.upper(), justify="right" if column in right else "left", no_wrap=column in right)
    return made


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print the medians, and the range where there are several repeats."""
    made = table("database", "measured", "figure", right=("median", "least", "most", "unit"))
    before = ("", "")
    for row in rows(results):
        same = before == (row.database, row.measured)
        before = (row.database, row.measured)
        named = ("", "") if same else before
        made.add_row(*named, row.figure, row.median, row.least, row.most, row.unit)
    console().print(made)
