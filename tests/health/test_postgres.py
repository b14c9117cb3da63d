"""PostgreSQL: every check brought about on a real server, the way it comes about in real life."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import (
    ConfigurationInvalid,
    Health,
    Runlane,
    RunlaneError,
    StorageConflict,
    StorageUnavailable,
    postgres_lane,
)
from runlane.health import Bound
from runlane.storage import health_work
from tests.conftest import PostgresServer
from tests.health.conftest import AT_ONCE, NOW, looked_at, session
from tests.storage.cast import Cast, cast
from tests.support import database_of, eventually

#: What is unlike a database of real use here: tests turn the disk's safety off, as nothing of theirs has to last.
NOT_HERE = {"settings"}


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def changed(url: str, statement: str, *undo: str) -> Iterator[None]:
    """What somebody has done to the database, for a while."""
    execute(url, statement)
    try:
        yield
    finally:
        execute(url, *undo)


def setting(url: str, name: str) -> Any:
    with psycopg.connect(url) as connection:
        return connection.execute(f"show {name}").fetchone()[0]  # type: ignore[index]


@contextmanager
def server_with(url: str, name: str, value: str) -> Iterator[None]:
    """The whole server with another setting."""
    before = setting(url, name)

    def turn(to: str) -> None:
        execute(url, f"alter system set {name} = {to}", "select pg_reload_conf()")
        eventually(lambda: setting(url, name) == to, f"{name} = {to}")

    turn(value)
    try:
        yield
    finally:
        turn(before)


def test_a_healthy_database_is_all_ok(app: Runlane, database_url: str) -> None:
    with server_with(database_url, "fsync", "on"), server_with(database_url, "full_page_writes", "on"):
        found = app.doctor()
    assert [check for check in found.checks if check.status is not Health.OK] == []
    assert (found.status, found.exit_code, len(found.checks)) == (Health.OK, 0, 21)
    assert "on" in found.database
    assert [check.advice for check in found.checks if check.advice] == []


def test_settings_under_which_nothing_lasts(app: Runlane, database_url: str) -> None:
    check = looked_at(app, "settings")
    assert check.status is Health.CRITICAL
    assert check.found.startswith("fsync is off: a crash of the machine destroys the database; full_page_writes is off")
    assert "alter system set fsync = on" in str(check.advice)
    with server_with(database_url, "fsync", "on"), server_with(database_url, "full_page_writes", "on"):
        for name in ("autovacuum", "track_counts"):
            with server_with(database_url, name, "off"):
                check = looked_at(app, "settings")
            assert (check.status, check.values[name]) == (Health.CRITICAL, "off")
            assert check.found.startswith(f"{name} is off")


@pytest.mark.parametrize("value", ["off", "local"])
def test_commits_that_nobody_waits_for(database_url: str, value: str) -> None:
    name = make_url(database_url).database
    with server_with(database_url, "fsync", "on"), server_with(database_url, "full_page_writes", "on"):
        with changed(
            database_url,
            f"alter database {name} set synchronous_commit = {value}",
            f"alter database {name} reset synchronous_commit",
        ):
            with Runlane(database_url) as app:
                check = looked_at(app, "settings")
        assert check.status is Health.WARNING
        assert check.found.startswith(f"synchronous_commit is {value}")
        with Runlane(postgres_lane(database_url, synchronous_commit=False)) as app:
            check = looked_at(app, "settings")
        assert (check.status, "as this program has chosen" in check.found) == (Health.OK, True)


def test_a_transaction_that_stays_open(app: Runlane, database_url: str) -> None:
    assert looked_at(app, "transactions", transactions=AT_ONCE.at_most_warning()).values["sessions"] == []
    with session(database_url) as other:
        other.execute("select pg_current_xact_id()")
        for bound, status in ((Bound(timedelta(hours=1)), "ok"), (AT_ONCE, "warning"), (NOW, "critical")):
            check = looked_at(app, "transactions", transactions=bound)
            assert check.status == status
            assert check.values["sessions"][0]["pid"] == other.info.backend_pid
        assert f"session {other.info.backend_pid} (postgres, somebody, idle in transaction)" in check.found
        assert f"select pg_terminate_backend({other.info.backend_pid})" in str(check.advice)
        check = looked_at(app, "idle_transactions", idle_transactions=NOW)
        assert check.status is Health.CRITICAL
        assert f"session {other.info.backend_pid} (postgres, somebody" in check.found
    assert looked_at(app, "idle_transactions").status is Health.OK


def test_a_transaction_that_keeps_nothing_is_only_idle(app: Runlane, database_url: str) -> None:
    with session(database_url) as other:
        other.execute("select")
        assert looked_at(app, "transactions", transactions=Bound(timedelta(seconds=0.0001))).status is Health.OK
        assert looked_at(app, "idle_transactions", idle_transactions=AT_ONCE).status is Health.WARNING


def test_a_table_that_is_locked(app: Runlane, database_url: str) -> None:
    with session(database_url) as other, session(database_url) as waiting:
        other.execute("lock table runlane.queues in share mode")
        assert looked_at(app, "locks").status is Health.OK
        check = looked_at(app, "locks", locks=AT_ONCE)
        assert check.status is Health.WARNING
        assert "has locked queues (ShareLock)" in check.found
        assert looked_at(app, "locks", locks=NOW).status is Health.CRITICAL
        waiting.execute("set lock_timeout = '20s'")
        stuck = psycopg.connect(database_url)
        stuck.pgconn.send_query(b"insert into runlane.queues select * from runlane.queues")
        waits = lambda: looked_at(app, "locks", locks=AT_ONCE).values["waiting"] == 1  # noqa: E731
        eventually(waits, "a session that waits")
        other.rollback()
        stuck.close()


def test_a_table_that_nobody_can_read_hides_nothing(app: Runlane, database_url: str) -> None:
    with session(database_url) as other:
        other.execute("lock table runlane.schedules in access exclusive mode")
        found = app.doctor()
    schedules = found.check("schedules")
    assert schedules is not None
    assert (schedules.status, schedules.values) == (Health.WARNING, {"error": "storage_conflict"})
    assert looked_at(app, "schedules").status is Health.OK
    waited = "could not be looked at: it waited 0.5 s for a lock that somebody holds"
    assert {check.name: check.found for check in found.checks if check.found.startswith("could not")} == {
        "schema": waited,
        "environment": waited,
        "schedules": waited,
    }


def test_a_lock_that_is_not_to_be_had_in_time_is_a_conflict_that_says_so(database_url: str) -> None:
    impatient = make_url(database_url).update_query_dict({"options": "-c lock_timeout=50"})
    with session(database_url) as other, closing(Runlane(impatient.render_as_string(hide_password=False))) as app:
        other.execute("lock table runlane.runs in access exclusive mode")
        with pytest.raises(StorageConflict, match=r"a lock that somebody holds in .* was not to be had") as told:
            app.runs.count()
        assert told.value.retryable


def test_dead_rows(app: Runlane, database_url: str) -> None:
    execute(
        database_url,
        "alter table runlane.queues set (autovacuum_enabled = false)",
        "insert into runlane.queues select gen_random_uuid(), 'e', n::text, 1, false, now(), 'a' "
        "from generate_series(1, 200) n",
        "update runlane.queues set reason = 'x', name = name || 'x'",
        "select pg_stat_force_next_flush()",
    )
    check = eventually(lambda: (found := looked_at(app, "dead_rows")).values["tables"]["queues"]["dead"] and found)
    assert (check.status, check.values["unvacuumed"]) == (Health.WARNING, ["queues"])
    assert check.advice == '`alter table "runlane".queues reset (autovacuum_enabled)`'
    execute(
        database_url,
        "alter table runlane.queues set (autovacuum_vacuum_threshold = 2000000000)",  # or it might come just now
        "alter table runlane.queues reset (autovacuum_enabled)",
    )
    for least, bound, status in ((201, AT_MOST, "ok"), (200, AT_MOST, "warning"), (200, Bound(0.1, 0.4), "critical")):
        check = looked_at(app, "dead_rows", dead_rows_least=least, dead_rows=bound)
        assert check.status == status, check
        assert check.found.startswith("the most are in queues: 200 dead rows, 50 % of all, never vacuumed")
    execute(database_url, "delete from runlane.queues", "vacuum runlane.queues", "select pg_stat_force_next_flush()")
    vacuumed = lambda: looked_at(app, "dead_rows").values["tables"]["queues"]["vacuumed"] is not None  # noqa: E731
    eventually(vacuumed, "a vacuum")


AT_MOST = Bound(0.5, 0.9)


def test_heartbeats_that_change_an_index(app: Runlane, database_url: str) -> None:
    insert = "insert into runlane.sessions select gen_random_uuid(), 'e', 'w', now(), now() from generate_series(1, 20)"
    beat = "update runlane.sessions set expires_at = expires_at + interval '1 second'"
    flush = "select pg_stat_force_next_flush()"
    reset = "select pg_stat_reset_single_table_counters('runlane.sessions'::regclass)"
    execute(database_url, insert, reset, beat, flush)
    bounds: dict[str, Any] = {"hot_updates_least": 20}
    check = eventually(lambda: (one := looked_at(app, "hot_updates", **bounds)).values["updates"]["sessions"] and one)
    assert check.status is Health.OK
    assert "100 % of those of sessions" in check.found
    with changed(database_url, "create index mine on runlane.sessions (expires_at)", "drop index runlane.mine"):
        execute(database_url, beat, beat, beat, flush)
        check = eventually(lambda: (o := looked_at(app, "hot_updates", **bounds)).status is not Health.OK and o)
        assert (check.status, check.values["parts"]["sessions"]) == (Health.WARNING, 0.25)
        assert looked_at(app, "hot_updates").status is Health.OK  # they are few
    execute(database_url, "delete from runlane.sessions")


@pytest.mark.parametrize(
    ("name", "bound"),
    [("connections", "connections"), ("notifications", "notifications"), ("wraparound", "wraparound")],
)
def test_figures_of_the_whole_server(app: Runlane, name: str, bound: str) -> None:
    for judged, status in ((Bound(1.1), "ok"), (Bound(0.0, 1.1), "warning"), (Bound(0.0, 0.0), "critical")):
        check = looked_at(app, name, **{bound: judged})
        assert check.status == status
        assert 0 <= check.values["part"] < 1


def test_connections_are_counted(app: Runlane, database_url: str) -> None:
    before = looked_at(app, "connections").values["used"]
    with session(database_url), session(database_url):
        eventually(lambda: looked_at(app, "connections").values["used"] >= before + 2, "two more connections")


def test_the_queue_of_notifications_fills_behind_a_listener(app: Runlane, database_url: str) -> None:
    with session(database_url, autocommit=True) as listener:
        listener.execute("listen stuck")
        with listener.transaction():
            listener.execute("select pg_current_xact_id()")
            execute(
                database_url,
                "do $$ begin for n in 1..900 loop perform pg_notify('stuck', n || repeat('x', 7900)); end loop; end $$",
            )
            check = looked_at(app, "notifications", notifications=Bound(0.0000001))
            assert check.status is Health.WARNING
            assert check.values["part"] > 0


def test_this_machines_clock(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    right = health_work.system_clock
    for ahead, which in ((timedelta(seconds=90), "ahead of"), (timedelta(seconds=-90), "behind")):
        monkeypatch.setattr(health_work, "system_clock", lambda ahead=ahead: right() + ahead)
        check = looked_at(app, "clock")
        assert check.status is Health.WARNING
        assert f"s {which} the database's" in check.found
        assert abs(check.values["skew"] - ahead.total_seconds()) < 10


def test_transactions_that_are_read_only(app: Runlane, database_url: str) -> None:
    name = make_url(database_url).database
    read_only = f"alter database {name} set default_transaction_read_only = on"
    undo = ("set default_transaction_read_only = off", f"alter database {name} reset default_transaction_read_only")
    with changed(database_url, read_only, *undo), Runlane(database_url) as other:
        check = looked_at(other, "server")
    assert (check.status, check.values["read_only"]) == (Health.CRITICAL, True)


def test_a_restored_database(app: Runlane, database_url: str) -> None:
    assert looked_at(app, "epoch").status is Health.OK
    execute(database_url, "update runlane.log_epochs set identity = '1/00000001/1'")
    check = looked_at(app, "epoch")
    assert (check.status, "runlane migrate" in str(check.advice)) == (Health.WARNING, True)
    app.migrate()
    assert looked_at(app, "epoch").status is Health.OK


@pytest.mark.parametrize(
    ("statement", "undo", "said"),
    [
        ("update runlane.schema_version set version = 4", "set version = 5", "`runlane migrate`"),
        ("update runlane.schema_version set version = 6", "set version = 5", "upgrade the runlane package"),
        ("update runlane.projection_version set version = 0", "set version = 1", "`runlane migrate`"),
        ("update runlane.projection_version set version = 9", "set version = 1", "upgrade the runlane package"),
        ("delete from runlane.schema_version", None, "`runlane migrate`"),
    ],
)
def test_tables_of_another_version(
    app: Runlane, database_url: str, statement: str, undo: str | None, said: str
) -> None:
    back = f"{statement.partition(' set ')[0]} {undo}" if undo else "insert into runlane.schema_version values (5)"
    with changed(database_url, statement, back):
        found = app.doctor()
    check = found.check("tables")
    assert check is not None
    if undo is None:
        assert (check.status, check.values["version"]) == (Health.CRITICAL, None)
        return
    assert check.status is Health.CRITICAL
    assert said in str(check.advice)
    schema = found.check("schema")
    assert schema is not None
    assert (schema.status is Health.OK) == ("projection" in statement)


def test_what_is_not_there(postgres: PostgresServer) -> None:
    url = postgres.empty()
    with closing(Runlane(url)) as app, pytest.raises(ConfigurationInvalid, match="is not migrated"):
        app.doctor()
    nowhere = make_url(url).set(database="nowhere").render_as_string(hide_password=False)
    with closing(Runlane(nowhere)) as app, pytest.raises(RunlaneError, match="nowhere"):
        app.doctor()
    with closing(Runlane("postgresql://127.0.0.1:9/x")) as app, pytest.raises(StorageUnavailable):
        app.doctor()
    postgres.drop(url)


def test_a_database_that_goes_away_in_the_middle(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Runlane(database_url)) as app:
        asked = health_work.epochs.is_due

        def vanish(tx: Any) -> bool:
            database_of(app).url = make_url("postgresql+psycopg://127.0.0.1:9/x")
            tx.connection.connection.driver_connection.close()
            monkeypatch.setattr(database_of(app).engine.pool, "_creator", refused)
            return asked(tx)

        def refused(*_: Any, **__: Any) -> Any:
            return psycopg.connect("postgresql://127.0.0.1:9/x", connect_timeout=2)

        monkeypatch.setattr(health_work.epochs, "is_due", vanish)
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            app.doctor()


@pytest.fixture(scope="module")
def there(postgres: PostgresServer) -> Iterator[Cast]:
    with cast(postgres) as made:
        yield made


def test_an_auditor_may_look_at_everything_of_runlane(there: Cast) -> None:
    found = there.app(there.logins["auditor"]).doctor()
    refused = [check for check in found.checks if check.found.startswith("could not")]
    assert {check.name for check in refused} <= {"transactions", "idle_transactions"}
    assert all(check.status is Health.WARNING for check in refused)
    assert all("pg_monitor" in str(check.advice) for check in refused)


def test_an_auditor_who_may_see_other_sessions_looks_at_all(there: Cast) -> None:
    login = make_url(there.logins["auditor"]).username
    there.execute(f"grant pg_monitor to {login}")
    found = there.app(there.logins["auditor"]).doctor()
    there.execute(f"revoke pg_monitor from {login}")
    assert [check.name for check in found.checks if check.found.startswith("could not")] == []


def test_who_may_nothing_is_told_so_check_by_check(there: Cast) -> None:
    with session(there.url) as other:
        other.execute("lock table runlane.queues in share mode")
        found = there.app(there.login()).doctor()
    denied = [check for check in found.checks if "denies this role" in check.found]
    assert {"tables", "epoch", "workers", "schedules", "outbox", "waiting"} <= {check.name for check in denied}
    assert {check.status for check in denied} == {Health.WARNING}
    assert all("auditor" in str(check.advice) for check in denied)
    assert looked_at(there.app(there.login()), "server").status is Health.OK
    locks = found.check("locks")
    assert locks is not None
    assert (locks.status, "may not see since when" in locks.found) == (Health.WARNING, True)


def test_it_changes_nothing(there: Cast) -> None:
    before = there.stored()
    there.app(there.url).doctor()
    assert there.stored() == before


def test_nothing_is_locked_that_anybody_waits_for(app: Runlane, database_url: str) -> None:
    with session(database_url) as other:
        other.execute("select from runlane.runs where id = %s", [uuid4()])
        other.execute("lock table runlane.runs, runlane.sessions, runlane.outbox in exclusive mode")
        found = app.doctor()
        other.rollback()
    assert [check.name for check in found.checks if check.found.startswith("could not")] == []
