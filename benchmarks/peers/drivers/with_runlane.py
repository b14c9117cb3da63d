"""Runlane: 500 runs at once, a plain handler (an async one for call to start), asyncio tasks for many callers."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import protocol

from runlane import AsyncRunlane, Queue, Runlane, Task, task

CONCURRENCY = 500
QUEUES = [Queue("bench", default=True)]

META: dict[str, Any] = {
    "versions": protocol.versions("runlane", "sqlalchemy", "psycopg"),
    "settings": f"plain handler (async for call to start), concurrency={CONCURRENCY}; asyncio tasks for many callers",
    "batches": [1000],
    "connections": [1],  # no setting: its callers share commits
    "stored": "select count(*) from runlane.runs",
    "finished": "select count(*) from runlane.runs where status = 'succeeded'",
    "any_finished": "select exists (select from runlane.runs where status = 'succeeded')",
    "any_open": "select exists (select from runlane.runs where finished_at is null)",
}


@task("bench.noop")
def noop(data: dict[str, Any] | None) -> None:
    """Nothing."""
    protocol.began(data)


@task("bench.noop")
async def noop_on_the_loop(data: dict[str, Any] | None) -> None:
    """Nothing."""
    protocol.began(data)


class _Calls:
    def __init__(self, app: Runlane) -> None:
        self._app = app

    def enqueue(self, data: dict[str, Any] | None) -> None:
        self._app.trigger(noop, data)

    def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> None:
        self._app.trigger_many(noop, jobs)


class RunlaneDriver:
    """Runlane with its whole history."""

    def setup(self) -> None:
        """Create the tables."""
        app = _app()
        app.migrate()
        app.close()

    @contextmanager
    def producing(self, connections: int) -> Iterator[_Calls]:
        """One runtime, shared by its threads."""
        with _app() as app:
            yield _Calls(app)

    def work(self, start: Callable[[], None], purpose: str) -> None:
        """A worker as ``runlane worker`` would run it."""
        logging.getLogger("runlane").setLevel(logging.ERROR)
        with _app(noop_on_the_loop if purpose == "latency" else noop) as app:
            worker = app.worker(concurrency=CONCURRENCY)
            start()
            worker.run()


class _AsyncCalls:
    def __init__(self, app: AsyncRunlane) -> None:
        self._app = app

    async def enqueue(self, data: dict[str, Any] | None) -> None:
        await self._app.trigger(noop, data)


class ManyCallers:
    """Runlane for the asyncio tasks of one process."""

    @asynccontextmanager
    async def producing(self, connections: int) -> AsyncIterator[_AsyncCalls]:
        """One runtime, shared by its callers."""
        async with AsyncRunlane(protocol.database(), queues=QUEUES, tasks=[noop]) as app:
            yield _AsyncCalls(app)


def _app(handler: Task[..., Any] = noop) -> Runlane:
    return Runlane(protocol.database(), queues=QUEUES, tasks=[handler])


if __name__ == "__main__":
    if sys.argv[1:2] == ["concurrent"]:
        protocol.serve_async(META, ManyCallers())
    else:
        protocol.serve(META, RunlaneDriver())
