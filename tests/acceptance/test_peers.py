"""The protocol of the drivers, with Runlane's own on a real PostgreSQL, and with drivers that lie or break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers.driven import DRIVERS, Driven, DriverFailed
from benchmarks.peers.measures import Sizes, drain, single
from benchmarks.peers.server import Database, Server
from tests.conftest import PostgresServer
from tests.support import eventually

META = {"stored": "select 7", "finished": "select 0", "any_finished": "select false", "any_open": "select true"}


@pytest.fixture
def empty(postgres: PostgresServer) -> Iterator[Database]:
    """An empty database."""
    with Server(postgres.admin_url).fresh() as database:
        yield database


@pytest.fixture
def runlane(empty: Database) -> Driven:
    """Runlane behind its driver, its tables created."""
    driven = Driven("runlane", DRIVERS / "with_runlane.py")
    driven.learn()
    driven.ask(empty, "setup")
    return driven


def written(tmp_path: Path, program: str) -> Driven:
    """A peer whose driver is this program."""
    script = tmp_path / "driver.py"
    script.write_text(program)
    return Driven("other", script, meta=META)


def test_producers_store_what_they_say_and_workers_report_stamped_jobs(runlane: Driven, empty: Database) -> None:
    assert {"versions", "settings", *META} <= runlane.meta.keys()
    stored = 0
    for command, jobs in ((("single", 5), 5), (("bulk", 25, 10, 178), 25), (("concurrent", 16, 8), 16)):
        told = runlane.ask(empty, *command)
        stored += told["stored"]
        assert told["jobs"] == jobs
        assert told["seconds"] > 0
        assert empty.value(runlane.meta["stored"]) == stored
    inputs = "select count(*) from runlane.events where octet_length(data #>> '{payload}') = 178"
    assert empty.value(inputs) == 25

    with runlane.working(empty, 1, "latency") as (worker,):
        runlane.ask(empty, "latency", 3, 0.001)
        eventually(lambda: not empty.value(runlane.meta["any_open"]))
        delays = [one["delay_ms"] for one in worker.figures() if "delay_ms" in one]
    assert len(delays) == 3
    assert all(0 < delay < 60_000 for delay in delays)
    assert empty.value(runlane.meta["finished"]) == stored + 3


def test_a_drain_leaves_the_whole_history_of_every_run(runlane: Driven, empty: Database) -> None:
    assert drain(2)(runlane, empty, Sizes(3000))["jobs_per_s"] > 0
    assert empty.value(runlane.meta["finished"]) == 3000
    assert empty.value("select count(*) from runlane.events where stream_id in (select id from runlane.runs)") == 12_000


def test_a_driver_that_says_more_than_is_stored_is_caught(empty: Database, tmp_path: Path) -> None:
    liar = written(tmp_path, f"print({json.dumps(json.dumps({'jobs': 8, 'stored': 8, 'seconds': 1.0}))})")
    with pytest.raises(DriverFailed, match="says that 8 jobs are stored; there are 7"):
        single(liar, empty, Sizes(100))


def test_a_driver_that_fails_says_why(empty: Database, tmp_path: Path) -> None:
    broken = written(tmp_path, "raise SystemExit('no such library')")
    with pytest.raises(DriverFailed, match=r"other: single 9 ended with 1: no such library"):
        broken.ask(empty, "single", 9)
    with (
        pytest.raises(DriverFailed, match=r"a worker ended with 1: no such library"),
        broken.working(empty, 1, "drain"),
    ):
        pass
