"""Producers and workers together, at a given rate."""

from __future__ import annotations

import random
from contextlib import ExitStack

import click
from attrs import frozen

from benchmarks.counting import counted, results, wait_until_ended
from benchmarks.databases import Databases
from benchmarks.figures import Sample, percentile_curve, percentiles
from benchmarks.jobs import stamp
from benchmarks.producers import produce
from benchmarks.scenarios.contract import Scenario, each, option, repeated
from benchmarks.workers import beside, polling
from runlane import RunStatus


@frozen
class Options:
    """How much comes in, and who works."""

    rate: int = each((1_000, 3_000), "Runs triggered a second, by all producers together.")
    seconds: float = option(10.0, "For how long.", click.FloatRange(0.01))
    producers: int = option(1, "Processes that trigger, each every 10 ms what is due.")
    workers: int = option(1, "Worker processes.")
    concurrency: int = option(500, "Attempts at once of each.")


def once(places: Databases, options: Options, _: random.Random) -> Sample:
    """Let it run once, until everything that was triggered has ended."""
    share = max(1, round(options.rate * options.seconds / options.producers))
    runs, rate = share * options.producers, options.rate / options.producers
    place = places.fresh()
    with place.app() as app, ExitStack() as stack:
        stack.enter_context(polling(place, options.workers, options.concurrency))
        with beside(produce, place, stamp.id, rate, share, processes=options.producers):
            pass
        wait_until_ended(app, runs)
        stack.close()
        counted(app, RunStatus.SUCCEEDED, runs, events_per_run=4)
        stamped = results(app, stamp)
    delays = [delay / 1e6 for _, delay in stamped]
    took = (max(sent + delay for sent, delay in stamped) - min(sent for sent, _ in stamped)) / 1e9
    figures = {"runs_per_s": runs / took, "kept_percent": 100 * runs / took / options.rate}
    figures |= percentiles(delays, 50, 95, 99)
    return Sample(figures, (percentile_curve(_title(options), delays),))


def _title(options: Options) -> str:
    return f"{options.rate:,}/s, {options.workers} × {options.concurrency}"


SCENARIO = Scenario(
    "steady",
    "Producers and workers at once.  The rate that is kept, and milliseconds from the moment when a run was to be"
    " triggered to its start.",
    Options,
    repeated(once),
    _title,
    tiny={"rate": (500,), "seconds": 0.1},
)
