"""``connection=``: a run written in the caller's own transaction exists only if that commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from runlane import (
    ConfigurationInvalid,
    PayloadInvalid,
    Runlane,
    RunlaneError,
    RunStatus,
    StorageConflict,
    Trigger,
    memory_lane,
    task,
)
from tests.engine.tasks import echo
from tests.support import count, database_of

Opener = Callable[[], AbstractContextManager[Any]]


class OwnError(Exception):
    """Of the calling program."""


@task("strict")
def strict(payload: int) -> int:
    return payload


def run_sql(connection: Any, statement: str) -> Any:
    if isinstance(connection, psycopg.Connection):
        return connection.execute(statement)
    return connection.execute(text(statement))


def sqlalchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def app(shared_url: str) -> Iterator[Runlane]:
    with Runlane(shared_url, tasks=[echo, strict]) as made:
        yield made
        assert made.audit.verify().differences == ()


@pytest.fixture
def engine(shared_url: str) -> Iterator[Engine]:
    """The caller's own, with the caller's own settings."""
    made = create_engine(sqlalchemy_url(shared_url))
    with made.begin() as connection:
        connection.execute(text("create table orders (id integer primary key)"))
    yield made
    made.dispose()


@pytest.fixture(params=["connection", "session", "psycopg", "psycopg with dict rows"])
def opener(request: pytest.FixtureRequest, engine: Engine, shared_url: str) -> Opener:
    """Opens a transaction of each kind; left without an exception it commits."""

    @contextmanager
    def session() -> Iterator[Session]:
        with Session(engine) as opened, opened.begin():
            yield opened

    @contextmanager
    def driver(**options: Any) -> Iterator[Any]:
        with psycopg.connect(shared_url, **options) as opened:
            yield opened

    if request.param.startswith("psycopg") and not shared_url.startswith("postgresql"):
        return engine.begin  # there is no psycopg on this lane
    kinds: dict[str, Opener] = {
        "connection": engine.begin,
        "session": session,
        "psycopg": driver,
        "psycopg with dict rows": lambda: driver(row_factory=dict_row),
    }
    return kinds[request.param]


def test_the_run_exists_once_the_caller_has_committed(app: Runlane, opener: Opener, engine: Engine) -> None:
    with opener() as connection:
        run_sql(connection, "insert into orders values (1)")
        run = app.trigger(echo, {"order": 1}, connection=connection).run
        if engine.dialect.name == "postgresql":  # a reader of SQLite would see the same, through its write-ahead log
            assert app.runs.list().data == ()
        run_sql(connection, "insert into orders values (2)")
    assert app.runs.get(run.id) == run
    assert app.execute_next().result == {"order": 1}


def test_a_rollback_leaves_nothing_and_the_callers_exception_is_unchanged(app: Runlane, opener: Opener) -> None:
    error = OwnError("the order was refused")

    def order() -> None:
        with opener() as connection:
            run_sql(connection, "insert into orders values (1)")
            app.trigger(echo, 1, idempotency_key="k", connection=connection)
            app.trigger_many(echo, [1, 2, 3], connection=connection)
            raise error

    with pytest.raises(OwnError) as caught:
        order()
    assert caught.value is error
    database = database_of(app)
    assert [count(database, table) for table in ("events", "runs", "idempotency_keys")] == [0, 0, 0]
    with opener() as connection:
        assert len(run_sql(connection, "select * from orders").fetchall()) == 0


def test_a_batch_joins_as_well(app: Runlane, opener: Opener) -> None:
    with opener() as connection:
        done = app.trigger_many(
            [Trigger(echo, n, idempotency_key=f"k{n % 2}") for n in range(4)], connection=connection
        )
    assert [one.outcome for one in done] == ["created"] * 2 + ["reused_idempotent"] * 2
    assert {run.id for run in app.runs.list().data} == {one.run.id for one in done}


def test_a_refused_trigger_leaves_the_callers_transaction_usable(app: Runlane, opener: Opener) -> None:
    with opener() as connection:
        run_sql(connection, "insert into orders values (1)")
        with pytest.raises(PayloadInvalid):
            app.trigger(strict, "no number", connection=connection)
        with pytest.raises(ConfigurationInvalid):
            app.trigger(strict, 1, priority="high", connection=connection)
        kept = app.trigger(strict, 1, connection=connection).run
        run_sql(connection, "insert into orders values (2)")
    assert [run.id for run in app.runs.list().data] == [kept.id]


def test_an_existing_run_id_is_a_conflict_here_too(app: Runlane, opener: Opener) -> None:
    taken = app.trigger(echo, 1).run

    def again() -> None:
        with opener() as connection:
            app.trigger(echo, 2, run_id=taken.id, connection=connection)

    with pytest.raises(StorageConflict) as caught:
        again()
    assert caught.value.kind == "run_exists"
    assert app.runs.list().data == (taken,)


def test_an_owner_of_a_key_is_found_from_inside(app: Runlane, opener: Opener) -> None:
    owner = app.trigger(echo, 1, idempotency_key="k").run
    with opener() as connection:
        again = app.trigger(echo, 2, idempotency_key="k", connection=connection)
    assert (again.outcome, again.run) == ("reused_idempotent", owner)


def test_a_savepoint_of_the_callers_takes_the_run_back(app: Runlane, engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        return  # the caller's driver would need SQLAlchemy's savepoint recipe
    with engine.begin() as connection:
        kept = app.trigger(echo, "kept", connection=connection).run
        nested = connection.begin_nested()
        app.trigger(echo, "undone", connection=connection)
        nested.rollback()
    assert [run.id for run in app.runs.list().data] == [kept.id]


def test_the_callers_settings_are_as_they_were(app: Runlane, postgres_url: str) -> None:
    if app.lane.name != "postgres":
        return
    with psycopg.connect(postgres_url, row_factory=dict_row) as connection:
        connection.execute("create temp table own (at timestamptz)")
        connection.execute("set local search_path to public, pg_temp")
        connection.execute("set local timezone to 'Asia/Tokyo'")
        before = connection.execute("select current_setting('search_path') s, current_setting('timezone') t").fetchone()
        app.trigger(echo, 1, connection=connection)
        after = connection.execute("select current_setting('search_path') s, current_setting('timezone') t").fetchone()
        assert before == after
        assert connection.row_factory is dict_row
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_a_psycopg_connection_in_autocommit_commits_each_statement_itself(app: Runlane, shared_url: str) -> None:
    if app.lane.name != "postgres":
        return
    with psycopg.connect(shared_url, autocommit=True) as connection:
        run = app.trigger(echo, 1, connection=connection).run
        assert app.runs.get(run.id) == run


def test_the_memory_lane_joins_a_transaction_of_its_only_connection() -> None:
    with Runlane("memory:", tasks=[echo]) as app:
        engine = database_of(app).engine

        def order() -> None:
            with engine.begin() as connection:
                app.trigger(echo, 1, connection=connection)
                raise OwnError

        with pytest.raises(OwnError):
            order()
        assert app.runs.list().data == ()
        with engine.begin() as connection:
            run = app.trigger(echo, 1, connection=connection).run
        assert app.runs.get(run.id) == run


@pytest.mark.parametrize("wrong", [object(), "postgresql://localhost/x", 7, create_engine("sqlite://")], ids=type)
def test_what_is_no_connection_is_refused(app: Runlane, wrong: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="connection must be a SQLAlchemy Connection or Session"):
        app.trigger(echo, 1, connection=wrong)
    assert app.runs.list().data == ()


def test_a_connection_to_another_kind_of_database_is_refused(app: Runlane, postgres_url: str) -> None:
    other = create_engine("sqlite://" if app.lane.name == "postgres" else sqlalchemy_url(postgres_url))
    with other.connect() as connection, pytest.raises(ConfigurationInvalid, match=r"connection= must use .*; it uses"):
        app.trigger(echo, 1, connection=connection)
    other.dispose()


def closed(connection: Connection) -> Connection:
    connection.close()
    return connection


def test_a_closed_connection_is_one_of_our_errors(app: Runlane, engine: Engine) -> None:
    with pytest.raises(RunlaneError):
        app.trigger(echo, 1, connection=closed(engine.connect()))
    assert app.runs.list().data == ()


def test_a_closed_psycopg_connection_is_one_of_our_errors(app: Runlane, shared_url: str) -> None:
    if app.lane.name != "postgres":
        return
    with closing(psycopg.connect(shared_url)) as connection:
        pass
    with pytest.raises(RunlaneError):
        app.trigger(echo, 1, connection=connection)


def test_a_psycopg_transaction_that_has_failed_is_one_of_our_errors(app: Runlane, shared_url: str) -> None:
    if app.lane.name != "postgres":
        return
    with psycopg.connect(shared_url) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("select * from no_such_table")
        with pytest.raises(RunlaneError):
            app.trigger(echo, 1, connection=connection)
        connection.rollback()
        run = app.trigger(echo, 1, connection=connection).run
    assert app.runs.get(run.id) == run


def test_the_memory_lane_cannot_be_joined_before_it_is_started() -> None:
    """To start takes its one connection: it would wait for the caller until the pool gives up."""
    with closing(Runlane(memory_lane(), tasks=[echo])) as app:
        with app.lane.database.engine.begin() as connection:
            with pytest.raises(ConfigurationInvalid, match=r"before app\.start\(\)"):
                app.trigger(echo, 1, connection=connection)
        app.start()
        with app.lane.database.engine.begin() as connection:
            app.trigger(echo, 1, connection=connection)
        assert app.runs.count() == {RunStatus.QUEUED: 1}
