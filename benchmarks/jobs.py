"""The jobs that are measured, and the runtime that knows them."""

from __future__ import annotations

import time

from runlane import Queue, Runlane, task

QUEUE = Queue("bench", default=True)


@task("bench.noop")
def noop(number: int) -> None:
    """Nothing: what is left is the engine."""


@task("bench.noop_async")
async def noop_async(number: int) -> None:
    """Nothing, on the event loop."""


@task("bench.sleep_1ms")
def sleep_1ms(number: int) -> None:
    """A handler that waits for something else for a moment."""
    time.sleep(0.001)


@task("bench.sleep_50ms")
def sleep_50ms(number: int) -> None:
    """A handler that waits for something else for longer."""
    time.sleep(0.05)


@task("bench.stamp")
def stamp(sent_ns: int) -> int:
    """How long after `sent_ns`, on the machine's monotonic clock, the handler began, in nanoseconds."""
    return time.monotonic_ns() - sent_ns


TASKS = (noop, noop_async, sleep_1ms, sleep_50ms, stamp)
JOBS = {"noop": noop, "async": noop_async, "1ms": sleep_1ms, "50ms": sleep_50ms}


def runtime(url: str, environment: str) -> Runlane:
    """A runtime on `url`, not yet started."""
    return Runlane(url, queues=[QUEUE], tasks=TASKS, environment=environment)
