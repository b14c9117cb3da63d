"""Procrastinate: 10 jobs at once (more brings nothing, as it fetches one job per statement), uvloop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import protocol
from procrastinate import App, PsycopgConnector

CONCURRENCY = 10

META: dict[str, Any] = {
    "versions": protocol.versions("procrastinate", "psycopg", "uvloop"),
    "settings": f"concurrency={CONCURRENCY}, finished jobs kept, uvloop",
    "stored": "select count(*) from procrastinate_jobs",
    "finished": "select count(*) from procrastinate_jobs where status = 'succeeded'",
    "any_finished": "select exists (select from procrastinate_jobs where status = 'succeeded')",
    "any_open": "select exists (select from procrastinate_jobs where status <> 'succeeded')",
}


def _app(connections: int) -> tuple[App, Any]:
    app = App(
        connector=PsycopgConnector(conninfo=protocol.database(), min_size=min(connections, 10), max_size=connections)
    )

    @app.task(name="noop", queue="q")
    async def noop(data: dict[str, Any] | None = None) -> None:
        protocol.began(data)

    return app, noop


class _Calls:
    def __init__(self, noop: Any) -> None:
        self._noop = noop

    async def enqueue(self, data: dict[str, Any] | None) -> None:
        await self._noop.defer_async(**_arguments(data))

    async def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> None:
        await self._noop.batch_defer_async(*map(_arguments, jobs))


class ProcrastinateDriver:
    """Procrastinate at its best."""

    async def setup(self) -> None:
        """Create the tables."""
        app, _ = _app(1)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def producing(self, connections: int) -> AsyncIterator[_Calls]:
        """A pool of the size that is asked for."""
        app, noop = _app(connections)
        async with app.open_async():
            yield _Calls(noop)

    async def work(self, start: Callable[[], Awaitable[None]], purpose: str) -> None:
        """A worker that is woken by NOTIFY."""
        logging.disable(logging.CRITICAL)
        app, _ = _app(10)
        async with app.open_async():
            await start()
            await app.run_worker_async(
                queues=["q"], concurrency=CONCURRENCY, install_signal_handlers=False, delete_jobs="never"
            )


def _arguments(data: dict[str, Any] | None) -> dict[str, Any]:
    return {} if data is None else {"data": data}


if __name__ == "__main__":
    protocol.serve_async(META, ProcrastinateDriver())
