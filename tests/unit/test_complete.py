"""What the outcome of an attempt means, by the table of SPEC section 9."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from runlane import decisions
from runlane import events as e
from runlane.decisions import Failed, Interrupted, Released, Succeeded
from runlane.errors import ConfigurationInvalid
from runlane.policy import Exponential, Fixed, Retry
from runlane.projections.runs import Run
from runlane.values import Failure
from tests.unit.lives import BROKEN, HELD, HOUR, LATER, OTHER_SESSION, SESSION, STATUSES, T0, WORKER, run_in

HOPELESS = Failure("task_failed", "no use", False)
RETRY = Retry(3, Fixed("10s"), jitter=0.1)
OUTCOMES = {
    "returns": Succeeded({"sent": 1}),
    "returns Release": Released(delay=HOUR, reason="not yet", meta={"try": 1}),
    "raises retryable": Failed(BROKEN),
    "raises non-retryable": Failed(HOPELESS),
    "raises the signal's own error": Interrupted("worker_stopping"),
}

# SPEC section 9, word by word: the rows are statuses whose lease is ours, the columns outcomes.
TABLE = {
    "running": ["succeeded", "released", "retrying", "failed", "queued"],
    "cancellation_requested": ["cancelled", "cancelled", "failed", "failed", "cancelled"],
}


def completed(run: Run, outcome: decisions.Outcome, retry: Retry = RETRY, now: datetime = LATER, spread: float = 0.0):
    return decisions.complete(run, SESSION, 1, outcome, retry, now, spread)


def moved(run: Run, outcome: decisions.Outcome, **options) -> Run:
    return decisions.advance(run, completed(run, outcome, **options), LATER, WORKER).after


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("status", TABLE)
def test_our_outcome_leads_where_the_table_says(status: str, column: int) -> None:
    assert moved(run_in(status), list(OUTCOMES.values())[column]).status == TABLE[status][column]


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("status", [status for status in STATUSES if status not in HELD])
def test_an_outcome_is_dropped_when_nobody_holds_the_run(status: str, outcome: str) -> None:
    assert completed(run_in(status), OUTCOMES[outcome]) == ()


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("status", HELD)
@pytest.mark.parametrize(("session", "attempt"), [(OTHER_SESSION, 1), (SESSION, 2), (SESSION, 0)])
def test_an_outcome_is_dropped_when_somebody_else_holds_the_run(status: str, outcome: str, session, attempt) -> None:
    assert decisions.complete(run_in(status), session, attempt, OUTCOMES[outcome], RETRY, LATER, 0.0) == ()


def test_a_success_carries_its_result() -> None:
    assert completed(run_in("running"), Succeeded([1])) == (e.RunSucceeded(SESSION, 1, [1]),)


def test_a_release_by_delay_counts_from_now() -> None:
    (event,) = completed(run_in("running"), OUTCOMES["returns Release"])
    assert event == e.RunReleased(SESSION, 1, LATER + HOUR, "not yet", {"try": 1})


@pytest.mark.parametrize("run_at", [T0, LATER, LATER + HOUR])
def test_a_release_until_an_instant_keeps_it(run_at: datetime) -> None:
    assert completed(run_in("running"), Released(run_at=run_at)) == (e.RunReleased(SESSION, 1, run_at),)


def test_a_release_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="9999"):
        completed(run_in("running"), Released(delay=timedelta(days=9_999_999)))


def test_a_retry_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="the retry delay"):
        completed(run_in("running"), Failed(BROKEN), now=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))


def test_an_interruption_keeps_its_reason() -> None:
    assert completed(run_in("running"), Interrupted("lease_lost")) == (e.RunInterrupted(SESSION, 1, "lease_lost"),)


def test_a_cancelled_run_repeats_the_reason_of_the_request() -> None:
    assert completed(run_in("cancellation_requested"), Succeeded(1)) == (e.RunCancelled("enough"),)


def test_a_failure_is_stored_as_it_came() -> None:
    assert completed(run_in("running"), Failed(HOPELESS)) == (e.RunFailed(SESSION, 1, HOPELESS),)
    assert completed(run_in("cancellation_requested"), Failed(BROKEN)) == (e.RunFailed(SESSION, 1, BROKEN),)


@pytest.mark.parametrize(("spread", "jitter_ms"), [(0.0, 0), (1.0, 1_000), (-1.0, -1_000), (0.5, 500)])
def test_a_retry_records_its_wait_and_the_drawn_jitter(spread: float, jitter_ms: int) -> None:
    (event,) = completed(run_in("running"), Failed(BROKEN), spread=spread)
    run_at = LATER + timedelta(milliseconds=10_000 + jitter_ms)
    assert event == e.RunRetryScheduled(SESSION, 1, BROKEN, run_at, 10_000, jitter_ms)


def test_waits_grow_with_the_number_of_the_retry() -> None:
    run = run_in("running")
    retry = Retry(9, Exponential("1s"), jitter=0)
    for retries, delay_ms in [(0, 1_000), (1, 2_000), (4, 16_000)]:
        counted = evolve(run, counters=evolve(run.counters, failures=retries, retries=retries))
        (event,) = completed(counted, Failed(BROKEN), retry=retry)
        assert event.delay_ms == delay_ms


@pytest.mark.parametrize(
    ("max_attempts", "failures", "status"),
    [(1, 0, "failed"), (2, 0, "retrying"), (2, 1, "failed"), (3, 1, "retrying"), (3, 2, "failed"), (3, 7, "failed")],
)
def test_the_budget_is_total_attempts_counted_in_failures(max_attempts: int, failures: int, status: str) -> None:
    run = run_in("running")
    run = evolve(run, counters=evolve(run.counters, attempts=50, releases=40, losses=9, failures=failures))
    assert moved(run, Failed(BROKEN), retry=Retry(max_attempts)).status == status


def test_a_decision_on_a_clock_that_went_back_still_appends_forwards() -> None:
    run = run_in("running")
    change = decisions.advance(run, completed(run, Succeeded(), now=T0 - HOUR), T0 - HOUR, WORKER)
    assert change.records[0].occurred_at == run.updated_at
    assert change.after.status == "succeeded"


def at_sequence(sequence: int) -> Run:
    return evolve(run_in("running"), sequence=sequence)


@pytest.mark.parametrize("outcome", ["returns Release", "raises retryable", "raises the signal's own error"])
def test_a_history_that_could_not_end_within_its_limit_fails(outcome: str) -> None:
    events = decisions.complete(at_sequence(8), SESSION, 1, OUTCOMES[outcome], RETRY, LATER, 0.0, max_events=10)
    assert isinstance(events[0], e.RunFailed)
    assert (events[0].failure.code, events[0].failure.retryable) == ("history_limit", False)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_below_the_limit_of_history_everything_is_as_ever(outcome: str) -> None:
    run = at_sequence(5)
    limited = decisions.complete(run, SESSION, 1, OUTCOMES[outcome], RETRY, LATER, 0.0, max_events=10)
    assert limited == completed(run, OUTCOMES[outcome])


def test_a_success_is_kept_at_the_limit_of_history() -> None:
    events = decisions.complete(at_sequence(9), SESSION, 1, Succeeded(1), RETRY, LATER, 0.0, max_events=10)
    assert events == (e.RunSucceeded(SESSION, 1, 1),)


def test_a_cancellation_is_kept_at_the_limit_of_history() -> None:
    run = evolve(run_in("cancellation_requested"), sequence=9)
    assert decisions.complete(run, SESSION, 1, Released(HOUR), RETRY, LATER, 0.0, 10) == (e.RunCancelled("enough"),)


@pytest.mark.parametrize("failure", [HOPELESS, BROKEN])
def test_a_final_failure_keeps_its_cause_at_the_limit_of_history(failure: Failure) -> None:
    events = decisions.complete(at_sequence(8), SESSION, 1, Failed(failure), Retry(1), LATER, 0.0, max_events=10)
    assert events == (e.RunFailed(SESSION, 1, failure),)
