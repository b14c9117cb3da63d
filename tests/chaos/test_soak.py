"""The soak in seconds: that it measures what it says, judges as an episode does, and finds what was pruned."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from runlane import Runlane
from tests.chaos import gauges
from tests.chaos.episode import Plan
from tests.chaos.sites import SqliteSite
from tests.chaos.soak import shown, soak
from tests.engine.tasks import echo
from tests.support import eventually


def gauges_of(url: str) -> dict[str, float]:
    if url.startswith("postgresql"):
        return gauges.of_postgres(psycopg.conninfo.make_conninfo(url))
    return gauges.of_sqlite(Path(url.removeprefix("sqlite:///")))


def test_what_waits_is_measured(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as app:
        assert gauges_of(shared_url)["oldest_unfinished_seconds"] == 0.0
        app.trigger(echo, 1)
        app.trigger(echo, 2, delay="1h")
        eventually(lambda: gauges_of(shared_url)["oldest_due_seconds"] > 0.05, "a run that waits")
        found = gauges_of(shared_url)
        assert 0.05 < found["oldest_due_seconds"] <= found["oldest_unfinished_seconds"] + 0.01 < 60
        assert found["unfinished_runs"] == 2
        app.execute_next()
        assert gauges_of(shared_url)["oldest_due_seconds"] == 0.0, "the other one is not due"
        bounds = gauges.ON_POSTGRES if shared_url.startswith("postgresql") else gauges.ON_SQLITE
        assert bounds.keys() == gauges_of(shared_url).keys()


def test_a_process_is_measured() -> None:
    before = gauges.of_process("me", os.getpid())
    with open(os.devnull), open(os.devnull):
        assert gauges.of_process("me", os.getpid())["me_open_files"] == before["me_open_files"] + 2
    assert before["me_rss_mb"] > 10
    assert gauges.of_process("nobody", 2**22 + 1) == {}


@pytest.mark.timeout(420)
def test_a_short_one_prunes_and_is_judged_over_the_whole_history(tmp_path: Path) -> None:
    plan = Plan(
        seconds=10, seed=3, workers=2, clients=2, migrators=4, recovery=180, only=("worker_kill", "worker_pause")
    )
    result = soak(tmp_path, plan, SqliteSite(tmp_path), rate=30.0, age=2.0)
    assert result.verdict.report.sound, shown(result)
    assert result.verdict.audit.startswith("replay identical")
    assert result.made > 2
    assert result.pruned["pruned"] > 0
    assert result.pruned["runs_pruned"] > 0
    assert result.verdict.report.runs > result.pruned["runs_pruned"]
    assert all(course.samples > 20 for course in result.courses)
