"""What everything costs while much is waiting, or much has been done before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
from attrs import evolve, frozen

from benchmarks.databases import Databases
from benchmarks.figures import Curve, Figures, Sample
from benchmarks.history import History
from benchmarks.jobs import backlog, noop
from benchmarks.scenarios.contract import Scenario, each, option, timed
from benchmarks.workers import work_off
from runlane import Runlane, RunStatus


@frozen
class Options:
    """What there is much of, and how much."""

    behind: str = each(
        ("waiting", "finished"), "What there is much of: runs that wait, or that have ended.",
        click.Choice(["waiting", "finished"]),
    )  # fmt: skip
    sizes: tuple[int, ...] = option(
        (10_000, 100_000, 1_000_000), "How much, one after the other; empty tables come first.", many=True
    )
    runs: int = option(5_000, "Runs drained at each size.")
    samples: int = option(50, "Single calls timed at each size.")


def measure(places: Databases, options: Options, seed: int, repeat: int) -> list[Sample]:
    """Let one database grow from size to size, and measure at each so many times."""
    finished = options.behind == "finished"
    found: list[list[Sample]] = []
    place = places.fresh()
    with place.app() as app:
        history = History(place, app, finished=finished)
        for size in (0, *sorted(options.sizes)):
            found.append([])
            for _ in range(repeat):
                _fill(app, history, size, options, finished)
                found[-1].append(timed(lambda: Sample(_costs(app, options))))
        _counted(app)
    return [_merged(options, [of_size[turn] for of_size in found]) for turn in range(repeat)]


def _fill(app: Runlane, history: History, size: int, options: Options, finished: bool) -> None:
    """Bring what lies behind to `size`, and let wait what is going to be worked off."""
    stored = app.runs.count()
    waiting, ended = stored.get(RunStatus.QUEUED, 0), stored.get(RunStatus.SUCCEEDED, 0)
    if finished:
        missing = size - ended
        backlog(app, noop, options.runs)
    elif size:
        missing = size + options.runs - waiting
    else:
        missing = 0
        backlog(app, noop, options.runs - waiting)
    if missing > 0:
        history.add(missing)


def _costs(app: Runlane, options: Options) -> Figures:
    """The single calls first: they leave as many runs waiting as they found."""
    few = max(1, options.samples // 10)
    return {
        "trigger_ms": _median_ms(lambda: app.trigger(noop, 0), options.samples),
        "execute_next_ms": _median_ms(lambda: _executed(app), options.samples),
        "tick_ms": _median_ms(app.tick, few),
        "list_newest_ms": _median_ms(lambda: app.runs.list(limit=50), few),
        "list_failed_ms": _median_ms(lambda: app.runs.list(statuses=["failed"], limit=50), few),
        "drain_runs_per_s": work_off(app, 500, options.runs),
    }


def _executed(app: Runlane) -> None:
    if app.execute_next() is None:
        raise SystemExit("nothing was due")


def _median_ms(call: Callable[[], Any], times: int) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def _merged(options: Options, samples: list[Sample]) -> Sample:
    """One sample of all sizes: a figure for each, and a curve over all."""
    sizes = sorted(options.sizes)
    empty, *others = samples
    figures: Figures = {}
    for name, value in empty.figures.items():
        figures[f"empty_{name}"] = value
        for size, sample in zip(sizes, others, strict=True):
            figures[f"{_short(size)}_{name}"] = sample.figures[name]
    if others:
        kept = others[-1].figures["drain_runs_per_s"] / empty.figures["drain_runs_per_s"]
        figures[f"{_short(sizes[-1])}_of_empty_drain_percent"] = 100 * kept
    curves = [_curve(name, options, sizes, others) for name in empty.figures]
    speed = statistics.fmean(sample.machine_loops_per_s for sample in samples)
    return evolve(empty, figures=figures, curves=tuple(curves), machine_loops_per_s=speed)


def _curve(name: str, options: Options, sizes: list[int], samples: list[Sample]) -> Curve:
    unit = "runs/s" if name.endswith("_per_s") else "ms"
    words = name.removesuffix("_ms").removesuffix("_runs_per_s").replace("_", " ")
    points = [(float(size), sample.figures[name]) for size, sample in zip(sizes, samples, strict=True)]
    return Curve("history", f"{words}, {options.behind}", unit, points)


def _short(size: int) -> str:
    for one, letter in ((1_000_000, "M"), (1_000, "k")):
        if size >= one and size % one == 0:
            return f"{size // one}{letter}"
    return str(size)


def _counted(app: Runlane) -> None:
    """Whatever was worked off has ended as it should, what a worker gave back when it was stopped waits again, and
    nothing else is there."""
    stored, events = app.runs.count(), app.audit.count()
    waiting, ended = stored.get(RunStatus.QUEUED, 0), stored.get(RunStatus.SUCCEEDED, 0)
    given_back = events.pop("run.interrupted", 0)
    expected = {
        "run.created": waiting + ended,
        "run.delivery_requested": waiting + ended,
        "run.leased": ended + given_back,
        "run.succeeded": ended,
    }
    if waiting + ended != sum(stored.values()) or events != expected:
        raise SystemExit(f"expected only runs that wait or have succeeded; found {stored} and {events}")


SCENARIO = Scenario(
    "backlog",
    "Cost against history.  What a trigger, a claim, a maintenance pass, a page of runs and a drain cost as waiting"
    " runs and finished history grow.  The history is copied by the database from a real run; a sample is verified.",
    Options,
    measure,
    lambda options: f"much {options.behind}",
    tiny={"sizes": (40, 80), "runs": 20, "samples": 2},
)
