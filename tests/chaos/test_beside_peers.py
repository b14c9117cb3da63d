"""The chaos beside peers without the peers: Runlane in the forced scenario, and in a short course."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.peers.contestants import BLIND, CONTESTANTS, Contestant
from tests.chaos.peers.forced import Trial, forced
from tests.chaos.peers.playing import played
from tests.chaos.peers.processes import Place, Terms
from tests.chaos.peers.strikes import course, jobs
from tests.chaos.server import OwnPostgres

RUNLANE = CONTESTANTS["runlane"]
TERMS = Terms(window=2.0, poll=0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    """A server of its own, with Runlane's tables in the database ``made``."""
    folder = tmp_path_factory.mktemp("peers")
    server = OwnPostgres(folder / "server", fsync=False)
    try:
        server.start()
        server.execute("create database made")
        Place(RUNLANE, server, "made", folder / "made", TERMS).setup()
        yield server
    finally:
        server.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("contestant", [RUNLANE, BLIND], ids=["as-it-is", "without-its-clock"])
@pytest.mark.parametrize("late", ["ends", "fails"])
def test_a_late_outcome_is_not_accepted_while_another_worker_is_at_the_run(
    server: OwnPostgres, tmp_path: Path, contestant: Contestant, late: str
) -> None:
    database = f"{late}_blind" if contestant is BLIND else late
    server.execute(f"create database {database} template made")
    assert forced(contestant, server, database, tmp_path, TERMS, late) == Trial(None, True, False, "done")


@pytest.mark.timeout(240)
def test_a_short_course_loses_nothing_and_accepts_nothing_stale(server: OwnPostgres, tmp_path: Path) -> None:
    server.execute("create database course template made")
    strikes = course(4, 12.0, 3, TERMS.window)
    found = played(RUNLANE, server, tmp_path, TERMS, strikes, jobs(4, 10.0, 3.0), 3)
    assert found.recovery is not None
    assert found.counts.acknowledged == found.counts.done > 20
    assert (found.counts.lost, found.counts.stuck, found.counts.stale) == ((), (), ())
    assert found.strikes.keys() == {"kill", "pause", "terminate"}
