"""Each lane that comes with Runlane passes the suite that anybody's lane has to pass."""

from __future__ import annotations

import pytest

from runlane import Lane, memory_lane, postgres_lane, sqlite_lane
from runlane.storage.database import Database
from runlane.testing import RecordingTransport
from runlane.testing.conformance import LaneConformance


class TestMemory(LaneConformance):
    @pytest.fixture
    def lane(self) -> Lane:
        return memory_lane()


class TestPublishing(LaneConformance):
    """A lane whose runs are delivered by wakeups; polling workers work beside them."""

    @pytest.fixture
    def lane(self) -> Lane:
        return Lane(Database("memory:"), RecordingTransport(), "publishing")


class TestSqlite(LaneConformance):
    @pytest.fixture
    def lane(self, sqlite_url: str) -> Lane:
        return sqlite_lane(sqlite_url)

    @pytest.fixture
    def another_lane(self, sqlite_url: str) -> Lane:
        return sqlite_lane(sqlite_url)


class TestPostgres(LaneConformance):
    @pytest.fixture
    def lane(self, postgres_url: str) -> Lane:
        return postgres_lane(postgres_url)

    @pytest.fixture
    def another_lane(self, postgres_url: str) -> Lane:
        return postgres_lane(postgres_url)
