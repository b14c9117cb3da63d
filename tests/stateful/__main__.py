"""Play random histories for longer, or one again: ``python -m tests.stateful --steps 1000000``."""

from __future__ import annotations

import argparse
import ast
import logging
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.conftest import postgres_server
from tests.stateful.episodes import play, replay
from tests.stateful.lanes import Stage
from tests.stateful.post import Post

LANES = ("memory", "sqlite", "postgres", "memory-delivering", "sqlite-delivering", "postgres-delivering")


@contextmanager
def stage_of(lane: str) -> Iterator[Stage]:
    """A lane of this kind, gone in the end."""
    database, _, delivering = lane.partition("-")
    post = Post() if delivering else None
    with ExitStack() as stack:
        if database == "memory":
            stage = Stage.memory(post)
        elif database == "sqlite":
            stage = Stage.sqlite(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runlane-"))), post)
        else:
            stage = Stage.postgres(stack.enter_context(postgres_server()).migrated(), post)
        stack.callback(stage.close)
        yield stage


def main() -> None:
    """Read the command line, and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.stateful", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=100_000, help="on each kind of lane; a tenth of them on PostgreSQL"
    )
    parser.add_argument("--seed", type=int, help="else a random one")
    parser.add_argument("--lane", choices=LANES, help="else all of them")
    parser.add_argument("--lot", type=int, help="the seed of the episode to replay")
    parser.add_argument("--replay", metavar="STEPS", help="the steps to replay, as a failure prints them")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)  # processes that die and lose their leases have a lot to say
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    for lane in [asked.lane] if asked.lane else LANES:
        with stage_of(lane) as stage:
            if asked.replay is not None:
                print(f"{lane}: {replay(stage, asked.lot, ast.literal_eval(asked.replay))} steps, nothing is wrong")
                continue
            print(f"{lane}: seed {seed}", flush=True)
            began = time.perf_counter()
            taken = play(stage, asked.steps // (10 if lane.startswith("postgres") else 1), seed)
            print(f"{lane}: {taken:,} steps, {taken / (time.perf_counter() - began):,.0f} a second", flush=True)


if __name__ == "__main__":
    main()
