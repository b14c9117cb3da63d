"""Worker processes that start together."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.jobs import runtime

_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE = 600.0  # seconds


def drain_together(url: str, environment: str, workers: int, concurrency: int) -> float:
    """Drain with `workers` processes; seconds from the moment when all were ready to the end of the last."""
    gate: Barrier = _SPAWN.Barrier(workers + 1)
    crew = [_started(_drain, url, environment, concurrency, gate) for _ in range(workers)]
    gate.wait(_PATIENCE)
    began = time.perf_counter()
    for process in crew:
        process.join(_PATIENCE)
    took = time.perf_counter() - began
    if any(process.exitcode != 0 for process in crew):
        raise SystemExit(f"a worker process failed: exit codes {[process.exitcode for process in crew]}")
    return took


@contextmanager
def polling(url: str, environment: str, workers: int, concurrency: int) -> Iterator[None]:
    """`workers` processes that poll until the block ends."""
    gate: Barrier = _SPAWN.Barrier(workers + 1)
    crew = [_started(_poll, url, environment, concurrency, gate) for _ in range(workers)]
    gate.wait(_PATIENCE)
    try:
        yield
    finally:
        for process in crew:
            process.terminate()
        for process in crew:
            process.join(_PATIENCE)


def _started(target: Any, *args: Any) -> SpawnProcess:
    process = _SPAWN.Process(target=target, args=args)
    process.start()
    return process


def _drain(url: str, environment: str, concurrency: int, gate: Barrier) -> None:
    with runtime(url, environment) as app:
        worker = app.worker("drain", concurrency=concurrency)
        gate.wait(_PATIENCE)
        worker.run()


def _poll(url: str, environment: str, concurrency: int, gate: Barrier) -> None:
    logging.getLogger("runlane").setLevel(logging.ERROR)  # it is told to stop; no need to say so
    with runtime(url, environment) as app:
        worker = app.worker(concurrency=concurrency)
        gate.wait(_PATIENCE)
        worker.run()
