"""A file that may not grow, as on a full disk, without any right to mount one; real ones are in tests/chaos."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.chaos.nursery import ROOT
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


def test_a_limit_of_file_sizes_is_no_unknown_outcome(tmp_path: Path) -> None:
    """SQLite tells it from no other input/output error; the system does, when it is asked for room."""
    command = [sys.executable, "-m", "tests.faults.full_disk", str(tmp_path / "limited.db")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
