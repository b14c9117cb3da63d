"""Chancy: asyncio executor with 500 jobs at once, eager polling, uvloop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import protocol
from chancy import Chancy, Job, Queue, Worker, job

CONCURRENCY = 500
FLUSH = 0.25  # seconds that finished states wait in memory; at its default of 1 s two workers drain a fifth slower

META: dict[str, Any] = {
    "versions": protocol.versions("chancy", "psycopg", "uvloop"),
    "settings": f"Async executor, concurrency={CONCURRENCY}, eager_polling, polling 1 s beside NOTIFY, "
    f"send_outgoing_interval={FLUSH}, uvloop",
    "stored": "select count(*) from chancy_jobs",
    "finished": "select count(*) from chancy_jobs where state = 'succeeded'",
    "any_finished": "select exists (select from chancy_jobs where state = 'succeeded')",
    "any_open": "select exists (select from chancy_jobs where state <> 'succeeded')",
}


@job(queue="default")
async def noop(*, data: dict[str, Any] | None = None) -> None:
    """Nothing."""
    protocol.began(data)


class _Calls:
    def __init__(self, chancy: Chancy) -> None:
        self._chancy = chancy

    async def enqueue(self, data: dict[str, Any] | None) -> None:
        await self._chancy.push(_job(data))

    async def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> None:
        async for _ in self._chancy.push_many([_job(data) for data in jobs], batch_size=len(jobs)):
            pass


class ChancyDriver:
    """Chancy at its best."""

    async def setup(self) -> None:
        """Create the tables and the queue."""
        async with _chancy(1) as chancy:
            await chancy.migrate()
            await chancy.declare(_queue())

    @asynccontextmanager
    async def producing(self, connections: int) -> AsyncIterator[_Calls]:
        """A pool of the size that is asked for."""
        async with _chancy(connections) as chancy:
            yield _Calls(chancy)

    async def work(self, start: Callable[[], Awaitable[None]], purpose: str) -> None:
        """A worker that is woken by NOTIFY and asks again as soon as jobs end."""
        async with _chancy(10) as chancy:
            await chancy.declare(_queue(), upsert=True)
            await start()
            async with Worker(chancy) as worker:
                worker.send_outgoing_interval = FLUSH
                await worker.wait_for_shutdown()


def _chancy(connections: int) -> Chancy:
    silent = logging.getLogger("chancy.bench")
    silent.setLevel(logging.CRITICAL)
    return Chancy(
        protocol.database(), log=silent, min_connection_pool_size=connections, max_connection_pool_size=connections
    )


def _queue() -> Queue:
    return Queue(
        "default", concurrency=CONCURRENCY, executor=Chancy.Executor.Async, polling_interval=1, eager_polling=True
    )


def _job(data: dict[str, Any] | None) -> Job:
    return noop.job if data is None else noop.job.with_kwargs(data=data)


if __name__ == "__main__":
    protocol.serve_async(META, ChancyDriver())
