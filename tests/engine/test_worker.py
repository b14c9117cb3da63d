"""Workers: draining, polling, stopping, and never more attempts at once than asked for."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from runlane import AsyncRunlane, ConfigurationInvalid, Context, Lane, Queue, Runlane, RunStatus, SettableClock, task
from runlane.errors import OperationCancelled
from runlane.storage.database import Database
from runlane.transport.local import LocalTransport
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import echo, echo_async, flaky, patient
from tests.support import PATIENCE, at_once, eventually, types_of

Make = Callable[..., Runlane]
ONE, TWO = Queue("one", default=True), Queue("two")


class Together:
    """Handlers that come together wait for each other, and count how many of them there are at once."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)
        self._lock = threading.Lock()
        self.now = self.most = 0

    def meet(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self._barrier.wait(PATIENCE)
        with self._lock:
            self.now -= 1


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds handlers until the test opens it, at its end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def drain(app: Runlane, **options: Any) -> int:
    worker = app.worker("drain", maintenance=False, **options)
    worker.run()
    assert worker.closed
    return worker.completed


def test_a_drain_ends_when_nothing_is_due_now(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, echo_async, flaky, patient, clock=clock)
    app.trigger_many(echo, range(50))
    app.trigger_many(echo_async, range(50))
    app.trigger(echo, "later", delay="1h")
    app.trigger(flaky, 1)
    app.trigger(patient, 1)
    assert drain(app) == 102
    assert app.runs.count() == {"succeeded": 100, "scheduled": 1, "retrying": 1, "released": 1}
    assert drain(app) == 0


def test_a_drain_does_not_end_on_a_claim_that_is_older_than_what_was_stored(make_app: Make) -> None:
    """One lane's claim may be too early to see what the other lane's transaction has queued again."""
    app = make_app(echo)
    run = app.trigger(echo, 1).run
    exchange = app.worker("drain", maintenance=False)._exchange
    exchange._in_flight = exchange._claiming = 1
    began, exchange._stores = exchange._stores, exchange._stores + 1
    exchange._settle([], 0, 1, [], began)
    exchange.start()
    assert exchange.join(PATIENCE)
    assert app.runs.get(run.id).status == RunStatus.SUCCEEDED


def test_each_attempt_that_ends_wakes_a_lane_that_waits(make_app: Make) -> None:
    """Those that end while one is being woken need not; the ones after that have to again."""
    gate, inside = threading.Event(), threading.Event()

    @task("waits")
    def waits(payload: int) -> int:
        inside.set()
        assert gate.wait(PATIENCE)
        return payload

    app = make_app(waits)
    worker = app.worker(poll_interval=3600, maintenance=False, concurrency=1)
    worker.start()
    for number in range(3):
        gate.clear()
        inside.clear()
        run = app.trigger(waits, number).run
        assert inside.wait(PATIENCE)
        eventually(lambda: worker._exchange._waiting and not worker._exchange._in_flight, "every lane waiting")
        assert not worker._exchange._told
        gate.set()
        assert app.runs.wait(run.id, timeout=PATIENCE).result == number
    worker.stop()


@pytest.mark.parametrize("mode", ["drain", "poll"])
def test_a_drain_looks_once_at_a_time_however_long_that_takes(make_app: Make, mode: str) -> None:
    """Or else, where they take longer than the time between polls, each comes back beside another: none is the last."""
    limited = Queue("limited", default=True, concurrency_limit=2)
    exchange = make_app(echo, queues=[limited]).worker(mode, concurrency=3, maintenance=False)._exchange
    exchange._appetite.hungry = False
    exchange._appetite.claiming = exchange._in_flight = 1
    assert monotonic() > exchange._appetite._next_poll
    assert (exchange._appetite.wanted(exchange._room(), 0, monotonic()) == 0) is (mode == "drain")
    assert (exchange._leisure() > 0) is (mode == "drain")
    exchange._appetite.claiming = exchange._in_flight = 0
    assert exchange._appetite.wanted(exchange._room(), 0, monotonic()) > 0


def test_a_drain_works_off_what_its_handlers_create(make_app: Make) -> None:
    @task("countdown")
    def countdown(payload: int) -> None:
        if payload:
            app.trigger_many(countdown, [payload - 1, payload - 1])

    app = make_app(countdown)
    app.trigger(countdown, 5)
    assert drain(app, concurrency=3) == 63
    assert app.runs.count() == {RunStatus.SUCCEEDED: 63}


def test_a_worker_takes_only_its_queues(make_app: Make) -> None:
    app = make_app(echo, queues=[ONE, TWO])
    app.trigger(echo, 1, queue=ONE)
    kept = app.trigger(echo, 2, queue=TWO).run
    assert drain(app, queues=[ONE]) == 1
    assert app.runs.get(kept.id) == kept
    assert drain(app, queues=[]) == 0
    assert drain(app) == 1


def test_a_queue_named_twice_is_one_queue(lane_url: str) -> None:
    with Runlane(lane_url, tasks=[echo], queues=[ONE]) as app:
        app.trigger_many(echo, range(3))
        assert drain(app, queues=[ONE, ONE]) == 3


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_def_handlers_run_that_many_at_once_and_never_more(make_app: Make, concurrency: int) -> None:
    together = Together(concurrency)

    @task("meets")
    def meets(payload: Any) -> None:
        together.meet()

    app = make_app(meets)
    app.trigger_many(meets, range(3 * concurrency))
    assert drain(app, concurrency=concurrency) == 3 * concurrency
    assert together.most == concurrency
    assert app.runs.count() == {RunStatus.SUCCEEDED: 3 * concurrency}


@pytest.mark.parametrize("concurrency", [1, 7])
def test_async_def_handlers_run_that_many_at_once_and_never_more(make_app: Make, concurrency: int) -> None:
    now = most = 0
    arrived: list[asyncio.Barrier] = []

    @task("meets")
    async def meets(payload: Any) -> None:
        nonlocal now, most
        if not arrived:
            arrived.append(asyncio.Barrier(concurrency))
        now += 1
        most = max(most, now)
        async with asyncio.timeout(PATIENCE):
            await arrived[0].wait()
        now -= 1

    app = make_app(meets)
    app.trigger_many(meets, range(3 * concurrency))
    assert drain(app, concurrency=concurrency) == 3 * concurrency
    assert most == concurrency
    assert app.runs.count() == {RunStatus.SUCCEEDED: 3 * concurrency}


def test_def_and_async_def_handlers_share_the_slots(make_app: Make) -> None:
    """A handler of each kind waits for one of the other kind, so both have to run side by side."""
    from_def, from_async = threading.Event(), threading.Event()

    @task("plain")
    def plain(payload: Any) -> bool:
        from_def.set()
        return from_async.wait(PATIENCE)

    @task("asynchronous")
    async def asynchronous(payload: Any) -> bool:
        from_async.set()
        return await asyncio.to_thread(from_def.wait, PATIENCE)

    app = make_app(plain, asynchronous)
    runs = [app.trigger(used, 1).run for used in (plain, asynchronous)]
    drain(app, concurrency=2)
    assert [app.runs.get(run.id).result for run in runs] == [True, True]


def test_an_idle_worker_hears_of_a_trigger_at_once(make_app: Make) -> None:
    app = make_app(echo)
    worker = app.worker(maintenance=False, poll_interval=3600)
    worker.start()
    for n in range(3):
        eventually(lambda: worker._exchange._waiting == len(worker._exchange._threads), "the worker being idle")
        assert app.runs.wait(app.trigger(echo, n).run.id, timeout=PATIENCE).result == n
    worker.stop()
    assert (worker.closed, worker.completed) == (True, 3)


def test_an_idle_worker_finds_by_itself_what_another_process_created(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as one, Runlane(shared_url, tasks=[echo]) as two:
        worker = one.worker(maintenance=False, poll_interval=0.02)
        worker.start()
        assert two.runs.wait(two.trigger(echo, 1).run.id, timeout=PATIENCE).result == 1
        worker.stop()


def test_a_worker_keeps_house(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    other = Runlane(app.lane, tasks=[echo], clock=clock)
    run = app.trigger(echo, 1).run
    assert len(take(other, clock)) == 1
    worker = app.worker(poll_interval=0.02, maintenance_interval=0.02)
    worker.start()
    assert app.runs.get(run.id).status is RunStatus.RUNNING
    clock.advance(EXPIRY / 2)
    assert session_of(app).beat()
    clock.advance(EXPIRY / 2)
    assert app.runs.wait(run.id, timeout=PATIENCE).lost_count == 1
    worker.stop()
    other.close()


@pytest.mark.parametrize(
    ("ending", "status", "event"),
    [
        ("returns", RunStatus.SUCCEEDED, "RunSucceeded"),
        ("raises the signal", RunStatus.QUEUED, "RunInterrupted"),
        ("raises its own error", RunStatus.FAILED, "RunFailed"),
        ("releases", RunStatus.RELEASED, "RunReleased"),
    ],
)
def test_a_graceful_stop_tells_the_handlers_and_takes_what_they_come_to(
    make_app: Make, ending: str, status: RunStatus, event: str
) -> None:
    entered = threading.Event()

    @task("stoppable")
    def stoppable(payload: Any, context: Context) -> Any:
        entered.set()
        assert context.signal.wait(PATIENCE)
        if ending == "raises the signal":
            context.signal.raise_if_set()
        if ending == "raises its own error":
            raise ValueError("stopped")
        return context.release("1h") if ending == "releases" else context.signal.reason

    app = make_app(stoppable, echo)
    run = app.trigger(stoppable, 1).run
    worker = app.worker(maintenance=False)
    worker.start()
    assert entered.wait(PATIENCE)
    worker.stop()
    assert worker.closed
    found = app.runs.get(run.id)
    assert (found.status, types_of(app, run.id)[-1]) == (status, event)
    assert found.result == ("worker_stopping" if ending == "returns" else None)
    waiting = app.trigger(echo, 1).run
    assert app.runs.get(waiting.id).status is RunStatus.QUEUED


def test_an_async_handler_is_told_as_well(make_app: Make) -> None:
    entered = threading.Event()

    @task("stoppable")
    async def stoppable(payload: Any, context: Context) -> None:
        entered.set()
        await asyncio.to_thread(context.signal.wait, PATIENCE)
        raise OperationCancelled("as asked")

    app = make_app(stoppable)
    run = app.trigger(stoppable, 1).run
    worker = app.worker(maintenance=False)
    worker.start()
    assert entered.wait(PATIENCE)
    worker.stop()
    assert app.runs.get(run.id).status is RunStatus.QUEUED
    assert app.runs.events(run.id)[-1].event.reason == "worker_stopping"


def test_a_def_handler_that_does_not_stop_in_time_is_cut_off(make_app: Make, gate: threading.Event) -> None:
    entered, left = threading.Event(), threading.Event()

    @task("deaf")
    def deaf(payload: Any, context: Context) -> str:
        if context.attempt == 1:
            entered.set()
            gate.wait(PATIENCE)
            left.set()
            return "too late"
        return "second"

    app = make_app(deaf)
    run = app.trigger(deaf, 1).run
    worker = app.worker(maintenance=False)
    worker.start()
    assert entered.wait(PATIENCE)
    worker.stop(timeout=0.05)
    assert worker.closed
    found = app.runs.get(run.id)
    assert (found.status, found.lost_count, found.failure_count) == (RunStatus.QUEUED, 0, 0)
    gate.set()
    assert left.wait(PATIENCE)
    assert app.runs.get(run.id) == found
    assert app.execute_next().result == "second"
    assert types_of(app, run.id)[2:] == ["RunLeased", "RunInterrupted", "RunLeased", "RunSucceeded"]


def test_an_async_handler_that_does_not_stop_in_time_is_cut_off_and_cancelled(make_app: Make) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    @task("deaf")
    async def deaf(payload: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    app = make_app(deaf)
    run = app.trigger(deaf, 1).run
    worker = app.worker(maintenance=False)
    worker.start()
    assert entered.wait(PATIENCE)
    worker.stop(timeout=0.05)
    assert app.runs.get(run.id).status is RunStatus.QUEUED
    assert cancelled.wait(PATIENCE)
    assert types_of(app, run.id)[-1] == "RunInterrupted"


def test_closing_the_runtime_stops_its_workers(lane_url: str) -> None:
    entered = threading.Event()
    reasons: list[str | None] = []

    @task("stoppable")
    def stoppable(payload: Any, context: Context) -> None:
        entered.set()
        context.signal.wait(PATIENCE)
        reasons.append(context.signal.reason)

    with Runlane(lane_url, tasks=[stoppable]) as app:
        app.trigger(stoppable, 1)
        workers = [app.worker(), app.worker("drain", maintenance=False)]
        for worker in workers:
            worker.start()
        assert entered.wait(PATIENCE)
    assert all(worker.closed for worker in workers)
    assert reasons == ["worker_stopping"]


def test_no_session_is_opened_while_the_lane_is_closed(shared_url: str) -> None:
    opened = threading.Event()

    class Closing(LocalTransport):
        def close(self) -> None:
            super().close()
            if opening.ident is None:
                opening.start()
                assert not opened.wait(0.1)

    app = Runlane(Lane(Database(shared_url), Closing()), tasks=[echo]).start()
    opening = threading.Thread(target=lambda: (app._runtime.session(), opened.set()), daemon=True)
    app.close()
    assert opened.wait(PATIENCE)
    opening.join(PATIENCE)
    app._runtime.close()


def test_two_workers_of_one_process_work_side_by_side(make_app: Make) -> None:
    together = Together(2)

    @task("meets")
    def meets(payload: Any) -> None:
        together.meet()

    app = make_app(meets)
    app.trigger_many(meets, range(10))
    workers = [app.worker("drain", concurrency=1, maintenance=False) for _ in range(2)]
    at_once([worker.run for worker in workers])
    assert [worker.completed for worker in workers] == [5, 5]
    assert app.runs.count() == {RunStatus.SUCCEEDED: 10}


def test_workers_of_two_processes_share_the_work(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo, echo_async]) as one, Runlane(shared_url, tasks=[echo, echo_async]) as two:
        one.trigger_many(echo, range(150))
        one.trigger_many(echo_async, range(150))
        workers = [app.worker("drain", maintenance=False) for app in (one, two)]
        at_once([worker.run for worker in workers])
        assert sum(worker.completed for worker in workers) == 300
        assert all(run.attempt_count == 1 for run in one.runs.list(limit=500).data)
        assert one.runs.count() == {RunStatus.SUCCEEDED: 300}
        assert one.audit.verify().differences == ()


def test_a_worker_is_started_once(make_app: Make) -> None:
    worker = make_app(echo).worker(maintenance=False)
    worker.start()
    with pytest.raises(ConfigurationInvalid, match="can be started once"):
        worker.start()
    worker.stop()
    worker.stop()


def test_a_worker_that_was_never_started_can_be_stopped(make_app: Make) -> None:
    worker = make_app(echo).worker()
    assert not worker.closed
    assert not worker.wait(0)
    worker.stop()
    assert worker.closed
    assert worker.wait(0)


def test_the_async_worker_drains_polls_and_stops(lane_url: str) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo, echo_async]) as app:
            await app.trigger_many(echo, range(20))
            await app.trigger_many(echo_async, range(20))
            worker = app.worker("drain", maintenance=False)
            await worker.run()
            assert (worker.closed, worker.completed) == (True, 40)
            polling = app.worker(maintenance=False)
            running = asyncio.create_task(polling.run())
            done = await app.runs.wait((await app.trigger(echo_async, 1)).run.id, timeout=PATIENCE)
            assert done.result == 1
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert polling.closed
            assert (await app.audit.verify()).identical

    asyncio.run(main())


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_group_of_nothing_but_cancellations_is_one(make_app: Make, cancelled: bool) -> None:
    entered = threading.Event()

    @task("grouped")
    async def grouped(payload: Any, context: Context) -> None:
        async def part() -> None:
            while True:
                context.signal.raise_if_set()
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as group:
            outer.create_task(part())
            group.create_task(part())
            entered.set()

    app = make_app(grouped)
    run = app.trigger(grouped, 1).run
    worker = app.worker(maintenance=False)
    worker.start()
    assert entered.wait(PATIENCE)
    if cancelled:
        app.runs.cancel(run.id)
        eventually(lambda: app.runs.get(run.id).is_terminal, "the end of the run")
    worker.stop()
    assert app.runs.get(run.id).status is (RunStatus.CANCELLED if cancelled else RunStatus.QUEUED)
    assert worker.completed == int(cancelled)  # what is given back is no attempt that has come to an end


def test_workers_made_by_several_threads_are_all_stopped_by_closing(make_app: Make) -> None:
    app, before = make_app(echo), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        at_once([lambda: [app.worker() for _ in range(50)]] * 4)
    finally:
        sys.setswitchinterval(before)
    assert len(app._workers) == 200
    app.close()
    assert all(worker.closed for worker in app._workers)


def test_workers_that_run_side_by_side_leave_the_garbage_collector_as_it_was(make_app: Make) -> None:
    app, before = make_app(echo), gc.get_threshold()
    one, two = app.worker(maintenance=False), app.worker(maintenance=False)
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in (one, two)]
    for worker, thread in zip((one, two), threads, strict=True):
        thread.start()
        eventually(lambda: worker._started, "the start")  # noqa: B023
    for worker, thread in zip((one, two), threads, strict=True):
        assert gc.get_threshold() != before
        worker.stop()
        thread.join(PATIENCE)
    assert gc.get_threshold() == before


@pytest.mark.parametrize("queues", [ONE, "one", 5])
def test_queues_are_a_list(make_app: Make, queues: Any) -> None:
    app = make_app(echo, queues=[ONE])
    for call in (lambda: app.worker(queues=queues), lambda: app.execute_next(queues)):
        with pytest.raises(ConfigurationInvalid, match="queues must be a list of Queue definitions; got"):
            call()


@pytest.mark.parametrize("timeout", ["5s", True, float("nan")])
def test_a_limit_of_waiting_is_a_number(make_app: Make, timeout: Any) -> None:
    async def main() -> None:
        async with AsyncRunlane("memory:", tasks=[echo]) as app:
            worker = app.worker(maintenance=False)
            await worker.start()
            for call in (worker.stop, worker.wait):
                with pytest.raises(ConfigurationInvalid, match="timeout must be a number of seconds; got"):
                    await call(timeout)
            await worker.stop()

    worker = make_app(echo).worker(maintenance=False)
    worker.start()
    for call in (worker.stop, worker.wait):
        with pytest.raises(ConfigurationInvalid, match="timeout must be a number of seconds; got"):
            call(timeout)
    assert not worker.closed
    worker.stop(float("inf"))
    assert worker.wait(float("inf"))
    asyncio.run(main())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("pool_size", value) for value in (0, -1, "5", True, 2.0)),
        *(("busy_timeout", value) for value in ("30s", -1, None, True, float("nan"), float("inf"))),
    ],
)
@pytest.mark.parametrize("url", ["memory:", "sqlite:///file.db", "postgresql://user@host/database"])
def test_options_of_a_database_are_checked(url: str, option: str, value: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"{option} must be .*; got"):
        Database(url, **{option: value})
