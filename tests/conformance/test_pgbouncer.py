"""A lane through PgBouncer in transaction mode passes the suites that every lane, storage and transport has to pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runlane import Lane, postgres_lane
from runlane.storage.database import Database
from runlane.testing.conformance import LaneConformance, StorageConformance, TransportConformance
from runlane.transport import Transport
from tests.bouncer import Bouncer, bouncer, needs_pgbouncer
from tests.conftest import PostgresServer

pytestmark = needs_pgbouncer


@pytest.fixture(scope="module")
def pooled(postgres: PostgresServer) -> Iterator[Bouncer]:
    """Three sessions for all."""
    with bouncer(postgres.admin_url) as running:
        yield running


@pytest.fixture
def pooled_url(pooled: Bouncer, postgres_url: str) -> str:
    """The test's database through it."""
    return pooled.url(postgres_url)


class TestStorage(StorageConformance):
    @pytest.fixture
    def storage(self, pooled_url: str) -> Database:
        return Database(pooled_url)


class TestLane(LaneConformance):
    @pytest.fixture
    def lane(self, pooled_url: str, postgres_url: str) -> Lane:
        return postgres_lane(pooled_url, listen_url=postgres_url)

    @pytest.fixture
    def another_lane(self, pooled_url: str, postgres_url: str) -> Lane:
        return postgres_lane(pooled_url, listen_url=postgres_url)


class TestDeafLane(LaneConformance):
    """The same where nothing is heard from other processes."""

    @pytest.fixture
    def lane(self, pooled_url: str) -> Lane:
        return postgres_lane(pooled_url)


class TestTransport(TransportConformance):
    @pytest.fixture
    def transport(self, pooled_url: str, postgres_url: str) -> Transport:
        return postgres_lane(pooled_url, listen_url=postgres_url).transport


class TestDeafTransport(TransportConformance):
    @pytest.fixture
    def transport(self, pooled_url: str) -> Transport:
        return postgres_lane(pooled_url).transport
