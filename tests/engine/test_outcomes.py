"""What becomes of a run by what its handler does: the table of outcomes, line by line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from runlane import (
    ConfigurationInvalid,
    Context,
    Exponential,
    Fixed,
    NonRetryable,
    Retry,
    Runlane,
    RunStatus,
    SettableClock,
    Task,
    task,
)
from runlane.errors import OperationCancelled, TaskFailed
from runlane.jsontext import MAX_BYTES
from runlane.projections import runs as fold
from runlane.projections.runs import Run
from tests.engine.tasks import HOUR, Flaky, echo, echo_async, flaky, hopeless, nothing, patient
from tests.support import SECOND, database_of, execute, types_of

Make = Callable[..., Runlane]
BIRTH = ["RunCreated", "RunDeliveryRequested"]


def raising(error: BaseException | type[BaseException], **options: Any) -> Task:
    """A task that always fails with `error`."""

    @task("raising", **options)
    def raise_it(payload: Any) -> None:
        raise error

    return raise_it


def returning(value: Any, **options: Any) -> Task:
    @task("returning", **options)
    def return_it(payload: Any) -> Any:
        return value

    return return_it


def attempt(app: Runlane, used: Task, payload: Any = None, **options: Any) -> Run:
    """The run after its first attempt."""
    run = app.trigger(used, payload, **options).run
    done = app.execute_next()
    assert done is not None
    assert done.id == run.id
    assert done == app.runs.get(run.id) == fold.replay(app.runs.events(run.id))
    return done


@pytest.mark.parametrize("used", [echo, echo_async], ids=["def", "async def"])
def test_what_a_handler_returns_is_the_result(make_app: Make, clock: SettableClock, used: Task) -> None:
    app = make_app(used, clock=clock)
    for value in ({"a": [1, 2.5, None, True, "é🙂"]}, [], "", 0, False, {"deep": {"er": {}}}, 2**63 - 1, -(2**63)):
        done = attempt(app, used, value)
        assert (done.status, done.result, done.failure) == (RunStatus.SUCCEEDED, value, None)
        assert (done.attempt_count, done.failure_count, done.lease, done.due_at) == (1, 0, None, None)
        assert done.finished_at == clock()
        assert types_of(app, done.id) == [*BIRTH, "RunLeased", "RunSucceeded"]


def test_a_handler_may_take_and_return_nothing(make_app: Make) -> None:
    app = make_app(nothing)
    done = attempt(app, nothing)
    assert (done.status, done.result) == (RunStatus.SUCCEEDED, None)


def test_a_failure_is_retried_until_the_budget_is_gone(make_app: Make, clock: SettableClock) -> None:
    app = make_app(flaky, clock=clock)
    run = attempt(app, flaky, "x")
    for number in (1, 2):
        assert (run.status, run.failure_count, run.retry_count) == (RunStatus.RETRYING, number, number)
        assert run.due_at == run.run_at == clock() + 10 * SECOND
        assert run.failure.message == "not yet: x"
        assert app.execute_next() is None
        clock.advance(10 * SECOND)
        run = app.execute_next()
    assert (run.status, run.attempt_count, run.failure_count, run.retry_count) == (RunStatus.FAILED, 3, 3, 2)
    assert (run.failure.code, run.failure.retryable, run.failure.exception_type) == ("task_failed", True, "Flaky")
    assert "raise Flaky" in run.failure.traceback
    assert app.execute_next() is None
    assert types_of(app, run.id)[-1] == "RunFailed"


def test_a_failure_may_be_followed_by_success(make_app: Make, clock: SettableClock) -> None:
    @task("second.try", retry=Retry(2, Fixed("1s"), jitter=0.0))
    def second_try(payload: Any, context: Context) -> int:
        if context.attempt == 1:
            raise Flaky("once")
        return context.attempt

    app = make_app(second_try, clock=clock)
    attempt(app, second_try)
    clock.advance(SECOND)
    run = app.execute_next()
    assert (run.status, run.result, run.failure_count) == (RunStatus.SUCCEEDED, 2, 1)


def test_the_backoff_and_the_drawn_jitter_are_recorded(make_app: Make, clock: SettableClock) -> None:
    used = raising(Flaky("no"), retry=Retry(8, Exponential("10s", max_delay="60s"), jitter=0.5))
    app = make_app(used, clock=clock)
    run = attempt(app, used)
    while run.is_active:
        clock.set(run.due_at)
        run = app.execute_next()
    retries = [record for record in app.runs.events(run.id) if type(record.event).__name__ == "RunRetryScheduled"]
    assert [record.event.delay_ms for record in retries] == [10_000, 20_000, 40_000, 60_000, 60_000, 60_000, 60_000]
    for record in retries:
        drawn = record.event
        assert abs(drawn.jitter_ms) <= drawn.delay_ms * 0.5
        assert drawn.run_at == record.occurred_at + timedelta(milliseconds=drawn.delay_ms + drawn.jitter_ms)
    assert len({record.event.jitter_ms for record in retries}) > 1
    assert fold.replay(app.runs.events(run.id)) == run


def test_a_task_without_retry_has_one_attempt(make_app: Make) -> None:
    used = raising(Flaky("no"))
    run = attempt(make_app(used), used)
    assert (run.status, run.failure_count, run.retry_count) == (RunStatus.FAILED, 1, 0)


@pytest.mark.parametrize(
    ("error", "options", "code"),
    [
        (NonRetryable("no"), {}, "task_failed"),
        (TaskFailed("no", retryable=False), {}, "task_failed"),
        (ConfigurationInvalid("no"), {}, "configuration_invalid"),
        (OperationCancelled("no"), {}, "operation_cancelled"),
        (KeyError("no"), {"give_up_on": KeyError}, "task_failed"),
        (KeyError("no"), {"give_up_on": (ValueError, LookupError)}, "task_failed"),
        (KeyError("no"), {"retry_on": ValueError}, "task_failed"),
    ],
    ids=repr,
)
def test_some_failures_are_never_retried(make_app: Make, error: Exception, options: dict, code: str) -> None:
    used = raising(error, retry=Retry(5, **options))
    run = attempt(make_app(used), used)
    assert (run.status, run.failure.code, run.failure.retryable) == (RunStatus.FAILED, code, False)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TaskFailed("no"), {}),
        (KeyError("no"), {"retry_on": LookupError}),
        (KeyError("no"), {"give_up_on": ValueError}),
        (TimeoutError(), {}),
        (asyncio.CancelledError(), {}),
    ],
    ids=repr,
)
def test_all_other_failures_are(make_app: Make, error: Exception, options: dict) -> None:
    used = raising(error, retry=Retry(5, **options))
    run = attempt(make_app(used), used)
    assert (run.status, run.failure.retryable) == (RunStatus.RETRYING, True)


def test_an_errors_meta_is_kept(make_app: Make) -> None:
    run = attempt(make_app(hopeless), hopeless, {"order": 7})
    assert run.failure.meta == {"payload": {"order": 7}}


def test_a_release_continues_the_same_run_later_and_spends_nothing(make_app: Make, clock: SettableClock) -> None:
    app = make_app(patient, clock=clock)
    run = attempt(app, patient, 5)
    for number in range(1, 6):
        assert (run.status, run.release_count, run.due_at) == (RunStatus.RELEASED, number, clock() + HOUR)
        assert (run.failure_count, run.retry_count, run.failure) == (0, 0, None)
        event = app.runs.events(run.id)[-1].event
        assert (event.reason, event.meta, event.run_at) == (f"wait {number}", {"attempt": number}, run.run_at)
        assert app.execute_next() is None
        clock.advance(HOUR)
        run = app.execute_next()
    assert (run.status, run.result, run.attempt_count) == (RunStatus.SUCCEEDED, "done", 6)


@pytest.mark.parametrize("ahead", [HOUR, timedelta(0), -HOUR], ids=["future", "now", "past"])
def test_a_release_until_an_instant(make_app: Make, clock: SettableClock, ahead: timedelta) -> None:
    until = clock() + ahead

    @task("until")
    def wait_until(payload: Any, context: Context) -> Any:
        return context.release(run_at=until) if context.attempt == 1 else "done"

    app = make_app(wait_until, clock=clock)
    run = attempt(app, wait_until)
    assert (run.status, run.due_at) == (RunStatus.RELEASED, until)
    clock.set(max(clock(), until))
    assert app.execute_next().result == "done"


def test_a_release_that_is_not_returned_has_no_effect_and_warns(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @task("forgets")
    def forgets(payload: Any, context: Context) -> str:
        context.release("1h")
        return "done"

    with caplog.at_level(logging.WARNING, "runlane.task"):
        run = attempt(make_app(forgets), forgets)
    assert (run.status, run.result, run.release_count) == (RunStatus.SUCCEEDED, "done", 0)
    record = next(record for record in caplog.records if "made but not returned" in record.message)
    assert record.run_id == str(run.id)


@pytest.mark.parametrize(
    "wrong", [{}, {"delay": "1h", "run_at": 1}, {"delay": "soon"}, {"delay": "1h", "meta": {1: 1}}]
)
def test_a_wrong_release_fails_the_attempt_and_says_why(make_app: Make, wrong: dict) -> None:
    @task("wrong")
    def releases(payload: Any, context: Context) -> Any:
        return context.release(**wrong)

    run = attempt(make_app(releases), releases)
    assert (run.status, run.failure.code) == (RunStatus.FAILED, "configuration_invalid")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "result is a object, which is no JSON value"),
        ({"a": {1: 2}}, "result.a has the key 1 of type int"),
        (float("nan"), "result is nan"),
        ("a\x00b", "result contains a NUL character"),
        ("\ud800", "result contains a lone surrogate"),
        (2**63, "result is an integer beyond 64 bits"),
        ("x" * (MAX_BYTES - 1), "result is 1,048,577 bytes of JSON; at most 1,048,576 are allowed"),
    ],
    ids=["object", "key", "NaN", "NUL", "surrogate", "integer", "size"],
)
def test_a_result_that_cannot_be_stored_fails_the_run_for_good(make_app: Make, value: Any, reason: str) -> None:
    used = returning(value, retry=Retry(5))
    run = attempt(make_app(used), used)
    assert (run.status, run.failure.code, run.failure.retryable) == (RunStatus.FAILED, "task_failed", False)
    assert reason in run.failure.message


def test_the_largest_result_is_stored(make_app: Make) -> None:
    used = returning("x" * (MAX_BYTES - 2))
    assert len(attempt(make_app(used), used).result) == MAX_BYTES - 2


def test_a_payload_that_no_longer_fits_fails_the_run_for_good(make_app: Make, clock: SettableClock) -> None:
    called = []

    @task("changing")
    def before(payload: dict) -> None:
        """As deployed when the run was triggered."""

    @task("changing", retry=Retry(5))
    def after(payload: int) -> None:
        called.append(payload)

    old = make_app(before, clock=clock)
    run = old.trigger(before, {"n": 1}).run
    new = Runlane(old.lane, tasks=[after], clock=clock)
    done = new.execute_next()
    assert (done.id, done.status) == (run.id, RunStatus.FAILED)
    assert (done.failure.code, done.failure.retryable) == ("payload_invalid", False)
    assert "payload does not fit int" in done.failure.message
    assert called == []
    new.close()


@pytest.mark.parametrize("error", [ValueError("secret-7"), TaskFailed("secret-7")], ids=repr)
def test_redacted_failures_tell_nothing(make_app: Make, error: Exception) -> None:
    used = raising(error)
    app = make_app(used, redact_failures=True)
    run = attempt(app, used)
    stored = execute(database_of(app), "select cast(data as text) from {events}")
    stored += execute(database_of(app), "select cast(failure as text) from {runs}")
    assert "secret-7" not in str(stored)
    assert (run.failure.message, run.failure.traceback) == ("Task failed.", None)


class OwnBaseException(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), OwnBaseException("own")], ids=repr)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_that_means_to_end_the_program_ends_only_the_attempt(
    make_app: Make, error: BaseException, kind: str
) -> None:
    plain = raising(error)

    @task("raising")
    async def asynchronous(payload: Any) -> None:
        raise error

    used = plain if kind == "def" else asynchronous
    app = make_app(used, echo)
    run = attempt(app, used)
    assert (run.status, run.failure.exception_type) == (RunStatus.FAILED, type(error).__qualname__)
    again, other = app.trigger(used).run, app.trigger(echo, 1).run
    app.worker("drain", maintenance=False).run()
    assert app.runs.get(again.id).status is RunStatus.FAILED
    assert app.runs.get(other.id).status is RunStatus.SUCCEEDED


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unspeakable(), "Unspeakable"),
        (ValueError(), "ValueError"),
        (ValueError("a\x00b\ud800"), "a\ufffdb\ufffd"),
        (ValueError("x" * 10_000), "x" * 4095 + "…"),
        (NonRetryable("kept", meta={"bad": object()}), "kept"),
    ],
    ids=["no text", "empty", "unstorable", "long", "meta"],
)
def test_whatever_an_exception_says_is_stored(make_app: Make, error: Exception, message: str) -> None:
    used = raising(error)
    run = attempt(make_app(used), used)
    assert (run.status, run.failure.message) == (RunStatus.FAILED, message)


def test_a_history_that_grows_without_end_fails_the_run(make_app: Make, clock: SettableClock) -> None:
    @task("endless", retry=Retry(1000))
    def endless(payload: Any, context: Context) -> Any:
        return context.release("1s")

    app = make_app(endless, clock=clock, max_events=20)
    run = attempt(app, endless)
    while run.is_active:
        assert run.sequence < 20
        clock.advance(SECOND)
        run = app.execute_next()
    assert (run.status, run.failure.code, run.failure.retryable) == (RunStatus.FAILED, "history_limit", False)
    assert 18 <= run.sequence <= 20
