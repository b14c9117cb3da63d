"""Runs that a worker has claimed ahead: ready in its process, and not begun."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from runlane import Context, Queue, Runlane, RunStatus, Task, Worker, exchange, task
from runlane.ahead import Ahead
from runlane.engine import lease
from runlane.storage import sessions
from runlane.trips import Trips
from tests.engine.sessions import session_of
from tests.support import PATIENCE, database_of, eventually, types_of

Make = Callable[..., Runlane]
AHEAD = 2


@pytest.fixture(autouse=True)
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs are claimed ahead whatever handlers do, unless some had to be given back; and they wait for ever."""
    monkeypatch.setattr(Ahead, "_estimate", lambda self, *_: 0 if self._rests_until else AHEAD)
    monkeypatch.setattr(exchange, "PATIENCE", 3600.0)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds handlers until the test opens it, at its end at the latest."""
    event = threading.Event()
    yield event
    event.set()


class Held:
    """A task whose handlers stay inside until the gate opens, and tell who was called and why to stop."""

    def __init__(self, gate: threading.Event, kind: str) -> None:
        self.called: list[int] = []
        self.reasons: list[str | None] = []

        @task("held")
        def held(payload: int, context: Context) -> int:
            self.called.append(payload)
            assert gate.wait(PATIENCE)
            self.reasons.append(context.signal.reason)
            return payload

        @task("held")
        async def held_async(payload: int, context: Context) -> int:
            self.called.append(payload)
            assert await asyncio.to_thread(gate.wait, PATIENCE)
            self.reasons.append(context.signal.reason)
            return payload

        self.task: Task[..., Any] = held if kind == "def" else held_async


@pytest.fixture(params=["def", "async def"])
def held(gate: threading.Event, request: pytest.FixtureRequest) -> Held:
    return Held(gate, request.param)


def with_ready(app: Runlane, held: Held, **options: Any) -> tuple[Worker, list[UUID]]:
    """A worker with one slot, in which the first of three runs is, and the others ready."""
    first = app.trigger(held.task, 0).run.id
    worker = app.worker(maintenance=False, concurrency=1, **options)
    worker.start()
    eventually(lambda: held.called == [0], "the first one being inside")
    ids = [first, *(found.run.id for found in app.trigger_many(held.task, range(1, 1 + AHEAD)))]
    eventually(lambda: worker._exchange._ready.waiting == AHEAD, "two runs being ready")
    assert {app.runs.get(one).status for one in ids} == {RunStatus.RUNNING}
    return worker, ids


def test_a_slot_is_taken_before_the_outcome_of_the_last_one_is_stored(
    make_app: Make, held: Held, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(self: Trips, batch: Any, *rest: Any) -> Any:
        if batch:
            eventually(lambda: sorted(held.called) == [0, 1, 2], "the ready ones having begun")
        return stored(self, batch, *rest)

    stored = Trips.go
    monkeypatch.setattr(Trips, "go", go)
    app = make_app(held.task)
    worker, ids = with_ready(app, held)
    gate.set()
    for one in ids:
        assert app.runs.wait(one, timeout=2 * PATIENCE).status is RunStatus.SUCCEEDED
    worker.stop()


def test_never_more_at_once_than_asked_for_and_each_once(make_app: Make) -> None:
    lock = threading.Lock()
    now = most = 0
    called: list[int] = []

    def enter(payload: int) -> None:
        nonlocal now, most
        with lock:
            called.append(payload)
            now += 1
            most = max(now, most)

    def leave() -> None:
        nonlocal now
        with lock:
            now -= 1

    @task("blocks")
    def blocks(payload: int) -> None:
        enter(payload)
        threading.Event().wait(0.002)
        leave()

    @task("awaits")
    async def awaits(payload: int) -> None:
        enter(payload)
        await asyncio.sleep(0.002)
        leave()

    app = make_app(blocks, awaits)
    for payload in range(60):
        app.trigger((blocks, awaits)[payload % 2], payload)
    app.worker("drain", maintenance=False, concurrency=3).run()
    assert most == 3
    assert sorted(called) == list(range(60))
    assert app.runs.count() == {RunStatus.SUCCEEDED: 60}


def test_what_cannot_begin_soon_is_given_back_to_whoever_has_a_slot(
    make_app: Make, held: Held, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(held.task)
    busy, ids = with_ready(app, held, poll_interval=0.01)
    other = app.worker(maintenance=False, concurrency=AHEAD, poll_interval=3600)
    other.start()
    eventually(
        lambda: not other._exchange._in_flight and not other._exchange._appetite.hungry, "the other one being idle"
    )
    assert held.called == [0]
    monkeypatch.setattr(exchange, "PATIENCE", 0.0)
    eventually(lambda: len(held.called) == 3, "the other one having begun them")
    assert busy._exchange._ready.waiting == 0
    gate.set()
    for one in ids:
        assert app.runs.wait(one, timeout=PATIENCE).status is RunStatus.SUCCEEDED
    busy.stop()
    other.stop()
    assert (busy.completed, other.completed) == (1, AHEAD)
    assert sorted(held.called) == [0, 1, 2]
    for one in ids[1:]:
        assert types_of(app, one)[2:] == ["RunLeased", "RunInterrupted", "RunLeased", "RunSucceeded"]
        assert app.runs.events(one)[3].event.reason == "no_slot"
        run = app.runs.get(one)
        assert (run.failure_count, run.retry_count, run.lost_count) == (0, 0, 0)


def test_a_stop_gives_back_what_has_not_begun_at_once(make_app: Make, held: Held, gate: threading.Event) -> None:
    app = make_app(held.task)
    worker, ids = with_ready(app, held)
    stopping = threading.Thread(target=worker.stop, kwargs={"timeout": PATIENCE})
    stopping.start()
    eventually(lambda: app.runs.count() == {"running": 1, "queued": AHEAD}, "what was ready being queued again")
    assert not worker.closed
    gate.set()
    stopping.join(PATIENCE)
    assert worker.closed
    assert (held.called, held.reasons) == ([0], ["worker_stopping"])
    assert app.runs.get(ids[0]).status is RunStatus.SUCCEEDED
    for one in ids[1:]:
        assert app.runs.events(one)[-1].event.reason == "worker_stopping"


def test_a_stop_at_once_gives_back_everything(make_app: Make, held: Held, gate: threading.Event) -> None:
    app = make_app(held.task)
    worker, _ = with_ready(app, held)
    worker.stop(timeout=0)
    assert app.runs.count() == {"queued": 1 + AHEAD}
    gate.set()
    assert held.called == [0]


def test_a_ready_run_that_is_cancelled_does_not_begin(make_app: Make, held: Held, gate: threading.Event) -> None:
    app = make_app(held.task)
    worker, ids = with_ready(app, held)
    app.runs.cancel(ids[1], reason="not wanted")
    assert app.runs.wait(ids[1], timeout=PATIENCE).status is RunStatus.CANCELLED
    assert held.called == [0]
    gate.set()
    for one in (ids[0], ids[2]):
        assert app.runs.wait(one, timeout=PATIENCE).status is RunStatus.SUCCEEDED
    worker.stop()
    assert held.called == [0, 2]


def test_what_is_ready_under_a_lost_session_is_dropped(make_app: Make, held: Held, gate: threading.Event) -> None:
    app = make_app(held.task)
    worker, ids = with_ready(app, held, poll_interval=0.01)
    session = session_of(app)
    session.distrust("the test says so")
    gate.set()
    eventually(lambda: held.reasons and not worker._exchange._active, "everything being dropped")
    assert (held.called, held.reasons) == ([0], ["lease_lost"])
    assert {app.runs.get(one).status for one in ids} == {RunStatus.RUNNING}
    database_of(app).transact(lambda tx: sessions.close_session(tx, session.holder.session_id))
    database_of(app).transact(lambda tx: lease.recover_session(tx, session.holder.session_id, lambda _: 3, 10_000))
    for one in ids:
        assert app.runs.wait(one, timeout=PATIENCE).status is RunStatus.SUCCEEDED
    worker.stop()
    assert sorted(held.called) == [0, 0, 1, 2]


def test_what_is_ready_does_not_begin_once_the_time_of_its_lease_is_over(
    make_app: Make, held: Held, gate: threading.Event
) -> None:
    """As of a process that was stopped for longer than a lease lasts: it goes on before its heart beats again."""
    app = make_app(held.task)
    worker, ids = with_ready(app, held, poll_interval=3600)
    session = session_of(app)
    session._trusted_until = 0.0
    gate.set()
    eventually(lambda: held.reasons and not worker._exchange._active, "everything being dropped")
    assert held.called == [0]
    assert not session.trusted
    assert {app.runs.get(one).status for one in ids} == {RunStatus.RUNNING}
    worker.stop(timeout=0)


def test_what_is_ready_does_not_begin_while_another_thread_is_just_withdrawing_it(
    make_app: Make, held: Held, gate: threading.Event
) -> None:
    """Whoever finds out first that the session is lost tells everybody, and may stand still before he does."""
    app = make_app(held.task)
    worker, _ = with_ready(app, held, poll_interval=3600)
    session = session_of(app)
    session._is_lost = True
    gate.set()
    eventually(lambda: held.reasons and not worker._exchange._active, "everything being dropped")
    assert held.called == [0]
    session._lost(session.holder.session_id)
    worker.stop(timeout=0)
    assert held.called == [0]


def test_a_queue_with_a_limit_is_not_claimed_ahead(make_app: Make, held: Held, gate: threading.Event) -> None:
    """A ready run would hold a slot of the limit that another worker has a use for."""
    bounded = Queue("bounded", default=True, concurrency_limit=2)
    app = make_app(held.task, queues=[bounded])
    ids = [found.run.id for found in app.trigger_many(held.task, range(2))]
    workers = [app.worker(maintenance=False, concurrency=1) for _ in range(2)]
    workers[0].start()
    eventually(lambda: held.called == [0], "the first one being inside")
    assert app.runs.get(ids[1]).status is RunStatus.QUEUED
    workers[1].start()
    eventually(lambda: held.called == [0, 1], "the second one being inside")
    gate.set()
    for worker in workers:
        worker.stop()
    assert app.runs.count() == {RunStatus.SUCCEEDED: 2}


def test_time_in_the_line_does_not_count_for_a_timeout(make_app: Make) -> None:
    @task("slow")
    def slow() -> None:
        threading.Event().wait(0.3)

    @task("bounded", timeout="200ms")
    def bounded() -> int:
        return 1

    app = make_app(slow, bounded)
    app.trigger(slow)
    run = app.trigger(bounded).run
    app.worker("drain", maintenance=False, concurrency=1).run()
    assert app.runs.get(run.id).result == 1


def test_a_full_worker_does_not_look_again_and_again(make_app: Make, held: Held) -> None:
    """It is long time for a poll, but there is no room for what that would find."""
    app = make_app(held.task)
    worker, _ = with_ready(app, held, poll_interval=60)
    worker._exchange._appetite._next_poll = 0.0
    with worker._exchange._changed:
        assert worker._exchange._leisure() == pytest.approx(60)
    worker.stop(timeout=0)


def test_a_transaction_that_hangs_does_not_keep_what_is_ready(
    make_app: Make, held: Held, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two lanes one rests while the other one is under way, but not for longer than a ready run may wait."""
    app = make_app(held.task)
    worker, _ = with_ready(app, held, poll_interval=0.01)
    with worker._exchange._changed:
        eventually(lambda: not worker._exchange._in_flight, "no transaction being under way")
        worker._exchange._in_flight += 1
        assert worker._exchange._rests()
        assert worker._exchange._leisure() > 0
        monkeypatch.setattr(exchange, "PATIENCE", 0.0)
        assert not worker._exchange._rests()
        work = worker._exchange._work()
        assert work is not None
        assert [outcome.reason for _, outcome in work[0]] == ["no_slot", "no_slot"]
        worker._exchange._in_flight -= 1
    worker._exchange._exchange(*work)
    worker.stop(timeout=0)
    assert app.runs.count() == {"queued": 1 + AHEAD}
