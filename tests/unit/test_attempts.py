"""A run's attempts and its timeline, told from its events."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve

from runlane import codec
from runlane import events as e
from runlane.projections.attempts import attempts
from runlane.projections.timeline import sentence, timeline
from runlane.values import Actor, Failure, Source, SourceType
from tests.unit.lives import BROKEN, CREATED, HOUR, LEASED, OTHER_SESSION, RUN_ID, SESSION, T0, history, record

SECOND = evolve(LEASED, session_id=OTHER_SESSION, worker_id="w2", attempt=2)


@pytest.mark.parametrize(
    ("ending", "outcome", "failure"),
    [
        (None, "running", None),
        (e.RunCancellationRequested(), "running", None),
        (e.RunSucceeded(SESSION, 1), "succeeded", None),
        (e.RunRetryScheduled(SESSION, 1, BROKEN, T0, 0, 0), "retried", BROKEN),
        (e.RunReleased(SESSION, 1, T0), "released", None),
        (e.RunInterrupted(SESSION, 1, "worker_stopping"), "interrupted", None),
        (e.RunLeaseExpired(SESSION, 1), "lost", None),
        (e.RunFailed(SESSION, 1, BROKEN), "failed", BROKEN),
        (e.RunCancelled(), "cancelled", None),
    ],
)
def test_how_an_attempt_ended(ending: e.RunStep | None, outcome: str, failure: Failure | None) -> None:
    records = history(CREATED, LEASED)
    if ending is not None:
        records.append(record(3, ending, T0 + HOUR))
    (attempt,) = attempts(records)
    assert (attempt.number, attempt.session_id, attempt.worker_id, attempt.started_at) == (1, SESSION, "w1", T0)
    assert (attempt.outcome, attempt.failure) == (outcome, failure)
    assert attempt.finished_at == (None if outcome == "running" else T0 + HOUR)


def test_a_run_that_never_started_has_no_attempts() -> None:
    assert attempts(history(CREATED, e.RunDeliveryRequested(), e.RunCancelled())) == ()
    assert attempts([]) == ()


def test_attempts_stand_in_order() -> None:
    retried = e.RunRetryScheduled(SESSION, 1, BROKEN, T0, 0, 0)
    told = attempts(history(CREATED, LEASED, retried, SECOND, e.RunSucceeded(OTHER_SESSION, 2)))
    assert [(a.number, a.worker_id, a.outcome) for a in told] == [(1, "w1", "retried"), (2, "w2", "succeeded")]


def test_cancelling_between_attempts_leaves_the_last_one_as_it_ended() -> None:
    told = attempts(history(CREATED, LEASED, e.RunReleased(SESSION, 1, T0), e.RunCancelled()))
    assert [a.outcome for a in told] == ["released"]


ANN = Actor.operator("ann")
SENTENCES = [
    (CREATED, "created for task emails.welcome on queue emails, triggered by operator:ann"),
    (
        evolve(CREATED, run_at=T0),
        (
            "created for task emails.welcome on queue emails, triggered by operator:ann, "
            "to start at 2026-01-01 12:00:00.000Z"
        ),
    ),
    (
        evolve(CREATED, source=Source(SourceType.RUN_NOW)),
        "created for task emails.welcome on queue emails, started in place by operator:ann",
    ),
    (
        evolve(CREATED, source=Source(SourceType.SCHEDULE, schedule_id="nightly")),
        "created for task emails.welcome on queue emails, made by schedule nightly",
    ),
    (
        evolve(CREATED, source=Source(SourceType.RERUN, RUN_ID)),
        f"created for task emails.welcome on queue emails, rerun of {RUN_ID} by operator:ann",
    ),
    (
        evolve(CREATED, source=Source(SourceType.MANUAL_RETRY, RUN_ID)),
        f"created for task emails.welcome on queue emails, manual retry of {RUN_ID} by operator:ann",
    ),
    (e.RunDeliveryRequested(), "delivery requested"),
    (e.RunDispatchReserved(), "a slot of its queue was reserved"),
    (e.RunDispatchReservationExpired(), "the reserved slot was given back unused"),
    (LEASED, "attempt 1 started on w1"),
    (e.RunSucceeded(SESSION, 1, {"a": 1}), "attempt 1 succeeded"),
    (
        e.RunRetryScheduled(SESSION, 1, BROKEN, T0 + HOUR, 0, 0),
        "attempt 1 failed (task_failed: it broke); next one at 2026-01-01 13:00:00.000Z",
    ),
    (e.RunReleased(SESSION, 1, T0), "attempt 1 released the run until 2026-01-01 12:00:00.000Z"),
    (e.RunReleased(SESSION, 1, T0, "not yet"), "attempt 1 released the run until 2026-01-01 12:00:00.000Z: not yet"),
    (e.RunInterrupted(SESSION, 1, "worker_stopping"), "attempt 1 was interrupted (worker_stopping); queued again"),
    (e.RunLeaseExpired(SESSION, 1), "the worker of attempt 1 vanished; queued again"),
    (e.RunFailed(SESSION, 1, BROKEN), "failed in attempt 1 (task_failed: it broke)"),
    (e.RunCancellationRequested(), "cancellation requested by operator:ann"),
    (e.RunCancellationRequested("enough"), "cancellation requested by operator:ann: enough"),
    (e.RunCancelled(), "cancelled by operator:ann"),
    (e.RunCancelled("enough"), "cancelled by operator:ann: enough"),
    (
        evolve(CREATED, source=Source(SourceType.TRIGGER, parent_run_id=RUN_ID)),
        f"created for task emails.welcome on queue emails, triggered by operator:ann in run {RUN_ID}",
    ),
    (
        evolve(CREATED, source=Source(SourceType.RERUN, RUN_ID, RUN_ID), meta={"reason": "fixed  \n now"}),
        f"created for task emails.welcome on queue emails, rerun of {RUN_ID} by operator:ann: fixed now",
    ),
    (
        evolve(CREATED, meta={"reason": "not an operator's"}),
        "created for task emails.welcome on queue emails, triggered by operator:ann",
    ),
    (
        e.RunFailed(SESSION, 1, evolve(BROKEN, message="line\n  by line " + "x" * 1000)),
        "failed in attempt 1 (task_failed: line by line " + "x" * 286 + "…)",
    ),
    (e.ScheduleRegistered("t", "q", {}, None, True, None), "schedule registered for task t on queue q"),
    (e.ScheduleChanged("t", "q", {}, None, True, None), "schedule changed, for task t on queue q"),
    (
        e.ScheduleFired(SESSION, T0, RUN_ID, None, 2, T0),
        f"schedule fired for 2026-01-01 12:00:00.000Z, and for 2 that were missed before: run {RUN_ID}",
    ),
    (
        e.ScheduleFired(SESSION, T0, RUN_ID, None),
        f"schedule fired for 2026-01-01 12:00:00.000Z: run {RUN_ID}",
    ),
    (e.SchedulePaused("night"), "schedule paused by operator:ann: night"),
    (e.ScheduleResumed(None), "schedule resumed by operator:ann"),
    (e.ScheduleRemoved(), "schedule removed"),
    (e.QueuePaused("emails", "night"), "queue emails paused by operator:ann: night"),
    (e.QueueResumed("emails"), "queue emails resumed by operator:ann"),
    (
        e.IdempotencyReset("t", "k", RUN_ID, "wrong"),
        f"idempotency key k of task t freed from run {RUN_ID} by operator:ann: wrong",
    ),
    (
        e.RunsPruned(1, 7, T0, ("failed",), ""),
        "1 run with 7 events pruned by operator:ann, last updated before 2026-01-01 12:00:00.000Z",
    ),
    (
        e.RunsPruned(2, 9, T0, ("failed",), "", reason="older than a year"),
        "2 runs with 9 events pruned by operator:ann, last updated before 2026-01-01 12:00:00.000Z: older than a year",
    ),
    (
        e.LogCheckpointed(3, 9, 40, 12, "ab", (), "5e0f"),
        "checkpoint 3 of the log by operator:ann: 12 streams, up to position 40",
    ),
    (
        e.LogCheckpointed(1, 0, 9, 1, "ab", (), "5e0f", None, "key", "signature"),
        "checkpoint 1 of the log by operator:ann: 1 stream, up to position 9, signed",
    ),
    (
        e.RowRepaired(RUN_ID, ("status", "due_at"), "looked wrong"),
        f"row of run {RUN_ID} repaired by operator:ann (status, due_at): looked wrong",
    ),
    (
        e.TablesRebuilt(2, 0, 0, 0, 0, 1, 1),
        "tables rebuilt by operator:ann: 2 runs, 1 difference",
    ),
]


def test_every_kind_of_event_has_its_sentence() -> None:
    assert {type(event) for event, _ in SENTENCES} == set(codec.STORED_AS)


@pytest.mark.parametrize(("event", "text"), SENTENCES)
def test_every_event_is_told_in_one_sentence(event: e.Event, text: str) -> None:
    assert sentence(evolve(record(1, event), actor=ANN)) == text


def test_the_timeline_counts_from_creation() -> None:
    records = [record(1, CREATED), record(2, LEASED, T0 + HOUR), record(3, e.RunSucceeded(SESSION, 1), T0 + 3 * HOUR)]
    moments = timeline(records)
    assert [(m.sequence, m.at, m.since_start) for m in moments] == [
        (1, T0, timedelta(0)),
        (2, T0 + HOUR, HOUR),
        (3, T0 + 3 * HOUR, 3 * HOUR),
    ]
    assert moments[1].text == "attempt 1 started on w1"


def test_no_events_make_no_timeline() -> None:
    assert timeline([]) == ()
