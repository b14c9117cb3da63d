"""Tables that an earlier Runlane has made are brought up to date, with what is in them."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from sqlalchemy import inspect

from runlane import ConfigurationInvalid, Runlane
from runlane.lanes import Lane
from runlane.storage.database import Database
from runlane.storage.tables import VERSION
from tests.engine.post import Post
from tests.engine.tasks import echo
from tests.support import database_at, execute, named, raw


def shape(database: Database) -> dict[str, Any]:
    """Every table's columns, indexes and checks, as the database tells them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Did not recognize type 'xid8'")
        return _shape(database)


def _shape(database: Database) -> dict[str, Any]:
    found = inspect(database.engine)
    tables: dict[str, Any] = {}
    for table in found.get_table_names(schema=database.schema):
        columns = [
            (one["name"], str(one["type"]), one["nullable"]) for one in found.get_columns(table, database.schema)
        ]
        checks = {one["name"]: one["sqltext"] for one in found.get_check_constraints(table, database.schema)}
        tables[table] = (sorted(columns), checks)
    if database.schema is None:
        of_file = "select name, sql from sqlite_master where type in ('index', 'trigger') order by name"
        tables["indexes"] = execute(database, of_file)
    else:
        sorted_ = "(select array_agg(one order by one) from unnest(reloptions) one)"
        options = f"select relname, {sorted_} from pg_class where relnamespace = 'runlane'::regnamespace order by 1"
        tables["options"] = execute(database, options)
        of_schema = "select indexname, indexdef from pg_indexes where schemaname = 'runlane' order by 1"
        tables["indexes"] = execute(database, of_schema)
    return tables


def lists_of_statuses(connection: Any) -> None:
    """Have checks and indexes of a SQLite file say ``status in (…)``, as they did before version 4."""
    connection.exec_driver_sql("pragma writable_schema = on")
    found = connection.exec_driver_sql("select name, sql from sqlite_master where sql like '% or status = %'").all()
    assert {"runs", "runs_waiting", "outbox", "outbox_due"} <= {name for name, _ in found}
    for name, sql in found:
        listed = re.sub(r"\(status = '\w+'(?: or status = '\w+')+\)", _listed, sql)
        connection.exec_driver_sql("update sqlite_master set sql = ? where name = ?", (listed, name))
    connection.exec_driver_sql("pragma writable_schema = reset")


def _listed(compared: re.Match[str]) -> str:
    values = re.findall(r"'[a-z_]+'", compared[0])
    return f"status in ({', '.join(values)})"


def without_digests(connection: Any, database: Database) -> None:
    """Undo what version 5 brought."""
    for table in ("events", "runs"):
        connection.exec_driver_sql(f"alter table {named(database, table)} drop column digest")
    connection.exec_driver_sql(f"drop index {named(database, 'outbox_given_up')}")
    if database.schema is not None:
        connection.exec_driver_sql("drop function runlane.event_digest")


def back_to_1(database: Database) -> None:
    """Undo what versions 2 to 5 brought."""
    with raw(database) as connection:
        without_digests(connection, database)
        connection.exec_driver_sql(f"drop table {named(database, 'projection_version')}")
        if database.schema is None:
            lists_of_statuses(connection)
        else:
            connection.exec_driver_sql("alter index runlane.events_pkey reset (fillfactor)")
            connection.exec_driver_sql("alter table runlane.runs set (fillfactor = 60)")
            connection.exec_driver_sql("drop index runlane.events_position")
            connection.exec_driver_sql(
                "drop function runlane.prune_runs, runlane.lock_for_pruning, runlane.require_inline"
            )
        for table in ("log_epochs", "cursors", "subject_keys", "inline_projections"):
            connection.exec_driver_sql(f"drop table {named(database, table)}")
        connection.exec_driver_sql(f"drop index {named(database, 'runs_failed')}")
        for table in ("outbox", "maintainers"):
            connection.exec_driver_sql(f"drop table {named(database, table)}")
        connection.exec_driver_sql(f"alter table {named(database, 'sessions')} drop column tasks")
        connection.exec_driver_sql(f"drop index {named(database, 'runs_occupied')}")
        connection.exec_driver_sql(
            f"create index runs_occupied on {named(database, 'runs')} (environment, queue, concurrency_key)"
            " where lease_session_id is not null"
        )
        connection.exec_driver_sql(f"update {named(database, 'schema_version')} set version = 1")


def test_version_1_becomes_what_is_made_today(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as app:
        ended = app.trigger(echo, 0).run
        app.execute_next()
        run = app.trigger(echo, 1).run
        app.queues.pause(ended.queue)
        app.queues.resume(ended.queue)
    with database_at(shared_url) as database:
        made = shape(database)
        digests = execute(database, "select stream_id, sequence, digest from {events} order by position")
        of_runs = execute(database, "select id, digest from {runs} order by id")
        back_to_1(database)
        assert shape(database) != made
        app = Runlane(shared_url, tasks=[echo])
        assert app.migrate() == VERSION
        assert shape(database) == made
        assert execute(database, "select stream_id, sequence, digest from {events} order by position") == digests
        assert execute(database, "select id, digest from {runs} order by id") == of_runs
        assert app.execute_next().id == run.id
        assert app.audit.verify().identical
        app.close()


def test_what_others_have_put_on_the_tables_of_a_file_stays(sqlite_url: str) -> None:
    theirs = {
        "mine": "create view mine as select id, status from runs",
        "by_task": "create index by_task on runs (task_id)",
        "noted": "create trigger noted after insert on outbox begin select 1; end",
    }
    asking = Runlane(Lane(Database(sqlite_url), Post()), tasks=[echo], dispatch="deferred")
    with asking as app:
        run = app.trigger(echo, 1).run
    with database_at(sqlite_url) as database:
        for statement in theirs.values():
            execute(database, statement)
        back_to_3 = "update schema_version set version = 3"
        with raw(database) as connection:
            without_digests(connection, database)
            lists_of_statuses(connection)
            for table in ("projection_version", "log_epochs", "cursors", "subject_keys", "inline_projections"):
                connection.exec_driver_sql(f"drop table {table}")
            connection.exec_driver_sql(back_to_3)
        app = Runlane(sqlite_url, tasks=[echo])
        assert app.migrate() == VERSION
        stored = dict(execute(database, "select name, lower(sql) from sqlite_master"))
        assert {name: stored.get(name) for name in theirs} == theirs
        assert execute(database, "select * from mine") == [(str(run.id), "queued")]
        assert execute(database, "select run_id, status from outbox") == [(str(run.id), "pending")]
        app.close()


def test_a_server_that_is_behind_names_the_remedy(postgres_url: str) -> None:
    with database_at(postgres_url) as database:
        back_to_1(database)
        app = Runlane(postgres_url)
        with pytest.raises(ConfigurationInvalid, match=f"schema version 1; run `runlane migrate` to reach {VERSION}"):
            app.start()
        app.migrate()
        app.close()


def test_places_in_the_log_of_a_file_are_not_given_twice_after_an_upgrade(sqlite_url: str) -> None:
    """That of an event which was pruned is remembered by SQLite beside the table, and the table is made anew."""
    with Runlane(sqlite_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        run = app.trigger(echo, 2).run
        highest = app.runs.events(run.id)[-1].position
    with database_at(sqlite_url) as database:
        with raw(database) as connection:
            without_digests(connection, database)
            for table in ("projection_version", "log_epochs", "cursors", "subject_keys", "inline_projections"):
                connection.exec_driver_sql(f"drop table {table}")
            connection.exec_driver_sql("drop trigger events_refuse_delete")
            connection.exec_driver_sql("delete from events where position = ?", (highest,))
            connection.exec_driver_sql("update schema_version set version = 4")
        app = Runlane(sqlite_url, tasks=[echo])
        assert app.migrate() == VERSION
        assert app.runs.events(app.trigger(echo, 3).run.id)[0].position > highest
        app.close()
