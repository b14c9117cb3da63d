"""No driver exception crosses the public surface: each fault is one Runlane error that says what to do."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import (
    ConfigurationInvalid,
    Runlane,
    RunlaneError,
    StorageUnavailable,
    postgres_lane,
    sqlite_lane,
)
from tests.engine.tasks import echo
from tests.support import PATIENCE, count, database_of, eventually, execute

CALLS: dict[str, Callable[[Runlane], Any]] = {
    "start": lambda app: app.start(),
    "migrate": lambda app: app.migrate(),
    "trigger": lambda app: app.trigger(echo, 1),
    "trigger_many": lambda app: app.trigger_many(echo, [1, 2]),
    "run_now": lambda app: app.run_now(echo, 1),
    "execute_next": lambda app: app.execute_next(),
    "worker": lambda app: app.worker("drain").run(),
    "tick": lambda app: app.tick(),
    "list": lambda app: app.runs.list(),
    "get": lambda app: app.runs.get("019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f"),
    "verify": lambda app: app.audit.verify(),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def open_app(sqlite_url: str) -> Iterator[Callable[..., Runlane]]:
    """A runtime that is closed at the end, whatever state its database is in."""
    made: list[Runlane] = []

    def make(lane: Any = sqlite_url) -> Runlane:
        app = Runlane(lane, tasks=[echo])
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@each_call
def test_a_server_that_is_down(closed_port: int, call: Callable[[Runlane], Any], open_app: Any) -> None:
    app = open_app(f"postgresql://ann:hidden-word@127.0.0.1:{closed_port}/shop")
    with pytest.raises(
        StorageUnavailable, match=f"database shop on 127.0.0.1:{closed_port} cannot be reached"
    ) as caught:
        call(app)
    assert caught.value.retryable
    assert "hidden-word" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [{"database": "no_such_database"}, {"username": "no_such_role"}], ids=str)
def test_a_refused_connection_names_what_is_unknown(postgres_url: str, part: dict, open_app: Any) -> None:
    app = open_app(make_url(postgres_url).set(**part).render_as_string(False))
    with pytest.raises(RunlaneError, match=next(iter(part.values()))):
        app.start()


@each_call
def test_a_sqlite_file_in_a_missing_folder(tmp_path: Path, call: Callable[[Runlane], Any], open_app: Any) -> None:
    app = open_app(f"sqlite:///{tmp_path / 'no' / 'such' / 'app.db'}")
    with pytest.raises(ConfigurationInvalid, match=r"app\.db cannot be opened; does its folder exist"):
        call(app)


def test_a_folder_instead_of_a_sqlite_file(tmp_path: Path, open_app: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="cannot be opened"):
        open_app(f"sqlite:///{tmp_path}").start()


@each_call
def test_a_file_that_is_no_database(tmp_path: Path, call: Callable[[Runlane], Any], open_app: Any) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ann, this is not a database. " * 200)
    with pytest.raises(ConfigurationInvalid, match=r"letter\.txt is not an SQLite database"):
        call(open_app(f"sqlite:///{path}"))
    assert path.read_text().startswith("Dear Ann")


@pytest.mark.parametrize("name", ["trigger", "trigger_many", "run_now", "execute_next", "worker"])
def test_a_read_only_sqlite_file_can_be_read_and_not_written(tmp_path: Path, name: str, open_app: Any) -> None:
    path = tmp_path / "app.db"
    with Runlane(f"sqlite:///{path}", tasks=[echo]) as app:
        run = app.trigger(echo, 1).run
    reader = open_app(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert reader.runs.get(run.id) == run
    with pytest.raises(ConfigurationInvalid, match=r"app\.db is read-only"):
        CALLS[name](reader)


@pytest.mark.parametrize("name", ["start", "trigger", "trigger_many", "run_now", "execute_next", "worker"])
def test_a_sqlite_file_locked_longer_than_the_busy_timeout(sqlite_url: str, name: str, open_app: Any) -> None:
    app = open_app(sqlite_lane(sqlite_url, busy_timeout=0.05))
    if name != "start":
        app.start()
    else:
        open_app().start()
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("begin immediate")
    try:
        with pytest.raises(StorageUnavailable, match="locked by another process for longer than the busy timeout") as e:
            CALLS[name](app)
        assert e.value.retryable
        assert app.runs.list().data == () if name != "start" else True
    finally:
        other.execute("rollback")
        other.close()
    assert app.trigger(echo, 1).run.status == "queued"


def test_a_sqlite_file_locked_for_less_is_waited_for(sqlite_url: str, open_app: Any) -> None:
    app = open_app(sqlite_lane(sqlite_url, busy_timeout=PATIENCE)).start()
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(app.trigger, echo, 1)
        other.execute("rollback")
        assert waiting.result(PATIENCE).run.status == "queued"
    other.close()


def test_a_full_sqlite_file_writes_nothing_and_goes_on_when_there_is_room(open_app: Any) -> None:
    app = open_app().start()
    database = database_of(app)
    pages = execute(database, "pragma page_count")[0][0]
    execute(database, f"pragma max_page_count = {pages + 4}")
    with pytest.raises(StorageUnavailable, match="is full: no space left") as caught:
        app.trigger(echo, "x" * 200_000, idempotency_key="k")
    assert caught.value.retryable
    assert [count(database, table) for table in ("events", "runs", "idempotency_keys")] == [0, 0, 0]
    execute(database, "pragma max_page_count = 1000000")
    assert app.trigger(echo, "x" * 200_000, idempotency_key="k").outcome == "created"


def test_a_pool_that_is_used_up(postgres_url: str, open_app: Any) -> None:
    app = open_app(postgres_lane(postgres_url, pool_size=1, busy_timeout=0.05)).start()
    with database_of(app).engine.connect():
        with pytest.raises(StorageUnavailable, match=r"no free connection to .* in time; raise pool_size") as caught:
            app.trigger(echo, 1)
        assert caught.value.retryable
    assert app.trigger(echo, 1).run.status == "queued"


def kill_connections(url: str) -> int:
    """End every connection that Runlane has to this database, as a restart or a firewall would."""
    with psycopg.connect(url, autocommit=True) as admin:
        found = admin.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where application_name = 'runlane' and datname = current_database()"
        ).fetchall()
        return len(found)


@pytest.mark.parametrize("name", ["trigger", "run_now", "execute_next", "tick", "list"])
def test_killed_idle_connections_are_replaced_by_the_call_after_next(
    postgres_url: str, name: str, open_app: Any
) -> None:
    app = open_app(postgres_url).start()
    app.trigger(echo, 0)
    assert kill_connections(postgres_url) >= 1
    with suppress(StorageUnavailable):
        CALLS[name](app)
    CALLS[name](app)
    assert app.audit.verify().differences == ()


def test_a_statement_killed_under_way_writes_nothing_and_the_next_call_recovers(
    postgres_url: str, open_app: Any
) -> None:
    app = open_app(postgres_url).start()
    with psycopg.connect(postgres_url) as blocker, ThreadPoolExecutor(1) as threads:
        blocker.execute("lock table runlane.runs in exclusive mode")
        under_way = threads.submit(app.trigger, echo, 1, idempotency_key="k")

        def blocked() -> list:
            with psycopg.connect(postgres_url, autocommit=True) as admin:
                return admin.execute(
                    "select pid from pg_stat_activity where application_name = 'runlane' and wait_event_type = 'Lock'"
                ).fetchall()

        eventually(blocked, "the trigger waiting for the lock")
        kill_connections(postgres_url)
        with pytest.raises(StorageUnavailable) as caught:
            under_way.result(PATIENCE)
        assert caught.value.retryable
        blocker.rollback()
    assert app.runs.list().data == ()
    assert app.trigger(echo, 1, idempotency_key="k").outcome == "created"


def test_a_role_without_rights_is_told_so(postgres_url: str, open_app: Any) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("drop role if exists runlane_stranger")
        admin.execute("create role runlane_stranger login")
        try:
            app = open_app(make_url(postgres_url).set(username="runlane_stranger").render_as_string(False))
            with pytest.raises(ConfigurationInvalid, match="denies this role: permission denied"):
                app.runs.list()
            app.close()
        finally:
            admin.execute("drop role runlane_stranger")


def test_a_damaged_table_is_an_internal_error_and_no_driver_exception(shared_url: str, open_app: Any) -> None:
    app = open_app(shared_url).start()
    execute(database_of(app), "alter table {runs} rename column sequence to seq")
    for call in (CALLS["trigger"], CALLS["list"], CALLS["execute_next"], CALLS["verify"]):
        with pytest.raises(RunlaneError) as caught:
            call(app)
        assert caught.value.code == "internal_error"
        assert not caught.value.retryable
