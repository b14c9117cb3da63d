"""Play random histories for longer, or one again: ``python -m tests.stateful --steps 1000000``."""

from __future__ import annotations

import argparse
import ast
import logging
import secrets
import sys
from pathlib import Path

from tests.stateful.episodes import replay
from tests.stateful.shares import databases, play_shares, stage_of

LANES = ("memory", "sqlite", "postgres", "memory-delivering", "sqlite-delivering", "postgres-delivering")


def main() -> int:
    """Read the command line, and play; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.stateful", description=__doc__)
    parser.add_argument(
        "--steps",
        type=int,
        default=100_000,
        help="on each kind of lane; a tenth of them on PostgreSQL, unless --lane names it",
    )
    parser.add_argument("--seed", type=int, help="else a random one")
    parser.add_argument("--lane", choices=LANES, help="else all of them")
    parser.add_argument("--processes", type=int, default=1, help="share the steps; others than the first draw a seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add a line for each lane")
    parser.add_argument("--lot", type=int, help="the seed of the episode to replay")
    parser.add_argument("--replay", metavar="STEPS", help="the steps to replay, as a failure prints them")
    asked = parser.parse_args()
    if asked.processes < 1:
        parser.error("--processes must be 1 or more")
    if asked.replay is not None:
        _replay(asked.lane, asked.lot, asked.replay)
        return 0
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    for lane in [asked.lane] if asked.lane else LANES:
        print(f"{lane}: seed {seed}", flush=True)
        is_a_tenth = lane.startswith("postgres") and asked.lane is None
        tally, failures = play_shares(lane, asked.steps // (10 if is_a_tenth else 1), seed, asked.processes)
        if asked.json is not None:
            tally.append_to(asked.json)
        if failures:
            print("\n\n".join(failures), file=sys.stderr)
            return 1
        print(f"{lane}: {tally.steps:,} steps, {tally.steps / max(tally.seconds, 0.1):,.0f} a second", flush=True)
    return 0


def _replay(lane: str | None, lot: int, steps: str) -> None:
    logging.disable(logging.CRITICAL)
    for one in [lane] if lane else LANES:
        with databases(one, 1) as (url,), stage_of(one, url) as stage:
            print(f"{one}: {replay(stage, lot, ast.literal_eval(steps))} steps, nothing is wrong")


if __name__ == "__main__":
    sys.exit(main())
