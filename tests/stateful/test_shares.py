"""Long runs shared among processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from runlane.lanes import lane_of
from tests.stateful.lanes import Stage, keep_plans
from tests.stateful.shares import play_shares, seeds_of


def test_processes_share_the_steps_and_their_line_says_what_they_took(tmp_path: Path) -> None:
    tally, failures = play_shares("memory", 300, 5, processes=2)
    assert failures == []
    assert tally.seeds == seeds_of(5, 2)
    assert len(set(tally.seeds)) == 2
    assert tally.steps >= 300
    alone = [play_shares("memory", 150, seed, processes=1)[0].steps for seed in tally.seeds]
    assert tally.steps == sum(alone), "a seed plays the same history wherever it is played"
    tally.append_to(tmp_path / "tally")
    line = json.loads((tmp_path / "tally").read_text())
    assert (line["lane"], line["seed"], line["steps"], line["failed"]) == ("memory", 5, tally.steps, 0)
    assert line["seconds"] > 0
    assert line["commit"]


@pytest.mark.parametrize("kept", [True, False])
def test_prepared_statements_outlive_a_rollback_where_that_was_asked_for(postgres_url: str, kept: bool) -> None:
    database = lane_of(postgres_url).database
    if kept:
        keep_plans(database)
    with database.engine.connect() as connection:
        for _ in range(4):
            connection.execute(text("select count(*) from runlane.runs"))
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        connection.rollback()
        left = connection.execute(text("select statement from pg_prepared_statements")).scalars().all()
    database.dispose()
    assert any("runlane.runs" in statement for statement in left) is kept


def test_the_lanes_of_a_stage_keep_their_plans_unless_told_otherwise(postgres_url: str) -> None:
    for kept in (True, False):
        stage = Stage.postgres(postgres_url, keeps_plans=kept)
        stage.next_episode()
        with stage.lanes[0].database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            assert (type(driver._prepared).__name__ == "Keeping") is kept
        stage.close()
