"""A runtime on each lane, shared by the tests of a module; at the end every history has to verify."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runlane import Queue, Runlane, Schedule, task
from tests.engine.tasks import echo, flaky
from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]

MAIN, TIGHT = Queue("main", default=True), Queue("tight", concurrency_limit=1000)


@task("timed", queue=TIGHT, schedules=[Schedule("yearly", every="365d")])
def timed(payload: Any) -> Any:
    return payload


OPTIONS: dict[str, Any] = {"queues": [MAIN, TIGHT], "tasks": [echo, flaky, timed]}


@pytest.fixture(scope="module")
def apps(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Runlane]]:
    """In memory, on a file, on PostgreSQL."""
    url = postgres.migrated()
    urls = ["memory:", f"sqlite:///{tmp_path_factory.mktemp('hostile') / 'runlane.db'}", url]
    made = [Runlane(url, **OPTIONS).start() for url in urls]
    for app in made:
        app.tick()
    yield made
    for app in made:
        assert app.audit.verify().differences == ()
        app.close()
    postgres.drop(url)
