"""A worker whose claims are slow goes on where the last one ended, and loses nothing by it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from attrs import evolve

from runlane import Runlane, RunStatus, task
from runlane.claiming import Claims
from runlane.engine import lease
from runlane.engine.lease import Holder
from runlane.projections.runs import Run
from runlane.storage import floors as module
from runlane.storage.database import Database
from runlane.storage.floors import Floors, Look, Stretch
from tests.storage.test_claims import LATER, born, ids, session_in
from tests.support import SECOND, START, database_at

SLOW, QUICK = 1.0, 0.0
#: The next look from the beginning follows a slow one so much later.
PAUSE = 20 * SLOW


class Timer:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """Claims through floors that believe each claim took as long as the test says."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.timer = Timer()
        self.floors = Floors(self.timer)
        self.holder = Holder(session_in(database), "w")

    def claim(self, limit: int, now: datetime = LATER, seconds: float = SLOW) -> list[UUID]:
        """The runs of one claim, in order."""
        seen = _Told(self.floors, seconds)
        with self.database.write() as tx:
            return ids(lease.claim(tx, "default", self.holder, ["default"], ["work"], limit, now, floors=seen))


class _Told(Floors):
    """Floors that are told of another time than passed."""

    def __init__(self, of: Floors, seconds: float) -> None:
        self._of, self._seconds = of, seconds

    def stretches(self, queues: Sequence[str]) -> tuple[list[Stretch], bool]:
        return self._of.stretches(queues)

    def learn(self, look: Look) -> None:
        self._of.learn(evolve(look, seconds=self._seconds))


@pytest.fixture
def worker(database: Database) -> Worker:
    """A worker on each lane."""
    return Worker(database)


def test_quick_claims_look_everywhere(database: Database, worker: Worker) -> None:
    run, other = born(database), born(database, at=START + SECOND)
    assert worker.claim(1, seconds=QUICK) == [run.id]
    assert not worker.floors.in_use
    assert worker.floors.stretches(["default"]) == ([Stretch("default")], True)
    assert worker.claim(1, seconds=QUICK) == [other.id]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_slow_claims_take_everything_in_the_same_order(database: Database, worker: Worker, limit: int) -> None:
    draw = random.Random(limit)
    runs = [
        born(database, priority=draw.choice([-32768, -1, 0, 5, 32767]), at=START + draw.randrange(5) * SECOND)
        for _ in range(20)
    ]
    runs.sort(key=lambda run: (-run.priority, run.due_at, run.id))
    claimed: list[UUID] = []
    while found := worker.claim(limit):
        claimed += found
        assert worker.floors.in_use
    assert claimed == ids(runs)


def test_what_has_just_become_due_is_claimed_at_once(database: Database, worker: Worker) -> None:
    first, second, low = born(database), born(database), born(database, priority=-1)
    assert worker.claim(1) == [min(first.id, second.id)]
    better = born(database, priority=9, at=LATER)
    assert worker.claim(1) == [better.id]
    a_moment_late = born(database, priority=9, at=LATER - SECOND / 2)
    assert worker.claim(1) == [a_moment_late.id]
    same = born(database, at=LATER - SECOND / 2)
    assert worker.claim(3) == [max(first.id, second.id), same.id, low.id]


def test_what_comes_late_is_claimed_at_the_next_look_from_the_beginning(database: Database, worker: Worker) -> None:
    passed = born(database, at=START + SECOND)
    later = born(database, at=START + 2 * SECOND)
    assert worker.claim(1) == [passed.id]
    late = born(database, at=START)
    assert worker.claim(1) == ([later.id] if database.schema else [late.id])
    worker.timer.now += PAUSE
    assert worker.claim(1) == ([late.id] if database.schema else [later.id])


def test_the_rests_between_looks_are_long_where_looks_are(database: Database, worker: Worker) -> None:
    born(database)
    worker.claim(1, seconds=SLOW)
    worker.timer.now += PAUSE - 0.1
    assert not worker.floors.stretches(["default"])[1]
    worker.timer.now += 0.2
    assert worker.floors.stretches(["default"])[1]
    assert not worker.floors.stretches(["default"])[1], "one thread looks, the others go on"


def test_claims_that_have_become_quick_look_everywhere_again(database: Database, worker: Worker) -> None:
    for _ in range(3):
        born(database)
    worker.claim(1)
    worker.claim(1, seconds=QUICK)
    assert worker.floors.in_use, "a claim that looks at little is always quick"
    worker.timer.now += PAUSE
    worker.claim(1, seconds=QUICK)
    assert not worker.floors.in_use


def test_a_drain_ends_only_when_nothing_was_passed_over(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLOW", -1.0)
    monkeypatch.setattr(module, "_PER_RUN", 0.0)
    monkeypatch.setattr(module, "_REST", 1e6)
    late: list[Run] = []

    @task("work")
    def work(payload: int | None) -> None:
        if payload == 20:
            with database_at(shared_url) as database:
                late.append(born(database, at=START - timedelta(days=999)))

    with Runlane(shared_url, tasks=[work]) as app:
        app.start()
        app.trigger_many(work, range(40))
        app.worker(mode="drain", concurrency=4).run()
        assert app.runs.get(late[0].id).is_terminal
        assert app.runs.count() == {RunStatus.SUCCEEDED: 41}


def test_a_worker_that_looks_alone_passes_over_nothing_for_good(postgres_url: str) -> None:
    """A claim that commits itself, of a drain whose earlier ones were slow."""

    @task("work")
    def work(payload: None) -> None: ...

    with Runlane(postgres_url, tasks=[work]) as app:
        app.start()
        runtime = app._runtime
        holder = runtime.session().holder
        drain, poll = Claims(runtime, ["default"], drain=True), Claims(runtime, ["default"], drain=False)
        for claims in (drain, poll):
            place = (0, START + timedelta(days=9999), UUID(int=0))
            claims._floors.learn(Look(1, place, True, place[1], SLOW, everywhere=True))
        passed = app.trigger(work, None).run
        assert poll.alone(holder, 1) == ([], True)
        assert [run.id for run in drain.alone(holder, 1)[0]] == [passed.id]
