"""Leases: lost ones go back to the queue, poison runs end, and a stale holder can write nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from runlane import Context, Fixed, Retry, Runlane, RunStatus, SettableClock, task
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.engine.complete import Finished, complete
from runlane.errors import LeaseLost
from runlane.policy import ONE_ATTEMPT
from runlane.session import LEASE_DURATION
from runlane.values import Failure
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import echo
from tests.support import SECOND, count, database_of, execute, types_of

Make = Callable[..., Runlane]


@pytest.fixture
def pair(lane_url: str, clock: SettableClock) -> Any:
    """Two runtimes on one database, as two processes would be; both closed and verified at the end."""
    made: list[Runlane] = []

    def make(*tasks: Any, others: tuple[Any, ...] | None = None) -> tuple[Runlane, Runlane]:
        one = Runlane(lane_url, tasks=tasks, clock=clock, worker_id="one").start()
        two = Runlane(one.lane, tasks=tasks if others is None else others, clock=clock, worker_id="two").start()
        made.extend((one, two))
        return one, two

    yield make
    for app in made:
        assert app.audit.verify().differences == ()
    for app in made:
        app.close()


def test_the_lease_names_its_holder(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    run = two.trigger(echo, 1).run
    (leased,) = take(two, clock)
    assert leased.status is RunStatus.RUNNING
    assert (leased.lease.worker_id, leased.lease.attempt, leased.lease.leased_at) == ("two", 1, clock())
    assert leased.lease.session_id == session_of(two).holder.session_id != session_of(one).holder.session_id
    assert one.runs.get(run.id) == leased
    assert one.execute_next() is None
    assert str(one.runs.events(run.id)[-1].actor) == "worker:two"


def test_runs_of_an_expired_session_go_back_to_the_queue(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    runs = [triggered.run for triggered in one.trigger_many(echo, range(3))]
    take(one, clock, 2)
    clock.advance(LEASE_DURATION - SECOND)
    assert two.tick().runs_recovered == 0
    clock.advance(SECOND)
    report = two.tick()
    assert (report.sessions_expired, report.runs_recovered, report.errors) == (1, 2, ())
    for run in runs[:2]:
        found = two.runs.get(run.id)
        assert (found.status, found.lost_count, found.lease, found.due_at) == (RunStatus.QUEUED, 1, None, clock())
        assert (found.failure_count, found.retry_count) == (0, 0)
        last = two.runs.events(run.id)[-1]
        assert (type(last.event).__name__, str(last.actor)) == ("RunLeaseExpired", "system:runlane")
    assert two.runs.get(runs[2].id) == runs[2]
    assert two.tick().runs_recovered == 0
    assert [two.execute_next().result for _ in range(3)] == [2, 0, 1]


def test_a_heartbeat_keeps_the_leases(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    one.trigger(echo, 1)
    take(one, clock)
    for _ in range(5):
        clock.advance(LEASE_DURATION - SECOND)
        assert session_of(one).beat()
        assert two.tick().runs_recovered == 0


def test_an_expired_session_is_never_revived(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    first = session_of(one)
    clock.advance(EXPIRY)
    two.tick()
    assert not first.beat()
    assert not first.trusted
    assert not first.beat()
    second = session_of(one)
    assert second.holder.session_id != first.holder.session_id
    assert second.beat()


def test_the_old_holders_outcome_is_dropped_when_the_run_was_queued_again(pair: Any, clock: SettableClock) -> None:
    """Invariant 3."""

    @task("slow")
    def slow(payload: Any) -> str:
        clock.advance(EXPIRY)
        assert two.tick().runs_recovered == 1
        return "too late"

    one, two = pair(slow, others=(echo,))
    run = one.trigger(slow, 1).run
    with pytest.raises(
        LeaseLost, match=f"run {run.id}: the lease was lost during the attempt; its outcome was dropped"
    ):
        one.execute_next()
    found = two.runs.get(run.id)
    assert (found.status, found.lost_count, found.result) == (RunStatus.QUEUED, 1, None)
    assert types_of(two, run.id) == ["RunCreated", "RunDeliveryRequested", "RunLeased", "RunLeaseExpired"]


@pytest.mark.parametrize("late", ["returns", "raises", "releases"])
def test_the_old_holders_outcome_is_dropped_when_another_has_finished(
    pair: Any, clock: SettableClock, late: str
) -> None:
    """Invariants 3 and 4."""

    @task("contested", retry=Retry(5, Fixed("1s")))
    def contested(payload: Any, context: Context) -> Any:
        if context.worker_id == "two":
            return "second"
        clock.advance(EXPIRY)
        two.tick()
        assert two.execute_next().result == "second"
        if late == "raises":
            raise ValueError("too late")
        return context.release("1s") if late == "releases" else "first"

    one, two = pair(contested)
    run = one.trigger(contested, 1).run
    with pytest.raises(LeaseLost):
        one.execute_next()
    found = one.runs.get(run.id)
    assert (found.status, found.result, found.attempt_count, found.lost_count) == (RunStatus.SUCCEEDED, "second", 2, 1)
    assert types_of(one, run.id)[-3:] == ["RunLeaseExpired", "RunLeased", "RunSucceeded"]


def test_a_worker_drops_what_comes_too_late_and_works_on(
    pair: Any, clock: SettableClock, caplog: pytest.LogCaptureFixture
) -> None:
    @task("slow")
    def slow(payload: Any, context: Context) -> str:
        if context.attempt == 1:
            clock.advance(EXPIRY)
            two.tick()
            assert not session_of(one).beat()
            assert context.signal.reason == "lease_lost"
        return f"attempt {context.attempt}"

    one, two = pair(slow, others=(echo,))
    run = one.trigger(slow, 1).run
    with caplog.at_level(logging.WARNING):
        # A single slot: nothing is claimed under the dead session before that is noticed.
        one.worker("drain", concurrency=1, maintenance=False).run()
    found = one.runs.get(run.id)
    assert (found.status, found.result, found.attempt_count) == (RunStatus.SUCCEEDED, "attempt 2", 2)
    assert "dropped 1 outcomes of a lost worker session" in caplog.text


OUTCOMES: list[Outcome] = [
    Succeeded("late"),
    Failed(Failure("task_failed", "late", True)),
    Failed(Failure("task_failed", "late", False)),
    Released(delay=SECOND),
    Interrupted("late"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda one: type(one).__name__)
def test_an_outcome_is_written_once_and_only_for_the_open_lease(
    pair: Any, clock: SettableClock, outcome: Outcome
) -> None:
    one, _ = pair(echo)
    one.trigger(echo, 1)
    (stale,) = take(one, clock)
    retry = Retry(9, Fixed("1s"))

    def finish(run: Any, outcome: Outcome) -> Any:
        finished = Finished(run, outcome, retry)
        return database_of(one).transact(lambda tx: complete(tx, [finished], clock(), 1000)[0], clock)

    again = finish(stale, Interrupted("first"))
    assert again.status is RunStatus.QUEUED
    before = count(database_of(one), "events")
    assert finish(stale, outcome) is None
    (current,) = take(one, clock)
    assert current.lease.session_id == stale.lease.session_id
    assert finish(stale, outcome) is None
    assert one.runs.get(stale.id) == current
    assert count(database_of(one), "events") == before + 1


def test_after_too_many_losses_the_run_fails(pair: Any, clock: SettableClock) -> None:
    @task("poison", retry=Retry(10, max_lost=3))
    def poison(payload: Any) -> None:
        """Never gets to its end."""

    one, two = pair(poison)
    run = one.trigger(poison, 1).run
    for losses in (1, 2, 3):
        assert [leased.id for leased in take(one, clock)] == [run.id]
        clock.advance(EXPIRY)
        two.tick()
        session_of(one).beat()
        assert two.runs.get(run.id).lost_count == losses
    found = two.runs.get(run.id)
    assert (found.status, found.failure.code, found.failure.retryable) == (RunStatus.FAILED, "lease_lost", False)
    assert "vanished 3 times; the last one was one" in found.failure.message
    assert two.execute_next() is None


@pytest.mark.parametrize("max_lost", [1, 2])
def test_the_limit_of_losses_is_the_tasks(pair: Any, clock: SettableClock, max_lost: int) -> None:
    @task("poison", retry=Retry(1, max_lost=max_lost))
    def poison(payload: Any) -> None:
        """Never gets to its end."""

    one, two = pair(poison)
    run = one.trigger(poison, 1).run
    for _ in range(max_lost):
        assert two.runs.get(run.id).status is RunStatus.QUEUED
        take(one, clock)
        clock.advance(EXPIRY)
        two.tick()
        session_of(one).beat()
    assert two.runs.get(run.id).status is RunStatus.FAILED


def test_a_stray_lease_is_given_back_at_the_second_beat(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    run = one.trigger(echo, 1).run
    take(one, clock)
    assert session_of(one).beat()
    assert two.runs.get(run.id).status is RunStatus.RUNNING
    assert session_of(one).beat()
    found = two.runs.get(run.id)
    assert (found.status, found.lost_count, found.failure_count) == (RunStatus.QUEUED, 0, 0)
    last = two.runs.events(run.id)[-1]
    assert (type(last.event).__name__, last.event.reason, str(last.actor)) == ("RunInterrupted", "stray", "worker:one")
    assert two.execute_next().result == 1


def test_a_lease_that_is_executed_is_no_stray_however_often_the_heart_beats(pair: Any) -> None:
    @task("long")
    def long(payload: Any) -> str:
        for _ in range(4):
            assert session_of(one).beat()
        return "done"

    one, _ = pair(long)
    one.trigger(long, 1)
    assert one.execute_next().result == "done"
    one.trigger(long, 2)
    one.worker("drain", maintenance=False).run()
    assert one.runs.count() == {RunStatus.SUCCEEDED: 2}
    assert one.run_now(long, 3).run.result == "done"


def test_a_second_lease_of_the_same_run_is_not_the_first_ones_stray(pair: Any, clock: SettableClock) -> None:
    one, _ = pair(echo)
    one.trigger(echo, 1)
    take(one, clock)
    assert session_of(one).beat()
    (first,) = one.runs.list().data
    finished = Finished(first, Interrupted("by hand"), ONE_ATTEMPT)
    database_of(one).transact(lambda tx: complete(tx, [finished], clock(), 1000), clock)
    take(one, clock)
    assert session_of(one).beat()  # the first time that it sees attempt 2
    assert one.runs.get(first.id).status is RunStatus.RUNNING
    assert session_of(one).beat()
    assert one.runs.get(first.id).status is RunStatus.QUEUED


def test_a_session_without_leases_goes_with_its_runtime(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    session_of(one)
    one.close()
    clock.advance(EXPIRY)
    assert two.tick().sessions_expired == 0


def test_a_session_with_leases_is_left_to_expire(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    run = one.trigger(echo, 1).run
    take(one, clock)
    one.close()
    assert two.tick().runs_recovered == 0
    clock.advance(EXPIRY)
    assert two.tick().runs_recovered == 1
    assert two.runs.get(run.id).status is RunStatus.QUEUED


def test_runs_of_a_session_that_has_no_row_are_recovered_at_once(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    run = one.trigger(echo, 1).run
    take(one, clock)
    table = "sessions" if database_of(one).schema is None else "runlane.sessions"
    execute(database_of(one), f"delete from {table}")
    assert two.tick().runs_recovered == 1
    assert two.runs.get(run.id).lost_count == 1


def test_a_session_with_more_leases_than_one_transaction_takes_is_emptied(pair: Any, clock: SettableClock) -> None:
    one, two = pair(echo)
    one.trigger_many(echo, range(1001))
    assert len(take(one, clock, 1001)) == 1001
    clock.advance(EXPIRY)
    assert two.tick().runs_recovered == 1001
    assert two.runs.count() == {RunStatus.QUEUED: 1001}


def test_sessions_of_another_environment_are_none_of_our_business(lane_url: str, clock: SettableClock) -> None:
    one = Runlane(lane_url, tasks=[echo], clock=clock, environment="one").start()
    two = Runlane(one.lane, tasks=[echo], clock=clock, environment="two").start()
    run = one.trigger(echo, 1).run
    take(one, clock)
    clock.advance(EXPIRY)
    assert (two.tick().sessions_expired, one.runs.get(run.id).status) == (0, RunStatus.RUNNING)
    assert one.tick().runs_recovered == 1
    one.close()
    two.close()
