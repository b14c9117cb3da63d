"""Many who want the same: one bounded queue, one concurrency key, singletons."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import click
from attrs import frozen

from benchmarks.counting import counted, wait_until_ended
from benchmarks.databases import Databases
from benchmarks.figures import Sample, percentile_curve, percentiles
from benchmarks.jobs import BULK, noop
from benchmarks.scenarios.contract import Scenario, each, option, repeated
from benchmarks.workers import drain_together, polling
from runlane import Queue, RunStatus, Trigger, TriggerOutcome


@frozen
class Options:
    """What is contended for, and by how many."""

    of: str = each(
        ("queue", "key", "singletons"),
        "Slots of a bounded queue; those of one concurrency key; the keys of singletons, by concurrent callers.",
        click.Choice(["queue", "key", "singletons"]),
    )
    runs: int = option(5_000, "Runs, or calls of singletons.")
    limit: int = option(50, "Slots.")
    workers: int = option(2, "Worker processes.")
    concurrency: int = option(500, "Attempts at once of each.")
    callers: int = option(16, "Threads that call (singletons).")
    keys: int = option(10, "Singleton keys.")


def once(places: Databases, options: Options, rng: random.Random) -> Sample:
    """Contend once."""
    return _singletons(places, options, rng) if options.of == "singletons" else _bounded(places, options)


def _bounded(places: Databases, options: Options) -> Sample:
    place, queue = places.fresh(), Queue("bench-bounded", default=True, concurrency_limit=options.limit)
    key = "tenant" if options.of == "key" else None
    with place.app(queues=[queue]) as app:
        for start in range(0, options.runs, BULK):
            numbers = range(start, min(start + BULK, options.runs))
            app.trigger_many(Trigger(noop, number, queue=queue, concurrency_key=key) for number in numbers)
        done = drain_together(place, options.workers, options.concurrency, [queue])
        counted(app, RunStatus.SUCCEEDED, options.runs, events_per_run=4)
    return Sample({"runs_per_s": options.runs / done.took_s, "python_us_per_run": done.cpu_s / options.runs * 1e6})


def _singletons(places: Databases, options: Options, rng: random.Random) -> Sample:
    place = places.fresh()
    wanted = [f"key-{rng.randrange(options.keys)}" for _ in range(options.runs)]
    with place.app() as app, polling(place, options.workers, options.concurrency):

        def call(key: str) -> tuple[float, bool]:
            began = time.perf_counter()
            done = app.trigger(noop, 0, singleton_key=key)
            return time.perf_counter() - began, done.outcome is TriggerOutcome.CREATED

        with ThreadPoolExecutor(options.callers) as pool:
            began = time.perf_counter()
            called = list(pool.map(call, wanted))
            took = time.perf_counter() - began
        made = sum(created for _, created in called)
        wait_until_ended(app, made)
        counted(app, RunStatus.SUCCEEDED, made, events_per_run=4)
    delays = [1000 * seconds for seconds, _ in called]
    return Sample(
        {"calls_per_s": options.runs / took} | percentiles(delays, 50, 99, name="call"),
        (percentile_curve(_title(options), delays),),
        {"percent_that_made_a_run": 100 * made / options.runs},
    )


def _title(options: Options) -> str:
    workers = f"{options.workers} × {options.concurrency}"
    return {
        "queue": f"one queue of {options.limit} slots, {workers}",
        "key": f"one key of {options.limit} slots, {workers}",
        "singletons": f"{options.keys} singleton keys, {options.callers} threads",
    }[options.of]


SCENARIO = Scenario(
    "contention",
    "Limits and singletons.  Runs per second where limits hold them back, and calls per second that meet the owners of"
    " singleton keys.",
    Options,
    repeated(once),
    _title,
    tiny={"of": ("key", "singletons"), "runs": 60, "workers": 1, "callers": 4},
)
