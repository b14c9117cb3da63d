"""The harness measures what it says, and refuses figures that the database does not bear out."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from attrs import evolve
from click.testing import CliRunner

import runlane.exchange
from benchmarks import machine, running
from benchmarks.__main__ import main
from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.history import History
from benchmarks.jobs import noop, usual_payload
from benchmarks.knobs import DEFAULT_BATCH, Knobs, default_lanes
from benchmarks.places import execute
from benchmarks.scenarios import SCENARIOS
from runlane import RunStatus
from tests.conftest import PostgresServer

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.timeout(300)
def test_all_scenarios_run_and_tell_their_circumstances(postgres_url: str, tmp_path: Path) -> None:
    done = bench("all", "--tiny", "--database", postgres_url, "--repeat", "1", "--out", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "all.json").read_text())
    assert {one["scenario"] for one in document["results"]} == set(SCENARIOS)
    assert document["machine"]["cpus"]
    assert document["versions"]["runlane"]
    may_be_nothing = {"hot_updates_percent", "grown_mib", "server_us_per_run"}  # the last one in steps of 10 ms
    for one in document["results"]:
        assert all(value > 0 or name in may_be_nothing for name, value in one["median"].items())
        assert ("server_us_per_run" in one["median"]) is (one["scenario"] in ("drain", "trigger"))
        assert one["server"]["version"]
        assert len(one["repeats"]) == len(one["machine_loops_per_s"]) == 1
    assert "<svg" in (tmp_path / "all.html").read_text()


def test_what_differs_by_database_runs_on_sqlite_too(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.01)
    plan = [(SCENARIOS[name], SCENARIOS[name].tiny) for name in ("trigger", "drain", "backlog", "schedules", "storage")]
    results = running.measure(plan, [sqlite_url], Knobs(), seed=1, repeat=2)
    assert {one["scenario"] for one in results} == {scenario.name for scenario, _ in plan}
    for one in results:
        assert len(one["repeats"]) == 2
        assert all(value > 0 for figures in one["repeats"] for value in figures.values())


@pytest.fixture
def turned_back() -> Iterator[None]:
    yield
    Knobs().turn()


@pytest.mark.usefixtures("turned_back")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_settings_are_turned_where_a_place_is_opened_and_turned_back(
    kind: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    knobs = Knobs(batch=7, lanes=3, heartbeat="2s", fillfactor=81, relaxed=True)
    admin = postgres.admin_url if kind == "postgresql" else None
    places = Databases(kind, knobs, admin=admin, folder=tmp_path)
    place = pickle.loads(pickle.dumps(places.fresh()))  # as it gets into another process
    with place.app() as app:
        worker = app.worker()
        exchange = worker._exchange
        assert (len(exchange._threads), runlane.exchange.BATCH) == (3, 7)
        assert app._runtime.settings.heartbeat.total_seconds() == 2
        if places.is_postgres:
            assert execute(app, "show synchronous_commit") == [("off",)]
            assert (
                execute(app, "select reloptions::text from pg_class where relname = 'runs'")[0][0].count(
                    "fillfactor=81"
                )
                == 1
            )
        else:
            assert execute(app, "pragma synchronous") == [(1,)]
    with evolve(place, knobs=Knobs()).app() as app:
        assert default_lanes(app) == len(app.worker()._exchange._threads) < 3
        assert runlane.exchange.BATCH == DEFAULT_BATCH


def test_the_tables_of_a_database_that_is_kept_are_left_as_they_are(postgres_url: str) -> None:
    with pytest.raises(SystemExit, match="fillfactor is turned only on a database that is thrown away"):
        Databases("postgresql", Knobs(fillfactor=81), given=postgres_url).fresh()


def test_a_copied_history_is_what_the_engine_would_have_written(shared_url: str) -> None:
    place = Databases(shared_url.partition(":")[0], given=shared_url).fresh()
    with place.app() as app:
        for finished, copies in ((True, 30), (False, 20)):
            History(place, app, finished=finished).add(copies)
        assert app.runs.count() == {RunStatus.SUCCEEDED: 30, RunStatus.QUEUED: 20}
        assert app.audit.verify().identical
        app.worker("drain").run()
        assert app.runs.count() == {RunStatus.SUCCEEDED: 50}
        assert app.audit.verify().identical


def test_the_usual_payload_has_178_bytes() -> None:
    assert {len(orjson.dumps(usual_payload(number))) for number in (0, 99_999_999)} == {178}


def test_it_brings_its_own_postgres(tmp_path: Path) -> None:
    done = bench("trigger", "--how", "alone", "--runs", "100", "--repeat", "1", "--out", str(tmp_path / "own"))
    assert done.returncode == 0, done.stderr
    assert "one caller" in done.stdout


def test_an_impossible_measurement_is_a_usage_error() -> None:
    for impossible in (["drain"], ["trigger", "--how", "joined"]):
        done = CliRunner().invoke(main, [*impossible, "--database", "memory:"])
        assert done.exit_code == 2
        assert f"{impossible[0]} needs a database that can be opened twice, unlike memory:" in done.output


def test_what_one_process_does_runs_in_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.01)
    plan = [(scenario, scenario.tiny) for scenario in SCENARIOS.values()]
    results = running.measure(plan, ["memory:"], Knobs(), seed=1, repeat=1)
    assert [one["case"] for one in results] == [
        "one caller", "4 threads", "1,000 at a time", "20 at once",
    ]  # fmt: skip


def test_a_figure_that_the_database_does_not_bear_out_is_refused(sqlite_url: str) -> None:
    places = Databases("sqlite", given=sqlite_url)
    with places.fresh().app() as app:
        app.trigger(noop, 1)
        counted(app, RunStatus.QUEUED, 1, events_per_run=2)
        for wrong in ((RunStatus.QUEUED, 2, 1), (RunStatus.SUCCEEDED, 1, 2), (RunStatus.QUEUED, 1, 4)):
            with pytest.raises(SystemExit, match="expected"):
                counted(app, wrong[0], wrong[1], events_per_run=wrong[2])
