"""A migrated database on each lane, without a face on top."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runlane.storage.database import Database
from tests.support import database_at, postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]


@pytest.fixture
def database(lane_url: str) -> Iterator[Database]:
    """Each lane in turn."""
    with database_at(lane_url) as made:
        yield made


@pytest.fixture
def shared(shared_url: str) -> Iterator[Database]:
    """Each lane with more than one connection."""
    with database_at(shared_url) as made:
        yield made
