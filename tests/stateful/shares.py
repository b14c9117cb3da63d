"""Steps shared among processes, each with a seed and a database of its own, and what they came to as a line of JSON."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from attrs import asdict, frozen

from tests.conftest import postgres_server
from tests.stateful.episodes import FAILURES, play
from tests.stateful.lanes import Stage
from tests.stateful.post import Post


@frozen
class Share:
    """What one process is to play.

    Args:
        url: of its database, where that is PostgreSQL.
        steps: at least so many.
    """

    lane: str
    url: str | None
    steps: int
    seed: int


@frozen
class Played:
    """What it came to.

    Args:
        steps: how many were taken; of a history that fails, and those before it, none are counted.
        failure: the traceback, and how to see it again.
    """

    seed: int
    steps: int
    failure: str | None = None


@frozen
class Tally:
    """All processes of one lane together.

    Args:
        seeds: of each process; the first one has that which was asked for.
        seconds: on the clock on the wall, the server's start apart.
        failed: how many processes found something.
    """

    commit: str
    lane: str
    seed: int
    seeds: Sequence[int]
    steps: int
    seconds: float
    failed: int

    def append_to(self, file: Path) -> None:
        """Add a line of JSON."""
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


def seeds_of(seed: int, processes: int) -> list[int]:
    """A seed for each process, the first one's being `seed`: any of them can be played again by itself."""
    return [seed, *(Random(f"{seed}/{number}").getrandbits(32) for number in range(1, processes))]


@contextmanager
def databases(lane: str, count: int) -> Iterator[list[str | None]]:
    """A migrated database for each process, where the lane is on PostgreSQL."""
    if not lane.startswith("postgres"):
        yield [None] * count
        return
    with postgres_server() as server:
        yield [server.migrated() for _ in range(count)]


@contextmanager
def stage_of(lane: str, url: str | None) -> Iterator[Stage]:
    """A lane of this kind, gone in the end."""
    database, _, delivering = lane.partition("-")
    post = Post() if delivering else None
    with ExitStack() as stack:
        if database == "memory":
            stage = Stage.memory(post)
        elif url is None:
            stage = Stage.sqlite(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runlane-"))), post)
        else:
            stage = Stage.postgres(url, post)
        stack.callback(stage.close)
        yield stage


def play_shares(lane: str, steps: int, seed: int, processes: int) -> tuple[Tally, list[str]]:
    """Play `steps` steps, or a few more, in so many processes; what they came to, and what failed."""
    seeds = seeds_of(seed, processes)
    with databases(lane, processes) as urls:
        each = -(-steps // processes)
        shares = [Share(lane, url, each, of) for url, of in zip(urls, seeds, strict=True)]
        began = time.perf_counter()
        if processes == 1:
            played = [play_share(shares[0])]
        else:
            with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
                played = list(pool.map(play_share, shares))
        seconds = round(time.perf_counter() - began, 1)
    failures = [f"seed {one.seed}:\n{one.failure}" for one in played if one.failure is not None]
    taken = sum(one.steps for one in played)
    return Tally(_commit(), lane, seed, seeds, taken, seconds, len(failures)), failures


def play_share(share: Share) -> Played:
    """What each process does."""
    logging.disable(logging.CRITICAL)  # processes that die and lose their leases have a lot to say
    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked at again and again
    with stage_of(share.lane, share.url) as stage:
        try:
            return Played(share.seed, play(stage, share.steps, share.seed))
        except FAILURES:
            return Played(share.seed, 0, traceback.format_exc())


def _commit() -> str:
    """Which Runlane it was; with uncommitted changes it says so."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    said = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"
