"""Tables that are no longer as they were made: what is missing, changed or put in, and the statement that mends it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from runlane import Check, Health, Runlane, postgres_lane
from runlane.storage import postgres_shape, shapes
from tests.conftest import PostgresServer
from tests.health.conftest import looked_at
from tests.storage.test_upgrades import back_to_1, without_digests
from tests.support import database_at, database_of, execute, named, raw

POSTGRES = [
    (
        "alter table events disable trigger events_append_only",
        "critical",
        "changed",
        "trigger events.events_append_only",
    ),
    ("alter table events enable trigger events_pruned", "critical", "changed", "trigger events.events_pruned"),
    ("drop trigger events_append_only on events", "critical", "missing", "trigger events.events_append_only"),
    ("drop index runs_ready", "warning", "missing", "index runs.runs_ready"),
    ("drop index events_position", "warning", "missing", "index events.events_position"),
    ("drop index runs_singleton", "critical", "missing", "index runs.runs_singleton"),
    (
        "drop index outbox_due; create index outbox_due on outbox (environment, due_at)",
        "warning",
        "changed",
        "index outbox.outbox_due",
    ),
    (
        "update pg_index set indisvalid = false where indexrelid = 'runs_leased'::regclass",
        "warning",
        "changed",
        "index runs.runs_leased",
    ),
    ("alter table runs drop column correlation_id", "critical", "missing", "column runs.correlation_id"),
    ("alter table runs alter column priority type integer", "critical", "changed", "column runs.priority"),
    ("alter table runs alter column task_id drop not null", "critical", "changed", "column runs.task_id"),
    ("alter table events alter column tx drop default", "critical", "changed", "column events.tx"),
    ("alter table queues add column mine text", "ok", "extra", "column queues.mine"),
    ("alter table queues add column mine text not null", "critical", "extra", "column queues.mine"),
    (
        "alter table runs drop constraint runs_leased_iff_running",
        "critical",
        "missing",
        "constraint runs.runs_leased_iff_running",
    ),
    ("alter table queues drop constraint queues_pkey", "critical", "missing", "constraint queues.queues_pkey"),
    ("alter table runs add constraint mine check (priority < 9)", "warning", "extra", "constraint runs.mine"),
    ("create rule mine as on update to runs do instead nothing", "critical", "extra", "rule runs.mine"),
    ("alter table runs enable row level security", "critical", "changed", "table runs"),
    ("alter table queues set unlogged", "critical", "changed", "table queues"),
    ("drop table cursors", "critical", "missing", "table cursors"),
    ("drop function event_digest", "critical", "missing", "function event_digest"),
    (
        "create or replace function refuse_change() returns trigger language plpgsql as 'begin return null; end'",
        "critical",
        "changed",
        "function refuse_change",
    ),
    ("alter function prune_runs security invoker", "critical", "changed", "function prune_runs"),
    ("alter type run_status add value 'stuck'", "critical", "changed", "type run_status"),
    ("create table mine (id int primary key)", "ok", "extra", "table mine"),
    ("create index mine on runs (task_id)", "ok", "extra", "index runs.mine"),
    ("create unique index mine on queues (name)", "warning", "extra", "index queues.mine"),
    ("create function mine() returns int language sql as 'select 1'", "ok", "extra", "function mine"),
]


@pytest.fixture(scope="module")
def owner(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """The owner of the tables, in a transaction that each test rolls back."""
    url = postgres.migrated()
    with psycopg.connect(url, options="-c search_path=runlane") as connection:
        yield connection
    postgres.drop(url)


@pytest.mark.parametrize(("statement", "status", "how", "what"), POSTGRES, ids=lambda value: str(value)[:60])
def test_drift_on_postgres(owner: psycopg.Connection[Any], statement: str, status: str, how: str, what: str) -> None:
    def judge() -> Check:
        asked = lambda statement, parameters: owner.execute(statement, parameters).fetchall()  # noqa: E731
        return shapes.judged(postgres_shape.expected("runlane"), postgres_shape.found(asked, "runlane"))

    assert judge().status is Health.OK
    owner.execute(statement)
    check = judge()
    assert check.status == status, check
    wrong = {kind: check.values[kind] for kind in ("missing", "changed", "extra")}
    assert wrong == {"missing": [], "changed": [], "extra": [], how: [what]}
    assert what in check.found
    fixes = check.values.get("fixes", [])
    assert bool(fixes) == (what.startswith(("trigger", "index")) and how != "extra")
    for fix in fixes:
        owner.execute(fix.replace(" concurrently", ""))  # it is inside of a transaction here
        assert judge().status is Health.OK
    owner.rollback()


def test_the_advice_mends_it_while_others_work(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner, Runlane(postgres_url) as app:
        owner.execute("drop index runlane.runs_ready, runlane.runs_singleton")
        check = looked_at(app, "schema")
        assert (check.status, len(check.values["fixes"])) == (Health.CRITICAL, 2)
        for fix in check.values["fixes"]:
            assert " concurrently " in fix
            owner.execute(fix)
        assert looked_at(app, "schema").status is Health.OK


def test_what_went_with_a_guard_is_to_be_verified(postgres_url: str) -> None:
    with Runlane(postgres_url) as app:
        execute(database_of(app), "alter table {events} disable trigger all")
        check = looked_at(app, "schema")
    assert check.found == "not as made: trigger events.events_append_only, trigger events.events_pruned"
    assert "runlane audit verify" in str(check.advice)
    assert 'alter table "runlane".events enable always trigger events_append_only' in str(check.advice)


class Nothing:
    """An inline projection without tables."""

    name, version = "nothing", 1

    def setup(self, connection: Any) -> None: ...

    def clear(self, connection: Any, environment: str) -> None: ...

    def fold(self, connection: Any, records: Any) -> None: ...


def test_the_guard_of_inline_projections_is_theirs(postgres_url: str) -> None:
    with Runlane(postgres_url, inline_projections=[Nothing()]) as app:
        app.project("nothing")
        assert looked_at(app, "schema").found.endswith("pieces are as made")
        execute(database_of(app), "drop trigger events_inline on {events}")
        check = looked_at(app, "schema")
        assert (check.status, check.values["missing"]) == (Health.CRITICAL, ["trigger events.events_inline"])
        for fix in check.values["fixes"]:
            execute(database_of(app), fix)
        assert looked_at(app, "schema").status is Health.OK
        app.projections.remove("nothing")
        assert looked_at(app, "schema").found.endswith("pieces are as made")


@pytest.mark.parametrize("name", ["other", "Mixed_Case", "select", "runlane2", "with$dollar"])
def test_a_schema_of_another_name_is_as_it_was_made(postgres: PostgresServer, name: str) -> None:
    url = postgres.empty()
    for schema in ("runlane", name):
        app = Runlane(postgres_lane(url, schema=schema))
        app.migrate()
        app.close()
    with app:
        assert looked_at(app, "schema").found == f"all {pieces(looked_at(app, 'schema'))} pieces are as made"
    postgres.drop(url)


def pieces(check: Check) -> int:
    return int(check.found.split()[1])


_LAMED = (
    "drop trigger events_refuse_delete; "
    "create trigger events_refuse_delete before delete on events when 0 begin select 1; end"
)
SQLITE = [
    ("drop trigger events_refuse_update", "critical", "missing", "trigger events.events_refuse_update"),
    ("drop index runs_waiting", "warning", "missing", "index runs.runs_waiting"),
    ("drop index runs_singleton", "critical", "missing", "index runs.runs_singleton"),
    (
        _LAMED,
        "critical",
        "changed",
        "trigger events.events_refuse_delete",
    ),
    ("alter table runs drop column correlation_id", "critical", "missing", "column runs.correlation_id"),
    ("alter table queues add column mine text", "ok", "extra", "column queues.mine"),
    ("drop table cursors", "critical", "missing", "table cursors"),
    ("create table mine (id int)", "ok", "extra", "table mine"),
    ("create index mine on runs (task_id)", "ok", "extra", "index runs.mine"),
    ("create unique index mine on queues (name)", "warning", "extra", "index queues.mine"),
]


@pytest.mark.parametrize(("statement", "status", "how", "what"), SQLITE, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("lane", ["memory", "sqlite"])
def test_drift_on_sqlite(sqlite_url: str, lane: str, statement: str, status: str, how: str, what: str) -> None:
    with Runlane("memory:" if lane == "memory" else sqlite_url) as app:
        first, _, second = statement.partition("; ")
        for one in (first, second):
            if one:
                execute(database_of(app), one)
        check = looked_at(app, "schema")
        assert (check.status, check.values[how]) == (status, [what]), check
        for fix in check.values.get("fixes", []):
            before, _, after = fix.partition("; ") if fix.startswith("drop") else ("", "", fix)
            for one in (before, after):
                if one:
                    execute(database_of(app), one.replace("{", "{{"))
        if check.values.get("fixes"):
            assert looked_at(app, "schema").status is Health.OK


def test_a_new_schema_is_as_it_was_made(lane_url: str) -> None:
    with Runlane(lane_url) as app:
        assert looked_at(app, "schema").values == {"missing": [], "changed": [], "extra": []}


@pytest.mark.parametrize("version", [1, 4])
def test_an_upgraded_schema_is_as_one_that_was_made(shared_url: str, version: int) -> None:
    with database_at(shared_url) as database:
        if version == 1:
            back_to_1(database)
        else:
            with raw(database) as connection:
                without_digests(connection, database)
                for table in ("projection_version", "log_epochs", "cursors", "subject_keys", "inline_projections"):
                    connection.exec_driver_sql(f"drop table {named(database, table)}")
                if database.schema is not None:
                    connection.exec_driver_sql("drop index runlane.events_position")
                    functions = ("prune_runs", "lock_for_pruning", "require_inline")
                    connection.exec_driver_sql("drop function " + ", ".join(f"runlane.{one}" for one in functions))
                connection.exec_driver_sql(f"update {named(database, 'schema_version')} set version = 4")
    app = Runlane(shared_url)
    before = app.doctor()
    assert [(one.status, one.advice) for one in before.checks[:1]] == [(Health.CRITICAL, "run `runlane migrate`")]
    app.migrate()
    assert looked_at(app, "tables").status is Health.OK
    assert looked_at(app, "schema").values == {"missing": [], "changed": [], "extra": []}
    app.close()
