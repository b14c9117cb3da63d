"""Exports: what is in them, that nothing half-written has their name, and that an interrupted one ends the same."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from runlane import Actor, AsyncRunlane, ConfigurationInvalid, Runlane, SettableClock, StorageUnavailable, Trigger
from runlane.export import FORMATS, formats, manifest, replay, writing
from runlane.storage.tables import VERSION
from tests.export.histories import OPTIONS, files_of, live, work
from tests.faults.operations import run_async
from tests.support import START, database_of, execute, raw

HOUR = timedelta(hours=1)
#: How many changes of names and files there are once all lines are written, and the plan before.
LAST = 8


class Cut(BaseException):
    """The process ends here."""


def test_every_event_is_one_line_with_its_data_as_it_is_stored(app: Runlane, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    told = app.audit.export(path, actor=Actor.operator("ann"))
    as_text = "cast(data as text)"
    wanted = {
        (str(row[0]), row[1]): (row[2], row[3])
        for row in execute(database_of(app), f"select stream_id, sequence, type, {as_text} from {{events}}")
    }
    lines = path.read_bytes().splitlines(keepends=True)
    found = [json.loads(line) for line in lines]
    places = [(one["stream_id"], one["sequence"]) for one in found]
    assert places == sorted(wanted)
    for line, one in zip(lines, found, strict=True):
        kind, data = wanted[one["stream_id"], one["sequence"]]
        assert one["type"] == kind
        assert line.endswith(b',"data":' + data.encode() + b"}\n")
        assert list(one) == [*formats.FIELDS, "data"]
        assert len(one["occurred_at"]) == len("2026-01-01T00:00:00.000000Z")
    assert (told.events, told.streams) == (len(lines), len({place[0] for place in places}))
    assert dict(told.by_type) == app.audit.count()
    assert told.sha256 == told.events_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told.size == path.stat().st_size
    assert (told.first_at, told.last_at) == (START, max(run.updated_at for run in app.runs.list().data))
    assert (told.environment, told.format, told.since) == ("default", "jsonl", None)
    assert (told.schema_version, told.made_by) == (VERSION, "operator:ann")
    assert manifest.read(path) == told
    assert orjson.loads(manifest.path_of(path).read_bytes()) == told.content()
    assert set(files_of(path)) == {"data", "manifest", "lines"}


def test_only_the_environments_own_events_are_in_it(app: Runlane, clock: SettableClock, tmp_path: Path) -> None:
    with Runlane(app.lane, environment="other", clock=clock, **OPTIONS) as other:
        run = other.trigger(work, 1).run
        told = other.audit.export(tmp_path / "other.jsonl")
        assert (told.environment, told.events) == ("other", 2)
        app.audit.export(tmp_path / "log.jsonl")
        assert str(run.id).encode() not in (tmp_path / "log.jsonl").read_bytes()
        empty = Runlane(app.lane, environment="empty").audit.export(tmp_path / "empty.jsonl")
        assert (empty.events, empty.streams, empty.first_at, empty.size) == (0, 0, None, 0)
        assert replay(tmp_path / "empty.jsonl").clean


def test_since_takes_whole_runs_that_moved_and_everything_else(
    app: Runlane, clock: SettableClock, tmp_path: Path
) -> None:
    clock.advance(HOUR)
    since = clock()
    waiting = next(run for run in app.runs.list(statuses=["queued"]).data if run.queue == "main")
    moved = app.runs.cancel(waiting.id)
    told = app.audit.export(tmp_path / "log.jsonl", since=since)
    places = [formats.parse(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)]
    runs = [event for event in places if event.type.startswith("run.")]
    assert {event.stream_id for event in runs} == {str(moved.id)}
    assert [event.sequence for event in runs] == list(range(1, moved.sequence + 1))
    others = {kind for kind in app.audit.count() if not kind.startswith("run.")}
    assert {event.type for event in places} - {event.type for event in runs} == others
    assert told.since == since
    assert replay(tmp_path / "log.jsonl").clean


def test_what_is_committed_while_it_is_written_is_not_in_it(
    shared_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_STEP", 3)
    with Runlane(shared_url, **OPTIONS) as app:
        app.trigger_many(work, [1, 2, 3])
        before = app.audit.count()

        def busy(_: int) -> None:
            app.trigger(work, "meanwhile")

        told = app.audit.export(tmp_path / "log.jsonl", progress=busy)
        assert dict(told.by_type) == before != app.audit.count()


def test_progress_is_told(in_memory: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_STEP", 10)
    told: list[int] = []
    events = in_memory.audit.export(tmp_path / "log.jsonl", progress=told.append).events
    assert told == [*range(10, events + 1, 10), events]


@pytest.mark.parametrize("make", ["async", "sync"])
def test_both_faces_export(sqlite_url: str, tmp_path: Path, make: str) -> None:
    path = tmp_path / "log.jsonl"
    if make == "sync":
        with Runlane(sqlite_url) as app:
            assert app.audit.export(str(path)).events == 0
        return

    async def main() -> None:
        async with AsyncRunlane(sqlite_url) as app:
            assert (await app.audit.export(path)).events == 0

    run_async(main)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"format": "xml"}, "format must be one of jsonl, csv, cloudevents, parquet; got 'xml'"),
        ({"since": START.replace(tzinfo=None)}, "since must be timezone-aware"),
        ({"path": "none/log.jsonl"}, "none is no folder"),
        ({"path": "."}, "exists already"),
        ({"key": "none.pem"}, "the key none.pem cannot be read"),
        ({"actor": "ann"}, "actor must be an Actor"),
    ],
)
def test_bad_arguments_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Runlane("memory:") as app:
        with pytest.raises(ConfigurationInvalid, match=told):
            app.audit.export(**{"path": "log.jsonl", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_never_written_over(in_memory: Runlane, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    in_memory.audit.export(path)
    before = files_of(path)
    in_memory.trigger(work, 1)
    for resume in (False, True):
        with pytest.raises(ConfigurationInvalid, match="exists already"):
            in_memory.audit.export(path, resume=resume)
    assert files_of(path) == before


def test_two_processes_do_not_write_the_same_export(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def again(_: int) -> None:
        with Runlane("memory:") as other, pytest.raises(ConfigurationInvalid, match="another process is writing"):
            other.audit.export(path)

    with Runlane("memory:") as app:
        assert app.audit.export(path, progress=again).events == 0
    assert set(files_of(path)) == {"data", "manifest", "lines"}


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_what_another_process_finishes_in_between_is_not_written_over(
    in_memory: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Between the look whether it is there and the lock; by then the file that was opened may have another name."""
    path = tmp_path / "log"
    written: dict[str, bytes] = {}

    def late(file: Any, how: int) -> None:
        monkeypatch.undo()
        written.update(uninterrupted(in_memory, path, format=format))
        in_memory.trigger(work, "later")
        fcntl.flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ConfigurationInvalid, match="exists already; exports are not written over each other"):
        in_memory.audit.export(path, format=format)
    assert files_of(path) == written


def test_what_another_process_gives_up_in_between_is_begun_anew(
    in_memory: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(file: Any, how: int) -> None:
        monkeypatch.undo()
        (tmp_path / "log.partial").unlink()
        fcntl.flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    in_memory.audit.export(tmp_path / "log")
    assert replay(tmp_path / "log").clean


def test_a_disk_that_is_full_is_told_and_the_export_resumed(
    in_memory: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageUnavailable, match="No space left on device; the export can be resumed"):
            in_memory.audit.export(path)
    assert not path.exists()
    in_memory.audit.export(path, resume=True)
    assert replay(path).clean


def test_a_database_without_tables_leaves_no_file(postgres: Any, tmp_path: Path) -> None:
    with closing(Runlane(postgres.empty())) as app, pytest.raises(ConfigurationInvalid, match="not migrated"):
        app.audit.export(tmp_path / "log.jsonl")
    assert list(tmp_path.iterdir()) == []


# Interrupted and resumed.


def uninterrupted(app: Runlane, path: Path, **options: Any) -> dict[str, bytes]:
    app.audit.export(path, **options)
    return files_of(path)


@pytest.mark.parametrize("keep", ["all", "a part of a line", "nothing"])
def test_an_interrupted_export_is_resumed_to_the_same_bytes(
    app: Runlane, clock: SettableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    (tmp_path / "a").mkdir()
    wanted = uninterrupted(app, tmp_path / "a" / "log")
    path = tmp_path / "log"
    monkeypatch.setattr(writing, "_STEP", 7)
    with pytest.raises(Cut):
        app.audit.export(path, progress=cutting(21))
    assert not path.exists()
    assert not manifest.path_of(path).exists()
    partial = tmp_path / "log.partial"
    lines = partial.read_bytes()
    assert lines == wanted["data"][: len(lines)]
    assert lines.count(b"\n") == 21
    cut = {"all": len(lines), "a part of a line": len(lines) - 9, "nothing": 0}[keep]
    os.truncate(partial, cut)
    clock.advance(HOUR)
    app.trigger_many([Trigger(work, n) for n in range(5)])  # later than the moment of the export
    app.runs.cancel(app.runs.list(statuses=["queued"]).data[-1].id)
    app.audit.export(path, resume=True)
    assert files_of(path) == wanted


def cutting(events: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done >= events:
            raise Cut

    return progress


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("step", range(LAST + 1))
def test_the_last_steps_can_be_interrupted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, step: int
) -> None:
    """Each change of a name or a file in turn is the last thing that happens."""
    clock = SettableClock()
    with Runlane("memory:", clock=clock, **OPTIONS) as app:
        live(app, clock)
        (tmp_path / "a").mkdir()
        wanted = uninterrupted(app, tmp_path / "a" / "log", format=format)
        path, steps = tmp_path / "log", iter(range(100))

        def counted(real: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                if next(steps) == step:
                    raise Cut
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(formats, "convert", counted(formats.convert))
            patch.setattr(Path, "replace", counted(Path.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            try:
                app.audit.export(path, format)
                assert step == LAST
            except Cut:
                pass
        if path.exists():
            assert path.read_bytes() == wanted["data"]
        if (tmp_path / "log.partial.json").exists():
            clock.advance(HOUR)
        if not path.exists() or (tmp_path / "log.partial.json").exists():
            app.audit.export(path, format, resume=True)
        assert files_of(path) == wanted


def test_without_resume_it_begins_anew(in_memory: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_STEP", 7)
    path = tmp_path / "log"
    with pytest.raises(Cut):
        in_memory.audit.export(path, progress=cutting(14))
    in_memory.trigger(work, "new")
    assert dict(in_memory.audit.export(path).by_type) == in_memory.audit.count()
    assert set(files_of(path)) == {"data", "manifest", "lines"}
    assert replay(path).clean


def test_resume_without_an_interruption_begins_at_the_beginning(in_memory: Runlane, tmp_path: Path) -> None:
    assert dict(in_memory.audit.export(tmp_path / "log", resume=True).by_type) == in_memory.audit.count()


def test_another_export_is_not_resumed(in_memory: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_STEP", 7)
    path = tmp_path / "log"
    with pytest.raises(Cut):
        in_memory.audit.export(path, progress=cutting(14))
    for options, told in (
        ({"format": "csv"}, "has format 'jsonl', not 'csv'"),
        ({"since": START}, "has since None, not '2026"),
    ):
        with pytest.raises(ConfigurationInvalid, match=told):
            in_memory.audit.export(path, resume=True, **options)
    with Runlane(in_memory.lane, environment="other") as other:
        with pytest.raises(ConfigurationInvalid, match="has environment 'default', not 'other'"):
            other.audit.export(path, resume=True)
    in_memory.audit.export(path, resume=True)
    assert replay(path).clean


def test_after_a_prune_an_export_is_not_resumed(
    app: Runlane, clock: SettableClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_STEP", 7)
    with pytest.raises(Cut):
        app.audit.export(tmp_path / "log", progress=cutting(14))
    clock.advance(HOUR)
    assert app.runs.prune(clock(), limit=1).runs == 1
    with pytest.raises(ConfigurationInvalid, match="runs were pruned since this export was interrupted; export anew"):
        app.audit.export(tmp_path / "log", resume=True)
    assert dict(app.audit.export(tmp_path / "log").by_type) == app.audit.count()


def test_what_commits_later_with_an_earlier_position_is_not_in_a_resumed_export(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions are given out before transactions commit: the moment of an export is one of transactions."""
    monkeypatch.setattr(writing, "_STEP", 1)
    with Runlane(postgres_url, **OPTIONS) as app:
        with raw(database_of(app)) as connection:
            late = app.trigger(work, "late", connection=connection).run
            app.trigger_many([Trigger(work, n) for n in range(5)])
            with pytest.raises(Cut):
                app.audit.export(tmp_path / "log", progress=cutting(3))
        assert app.runs.get(late.id).sequence == 2
        told = app.audit.export(tmp_path / "log", resume=True)
        assert (told.events, told.streams) == (10, 5)
        others = [run.id for run in app.runs.list().data if run.id != late.id]
        positions = [app.runs.events(run)[0].position or 0 for run in (late.id, *others)]
        assert positions[0] == min(positions)


@pytest.mark.parametrize("lane", ["sqlite", "postgres"])
def test_memory_does_not_grow_with_the_log(request: pytest.FixtureRequest, tmp_path: Path, lane: str) -> None:
    with Runlane(request.getfixturevalue(f"{lane}_url"), **OPTIONS) as app:
        app.trigger_many(work, ["x" * 4000] * 2_500)
        tracemalloc.start()
        told = app.audit.export(tmp_path / "log.jsonl")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert told.events == 5_000
    assert told.size > 10_000_000
    assert peak < 6_000_000, peak
