"""Oban for Python: 100 jobs at once, uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import protocol
from oban import Job, Oban, worker
from oban.schema import install

LIMIT = 100

META: dict[str, Any] = {
    "versions": protocol.versions("oban", "psycopg", "uvloop"),
    "settings": f"limit={LIMIT}, uvloop",
    "stored": "select count(*) from oban_jobs",
    "finished": "select count(*) from oban_jobs where state = 'completed'",
    "any_finished": "select exists (select from oban_jobs where state = 'completed')",
    "any_open": "select exists (select from oban_jobs where state <> 'completed')",
}


@worker(queue="default")
class Noop:
    """Nothing."""

    async def process(self, job: Job) -> None:
        """See the class."""
        protocol.began(job.args or None)


class _Calls:
    def __init__(self, oban: Oban) -> None:
        self._oban = oban

    async def enqueue(self, data: dict[str, Any] | None) -> None:
        await self._oban.enqueue(Noop.new(data or {}))

    async def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> None:
        await self._oban.enqueue_many([Noop.new(data or {}) for data in jobs])


class ObanDriver:
    """Oban at its best."""

    async def setup(self) -> None:
        """Create the tables."""
        async with await Oban.create_pool(protocol.database(), min_size=1, max_size=1) as pool:
            await install(pool)

    @asynccontextmanager
    async def producing(self, connections: int) -> AsyncIterator[_Calls]:
        """A pool of the size that is asked for."""
        async with await Oban.create_pool(protocol.database(), min_size=connections, max_size=connections) as pool:
            await pool.wait()
            yield _Calls(Oban(pool=pool))

    async def work(self, start: Callable[[], Awaitable[None]], purpose: str) -> None:
        """A worker that is woken by NOTIFY and claims as many as it has room for."""
        async with await Oban.create_pool(protocol.database(), min_size=2, max_size=10) as pool:
            await pool.wait()
            await start()
            async with Oban(pool=pool, queues={"default": {"limit": LIMIT}}):
                await asyncio.Event().wait()


if __name__ == "__main__":
    protocol.serve_async(META, ObanDriver())
