"""One PostgreSQL database for all of these tests, emptied in between; short rests where a worker waits."""

from __future__ import annotations

import pytest

from runlane import exchange
from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks again soon after the database refused."""
    monkeypatch.setattr(exchange, "_BACKOFF", 0.01)
