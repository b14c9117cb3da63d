"""When schedules are due: one-off instants and multiples of an interval since the Unix epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runlane import cadence
from runlane.cadence import Every, Once

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
TEN_MINUTES = Every(timedelta(minutes=10))


def at(hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2026, 1, 2, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (at(12, 0), at(12, 10)),
        (at(12, 0) - TICK, at(12, 0)),
        (at(12, 0) + TICK, at(12, 10)),
        (at(12, 9, 59), at(12, 10)),
    ],
)
def test_an_interval_falls_on_its_multiples(moment: datetime, expected: datetime) -> None:
    assert cadence.next_after(TEN_MINUTES, moment) == expected


def test_the_phase_of_an_interval_is_the_unix_epoch() -> None:
    week = Every(timedelta(days=7))
    assert cadence.next_after(week, NOON) == datetime(2026, 1, 8, tzinfo=UTC)  # a Thursday, as 1970-01-01 was
    assert cadence.next_after(Every(timedelta(seconds=7)), datetime(1970, 1, 1, tzinfo=UTC)).second == 7


def test_occurrences_before_the_epoch_keep_the_phase() -> None:
    assert cadence.next_after(TEN_MINUTES, datetime(1969, 12, 31, 23, 55, tzinfo=UTC)) == datetime(
        1970, 1, 1, tzinfo=UTC
    )


def test_a_one_off_occurs_once() -> None:
    assert cadence.next_after(Once(NOON), NOON - TICK) == NOON
    assert cadence.next_after(Once(NOON), NOON) is None


def test_at_the_end_of_the_calendar_there_is_no_next() -> None:
    assert cadence.next_after(TEN_MINUTES, datetime.max.replace(tzinfo=UTC)) is None


def test_a_one_off_first_seen_late_still_occurs() -> None:
    assert cadence.first_at(Once(NOON), NOON + timedelta(days=9)) == NOON


def test_an_interval_first_seen_now_begins_after_now() -> None:
    assert cadence.first_at(TEN_MINUTES, at(12, 0)) == at(12, 10)


@pytest.mark.parametrize(
    ("now", "latest", "missed"),
    [
        (at(12, 0), at(12, 0), 0),
        (at(12, 9, 59), at(12, 0), 0),
        (at(12, 10), at(12, 10), 1),
        (at(13, 5), at(13, 0), 6),
    ],
)
def test_missed_occurrences_collapse_to_the_latest(now: datetime, latest: datetime, missed: int) -> None:
    assert cadence.latest_due(TEN_MINUTES, at(12, 0), now) == (latest, missed)


def test_a_one_off_collapses_nothing() -> None:
    assert cadence.latest_due(Once(NOON), NOON, NOON + timedelta(days=400)) == (NOON, 0)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (Once(NOON), {"once": "2026-01-02T12:00:00+00:00"}),
        (Once(NOON + TICK), {"once": "2026-01-02T12:00:00.000001+00:00"}),
        (TEN_MINUTES, {"every_us": 600_000_000}),
        (Every(timedelta(milliseconds=1500)), {"every_us": 1_500_000}),
    ],
)
def test_the_stored_form_of_a_rule(rule: cadence.Cadence, value: dict) -> None:
    assert cadence.to_json(rule) == value
    assert cadence.from_json(value) == rule
