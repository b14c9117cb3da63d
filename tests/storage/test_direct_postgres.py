"""PostgreSQL's short way: what comes out is what SQLAlchemy's own way brings, errors included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, exc, select
from sqlalchemy.engine import make_url

from runlane import Runlane, RunStatus, task
from runlane.errors import StorageUnavailable
from runlane.storage import postgres_cursor, tables
from runlane.storage.database import Database
from runlane.storage.direct_postgres import PsycopgConnection
from tests.storage.test_faults import kill_connections
from tests.support import START, database_at


@task("work")
def work(number: int) -> int:
    return number


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    with database_at(postgres_url) as found:
        yield found


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.engine.connect() as connection, connection.begin():
        yield connection


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("select %b::int[], %t::text, 'a%%'", ([1, 2], "é")),
        ("select n from generate_series(1, %s) n", (3,)),
        ("select 1 where false", ()),
        ("set local lock_timeout = 0", ()),
        ("create temporary table t (n int) on commit drop", ()),
    ],
)
def test_rows_are_what_sqlalchemy_brings(connection: Connection, text: str, parameters: tuple[Any, ...]) -> None:
    own = connection.exec_driver_sql(text, parameters)
    expected = [tuple(row) for row in own.all()] if own.returns_rows else []
    counted = set()
    for _ in range(4):  # the driver prepares it meanwhile
        if "create" in text:
            connection.exec_driver_sql("drop table t")
        short = PsycopgConnection(connection).exec_driver_sql(text, parameters)
        assert list(short) == expected
        counted.add(short.rowcount)
    assert len(counted) == 1


def test_a_statement_that_is_too_long_to_remember_is_sent_with_numbers(connection: Connection) -> None:
    text = f"select %b::int, %t::text, %s::text, '100%%' /* {'x' * postgres_cursor.REMEMBERED} */"
    for n in range(3):
        assert PsycopgConnection(connection).exec_driver_sql(text, (n, "a", "b")).all() == [(n, "a", "b", "100%")]


def test_what_is_prepared_needs_no_cursor_of_the_drivers(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered = f"select %b::int, %s::timestamptz /* {'x' * postgres_cursor.REMEMBERED} */"
    asked = [("select %b::int, %t::text, %s, '%%'", (1, "a", 2.5)), (numbered, (3, START)), ("select null::int", ())]
    short = PsycopgConnection(connection)
    expected = [[short.exec_driver_sql(*one).all() for one in asked] for _ in range(3)][-1]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the driver's cursor was asked")

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", refuse)
        patch.setattr(psycopg.RawCursor, "execute", refuse)
        assert [short.exec_driver_sql(*one).all() for one in asked] == expected
        with pytest.raises(AssertionError):  # a number of another type is another statement
            short.exec_driver_sql("select %b::int, %t::text, %s, '%%'", (1, "a", 2))
    with pytest.raises(exc.ProgrammingError, match="3 placeholders"):
        short.exec_driver_sql("select %b::int, %t::text, %s, '%%'", (1, "a"))


@pytest.mark.parametrize("threshold", ["0", "1", "none"])
def test_whatever_is_prepared_when_it_all_works(postgres_url: str, threshold: str) -> None:
    url = make_url(postgres_url).update_query_dict({"prepare_threshold": threshold}).render_as_string(False)
    with Runlane(url, tasks=[work]) as app:
        runs = [app.trigger(work, n).run.id for n in range(5)]
        for _ in range(2):
            app.worker("drain").run()
            assert app.audit.verify().differences == ()
        assert {app.runs.get(id).status for id in runs} == {RunStatus.SUCCEEDED}


def test_nothing_goes_out_before_the_driver_waits_which_cancels_it_at_a_ctrl_c(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, states = psycopg.Connection.wait, []

    def wait(self: psycopg.Connection[Any], generator: Any, *rest: Any, **named: Any) -> Any:
        states.append(self.info.transaction_status)
        return waits(self, generator, *rest, **named)

    short = PsycopgConnection(connection)
    for _ in range(3):
        short.exec_driver_sql("select %b::int", (1,))
    monkeypatch.setattr(psycopg.Connection, "wait", wait)
    assert short.exec_driver_sql("select %b::int", (1,)).scalar_one() == 1
    assert states == [psycopg.pq.TransactionStatus.INTRANS]


def test_an_error_of_what_is_prepared_is_sqlalchemys_too(database: Database) -> None:
    text = "select 6 / %b::int"
    with database.engine.connect() as connection:
        for _ in range(3):
            with connection.begin():
                assert [PsycopgConnection(connection).exec_driver_sql(text, (n,)).all() for n in (1, 2, 3)]
                with pytest.raises(exc.DataError) as caught, connection.begin_nested():
                    PsycopgConnection(connection).exec_driver_sql(text, (0,))
                assert caught.value.statement == text
                assert not caught.value.connection_invalidated
                assert PsycopgConnection(connection).exec_driver_sql(text, (6,)).scalar_one() == 1


def test_what_was_prepared_on_a_connection_that_is_gone_says_so(database: Database, postgres_url: str) -> None:
    with database.engine.connect() as connection:
        connection.begin()
        for _ in range(4):
            PsycopgConnection(connection).exec_driver_sql("select %b::int", (1,))
        kill_connections(postgres_url)
        with pytest.raises(exc.OperationalError) as caught:
            PsycopgConnection(connection).exec_driver_sql("select %b::int", (1,))
    assert caught.value.connection_invalidated


def test_a_statement_of_sqlalchemys_is_its_own(connection: Connection) -> None:
    assert PsycopgConnection(connection).execute(select(tables.sessions.c.id)).all() == []


def test_an_error_is_sqlalchemys_and_the_connection_lives_on(connection: Connection) -> None:
    for text, kind in (("select 1/0", exc.DataError), ("select nothing", exc.ProgrammingError)):
        with pytest.raises(kind) as caught, connection.begin_nested():
            PsycopgConnection(connection).exec_driver_sql(text)
        assert not caught.value.connection_invalidated
        assert caught.value.statement == text
    assert PsycopgConnection(connection).exec_driver_sql("select 1").scalar_one() == 1


def test_what_is_no_error_of_the_drivers_passes_as_it_is(connection: Connection) -> None:
    with pytest.raises(UnicodeEncodeError), connection.begin_nested():
        PsycopgConnection(connection).exec_driver_sql("select %t::text", ("\ud800",))


def test_a_connection_that_is_gone_is_replaced_and_those_beside_it(database: Database, postgres_url: str) -> None:
    pids = []
    with database.engine.connect() as one, database.engine.connect() as two:
        pids = [PsycopgConnection(each).exec_driver_sql("select pg_backend_pid()").scalar_one() for each in (one, two)]
    assert kill_connections(postgres_url) >= 2
    with pytest.raises(StorageUnavailable):
        database.singly(lambda tx: tx.now())
    for _ in range(2):
        with database.engine.connect() as each:
            assert PsycopgConnection(each).exec_driver_sql("select pg_backend_pid()").scalar_one() not in pids


def test_whoever_listens_hears_every_statement(database: Database) -> None:
    heard: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *about: heard.append(about[2]))
    database.singly(lambda tx: tx.now())
    database.transact(lambda tx: tx.now())
    assert heard == ["select clock_timestamp()"] * 2


def test_a_connection_with_cursors_of_its_own_keeps_them(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    used: list[str] = []

    class Own(psycopg.Cursor[Any]):
        def execute(self, query: Any, *rest: Any, **named: Any) -> Any:
            used.append(query)
            return super().execute(query, *rest, **named)

    driver.cursor_factory = Own
    text = f"select %b::int /* {'x' * postgres_cursor.REMEMBERED} */"
    try:
        assert PsycopgConnection(connection).exec_driver_sql(text, (1,)).scalar_one() == 1
    finally:
        driver.cursor_factory = psycopg.Cursor
    assert used == [text]
