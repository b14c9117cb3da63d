"""A million runs on PostgreSQL: no hot statement looks at more rows or pages than it needs, analysed or not."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from runlane.engine import lease
from runlane.engine.lease import Holder
from runlane.storage.database import Database
from runlane.storage.floors import Floors, Look
from tests.conftest import PostgresServer
from tests.plans import crowded
from tests.plans.crowded import Crowd
from tests.plans.rules import breaches
from tests.plans.scenarios import CLAIMED, Known, Scenario, World
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
        found += _beside_an_old_snapshot(url)
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


def _beside_an_old_snapshot(url: str) -> Iterator[str]:
    """What is claimed while somebody's transaction stays open lies in the way of later claims; of slow ones no more."""
    watch, floors = Watch(), Floors()
    database = Database(url)
    watch.over(database.engine)

    def claim(floors: Floors | None, most: int) -> int:
        watch.take()
        holder = Holder(crowded.ALIVE, "worker")
        with database.write() as tx:
            now = tx.now()
            runs = lease.claim(tx, "default", holder, ["b"], ["work"], most, now, floors=floors)
            if floors is not None:
                floors.learn(Look(0, None, True, now, 1.0, everywhere=True))
        return len(runs)

    with psycopg.connect(url) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from runlane.queues")
        for _ in range(10):
            assert claim(None, 1000) == 1000
        assert claim(None, 1) == 1
        if max(plan.root.blocks for plan in watch.take()) < 2000:
            yield "an old snapshot: it did not keep anything in the way of a claim"
        claim(floors, CLAIMED)
        assert floors.in_use
        claim(floors, CLAIMED)
        yield from _verdicts(Scenario("claim beside an old snapshot", CLAIMED, lambda: None), watch.take())
    database.dispose()


def _verdicts(scenario: Scenario, plans: list[Plan]) -> Iterator[str]:
    if scenario.table and not any(node.table == scenario.table for plan in plans for node in plan.nodes()):
        yield f"{scenario.name}: no statement was seen that looks at {scenario.table}"
    for plan in plans:
        for breach in breaches(plan, scenario.rows, crowded.RUNS if scenario.walk else 0):
            yield f"{scenario.name}: {breach}\n    {' '.join(plan.statement.split())[:400]}"
