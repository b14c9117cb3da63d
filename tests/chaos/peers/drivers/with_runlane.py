"""Runlane: the lease is the window, and a worker says that it lives three times in it, as by default."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import protocol

from runlane import AsyncRunlane, Queue, Retry, Runlane, task
from runlane.session import Session

QUEUES = [Queue("peers", default=True)]


# Without a bound on losses, which neither of the others has; and like theirs, without retries of what has failed.
@task("peers.work", retry=Retry(1, max_lost=1_000_000))
async def work(job: dict[str, Any]) -> None:
    """The handler of everybody."""
    await protocol.perform(job)


class RunlaneDriver:
    """Runlane through its public methods."""

    async def setup(self) -> None:
        """Create the tables."""
        app = Runlane(protocol.URL, queues=QUEUES, tasks=[work])
        app.migrate()
        app.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[protocol.Enqueue]:
        """One runtime."""
        async with AsyncRunlane(protocol.URL, queues=QUEUES, tasks=[work]) as app:

            async def enqueue(job: dict[str, Any]) -> object:
                return (await app.trigger(work, job)).run.id

            yield enqueue

    def work(self) -> None:
        """A worker as ``runlane worker`` would run it."""
        if os.environ.get("PEERS_BLIND"):
            # As the chaos does: the worker does not ask its own clock whether it has slept for too long, so that
            # only the database stands between its late outcome and the run.
            Session.trusted = property(lambda session: not session._is_lost)
        with Runlane(
            protocol.URL,
            queues=QUEUES,
            tasks=[work],
            lease_duration=timedelta(seconds=protocol.WINDOW),
            heartbeat=timedelta(seconds=protocol.WINDOW / 3),
        ) as app:
            worker = app.worker(
                concurrency=protocol.CONCURRENCY,
                poll_interval=protocol.POLL,
                maintenance_interval=protocol.POLL,
            )
            worker.start()
            protocol.ready()
            worker.run()


if __name__ == "__main__":
    protocol.serve(RunlaneDriver())
