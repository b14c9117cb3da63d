"""What a timeline says beyond the sentences: gaps, reasons, and what one event tells about another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve

from runlane import events as e
from runlane.events import Recorded
from runlane.projections.timeline import Moment, reason_of, sentence, timeline
from runlane.values import SYSTEM, Actor, Source, SourceType
from tests.unit.lives import BROKEN, CREATED, HOUR, LEASED, RUN_ID, SESSION, T0, record

ANN = Actor.operator("ann")
RERUN = evolve(CREATED, source=Source(SourceType.RERUN, RUN_ID), meta={"reason": "fixed"})


def by_ann(sequence: int, event: e.Event) -> Recorded:
    return evolve(record(sequence, event), actor=ANN)


def test_each_moment_has_its_gap_and_its_actor() -> None:
    moments = timeline(
        [record(1, CREATED), record(2, LEASED, T0 + HOUR), record(3, e.RunCancelled("x"), T0 + 3 * HOUR)]
    )
    assert moments[1] == Moment(2, T0 + HOUR, HOUR, HOUR, SYSTEM, None, "attempt 1 started on w1")
    assert [m.since_last for m in moments] == [timedelta(0), HOUR, 2 * HOUR]
    assert (moments[2].reason, moments[2].text) == ("x", "cancelled by system:runlane: x")


def test_the_end_of_a_cancelled_run_names_who_had_asked_and_why() -> None:
    asked = by_ann(3, e.RunCancellationRequested("enough"))
    moments = timeline([record(1, CREATED), record(2, LEASED), asked, record(4, e.RunCancelled("other words"))])
    assert moments[2].text == "cancellation requested by operator:ann: enough"
    assert moments[3].text == "cancelled by system:runlane, as asked by operator:ann: enough"


def test_a_run_that_failed_after_it_was_asked_to_stop_has_failed() -> None:
    asked = by_ann(3, e.RunCancellationRequested())
    moments = timeline([record(1, CREATED), record(2, LEASED), asked, record(4, e.RunFailed(SESSION, 1, BROKEN))])
    assert moments[3].text == "failed in attempt 1 (task_failed: it broke)"


def test_a_reason_taken_over_from_the_repeated_run_is_said_to_be() -> None:
    told = f"created for task emails.welcome on queue emails, rerun of {RUN_ID} by system:runlane: fixed"
    kept = evolve(CREATED, meta={"reason": "fixed"})
    assert timeline([record(1, RERUN)], kept)[0].text == told + " (as for the run it repeats)"
    assert timeline([record(1, RERUN)], evolve(CREATED, meta={"reason": "other"}))[0].text == told
    assert timeline([record(1, RERUN)], CREATED)[0].text == told
    assert timeline([record(1, RERUN)])[0].text == told


def test_where_neither_has_a_reason_nothing_is_said_of_one() -> None:
    plain = evolve(RERUN, meta=None)
    assert timeline([record(1, plain)], CREATED)[0].text.endswith("by system:runlane")


def test_only_the_birth_is_said_to_be_as_for_the_repeated_run() -> None:
    kept = evolve(CREATED, meta={"reason": "fixed"})
    moments = timeline([record(1, RERUN), by_ann(2, e.RunCancelled("fixed"))], kept)
    assert moments[1].text == "cancelled by operator:ann: fixed"
    asked = [record(1, RERUN), record(2, LEASED), by_ann(3, e.RunCancellationRequested()), record(4, e.RunCancelled())]
    assert timeline(asked, CREATED)[3].text == "cancelled by system:runlane, as asked by operator:ann"


REASONS = [
    (e.RunReleased(SESSION, 1, T0, "not yet"), "not yet"),
    (e.RunInterrupted(SESSION, 1, "worker_stopping"), "worker_stopping"),
    (e.RunCancellationRequested("enough"), "enough"),
    (e.RunCancelled("enough"), "enough"),
    (e.SchedulePaused("night"), "night"),
    (e.ScheduleResumed(None, "morning"), "morning"),
    (e.QueuePaused("q", "night"), "night"),
    (e.QueueResumed("q", "morning"), "morning"),
    (e.IdempotencyReset("t", "k", RUN_ID, "wrong"), "wrong"),
    (e.RunReleased(SESSION, 1, T0, ""), None),
    (e.RunCancelled(), None),
    (RERUN, "fixed"),
    (evolve(RERUN, source=Source(SourceType.MANUAL_RETRY, RUN_ID)), "fixed"),
    (evolve(RERUN, source=Source(SourceType.TRIGGER)), None),
    (evolve(RERUN, meta={"reason": ""}), None),
    (evolve(RERUN, meta={"reason": 5}), None),
    (evolve(RERUN, meta={}), None),
    (LEASED, None),
    (e.ScheduleRemoved(), None),
]


@pytest.mark.parametrize(("event", "reason"), REASONS)
def test_the_reason_of_an_event(event: e.Event, reason: str | None) -> None:
    assert reason_of(record(1, event)) == reason


@pytest.mark.parametrize(("length", "shown"), [(299, 299), (300, 300), (301, 300)])
def test_a_message_that_fits_is_told_in_full(length: int, shown: int) -> None:
    text = sentence(record(3, e.RunFailed(SESSION, 1, evolve(BROKEN, message="x" * length))))
    told = text.partition("task_failed: ")[2].removesuffix(")")
    assert (len(told), told.endswith("…")) == (shown, length > 300)


MORE = [
    (e.SchedulePaused(), "schedule paused by operator:ann"),
    (e.ScheduleResumed(T0, "it is day"), "schedule resumed by operator:ann: it is day"),
    (e.QueuePaused("q"), "queue q paused by operator:ann"),
    (e.QueueResumed("q", "it  is\nday"), "queue q resumed by operator:ann: it is day"),
    (e.IdempotencyReset("t", "k", RUN_ID), f"idempotency key k of task t freed from run {RUN_ID} by operator:ann"),
    (e.RowRepaired(RUN_ID, ("status",)), f"row of run {RUN_ID} repaired by operator:ann (status)"),
    (
        e.TablesRebuilt(1, 0, 0, 0, 0, 0, 1, "upgrade"),
        "tables rebuilt by operator:ann: 1 run, 0 differences: upgrade",
    ),
    (e.SubjectErased("5f1e", 1), "subject 5f1e erased by operator:ann"),
    (
        e.RunsPruned(0, 1, T0 + timedelta(milliseconds=7, microseconds=999), (), ""),
        "0 runs with 1 event pruned by operator:ann, last updated before 2026-01-01 12:00:00.007Z",
    ),
    (
        evolve(CREATED, source=Source(SourceType.RUN_NOW, parent_run_id=SESSION)),
        f"created for task emails.welcome on queue emails, started in place by operator:ann in run {SESSION}",
    ),
    (
        evolve(CREATED, source=Source(SourceType.MANUAL_RETRY, RUN_ID, SESSION), run_at=T0, meta={"reason": "fixed"}),
        (
            f"created for task emails.welcome on queue emails, manual retry of {RUN_ID} by operator:ann, "
            "to start at 2026-01-01 12:00:00.000Z: fixed"
        ),
    ),
]


@pytest.mark.parametrize(("event", "text"), MORE)
def test_what_need_not_be_said_is_left_out(event: e.Event, text: str) -> None:
    assert sentence(by_ann(1, event)) == text
