"""How soon a triggered run starts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from attrs import frozen

from benchmarks.counting import results, wait_until_ended
from benchmarks.databases import Databases
from benchmarks.figures import Sample, percentile_curve, percentiles
from benchmarks.jobs import backlog, noop, stamp
from benchmarks.places import Place
from benchmarks.producers import produce
from benchmarks.scenarios.contract import Scenario, each, option, repeated
from benchmarks.workers import beside, drain_together, polling
from runlane import Runlane

_CONCURRENCY = 100


@frozen
class Options:
    """Where the worker is, and what else it has to do."""

    worker: str = each(
        ("same", "other"), "The worker is in the caller's process, or in another.", click.Choice(["same", "other"])
    )
    load: str = each(
        ("rest", "half"),
        "Nothing else to do, or a stream of no-op runs at half the rate of a drain, found just before.",
        click.Choice(["rest", "half"]),
    )
    samples: int = option(200, "Runs that are timed.")
    gap_ms: float = option(30.0, "Milliseconds between them.", click.FloatRange(0))
    runs: int = option(5_000, "Runs of the drain that finds the full rate (half load).")


def once(places: Databases, options: Options, rng: random.Random) -> Sample:
    """Time one series of triggers."""
    rate = 0.0 if options.load == "rest" else _full_rate(places.fresh(), options) / 2
    place = places.fresh()
    with place.app() as app, _working(place, app, options):
        seconds = options.samples * options.gap_ms / 1000 + 0.2
        load = round(rate * seconds)
        if load:
            with beside(produce, place, noop.id, rate, load):
                _probe(app, options, rng)
        else:
            _probe(app, options, rng)
        wait_until_ended(app, options.samples + load)
        delays = [nanoseconds / 1e6 for _, nanoseconds in results(app, stamp)]
    if len(delays) != options.samples:
        raise SystemExit(f"expected {options.samples} runs that were timed; found {len(delays)}")
    notes = {"runs_per_s_beside": rate} if load else {}
    return Sample(percentiles(delays, 50, 95, 99), (percentile_curve(_title(options), delays),), notes)


def _full_rate(place: Place, options: Options) -> float:
    with place.app() as app:
        backlog(app, noop, options.runs)
    return options.runs / drain_together(place, 1, _CONCURRENCY).took_s


@contextmanager
def _working(place: Place, app: Runlane, options: Options) -> Iterator[None]:
    if options.worker == "other":
        with polling(place, 1, _CONCURRENCY):
            yield
        return
    worker = app.worker(concurrency=_CONCURRENCY)
    worker.start()
    yield
    worker.stop()


def _probe(app: Runlane, options: Options, rng: random.Random) -> None:
    """Trigger at moments that keep step with nothing."""
    for _ in range(options.samples):
        time.sleep(options.gap_ms / 1000 * rng.uniform(0.5, 1.5))
        app.trigger(stamp, time.monotonic_ns())


def _title(options: Options) -> str:
    where = "same process" if options.worker == "same" else "other process"
    return f"{where}, {'at rest' if options.load == 'rest' else 'half load'}"


SCENARIO = Scenario(
    "latency",
    "From trigger to start.  Milliseconds from the call that triggers to the first line of the handler.",
    Options,
    repeated(once),
    _title,
    tiny={"worker": ("same",), "load": ("rest",), "samples": 5, "gap_ms": 1.0, "runs": 50},
)
