"""A history with every kind of stream and runs in every status; and how two databases are compared."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select

from runlane import Actor, Fixed, Queue, Retry, Runlane, Schedule, SettableClock, task, testing
from runlane.export import formats, manifest
from runlane.storage import tables
from runlane.storage.database import Database

MAIN, SLOW = Queue("main", default=True), Queue("slow", concurrency_limit=2)
ANN = Actor.operator("ann")


@task("work", retry=Retry(3, Fixed("10s"), jitter=0.0))
def work(payload: Any) -> Any:
    return payload


@task("hourly", schedules=[Schedule("every-hour", every="1h")])
def hourly() -> None:
    """Runs by itself."""


OPTIONS: dict[str, Any] = {"queues": [MAIN, SLOW], "tasks": [work, hourly]}


def live(app: Runlane, clock: SettableClock) -> None:
    """What there is to export: 12 runs or so, a schedule that fired, a paused queue, a freed key, a prune."""
    app.tick()
    testing.succeeded_run(app, work, 1, idempotency_key="kept")
    testing.succeeded_run(app, work, 2, idempotency_key="freed")
    app.idempotency_keys.reset(work, "freed", actor=ANN, reason="again")
    testing.failed_run(app, work, 3, idempotency_key="taken over")
    app.trigger(work, 4, idempotency_key="taken over")
    app.trigger(work, 5, singleton_key="one", queue=SLOW, priority=3, correlation_id="c", meta={"a": 1})
    app.queues.pause(SLOW, actor=ANN, reason="too much")
    testing.succeeded_run(app, work, 6)
    clock.advance(timedelta(seconds=1))
    app.runs.prune(clock(), statuses=["succeeded"], limit=1)
    clock.advance(timedelta(hours=1))
    app.tick()
    app.schedules.pause("every-hour", actor=ANN)
    for make in (
        testing.queued_run,
        testing.scheduled_run,
        testing.running_run,
        testing.released_run,
        testing.retrying_run,
        testing.cancellation_requested_run,
        testing.failed_run,
        testing.cancelled_run,
    ):
        make(app, work, {"text": "Ünïcode \u2028 \U0001f680", "n": [1, 2.5, None]})
        clock.advance(timedelta(seconds=1))


def stored(database: Database, *, environment: str = "default") -> dict[str, list[Any]]:
    """Everything that is stored of events and of what is folded from them, but for the order of positions."""
    found = {}
    with database.read() as tx:
        for table in (
            tables.events,
            tables.runs,
            tables.schedules,
            tables.queues,
            tables.occurrences,
            tables.idempotency_keys,
        ):
            columns = [column for column in table.columns if column.name != "position"]
            rows = tx.execute(select(*columns).where(table.c.environment == environment))
            found[table.name] = sorted((tuple(row) for row in rows), key=repr)
    return found


def files_of(path: Path) -> dict[str, bytes]:
    """All files of a finished export, by what they are; and nothing else stands beside it."""
    names = {path: "data", manifest.path_of(path): "manifest", manifest.lines_of(path): "lines"}
    found = {file: file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name)}
    assert set(found) <= set(names)
    return {names[file]: data for file, data in found.items()}


def copied(path: Path, folder: Path) -> Path:
    """A copy of an export that may be damaged."""
    for file in path.parent.iterdir():
        if file.name.startswith(path.name):
            shutil.copy(file, folder / file.name)
    return folder / path.name


def place_of(line: bytes) -> tuple[UUID, int]:
    """The stream and sequence of a line."""
    event = formats.parse(line)
    return UUID(event.stream_id), event.sequence
