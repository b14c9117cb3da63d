"""What is measured.  Each scenario does the work once and returns figures, counted in the database afterwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy
from attrs import frozen

from benchmarks.databases import Databases
from benchmarks.jobs import JOBS, noop, runtime, stamp
from benchmarks.workers import drain_together, polling
from runlane import Runlane, RunStatus

_BULK = 1000
_CALLERS = 8

Figures = dict[str, float]


@frozen
class Options:
    """How large a measurement is."""

    runs: int = 20_000
    workers: int = 1
    concurrency: int = 500
    job: str = "noop"


def drain(places: Databases, options: Options) -> Figures:
    """Finished runs per second of one or more worker processes on a backlog."""
    url, environment = places.fresh()
    with runtime(url, environment) as app:
        task = JOBS[options.job]
        for start in range(0, options.runs, _BULK):
            app.trigger_many(task, range(start, min(start + _BULK, options.runs)))
        took = drain_together(url, environment, options.workers, options.concurrency)
        counted(app, RunStatus.SUCCEEDED, options.runs, events_per_run=4)
    return {"runs_per_s": options.runs / took}


def trigger(places: Databases, options: Options) -> Figures:
    """Triggers per second: one caller, several threads, in bulk, and inside a caller's own transactions."""
    alone = max(100, options.runs // 20)
    return {
        "one_caller_per_s": _triggered(places, alone, _one_by_one),
        f"{_CALLERS}_threads_per_s": _triggered(places, alone, _threads),
        f"bulk_of_{_BULK}_per_s": _triggered(places, options.runs, _bulk),
        "in_callers_transaction_per_s": _triggered(places, alone, _joined),
    }


def latency(places: Databases, options: Options) -> Figures:
    """Milliseconds from a trigger to its handler, one run at a time: worker in this process, and in another."""
    runs = max(50, options.runs // 200)
    url, environment = places.fresh()
    figures: Figures = {}
    with runtime(url, environment) as app:
        worker = app.worker(concurrency=10)
        worker.start()
        figures |= _percentiles("same_process", _delays(app, runs))
        worker.stop()
    if places.kind != "memory":
        url, environment = places.fresh()
        with runtime(url, environment) as app, polling(url, environment, 1, 10):
            figures |= _percentiles("other_process", _delays(app, max(5, options.runs // 1000)))
    return figures


def replay(places: Databases, options: Options) -> Figures:
    """Events per second of ``audit.verify`` on a finished history."""
    url, environment = places.fresh()
    with runtime(url, environment) as app:
        _bulk(url, app, options.runs)
        app.worker("drain", concurrency=options.concurrency).run()
        began = time.perf_counter()
        found = app.audit.verify()
        took = time.perf_counter() - began
    if not found.identical:
        raise SystemExit(f"the replay differs: {found.differences[:3]}")
    return {"events_per_s": found.events / took}


SCENARIOS: dict[str, Callable[[Databases, Options], Figures]] = {
    "drain": drain,
    "trigger": trigger,
    "latency": latency,
    "replay": replay,
}


def counted(app: Runlane, status: RunStatus, runs: int, *, events_per_run: int) -> None:
    """Make sure that what was timed is what is stored."""
    stored, events = app.runs.count(), sum(app.audit.count().values())
    if stored != {status: runs} or events != runs * events_per_run:
        raise SystemExit(f"expected {runs} runs {status} and {runs * events_per_run} events; found {stored}, {events}")


def _triggered(places: Databases, runs: int, work: Callable[[str, Runlane, int], None]) -> float:
    url, environment = places.fresh()
    with runtime(url, environment) as app:
        app.trigger(noop, 0)  # connections and prepared statements
        began = time.perf_counter()
        work(url, app, runs)
        took = time.perf_counter() - began
        counted(app, RunStatus.QUEUED, runs + 1, events_per_run=2)
    return runs / took


def _one_by_one(url: str, app: Runlane, runs: int) -> None:
    for number in range(runs):
        app.trigger(noop, number)


def _threads(url: str, app: Runlane, runs: int) -> None:
    with ThreadPoolExecutor(_CALLERS) as pool:
        list(pool.map(lambda number: app.trigger(noop, number), range(runs)))


def _bulk(url: str, app: Runlane, runs: int) -> None:
    for start in range(0, runs, _BULK):
        app.trigger_many(noop, range(start, min(start + _BULK, runs)))


def _joined(url: str, app: Runlane, runs: int) -> None:
    if app.lane.name == "memory":
        _one_by_one(url, app, runs)  # nobody else can open that database
        return
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        for number in range(runs):
            with engine.begin() as connection:
                app.trigger(noop, number, connection=connection)
    finally:
        engine.dispose()


def _delays(app: Runlane, runs: int) -> list[float]:
    delays = []
    for _ in range(runs):
        run = app.trigger(stamp, time.monotonic_ns()).run
        delays.append(app.runs.wait(run.id, timeout=30).result / 1e6)
    return delays


def _percentiles(name: str, delays: list[float]) -> Figures:
    cuts = statistics.quantiles(delays, n=100, method="inclusive")
    return {f"{name}_p50_ms": cuts[49], f"{name}_p95_ms": cuts[94], f"{name}_p99_ms": cuts[98]}
