"""The short form of the simulator: no promise is broken, a seed stands for one course of things, defects are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.defects.defects import DEFECTS
from tests.defects.planting import ROOT, plant
from tests.simulation.plans import FAULTS, Mode, draw

#: Planted defects that it notices within 2,000 steps, and what it says of them.
FOUND = {
    "append: SQLite does not guard the sequence": "cannot be stored",
    "append: a lease is chained to no event before it": "invariant 6",
    "keys: a birth whose key is owned is written all the same": "invariant 7",
    "lease: a stray is never given back": "whose process does not know of it",
    "lease: a heartbeat revives a session that has ended": "was revived",
}


def simulated(*options: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What the command line comes to, in a process of its own, as it patches the product."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.simulation", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", [*Mode])
def test_no_promise_is_broken(mode: Mode, tmp_path: Path) -> None:
    told = tmp_path / "tally.jsonl"
    done = simulated("--steps", 2000, "--seed", 11, "--mode", mode, "--json", told)
    assert done.returncode == 0, done.stdout + done.stderr
    tally = Counter(json.loads(told.read_text("utf-8"))["tally"])
    assert tally["steps"] >= 2000
    assert sum(tally[f"fault {kind}"] for kind in FAULTS) > 30
    assert (tally["stale writes accepted"], tally["acknowledged runs lost"], tally["violations"]) == (0, 0, 0)


def test_a_seed_stands_for_one_course_of_things() -> None:
    first, again, other = (simulated("--mode", "safety", "--episode", seed) for seed in (5, 5, 6))
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout == again.stdout
    assert first.stdout != other.stdout


def test_a_plan_is_kept_as_it_is() -> None:
    plan = draw(3, Mode.LIVENESS)
    assert type(plan).from_json(plan.to_json()) == plan


@pytest.mark.parametrize("plan", sorted((Path(__file__).parent / "kept").glob("*.json")), ids=lambda path: path.stem)
def test_what_went_wrong_once_does_not_again(plan: Path) -> None:
    done = simulated("--plan", plan)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FOUND)
def test_it_finds_a_planted_defect(name: str, tmp_path: Path) -> None:
    (defect,) = (one for one in DEFECTS if one.name == name)
    plant(defect, tmp_path)
    done = simulated("--steps", 6000, "--seed", 1, "--patience", 1, folder=tmp_path)
    assert done.returncode == 1, f"not found: {defect.promise}\n{done.stdout}"
    assert FOUND[name] in done.stdout
    assert "to repeat it" in done.stdout
