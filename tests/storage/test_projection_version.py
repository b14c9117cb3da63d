"""A fold that was changed: the tables remember by which version they were made, and migrating makes them anew."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from runlane import ConfigurationInvalid, Runlane
from runlane.decisions import environment_stream
from runlane.events import Recorded, TablesRebuilt
from runlane.projections import runs as run_fold
from runlane.projections import version
from runlane.projections.runs import Run
from runlane.projections.version import PROJECTION_VERSION
from runlane.storage import rebuild, streams
from runlane.values import SYSTEM
from tests.engine.tasks import echo
from tests.support import at_once, database_of, execute, named


def told(app: Runlane) -> list[Recorded]:
    with database_of(app).read() as tx:
        return list(streams.read_stream(tx, environment_stream(app.environment)))


def versions(app: Runlane) -> list[int]:
    table = named(database_of(app), "projection_version")
    return [row[0] for row in execute(database_of(app), f"select version from {table} order by 1")]


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has a release begin whose fold makes other rows of the same events."""

    def begin() -> None:
        born = run_fold.born

        def changed(first: Recorded) -> Run:
            return evolve(born(first), counters=evolve(born(first).counters, releases=7))

        monkeypatch.setattr(run_fold, "born", changed)
        monkeypatch.setattr(version, "PROJECTION_VERSION", PROJECTION_VERSION + 1)

    return begin


def test_tables_are_made_by_the_version_of_today(lane_url: str) -> None:
    app = Runlane(lane_url)
    app.migrate()
    with app:
        assert versions(app) == [PROJECTION_VERSION]
        app.audit.rebuild()
        assert versions(app) == [PROJECTION_VERSION]


def test_a_changed_fold_is_a_migration(lane_url: str, upgrade: Any) -> None:
    app = Runlane(lane_url, tasks=[echo])
    app.migrate()
    with app:
        run = app.run_now(echo, 1, idempotency_key="k").run
        assert run.counters.releases == 0
        upgrade()
        app.migrate()
        assert app.runs.get(run.id).counters.releases == 7
        assert app.audit.verify().differences == ()
        assert versions(app) == [PROJECTION_VERSION, PROJECTION_VERSION + 1]
        (record,) = told(app)
        assert isinstance(record.event, TablesRebuilt)
        assert (record.event.version, record.event.differences) == (PROJECTION_VERSION + 1, 1)
        assert record.actor == SYSTEM
        app.migrate()
        assert len(told(app)) == 1, "once is enough"


def test_a_server_that_is_behind_names_the_remedy(postgres_url: str, upgrade: Any) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
    upgrade()
    app = Runlane(postgres_url)
    with pytest.raises(ConfigurationInvalid, match="version 1 of the folds; run `runlane migrate`"):
        app.start()
    app.migrate()
    app.start()
    app.close()


def test_a_release_that_is_older_than_the_tables_refuses_them(postgres_url: str) -> None:
    app = Runlane(postgres_url)
    execute(database_of(app), "insert into runlane.projection_version values (99, clock_timestamp())")
    with pytest.raises(ConfigurationInvalid, match="by version 99 of the folds, and this Runlane knows 1; upgrade"):
        app.start()
    app.close()


def test_many_migrators_rebuild_once(shared_url: str, upgrade: Any) -> None:
    with Runlane(shared_url, tasks=[echo]) as app:
        app.trigger_many(echo, range(10))
        upgrade()
        others = [Runlane(shared_url) for _ in range(4)]
        at_once([other.migrate for other in others])
        for other in others:
            other.close()
        assert app.audit.verify().differences == ()
        assert len(told(app)) == 1


def test_a_file_is_rebuilt_when_it_is_opened(sqlite_url: str, upgrade: Any) -> None:
    with Runlane(sqlite_url, tasks=[echo]) as app:
        run = app.trigger(echo, 1).run
    upgrade()
    with Runlane(sqlite_url, tasks=[echo]) as app:
        assert app.runs.get(run.id).counters.releases == 7
        assert app.audit.verify().differences == ()


def test_a_migration_that_dies_is_made_again(postgres_url: str, upgrade: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        upgrade()
        with monkeypatch.context() as patch:
            patch.setattr(rebuild._Rebuild, "_tell", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                app.migrate()
        assert versions(app) == [PROJECTION_VERSION]
        app.migrate()
        assert versions(app) == [PROJECTION_VERSION, PROJECTION_VERSION + 1]
        assert app.audit.verify().differences == ()
