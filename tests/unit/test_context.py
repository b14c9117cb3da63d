"""What a handler holds in its hands: the signal to stop, and the release to continue later."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from runlane import SettableClock
from runlane.clock import system_clock
from runlane.context import Context, Release, Signal, current
from runlane.errors import ConfigurationInvalid, OperationCancelled
from tests.unit.lives import RUN_ID, run_in

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def context() -> Context:
    return Context(run_in("running"), 1, "w1")


def test_a_signal_is_silent_until_it_is_set() -> None:
    signal = Signal()
    assert not signal.is_set()
    assert signal.reason is None
    assert not signal.wait(0)
    signal.raise_if_set()


def test_a_set_signal_says_why() -> None:
    signal = Signal()
    signal.set("worker_stopping")
    assert signal.is_set()
    assert signal.wait()
    assert signal.reason == "worker_stopping"
    with pytest.raises(OperationCancelled, match="worker_stopping") as stopped:
        signal.raise_if_set()
    assert stopped.value.meta == {"reason": "worker_stopping"}


def test_the_first_reason_stays() -> None:
    signal = Signal()
    signal.set("lease_lost")
    signal.set("worker_stopping")
    assert signal.reason == "lease_lost"


def test_whoever_waits_is_woken() -> None:
    signal = Signal()
    heard: list[bool] = []
    waiting = [threading.Thread(target=lambda: heard.append(signal.wait(5))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    while signal._event is None:  # from then on somebody waits, or is about to
        waiting[0].join(0.001)
    signal.set("cancellation_requested")
    for thread in waiting:
        thread.join(30)
    assert heard == [True, True, True]


@pytest.mark.parametrize(
    ("reason", "cancelled"),
    [(None, False), ("worker_stopping", False), ("lease_lost", False), ("cancellation_requested", True)],
)
def test_only_a_request_to_cancel_is_one(context: Context, reason: str | None, cancelled: bool) -> None:
    if reason is not None:
        context.signal.set(reason)
    assert context.is_cancellation_requested() is cancelled


def test_a_context_knows_its_attempt(context: Context) -> None:
    assert (context.run.id, context.attempt, context.worker_id) == (RUN_ID, 1, "w1")
    assert context.released is None


def test_a_release_by_delay(context: Context) -> None:
    release = context.release("30s", reason="not yet", meta={"try": 1})
    assert release == Release(timedelta(seconds=30), None, "not yet", {"try": 1})
    assert context.released is release


def test_a_release_until_an_instant_is_in_utc(context: Context) -> None:
    release = context.release(run_at=datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert release == Release(None, AT, None, None)
    assert release.run_at is not None
    assert release.run_at.tzinfo is UTC


def test_the_meta_of_a_release_is_a_copy(context: Context) -> None:
    meta = {"a": 1}
    release = context.release("1s", meta=meta)
    meta["a"] = 2
    assert release.meta == {"a": 1}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "release needs exactly one of delay and run_at"),
        ({"delay": "1s", "run_at": AT}, "release needs exactly one of delay and run_at"),
        ({"delay": "soon"}, "delay must be"),
        ({"delay": 5}, "delay must be"),
        ({"delay": "0s"}, "delay must be"),
        ({"delay": timedelta(0)}, "delay must be positive"),
        ({"run_at": datetime(2026, 1, 1)}, "run_at must be timezone-aware"),
        ({"run_at": "soon"}, "run_at must be a datetime"),
        ({"delay": "1s", "reason": 5}, "reason must be a string"),
        ({"delay": "1s", "reason": "\x00"}, "reason must not contain NUL"),
        ({"delay": "1s", "meta": {"at": AT}}, r"meta\.at is a datetime"),
        ({"delay": "1s", "meta": {1: 1}}, "meta has the key 1"),
    ],
)
def test_a_bad_release_is_refused_by_name_and_not_made(context: Context, options: dict, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        context.release(**options)
    assert context.released is None


@pytest.mark.parametrize("meta", [5, "text", [1]])
def test_meta_that_is_no_mapping_is_refused_by_name(context: Context, meta: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="meta"):
        context.release("1s", meta=meta)


def test_log_records_carry_the_run(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "runlane.task"):
        context.log.info("halfway")
    (record,) = caplog.records
    assert (record.run_id, record.task_id, record.attempt) == (str(RUN_ID), "emails.welcome", 1)  # type: ignore[attr-defined]


def test_outside_of_a_handler_there_is_no_context() -> None:
    assert current.get() is None


def test_a_settable_clock_stands_still_until_it_is_moved() -> None:
    clock = SettableClock(AT)
    assert (clock(), clock()) == (AT, AT)
    assert clock.advance(timedelta(hours=1)) == clock() == AT + timedelta(hours=1)
    clock.set(AT.astimezone(timezone(timedelta(hours=5))))
    assert (clock(), clock().tzinfo) == (AT, UTC)


def test_a_settable_clock_needs_aware_instants() -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        SettableClock(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="timezone-aware"):
        SettableClock().set(datetime(2026, 1, 1))


def test_the_system_clock_is_in_utc() -> None:
    assert system_clock().tzinfo is UTC
