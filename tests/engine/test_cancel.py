"""Cancelling: a waiting run ends at once, a running one is asked durably; no request is lost (invariant 12)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from runlane import Actor, Context, NonRetryable, Runlane, RunNotFound, RunStatus, SettableClock, task
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.engine import operate
from runlane.engine.complete import Finished, complete
from runlane.errors import LeaseLost, RunStateInvalid
from runlane.policy import ONE_ATTEMPT, Retry
from runlane.requests import said
from runlane.values import Failure, new_run_id
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import HOUR, echo, flaky, patient
from tests.support import PATIENCE, database_of, types_of

Make = Callable[..., Runlane]
ANN = Actor.operator("ann")


def waiting(app: Runlane, clock: SettableClock, status: str) -> Any:
    """A run in one of the statuses that wait."""
    if status == "queued":
        return app.trigger(echo, 1).run
    if status == "scheduled":
        return app.trigger(echo, 1, delay=HOUR).run
    app.trigger({"retrying": flaky, "released": patient}[status], 1)
    return app.execute_next()


@pytest.mark.parametrize("status", ["queued", "scheduled", "retrying", "released"])
def test_a_waiting_run_is_cancelled_at_once(make_app: Make, clock: SettableClock, status: str) -> None:
    app = make_app(echo, flaky, patient, clock=clock)
    run = waiting(app, clock, status)
    assert run.status == status
    done = app.runs.cancel(run.id, actor=ANN, reason="not needed", meta={"ticket": 7})
    assert (done.status, done.finished_at, done.due_at) == (RunStatus.CANCELLED, clock(), None)
    assert (done.cancellation.actor, done.cancellation.reason) == (ANN, "not needed")
    assert app.runs.get(run.id) == done
    last = app.runs.events(run.id)[-1]
    assert (last.actor, last.event.reason, last.event.meta) == (ANN, "not needed", {"ticket": 7})
    clock.advance(HOUR * 2)
    assert app.execute_next() is None


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Succeeded("done"), RunStatus.CANCELLED),
        (Released(delay=HOUR), RunStatus.CANCELLED),
        (Interrupted("worker_stopping"), RunStatus.CANCELLED),
        (Failed(Failure("task_failed", "broken", True)), RunStatus.FAILED),
        (Failed(Failure("task_failed", "broken", False)), RunStatus.FAILED),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_owner_of_a_running_run_ends_it(
    make_app: Make, clock: SettableClock, outcome: Outcome, status: RunStatus
) -> None:
    app = make_app(echo, clock=clock)
    app.trigger(echo, 1)
    (leased,) = take(app, clock)
    asked = app.runs.cancel(leased.id, actor=ANN, reason="stop")
    assert (asked.status, asked.lease) == (RunStatus.CANCELLATION_REQUESTED, leased.lease)
    assert app.execute_next() is None, "it is not claimable"
    finished = Finished(leased, outcome, Retry(9))
    after = database_of(app).transact(lambda tx: complete(tx, [finished], clock(), 1000)[0], clock)
    assert after.status is status
    assert app.runs.get(leased.id) == after


def test_asking_twice_changes_nothing(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    app.trigger(echo, 1)
    (leased,) = take(app, clock)
    first = app.runs.cancel(leased.id, actor=ANN)
    assert app.runs.cancel(leased.id, actor=Actor.operator("bob")) == first
    assert types_of(app, leased.id).count("RunCancellationRequested") == 1


def test_an_ended_run_refuses_and_a_missing_one_is_not_found(make_app: Make) -> None:
    app = make_app(echo)
    run = app.trigger(echo, 1).run
    app.execute_next()
    with pytest.raises(RunStateInvalid, match="has ended as succeeded"):
        app.runs.cancel(run.id)
    with pytest.raises(RunNotFound):
        app.runs.cancel(new_run_id())


def test_maintenance_ends_what_a_dead_owner_was_asked_to_stop(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    app.trigger(echo, 1)
    (leased,) = take(app, clock)
    app.runs.cancel(leased.id, reason="stop")
    clock.advance(EXPIRY)
    app.tick()
    done = app.runs.get(leased.id)
    assert (done.status, done.lost_count) == (RunStatus.CANCELLED, 0)
    assert types_of(app, leased.id)[-2:] == ["RunCancellationRequested", "RunCancelled"]


def test_a_handler_in_this_process_hears_of_it_at_once(make_app: Make) -> None:
    started = threading.Event()

    @task("listens")
    def listens(payload: Any, context: Context) -> str:
        started.set()
        assert context.signal.wait(PATIENCE)
        assert context.is_cancellation_requested()
        context.signal.raise_if_set()
        return "never"

    app = make_app(listens)
    run = app.trigger(listens, 1).run
    worker = app.worker(maintenance=False)
    worker.start()
    assert started.wait(PATIENCE)
    app.runs.cancel(run.id)
    assert app.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.CANCELLED
    worker.stop()


@pytest.mark.parametrize("kind", ["run_now", "async"])
def test_every_kind_of_execution_hears_of_it(make_app: Make, kind: str) -> None:
    @task("stops")
    def stops(payload: Any, context: Context) -> str:
        app.runs.cancel(context.run.id)
        context.signal.raise_if_set()
        return "never"

    @task("stops.async")
    async def stops_async(payload: Any, context: Context) -> str:
        return stops(payload, context)

    app = make_app(stops, stops_async)
    done = app.run_now(stops if kind == "run_now" else stops_async, 1).run
    assert done.status is RunStatus.CANCELLED


def test_a_handler_in_another_process_hears_of_it_at_the_next_heartbeat(shared_url: str) -> None:
    heard = threading.Event()
    started = threading.Event()

    @task("elsewhere")
    def elsewhere(payload: Any, context: Context) -> None:
        started.set()
        if context.signal.wait(PATIENCE) and context.is_cancellation_requested():
            heard.set()
        context.signal.raise_if_set()

    with Runlane(shared_url, tasks=[elsewhere]) as one, Runlane(shared_url, tasks=[elsewhere]) as two:
        run = one.trigger(elsewhere, 1).run
        worker = one.worker(maintenance=False)
        worker.start()
        assert started.wait(PATIENCE)
        two.runs.cancel(run.id)
        assert not heard.is_set()
        assert session_of(one).beat()
        assert heard.wait(PATIENCE)
        assert two.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.CANCELLED
        worker.stop()


def test_a_failure_after_the_request_stays_a_failure(make_app: Make) -> None:
    @task("breaks")
    def breaks(payload: Any, context: Context) -> None:
        app.runs.cancel(context.run.id)
        raise NonRetryable("could not undo")

    app = make_app(breaks)
    done = app.run_now(breaks, 1).run
    assert (done.status, done.failure.message) == (RunStatus.FAILED, "could not undo")


def test_a_request_and_a_success_at_once_end_as_one_of_them(shared_url: str, clock: SettableClock) -> None:
    """Statement by statement: the request has locked the run, the outcome waits for it, then decides again."""
    with Runlane(shared_url, tasks=[echo], clock=clock) as app:
        run = app.trigger(echo, 1).run
        (leased,) = take(app, clock)
        database = database_of(app)
        found: list[Any] = []

        def succeed() -> None:
            finished = Finished(leased, Succeeded("done"), ONE_ATTEMPT)
            found.extend(database.transact(lambda tx: complete(tx, [finished], clock(), 1000), clock))

        owner = threading.Thread(target=succeed)
        with database.write(clock) as tx:
            operate.cancel(tx, app.environment, run.id, said(ANN, "stop"))
            owner.start()
            owner.join(0.3)
            assert found == [], "the outcome has to wait for whoever locked the run first"
        owner.join(PATIENCE)
        assert found[0].status is RunStatus.CANCELLED
        assert types_of(app, run.id)[-2:] == ["RunCancellationRequested", "RunCancelled"]
        assert app.audit.verify().identical


def test_a_cancelled_run_frees_nothing_that_a_late_owner_could_write(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)

    @task("late")
    def late(payload: Any, context: Context) -> str:
        app2.runs.cancel(context.run.id)
        clock.advance(EXPIRY)
        app2.tick()
        return "late"

    app2 = Runlane(app.lane, tasks=[late], clock=clock).start()
    run = app2.trigger(late, 1).run
    with pytest.raises(LeaseLost):
        app2.execute_next()
    assert app2.runs.get(run.id).status is RunStatus.CANCELLED
    app2.close()
