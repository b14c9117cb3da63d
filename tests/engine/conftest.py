"""One PostgreSQL database for all of these tests, emptied in between, and a lane for several applications."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runlane.lanes import Lane
from runlane.storage.database import Database
from tests.support import postgres_url, reused_postgres

__all__ = ["lane", "postgres_url", "reused_postgres"]


@pytest.fixture
def lane(lane_url: str) -> Iterator[Lane]:
    """One lane that several applications share, on the memory lane too."""
    made = Lane(Database(lane_url))
    made.database.migrate()
    yield made
    made.database.dispose()
