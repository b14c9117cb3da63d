"""Interval schedules skip nothing, repeat nothing, and need no memory of where they began."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from runlane import cadence
from runlane.cadence import Every, Once

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC))
intervals = st.integers(1, 4 * 10**14).map(lambda n: timedelta(microseconds=n)) | st.sampled_from(
    [timedelta(seconds=1), timedelta(minutes=7), timedelta(days=1)]
)


@given(intervals, moments)
def test_the_next_occurrence_is_the_first_multiple_that_lies_ahead(interval: timedelta, moment: datetime) -> None:
    following = cadence.next_after(Every(interval), moment)
    assert following is not None
    assert moment < following <= moment + interval
    assert (following - EPOCH) % interval == timedelta(0)


@given(intervals, moments)
def test_consecutive_occurrences_are_one_interval_apart(interval: timedelta, moment: datetime) -> None:
    rule = Every(interval)
    first = cadence.next_after(rule, moment)
    assert first is not None
    assert cadence.next_after(rule, first) == first + interval
    assert cadence.next_after(rule, first - timedelta(microseconds=1)) == first


@given(intervals, moments, st.integers(0, 10**15))
def test_the_latest_due_is_reached_by_exactly_the_missed_steps(
    interval: timedelta, moment: datetime, late: int
) -> None:
    rule = Every(interval)
    first = cadence.next_after(rule, moment)
    assert first is not None
    now = first + timedelta(microseconds=late)
    latest, missed = cadence.latest_due(rule, first, now)
    assert first <= latest <= now < latest + interval
    assert latest == first + missed * interval
    assert cadence.next_after(rule, now) == latest + interval


@given(st.builds(Every, intervals) | st.builds(Once, moments))
def test_rules_survive_their_stored_form(rule: cadence.Cadence) -> None:
    assert cadence.from_json(cadence.to_json(rule)) == rule
