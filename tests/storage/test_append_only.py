"""The database itself refuses to change history, whoever asks."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from runlane.storage import log
from runlane.storage.database import Database
from tests.support import birth, count, database_at, execute, raw

CHANGES = {
    "update of a value": "update {events} set actor = 'operator:mallory'",
    "update to the same value": "update {events} set actor = actor",
    "update of one row": "update {events} set data = '{{}}' where sequence = 1",
    "update of the sequence": "update {events} set sequence = sequence + 100",
    "delete of all": "delete from {events}",
    "delete of one row": "delete from {events} where sequence = 2",
}
COLUMNS = "stream_id, sequence, type, version, occurred_at, environment, actor, data"


@pytest.fixture
def history(database: Database) -> list[tuple]:
    with database.write() as tx:
        log.append_runs(tx, [birth(), birth()])
    return rows(database)


def rows(database: Database) -> list[tuple]:
    return execute(
        database, f"select {COLUMNS.replace('data', 'cast(data as text)')} from {{events}} order by position"
    )


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES.keys())
def test_history_cannot_be_changed(database: Database, history: list[tuple], statement: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        execute(database, statement)
    assert rows(database) == history


def test_history_cannot_be_replaced(database: Database, history: list[tuple]) -> None:
    """An upsert is an update or a delete by another name."""
    if database.schema is None:
        upsert = (
            f"insert or replace into {{events}} ({COLUMNS})"
            " select stream_id, sequence, type, version, occurred_at, environment, 'operator:mallory', data"
            " from {events}"
        )
    else:
        upsert = (
            f"insert into {{events}} ({COLUMNS}) select {COLUMNS} from {{events}}"
            " on conflict (stream_id, sequence) do update set actor = 'operator:mallory'"
        )
    with pytest.raises(DBAPIError, match="append-only"):
        execute(database, upsert)
    assert rows(database) == history


def execute_as(database: Database, role: str, statement: str) -> None:
    with raw(database) as connection:
        connection.exec_driver_sql(f"set local session_replication_role = {role}")
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize("role", ["origin", "local", "replica"])
def test_postgres_refuses_whatever_the_replication_role(postgres_url: str, role: str) -> None:
    with database_at(postgres_url) as database:
        with database.write() as tx:
            log.append_runs(tx, [birth()])
        for statement in (*CHANGES.values(), "truncate {events}", "truncate {events} restart identity cascade"):
            with pytest.raises(DBAPIError, match="append-only"):
                execute_as(database, role, statement.format(events="runlane.events"))
        assert count(database, "events") == 2


def test_the_refusal_has_a_code_of_its_own_class(postgres_url: str) -> None:
    with database_at(postgres_url) as database:
        with pytest.raises(DBAPIError) as caught:
            execute(database, "delete from {events}")
    assert caught.value.orig.sqlstate == "23000"
