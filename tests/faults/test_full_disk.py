"""A file that may not grow, as on a full disk, without any right to mount one; real ones are in tests/chaos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.faults.full_disk import check_full_disk


class Quota:
    """How many pages every connection of this process may let a file have; SQLite refuses the rest as a full disk."""

    def __init__(self) -> None:
        self._pages: int | None = None

    def fill(self) -> None:
        """Not one page more than there are."""
        self._pages = 1

    def free(self) -> None:
        """As many as they like."""
        self._pages = None

    def on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        """SQLite takes a number below what is there for what is there."""
        connection.execute(f"pragma max_page_count = {self._pages or 1_000_000_000}")


@pytest.fixture
def quota() -> Iterator[Quota]:
    limited = Quota()
    event.listen(Engine, "checkout", limited.on_checkout)
    yield limited
    event.remove(Engine, "checkout", limited.on_checkout)


def test_a_file_that_may_not_grow_refuses_and_loses_nothing(sqlite_url: str, quota: Quota) -> None:
    check_full_disk(sqlite_url, quota.fill, quota.free)
