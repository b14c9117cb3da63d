"""Processes that work, and processes that produce, started together."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

from attrs import frozen

from benchmarks.jobs import QUEUE
from benchmarks.places import Place
from runlane import Queue, Runlane

SPAWN = multiprocessing.get_context("spawn")
_READY = 60.0  # seconds for a process to begin
_PATIENCE = 600.0  # seconds for it to end


@frozen
class Drained:
    """What worker processes came to: seconds from the moment when all were ready to the end of the last one's work,
    and the CPU seconds of all of them meanwhile."""

    took_s: float
    cpu_s: float


def drain_together(place: Place, workers: int, concurrency: int, queues: Sequence[Queue] = (QUEUE,)) -> Drained:
    """Drain with `workers` processes.

    Raises:
        SystemExit: one of them failed.
    """
    gate: Barrier = SPAWN.Barrier(workers + 1)
    reports: SimpleQueue[tuple[float, float]] = SPAWN.SimpleQueue()
    crew = [_started(_drain, gate, place, concurrency, queues, reports) for _ in range(workers)]
    _pass(gate, crew)
    began = time.perf_counter()  # the same clock in all processes of a machine
    _join(crew)
    told = [reports.get() for _ in crew]
    return Drained(max(ended for ended, _ in told) - began, sum(cpu for _, cpu in told))


@contextmanager
def polling(place: Place, workers: int, concurrency: int, poll_interval: float = 1.0) -> Iterator[None]:
    """`workers` processes that poll, at the latest every `poll_interval` seconds, until the block ends."""
    gate: Barrier = SPAWN.Barrier(workers + 1)
    crew = [_started(_poll, gate, place, concurrency, poll_interval) for _ in range(workers)]
    _pass(gate, crew)
    try:
        yield
    finally:
        for process in crew:
            process.terminate()
        for process in crew:
            process.join(_PATIENCE)


@contextmanager
def beside(target: Any, *args: Any, processes: int = 1) -> Iterator[None]:
    """`processes` that run ``target(ready, place, *args)`` beside the block, which begins when all have called
    ``ready()`` and ends when all have ended."""
    gate: Barrier = SPAWN.Barrier(processes + 1)
    crew = [_started(target, gate, *args) for _ in range(processes)]
    _pass(gate, crew)
    yield
    _join(crew)


def work_off(app: Runlane, concurrency: int, runs: int) -> float:
    """Work in this process until at least `runs` attempts have ended, more being there; attempts per second."""
    worker = app.worker(concurrency=concurrency, poll_interval=0.05)
    seen: list[tuple[int, float]] = []

    def watch() -> None:
        deadline = time.perf_counter() + _PATIENCE
        while worker.completed < runs and not worker.closed and time.perf_counter() < deadline:
            time.sleep(0.002)
        seen.append((worker.completed, time.perf_counter()))
        worker.stop()

    watcher = threading.Thread(target=watch)
    began = time.perf_counter()
    watcher.start()
    worker.run()
    watcher.join()
    completed, at = seen[0]
    if completed < runs:
        raise SystemExit(f"only {completed} of {runs} runs were worked off")
    return completed / (at - began)


def _started(target: Any, gate: Barrier, *args: Any) -> SpawnProcess:
    process = SPAWN.Process(target=_guarded, args=(target, gate, *args), daemon=True)
    process.start()
    return process


def _guarded(target: Any, gate: Barrier, *args: Any) -> None:
    logging.getLogger("runlane").setLevel(logging.ERROR)  # it is told to stop; no need to say so
    try:
        target(partial(gate.wait, _READY), *args)
    except BaseException:
        gate.abort()  # nobody waits for a process that has failed
        raise


def _pass(gate: Barrier, crew: Sequence[SpawnProcess]) -> None:
    try:
        gate.wait(_READY)
    except threading.BrokenBarrierError:
        _join(crew)
        raise SystemExit("a process was not ready in time") from None


def _join(crew: Sequence[SpawnProcess]) -> None:
    for process in crew:
        process.join(_PATIENCE)
    if any(process.exitcode != 0 for process in crew):
        raise SystemExit(f"a process failed: exit codes {[process.exitcode for process in crew]}")


def _drain(
    ready: Any, place: Place, concurrency: int, queues: Sequence[Queue], reports: SimpleQueue[tuple[float, float]]
) -> None:
    with place.app(queues=queues) as app:
        worker = app.worker("drain", concurrency=concurrency)
        ready()
        cpu = time.process_time()
        worker.run()
        reports.put((time.perf_counter(), time.process_time() - cpu))


def _poll(ready: Any, place: Place, concurrency: int, poll_interval: float) -> None:
    with place.app() as app:
        worker = app.worker(concurrency=concurrency, poll_interval=poll_interval)
        ready()
        worker.run()
