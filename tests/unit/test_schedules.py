"""The fold of a schedule, and the decisions that move it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from runlane import events as e
from runlane import schedule_decisions
from runlane.cadence import Every, Once
from runlane.errors import InvariantViolation
from runlane.events import Recorded
from runlane.projections import schedules
from runlane.projections.schedules import ScheduleState
from runlane.schedule_decisions import ScheduleDefinition
from runlane.values import Actor, ActorType
from tests.unit.lives import HOUR, RUN_ID, T0

NIGHTLY = Actor(ActorType.SCHEDULE, "nightly")
STREAM = schedule_decisions.schedule_stream("default", "nightly")
HOURLY = ScheduleDefinition("nightly", "t", "q", Every(HOUR), {"a": 1}, True)
REGISTERED = e.ScheduleRegistered("t", "q", {"every_us": 3_600_000_000}, {"a": 1}, True, T0 + HOUR)
FIRED = e.ScheduleFired(UUID(int=1), T0 + HOUR, RUN_ID, T0 + 2 * HOUR)
CHANGED = e.ScheduleChanged("t2", "q2", {"every_us": 1_000_000}, None, False, None)
STEPS = [FIRED, CHANGED, e.SchedulePaused("night"), e.ScheduleResumed(T0 + 5 * HOUR), e.ScheduleRemoved()]
TICK = timedelta(microseconds=1)


def record(sequence: int, event: e.Event, at: datetime = T0, stream: UUID = STREAM) -> Recorded:
    return Recorded(stream, sequence, event, at, "default", NIGHTLY)


def state(*steps: e.ScheduleStep) -> ScheduleState:
    return schedules.replay(record(n, event) for n, event in enumerate((REGISTERED, *steps), 1))


def moved(before: ScheduleState | None, events: tuple, at: datetime = T0) -> ScheduleState:
    return schedule_decisions.move_schedule("default", "nightly", before, events, at, NIGHTLY).after


def test_registering_brings_a_schedule_into_being() -> None:
    made = state()
    assert (made.schedule_id, made.task_id, made.queue, made.payload) == ("nightly", "t", "q", {"a": 1})
    assert (made.enabled, made.paused, made.removed, made.fired_count) == (True, False, False, 0)
    assert (made.next_at, made.last_at, made.registered_at, made.sequence) == (T0 + HOUR, None, T0, 1)


@pytest.mark.parametrize("event", STEPS)
def test_a_stream_begins_with_its_registration(event: e.Event) -> None:
    with pytest.raises(InvariantViolation):
        schedules.replay([record(1, event)])


def test_registration_is_event_one_and_a_stream_is_not_empty() -> None:
    with pytest.raises(InvariantViolation):
        schedules.born(record(2, REGISTERED))
    with pytest.raises(InvariantViolation):
        schedules.replay([])


def test_firing_counts_and_moves_on() -> None:
    fired = state(FIRED)
    assert (fired.fired_count, fired.last_at, fired.next_at) == (1, T0 + HOUR, T0 + 2 * HOUR)
    again = state(FIRED, e.ScheduleFired(UUID(int=2), T0 + 2 * HOUR, RUN_ID, None))
    assert (again.fired_count, again.last_at, again.next_at) == (2, T0 + 2 * HOUR, None)


def test_a_changed_definition_replaces_the_old_one() -> None:
    changed = state(FIRED, CHANGED)
    assert (changed.task_id, changed.queue, changed.cadence) == ("t2", "q2", {"every_us": 1_000_000})
    assert (changed.payload, changed.enabled, changed.next_at) == (None, False, None)
    assert (changed.fired_count, changed.last_at) == (1, T0 + HOUR)


def test_pausing_and_resuming() -> None:
    paused = state(e.SchedulePaused("night"))
    assert paused.paused
    assert paused.next_at == T0 + HOUR
    resumed = state(e.SchedulePaused(), e.ScheduleResumed(T0 + 5 * HOUR))
    assert not resumed.paused
    assert resumed.next_at == T0 + 5 * HOUR


def test_a_removed_schedule_has_no_next_and_takes_only_a_new_definition() -> None:
    removed = state(e.ScheduleRemoved())
    assert (removed.removed, removed.next_at) == (True, None)
    for event in STEPS:
        if event is CHANGED:
            assert not schedules.after(removed, record(3, event)).removed
        else:
            with pytest.raises(InvariantViolation, match="removed"):
                schedules.after(removed, record(3, event))


@pytest.mark.parametrize("event", STEPS)
def test_every_step_carries_sequence_and_time(event: e.ScheduleStep) -> None:
    after = schedules.after(state(), record(2, event, T0 + HOUR))
    assert (after.sequence, after.updated_at, after.registered_at) == (2, T0 + HOUR, T0)


@pytest.mark.parametrize(
    "wrong", [{"sequence": 1}, {"sequence": 3}, {"stream_id": UUID(int=5)}, {"occurred_at": T0 - TICK}]
)
def test_gaps_strangers_and_backward_time_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvariantViolation):
        schedules.after(state(), evolve(record(2, FIRED), **wrong))


@pytest.mark.parametrize(
    "wrong",
    [record(2, REGISTERED), record(2, e.RunDeliveryRequested()), evolve(record(2, FIRED), environment="other")],
    ids=["registered twice", "an event of a run", "another environment"],
)
def test_what_cannot_belong_to_the_schedule_is_refused(wrong: Recorded) -> None:
    with pytest.raises(InvariantViolation):
        schedules.after(state(), wrong)


def test_a_first_deployment_registers() -> None:
    assert schedule_decisions.deploy(None, HOURLY, T0) == (REGISTERED,)


def test_a_schedule_deployed_disabled_has_no_next() -> None:
    (event,) = schedule_decisions.deploy(None, evolve(HOURLY, enabled=False), T0)
    assert (event.enabled, event.next_at) == (False, None)


@pytest.mark.parametrize("at", [T0 - HOUR, T0, T0 + HOUR])
def test_a_one_off_is_registered_however_late(at: datetime) -> None:
    (event,) = schedule_decisions.deploy(None, evolve(HOURLY, cadence=Once(at)), T0)
    assert event.next_at == at


def test_an_unchanged_deployment_says_nothing() -> None:
    assert schedule_decisions.deploy(state(FIRED), HOURLY, T0 + 9 * HOUR) == ()


@pytest.mark.parametrize("change", [{"task_id": "t2"}, {"queue": "q2"}, {"payload": {"a": 2}}, {"payload": None}])
def test_a_change_that_is_not_of_the_rule_leaves_the_next_occurrence(change: dict) -> None:
    (event,) = schedule_decisions.deploy(state(FIRED), evolve(HOURLY, **change), T0 + 9 * HOUR)
    assert isinstance(event, e.ScheduleChanged)
    assert event.next_at == T0 + 2 * HOUR


def test_a_changed_rule_starts_afresh_from_now() -> None:
    (event,) = schedule_decisions.deploy(
        state(FIRED), evolve(HOURLY, cadence=Every(timedelta(minutes=7))), T0 + 9 * HOUR
    )
    assert T0 + 9 * HOUR < event.next_at <= T0 + 9 * HOUR + timedelta(minutes=7)


def test_disabling_stops_and_enabling_starts_after_now() -> None:
    disabled = moved(state(FIRED), schedule_decisions.deploy(state(FIRED), evolve(HOURLY, enabled=False), T0))
    assert (disabled.enabled, disabled.next_at) == (False, None)
    assert moved(disabled, schedule_decisions.deploy(disabled, HOURLY, T0 + 9 * HOUR)).next_at == T0 + 10 * HOUR


def test_a_removed_schedule_comes_back_after_now() -> None:
    removed = state(e.ScheduleRemoved())
    back = moved(removed, schedule_decisions.deploy(removed, HOURLY, T0 + 9 * HOUR))
    assert (back.removed, back.next_at) == (False, T0 + 10 * HOUR)


def test_a_one_off_moved_to_another_time_occurs_then() -> None:
    before = moved(None, schedule_decisions.deploy(None, evolve(HOURLY, cadence=Once(T0 + HOUR)), T0))
    (event,) = schedule_decisions.deploy(before, evolve(HOURLY, cadence=Once(T0 - HOUR)), T0)
    assert event.next_at == T0 - HOUR


def test_a_one_off_that_has_occurred_does_not_occur_again() -> None:
    once = evolve(HOURLY, cadence=Once(T0))
    made = moved(None, schedule_decisions.deploy(None, once, T0))
    fired = moved(made, schedule_decisions.fire(made, RUN_ID, T0))
    assert fired.next_at is None
    removed = moved(fired, schedule_decisions.withdraw(fired))
    for before in (fired, removed):
        back = moved(before, schedule_decisions.deploy(before, evolve(once, payload=[2]), T0 + HOUR), T0 + HOUR)
        assert schedule_decisions.fire(back, RUN_ID, T0 + 9 * HOUR) == ()


@pytest.mark.parametrize("payload", [{"a": True}, {"a": 1.0}])
def test_a_payload_of_another_json_type_is_a_change(payload: dict) -> None:
    assert schedule_decisions.deploy(state(), evolve(HOURLY, payload=payload), T0) != ()


def test_withdrawing_twice_says_it_once() -> None:
    assert schedule_decisions.withdraw(state()) == (e.ScheduleRemoved(),)
    assert schedule_decisions.withdraw(state(e.ScheduleRemoved())) == ()


def test_an_occurrence_fires_when_it_is_due() -> None:
    (event,) = schedule_decisions.fire(state(), RUN_ID, T0 + HOUR)
    occurrence = schedule_decisions.occurrence_id("default", "nightly", T0 + HOUR)
    assert event == e.ScheduleFired(occurrence, T0 + HOUR, RUN_ID, T0 + 2 * HOUR)


def test_missed_occurrences_collapse_into_the_latest() -> None:
    (event,) = schedule_decisions.fire(state(), RUN_ID, T0 + 4 * HOUR + TICK)
    assert (event.scheduled_for, event.next_at) == (T0 + 4 * HOUR, T0 + 5 * HOUR)
    assert (event.collapsed, event.collapsed_from) == (3, T0 + HOUR)


@pytest.mark.parametrize(
    "sleeping",
    [
        state(e.SchedulePaused()),
        state(e.ScheduleRemoved()),
        state(evolve(CHANGED, next_at=T0)),
        state(evolve(FIRED, next_at=None)),
    ],
    ids=["paused", "removed", "disabled", "without a next"],
)
def test_a_sleeping_schedule_does_not_fire(sleeping: ScheduleState) -> None:
    assert schedule_decisions.fire(sleeping, RUN_ID, T0 + 9 * HOUR) == ()


def test_nothing_fires_before_its_time() -> None:
    assert schedule_decisions.fire(state(), RUN_ID, T0 + HOUR - TICK) == ()


def test_ids_of_occurrences_and_streams_are_the_same_in_every_process() -> None:
    assert schedule_decisions.occurrence_id("default", "nightly", T0) == UUID("b55e7e3f-c338-534f-ae78-594f03691f49")
    assert schedule_decisions.schedule_stream("default", "nightly") == UUID("579cf652-3158-54aa-950e-1ce181896e2a")


def test_ids_differ_by_environment_schedule_and_time() -> None:
    made = {
        schedule_decisions.occurrence_id(environment, schedule, at)
        for environment in ("a", "b")
        for schedule in ("x", "y")
        for at in (T0, T0 + TICK)
    }
    assert len(made) == 8


def test_moving_a_schedule_records_from_its_last_event_on_and_never_backwards() -> None:
    change = schedule_decisions.move_schedule("default", "nightly", state(), (FIRED, CHANGED), T0 - HOUR, NIGHTLY)
    assert [(r.sequence, r.occurred_at, r.stream_id) for r in change.records] == [(2, T0, STREAM), (3, T0, STREAM)]
    assert change.after == state(FIRED, CHANGED)


def test_a_schedule_without_events_cannot_be_moved_into_being() -> None:
    with pytest.raises(ValueError, match="at least one event"):
        schedule_decisions.move_schedule("default", "nightly", None, (), T0, NIGHTLY)
