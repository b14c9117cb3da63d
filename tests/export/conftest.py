"""One PostgreSQL database for all of these tests, and histories of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runlane import Runlane, SettableClock
from runlane.export import Manifest
from tests.export.histories import OPTIONS, live
from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    """A runtime with a history on each lane in turn."""
    with Runlane(lane_url, clock=clock, **OPTIONS) as made:
        live(made, clock)
        yield made


@pytest.fixture
def in_memory(clock: SettableClock) -> Iterator[Runlane]:
    """The same where the database does not matter."""
    with Runlane("memory:", clock=clock, **OPTIONS) as made:
        live(made, clock)
        yield made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """An export of such a history, not to be changed."""
    clock, path = SettableClock(), tmp_path_factory.mktemp("exported") / "log.jsonl"
    with Runlane("memory:", clock=clock, **OPTIONS) as made:
        live(made, clock)
        return path, made.audit.export(path)
