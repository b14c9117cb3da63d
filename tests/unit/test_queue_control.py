"""The fold of a queue's own stream, and the decisions that pause it and let it go on."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import pytest
from attrs import evolve

from runlane import decisions
from runlane import events as e
from runlane.errors import InvariantViolation
from runlane.events import Recorded
from runlane.projections import queues
from runlane.projections.queues import QueueControl
from runlane.values import Actor
from tests.unit.lives import HOUR, LATER, OTHER_SESSION, T0

ANN = Actor.operator("ann")
STREAM = decisions.queue_stream("default", "emails")
PAUSED = e.QueuePaused("emails", "night")
RESUMED = e.QueueResumed("emails", "morning")


def record(sequence: int, event: e.Event, at: datetime = T0) -> Recorded:
    return Recorded(STREAM, sequence, event, at, "default", ANN)


def state(*events: e.QueueEvent) -> QueueControl:
    return queues.replay(record(n, event) for n, event in enumerate(events, 1))


def test_a_paused_queue_says_since_when_by_whom_and_why() -> None:
    control = state(PAUSED)
    assert control == QueueControl(STREAM, "default", "emails", 1, True, T0, "operator:ann", "night")


def test_a_resumed_queue_is_not_paused() -> None:
    control = queues.after(state(PAUSED), record(2, RESUMED, LATER))
    assert control == QueueControl(STREAM, "default", "emails", 2, False, LATER, "operator:ann", "morning")
    assert queues.after(control, record(3, PAUSED, LATER)).paused


def test_a_reason_need_not_be_given() -> None:
    assert state(e.QueuePaused("emails")).reason is None


def test_a_queue_without_events_cannot_be_folded() -> None:
    with pytest.raises(InvariantViolation):
        queues.replay([])


@pytest.mark.parametrize("sequence", [0, 2, 3])
def test_a_stream_begins_with_event_one(sequence: int) -> None:
    with pytest.raises(InvariantViolation, match="cannot follow 0"):
        queues.replay([record(sequence, PAUSED)])


@pytest.mark.parametrize("sequence", [0, 1, 3])
def test_sequences_have_no_gap_and_no_repeat(sequence: int) -> None:
    with pytest.raises(InvariantViolation, match="cannot follow 1"):
        queues.after(state(PAUSED), record(sequence, RESUMED))


@pytest.mark.parametrize("event", [e.SchedulePaused(), e.RunDeliveryRequested()])
def test_an_event_of_something_else_is_refused(event: e.Event) -> None:
    with pytest.raises(InvariantViolation, match="cannot follow"):
        queues.after(None, record(1, event))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream_id": OTHER_SESSION},
        {"environment": "other"},
        {"event": evolve(RESUMED, queue="other")},
        {"occurred_at": T0 - HOUR},
    ],
    ids=str,
)
def test_an_event_of_another_queue_or_an_earlier_time_is_refused(wrong: dict) -> None:
    with pytest.raises(InvariantViolation, match="does not belong to queue emails"):
        queues.after(state(PAUSED), evolve(record(2, RESUMED), **wrong))


def test_an_event_that_changes_nothing_is_refused() -> None:
    with pytest.raises(InvariantViolation, match="as it was"):
        queues.after(None, record(1, RESUMED))
    with pytest.raises(InvariantViolation, match="as it was"):
        queues.after(state(PAUSED), record(2, PAUSED))
    with pytest.raises(InvariantViolation, match="as it was"):
        queues.after(state(PAUSED, RESUMED), record(3, RESUMED))


def test_pausing_is_said_once() -> None:
    assert decisions.pause_queue(None, "emails", "night") == (PAUSED,)
    assert decisions.pause_queue(state(PAUSED, RESUMED), "emails", "night") == (PAUSED,)
    assert decisions.pause_queue(state(PAUSED), "emails", "again") == ()


def test_only_a_paused_queue_is_resumed() -> None:
    assert decisions.resume_queue(None, "emails", "morning") == ()
    assert decisions.resume_queue(state(PAUSED, RESUMED), "emails", "morning") == ()
    assert decisions.resume_queue(state(PAUSED), "emails", "morning") == (RESUMED,)


def test_moving_a_queue_records_and_folds_its_events() -> None:
    change = decisions.move_queue("default", "emails", None, (PAUSED, RESUMED), LATER, ANN)
    assert change.before is None
    assert change.records == (record(1, PAUSED, LATER), record(2, RESUMED, LATER))
    assert change.after == queues.replay(change.records)


def test_moving_a_queue_goes_on_from_its_last_event_and_never_backwards() -> None:
    before = state(PAUSED)
    change = decisions.move_queue("default", "emails", before, (RESUMED, PAUSED), T0 - HOUR, ANN)
    assert change.before is before
    assert [(r.sequence, r.occurred_at) for r in change.records] == [(2, T0), (3, T0)]
    later = decisions.move_queue("default", "emails", before, (RESUMED,), LATER, ANN)
    assert later.after.updated_at == LATER


def test_moving_a_queue_by_nothing_leaves_it_or_is_refused_where_there_is_none() -> None:
    before = state(PAUSED)
    assert decisions.move_queue("default", "emails", before, (), LATER, ANN).after is before
    with pytest.raises(ValueError, match="at least one event"):
        decisions.move_queue("default", "emails", None, (), LATER, ANN)


def test_streams_have_the_same_id_in_every_process_and_one_for_each_queue_and_environment() -> None:
    assert decisions.queue_stream("default", "emails") == UUID("244a7478-0560-5284-9d70-9d6f1950e5c3")
    made = {decisions.queue_stream(environment, name) for environment in ("a", "b") for name in ("x", "y")}
    assert len(made) == 4
