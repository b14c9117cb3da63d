"""Work in which much goes wrong."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen

from benchmarks.counting import counted_by_status, wait_until_ended
from benchmarks.databases import Databases
from benchmarks.figures import Sample
from benchmarks.jobs import BULK, fails, flaky, noop, polls, too_slow
from benchmarks.scenarios.contract import Scenario, option, repeated
from benchmarks.workers import polling
from runlane import Runlane, RunStatus, Task, Trigger
from runlane.storage.streams import read_streams

#: What becomes of a run, how many of a hundred, and how it ends.
_FATES: dict[str, tuple[Task[..., Any], int, RunStatus]] = {
    "succeeds": (noop, 60, RunStatus.SUCCEEDED),
    "fails once": (flaky, 15, RunStatus.SUCCEEDED),
    "is released once": (polls, 10, RunStatus.SUCCEEDED),
    "fails": (fails, 5, RunStatus.FAILED),
    "times out": (too_slow, 5, RunStatus.FAILED),
    "is cancelled": (noop, 5, RunStatus.CANCELLED),
}

#: Seconds between looks for retries that have fallen due: by default a second, which would be most of the time here.
_POLL = 0.02


@frozen
class Options:
    """How many, and who works."""

    runs: int = option(10_000, "Runs.")
    workers: int = option(1, "Worker processes.")
    concurrency: int = option(500, "Attempts at once of each.")


def once(places: Databases, options: Options, rng: random.Random) -> Sample:
    """Let everything happen once."""
    fates = rng.choices(list(_FATES), [part for _, part, _ in _FATES.values()], k=options.runs)
    place = places.fresh()
    with place.app() as app:
        doomed = _trigger(app, fates)
        with polling(place, options.workers, options.concurrency, _POLL):
            for run_id in doomed:
                app.runs.cancel(run_id, reason="benchmark")
            wait_until_ended(app, options.runs)
        counted_by_status(app, Counter(_FATES[fate][2] for fate in fates))
        events, seconds = _worked(app)
    return Sample({"runs_per_s": (options.runs - len(doomed)) / seconds, "events_per_s": events / seconds})


def _trigger(app: Runlane, fates: list[str]) -> list[UUID]:
    """The ids of those that are to be cancelled: they lie in the future, so that no worker is quicker."""
    doomed: list[UUID] = []
    for start in range(0, len(fates), BULK):
        some = fates[start : start + BULK]
        made = app.trigger_many(
            Trigger(_FATES[fate][0], number, delay="1h" if fate == "is cancelled" else None)
            for number, fate in enumerate(some, start)
        )
        doomed += [one.run.id for one, fate in zip(made, some, strict=True) if fate == "is cancelled"]
    return doomed


def _worked(app: Runlane) -> tuple[int, float]:
    """How many events workers wrote, and seconds from the first to the last of them."""
    events = 0
    first: datetime | None = None
    last: datetime | None = None
    with app.lane.database.read() as tx, closing(read_streams(tx, "run.", app.environment)) as streams:
        for stream in streams:
            written = [record.occurred_at for record in stream.records if record.actor.type == "worker"]
            events += len(written)
            if written:
                first = min(written[0], first or written[0])
                last = max(written[-1], last or written[-1])
    if first is None or last is None:
        raise SystemExit("no worker has written an event")
    return events, (last - first).total_seconds()


SCENARIO = Scenario(
    "mixed",
    "Much goes wrong.  Of a hundred runs 60 succeed at once, 15 fail once and are retried, 10 are released once, 5"
    " fail, 5 time out, and 5 are cancelled: runs and events that workers get through per second.",
    Options,
    repeated(once),
    lambda options: f"{options.workers} × {options.concurrency}",
    tiny={"runs": 60},
)
