"""A runtime on each lane, shared by the tests of a module; at the end every history has to verify.

Whatever a test passes in, its log has to be legible: see `Legible`.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from runlane import Queue, Runlane, Schedule, task
from tests.engine.tasks import echo, flaky
from tests.hostile.oracle import LONGEST
from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]

MAIN, TIGHT = Queue("main", default=True), Queue("tight", concurrency_limit=1000)


@task("timed", queue=TIGHT, schedules=[Schedule("yearly", every="365d")])
def timed(payload: Any) -> Any:
    return payload


OPTIONS: dict[str, Any] = {"queues": [MAIN, TIGHT], "tasks": [echo, flaky, timed]}

#: Bytes that a test may have in memory, and fails beyond: ten times what any of them needs.
MEMORY = 3 * 1024**3


class Legible(logging.Handler):
    """Keeps what no log should be given: lines without end, and what a terminal obeys or nobody can encode."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the message; a traceback beside it may have lines."""
        text = record.getMessage()
        if len(text) > LONGEST or not text.isprintable():
            self.wrong.append(f"{record.name} of {len(text)} characters: {text[:300]!a}")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Look at the log of each test, and at what it takes of the memory.

    A lone surrogate in a log would do worse than look odd: a test process cannot report a test with one to the others,
    and ends.  So it does where the memory is used up, which a text of ten gigabytes achieves in seconds.
    """
    handler, logger = Legible(), logging.getLogger("runlane")
    logger.addHandler(handler)
    usual, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, most))
    try:
        done = yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (usual, most))
        logger.removeHandler(handler)
    assert handler.wrong == []
    return done


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
