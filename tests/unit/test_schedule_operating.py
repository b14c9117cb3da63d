"""What operators ask of schedules: to pause and to go on, what comes next; and deployments beside all that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from runlane import events as e
from runlane import schedule_decisions
from runlane.cadence import Every, Once, to_json
from runlane.errors import RunStateInvalid
from runlane.projections import schedules
from runlane.projections.schedules import ScheduleState
from tests.unit.lives import HOUR, LATER, RUN_ID, T0
from tests.unit.test_schedules import CHANGED, FIRED, HOURLY, NIGHTLY, REGISTERED, STREAM, TICK, moved, record, state

PAUSED = e.SchedulePaused("night")
DISABLED = e.ScheduleChanged("t", "q", REGISTERED.cadence, {"a": 1}, False, None)


def test_pausing_is_said_once() -> None:
    assert schedule_decisions.pause(state(), "night") == (PAUSED,)
    assert schedule_decisions.pause(state(PAUSED), "again") == ()


def test_only_a_paused_schedule_goes_on() -> None:
    assert schedule_decisions.resume(state(), "morning", T0) == ()


def test_a_pause_that_nothing_fell_into_leaves_what_comes_next() -> None:
    paused = state(PAUSED)
    for now in (T0, T0 + HOUR - TICK):
        assert schedule_decisions.resume(paused, "morning", now) == (e.ScheduleResumed(T0 + HOUR, "morning"),)


def test_what_fell_into_a_pause_is_skipped_and_told() -> None:
    paused = state(PAUSED)
    (one,) = schedule_decisions.resume(paused, "morning", T0 + HOUR)
    assert one == e.ScheduleResumed(T0 + 2 * HOUR, "morning", 1, T0 + HOUR, T0 + HOUR)
    (three,) = schedule_decisions.resume(paused, None, T0 + 3 * HOUR + TICK)
    assert three == e.ScheduleResumed(T0 + 4 * HOUR, None, 3, T0 + HOUR, T0 + 3 * HOUR)


def test_a_schedule_with_nothing_to_come_goes_on_with_nothing() -> None:
    spent = state(evolve(FIRED, next_at=None), PAUSED)
    assert schedule_decisions.resume(spent, None, LATER) == (e.ScheduleResumed(None, None),)


def test_what_comes_next_follows_from_the_rule() -> None:
    assert schedule_decisions.preview(state(), 3, T0) == (T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR)
    assert schedule_decisions.preview(state(), 1, T0 + 9 * HOUR) == (T0 + 10 * HOUR,)
    assert schedule_decisions.preview(state(), 0, T0) == ()
    last = datetime(9999, 12, 31, 22, 30, tzinfo=UTC)
    assert len(schedule_decisions.preview(state(), 5, last)) < 5, "the calendar ends"


def test_a_one_off_has_one_occurrence_to_come_or_none() -> None:
    once = evolve(state(), cadence=to_json(Once(T0 + HOUR)))
    for now in (T0, T0 + HOUR, T0 + 9 * HOUR):
        assert schedule_decisions.preview(once, 5, now) == (T0 + HOUR,), "it fires however late"
        assert schedule_decisions.preview(evolve(once, next_at=None), 5, now) == (), "it has fired, or was skipped"
    paused = evolve(once, paused=True)
    assert schedule_decisions.preview(paused, 5, T0) == (T0 + HOUR,)
    assert schedule_decisions.preview(paused, 0, T0) == ()
    assert schedule_decisions.preview(paused, 5, T0 + HOUR) == (), "to resume it would skip that"


def test_a_removed_schedule_takes_no_command() -> None:
    removed = state(e.ScheduleRemoved())
    for ask in (
        lambda: schedule_decisions.pause(removed, None),
        lambda: schedule_decisions.resume(removed, None, T0),
        lambda: schedule_decisions.preview(removed, 1, T0),
        lambda: schedule_decisions.fires_by_hand(removed),
    ):
        with pytest.raises(RunStateInvalid, match="is removed"):
            ask()


def test_a_disabled_one_is_paused_but_neither_previewed_nor_fired_by_hand() -> None:
    disabled = state(DISABLED)
    assert schedule_decisions.pause(disabled, "night") == (PAUSED,)
    for ask in (
        lambda: schedule_decisions.preview(disabled, 1, T0),
        lambda: schedule_decisions.fires_by_hand(disabled),
    ):
        with pytest.raises(RunStateInvalid, match="is disabled"):
            ask()
    schedule_decisions.fires_by_hand(state())


ONCE = evolve(HOURLY, cadence=Once(T0 + HOUR))


def deployed(definition: schedule_decisions.ScheduleDefinition) -> ScheduleState:
    return moved(None, schedule_decisions.deploy(None, definition, T0))


def test_a_one_off_moved_after_it_fired_occurs_unless_that_was_the_same_one() -> None:
    made = deployed(ONCE)
    fired = moved(made, schedule_decisions.fire(made, RUN_ID, LATER), LATER)
    (again,) = schedule_decisions.deploy(fired, evolve(ONCE, cadence=Once(LATER)), LATER)
    assert again.next_at == LATER
    (spent,) = schedule_decisions.deploy(fired, evolve(ONCE, cadence=Once(LATER)), LATER, spent=True)
    assert spent.next_at is None
    removed = moved(fired, (e.ScheduleRemoved(),), LATER)
    (back,) = schedule_decisions.deploy(removed, ONCE, LATER)
    assert back == e.ScheduleChanged("t", "q", to_json(ONCE.cadence), {"a": 1}, True, None)


def test_a_removed_schedule_that_comes_back_unchanged_is_a_change() -> None:
    removed = state(e.ScheduleRemoved())
    (back,) = schedule_decisions.deploy(removed, HOURLY, T0)
    assert back == e.ScheduleChanged("t", "q", REGISTERED.cadence, {"a": 1}, True, T0 + HOUR)


def test_a_disabled_one_that_is_enabled_again_starts_after_now() -> None:
    disabled = evolve(state(DISABLED), next_at=T0)
    (back,) = schedule_decisions.deploy(disabled, HOURLY, T0 + 5 * HOUR)
    assert back.next_at == T0 + 6 * HOUR


def test_a_changed_rule_does_not_lead_back_behind_what_has_fired() -> None:
    every = evolve(HOURLY, cadence=Every(timedelta(minutes=30)))
    (event,) = schedule_decisions.deploy(state(FIRED), every, T0 - 9 * HOUR)
    assert event.next_at == T0 + HOUR + timedelta(minutes=30)
    (fresh,) = schedule_decisions.deploy(state(), every, T0)
    assert fresh.next_at == T0 + timedelta(minutes=30)


def test_disabling_what_is_disabled_says_nothing() -> None:
    assert schedule_decisions.deploy(state(DISABLED), evolve(HOURLY, enabled=False), LATER) == ()


@pytest.mark.parametrize("at", [T0 + HOUR, T0 + 5 * HOUR])
def test_an_occurrence_that_missed_none_tells_of_none(at: datetime) -> None:
    due = evolve(state(), next_at=at)
    (event,) = schedule_decisions.fire(due, RUN_ID, at)
    assert (event.scheduled_for, event.collapsed, event.collapsed_from) == (at, 0, None)


@pytest.mark.parametrize("asleep", [{"paused": True}, {"removed": True}, {"enabled": False}, {"next_at": None}])
def test_any_reason_to_sleep_is_reason_enough(asleep: dict) -> None:
    awake = evolve(state(), next_at=T0)
    assert schedule_decisions.fire(awake, RUN_ID, T0) != ()
    assert schedule_decisions.fire(evolve(awake, **asleep), RUN_ID, T0) == ()


def test_a_change_has_what_was_before_and_its_records() -> None:
    before = state()
    change = schedule_decisions.move_schedule("default", "nightly", before, (FIRED,), LATER, NIGHTLY)
    assert change.before is before
    assert change.records == (record(2, FIRED, LATER),)
    assert (change.after.updated_at, change.after.stream_id) == (LATER, STREAM)


def test_moving_by_nothing_leaves_a_schedule_as_it_is() -> None:
    before = state()
    assert schedule_decisions.move_schedule("default", "nightly", before, (), LATER, NIGHTLY).after is before


def test_registration_and_events_in_one_change() -> None:
    change = schedule_decisions.move_schedule("default", "nightly", None, (REGISTERED, CHANGED), T0, NIGHTLY)
    assert change.before is None
    assert [r.sequence for r in change.records] == [1, 2]
    assert change.after == schedules.replay(change.records)


def test_a_registered_schedule_has_all_that_was_registered() -> None:
    made = state()
    assert made == ScheduleState(
        STREAM, "default", "nightly", "t", "q", REGISTERED.cadence, {"a": 1}, True, T0, 1, T0, T0 + HOUR
    )


def test_a_resumed_schedule_goes_on_and_a_removed_one_has_nothing_to_come() -> None:
    resumed = state(PAUSED, e.ScheduleResumed(LATER))
    assert (resumed.paused, resumed.next_at) == (False, LATER)
    removed = state(e.ScheduleRemoved())
    assert (removed.removed, removed.next_at) == (True, None)
    assert not state(e.ScheduleRemoved(), CHANGED).removed
