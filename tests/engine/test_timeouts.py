"""An attempt lasts no longer than its task's timeout: what is recorded, what the handler hears, what a slot is."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from runlane import Context, Fixed, NonRetryable, Retry, Runlane, RunStatus, SettableClock, Task, Worker, task
from runlane.engine import lease
from runlane.errors import AttemptTimeout, ConfigurationInvalid, ErrorCode, LeaseLost, OperationCancelled
from runlane.projections.runs import Run
from runlane.storage import sessions
from tests.engine.sessions import session_of, take
from tests.engine.tasks import HOUR, echo, echo_async
from tests.support import PATIENCE, database_of, eventually, types_of

Make = Callable[..., Runlane]
#: Passes in a test.
SHORT = "50ms"
TWICE = Retry(2, Fixed("1h"), jitter=0.0)
TIMED_OUT = ["RunCreated", "RunDeliveryRequested", "RunLeased", "RunRetryScheduled"]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds handlers until the test opens it, at its end at the latest."""
    event = threading.Event()
    yield event
    event.set()


class Deaf:
    """A ``def`` task that hears its signal but goes on until the gate opens."""

    def __init__(self, gate: threading.Event, **options: Any) -> None:
        self.gate = gate
        self.reasons: list[str | None] = []
        self.entered, self.left = threading.Event(), threading.Event()
        self.task: Task[..., Any] = task("deaf", **{"timeout": SHORT, "retry": TWICE} | options)(self._handle)

    def _handle(self, payload: Any, context: Context) -> str:
        self.entered.set()
        try:
            assert context.signal.wait(PATIENCE)
            self.reasons.append(context.signal.reason)
            assert self.gate.wait(PATIENCE)
        finally:
            self.left.set()
        return "too late"


def ends_with(ending: Any) -> Any:
    if isinstance(ending, BaseException):
        raise ending
    return ending


ENDINGS = {
    "a result": lambda context: "late",
    "what is no JSON": lambda context: object(),
    "a release": lambda context: context.release("1h"),
    "a failure": lambda context: ValueError("late"),
    "a failure that is not retried": lambda context: NonRetryable("late"),
    "the signal": lambda context: OperationCancelled("as asked"),
    "the end of the program": lambda context: SystemExit(3),
}


def late(ending: str, **options: Any) -> Task[..., Any]:
    @task("late", **{"timeout": SHORT, "retry": TWICE} | options)
    def come_late(payload: Any, context: Context) -> Any:
        assert context.signal.wait(PATIENCE)
        return ends_with(ENDINGS[ending](context))

    return come_late


def late_async(ending: str, **options: Any) -> Task[..., Any]:
    @task("late", **{"timeout": SHORT, "retry": TWICE} | options)
    async def come_late(payload: Any, context: Context) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return ends_with(ENDINGS[ending](context))

    return come_late


def check(run: Run, app: Runlane) -> None:
    assert app.runs.get(run.id) == run
    assert (run.status, run.result, run.release_count) == (RunStatus.RETRYING, None, 0)
    assert (run.failure_count, run.retry_count, run.lease) == (1, 1, None)
    assert run.failure is not None
    assert (run.failure.code, run.failure.retryable) == (ErrorCode.ATTEMPT_TIMEOUT, True)
    assert (run.failure.message, run.failure.exception_type) == (
        "the attempt took longer than 0.05 s",
        "AttemptTimeout",
    )
    assert types_of(app, run.id) == TIMED_OUT


def working(app: Runlane, **options: Any) -> Worker:
    worker = app.worker(maintenance=False, poll_interval=3600, **options)
    worker.start()
    return worker


def idle(worker: Worker) -> None:
    """Wait until the worker has nothing to do but wait."""
    exchange = worker._exchange
    worker._exchange.ring()
    eventually(
        lambda: not exchange._in_flight and not exchange._finished and exchange._waiting == len(exchange._threads)
    )


def timed_out(app: Runlane, run: Run) -> Run:
    return eventually(
        lambda: found if (found := app.runs.get(run.id)).status is not RunStatus.RUNNING and found.failure else None,
        "the timeout being recorded",
    )


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make_task", [late, late_async], ids=["def", "async def"])
def test_inline_the_timeout_is_the_outcome_whatever_the_handler_comes_to(
    make_app: Make, make_task: Callable[..., Task[..., Any]], ending: str
) -> None:
    used = make_task(ending)
    app = make_app(used)
    app.trigger(used)
    run = app.execute_next()
    assert run is not None
    check(run, app)
    executed = app.run_now(used)
    assert executed.executed
    assert executed.run.failure is not None
    assert executed.run.failure.code == "attempt_timeout"
    assert types_of(app, executed.run.id)[-1] == "RunRetryScheduled"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make_task", [late, late_async], ids=["def", "async def"])
def test_in_a_worker_the_timeout_is_the_outcome_whatever_the_handler_comes_to(
    make_app: Make, make_task: Callable[..., Task[..., Any]], ending: str
) -> None:
    used = make_task(ending)
    app = make_app(used)
    run = app.trigger(used).run
    worker = app.worker("drain", maintenance=False)
    worker.run()
    assert worker.completed == 1
    check(app.runs.get(run.id), app)


def test_a_handler_that_does_not_listen_has_timed_out_while_it_is_inside(
    make_app: Make, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = Deaf(gate)
    app = make_app(deaf.task)
    run = app.trigger(deaf.task).run
    worker = working(app)
    with caplog.at_level(logging.INFO, "runlane"):
        check(timed_out(app, run), app)
        assert not deaf.left.is_set()
        gate.set()
        assert deaf.left.wait(PATIENCE)
        idle(worker)
    worker.stop()
    check(app.runs.get(run.id), app)
    assert deaf.reasons == ["attempt_timeout"]
    assert f"attempt 1 of run {run.id} took longer than 0.05 s" in caplog.text
    assert f"run {run.id}: the outcome of attempt 1 came too late" in caplog.text


def test_such_a_handler_keeps_its_slot_until_it_comes_back(make_app: Make, gate: threading.Event) -> None:
    deaf = Deaf(gate)
    app = make_app(deaf.task, echo, echo_async)
    run = app.trigger(deaf.task).run
    worker = working(app, concurrency=1)
    timed_out(app, run)
    waiting = [app.trigger(used, 1).run for used in (echo, echo_async)]
    idle(worker)
    assert {app.runs.get(one.id).status for one in waiting} == {RunStatus.QUEUED}
    gate.set()
    for one in waiting:
        assert app.runs.wait(one.id, timeout=PATIENCE).result == 1
    worker.stop()
    assert (worker._exchange._lingering, worker._exchange._executing) == (0, 0)


def test_the_other_slots_go_on(make_app: Make, gate: threading.Event) -> None:
    """Two that do not listen, in three slots: one is left, and it is never two at once."""
    deaf = Deaf(gate)
    now = most = 0
    lock = threading.Lock()

    @task("counts")
    def counts(payload: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(now, most)
        threading.Event().wait(0.001)
        with lock:
            now -= 1

    app = make_app(deaf.task, counts)
    stuck = [app.trigger(deaf.task).run for _ in range(2)]
    worker = working(app, concurrency=3)
    for run in stuck:
        timed_out(app, run)
    runs = [found.run for found in app.trigger_many(counts, [None] * 20)]
    for run in runs:
        assert app.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
    assert most == 1
    gate.set()
    worker.stop()
    assert worker.completed == 22


def test_a_run_that_timed_out_is_retried_while_its_handler_is_still_inside(
    make_app: Make, gate: threading.Event
) -> None:
    @task("once", timeout=SHORT, retry=Retry(2, Fixed("1ms"), jitter=0.0))
    def once(payload: Any, context: Context) -> int:
        if context.attempt == 1:
            assert gate.wait(PATIENCE)
        return context.attempt

    app = make_app(once)
    run = app.trigger(once).run
    worker = app.worker(maintenance=False, poll_interval=0.01, concurrency=2)
    worker.start()
    assert app.runs.wait(run.id, timeout=PATIENCE).result == 2
    assert not gate.is_set()
    gate.set()
    worker.stop()
    assert app.runs.get(run.id).result == 2


def test_an_async_handler_is_cancelled(make_app: Make) -> None:
    reasons: list[str | None] = []

    @task("sleeps", timeout=SHORT, retry=TWICE)
    async def sleeps(payload: Any, context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(context.signal.reason)

    app = make_app(sleeps)
    run = app.trigger(sleeps).run
    worker = working(app, concurrency=1)
    check(timed_out(app, run), app)
    eventually(lambda: reasons, "the handler being cancelled")
    idle(worker)
    assert worker._exchange._lingering == 0
    worker.stop()
    assert reasons == ["attempt_timeout"]


def test_an_async_handler_that_will_not_be_cancelled_keeps_its_slot(make_app: Make, gate: threading.Event) -> None:
    @task("stubborn", timeout=SHORT, retry=TWICE)
    async def stubborn(payload: Any) -> None:
        waiting = asyncio.ensure_future(asyncio.to_thread(gate.wait, PATIENCE))
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                continue

    app = make_app(stubborn, echo_async)
    run = app.trigger(stubborn).run
    worker = working(app, concurrency=1)
    check(timed_out(app, run), app)
    other = app.trigger(echo_async, 1).run
    idle(worker)
    assert app.runs.get(other.id).status is RunStatus.QUEUED
    gate.set()
    assert app.runs.wait(other.id, timeout=PATIENCE).result == 1
    worker.stop()


def test_an_async_handler_that_blocks_the_loop_has_timed_out_too(make_app: Make, gate: threading.Event) -> None:
    @task("blocks", timeout=SHORT, retry=TWICE)
    async def blocks(payload: Any) -> None:
        assert gate.wait(PATIENCE)

    app = make_app(blocks)
    run = app.trigger(blocks).run
    worker = working(app)
    check(timed_out(app, run), app)
    gate.set()
    worker.stop()
    check(app.runs.get(run.id), app)


def test_the_budget_is_spent(make_app: Make) -> None:
    used = late("a result", retry=Retry(2, Fixed("1ms"), jitter=0.0))
    app = make_app(used)
    run = app.trigger(used).run
    worker = app.worker(maintenance=False, poll_interval=0.01)
    worker.start()
    done = app.runs.wait(run.id, timeout=PATIENCE)
    worker.stop()
    assert (done.status, done.failure_count, done.failure.code) == (RunStatus.FAILED, 2, "attempt_timeout")


@pytest.mark.parametrize(
    ("retry", "status"),
    [
        (Retry(5), RunStatus.RETRYING),
        (Retry(5, retry_on=AttemptTimeout), RunStatus.RETRYING),
        (Retry(5, retry_on=ValueError), RunStatus.FAILED),
        (Retry(5, give_up_on=AttemptTimeout), RunStatus.FAILED),
        (None, RunStatus.FAILED),
    ],
)
def test_the_policy_sees_an_attempt_timeout(make_app: Make, retry: Retry | None, status: RunStatus) -> None:
    used = late("a result", retry=retry)
    run = make_app(used, redact_failures=True).run_now(used).run
    assert run.failure is not None
    assert (run.status, run.failure.code) == (status, "attempt_timeout")
    assert (run.failure.message, run.failure.traceback) == ("the attempt took longer than 0.05 s", None)


@pytest.mark.parametrize("used", [echo, echo_async], ids=["def", "async def"])
def test_without_a_timeout_nothing_is_watched(make_app: Make, used: Task[..., Any]) -> None:
    app = make_app(used)
    app.trigger_many(used, range(20))
    assert app.execute_next() is not None
    worker = app.worker("drain", maintenance=False)
    worker.run()
    for executor in (worker._exchange._executor, app._inline._executor):
        assert (executor._deadlines._watching, executor._deadlines._lines) == (False, {})


def test_who_is_in_time_is_not_touched_and_leaves_nothing(make_app: Make) -> None:
    @task("quick", timeout="1h")
    def quick(payload: Any, context: Context) -> bool:
        return context.signal.is_set()

    @task("quick.async", timeout="2h")
    async def quick_async(payload: Any, context: Context) -> bool:
        await asyncio.sleep(0)
        return context.signal.is_set()

    app = make_app(quick, quick_async)
    runs = [found.run for used in (quick, quick_async) for found in app.trigger_many(used, range(50))]
    assert app.execute_next() is not None
    worker = working(app)
    assert {app.runs.wait(run.id, timeout=PATIENCE).result for run in runs} == {False}
    for executor in (worker._exchange._executor, app._inline._executor):
        assert executor._deadlines._watching
        assert not any(executor._deadlines._lines.values())
    worker.stop()
    assert worker._exchange._executor._deadlines._closed


def test_a_drain_ends_although_such_a_handler_is_inside(make_app: Make, gate: threading.Event) -> None:
    deaf = Deaf(gate)
    app = make_app(deaf.task, echo)
    run = app.trigger(deaf.task).run
    app.trigger(echo, 1)
    worker = app.worker("drain", maintenance=False, concurrency=2)
    worker.run()
    assert not deaf.left.is_set()
    assert worker.completed == 2
    check(app.runs.get(run.id), app)


def test_a_graceful_stop_waits_for_such_a_handler(make_app: Make, gate: threading.Event) -> None:
    deaf = Deaf(gate)
    app = make_app(deaf.task)
    run = app.trigger(deaf.task).run
    worker = working(app)
    timed_out(app, run)
    threading.Thread(target=worker.stop, kwargs={"timeout": PATIENCE}, daemon=True).start()
    eventually(lambda: worker._exchange._stopping, "the stop")
    idle(worker)
    assert not worker.closed
    gate.set()
    eventually(lambda: worker.closed, "the worker having ended with the handler")


def test_a_graceful_stop_ends_without_it_when_its_patience_ends(make_app: Make, gate: threading.Event) -> None:
    deaf = Deaf(gate)
    app = make_app(deaf.task)
    run = app.trigger(deaf.task).run
    worker = working(app)
    timed_out(app, run)
    worker.stop(timeout=0.05)
    assert worker.closed
    assert not deaf.left.is_set()
    check(app.runs.get(run.id), app)


def test_a_timeout_that_passes_during_a_stop_counts(make_app: Make, gate: threading.Event) -> None:
    deaf = Deaf(gate)
    app = make_app(deaf.task)
    run = app.trigger(deaf.task).run
    worker = working(app)
    assert deaf.entered.wait(PATIENCE)
    threading.Thread(target=worker.stop, kwargs={"timeout": PATIENCE}, daemon=True).start()
    check(timed_out(app, run), app)
    assert not worker.closed
    gate.set()
    eventually(lambda: worker.closed, "the worker having ended")
    assert deaf.reasons in (["worker_stopping"], ["attempt_timeout"])
    check(app.runs.get(run.id), app)


def test_what_was_cut_off_before_its_time_was_over_is_interrupted(make_app: Make, gate: threading.Event) -> None:
    deaf = Deaf(gate, timeout="300ms")
    app = make_app(deaf.task)
    run = app.trigger(deaf.task).run
    worker = working(app)
    assert deaf.entered.wait(PATIENCE)
    worker._exchange.cut_off()
    eventually(lambda: not any(thread.is_alive() for thread in worker._exchange._threads), "the worker's end")
    worker.stop()
    assert types_of(app, run.id)[-1] == "RunInterrupted"


def test_what_is_claimed_while_all_is_cut_off_is_given_back_unexecuted(make_app: Make, clock: SettableClock) -> None:
    """A claim under way does not see that the worker was told to end at once."""
    called: list[Any] = []
    noting = task("noting")(called.append)
    app = make_app(noting, clock=clock)
    run = app.trigger(noting, 1).run
    exchange = app.worker(maintenance=False)._exchange
    exchange.cut_off()
    exchange._in_flight, exchange._claiming = 1, 1
    exchange._settle([], 0, 1, take(app, clock), 0)
    exchange.start()
    assert exchange.join(PATIENCE)
    assert types_of(app, run.id)[2:] == ["RunLeased", "RunInterrupted"]
    assert called == []


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "worker"])
def test_a_timeout_under_a_lost_lease_is_dropped(make_app: Make, gate: threading.Event, inline: bool) -> None:
    deaf = Deaf(gate, timeout="500ms")
    app = make_app(deaf.task)
    run = app.trigger(deaf.task).run
    refused: list[BaseException] = []

    def execute() -> None:
        try:
            app.execute_next()
        except LeaseLost as error:
            refused.append(error)

    worker = None if inline else working(app)
    thread = threading.Thread(target=execute, daemon=True)
    if inline:
        thread.start()
    assert deaf.entered.wait(PATIENCE)
    session = session_of(app)
    lose(app, session.holder.session_id)
    session.distrust("the test says so")
    lost = app.runs.get(run.id)
    if worker is not None:
        eventually(lambda: worker._exchange._lingering or worker._exchange._finished or deaf.reasons, "the timeout")
        idle(worker)
    gate.set()
    if worker is None:
        thread.join(PATIENCE)
        assert refused
    else:
        worker.stop()
        assert (worker._exchange._lingering, worker._exchange._executing) == (0, 0)
    assert "RunRetryScheduled" not in types_of(app, run.id)
    assert app.runs.get(run.id).lost_count == lost.lost_count == 1


def lose(app: Runlane, session_id: Any) -> None:
    """Take the runs of a session away from it, as maintenance does when it has expired."""
    database_of(app).transact(lambda tx: sessions.close_session(tx, session_id))
    recovered = database_of(app).transact(lambda tx: lease.recover_session(tx, session_id, lambda _: 3, 10_000))
    assert (recovered.runs, recovered.more) == (1, False)


@pytest.mark.parametrize("timeout", ["soon", "0s", 30, timedelta(0), -HOUR, True], ids=repr)
def test_what_is_no_duration_is_refused_by_name(timeout: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="timeout of task named"):
        task("named", timeout=timeout)(lambda: None)


def test_a_timeout_is_a_timedelta_or_text() -> None:
    for timeout in ("90s", timedelta(seconds=90)):
        assert task("named", timeout=timeout)(lambda: None).timeout == timedelta(seconds=90)
    assert task("named")(lambda: None).timeout is None


def test_an_application_that_is_started_again_watches_timeouts(lane_url: str) -> None:
    @task("slow", timeout="50ms")
    def slow(payload: Any, context: Context) -> str | None:
        context.signal.wait(PATIENCE / 2)
        return context.signal.reason

    app = Runlane(lane_url, tasks=[slow])
    for _ in range(2):
        with app:
            run = app.run_now(slow, 1).run
            assert (run.status, run.failure.code) == (RunStatus.FAILED, "attempt_timeout")
