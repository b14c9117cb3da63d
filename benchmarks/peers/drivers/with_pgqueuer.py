"""PgQueuer: asyncpg to enqueue, with a pool for many callers; a worker with batches of 500; uvloop."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import protocol
import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver, PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

BATCH = 500

META: dict[str, Any] = {
    "versions": protocol.versions("pgqueuer", "asyncpg", "psycopg", "uvloop"),
    "settings": f"asyncpg to enqueue, worker on psycopg (asyncpg for call to start), batch_size={BATCH}, uvloop",
    # A successful job leaves the queue and has a row in the log for each state it was in.
    "stored": "select count(*) from pgqueuer",
    "finished": "select count(*) from pgqueuer_log where status = 'successful'",
    "any_finished": "select exists (select from pgqueuer_log where status = 'successful')",
    "any_open": "select exists (select from pgqueuer)",
}


class _Calls:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def enqueue(self, data: dict[str, Any] | None) -> None:
        await self._queries.enqueue("noop", _encoded(data), 0)

    async def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> None:
        count = len(jobs)
        await self._queries.enqueue(["noop"] * count, [_encoded(data) for data in jobs], [0] * count)


class PgQueuerDriver:
    """PgQueuer at its best."""

    async def setup(self) -> None:
        """Create the tables, all of them durable."""
        connection = await asyncpg.connect(protocol.database())
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    @asynccontextmanager
    async def producing(self, connections: int) -> AsyncIterator[_Calls]:
        """One connection for one caller, a pool for many."""
        if connections == 1:
            connection = await asyncpg.connect(protocol.database())
            yield _Calls(Queries(AsyncpgDriver(connection)))
            await connection.close()
            return
        async with asyncpg.create_pool(protocol.database(), min_size=connections, max_size=connections) as pool:
            yield _Calls(Queries(AsyncpgPoolDriver(pool)))

    async def work(self, start: Callable[[], Awaitable[None]], purpose: str) -> None:
        """A worker that claims and completes in batches."""
        logging.disable(logging.CRITICAL)
        worker = PgQueuer(await _driver(purpose))

        @worker.entrypoint("noop")
        async def noop(job: Job) -> None:
            protocol.began(json.loads(job.payload) if job.payload else None)

        await start()
        await worker.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=30))


async def _driver(purpose: str) -> AsyncpgDriver | PsycopgDriver:
    """psycopg drains faster; asyncpg hears of a new job sooner."""
    if purpose == "latency":
        return AsyncpgDriver(await asyncpg.connect(protocol.database()))
    return PsycopgDriver(await psycopg.AsyncConnection.connect(protocol.database(), autocommit=True))


def _encoded(data: dict[str, Any] | None) -> bytes | None:
    return None if data is None else json.dumps(data, separators=(",", ":")).encode()


if __name__ == "__main__":
    protocol.serve_async(META, PgQueuerDriver())
