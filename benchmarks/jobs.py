"""The jobs that are measured."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from runlane import Context, Fixed, Queue, Release, Retry, Runlane, Task, task

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


@task("bench.flaky", retry=Retry(3, backoff=Fixed("10ms")))
def flaky(number: int, context: Context) -> None:
    """Fails at its first attempt."""
    if context.attempt == 1:
        raise RuntimeError("the first attempt fails")


@task("bench.polls")
def polls(number: int, context: Context) -> Release | None:
    """Finds at its first attempt that it is too early."""
    return context.release(delay="10ms") if context.attempt == 1 else None


@task("bench.fails")
def fails(number: int) -> None:
    """Fails for good."""
    raise RuntimeError("this fails")


@task("bench.too_slow", timeout="50ms")
async def too_slow(number: int) -> None:
    """Is stopped when its time is over."""
    await asyncio.sleep(60)


@task("bench.carry")
def carry(payload: dict[str, Any]) -> None:
    """Nothing, with a payload of the usual size."""


TASKS = (noop, noop_async, sleep_1ms, sleep_50ms, stamp, carry, flaky, polls, fails, too_slow)
JOBS: dict[str, Task[..., Any]] = {"noop": noop, "async": noop_async, "1ms": sleep_1ms, "50ms": sleep_50ms}


def usual_payload(number: int) -> dict[str, Any]:
    """A payload of 178 bytes as JSON, as an application would send it."""
    payload: dict[str, Any] = {
        "user": f"user_{number:08d}",
        "email": f"user_{number:08d}@example.com",
        "template": "welcome",
        "language": "en",
        "tags": ["signup", "first-week"],
        "attempt": 1,
    }
    return {**payload, "text": "x" * _FILLING}


_FILLING = 28


#: How many runs one transaction makes where they are made in bulk.
BULK = 1000


def backlog(app: Runlane, task: Task[..., Any], runs: int) -> None:
    """Let `runs` runs of `task` wait, each with its number as payload."""
    for start in range(0, runs, BULK):
        app.trigger_many(task, range(start, min(start + BULK, runs)))
