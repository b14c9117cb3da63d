"""Play episodes for longer, or one again: ``python -m tests.simulation --steps 1000000 --seed 1``."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.simulation.episodes import Broken, keep, play, smaller, theatre
from tests.simulation.plans import FAULTS, Mode, Plan, draw


def main() -> int:
    """Read the command line, and play; 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="transactions, of all processes together")
    parser.add_argument("--seed", type=int, help="else a random one")
    parser.add_argument("--mode", choices=[*Mode], help="else both in turns")
    parser.add_argument("--processes", type=int, default=1, help="how many processes play, each with seeds of its own")
    parser.add_argument("--length", type=int, default=600, help="steps of an episode, or of its faults")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for making a failing plan smaller")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the tally as one line")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the plan that fails there")
    parser.add_argument("--episode", type=int, help="the seed of one episode, to play it alone")
    parser.add_argument("--plan", type=Path, help="the file of a plan, to play it alone")
    asked = parser.parse_args()
    modes = tuple(Mode) if asked.mode is None else (Mode(asked.mode),)
    if asked.episode is not None or asked.plan is not None:
        return _alone(asked, modes[0])
    seed = secrets.randbits(31) if asked.seed is None else asked.seed
    began = time.perf_counter()
    print(f"seed {seed}", flush=True)
    tally = _of_many(asked, seed) if asked.processes > 1 else _of_one(asked, seed, modes)
    seconds = time.perf_counter() - began
    print(told(tally, seconds))
    if asked.json is not None:
        facts = {
            "commit": _commit(),
            "seed": seed,
            "command": " ".join(["python -m tests.simulation", *sys.argv[1:]]),
            "seconds": round(seconds, 1),
            "tally": dict(sorted(tally.items())),
        }
        with asked.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
    return 1 if tally["violations"] else 0


def told(tally: Counter[str], seconds: float) -> str:
    """The tally for people."""
    lines = [f"{tally['steps']:,} steps in {seconds:,.0f} s, {tally['steps'] / max(seconds, 0.001):,.0f} a second"]
    faults = [f"fault {kind}" for kind in FAULTS]
    first = ["episodes", "virtual seconds", "events", "executions", *faults, "wakeups lost", "wakeups doubled"]
    last = ["executions repeated", "stale writes attempted", "stale writes accepted", "acknowledged runs lost"]
    others = sorted(name for name in tally if name not in {*first, *last, "steps", "violations"})
    lines += [f"{name:<32}{tally[name]:>12,}" for name in (*first, *others, *last, "violations")]
    return "\n".join(lines)


def _of_one(asked: argparse.Namespace, seed: int, modes: tuple[Mode, ...]) -> Counter[str]:
    try:
        return play(asked.steps, seed, modes, asked.length, asked.patience)
    except Broken as broken:
        print(broken, flush=True)
        if asked.keep is not None:
            print(f"kept as {keep(broken.plan, broken.error, asked.keep)}", flush=True)
        return broken.tally


def _of_many(asked: argparse.Namespace, seed: int) -> Counter[str]:
    """Each in a process of its own, which prints for itself; the tallies added up."""
    tally = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="runlane-") as folder:
        started = []
        for number in range(asked.processes):
            share = asked.steps // asked.processes
            options = [
                "--steps",
                share,
                "--seed",
                seed + number,
                "--length",
                asked.length,
                "--patience",
                asked.patience,
            ]
            options += ["--json", Path(folder) / f"{number}.json"]
            options += ["--mode", asked.mode] if asked.mode else []
            options += ["--keep", asked.keep] if asked.keep else []
            command = [sys.executable, "-W", "ignore", "-m", "tests.simulation", *map(str, options)]
            started.append(subprocess.Popen(command))
        for one in started:
            one.wait()
        for number in range(asked.processes):
            path = Path(folder) / f"{number}.json"
            facts: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
            tally.update(facts.get("tally", {"violations": 1}))
    return tally


def _alone(asked: argparse.Namespace, mode: Mode) -> int:
    plan = draw(asked.episode, mode, asked.length)
    if asked.plan is not None:
        plan = Plan.from_json(asked.plan.read_text("utf-8"))
    with theatre() as stage:
        played = stage.play(plan)
        print(told(played.tally, 0.0))
        print(f"log {played.digest}")
        if played.error is None:
            print("nothing is wrong")
            return 0
        small, error = smaller(stage, plan, played.error, asked.patience)
        print(Broken(small, plan, error, played.tally))
    return 1


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings is part of what a seed stands for
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
