"""Rebuilding on PostgreSQL: what the swap does to locks, grants, names, and whoever uses the tables meanwhile."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine

from runlane import Runlane, StorageConflict, postgres_lane
from runlane.storage import rebuild
from runlane.storage.database import Database
from runlane.storage.postgres_shadows import PostgresShadows
from tests.engine.tasks import echo
from tests.storage.test_rebuild import TABLES, TASKS, between, shadows_of
from tests.storage.test_upgrades import shape
from tests.support import database_of, execute


def test_shadows_of_one_that_was_killed_go(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        with monkeypatch.context() as patch:

            def die() -> None:
                patch.setattr(PostgresShadows, "drop", lambda self, tx: 1 / 0)
                raise KeyboardInterrupt

            between(patch, "exchange", die)
            with pytest.raises(KeyboardInterrupt):
                app.audit.rebuild()
        assert shadows_of(app)
        assert app.audit.verify().identical
        assert app.audit.rebuild().identical
        assert shadows_of(app) == []


# One at a time, and how long for.


def test_a_second_rebuild_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app, Runlane(postgres_url) as other:
        app.trigger(echo, 1)
        refused: list[StorageConflict] = []

        def second() -> None:
            with pytest.raises(StorageConflict, match="another rebuild") as caught:
                other.audit.rebuild()
            refused.append(caught.value)

        between(monkeypatch, "add_keys", second)
        assert app.audit.rebuild().swapped
        assert refused[0].retryable
        assert other.audit.rebuild().swapped


def test_a_transaction_that_stays_open_holds_up_the_swap_and_nobody_else(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "_PATIENCE", 0.0)
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with Runlane(postgres_url, tasks=[echo]) as app:
        run = app.trigger(echo, 1).run
        with engine.begin() as reading:
            reading.exec_driver_sql("select * from runlane.runs")
            with pytest.raises(StorageConflict, match="in use"):
                app.audit.rebuild()
            assert app.execute_next().id == run.id
        assert shadows_of(app) == []
        assert app.audit.rebuild().identical
    engine.dispose()


def test_the_swap_tries_again_until_the_tables_are_free(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        reading = engine.connect()
        reading.exec_driver_sql("select * from runlane.runs")
        tries: list[int] = []
        real = PostgresShadows.can_wait

        def can_wait(self: PostgresShadows, tx: Any, milliseconds: int) -> None:
            tries.append(milliseconds)
            if len(tries) == 3:
                app.trigger(echo, 2)
                reading.close()
            real(self, tx, milliseconds)

        monkeypatch.setattr(PostgresShadows, "can_wait", can_wait)
        found = app.audit.rebuild()
        assert tries == [50, 100, 200]
        assert found.swapped
        assert app.audit.verify().runs == 2
        assert app.audit.verify().identical
    engine.dispose()


# What else there is about the tables of PostgreSQL.


def test_the_tables_are_as_schema_sql_makes_them(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        database = database_of(app)
        app.trigger(echo, 1)
        made, old = shape(database), oids(database)
        constraints = execute(database, _CONSTRAINTS)
        assert app.audit.rebuild().swapped
        assert not set(oids(database)) & set(old), "new tables"
        assert shape(database) == made
        assert execute(database, _CONSTRAINTS) == constraints


_CLASSES = """
    select relname, relacl::text, obj_description(oid) from pg_class
    where relnamespace = 'runlane'::regnamespace order by 1"""
_COLUMN_GRANTS = """
    select attrelid::regclass::text, attname, attacl::text from pg_attribute where attacl is not null order by 1, 2"""
_TRIGGERS = """
    select tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) from pg_trigger order by 1, 2"""
_CONSTRAINTS = "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint order by 1, 2"


def oids(database: Database) -> list[Any]:
    return list(execute(database, "select " + ", ".join(f"'runlane.{name}'::regclass::oid" for name in TABLES))[0])


_NOTED = """
    create trigger noted after update on runlane.runs for each row when (old.status <> new.status)
    execute function runlane.noted()"""


def test_grants_triggers_and_indexes_of_others_stay(postgres_url: str) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    marks = (
        f'create role "{role}"',
        f'grant select, update on runlane.runs to "{role}" with grant option',
        f'grant select (stream_id, queue) on runlane.schedules to "{role}"',
        "grant select on runlane.queues to public",
        "create index by_task on runlane.runs (task_id) with (fillfactor = 66)",
        "comment on table runlane.runs is 'it''s \\ours'",
        "create function runlane.noted() returns trigger language plpgsql as 'begin return new; end'",
        _NOTED,
        "create trigger off after insert on runlane.runs for each row execute function runlane.noted()",
        "alter table runlane.runs disable trigger off",
        "alter table runlane.runs enable always trigger noted",
        "alter table runlane.queues add constraint names unique (stream_id, name)",
    )
    with Runlane(postgres_url, tasks=[echo]) as app:
        database = database_of(app)
        for mark in marks:
            execute(database, mark)
        about = (_CLASSES, _COLUMN_GRANTS, _TRIGGERS, _CONSTRAINTS)
        made = [shape(database), *(execute(database, question) for question in about)]
        old = oids(database)
        assert app.audit.rebuild().swapped
        assert not set(oids(database)) & set(old)
        assert [shape(database), *(execute(database, question) for question in about)] == made
        execute(database, f'drop owned by "{role}"')
        execute(database, f'drop role "{role}"')


def test_what_depends_on_the_tables_stays_and_they_are_put_right_row_by_row(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        database = database_of(app)
        runs = [one.run.id for one in app.trigger_many(echo, range(5))]
        execute(database, "create view mine as select id, priority from runlane.runs")
        execute(database, f"update {{runs}} set priority = 7 where id = '{runs[2]}'")
        execute(database, f"delete from {{runs}} where id = '{runs[3]}'")
        old, untouched = oids(database), f"select ctid from {{runs}} where id = '{runs[1]}'"
        place = execute(database, untouched)
        assert app.audit.rebuild().rows == 2
        assert oids(database) == old
        assert execute(database, untouched) == place, "rows that were right are not written"
        assert {row[1] for row in execute(database, "select * from mine")} == {0}
        assert app.audit.verify().differences == ()
        assert shadows_of(app) == []


def test_a_check_under_an_older_snapshot_does_not_see_empty_tables(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the tables one after the other; a swap in between waits for it to end."""
    monkeypatch.setattr(rebuild, "_PATIENCE", 0.0)
    with Runlane(postgres_url, tasks=TASKS) as app:
        app.trigger_many(echo, range(3))
        refused: list[int] = []

        def swap(_: int) -> None:
            if not refused:
                refused.append(1)
                with pytest.raises(StorageConflict, match="in use"):
                    app.audit.rebuild()

        assert app.audit.verify(progress=swap).identical
        assert refused


def test_events_that_came_with_a_dump_from_an_older_cluster_are_not_folded_again(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        database = database_of(app)
        app.trigger_many(echo, range(20))
        execute(database, "alter table {events} disable trigger user")
        execute(database, "update {events} set tx = '9000000000000'::xid8")
        execute(database, "alter table {events} enable trigger user")
        found = app.audit.rebuild()
        assert found.events == sum(app.audit.count().values()) - 1
        assert app.audit.verify().identical


def test_the_schema_can_have_any_plain_name(postgres: Any) -> None:
    url = postgres.empty()
    app = Runlane(postgres_lane(url, schema="Mixed_Case"), tasks=[echo])
    app.migrate()
    with app:
        app.trigger(echo, 1, idempotency_key="k")
        execute(database_of(app), 'update "Mixed_Case".runs set priority = 7')
        assert app.audit.rebuild().rows == 1
        assert app.audit.verify().identical
    postgres.drop(url)
