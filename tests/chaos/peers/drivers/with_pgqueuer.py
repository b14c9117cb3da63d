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
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries


@asynccontextmanager
async def factory() -> AsyncIterator[PgQueuer]:
    """The factory of the deployment guide: a connection and its entrypoint, made anew after each failure."""
    connection = await asyncpg.connect(protocol.URL)
    try:
        pgq = PgQueuer(AsyncpgDriver(connection))

        @pgq.entrypoint("work")
        async def work(job: Job) -> None:
            assert job.payload is not None
            await protocol.perform(json.loads(job.payload))

        protocol.ready()
        yield pgq
    finally:
        await connection.close()


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
