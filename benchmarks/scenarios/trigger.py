"""Callers that trigger, in every way there is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from threading import Barrier, Thread

import click
import sqlalchemy
from attrs import frozen

from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.figures import Sample, percentile_curve, percentiles
from benchmarks.jobs import BULK, noop
from benchmarks.places import Place
from benchmarks.processor import Shares, server_of
from benchmarks.scenarios.contract import Scenario, each, option, repeated
from runlane import Runlane, RunStatus


@frozen
class Options:
    """Who triggers how."""

    how: str = each(
        ("alone", "threads", "tasks", "bulk", "joined"),
        "One caller; concurrent callers in threads, or in tasks of AsyncRunlane; 1,000 at a time; each in a transaction"
        " of the caller's.",
        click.Choice(["alone", "threads", "tasks", "bulk", "joined"]),
    )
    callers: int = option(64, "Threads or tasks.")
    runs: int = option(20_000, "In bulk; threads and tasks make half of them, the other callers a tenth.")


@frozen
class Called:
    """Seconds that everything took, and those of each call."""

    took: float
    calls: list[float]


def once(places: Databases, options: Options, _: random.Random) -> Sample:
    """Trigger once, in one way."""
    place, way = places.fresh(), _WAYS[options.how]
    with place.app() as app:
        app.trigger(noop, 0)  # connections and prepared statements
        shares, cpu = Shares(server_of(app)), time.process_time()
        called = way.call(place, app, max(way.least(options), options.runs // way.part), options)
        cpu = time.process_time() - cpu
        runs = len(called.calls) * (BULK if options.how == "bulk" else 1)
        costs = {"python_us_per_run": cpu / runs * 1e6} | shares.per_run(runs)
        counted(app, RunStatus.QUEUED, runs + 1 + way.warm(options), events_per_run=2)
    delays = [1000 * seconds for seconds in called.calls]
    figures = {"runs_per_s": runs / called.took} | percentiles(delays, 50, 99, name="call") | costs
    return Sample(figures, (percentile_curve(_title(options), delays),))


def _alone(place: Place, app: Runlane, runs: int, options: Options) -> Called:
    return _in_turn(lambda number: app.trigger(noop, number), runs)


def _bulk(place: Place, app: Runlane, runs: int, options: Options) -> Called:
    return _in_turn(lambda number: app.trigger_many(noop, range(number * BULK, (number + 1) * BULK)), runs // BULK)


def _joined(place: Place, app: Runlane, runs: int, options: Options) -> Called:
    engine = sqlalchemy.create_engine(place.url.replace("postgresql://", "postgresql+psycopg://"))

    def call(number: int) -> None:
        with engine.begin() as connection:
            app.trigger(noop, number, connection=connection)

    try:
        with engine.begin():
            pass
        return _in_turn(call, runs)
    finally:
        engine.dispose()


def _threads(place: Place, app: Runlane, runs: int, options: Options) -> Called:
    share, gate = -(-runs // options.callers), Barrier(options.callers + 1)
    calls: list[float] = []

    def caller() -> None:
        app.trigger(noop, 0)
        gate.wait()
        calls.extend(_in_turn(lambda number: app.trigger(noop, number), share).calls)

    threads = [Thread(target=caller) for _ in range(options.callers)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return Called(time.perf_counter() - began, calls)


def _tasks(place: Place, app: Runlane, runs: int, options: Options) -> Called:
    return asyncio.run(_in_tasks(place, -(-runs // options.callers), options.callers))


async def _in_tasks(place: Place, share: int, callers: int) -> Called:
    calls: list[float] = []
    async with place.async_app() as app:

        async def caller(share: int) -> None:
            for number in range(share):
                began = time.perf_counter()
                await app.trigger(noop, number)
                calls.append(time.perf_counter() - began)

        await asyncio.gather(*[caller(1) for _ in range(callers)])
        calls.clear()
        began = time.perf_counter()
        await asyncio.gather(*[caller(share) for _ in range(callers)])
        return Called(time.perf_counter() - began, calls)


def _in_turn(call: Callable[[int], object], times: int) -> Called:
    calls = []
    began = before = time.perf_counter()
    for number in range(times):
        call(number)
        now = time.perf_counter()
        calls.append(now - before)
        before = now
    return Called(time.perf_counter() - began, calls)


@frozen
class Way:
    """A way to trigger: which part of the runs is made so, and how many are made before the clock runs."""

    call: Callable[[Place, Runlane, int, Options], Called]
    part: int
    least: Callable[[Options], int]
    warm: Callable[[Options], int] = lambda options: 0


_WAYS = {
    "alone": Way(_alone, 10, lambda options: 2),
    "threads": Way(_threads, 2, lambda options: options.callers, lambda options: options.callers),
    "tasks": Way(_tasks, 2, lambda options: options.callers, lambda options: options.callers),
    "bulk": Way(_bulk, 1, lambda options: 2 * BULK),
    "joined": Way(_joined, 10, lambda options: 2),
}


def _title(options: Options) -> str:
    return {
        "alone": "one caller",
        "threads": f"{options.callers} threads",
        "tasks": f"{options.callers} tasks",
        "bulk": f"{BULK:,} at a time",
        "joined": "in a caller's transaction",
    }[options.how]


SCENARIO = Scenario(
    "trigger",
    "Callers that trigger in every way.  Runs triggered per second, milliseconds that a call takes, and CPU time per"
    " run, the callers' and that of the server.",
    Options,
    repeated(once),
    _title,
    tiny={"callers": 4, "runs": 40},
    in_memory=lambda options: options.how in ("alone", "threads", "bulk"),
)
