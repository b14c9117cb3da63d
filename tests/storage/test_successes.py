"""Successes that PostgreSQL appends by itself: what the decision and the fold make of them, alone or beside a claim."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from attrs import evolve

from runlane import codec, decisions
from runlane.decisions import Released, Succeeded
from runlane.engine.complete import Finished, successes
from runlane.engine.lease import Holder
from runlane.events import RunCancellationRequested
from runlane.policy import ONE_ATTEMPT
from runlane.projections.runs import Run
from runlane.storage import claims, log, queries, streams
from runlane.storage.database import Database
from runlane.storage.floors import Stretch
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus
from tests.storage.test_claims import born, session_in, waited
from tests.support import SECOND, START, database_at, execute, named, step


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    with database_at(postgres_url) as found:
        yield found


def leased(database: Database, holder: Holder, limit: int = 100) -> list[Run]:
    with database.write() as tx:
        now = START + timedelta(minutes=1)
        who = holder.session_id, holder.worker_id
        return claims.lease_due(tx, "default", *who, [Stretch("default")], ["work"], now, limit)[0]


def store(database: Database, ended: Successes, holder: Holder | None = None, most: int = 5) -> list[Run]:
    """Store successes, beside a claim of `holder`'s if there is one; what that has leased."""

    def work(tx: Transaction) -> list[Run]:
        if holder is None:
            log.append_successes(tx, ended)
            return []
        who, where = (holder.session_id, holder.worker_id), [Stretch("default")]
        return claims.lease_due(tx, "default", *who, where, ["work"], None, most, ended)[0]

    return database.singly(work)


def of(runs: list[Run], results: list[Any]) -> Successes:
    ended = successes(finished(runs, results))
    assert ended is not None
    return ended


def finished(runs: list[Run], results: list[Any]) -> list[Finished]:
    return [Finished(run, Succeeded(result), ONE_ATTEMPT) for run, result in zip(runs, results, strict=True)]


def expected(run: Run, result: Any, stored: Run, holder: Holder) -> decisions.Change:
    """What the decision and the fold make of a success at the moment that was stored."""
    lease = run.lease
    assert lease is not None
    events = decisions.complete(
        run, lease.session_id, lease.attempt, Succeeded(result), ONE_ATTEMPT, stored.updated_at, 0.0
    )
    return decisions.advance(run, events, stored.updated_at, holder.actor)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_the_statement_does_what_the_decision_and_the_fold_do(database: Database, seed: int, beside: bool) -> None:
    draw = random.Random(seed)
    for _ in range(30):
        waited(database, draw, START + timedelta(minutes=1))
    holder = Holder(session_in(database), 'w 1 "one" 1')
    runs = leased(database, holder)
    results = [draw.choice([None, 1, {"a": 'x"\\'}, ["é"]]) for _ in runs]
    assert {run.failure is None for run in runs} == {True, False}
    fresh = [born(database).id for _ in range(3)]
    # One is another one's by now: a cancellation was asked for.
    moved = step(runs[5], RunCancellationRequested(None), at=runs[5].updated_at)
    with database.write() as tx:
        assert log.append_runs(tx, [moved]) == set()
    ended = of(runs, results)
    before = database.transact(lambda tx: tx.now())
    found = store(database, ended, holder if beside else None, most=2)
    after = database.transact(lambda tx: tx.now())
    assert ended.late == {runs[5].id}
    assert [run.id for run in found] == (fresh[:2] if beside else [])
    with database.read() as tx:
        stored = queries.get_runs(tx, [run.id for run in runs] + fresh)
        for run, result in zip(runs, results, strict=True):
            if run.id == runs[5].id:
                assert stored[run.id] == moved.after
                continue
            change = expected(run, result, stored[run.id], holder)
            assert stored[run.id] == change.after
            assert before <= stored[run.id].updated_at <= after or stored[run.id].updated_at == run.updated_at
            (record,) = streams.read_after(tx, run.id, run.sequence, 10)
            assert evolve(record, position=None) == change.records[0]
        for run in found:
            assert stored[run.id] == run
            assert run.status is RunStatus.RUNNING
    select = f"select stream_id, sequence, cast(data as text) from {named(database, 'events')}"
    texts = {(str(row[0]), row[1]): row[2] for row in execute(database, select)}
    for run, result in zip(runs, results, strict=True):
        if run.id != runs[5].id:
            event = expected(run, result, stored[run.id], holder).records[0].event
            assert texts[str(run.id), run.sequence + 1] == codec.encode(event).data


def test_time_does_not_run_backwards_under_a_clock_that_was_set_back(database: Database) -> None:
    holder = Holder(session_in(database), "w")
    born(database)
    ahead = database.transact(lambda tx: tx.now()) + timedelta(hours=1)
    with database.write() as tx:
        who = holder.session_id, holder.worker_id
        (run,), _ = claims.lease_due(tx, "default", *who, [Stretch("default")], ["work"], ahead, 1)
    store(database, of([run], [None]))
    with database.read() as tx:
        stored = queries.get_runs(tx, [run.id])[run.id]
    assert (stored.status, stored.finished_at) == (RunStatus.SUCCEEDED, ahead)


def test_with_nothing_to_claim_from_they_are_stored_all_the_same(database: Database) -> None:
    holder = Holder(session_in(database), "w")
    born(database)
    runs = leased(database, holder)
    ended = of(runs, [None])
    who = holder.session_id, holder.worker_id
    found = database.singly(lambda tx: claims.lease_due(tx, "default", *who, [], ["work"], None, 5, ended))
    assert found == ([], None)
    with database.read() as tx:
        assert queries.get_runs(tx, [runs[0].id])[runs[0].id].status is RunStatus.SUCCEEDED


def test_where_nothing_is_due_and_nothing_was_stored_that_is_told(database: Database) -> None:
    holder = Holder(session_in(database), "w")
    born(database)
    runs = leased(database, holder)
    for late in (set(), {runs[0].id}):
        ended = of(runs, [None])
        assert store(database, ended, holder) == []
        assert ended.late == late


def test_only_successes_are_stored_this_way(database: Database) -> None:
    holder = Holder(session_in(database), "w")
    for _ in range(2):
        born(database)
    one, other = leased(database, holder)
    mixed = [*finished([one], [1]), Finished(other, Released(SECOND, None, None, None), ONE_ATTEMPT)]
    assert successes(mixed) is None


def test_a_session_that_has_ended_stores_and_claims_nothing_new(database: Database) -> None:
    """A stale lease's success is refused by the sequence, not by the session: here nobody has taken it over yet."""
    holder = Holder(session_in(database), "w")
    born(database)
    runs = leased(database, holder)
    born(database)
    ended = of(runs, [None])
    assert store(database, ended, Holder(uuid4(), "w")) == []
    assert ended.late == set()
