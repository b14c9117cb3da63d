"""The short form of ``make chaos``: many processes at one database at once, for some seconds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.test_crowd import deadlocks, every_promise_holds_after

SECONDS = 4.0


@pytest.mark.timeout(240)
def test_a_crowd_on_one_postgres_keeps_every_promise(postgres: Any) -> None:
    url = postgres.migrated()
    every_promise_holds_after(url, SECONDS, 6)
    assert deadlocks(url) == 0


@pytest.mark.timeout(240)
def test_a_crowd_on_one_file_keeps_every_promise(sqlite_url: str) -> None:
    every_promise_holds_after(sqlite_url, SECONDS, 3)
