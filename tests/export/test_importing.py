"""Imports: the same history and the same rows elsewhere, whole or to be gone on with, never among other events."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runlane import ConfigurationInvalid, InvariantViolation, Lane, Runlane, SettableClock, Trigger
from runlane.export import Imported, Manifest, formats, import_events, importing, manifest
from runlane.lanes import lane_of
from runlane.storage.database import Database
from tests.export.histories import OPTIONS, copied, files_of, live, stored, work
from tests.support import count, database_of

SECOND = timedelta(seconds=1)


class Cut(BaseException):
    """The process ends here."""


@pytest.fixture
def target(lane_url: str) -> Iterator[Lane]:
    """An empty database on each lane in turn."""
    lane = lane_of(lane_url)
    yield lane
    lane.database.dispose()


def verified(lane: Lane, environment: str = "default", *, whole: bool = True) -> None:
    app = Runlane(lane, environment=environment)
    found = app.audit.verify().differences
    # A key is written with its run, and the event that tells of its reset may not have come yet.
    assert found == () if whole else {one.field for one in found} <= {"idempotency_keys.reset_at"}


def cutting(events: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done >= events:
            raise Cut

    return progress


def test_the_round_trip_from_every_database(app: Runlane, tmp_path: Path) -> None:
    path, again = tmp_path / "log", tmp_path / "again"
    told = app.audit.export(path)
    done = import_events(path, f"sqlite:///{tmp_path / 'incident.db'}")
    runs = sum(app.runs.count().values())
    assert done == Imported("default", told.events, told.streams, runs)
    with Runlane(f"sqlite:///{tmp_path / 'incident.db'}") as incident:
        assert incident.audit.verify().differences == ()
        assert stored(database_of(incident)) == stored(database_of(app))
        assert incident.runs.count() == app.runs.count()
        incident.audit.export(again)
    assert files_of(again)["data"] == files_of(path)["data"]
    assert files_of(again)["lines"] == files_of(path)["lines"]


def test_the_round_trip_into_every_database(exported: tuple[Path, Manifest], target: Lane, tmp_path: Path) -> None:
    progress: list[int] = []
    done = import_events(exported[0], target, progress=progress.append)
    verified(target)
    assert progress[-1] == done.events
    app = Runlane(target)
    told = app.audit.export(tmp_path / "again")
    assert told.events_sha256 == exported[1].events_sha256
    assert dict(told.by_type) == dict(exported[1].by_type)


def test_the_imported_history_goes_on(exported: tuple[Path, Manifest], target: Lane) -> None:
    """What the documentation warns of: a worker takes over what the imported sessions held."""
    import_events(exported[0], target)
    with Runlane(target, **OPTIONS) as app:
        running = app.runs.list(statuses=["running", "cancellation_requested"]).data
        assert len(running) == 2
        app.tick()
        after = {run.id: app.runs.get(run.id).status for run in running}
        assert sorted(after.values()) == ["cancelled", "queued"]
        assert app.audit.verify().differences == ()
        kept = app.trigger(work, 1, idempotency_key="freed")
        assert kept.outcome == "created"
        assert app.audit.verify().differences == ()


@pytest.mark.parametrize("at", [1, 25])
def test_an_interrupted_import_goes_on(
    exported: tuple[Path, Manifest], target: Lane, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(importing, "_BATCH", 6)
    path, told = exported
    with pytest.raises(Cut):
        import_events(path, target, progress=cutting(at))
    there = count(target.database, "events")
    assert at <= there < told.events
    verified(target, whole=False)
    done = import_events(path, target)
    assert (done.events, done.found) == (told.events, there)
    verified(target)
    assert import_events(path, target).found == told.events
    verified(target)


def test_a_lost_transaction_leaves_whole_streams_only(
    exported: tuple[Path, Manifest], target: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_BATCH", 6)
    states = importing.restore.states
    calls = iter(range(100))

    def fail(*arguments: Any) -> None:
        if next(calls) == 3:
            raise Cut
        states(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(importing.restore, "states", fail)
        with pytest.raises(Cut):
            import_events(exported[0], target)
    verified(target, whole=False)
    assert 0 < import_events(exported[0], target).found < exported[1].events
    verified(target)


def test_an_environment_with_events_of_its_own_is_refused(exported: tuple[Path, Manifest], target: Lane) -> None:
    with Runlane(target, **OPTIONS) as app:
        app.trigger(work, 1)
        before = stored(target.database)
        with pytest.raises(
            ConfigurationInvalid, match=r"environment 'default' of .* has events of its own: event 1 of"
        ):
            import_events(exported[0], target)
        assert stored(target.database) == before


@pytest.mark.parametrize("then", ["a new run", "a step of an imported one"])
def test_what_was_imported_and_has_moved_on_is_refused(
    exported: tuple[Path, Manifest], target: Lane, then: str
) -> None:
    import_events(exported[0], target)
    with Runlane(target, **OPTIONS) as app:
        if then == "a new run":
            app.trigger(work, 1)
        else:
            app.runs.cancel(app.runs.list(statuses=["queued"]).data[0].id)
        before = stored(target.database)
        with pytest.raises(ConfigurationInvalid, match="has events of its own"):
            import_events(exported[0], target)
        assert stored(target.database) == before


def test_another_history_of_the_same_run_is_refused(
    exported: tuple[Path, Manifest], target: Lane, tmp_path: Path
) -> None:
    lines = [formats.parse(line) for line in exported[0].read_bytes().splitlines(keepends=True)]
    lengths = Counter(event.stream_id for event in lines)
    twin = next(e for e in lines if e.type == "run.delivery_requested" and lengths[e.stream_id] == e.sequence == 2)
    with Runlane(target, **OPTIONS) as app:
        app.trigger(work, "another payload", run_id=twin.stream_id)
        with pytest.raises(ConfigurationInvalid, match=f"event 1 of {twin.stream_id} is not as in the file"):
            import_events(exported[0], target)


def test_an_import_of_less_is_not_gone_on_with(
    in_memory: Runlane, clock: SettableClock, target: Lane, tmp_path: Path
) -> None:
    clock.advance(SECOND)
    since = clock()
    in_memory.runs.cancel(in_memory.runs.list(statuses=["released"]).data[0].id)
    in_memory.audit.export(tmp_path / "less", since=since)
    in_memory.audit.export(tmp_path / "log")
    import_events(tmp_path / "less", target)
    verified(target)
    before = stored(target.database)
    with pytest.raises(ConfigurationInvalid, match="has events of its own"):
        import_events(tmp_path / "log", target)
    assert stored(target.database) == before


def test_another_environment_does_not_mind(exported: tuple[Path, Manifest], target: Lane) -> None:
    with Runlane(target, environment="other", **OPTIONS) as app:
        app.trigger(work, 1)
        before = stored(target.database, environment="other")
        import_events(exported[0], target, environment="default")
        assert stored(target.database, environment="other") == before
        assert app.audit.verify().differences == ()
    verified(target)


@pytest.mark.parametrize("alter", ["changed", "dropped", "manifest"])
def test_a_damaged_export_writes_nothing(exported: tuple[Path, Manifest], tmp_path: Path, alter: str) -> None:
    path = copied(exported[0], tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    if alter == "changed":
        lines[9] = lines[9].replace(b'"actor":"', b'"actor":"worker:')
    elif alter == "dropped":
        del lines[9]
    else:
        manifest.path_of(path).write_bytes(manifest.path_of(path).read_bytes().replace(b'"events": ', b'"events": 1'))
    path.write_bytes(b"".join(lines))
    with pytest.raises(InvariantViolation, match=r"is damaged, and nothing was imported: "):
        import_events(path, f"sqlite:///{tmp_path / 'incident.db'}")
    assert not (tmp_path / "incident.db").exists()


def test_the_wrong_environment_is_refused(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="is an export of environment 'default', not 'staging'"):
        import_events(exported[0], f"sqlite:///{tmp_path / 'incident.db'}", environment="staging")


# Whose keys are whose.


@pytest.fixture
def crossed(clock: SettableClock, tmp_path: Path) -> tuple[Path, dict[str, list[Any]]]:
    """An export in which runs with keys do not stand in the order in which they were created."""
    ids = iter([9, 8, 3, 7, 1, 5, 4, 6, 2])

    with Runlane("memory:", clock=clock, **OPTIONS) as app:

        def create(key: str, *, ended: bool) -> None:
            clock.advance(SECOND)
            id = UUID(int=next(ids) << 120)
            app.trigger(work, 1, idempotency_key=key, run_id=id, priority=int(ended))
            if ended:
                assert app.execute_next().id == id
                app.idempotency_keys.reset(work, key)

        create("a", ended=True)  # 9, then 8, then 3: the last one has the smallest id
        create("a", ended=True)
        create("a", ended=False)
        create("b", ended=True)  # 7, 1, 5, 4: the last one is freed again
        create("b", ended=True)
        create("b", ended=True)
        create("b", ended=True)
        create("c", ended=False)  # 6 alone
        create("d", ended=True)
        app.audit.export(tmp_path / "crossed")
        assert app.audit.verify().differences == ()
        return tmp_path / "crossed", stored(database_of(app))


@pytest.mark.parametrize("at", [None, 10, 24, 28])
def test_a_key_is_its_last_runs_whatever_the_order_of_ids(
    crossed: tuple[Path, dict[str, list[Any]]], target: Lane, monkeypatch: pytest.MonkeyPatch, at: int | None
) -> None:
    path, wanted = crossed
    monkeypatch.setattr(importing, "_BATCH", 1)
    if at is not None:
        with pytest.raises(Cut):
            import_events(path, target, progress=cutting(at))
        verified(target)
    import_events(path, target)
    verified(target)
    assert stored(target.database) == wanted


@pytest.mark.parametrize(("bound", "most"), [("_BATCH", 100), ("_BATCH_DATA", 250_000)])
def test_memory_does_not_grow_with_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(importing, bound, most)
    with closing(Runlane("memory:", **OPTIONS)) as app:
        app.start()
        app.trigger_many([Trigger(work, "x" * 5000, idempotency_key=f"k{n}") for n in range(1_000)])
        told = app.audit.export(tmp_path / "log")
    lane = Lane(Database(f"sqlite:///{tmp_path / 'incident.db'}", synchronous_commit=False))
    lane.database.migrate()
    tracemalloc.start()
    assert import_events(tmp_path / "log", lane).events == told.events == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    lane.database.dispose()
    assert told.size > 5_000_000
    assert peak < 3_000_000, peak


def test_a_stream_longer_than_a_batch_is_written_in_parts(
    clock: SettableClock, target: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_BATCH", 4)
    with Runlane("memory:", clock=clock, **OPTIONS) as app:
        live(app, clock)
        app.schedules.resume("every-hour")
        for _ in range(9):
            clock.advance(timedelta(hours=1))
            app.tick()
        app.audit.export(tmp_path / "log")
        wanted = stored(database_of(app))
    import_events(tmp_path / "log", target)
    verified(target)
    assert stored(target.database) == wanted
