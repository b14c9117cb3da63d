"""Each storage that comes with Runlane passes the suite that anybody's storage has to pass."""

from __future__ import annotations

import pytest

from runlane.storage.database import Database
from runlane.testing.conformance import StorageConformance


class TestMemory(StorageConformance):
    @pytest.fixture
    def storage(self) -> Database:
        return Database("memory:")


class TestSqlite(StorageConformance):
    @pytest.fixture
    def storage(self, sqlite_url: str) -> Database:
        return Database(sqlite_url)


class TestPostgres(StorageConformance):
    @pytest.fixture
    def storage(self, postgres_url: str) -> Database:
        return Database(postgres_url)
