"""schema.sql and the SQLAlchemy metadata say the same, on a database that was made by each."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, Table, create_engine, inspect
from sqlalchemy.dialects import postgresql

from runlane import Runlane, postgres_lane
from runlane.storage import tables
from runlane.storage.database import Database
from runlane.values import RunStatus
from tests.support import database_at, execute

#: PostgreSQL's own way to order what one transaction wrote for a follower; SQLite's rowid does that.
ONLY_POSTGRES = {"events": {"tx"}}
#: And to find a stretch of it.
ONLY_INDEXES = {"events_position"}
DIALECT = postgresql.dialect()


@pytest.fixture(scope="module")
def engine(postgres: Any) -> Iterator[Engine]:
    url = postgres.migrated()
    made = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    yield made
    made.dispose()
    postgres.drop(url)


@pytest.fixture(scope="module")
def reflected(engine: Engine) -> dict[str, Table]:
    found = MetaData(schema="runlane")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Did not recognize type 'xid8'")
        found.reflect(engine)
    return {table.name: table for table in found.tables.values()}


DECLARED = {table.name: table for table in tables.metadata.tables.values()}
each_table = pytest.mark.parametrize("name", sorted(DECLARED))


def plain(sql: str) -> str:
    """SQL text without what the server adds when it prints an expression back."""
    text = re.sub(r"::[a-z_.]+(\[\])?", "", str(sql).lower())
    text = re.sub(r"= any \(array\[(.*?)\]\)", r"in (\1)", text)
    return re.sub(r"[()\s\"]", "", text.replace("runs.", "").replace("schedules.", ""))


def test_both_have_the_same_tables(reflected: dict[str, Table]) -> None:
    assert set(reflected) == set(DECLARED)


@each_table
def test_the_columns_are_the_same_in_the_same_order(reflected: dict[str, Table], name: str) -> None:
    stored = [column.name for column in reflected[name].columns if column.name not in ONLY_POSTGRES.get(name, ())]
    assert stored == [column.name for column in DECLARED[name].columns]


@each_table
def test_the_columns_have_the_same_type_and_nullability(reflected: dict[str, Table], name: str) -> None:
    for column in DECLARED[name].columns:
        stored = reflected[name].columns[column.name]
        kinds = [kind.compile(DIALECT).removeprefix("runlane.") for kind in (stored.type, column.type)]
        assert kinds[0] == kinds[1], column.name
        assert stored.nullable is column.nullable, column.name


@each_table
def test_only_the_columns_that_the_database_fills_have_a_default(reflected: dict[str, Table], name: str) -> None:
    filled = {("schema_version", "applied_at"): "clock_timestamp()", ("events", "tx"): "pg_current_xact_id()"}
    for column in reflected[name].columns:
        default = None if column.server_default is None else str(getattr(column.server_default, "arg", "identity"))
        if (name, column.name) == ("events", "position"):
            assert column.identity is not None
            assert column.identity.always
        else:
            assert default == filled.get((name, column.name)), column.name


@each_table
def test_the_primary_keys_are_the_same(reflected: dict[str, Table], name: str) -> None:
    if name == "events":  # on SQLite the rowid is the key, and (stream_id, sequence) is unique beside it
        unique = next(c for c in DECLARED[name].constraints if c.name == "events_pkey")
        assert [c.name for c in reflected[name].primary_key] == [c.name for c in unique.columns]
    else:
        assert [c.name for c in reflected[name].primary_key] == [c.name for c in DECLARED[name].primary_key]
    assert reflected[name].primary_key.name == f"{name}_pkey"


@each_table
def test_there_are_no_foreign_keys_and_no_other_unique_constraints(reflected: dict[str, Table], name: str) -> None:
    kinds = {type(constraint).__name__ for constraint in reflected[name].constraints}
    assert kinds <= {"PrimaryKeyConstraint", "CheckConstraint"}


@each_table
def test_the_indexes_are_the_same(reflected: dict[str, Table], name: str) -> None:
    def shape(index: Any) -> tuple[Any, ...]:
        where = index.dialect_options["postgresql"]["where"]
        expressions = [plain(expression.compile(dialect=DIALECT)) for expression in index.expressions]
        return index.unique, expressions, None if where is None else plain(where)

    stored = [index for index in reflected[name].indexes if index.name not in ONLY_INDEXES]
    assert {i.name: shape(i) for i in stored} == {i.name: shape(i) for i in DECLARED[name].indexes}


@each_table
def test_the_check_constraints_are_the_same(engine: Engine, name: str) -> None:
    found = inspect(engine).get_check_constraints(name, schema="runlane")
    declared = {
        constraint.name: plain(constraint.sqltext)
        for constraint in DECLARED[name].constraints
        if type(constraint).__name__ == "CheckConstraint"
    }
    assert {check["name"]: plain(check["sqltext"]) for check in found} == declared


def test_the_statuses_are_an_enum_of_exactly_those_that_runs_have(engine: Engine) -> None:
    found = inspect(engine).get_enums(schema="runlane")
    assert {enum["name"]: enum["labels"] for enum in found} == {"run_status": [status.value for status in RunStatus]}


@each_table
def test_sqlite_has_the_same_columns_and_partial_indexes(database: Database, name: str) -> None:
    if database.schema is not None:
        return
    declared = DECLARED[name]
    found = {row[1]: bool(row[3]) or bool(row[5]) for row in execute(database, f"pragma table_info({name})")}
    assert found == {column.name: not column.nullable for column in declared.columns}
    partial = {row[1]: bool(row[4]) for row in execute(database, f"pragma index_list({name})") if row[3] == "c"}
    assert partial == dict.fromkeys((index.name for index in declared.indexes), True)


@pytest.mark.parametrize("name", ["other", "Mixed_Case", "select", "with$dollar"])
def test_the_schema_can_have_any_plain_name(postgres: Any, name: str) -> None:
    url = postgres.empty()
    with database_at(url):  # the usual name beside it
        pass
    app = Runlane(postgres_lane(url, schema=name))
    app.migrate()
    with app, app.lane.database.engine.connect() as connection:
        assert {name, "runlane"} <= set(inspect(connection).get_schema_names())
        assert set(inspect(connection).get_table_names(schema=name)) == set(DECLARED)
        assert app.runs.list().data == ()
