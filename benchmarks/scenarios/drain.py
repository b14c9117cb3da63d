"""Worker processes on a backlog."""

from __future__ import annotations

import random

import click
from attrs import frozen

from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.figures import Sample
from benchmarks.jobs import JOBS, backlog
from benchmarks.processor import Shares, server_of
from benchmarks.scenarios.contract import Scenario, each, option, repeated
from benchmarks.workers import drain_together
from runlane import RunStatus

#: Handlers that do nothing but wait for so many seconds: how many runs a second are possible is known.
_WAITS = {"50ms": 0.05}


@frozen
class Options:
    """What is drained, and by whom."""

    job: str = each(tuple(JOBS), "What a run does.", click.Choice(list(JOBS)))
    workers: int = each((1, 2), "Worker processes.")
    concurrency: int | None = option(None, "Attempts at once of each; else 500, and 200 for 50 ms handlers.")
    runs: int = option(20_000, "Runs in the backlog.")

    @property
    def at_once(self) -> int:
        """The concurrency in force."""
        return self.concurrency or (200 if self.job == "50ms" else 500)


def once(places: Databases, options: Options, _: random.Random) -> Sample:
    """Drain once."""
    place = places.fresh()
    with place.app() as app:
        backlog(app, JOBS[options.job], options.runs)
        shares = Shares(server_of(app))
        done = drain_together(place, options.workers, options.at_once)
        of_server = shares.per_run(options.runs)
        counted(app, RunStatus.SUCCEEDED, options.runs, events_per_run=4)
    rate = options.runs / done.took_s
    figures = {"runs_per_s": rate, "python_us_per_run": done.cpu_s / options.runs * 1e6} | of_server
    if options.job in _WAITS:
        ideal = options.workers * options.at_once / _WAITS[options.job]
        figures["of_ideal_percent"] = 100 * rate / ideal
    return Sample(figures)


SCENARIO = Scenario(
    "drain",
    "Workers on a backlog.  Runs per second from the moment when all processes are ready; CPU time per run, theirs and"
    " that of the server.",
    Options,
    repeated(once),
    lambda options: f"{options.job}, {options.workers} × {options.at_once}",
    tiny={"job": ("noop",), "workers": (2,), "runs": 100},
)
