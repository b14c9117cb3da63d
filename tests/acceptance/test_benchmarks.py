"""The harness measures what it says, and refuses figures that the database does not bear out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.jobs import noop
from benchmarks.scenarios import SCENARIOS
from runlane import RunStatus

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_all_scenarios_run_and_tell_their_circumstances(shared_url: str, tmp_path: Path) -> None:
    done = bench("all", "--tiny", "--database", shared_url, "--repeat", "1", "--out", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "all.json").read_text())
    assert {one["scenario"] for one in document["results"]} == set(SCENARIOS)
    assert document["machine"]["cpus"]
    assert document["versions"]["runlane"]
    for one in document["results"]:
        assert all(value > 0 for value in one["median"].values())
        assert one["server"]["version"]
        assert len(one["repeats"]) == len(one["machine_loops_per_s"]) == 1


def test_it_brings_its_own_postgres(tmp_path: Path) -> None:
    done = bench("trigger", "--how", "alone", "--runs", "100", "--repeat", "1", "--out", str(tmp_path / "own"))
    assert done.returncode == 0, done.stderr
    assert "one caller" in done.stdout


def test_an_impossible_measurement_is_a_usage_error() -> None:
    done = bench("drain", "--database", "memory:")
    assert done.returncode == 2
    assert "drain needs several processes; memory: has only one" in done.stderr


def test_a_figure_that_the_database_does_not_bear_out_is_refused(sqlite_url: str) -> None:
    places = Databases("sqlite", given=sqlite_url)
    with places.fresh().app() as app:
        app.trigger(noop, 1)
        counted(app, RunStatus.QUEUED, 1, events_per_run=2)
        for wrong in ((RunStatus.QUEUED, 2, 1), (RunStatus.SUCCEEDED, 1, 2), (RunStatus.QUEUED, 1, 4)):
            with pytest.raises(SystemExit, match="expected"):
                counted(app, wrong[0], wrong[1], events_per_run=wrong[2])
