"""What became of a schedule's occurrences."""

from __future__ import annotations

from uuid import UUID

from attrs import evolve

from runlane import events as e
from runlane.events import Recorded
from runlane.projections.occurrences import TELLING, Occurrence, occurrences
from runlane.values import Actor
from tests.unit.lives import HOUR, LATER, RUN_ID, T0
from tests.unit.lives import record as plain

ANN = Actor.operator("ann")
OCCURRENCE = UUID(int=1)


def record(sequence: int, event: e.Event) -> Recorded:
    return evolve(plain(sequence, event, LATER), actor=ANN)


def test_an_occurrence_that_made_a_run_names_it() -> None:
    (told,) = occurrences([record(2, e.ScheduleFired(OCCURRENCE, T0 + HOUR, RUN_ID, None))])
    assert told == Occurrence("fired", T0 + HOUR, LATER, 0, None, RUN_ID, OCCURRENCE, None, ANN)


def test_it_tells_how_many_were_missed_before_it_and_from_when_on() -> None:
    (told,) = occurrences([record(2, e.ScheduleFired(OCCURRENCE, T0 + HOUR, RUN_ID, None, 3, T0))])
    assert (told.collapsed, told.collapsed_from) == (3, T0)


def test_occurrences_during_a_pause_are_one_that_was_skipped() -> None:
    (told,) = occurrences([record(3, e.ScheduleResumed(None, "it is day", 3, T0, T0 + HOUR))])
    assert told == Occurrence("skipped", T0 + HOUR, LATER, 2, T0, None, None, "it is day", ANN)


def test_a_single_skipped_one_stands_for_no_other() -> None:
    (told,) = occurrences([record(3, e.ScheduleResumed(None, None, 1, T0, T0))])
    assert (told.outcome, told.scheduled_for, told.collapsed, told.collapsed_from) == ("skipped", T0, 0, None)


def test_a_resumption_that_skipped_nothing_tells_of_no_occurrence() -> None:
    assert list(occurrences([record(3, e.ScheduleResumed(T0, "it is day"))])) == []


def test_other_events_tell_of_no_occurrence_and_the_order_is_kept() -> None:
    fired = e.ScheduleFired(OCCURRENCE, T0, RUN_ID, None)
    resumed = e.ScheduleResumed(None, None, 1, T0 + HOUR, T0 + HOUR)
    others = [e.ScheduleRegistered("t", "q", {}, None, True, T0), e.SchedulePaused(), e.ScheduleRemoved()]
    events = [others[0], fired, others[1], resumed, others[2]]
    told = list(occurrences(record(n, event) for n, event in enumerate(events, 1)))
    assert [(one.outcome, one.scheduled_for) for one in told] == [("fired", T0), ("skipped", T0 + HOUR)]
    assert (e.ScheduleFired, e.ScheduleResumed) == TELLING
