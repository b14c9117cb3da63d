"""Creating the tables: again, by many at once, over a newer version, and not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from runlane import ConfigurationInvalid, Runlane, lanes
from runlane.storage.tables import VERSION
from tests.support import at_once, database_at, execute


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that can be shared and has no tables yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: Any = request.getfixturevalue("postgres")
    return server.empty()


def versions(url: str) -> list[int]:
    with database_at(url) as database:
        schema = "" if database.schema is None else f"{database.schema}."
        return [row[0] for row in execute(database, f"select version from {schema}schema_version")]


def test_migrating_again_changes_nothing(lane_url: str) -> None:
    app = Runlane(lane_url)
    assert [app.migrate() for _ in range(3)] == [VERSION] * 3
    with app:
        assert app.runs.list().data == ()


def test_runs_survive_another_migration(shared_url: str) -> None:
    from tests.engine.tasks import echo

    with Runlane(shared_url, tasks=[echo]) as app:
        run = app.trigger(echo, {"n": 1}).run
    with Runlane(shared_url, tasks=[echo]) as app:
        app.migrate()
        assert app.runs.get(run.id) == run


def test_eight_migrators_at_once_make_one_schema(empty_url: str) -> None:
    apps = [Runlane(empty_url) for _ in range(8)]
    assert at_once([app.migrate for app in apps]) == [VERSION] * 8
    for app in apps:
        app.close()
    assert versions(empty_url) == [VERSION]


def test_eight_threads_of_one_runtime_make_one_schema(empty_url: str) -> None:
    app = Runlane(empty_url)
    assert at_once([app.migrate] * 8) == [VERSION] * 8
    app.close()
    assert versions(empty_url) == [VERSION]


def test_tables_of_a_newer_version_are_left_alone(shared_url: str) -> None:
    with database_at(shared_url) as database:
        table = "schema_version" if database.schema is None else f"{database.schema}.schema_version"
        execute(database, f"insert into {table} values ({VERSION + 1}, '2030-01-01T00:00:00Z')")
    app = Runlane(shared_url)
    for refused in (app.start, app.migrate):
        with pytest.raises(ConfigurationInvalid, match=rf"version {VERSION + 1}.*knows {VERSION}; upgrade") as caught:
            refused()
        assert not caught.value.retryable
    app.close()


def test_a_postgres_database_without_tables_names_the_remedy(postgres: Any) -> None:
    app = Runlane(postgres.empty())
    for refused in (app.start, app.runs.list, app.tick, app.audit.verify):
        with pytest.raises(ConfigurationInvalid, match="not migrated; run `runlane migrate`"):
            refused()
    app.close()


def test_tables_that_vanish_under_a_running_program_name_the_remedy(shared_url: str) -> None:
    with Runlane(shared_url) as app:
        database = app.lane.database
        execute(database, "drop table {runs}")
        with pytest.raises(ConfigurationInvalid, match=r"not migrated.*runs"):
            app.runs.list()
        with pytest.raises(ConfigurationInvalid, match="my_own_table"):
            app.projections.read(lambda c: c.execute(text("select * from my_own_table")).all())


def test_a_schema_that_is_no_plain_name_is_refused() -> None:
    for name in ("", "a b", 'x"; drop schema runlane', "1st", "é", "x" * 64):
        with pytest.raises(ConfigurationInvalid, match="schema must be a plain SQL name"):
            lanes.postgres_lane("postgresql://localhost/none", schema=name)


def test_the_memory_and_sqlite_lanes_migrate_on_start(tmp_path: Path) -> None:
    for url in ("memory:", f"sqlite:///{tmp_path / 'new.db'}"):
        with Runlane(url) as app:
            assert app.runs.list().data == ()
