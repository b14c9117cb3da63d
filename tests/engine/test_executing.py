"""Executing in the caller's thread: ``run_now``, ``execute_next``, and waiting for a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from runlane import (
    AsyncRunlane,
    PayloadInvalid,
    Queue,
    Runlane,
    RunNotFound,
    RunStatus,
    SettableClock,
    TaskNotFound,
    task,
)
from runlane.errors import LeaseLost
from runlane.testing import drain
from runlane.values import SourceType
from tests.engine.sessions import EXPIRY, session_of
from tests.engine.tasks import echo, echo_async, flaky, hopeless, patient
from tests.support import PATIENCE, SECOND, at_once, types_of, written

Make = Callable[..., Runlane]
ONE, TWO = Queue("one", default=True), Queue("two")


@pytest.fixture
def app(make_app: Make, clock: SettableClock) -> Runlane:
    return make_app(echo, echo_async, flaky, hopeless, patient, queues=[ONE, TWO], clock=clock)


@pytest.mark.parametrize("used", [echo, echo_async], ids=["def", "async def"])
def test_run_now_executes_its_own_run_and_no_other(app: Runlane, used: Any) -> None:
    waiting = app.trigger(used, "waiting", priority=99).run
    done = app.run_now(used, "now", correlation_id="c", meta={"a": 1})
    assert done.executed
    assert (done.run.status, done.run.result, done.run.source.type) == ("succeeded", "now", SourceType.RUN_NOW)
    assert (done.run.correlation_id, done.run.meta) == ("c", {"a": 1})
    assert done.run == app.runs.get(done.run.id)
    assert types_of(app, done.run.id) == ["RunCreated", "RunLeased", "RunSucceeded"]
    assert app.runs.get(waiting.id) == waiting


def test_a_run_of_run_now_is_leased_from_its_first_moment(app: Runlane, make_app: Make) -> None:
    """Nobody can take it between its creation and its lease: both are one step."""
    seen: list[Any] = []

    @task("looks")
    def looks(payload: Any, context: Any) -> None:
        seen.append(other.runs.get(context.run.id).status)
        seen.append(other.execute_next())

    other = make_app(looks)
    other.run_now(looks, 1)
    assert seen == [RunStatus.RUNNING, None]


def test_a_failure_is_in_the_run_and_a_later_attempt_is_the_workers(app: Runlane, clock: SettableClock) -> None:
    done = app.run_now(flaky, "x")
    assert (done.executed, done.run.status, done.run.failure.message) == (True, RunStatus.RETRYING, "not yet: x")
    assert app.execute_next() is None
    clock.advance(10 * SECOND)
    assert app.execute_next().id == done.run.id
    assert app.run_now(hopeless, 1).run.status is RunStatus.FAILED


def test_a_release_of_run_now_is_continued_by_workers(app: Runlane, clock: SettableClock) -> None:
    done = app.run_now(patient, 1)
    assert (done.executed, done.run.status) == (True, RunStatus.RELEASED)
    clock.set(done.run.due_at)
    assert app.execute_next().result == "done"


def test_a_key_that_is_owned_returns_its_owner_unexecuted(app: Runlane) -> None:
    first = app.run_now(echo, 1, idempotency_key="k")
    before = written(app)
    again = app.run_now(echo, 2, idempotency_key="k")
    assert (again.executed, again.run) == (False, first.run)
    waiting = app.trigger(echo, 3, idempotency_key="waiting").run
    assert app.run_now(echo, 4, idempotency_key="waiting") == type(again)(waiting, False)
    assert written(app) == (before[0] + 2, before[1] + 1, before[2] + 1)


def test_a_key_of_a_failed_owner_is_free_for_run_now(app: Runlane) -> None:
    first = app.run_now(hopeless, 1, idempotency_key="k").run
    second = app.run_now(hopeless, 2, idempotency_key="k")
    assert second.executed
    assert second.run.id != first.id


@pytest.mark.parametrize(("used", "kind"), [("unknown", TaskNotFound), (echo, PayloadInvalid)], ids=str)
def test_what_is_wrong_is_raised_and_nothing_is_written(app: Runlane, used: Any, kind: type) -> None:
    with pytest.raises(kind):
        app.run_now(used, object())
    assert written(app) == (0, 0, 0)


def test_run_now_whose_lease_is_lost_says_so(lane_url: str, clock: SettableClock) -> None:
    @task("slow")
    def slow(payload: Any) -> None:
        clock.advance(EXPIRY)
        app.tick()

    with Runlane(lane_url, tasks=[slow], clock=clock) as app:
        with pytest.raises(LeaseLost):
            app.run_now(slow, 1)
        (run,) = app.runs.list().data
        assert (run.status, run.lost_count) == (RunStatus.QUEUED, 1)


def test_sixteen_run_nows_with_one_key_execute_once(shared_url: str) -> None:
    executed = []

    @task("once")
    def once(payload: int) -> int:
        executed.append(payload)
        return payload

    with Runlane(shared_url, tasks=[once]) as app:
        done = at_once([lambda n=n: app.run_now(once, n, idempotency_key="k") for n in range(16)])
        assert sum(one.executed for one in done) == len(executed) == 1
        assert len({one.run.id for one in done}) == 1
        assert app.runs.list().data[0].result == executed[0]


def test_execute_next_takes_one_due_run_of_the_queues_asked_for(app: Runlane) -> None:
    assert app.execute_next() is None
    first = app.trigger(echo, 1, queue=ONE).run
    second = app.trigger(echo, 2, queue=TWO).run
    assert app.execute_next([TWO]).id == second.id
    assert app.execute_next([TWO]) is None
    assert app.execute_next([]) is None
    assert app.execute_next([TWO, ONE]).id == first.id


def test_a_task_that_is_not_registered_is_never_claimed(app: Runlane) -> None:
    unknown = app.trigger(echo, "unknown here", priority=9).run
    flaky_run = app.trigger(flaky, 1).run
    other = Runlane(app.lane, tasks=[flaky], queues=[ONE, TWO])
    assert other.execute_next() is not None
    assert other.execute_next() is None
    other.worker("drain", maintenance=False).run()
    assert app.runs.get(unknown.id) == unknown
    assert app.runs.get(flaky_run.id).attempt_count == 1
    empty = Runlane(app.lane)
    assert empty.execute_next() is None
    other.close()
    empty.close()


def test_many_threads_of_one_runtime_execute_each_run_once(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo, echo_async]) as app:
        app.trigger_many(echo, range(20))
        app.trigger_many(echo_async, range(20, 40))
        done = [run for some in at_once([lambda: drain(app)] * 4) for run in some]
        assert sorted(run.result for run in done) == list(range(40))
        assert app.audit.verify().differences == ()


def test_waiting_for_a_run_that_has_ended_returns_it(app: Runlane) -> None:
    done = app.run_now(echo, 1).run
    assert app.runs.wait(done.id) == app.runs.wait(str(done.id), timeout=0) == done


def test_waiting_for_a_run_that_another_thread_ends(app: Runlane) -> None:
    run = app.trigger(echo, 1).run
    waited, done = at_once([lambda: app.runs.wait(run.id, timeout=PATIENCE), lambda: app.execute_next()])
    assert waited == done
    assert done.status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_waiting_ends_in_time(app: Runlane, timeout: float) -> None:
    run = app.trigger(echo, 1, delay="1h").run
    with pytest.raises(TimeoutError, match=f"run {run.id} is still scheduled after {timeout} s"):
        app.runs.wait(run.id, timeout=timeout)
    with pytest.raises(RunNotFound):
        app.runs.wait("019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", timeout=timeout)


def test_the_attempts_of_a_run(app: Runlane, clock: SettableClock) -> None:
    run = app.run_now(flaky, 1).run
    clock.advance(10 * SECOND)
    app.execute_next()
    first, second = app.runs.attempts(run.id)
    assert (first.number, second.number) == (1, 2)
    assert first.worker_id == second.worker_id == session_of(app).holder.worker_id


def test_the_async_face_does_the_same(lane_url: str, clock: SettableClock) -> None:
    import asyncio

    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo, echo_async, flaky], clock=clock) as app:
            assert (await app.run_now(echo_async, 1)).run.result == 1
            assert (await app.run_now(echo, 2, idempotency_key="k")).executed
            assert not (await app.run_now(echo, 3, idempotency_key="k")).executed
            assert (await app.execute_next()) is None
            run = (await app.trigger(flaky, 4)).run
            assert (await app.execute_next()).status is RunStatus.RETRYING
            with pytest.raises(TimeoutError):
                await app.runs.wait(run.id, timeout=0)
            assert [attempt.number for attempt in await app.runs.attempts(run.id)] == [1]
            assert len(await app.runs.events(run.id)) == 4
            assert (await app.runs.count()) == {RunStatus.SUCCEEDED: 2, RunStatus.RETRYING: 1}
            assert (await app.tick()).errors == ()
            assert (await app.audit.verify()).identical

    asyncio.run(main())


@pytest.mark.parametrize("is_deaf", [False, True])
def test_closing_gives_back_what_run_now_awaits(sqlite_url: str, is_deaf: bool) -> None:
    inside = threading.Event()

    @task("waits")
    async def waits() -> None:
        inside.set()
        while True:
            with suppress(*[asyncio.CancelledError] * is_deaf):
                await asyncio.Event().wait()

    done: list[RunStatus] = []
    app = Runlane(sqlite_url, tasks=[waits]).start()
    caller = threading.Thread(target=lambda: done.append(app.run_now(waits).run.status), daemon=True)
    caller.start()
    assert inside.wait(PATIENCE)
    app.close()
    caller.join(PATIENCE)
    assert done == [RunStatus.QUEUED]
    app.close()


@task("nested")
async def nested(payload: list[Any]) -> list[Any]:
    """Executes itself, or ``def`` ones between, as deep as the payload is long."""
    if not payload:
        return []
    app, kind = APPS[0], payload.pop()
    return [kind, *app.run_now({"def": nested_def, "async def": nested}[kind], payload).run.result]


@task("nested.def")
def nested_def(payload: list[Any]) -> list[Any]:
    return list(APPS[0].run_now(nested, payload).run.result)


APPS: list[Runlane] = []


@pytest.mark.parametrize("in_worker", [False, True])
def test_async_handlers_execute_async_tasks_in_their_place(make_app: Make, in_worker: bool) -> None:
    app = make_app(nested, nested_def)
    APPS[:] = [app]
    depth, done = ["async def", "def", "async def", "async def"], []

    def begin() -> None:
        if in_worker:
            run = app.trigger(nested, depth).run
            app.worker("drain", maintenance=False).run()
            done.append(app.runs.get(run.id).result)
        else:
            done.append(app.run_now(nested, depth).run.result)

    caller = threading.Thread(target=begin, daemon=True)
    caller.start()
    caller.join(PATIENCE)
    if not done:
        app._workers.clear()  # they would wait for ever to close
    assert done == [depth[::-1]]


def test_closing_gives_back_what_a_handler_executes_in_its_place(sqlite_url: str) -> None:
    inside = threading.Event()

    @task("waits")
    async def waits() -> None:
        inside.set()
        await asyncio.Event().wait()

    @task("outer")
    async def outer() -> None:
        app.run_now(waits)

    done: list[RunStatus] = []
    app = Runlane(sqlite_url, tasks=[waits, outer]).start()
    caller = threading.Thread(target=lambda: done.append(app.run_now(outer).run.status), daemon=True)
    caller.start()
    assert inside.wait(PATIENCE)
    app.close()
    caller.join(PATIENCE)
    assert app.runs.count() == {RunStatus.QUEUED: 1, done[0]: 1}
    app.close()
