"""Claims: in order, never too many, only what is due and asked for, and no two workers with one run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from attrs import evolve

from runlane import codec, decisions
from runlane.engine import lease
from runlane.engine.lease import Holder
from runlane.events import (
    RunCancelled,
    RunDispatchReserved,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunStep,
)
from runlane.projections.runs import Run
from runlane.storage import claims, log, queries, sessions, streams
from runlane.storage.database import Database
from runlane.storage.floors import Stretch
from runlane.values import Failure, RunStatus
from tests.support import SECOND, START, at_once, birth, database_at, execute, named, raw, step

LATER = START + timedelta(hours=1)


def born(database: Database, **options: object) -> Run:
    change = birth(**options)
    with database.write() as tx:
        assert log.append_runs(tx, [change]) == set()
    return change.after


def released(database: Database, until: datetime, **options: object) -> Run:
    """A run whose handler asked to continue at `until`."""
    run = born(database, **options)
    session = uuid4()
    change = step(run, RunLeased(session, "w", 1), RunReleased(session, 1, until))
    with database.write() as tx:
        assert log.append_runs(tx, [change]) == set()
    return change.after


def due(
    database: Database,
    limit: int,
    *,
    now: datetime = LATER,
    queues: Sequence[str] = ("default",),
    tasks: Sequence[str] = ("work",),
    environment: str = "default",
) -> list[Run]:
    session_id = session_in(database)
    with database.write() as tx:
        return claims.lock_due(tx, environment, session_id, [Stretch(queue) for queue in queues], tasks, now, limit)


def session_in(database: Database) -> UUID:
    """A new worker session."""
    session_id = uuid4()
    with database.write() as tx:
        sessions.open_session(tx, session_id, "default", "w", START, LATER)
    return session_id


def ids(runs: Sequence[Run]) -> list[UUID]:
    return [run.id for run in runs]


def test_the_order_is_priority_then_due_time_then_id(database: Database) -> None:
    draw = random.Random(7)
    runs = [
        born(database, priority=priority, at=START + n * SECOND)
        for priority in (-5, 0, 3)
        for n in (0, 1)
        for _ in range(3)
    ]
    draw.shuffle(runs)
    best = sorted(runs, key=lambda run: (-run.priority, run.due_at, run.id))
    assert ids(due(database, 100)) == ids(best)
    for limit in (1, 4, 7, 17, 18):
        assert ids(due(database, limit)) == ids(best)[:limit]


def test_the_order_holds_over_statuses_and_queues(database: Database) -> None:
    runs = [
        born(database, priority=1, queue="a"),
        released(database, START + SECOND, priority=5, queue="a"),
        released(database, START + SECOND, priority=0, queue="b"),
        born(database, priority=9, queue="b"),
        born(database, priority=5, at=START, run_at=START + 2 * SECOND, queue="b"),
    ]
    best = sorted(runs, key=lambda run: (-run.priority, run.due_at, run.id))
    assert ids(due(database, 10, queues=["a", "b"])) == ids(best)


def test_a_small_claim_takes_the_waiting_run_of_the_highest_priority(database: Database) -> None:
    released(database, START + SECOND, priority=0)
    urgent = released(database, START + 2 * SECOND, priority=9)
    assert ids(due(database, 1)) == [urgent.id]


def test_never_more_than_asked_for_over_all_queues_and_statuses(database: Database) -> None:
    for queue in ("a", "b", "c"):
        for _ in range(4):
            born(database, queue=queue)
            released(database, START, queue=queue)
    for limit in (1, 2, 5, 23, 24, 100):
        assert len(due(database, limit, queues=["a", "b", "c"])) == min(limit, 24)


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": -1}, {"limit": 5, "queues": []}, {"limit": 5, "tasks": []}]
)
def test_asking_for_nothing_finds_nothing(database: Database, options: dict) -> None:
    born(database)
    assert due(database, **options) == []


def test_what_is_not_due_is_left_alone_until_its_instant(database: Database) -> None:
    scheduled = born(database, run_at=START + 10 * SECOND)
    waiting = released(database, START + 20 * SECOND)
    almost = timedelta(microseconds=1)
    assert due(database, 10, now=START + 10 * SECOND - almost) == []
    assert ids(due(database, 10, now=START + 10 * SECOND)) == [scheduled.id]
    assert ids(due(database, 10, now=START + 20 * SECOND - almost)) == [scheduled.id]
    assert ids(due(database, 10, now=START + 20 * SECOND)) == [scheduled.id, waiting.id]


def test_many_future_runs_do_not_lie_in_the_way(database: Database) -> None:
    with database.write() as tx:
        log.append_runs(tx, [birth(run_at=START + timedelta(days=9), priority=9) for _ in range(200)])
    ready = born(database, priority=-9)
    assert ids(due(database, 1)) == [ready.id]


def test_leased_and_finished_runs_are_left_alone(database: Database) -> None:
    leased, ended = born(database), born(database)
    with database.write() as tx:
        log.append_runs(tx, [step(leased, RunLeased(uuid4(), "w", 1)), step(ended, RunCancelled(None))])
    assert due(database, 10) == []


def test_only_the_queues_tasks_and_environment_that_were_asked_for(database: Database) -> None:
    wanted = born(database, queue="a", task_id="t")
    born(database, queue="b", task_id="t")
    born(database, queue="a", task_id="other")
    born(database, queue="a", task_id="t", environment="other")
    assert ids(due(database, 10, queues=["a"], tasks=["t"])) == [wanted.id]
    assert ids(due(database, 10, queues=["a", "unknown"], tasks=["unknown", "t"])) == [wanted.id]


@pytest.mark.parametrize(
    "name", ["it's", 'say "so"', "100%", "a,b", "{curly}", "back\\slash", "null", "ü—漢🙂", "%s ?"]
)
def test_names_are_values_and_never_statement_text(database: Database, name: str) -> None:
    run = born(database, queue=name, task_id=name, environment=name, key=name)
    assert ids(due(database, 10, queues=[name], tasks=[name], environment=name)) == [run.id]


def test_eight_workers_at_once_get_every_run_exactly_once(shared: Database) -> None:
    with shared.write() as tx:
        log.append_runs(tx, [birth(priority=n % 3) for n in range(200)])

    def work(n: int) -> list[UUID]:
        holder = Holder(session_in(shared), f"w{n}")
        mine: list[UUID] = []
        while True:
            found = shared.transact(lambda tx: lease.claim(tx, "default", holder, ["default"], ["work"], 7, LATER))
            if not found:
                return mine
            mine += [run.id for run in found if run.lease is not None and run.lease.session_id == holder.session_id]

    claimed = at_once([lambda n=n: work(n) for n in range(8)])
    together = [run_id for one in claimed for run_id in one]
    assert len(together) == len(set(together)) == 200


def test_a_claim_passes_by_rows_that_somebody_has_locked(postgres_url: str) -> None:
    impatient = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20lock_timeout%3D3000"
    with database_at(postgres_url) as database, database_at(impatient) as claimer:
        runs = [born(database, priority=9 - n) for n in range(4)]
        waiting = [released(database, START + n * SECOND) for n in range(2)]
        with raw(database) as connection:
            connection.exec_driver_sql(
                "select 1 from runlane.runs where id = any(%s) for update", ([runs[0].id, runs[2].id, waiting[0].id],)
            )
            assert ids(due(claimer, 10)) == [runs[1].id, runs[3].id, waiting[1].id]
            assert ids(due(claimer, 1)) == [runs[1].id]
        assert ids(due(claimer, 2)) == [runs[0].id, runs[1].id]


def test_a_session_that_has_ended_claims_nothing(database: Database) -> None:
    """Its leases would only be taken away again, and count as losses."""
    born(database)
    with database.write() as tx:
        assert claims.lock_due(tx, "default", uuid4(), [Stretch("default")], ["work"], LATER, 10) == []
    assert len(due(database, 10)) == 1


def waited(database: Database, draw: random.Random, now: datetime) -> Run:
    """A due run with some past: new, released, failed, interrupted or lost before, moved by a clock that was ahead."""
    changes = [birth(priority=draw.choice([-1, 0, 5]))]
    failure = Failure("task_failed", "no", True)
    for attempt in range(1, draw.choice([1, 1, 2, 4])):
        run, gone = changes[-1].after, uuid4()
        changes.append(step(run, RunLeased(gone, "w0", attempt), at=max(run.updated_at, run.due_at or START)))
        waits: list[RunStep] = [
            RunReleased(gone, attempt, START + attempt * SECOND),
            RunRetryScheduled(gone, attempt, failure, START + attempt * SECOND, 1000, 0),
        ]
        queued: list[RunStep] = [RunLeaseExpired(gone, attempt), RunInterrupted(gone, attempt, "worker_stopping")]
        ahead = draw.random() < 0.2
        ended = draw.choice(waits if ahead else waits + queued)
        changes.append(step(changes[-1].after, ended, at=now + SECOND if ahead else changes[-1].after.updated_at))
        if ahead:
            break
    if changes[-1].after.status is RunStatus.QUEUED and draw.random() < 0.3:
        changes.append(step(changes[-1].after, RunDispatchReserved(None), at=changes[-1].after.updated_at))
    with database.write() as tx:
        for change in changes:
            assert log.append_runs(tx, [change]) == set()
    return changes[-1].after


@pytest.mark.parametrize("seed", range(3))
def test_the_statement_that_leases_does_what_the_decision_and_the_fold_do(database: Database, seed: int) -> None:
    draw, now = random.Random(seed), START + timedelta(minutes=1)
    before = {run.id: run for run in (waited(database, draw, now) for _ in range(60))}
    assert {run.attempt_count for run in before.values()} >= {0, 1, 3}
    holder = Holder(session_in(database), 'w 1 "one" 1')
    with database.write() as tx:
        who = holder.session_id, holder.worker_id
        leased, due_at = claims.lease_due(tx, "default", *who, [Stretch("default")], ["work"], now, limit=100)
    assert due_at == before[leased[-1].id].due_at
    expected = {
        run.id: decisions.advance(run, decisions.lease(run, holder.session_id, holder.worker_id), now, holder.actor)
        for run in before.values()
    }
    assert ids(leased) == ids(sorted(before.values(), key=lambda run: (-run.priority, run.due_at, run.id)))
    assert {run.id: run for run in leased} == {run_id: change.after for run_id, change in expected.items()}
    with database.read() as tx:
        assert queries.get_runs(tx, list(expected)) == {run.id: run for run in leased}
        for run in leased:
            (record,) = streams.read_after(tx, run.id, before[run.id].sequence, 10)
            assert evolve(record, position=None) == expected[run.id].records[0]
    select = f"select stream_id, sequence, cast(data as text) from {named(database, 'events')}"
    texts = {(str(row[0]), row[1]): row[2] for row in execute(database, select)}
    for run_id, change in expected.items():
        assert texts[str(run_id), change.after.sequence] == codec.encode(change.records[0].event).data
