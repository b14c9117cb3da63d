"""Many schedules that fall due at once."""

from __future__ import annotations

import random
import time
from datetime import timedelta

from attrs import frozen

from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.figures import Sample
from benchmarks.scenarios.contract import Scenario, option, repeated
from runlane import Runlane, RunStatus, Schedule, SettableClock, task


@frozen
class Options:
    """How many."""

    schedules: int = option(10_000, "Schedules of one task.")


def once(places: Databases, options: Options, _: random.Random) -> Sample:
    """Record them, move the clock by an hour, and make their runs."""

    @task("bench.scheduled", schedules=[Schedule(f"hourly-{n}", every="1h") for n in range(options.schedules)])
    def scheduled() -> None:
        """Never executed here."""

    clock = SettableClock()
    with places.fresh().app(tasks=[scheduled], clock=clock) as app:
        registered, registering = _ticked(app, "schedules_changed")
        clock.advance(timedelta(hours=1))
        fired, firing = _ticked(app, "schedules_fired")
        if (registered, fired) != (options.schedules, options.schedules):
            raise SystemExit(f"{registered} and {fired} of {options.schedules} schedules were recorded and fired")
        # A run's two events, and the schedule's own two.
        counted(app, RunStatus.QUEUED, options.schedules, events_per_run=4)
    return Sample({"occurrences_per_s": fired / firing, "registered_per_s": registered / registering})


def _ticked(app: Runlane, what: str) -> tuple[int, float]:
    """Make passes until nothing is left: how many were done, and seconds."""
    done, more, began = 0, True, time.perf_counter()
    while more:
        report = app.tick()
        done, more = done + getattr(report, what), report.more
        if report.errors:
            raise SystemExit(f"a pass of maintenance failed: {report.errors[0]}")
    return done, time.perf_counter() - began


SCENARIO = Scenario(
    "schedules",
    "Many schedules due at once.  Occurrences that maintenance turns into runs, per second.",
    Options,
    repeated(once),
    lambda options: f"{options.schedules:,} at once",
    tiny={"schedules": 20},
    in_memory=lambda options: True,
)
