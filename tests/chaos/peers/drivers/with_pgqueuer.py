"""PgQueuer: ``heartbeat_timeout`` is the window; it beats twice in it by itself.  Run as ``pgq run`` would run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pgqueuer
import protocol
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


@asynccontextmanager
async def factory() -> AsyncIterator[PgQueuer]:
    """As its guides have it, with a pool: that lives through the loss of a connection, where a single one does not."""
    async with asyncpg.create_pool(protocol.URL, min_size=2, max_size=2 * protocol.CONCURRENCY) as pool:
        pgq = PgQueuer(AsyncpgPoolDriver(pool))

        @pgq.entrypoint("work")
        async def work(job: Job) -> None:
            assert job.payload is not None
            await protocol.perform(json.loads(job.payload))

        protocol.ready()
        yield pgq


class PgQueuerDriver:
    """PgQueuer as its guides have it."""

    async def setup(self) -> None:
        """Create the tables, all of them durable."""
        connection = await asyncpg.connect(protocol.URL)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[protocol.Enqueue]:
        """One connection."""
        connection = await asyncpg.connect(protocol.URL)
        queries = Queries(AsyncpgDriver(connection))

        async def enqueue(job: dict[str, Any]) -> object:
            (job_id,) = await queries.enqueue("work", json.dumps(job).encode(), 0)
            return job_id

        try:
            yield enqueue
        finally:
            await connection.close()

    def work(self) -> None:
        """What ``pgq run --restart-on-failure`` does; the cap must be twice the batch at least."""
        asyncio.run(
            pgqueuer.run(
                factory,
                heartbeat_timeout=timedelta(seconds=protocol.WINDOW),
                dequeue_timeout=timedelta(seconds=protocol.POLL),
                batch_size=protocol.CONCURRENCY // 2,
                max_concurrent_tasks=protocol.CONCURRENCY,
                restart_on_failure=True,
                restart_delay=timedelta(seconds=protocol.POLL),
            )
        )


if __name__ == "__main__":
    protocol.serve(PgQueuerDriver())
