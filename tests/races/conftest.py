"""Several processes' worth of runtimes on one database, PostgreSQL and SQLite in turn, for operations that race."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.races.arena import Arena
from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]


@pytest.fixture
def arena(shared_url: str) -> Iterator[Arena]:
    """Where races are run."""
    if not shared_url.startswith("postgresql"):
        with Arena.on(shared_url, None) as made:
            yield made
        return
    with psycopg.connect(shared_url.replace("+psycopg", ""), autocommit=True) as monitor:
        with Arena.on(shared_url, monitor) as made:
            yield made
