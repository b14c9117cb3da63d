"""A worker among faults and races: what passes is waited out, what stays ends it, and nothing is lost or unheard."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy.event import listens_for

from runlane import Context, Runlane, RunlaneError, RunStatus, SettableClock, sqlite_lane, task
from runlane.transport.sender import Sender
from tests.engine.sessions import EXPIRY, session_of
from tests.engine.tasks import echo, echo_async
from tests.storage.test_faults import kill_connections
from tests.support import PATIENCE, database_of, eventually, execute, raw

Make = Callable[..., Runlane]


@pytest.mark.parametrize("mode", ["drain", "poll"])
def test_a_fault_that_stays_ends_the_worker_with_its_error(lane_url: str, mode: str) -> None:
    with Runlane(lane_url, tasks=[echo]) as app:
        worker = app.worker(mode, maintenance=False)
        execute(database_of(app), "drop table {runs}")
        with pytest.raises(RunlaneError, match="not migrated") as caught:
            worker.run()
        assert worker.closed
        assert worker.completed == 0
        with pytest.raises(RunlaneError) as again:
            worker.stop()
        assert again.value is caught.value
        execute(database_of(app), "create table {runs} (lease_session_id text)")  # so that closing finds no lease


def refuse(app: Runlane, run_id: Any) -> None:
    """Make the database refuse one run's success, as a broken extension or a full tablespace might."""
    condition = f"new.type = 'run.succeeded' and new.stream_id = '{run_id}'"
    if database_of(app).schema is None:
        body = f"when {condition} begin select raise(abort, 'refused'); end"
        execute(database_of(app), f"create trigger refusing before insert on {{events}} {body}")
    else:
        execute(
            database_of(app),
            "create function public.refuse_it() returns trigger language plpgsql as"
            " $$ begin raise exception 'refused'; end $$",
        )
        body = f"for each row when ({condition}) execute function public.refuse_it()"
        execute(database_of(app), f"create trigger refusing before insert on {{events}} {body}")


def test_an_outcome_that_cannot_be_stored_fails_alone(make_app: Make) -> None:
    app = make_app(echo, echo_async)
    runs = [one.run for used in (echo, echo_async) for one in app.trigger_many(used, range(10))]
    refuse(app, runs[3].id)
    worker = app.worker("drain", maintenance=False)
    worker.run()
    assert worker.completed == 20
    assert app.runs.count() == {RunStatus.SUCCEEDED: 19, RunStatus.FAILED: 1}
    failed = app.runs.get(runs[3].id)
    assert (failed.failure.code, failed.failure.retryable) == ("internal_error", False)
    assert "the outcome could not be stored" in failed.failure.message


def test_killed_connections_are_replaced_under_a_working_worker(postgres_url: str) -> None:
    gate = threading.Event()

    @task("waits")
    def waits(payload: Any) -> Any:
        assert gate.wait(PATIENCE)
        return payload

    with Runlane(postgres_url, tasks=[waits, echo]) as app, Runlane(postgres_url, tasks=[waits, echo]) as other:
        worker = app.worker(maintenance=False, poll_interval=0.02, concurrency=4)
        worker.start()
        run = other.trigger(waits, 1).run
        eventually(lambda: other.runs.get(run.id).status == "running", "the run being executed")
        assert kill_connections(postgres_url) >= 1
        gate.set()
        reader = Runlane(postgres_url, tasks=[echo])  # its connections were not there to be killed
        assert reader.runs.wait(run.id, timeout=PATIENCE).result == 1
        done = reader.runs.wait(reader.trigger(echo, 2).run.id, timeout=PATIENCE)
        assert (done.result, done.attempt_count) == (2, 1)
        worker.stop()
        assert reader.audit.verify().differences == ()
        reader.close()


def test_a_locked_sqlite_file_delays_an_outcome_and_loses_none(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    locker = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    executed = []

    @task("locks")
    def locks(payload: Any, context: Context) -> str:
        executed.append(context.attempt)
        locker.execute("begin immediate")
        return "done"

    with Runlane(sqlite_lane(sqlite_url, busy_timeout=0.02), tasks=[locks]) as app:
        run = app.trigger(locks, 1).run
        worker = app.worker(maintenance=False, poll_interval=0.02)
        with caplog.at_level(logging.WARNING, "runlane.worker"):
            worker.start()
            eventually(lambda: "outcomes and claims have to wait" in caplog.text, "the worker noticing the lock")
        assert app.runs.get(run.id).status is RunStatus.RUNNING
        locker.execute("rollback")
        assert app.runs.wait(run.id, timeout=PATIENCE).result == "done"
        worker.stop()
        assert executed == [1]
        assert app.audit.verify().differences == ()
    locker.close()


def test_a_worker_that_is_cut_off_does_not_wait_for_a_database_that_is_away(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    locker = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    refused = "outcomes and claims have to wait"

    @task("locks")
    def locks() -> None:
        locker.execute("begin immediate")

    with Runlane(sqlite_lane(sqlite_url, busy_timeout=0.02), tasks=[locks]) as app:
        run = app.trigger(locks).run
        worker = app.worker(maintenance=False, poll_interval=0.02)
        stopping = threading.Thread(target=worker.stop, args=(3 * PATIENCE,), daemon=True)
        with caplog.at_level(logging.WARNING, "runlane.worker"):
            worker.start()
            eventually(lambda: refused in caplog.text, "the worker noticing the lock")
            stopping.start()
            eventually(lambda: worker._stop.is_set() and caplog.text.count(refused) > 2, "trying again all the same")
            assert not worker.closed
            worker._exchange.cut_off()
            is_closed = worker.wait(PATIENCE)
        locker.execute("rollback")
        assert is_closed
        assert "gave up 1 outcomes: their leases expire" in caplog.text
        assert worker._exchange.held() == {}
        assert app.runs.get(run.id).status is RunStatus.RUNNING
        assert app.audit.verify().differences == ()
    locker.close()


def test_a_handler_may_use_the_runtime_it_runs_in(make_app: Make) -> None:
    """On lanes with a single connection a transaction held around handlers would block here for ever."""

    @task("busy")
    def busy(payload: Any, context: Context) -> int:
        inner = app.run_now(echo, payload)
        assert inner.executed
        app.tick()
        assert app.runs.get(context.run.id).status is RunStatus.RUNNING
        return len(app.runs.list(parent_run_id=context.run.id).data)

    app = make_app(busy, echo)
    runs = [one.run for one in app.trigger_many(busy, range(5))]
    app.worker("drain", concurrency=5).run()
    assert [app.runs.get(run.id).result for run in runs] == [1] * 5


def test_a_worker_that_is_just_looking_hears_of_a_trigger_too(postgres_url: str) -> None:
    looked, triggered = threading.Event(), threading.Event()
    with Runlane(postgres_url, tasks=[echo]) as app:

        @listens_for(database_of(app).engine, "after_cursor_execute")
        def hold(*_: Any) -> None:
            """Keep the worker's first claim, which found nothing, from ending before the trigger has committed."""
            if threading.current_thread().name.startswith("runlane-exchange") and not triggered.is_set():
                looked.set()
                triggered.wait(PATIENCE)

        worker = app.worker(maintenance=False, poll_interval=3600, concurrency=1)
        worker.start()
        assert looked.wait(PATIENCE)
        run = app.trigger(echo, 1).run
        triggered.set()
        try:
            assert app.runs.wait(run.id, timeout=1.5).result == 1
        finally:
            worker.stop()


def test_a_drain_takes_what_came_back_to_it(postgres_url: str, clock: SettableClock) -> None:
    @task("lost.once")
    def lost_once(payload: Any, context: Context) -> int:
        if context.attempt == 1:
            eventually(lambda: worker._exchange._appetite.dry, "the other lane having found nothing")
            clock.advance(EXPIRY)
            app.tick()
            session_of(app).beat()
        return context.attempt

    with Runlane(postgres_url, tasks=[lost_once], clock=clock) as app:
        run = app.trigger(lost_once, 1).run
        worker = app.worker("drain", maintenance=False)
        worker.run()
        assert app.runs.get(run.id).result == 2


def test_a_drain_waits_for_a_run_that_a_dying_transaction_has_locked(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim whose connection is lost keeps its locks until the server hears of it; to others it looks as if nothing
    were due."""
    caplog.set_level(logging.INFO, "runlane.worker")
    with Runlane(postgres_url, tasks=[echo]) as app:
        run = app.trigger(echo, 1).run
        worker = app.worker("drain", maintenance=False)
        with raw(database_of(app)) as dying:
            dying.exec_driver_sql(f"select from runlane.runs where id = '{run.id}' for update")
            worker.start()
            eventually(lambda: "locked by another transaction" in caplog.text, "the worker having met the lock")
            assert not worker.closed
        assert worker.wait(PATIENCE)
        assert app.runs.get(run.id).result == 1


def test_a_session_is_replaced_while_a_beat_of_the_lost_one_is_under_way(lane_url: str) -> None:
    """The beat asks, when the database has answered, what the process holds; who replaces the session holds that."""
    answered, begun = threading.Event(), threading.Event()
    with Runlane(lane_url, tasks=[echo], heartbeat="10ms", lease_duration="1h") as app:
        runtime, known = app._runtime, app._runtime.held

        def held() -> dict[Any, int]:
            if threading.current_thread().name == "runlane-heartbeat" and not answered.is_set():
                begun.set()
                assert answered.wait(3 * PATIENCE)
            return known()

        runtime.held = held  # type: ignore[method-assign]
        lost = session_of(app)
        assert begun.wait(PATIENCE)
        lost.distrust("its heartbeat is overdue")
        replaced = threading.Thread(target=runtime.session, daemon=True)
        replaced.start()
        replaced.join(PATIENCE)
        is_replaced = not replaced.is_alive()
        answered.set()
        assert is_replaced
        assert session_of(app) is not lost
        eventually(lambda: not lost.is_beating, "the last beat of the lost one")
        app.trigger(echo, 1)
        app.worker("drain", maintenance=False).run()
        assert app.runs.count() == {RunStatus.SUCCEEDED: 1}


def test_a_worker_that_cannot_clear_up_ends_all_the_same(lane_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runlane(lane_url, tasks=[echo]) as app:
        worker = app.worker(maintenance=False)

        def fails(_: Any) -> None:
            raise RuntimeError("no way to clear up")

        def stop() -> None:
            with pytest.raises(RuntimeError):
                worker.stop()

        clear_up = app.lane.transport.unlisten
        monkeypatch.setattr(app.lane.transport, "unlisten", fails)
        worker.start()
        stops = threading.Thread(target=stop, daemon=True)
        stops.start()
        stops.join(PATIENCE)
        if not worker.closed:
            app._workers.clear()  # it would wait for ever to close
        assert worker.closed
        with pytest.raises(RuntimeError, match="no way to clear up"):
            worker.run()
        clear_up(worker._exchange.ring)  # its thread would go on, and speak up when the server ends


@pytest.mark.parametrize("name", ["runlane-maintenance", "first exchange", "last exchange", "runlane-worker"])
def test_a_start_that_fails_half_way_leaves_nothing_behind(
    make_app: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system has no thread left."""

    def start(self: threading.Thread) -> None:
        if self.name == refused:
            raise RuntimeError("can't start new thread")
        started(self)

    started = threading.Thread.start
    app = make_app(echo)
    run_id = app.trigger(echo, 1).run.id
    worker = app.worker(maintenance=name == "runlane-maintenance", poll_interval=0.01)
    lanes = worker._exchange._threads
    refused = {"first exchange": lanes[0].name, "last exchange": lanes[-1].name}.get(name, name)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        worker.start()
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert worker.closed
    assert not [one for one in threading.enumerate() if one.name.startswith("runlane-exchange")]
    monkeypatch.undo()
    app.worker("drain", maintenance=False).run()
    assert app.runs.get(run_id).result == 1


@pytest.fixture
def withhold(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Lets the system allow no further threads whose name begins so."""
    names: list[str | None] = [None]
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if names[0] is not None and thread.name.startswith(names[0]):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return lambda name: names.__setitem__(0, name)


def test_run_now_finds_a_loop_when_the_system_allows_one_again(
    make_app: Make, withhold: Callable[[str | None], None]
) -> None:
    app = make_app(echo_async)
    withhold("runlane-loop")
    with pytest.raises(RuntimeError, match="can't start"):
        app.run_now(echo_async, 1)
    withhold(None)
    done: list[Any] = []
    caller = threading.Thread(target=lambda: done.append(app.run_now(echo_async, 2).run.result), daemon=True)
    caller.start()
    caller.join(PATIENCE)
    assert done == [2]


def test_a_ring_that_finds_no_thread_goes_with_the_next_one(
    postgres_url: str, withhold: Callable[[str | None], None]
) -> None:
    sender = Sender(lambda: psycopg.connect(postgres_url, autocommit=True), "rings", "me")
    withhold("runlane-notify")
    sender.send("env", ["one"])
    sender.close()
    withhold(None)
    with psycopg.connect(postgres_url, autocommit=True) as witness:
        witness.execute("listen rings")
        sender.send("env", ["two"])
        (notice,) = witness.notifies(timeout=PATIENCE, stop_after=1)
        sender.close()
    assert notice.payload == '["me", "env", ["one", "two"]]'
