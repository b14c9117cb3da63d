"""Random histories of every public command on every lane, each step checked; the same ones each time.

`make stateful` plays others, and more of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stateful.episodes import play
from tests.stateful.lanes import Stage
from tests.stateful.post import Post

# Making a failing history small takes a while.
pytestmark = pytest.mark.timeout(600)


def played(plain: range, delivering: range) -> pytest.MarkDecorator:
    """Seeds to play by itself, and seeds to play with a transport that carries one wakeup per run."""
    cases = [pytest.param(seed, None, id=str(seed)) for seed in plain]
    cases += [pytest.param(seed, Post(), id=f"{seed}-delivering") for seed in delivering]
    return pytest.mark.parametrize(("seed", "post"), cases)


@pytest.fixture
def in_memory(post: Post | None) -> Iterator[Stage]:
    yield from _open(Stage.memory(post))


@pytest.fixture
def on_sqlite(tmp_path: Path, post: Post | None, seed: int) -> Iterator[Stage]:
    # Only the machine's death could tell the difference; one in ten goes by the default all the same.
    yield from _open(Stage.sqlite(tmp_path, post, durable=seed % 10 == 0))


@pytest.fixture
def on_postgres(postgres_url: str, post: Post | None, seed: int) -> Iterator[Stage]:
    # What the driver does at a rollback changes only how long things take; one in ten goes by its default all the same.
    yield from _open(Stage.postgres(postgres_url, post, keeps_plans=seed % 10 != 0))


def _open(stage: Stage) -> Iterator[Stage]:
    logging.disable(logging.CRITICAL)  # processes that die and lose their leases have a lot to say
    yield stage
    stage.close()
    logging.disable(logging.NOTSET)


@played(range(10), range(10, 14))
def test_10_000_steps_in_memory(in_memory: Stage, seed: int) -> None:
    assert play(in_memory, 10_000, seed) >= 10_000


@played(range(20, 29), range(29, 32))
def test_5_000_steps_on_sqlite(on_sqlite: Stage, seed: int) -> None:
    assert play(on_sqlite, 5_000, seed) >= 5_000


@played(range(40, 46), range(46, 48))
def test_2_500_steps_on_postgres(on_postgres: Stage, seed: int) -> None:
    assert play(on_postgres, 2_500, seed) >= 2_500
