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
TABLE = {
    "stored": "select count(*) from jobs",
    "finished": "select count(*) from jobs where done",
    "any_finished": "select exists (select from jobs where done)",
    "any_open": "select exists (select from jobs where not done)",
}
#: A peer whose worker takes 10 ms for a job, in the database.
KNOWN_PACE = """
import json, os, sys, psycopg
with psycopg.connect(os.environ["BENCH_DATABASE"], autocommit=True) as connection:
    if sys.argv[1] == "bulk":
        connection.execute("drop table if exists jobs")
        connection.execute("create table jobs (id int primary key, done boolean not null default false)")
        connection.execute("insert into jobs select generate_series(1, %s)", [int(sys.argv[2])])
        print(json.dumps({"jobs": int(sys.argv[2]), "stored": int(sys.argv[2]), "seconds": 1.0}))
    else:
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        take = "select id from jobs where not done limit 1 for update skip locked"
        while True:
            connection.execute(f"with one as ({take}), work as (select pg_sleep(0.01) from one) "
                               "update jobs set done = true from one, work where jobs.id = one.id")
"""


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


def written(tmp_path: Path, program: str, meta: dict[str, str] = META) -> Driven:
    """A peer whose driver is this program."""
    script = tmp_path / "driver.py"
    script.write_text(program)
    return Driven("other", script, meta=dict(meta))


def test_producers_store_what_they_say_and_workers_report_stamped_jobs(runlane: Driven, empty: Database) -> None:
    assert {"versions", "settings", *META} <= runlane.meta.keys()
    stored = 0
    for command, jobs in ((("single", 5), 5), (("bulk", 25, 10, 178), 25), (("concurrent", 16, 8, 4), 16)):
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


def test_workers_leave_the_whole_history_of_every_run(runlane: Driven, empty: Database) -> None:
    runlane.ask(empty, "bulk", 500, 100)
    with runlane.working(empty, 2, "drain"):
        eventually(lambda: not empty.value(runlane.meta["any_open"]))
    assert empty.value(runlane.meta["finished"]) == 500
    assert empty.value("select count(*) from runlane.events where stream_id in (select id from runlane.runs)") == 2000


def test_a_drain_is_timed_by_what_the_database_shows(empty: Database, tmp_path: Path) -> None:
    known = written(tmp_path, KNOWN_PACE, TABLE)
    alone, together = [drain(workers)(known, empty, Sizes(100))["jobs_per_s"] for workers in (1, 2)]
    # A worker takes 10 ms or more for a job; a look that comes late may find a few more.
    assert 1 < alone < 115
    assert 1.3 * alone < together < 230


def test_a_drain_that_loses_jobs_is_refused(empty: Database, tmp_path: Path) -> None:
    loses = written(tmp_path, KNOWN_PACE, {**TABLE, "any_open": "select not exists (select from jobs where done)"})
    with pytest.raises(DriverFailed, match=r"100 jobs were to be finished; the database has \d\d?$"):
        drain(1)(loses, empty, Sizes(100))


def test_a_drain_that_is_over_at_the_first_look_is_refused(empty: Database, tmp_path: Path) -> None:
    over = written(tmp_path, KNOWN_PACE, {**TABLE, "finished": "select 100"})
    with pytest.raises(DriverFailed, match="100 of 100 jobs were finished at the first look"):
        drain(1)(over, empty, Sizes(100))


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
