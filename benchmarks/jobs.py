"""The jobs that are measured."""

from __future__ import annotations

import time
from typing import Any

from runlane import Queue, Runlane, Task, task

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


@task("bench.carry")
def carry(payload: dict[str, Any]) -> None:
    """Nothing, with a payload of the usual size."""


TASKS = (noop, noop_async, sleep_1ms, sleep_50ms, stamp, carry)
JOBS = {"noop": noop, "async": noop_async, "1ms": sleep_1ms, "50ms": sleep_50ms}


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


_FILLING = 23


#: How many runs one transaction makes where they are made in bulk.
BULK = 1000


def backlog(app: Runlane, task: Task[..., Any], runs: int) -> None:
    """Let `runs` runs of `task` wait, each with its number as payload."""
    for start in range(0, runs, BULK):
        app.trigger_many(task, range(start, min(start + BULK, runs)))
