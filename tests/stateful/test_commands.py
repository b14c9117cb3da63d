"""Random histories of every public command on every lane, each step checked; the same ones each time.

`make stateful` plays others, and more of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stateful.episodes import play
from tests.stateful.lanes import Stage

# Making a failing history small takes a while.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def memory() -> Iterator[Stage]:
    stage = Stage.memory()
    yield stage
    stage.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage.sqlite(tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def postgres_stage(postgres_url: str) -> Iterator[Stage]:
    stage = Stage.postgres(postgres_url)
    yield stage
    stage.close()


@pytest.mark.parametrize("seed", range(14))
def test_10_000_steps_on_memory(memory: Stage, seed: int) -> None:
    assert play(memory, 10_000, seed) >= 10_000


@pytest.mark.parametrize("seed", range(100, 112))
def test_5_000_steps_on_sqlite(sqlite: Stage, seed: int) -> None:
    assert play(sqlite, 5_000, seed) >= 5_000


@pytest.mark.parametrize("seed", range(200, 208))
def test_2_500_steps_on_postgres(postgres_stage: Stage, seed: int) -> None:
    assert play(postgres_stage, 2_500, seed) >= 2_500
