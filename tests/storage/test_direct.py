"""SQLite's short way: what comes out is what SQLAlchemy's own way brings."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Integer, bindparam, event, exc, func, insert, literal, select, text, tuple_, update

from runlane.storage import direct, tables
from runlane.storage.database import Database
from runlane.storage.direct import DirectConnection, shortest

_C = tables.sessions.c
_AT = datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC)
_NAMED = select(_C.id, _C.worker_id, _C.expires_at, _C.tasks).where(_C.worker_id == bindparam("worker_id"))
_AMONG = select(_C.id).where(_C.id.in_(bindparam("ids", expanding=True))).order_by(_C.worker_id)


@pytest.fixture
def connection() -> Iterator[Connection]:
    database = Database("memory:")
    database.migrate()
    with database.engine.begin() as connection:
        for n in range(1, 4):
            values = {"id": UUID(int=n), "environment": "here", "worker_id": f"worker-{n}", "started_at": _AT}
            values |= {"expires_at": _AT + timedelta(seconds=n), "tasks": ["é", n]}
            connection.execute(insert(tables.sessions).values(values))
        yield connection
    database.dispose()


def both(connection: Connection, statement: Any, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """What a statement finds at its first execution, by SQLAlchemy, and at the third one."""
    found = [[tuple(row) for row in DirectConnection(connection).execute(statement, parameters)] for _ in range(3)]
    assert found[0] == found[1] == found[2]
    return found[2]


def is_kept(statement: Any) -> bool:
    """Whether the driver has been given the statement."""
    return isinstance(direct._kept[statement], direct._Compiled)


def test_values_are_read_and_written_as_their_types_say(connection: Connection) -> None:
    rows = both(connection, _NAMED, {"worker_id": "worker-2"})
    assert rows == [(UUID(int=2), "worker-2", _AT + timedelta(seconds=2), ["é", 2])]
    assert is_kept(_NAMED)
    row = DirectConnection(connection).execute(_NAMED, {"worker_id": "worker-2"}).one()
    assert (row.id, row[1], row._mapping["tasks"]) == (UUID(int=2), "worker-2", ["é", 2])


def test_a_list_of_values_may_have_any_length(connection: Connection) -> None:
    for wanted in ([], [3], [2, 1], [1, 2, 3, 4]):
        ids = [UUID(int=n) for n in wanted]
        assert both(connection, _AMONG, {"ids": ids}) == [(UUID(int=n),) for n in sorted(wanted) if n < 4]
    assert is_kept(_AMONG)


def test_the_values_of_a_list_are_written_as_their_type_says(connection: Connection) -> None:
    expiring = select(_C.id).where(_C.expires_at.in_(bindparam("instants", expanding=True)))
    assert both(connection, expiring, {"instants": [_AT, _AT + timedelta(seconds=2)]}) == [(UUID(int=2),)]


def test_constants_within_a_statement_are_kept_with_it(connection: Connection) -> None:
    statement = select(_C.worker_id, literal(_AT, tables.Instant())).where(_C.id == UUID(int=3))
    assert both(connection, statement) == [("worker-3", _AT)]


def test_text_is_given_to_the_driver_too(connection: Connection) -> None:
    statement = text("select worker_id as who, count(*) as n from sessions where environment = :here group by 1")
    assert len(both(connection, statement, {"here": "here"})) == 3
    assert DirectConnection(connection).execute(statement, {"here": "there"}).first() is None
    assert {row.who for row in DirectConnection(connection).execute(statement, {"here": "here"})} == {
        f"worker-{n}" for n in (1, 2, 3)
    }


def test_it_tells_how_many_rows_were_written(connection: Connection) -> None:
    extend = update(tables.sessions).where(_C.id <= bindparam("most")).values(expires_at=bindparam("until"))
    for _ in range(3):
        done = DirectConnection(connection).execute(extend, {"most": UUID(int=2), "until": _AT})
        assert done.rowcount == 2
    done = DirectConnection(connection).execute(extend.returning(_C.id), {"most": UUID(int=1), "until": _AT})
    assert done.scalar_one() == UUID(int=1)


def test_a_missing_parameter_is_an_error(connection: Connection) -> None:
    both(connection, _NAMED, {"worker_id": "nobody"})
    with pytest.raises(exc.StatementError, match="worker_id"):
        DirectConnection(connection).execute(_NAMED, {"worker": "nobody"})


def test_a_value_of_another_type_is_an_error_of_sqlalchemy_too(connection: Connection) -> None:
    expiring = select(_C.id).where(_C.expires_at < bindparam("instant", type_=tables.Instant()))
    both(connection, expiring, {"instant": _AT})
    with pytest.raises(exc.StatementError):
        DirectConnection(connection).execute(expiring, {"instant": "2026"})


def test_errors_are_those_of_sqlalchemy(connection: Connection) -> None:
    statements = DirectConnection(connection)
    with pytest.raises(exc.OperationalError, match="no such table") as unknown:
        statements.exec_driver_sql("select * from nowhere where id = ?", (1,))
    assert unknown.value.statement == "select * from nowhere where id = ?"
    twice = text("insert into sessions select * from sessions where environment = :here")
    for _ in range(3):
        with pytest.raises(exc.IntegrityError) as refused:
            statements.execute(twice, {"here": "here"})
    assert refused.value.orig is not None
    assert refused.value.orig.sqlite_errorname == "SQLITE_CONSTRAINT_PRIMARYKEY"  # type: ignore[attr-defined]


def test_own_text_is_asked_for_rows_or_values(connection: Connection) -> None:
    statements = DirectConnection(connection)
    found = statements.exec_driver_sql("select worker_id from sessions where worker_id > ? order by 1", ("worker-1",))
    assert [row[0] for row in found.all()] == ["worker-2", "worker-3"]
    assert (found.first()[0], found.scalar()) == ("worker-2", "worker-2")
    assert statements.exec_driver_sql("select count(*) from sessions").scalar_one() == 3
    with pytest.raises(ValueError, match="unpack"):
        found.scalar_one()
    nothing = statements.exec_driver_sql("select 1 where 0")
    assert (nothing.all(), nothing.first(), nothing.scalar()) == ([], None, None)
    many = statements.exec_driver_sql("update sessions set tasks = ? where worker_id = ?", [("[]", "worker-1")] * 2)
    assert many.rowcount == 2


def test_what_has_another_text_each_time_is_left_to_sqlalchemy(connection: Connection) -> None:
    most: Any = bindparam("most", type_=Integer, literal_execute=True)
    limited = select(_C.id).order_by(_C.id).limit(most)
    streamed = select(_C.id).order_by(_C.id).execution_options(yield_per=2)
    assert both(connection, limited, {"most": 1}) == [(UUID(int=1),)]
    assert len(both(connection, streamed)) == 3
    assert not is_kept(limited)
    assert not is_kept(streamed)


def test_shapes_that_are_not_understood_are_left_to_sqlalchemy(connection: Connection) -> None:
    mixed = select(text("1"), _C.worker_id).where(_C.id == UUID(int=1))
    assert both(connection, mixed) == [(1, "worker-1")]
    pairs = select(_C.id).where(tuple_(_C.id, _C.worker_id).in_(bindparam("pairs", expanding=True)))
    assert both(connection, pairs, {"pairs": [(str(UUID(int=1)), "worker-1")]}) == [(UUID(int=1),)]
    whatever = update(tables.sessions).where(_C.id == UUID(int=1))
    for values in ({"worker_id": "renamed"}, {"environment": "there"}, {"worker_id": "worker-1"}):
        assert DirectConnection(connection).execute(whatever, values).rowcount == 1
    assert not any(is_kept(statement) for statement in (mixed, pairs, whatever))


def test_what_does_not_come_again_is_forgotten(connection: Connection) -> None:
    gc.collect()
    before = len(direct._kept)
    for _ in range(20):
        assert DirectConnection(connection).execute(select(func.count()).where(_C.id != uuid4())).scalar_one() == 3
    gc.collect()
    assert len(direct._kept) <= before + 1  # the last one may still be known somewhere


def test_who_listens_to_statements_hears_of_all_of_them(connection: Connection) -> None:
    assert isinstance(shortest(connection), DirectConnection)
    heard: list[str] = []
    event.listen(connection.engine, "before_cursor_execute", lambda *about: heard.append(about[2]))
    for _ in range(3):
        shortest(connection).execute(_NAMED, {"worker_id": "worker-1"})
    assert len(heard) == 3


def test_statements_that_are_logged_are_logged_by_sqlalchemy(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqlalchemy.engine.Engine")
    assert shortest(connection) is connection
