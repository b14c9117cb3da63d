"""One of several values, said so that each database is quick with it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class OneOf(FunctionElement[bool]):
    """``column in ('a', 'b')`` for constants, in checks, in the conditions of indexes, and in what is to use these.

    SQLite makes a temporary table of a list of more than two values, each time that the statement runs: with two such
    lists among the checks and indexes of a table an update took twice as long.  It compares them one by one here.
    """

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: str, *values: str) -> None:
        super().__init__(literal_column(column), *(literal_column(f"'{value}'") for value in values))

    def self_group(self, against: Any = None) -> Any:
        """As it is: SQLAlchemy would add ``= 1`` on SQLite, and its planner know the index no more."""
        return self


def one_of(column: str, *values: str) -> str:
    """The same as text for SQLite, whose planner knows the condition of an index again by its words."""
    return "(" + " or ".join(f"{column} = '{value}'" for value in values) + ")"


@compiles(OneOf)
def _listed(element: OneOf, compiler: Any, **options: Any) -> str:
    column, *values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} in ({', '.join(values)}))"


@compiles(OneOf, "sqlite")
def _compared(element: OneOf, compiler: Any, **options: Any) -> str:
    column, *values = (compiler.process(clause, **options) for clause in element.clauses)
    return "(" + " or ".join(f"{column} = {value}" for value in values) + ")"
