"""What makes the tables of a SQLite file, or makes one of them anew."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, create_mock_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from runlane.storage import tables

_ON_IT = "select name, sql from sqlite_master where tbl_name = ? and type in ('index', 'trigger') and sql is not null"


@cache
def statements() -> tuple[str, ...]:
    """All of it, statement by statement; to compile them takes longer than to execute them."""
    dialect, made = _dialect(), []
    recorder = create_mock_engine("sqlite://", lambda ddl, *_, **__: made.append(str(ddl.compile(dialect=dialect))))
    tables.metadata.create_all(recorder, checkfirst=False)
    return tuple(made)


def renew(connection: Connection, table: Table) -> None:
    """Make a table anew as it is made today, with all its rows: SQLite changes neither checks nor columns in place.

    Triggers and indexes that somebody else has put on it come back.
    """
    dialect = _dialect()
    create = str(CreateTable(table).compile(dialect=dialect)).strip()
    head = f"CREATE TABLE {table.name} ("
    assert create.startswith(head)
    columns = ", ".join(column.name for column in table.columns)
    own = {str(index.name) for index in table.indexes}
    on_it = connection.exec_driver_sql(_ON_IT, (table.name,)).all()
    for statement in (
        # Else SQLite refuses while a view or a trigger anywhere speaks of a table that is not there for a moment.
        "pragma legacy_alter_table = on",
        f"CREATE TABLE renewed ({create.removeprefix(head)}",
        f"insert into renewed ({columns}) select {columns} from {table.name}",
        f"drop table {table.name}",
        f"alter table renewed rename to {table.name}",
        "pragma legacy_alter_table = off",
        *(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes),
        *(sql for name, sql in on_it if name not in own),
    ):
        connection.exec_driver_sql(statement)


def _dialect() -> Any:
    dialect: Any = sqlite.dialect()
    dialect.identifier_preparer.schema_for_object = lambda _: None
    return dialect
