"""DBOS: no limit per worker, a pool of 40 connections, and a queue polled every 10 ms instead of every second."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import protocol
import sqlalchemy
from dbos import DBOS, DBOSClient

POOL = 40
POLLING = 0.01  # seconds
WORKFLOW = {"workflow_name": "noop", "queue_name": "bench", "app_version": "bench"}

META: dict[str, Any] = {
    "versions": protocol.versions("dbos", "sqlalchemy", "psycopg"),
    "settings": f"async workflow, worker_concurrency=None, pool of {POOL}, polling every {POLLING * 1000:.0f} ms "
    f"(default 1 s); threads for many callers; bulk = calls in one transaction",
    "batches": [1000],
    "stored": "select count(*) from dbos.workflow_status",
    "finished": "select count(*) from dbos.workflow_status where status = 'SUCCESS'",
    "any_finished": "select exists (select from dbos.workflow_status where status = 'SUCCESS')",
    "any_open": "select exists (select from dbos.workflow_status where status <> 'SUCCESS')",
}


class _Calls:
    def __init__(self, client: DBOSClient, engine: sqlalchemy.Engine) -> None:
        self._client = client
        self._engine = engine

    def enqueue(self, data: dict[str, Any] | None) -> None:
        self._client.enqueue(WORKFLOW, *_arguments(data))

    def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> None:
        """There is no bulk call: the best that it offers is many calls in one transaction."""
        with self._engine.begin() as connection:
            for data in jobs:
                self._client.enqueue_in_transaction(connection, WORKFLOW, *_arguments(data))


class DbosDriver:
    """DBOS at its best."""

    def setup(self) -> None:
        """Create the tables, as the first process that is launched does."""
        _launch()
        DBOS.destroy()

    @contextmanager
    def producing(self, connections: int) -> Iterator[_Calls]:
        """A client that belongs to no worker."""
        client = DBOSClient(
            system_database_url=_url(),
            application_name="bench",
            system_database_pool_size=connections,
        )
        engine = sqlalchemy.create_engine(_url())
        with engine.connect():
            pass
        yield _Calls(client, engine)
        engine.dispose()
        client.destroy()

    def work(self, start: Callable[[], None], purpose: str) -> None:
        """A worker with an executor id of its own; two must not share one."""

        @DBOS.workflow(name="noop")
        async def noop(data: dict[str, Any] | None = None) -> None:
            protocol.began(data)

        _launch(sys_db_pool_size=POOL, executor_id=f"worker-{os.getpid()}")
        start()
        DBOS.register_queue("bench", worker_concurrency=None, polling_interval_sec=POLLING, on_conflict="always_update")
        threading.Event().wait()


def _launch(**settings: Any) -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": _url(),
            "application_version": "bench",
            "log_level": "ERROR",
            "enable_otlp": False,
            **settings,
        }
    )
    DBOS.listen_queues(["bench"])
    DBOS.launch()


def _arguments(data: dict[str, Any] | None) -> tuple[dict[str, Any], ...]:
    return () if data is None else (data,)


def _url() -> str:
    return protocol.database().replace("postgresql://", "postgresql+psycopg://")


if __name__ == "__main__":
    protocol.serve(META, DbosDriver())
