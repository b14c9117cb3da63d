"""Retry arithmetic, and what counts as worth a retry."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runlane.errors import (
    AttemptTimeout,
    ConfigurationInvalid,
    ErrorCode,
    LeaseLost,
    NonRetryable,
    PayloadInvalid,
    RunlaneError,
    StorageUnavailable,
    TaskFailed,
)
from runlane.executor import failure_of
from runlane.policy import LONGEST_DELAY, ONE_ATTEMPT, Exponential, Fixed, Retry
from runlane.tasks import Task, task


def seconds(*numbers: float) -> list[timedelta]:
    return [timedelta(seconds=number) for number in numbers]


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Fixed("5s"), seconds(5, 5, 5, 5)),
        (Fixed(timedelta(milliseconds=1500)), seconds(1.5, 1.5, 1.5, 1.5)),
        (Exponential("1s"), seconds(1, 2, 4, 8)),
        (Exponential("30s", max_delay="2m"), seconds(30, 60, 120, 120)),
        (Exponential("2s", factor=3), seconds(2, 6, 18, 54)),
        (Exponential("2s", factor=1.5), seconds(2, 3, 4.5, 6.75)),
        (Exponential("2s", factor=1), seconds(2, 2, 2, 2)),
        (Exponential("10s", max_delay="3s"), seconds(3, 3, 3, 3)),
    ],
)
def test_the_wait_before_each_retry(backoff: Fixed | Exponential, waits: list[timedelta]) -> None:
    assert [backoff.before_retry(n) for n in (1, 2, 3, 4)] == waits


@pytest.mark.parametrize("n", [40, 1_000, 100_000, 1_000_000])
def test_exponential_waits_never_overflow(n: int) -> None:
    assert Exponential("1s", factor=1000).before_retry(n) == LONGEST_DELAY
    assert Exponential("1s", max_delay="1h").before_retry(n) == timedelta(hours=1)


def test_no_wait_is_longer_than_a_year() -> None:
    assert Fixed("9999d").before_retry(1) == timedelta(days=365)
    assert Exponential("9999d", max_delay="8888d").before_retry(1) == timedelta(days=365)


@pytest.mark.parametrize(("spread", "wait"), [(-1, 90), (-0.5, 95), (0, 100), (0.5, 105), (1, 110)])
def test_jitter_moves_the_wait_by_its_fraction(spread: float, wait: int) -> None:
    assert Retry(3, Fixed("100s"), jitter=0.1).delay(1, spread) == timedelta(seconds=wait)


def test_jitter_can_be_none_or_all() -> None:
    assert Retry(3, Fixed("100s"), jitter=0).delay(1, 1) == timedelta(seconds=100)
    assert Retry(3, Fixed("100s"), jitter=1).delay(1, -1) == timedelta(0)
    assert Retry(3, Fixed("100s"), jitter=1).delay(1, 1) == timedelta(seconds=200)


def test_the_defaults() -> None:
    retry = Retry(5)
    assert (retry.max_attempts, retry.max_lost, retry.jitter, retry.retry_on, retry.give_up_on) == (5, 3, 0.1, None, ())
    assert retry.backoff == Exponential("1s", max_delay="1h")
    assert Exponential("1s").factor == 2
    assert ONE_ATTEMPT.max_attempts == 1


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Retry(0), "max_attempts"),
        (lambda: Retry(-1), "max_attempts"),
        (lambda: Retry(True), "max_attempts"),
        (lambda: Retry(2.0), "max_attempts"),
        (lambda: Retry("3"), "max_attempts"),
        (lambda: Retry(None), "max_attempts"),
        (lambda: Retry(1_000_001), "max_attempts"),
        (lambda: Retry(3, max_lost=0), "max_lost"),
        (lambda: Retry(3, max_lost=None), "max_lost"),
        (lambda: Retry(3, "30s"), "backoff"),
        (lambda: Retry(3, None), "backoff"),
        (lambda: Retry(3, jitter=-0.1), "jitter"),
        (lambda: Retry(3, jitter=1.1), "jitter"),
        (lambda: Retry(3, jitter=float("nan")), "jitter"),
        (lambda: Retry(3, retry_on="ValueError"), "retry_on"),
        (lambda: Retry(3, retry_on=ValueError("x")), "retry_on"),
        (lambda: Retry(3, retry_on=(ValueError, int)), "retry_on"),
        (lambda: Retry(3, give_up_on=[ValueError]), "give_up_on"),
        (lambda: Retry(3, give_up_on=None), "give_up_on"),
        (lambda: Fixed("0s"), "backoff delay"),
        (lambda: Fixed("soon"), "backoff delay"),
        (lambda: Fixed(5), "backoff delay"),
        (lambda: Fixed(timedelta(0)), "backoff delay"),
        (lambda: Exponential("-1s"), "backoff delay"),
        (lambda: Exponential("1s", max_delay="0s"), "max_delay"),
        (lambda: Exponential("1s", max_delay=60), "max_delay"),
        (lambda: Exponential("1s", factor=0.9), "factor"),
        (lambda: Exponential("1s", factor=1001), "factor"),
        (lambda: Exponential("1s", factor=float("nan")), "factor"),
        (lambda: Exponential("1s", factor=float("inf")), "factor"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_work_is_refused_by_name(make, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        make()


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Retry(3, jitter="much"), "jitter"),
        (lambda: Retry(3, jitter=True), "jitter"),
        (lambda: Retry(3, jitter=None), "jitter"),
        (lambda: Exponential("1s", factor="two"), "factor"),
        (lambda: Exponential("1s", factor=None), "factor"),
    ],
)
def test_a_number_that_is_none_is_refused_by_name(make, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        make()


def test_a_number_beyond_all_others_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationInvalid, match="Exponential factor is out of range"):
        Exponential("1s", factor=10**400)
    with pytest.raises(ConfigurationInvalid, match="Retry jitter is out of range"):
        Retry(3, jitter=10**400)


@pytest.mark.parametrize("make", [lambda: Exponential("1s", "1h"), lambda: Exponential("1s", None, 3)])
def test_the_second_duration_of_a_backoff_is_given_by_name(make) -> None:
    with pytest.raises(TypeError):
        make()
    with pytest.raises(TypeError):
        Exponential("1s", 3, max_delay="1h")


class Broken(Exception):
    """An application's own error."""


class VeryBroken(Broken):
    """A special case of it."""


def worker_task(retry: Retry | None = None) -> Task:
    return task("t", retry=retry or Retry(5))(lambda payload: None)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ValueError("x"), True),
        (Broken("x"), True),
        (TaskFailed("x"), True),
        (TaskFailed("x", retryable=False), False),
        (NonRetryable("x"), False),
        (RunlaneError("x", retryable=True), True),
        (RunlaneError("x", retryable=False), False),
        (AttemptTimeout("x"), True),
        (StorageUnavailable("x"), True),
        (PayloadInvalid("x"), False),
        (PayloadInvalid("x", retryable=True), False),
        (KeyboardInterrupt(), True),
        (SystemExit(1), True),
    ],
)
def test_every_error_is_worth_a_retry_unless_it_says_otherwise(error: BaseException, retryable: bool) -> None:
    assert failure_of(error, worker_task(), redact=False).retryable is retryable


@pytest.mark.parametrize(
    ("options", "error", "retryable"),
    [
        ({"give_up_on": Broken}, Broken(), False),
        ({"give_up_on": Broken}, VeryBroken(), False),
        ({"give_up_on": Broken}, ValueError(), True),
        ({"give_up_on": (ValueError, VeryBroken)}, Broken(), True),
        ({"retry_on": Broken}, Broken(), True),
        ({"retry_on": Broken}, VeryBroken(), True),
        ({"retry_on": Broken}, ValueError(), False),
        ({"retry_on": (Broken, ValueError)}, ValueError(), True),
        ({"retry_on": ()}, ValueError(), False),
        ({"retry_on": Broken, "give_up_on": VeryBroken}, VeryBroken(), False),
        ({"retry_on": Broken, "give_up_on": VeryBroken}, Broken(), True),
        ({"retry_on": NonRetryable}, NonRetryable(), False),
    ],
)
def test_retry_on_and_give_up_on_choose_by_class(options: dict, error: Exception, retryable: bool) -> None:
    assert failure_of(error, worker_task(Retry(5, **options)), redact=False).retryable is retryable


def test_a_failure_holds_the_facts_of_its_exception() -> None:
    try:
        raise Broken("the cable is out")
    except Broken as error:
        failure = failure_of(error, worker_task(), redact=False)
    assert (failure.code, failure.message, failure.exception_type) == (
        ErrorCode.TASK_FAILED,
        "the cable is out",
        "Broken",
    )
    assert failure.traceback is not None
    assert failure.traceback.rstrip().endswith("Broken: the cable is out")


def test_a_failure_keeps_code_and_meta_of_our_own_errors() -> None:
    failure = failure_of(LeaseLost("gone", meta={"since": 3}), worker_task(), redact=False)
    assert (failure.code, failure.message, failure.meta) == ("lease_lost", "gone", {"since": 3})


def test_meta_that_is_no_json_is_left_out_of_the_failure() -> None:
    assert failure_of(TaskFailed("x", meta={"at": object()}), worker_task(), redact=False).meta == {}


def test_unstorable_messages_are_made_storable() -> None:
    failure = failure_of(ValueError("a\x00b\ud800" + "x" * 10_000), worker_task(), redact=False)
    assert failure.message.startswith("a\ufffdb\ufffd")
    assert len(failure.message) == 4096


@pytest.mark.parametrize("error", [ValueError("secret"), TaskFailed("secret", meta={"secret": 1})])
def test_redaction_hides_message_traceback_and_meta(error: Exception) -> None:
    failure = failure_of(error, worker_task(), redact=True)
    assert (failure.message, failure.exception_type, failure.traceback, failure.meta) == (
        "Task failed.",
        None,
        None,
        {},
    )
    assert failure.retryable


def test_redaction_leaves_the_choice_of_what_is_worth_a_retry() -> None:
    assert not failure_of(Broken(), worker_task(Retry(5, give_up_on=Broken)), redact=True).retryable
    assert not failure_of(TaskFailed(retryable=False), worker_task(), redact=True).retryable


def test_an_exception_without_words_is_named_by_its_class() -> None:
    assert failure_of(ValueError(), worker_task(), redact=False).message == "ValueError"


class Mute(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_exception_that_cannot_be_printed_is_named_by_its_class() -> None:
    assert failure_of(Mute(), worker_task(), redact=False).message == "Mute"
