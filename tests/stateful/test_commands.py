"""The state machine on every lane; the same examples each time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from runlane.lanes import lane_of, memory_lane
from tests.stateful.machine import Commands

#: Making a failing example small takes minutes: ``RUNLANE_TEST_SHRINK=1 pytest --timeout=0 tests/stateful``.
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("RUNLANE_TEST_SHRINK") else [Phase.generate]


def bounds(examples: int) -> settings:
    return settings(max_examples=examples, stateful_step_count=40, derandomize=True, database=None, phases=PHASES)


class OnMemory(Commands):
    """Both processes share the one database there is."""


class OnSqlite(Commands):
    """Two connection pools on one file."""


class OnPostgres(Commands):
    """Two connection pools on one database."""


class TestCommandsOnMemory(OnMemory.TestCase):
    settings = bounds(20)

    @pytest.fixture(autouse=True)
    def _database(self) -> Iterator[None]:
        lane = memory_lane()
        OnMemory.lanes = (lane, lane)
        yield
        lane.database.dispose()


class TestCommandsOnSqlite(OnSqlite.TestCase):
    settings = bounds(14)

    @pytest.fixture(autouse=True)
    def _database(self, sqlite_url: str) -> None:
        OnSqlite.lanes = (lane_of(sqlite_url), lane_of(sqlite_url))


class TestCommandsOnPostgres(OnPostgres.TestCase):
    settings = bounds(8)

    @pytest.fixture(autouse=True)
    def _database(self, postgres_url: str) -> None:
        OnPostgres.lanes = (lane_of(postgres_url), lane_of(postgres_url))
