"""Procrastinate: the periodic task of its guide "Retry stalled jobs", with the window in all three of its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import protocol
from procrastinate import App, JobContext, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=protocol.URL))


@app.task(name="work")
async def work(job: dict[str, Any]) -> None:
    """The handler of everybody."""
    await protocol.perform(job)


# The guide has it every ten minutes; a sixth column is seconds.  Before other jobs, so that a backlog delays it not.
@app.periodic(cron="* * * * * *")
@app.task(queueing_lock="retry_stalled_jobs", pass_context=True, priority=100)
async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
    """As the guide has it."""
    stalled_jobs = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=protocol.WINDOW)
    for job in stalled_jobs:
        await app.job_manager.retry_job(job)


class ProcrastinateDriver:
    """Procrastinate as its guides have it."""

    async def setup(self) -> None:
        """Create the tables."""
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[protocol.Enqueue]:
        """Its pool."""
        async with app.open_async():

            async def enqueue(job: dict[str, Any]) -> object:
                return await work.defer_async(job=job)

            yield enqueue

    def work(self) -> None:
        """A worker with the guide's proportions: three beats until it is believed to be dead."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        async with app.open_async():
            protocol.ready()
            await app.run_worker_async(
                concurrency=protocol.CONCURRENCY,
                fetch_job_polling_interval=protocol.POLL,
                update_heartbeat_interval=protocol.WINDOW / 3,
                stalled_worker_timeout=protocol.WINDOW,
            )


if __name__ == "__main__":
    protocol.serve(ProcrastinateDriver())
