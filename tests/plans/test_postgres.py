"""A million runs on PostgreSQL: no hot statement looks at more rows or pages than it needs, analysed or not."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from runlane.storage.database import Database
from tests.conftest import PostgresServer
from tests.plans import crowded
from tests.plans.crowded import Crowd
from tests.plans.rules import breaches
from tests.plans.scenarios import Known, Scenario, World
from tests.plans.watching import Plan, Watch


@pytest.fixture
def crowd_url(postgres: PostgresServer) -> Iterator[tuple[str, Crowd]]:
    """A database of the module's own, filled."""
    url = postgres.migrated()
    with psycopg.connect(url) as connection:
        crowd = crowded.fill(connection)
    yield url, crowd
    postgres.drop(url)


# One function for everything: test processes that share the work between them must not all fill a database.
@pytest.mark.timeout(600)
def test_no_statement_reads_more_than_it_needs(crowd_url: tuple[str, Crowd]) -> None:
    url, crowd = crowd_url
    found: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for turn, statistics in enumerate(("without statistics", "analysed")):
            if turn:
                connection.execute("analyze")
            crowded.lose(connection, turn)
            found += [f"{statistics}: {line}" for line in _pass(url, crowded.known(crowd, turn))]
    assert not found, "\n".join([f"{len(found)} breaches:", *found])


def _pass(url: str, known: Known) -> Iterator[str]:
    watch = Watch()

    def database() -> Database:
        made = Database(url)
        watch.over(made.engine, made.beat_engine)
        return made

    world = World(database, known)
    try:
        for scenario in world.scenarios():
            watch.take()
            scenario.do()
            yield from _verdicts(scenario, watch.take())
    finally:
        world.close()


def _verdicts(scenario: Scenario, plans: list[Plan]) -> Iterator[str]:
    if scenario.table and not any(node.table == scenario.table for plan in plans for node in plan.nodes()):
        yield f"{scenario.name}: no statement was seen that looks at {scenario.table}"
    for plan in plans:
        for breach in breaches(plan, scenario.rows, crowded.RUNS if scenario.walk else 0):
            yield f"{scenario.name}: {breach}\n    {' '.join(plan.statement.split())[:400]}"
