"""Eight processes that tick, work, trigger, cancel, pause and deliver at once on one PostgreSQL, for a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from runlane import Runlane
from tests.chaos.crowd import app_at
from tests.chaos.watching import (
    histories,
    invariant_4_every_run_ends_once,
    invariant_9_limits_hold_at_every_position,
    invariant_10_every_occurrence_made_one_run,
)
from tests.support import eventually

PROCESSES = 8


def crowd(url: str, seconds: float, processes: int) -> None:
    """Let them at it; each has to end by itself and without a complaint."""
    command = [sys.executable, "-m", "tests.chaos.crowd", url, str(seconds)]
    made = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(processes)
    ]
    try:
        for process in made:
            out, err = process.communicate(timeout=seconds + 120)
            assert (process.returncode, out) == (0, "done\n"), err[-3000:]
            assert "Traceback" not in err, err[-3000:]
    finally:
        for process in made:
            process.kill()


@pytest.mark.timeout(400)
def test_eight_processes_at_once_keep_every_promise(postgres: Any, capsys: pytest.CaptureFixture[str]) -> None:
    url = postgres.migrated()
    told = every_promise_holds_after(url, float(os.environ.get("RUNLANE_TEST_CROWD", "60")), PROCESSES)
    assert deadlocks(url) == 0
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.timeout(400)
def test_four_processes_on_one_file_keep_every_promise(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = every_promise_holds_after(sqlite_url, float(os.environ.get("RUNLANE_TEST_CROWD", "60")) / 2, 4)
    with capsys.disabled():
        print(f"\n{told}")


def every_promise_holds_after(url: str, seconds: float, processes: int) -> str:
    """Let a crowd at a database, work off what it left, and check the log; what happened."""
    crowd(url, seconds, processes)
    with app_at(url) as app:
        eventually(lambda: works_off(app), "every run ended: nothing may be stuck")
        assert app.audit.verify().differences == ()
        records = histories(app, "run.")
        kinds = invariant_4_every_run_ends_once(records)
        most = invariant_9_limits_hold_at_every_position(records)
        occurrences = invariant_10_every_occurrence_made_one_run(app)
    return f"{processes} processes, {seconds:g} s: {occurrences} occurrences, {most} slots at most, {dict(kinds)}"


def works_off(app: Runlane) -> bool:
    """Work until nothing is due; whether everything has ended, as a run may be due again in some milliseconds."""
    app.worker("drain").run()
    return not any(number and status.is_active for status, number in app.runs.count().items())


def deadlocks(url: str) -> int:
    """How many there were in a database: what the server's log calls "deadlock detected", it counts as well."""
    with psycopg.connect(url) as connection:
        found = connection.execute("select deadlocks from pg_stat_database where datname = current_database()")
        return int(found.fetchone()[0])
