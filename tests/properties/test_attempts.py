"""Attempts and timeline tell every legal history completely."""

from __future__ import annotations

from hypothesis import given, settings

from runlane import events as e
from runlane.projections import runs
from runlane.projections.attempts import attempts
from runlane.projections.timeline import timeline
from tests.strategies import History, histories

#: What each event says about the attempt that was running; the tests' own statement.
ENDS = {
    e.RunSucceeded: "succeeded",
    e.RunRetryScheduled: "retried",
    e.RunReleased: "released",
    e.RunInterrupted: "interrupted",
    e.RunLeaseExpired: "lost",
    e.RunFailed: "failed",
    e.RunCancelled: "cancelled",
}


def expected(history: History) -> list[tuple]:
    """Number, start, end and outcome of each attempt, read off the events."""
    told: list[tuple] = []
    for record, status in zip(history.records, ("", *history.statuses), strict=False):
        held = status in ("running", "cancellation_requested")
        if isinstance(record.event, e.RunLeased):
            told.append((len(told) + 1, record.occurred_at, None, "running"))
        elif held and type(record.event) in ENDS:
            told[-1] = (*told[-1][:2], record.occurred_at, ENDS[type(record.event)])
    return told


@given(histories())
@settings(max_examples=60)
def test_each_lease_is_one_attempt_with_its_outcome(history: History) -> None:
    told = attempts(history.records)
    assert [(a.number, a.started_at, a.finished_at, a.outcome.value) for a in told] == expected(history)
    assert len(told) == runs.replay(history.records).counters.attempts


@given(histories())
@settings(max_examples=60)
def test_at_most_the_last_attempt_is_open_and_it_is_the_lease(history: History) -> None:
    told = attempts(history.records)
    run = runs.replay(history.records)
    assert all(a.finished_at is not None for a in told[:-1])
    if run.lease is not None:
        assert told[-1].outcome == "running"
        assert (told[-1].session_id, told[-1].worker_id) == (run.lease.session_id, run.lease.worker_id)
    else:
        assert not told or told[-1].finished_at is not None


@given(histories())
@settings(max_examples=60)
def test_failures_stand_with_the_attempts_that_made_them(history: History) -> None:
    kept = [a.failure for a in attempts(history.records) if a.failure is not None]
    assert kept == [r.event.failure for r in history.records if isinstance(r.event, e.RunRetryScheduled | e.RunFailed)]


@given(histories())
@settings(max_examples=60)
def test_the_timeline_has_one_line_per_event(history: History) -> None:
    moments = timeline(history.records)
    assert [m.sequence for m in moments] == [r.sequence for r in history.records]
    assert [m.at for m in moments] == [r.occurred_at for r in history.records]
    assert [m.since_start for m in moments] == [r.occurred_at - history.records[0].occurred_at for r in history.records]
    assert all(m.text for m in moments)
