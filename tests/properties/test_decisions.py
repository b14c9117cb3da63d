"""Whatever handlers, workers and operators do, runs stay within budget and cancellations stay cancellations."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import decisions
from runlane import events as e
from runlane.decisions import Failed, Interrupted, Released, Succeeded
from runlane.policy import Exponential, Fixed, Retry
from runlane.projections import runs
from runlane.values import SYSTEM, Failure
from tests.strategies import START, History, histories, running_histories

BROKEN = Failure("task_failed", "it broke", True)
retries = st.builds(
    Retry,
    st.integers(1, 5),
    st.sampled_from([Fixed("1ms"), Fixed("10s"), Exponential("1s"), Exponential("1d", factor=1000)]),
    jitter=st.floats(0, 1),
    max_lost=st.integers(1, 4),
)
outcomes = st.one_of(
    st.builds(Succeeded, st.integers()),
    st.builds(Failed, st.builds(Failure, st.just("task_failed"), st.just("it broke"), st.booleans())),
    st.builds(Released, st.integers(0, 10**9).map(lambda n: timedelta(milliseconds=n))),
    st.builds(Interrupted, st.just("worker_stopping")),
)
spreads = st.floats(-1, 1)


@given(histories(), outcomes, retries, spreads)
def test_every_decision_can_be_folded(history: History, outcome, retry: Retry, spread: float) -> None:
    run = runs.replay(history.records)
    session, attempt = (run.lease.session_id, run.lease.attempt) if run.lease else (UUID(int=1), 1)
    now = run.updated_at
    events = decisions.complete(run, session, attempt, outcome, retry, now, spread)
    assert bool(events) == (run.lease is not None)
    after = decisions.advance(run, events, now, SYSTEM).after
    assert after.lease is None
    recovered = decisions.advance(run, decisions.recover(run, retry.max_lost), now, SYSTEM).after
    assert recovered.lease is None


@given(running_histories(), outcomes, retries, spreads)
@settings(max_examples=50)
def test_a_cancellation_never_turns_into_success(history: History, outcome, retry: Retry, spread: float) -> None:
    run = runs.replay(history.records)
    assert run.lease is not None
    run = decisions.advance(run, (e.RunCancellationRequested(),), run.updated_at, SYSTEM).after
    lease = run.lease
    events = decisions.complete(run, lease.session_id, lease.attempt, outcome, retry, run.updated_at, spread)
    after = decisions.advance(run, events, run.updated_at, SYSTEM).after
    assert after.status == ("failed" if isinstance(outcome, Failed) else "cancelled")
    assert decisions.recover(run, retry.max_lost) == (e.RunCancelled(run.cancellation.reason),)


@given(st.lists(st.sampled_from(["fail", "release", "interrupt", "lose"]), max_size=25), retries, spreads)
def test_only_failures_spend_the_budget_and_only_losses_the_patience(
    steps: list[str], retry: Retry, spread: float
) -> None:
    created = e.RunCreated("t", "q", None)
    run = decisions.begin(UUID(int=7), "default", decisions.create(created, None, START), START, SYSTEM).after
    failed = lost = 0
    now = START
    for step in steps:
        now = max(now, run.due_at or now)
        run = decisions.advance(run, decisions.lease(run, UUID(int=9), "w"), now, SYSTEM).after
        if step == "lose":
            events, lost = decisions.recover(run, retry.max_lost), lost + 1
        else:
            outcome = {
                "fail": Failed(BROKEN),
                "release": Released(timedelta(seconds=5)),
                "interrupt": Interrupted("x"),
            }[step]
            failed += step == "fail"
            events = decisions.complete(run, UUID(int=9), run.attempt_count, outcome, retry, now, spread)
        run = decisions.advance(run, events, now, SYSTEM).after
        assert (run.status == "failed") == (failed >= retry.max_attempts or lost >= retry.max_lost)
        if run.is_terminal:
            break


@given(running_histories(), retries, spreads)
@settings(max_examples=50)
def test_a_retry_waits_what_the_policy_drew_to_the_millisecond(history: History, retry: Retry, spread: float) -> None:
    run = runs.replay(history.records)
    assert run.lease is not None
    run = evolve(run, counters=evolve(run.counters, failures=0, retries=0))
    retry = evolve(retry, max_attempts=2)
    (event,) = decisions.complete(
        run, run.lease.session_id, run.lease.attempt, Failed(BROKEN), retry, run.updated_at, spread
    )
    assert isinstance(event, e.RunRetryScheduled)
    assert event.run_at - run.updated_at == timedelta(milliseconds=event.delay_ms + event.jitter_ms)
    assert event.delay_ms == retry.backoff.before_retry(1) // timedelta(milliseconds=1)
    drawn = retry.delay(1, spread)
    assert timedelta(0) <= drawn - (event.run_at - run.updated_at) < timedelta(milliseconds=1)


@given(st.integers(6, 40), st.sampled_from([Released(timedelta(seconds=1)), Interrupted("x"), Failed(BROKEN)]))
@settings(max_examples=40)
def test_a_run_that_never_ends_by_itself_ends_at_the_limit_of_history(most: int, outcome) -> None:
    retry = Retry(1_000_000, Fixed("1s"))
    now = START
    run = decisions.begin(UUID(int=7), "default", (e.RunCreated("t", "q", None),), now, SYSTEM).after
    while run.is_active:
        now = max(now, run.due_at or now)
        run = decisions.advance(run, decisions.lease(run, UUID(int=9), "w"), now, SYSTEM).after
        events = decisions.complete(run, UUID(int=9), run.attempt_count, outcome, retry, now, 0.0, max_events=most)
        run = decisions.advance(run, events, now, SYSTEM).after
    assert run.sequence <= most
    assert run.sequence >= most - 4
    assert run.failure is not None
    assert run.failure.code == "history_limit"
