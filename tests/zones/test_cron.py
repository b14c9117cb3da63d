"""Cron rules in every zone of the world from 2000 to 2040, wherever its clocks change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import cadence
from runlane.cadence import Cron
from tests.cron import END, Change, changes, every_clock, occurrences, until

pytestmark = pytest.mark.timeout(600)

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
RULES = [
    "* * * * *",
    "*/15 * * * *",
    "0 * * * *",
    "7,38 */2 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "59 23 * * 0",
    "0 12 l * *",
]


def wall(zone: ZoneInfo, at: datetime) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 0 * * *"])
def test_a_daily_rule_fires_once_on_every_date_of_every_zone(expression: str) -> None:
    checked = 0
    for name, clock in every_clock().items():
        zone, rule = ZoneInfo(name), Cron(expression, name)
        for change in clock:
            begin, end = change.at - 2 * DAY, change.at + 2 * DAY
            fired = until(rule, begin, end)
            dates = [wall(zone, at).date() for at in fired]
            if change.after - change.before >= 20 * timedelta(hours=1):  # the zone skips a date
                skipped = wall(zone, change.at).date() - DAY
                assert skipped not in dates, name
                once_for_both = expression == "0 0 * * *"
                assert dates.count(skipped + DAY) == (1 if once_for_both else 2), name
                assert change.at in fired, name
                dates = list(dict.fromkeys(dates))
                assert all(b - a == DAY or a + DAY == skipped for a, b in pairwise(dates)), name
            else:
                assert all(b - a == DAY for a, b in pairwise(dates)), (name, change, dates)
            assert all(a < b for a, b in pairwise(fired)), name
            assert all(cadence.latest_due(rule, fired[0], at) == (at, n) for n, at in enumerate(fired)), name
            checked += len(fired)
    assert checked > 20_000


def shown(zone: ZoneInfo, begin: datetime, end: datetime) -> Iterator[tuple[datetime, list[datetime]]]:
    """By a look at the clock every minute: the wall times that it shows or has skipped, and has never shown before.

    This is the definition itself, without any arithmetic on offsets.
    """
    highest = max(wall(zone, begin - n * MINUTE) for n in range(1, 26 * 60))
    at = begin
    while at <= end:
        now, new = wall(zone, at), []
        while highest < now:
            highest += MINUTE
            new.append(highest)
        yield at, new
        at += MINUTE


@lru_cache
def times(expression: str) -> set[tuple[int, int]]:
    minutes, hours = croniter(expression).expanded[:2]
    wanted = product(range(24) if hours == ["*"] else hours, range(60) if minutes == ["*"] else minutes)
    return set(wanted)


@cache
def falls_on(expression: str, day: date) -> bool:
    return croniter.match("* * " + expression.split(" ", 2)[2], datetime.combine(day, time(12)))


def matches(expression: str, at: datetime) -> bool:
    return (at.hour, at.minute) in times(expression) and falls_on(expression, at.date())


def one_change_of_each_kind() -> list[tuple[str, Change]]:
    kinds = {}
    for name, clock in every_clock().items():
        for change in clock:
            kinds.setdefault((change.before, change.after, (change.at + change.before).time()), (name, change))
    return list(kinds.values())


def test_occurrences_are_what_a_look_at_the_clock_every_minute_finds() -> None:
    kinds = one_change_of_each_kind()
    assert len(kinds) > 100
    for name, change in kinds:
        if change.at.second:
            continue  # the look is once a minute
        zone = ZoneInfo(name)
        begin, end = change.at - timedelta(hours=4), change.at + timedelta(hours=29)
        clock = list(shown(zone, begin, end))
        for expression in RULES:
            rule = Cron(expression, name)
            expected = [at for at, new in clock if any(matches(expression, one) for one in new)]
            found = until(rule, begin - MINUTE, end)
            assert found == expected, (name, change, expression)
            for last in {len(found) // 2, len(found) - 1} if found else ():
                due = cadence.latest_due(rule, found[0], found[last])
                assert due == (found[last], last), (name, change, expression)


@given(
    st.sampled_from([*RULES, "0 9 * * 1-5", "*/7 3-5 1,15 */2 *", "0 0 29 2 *", "0 6 * * fri#2", "0 6 13 * 5"]),
    st.datetimes(datetime(2001, 1, 1), datetime(2039, 1, 1)),
)
def test_without_a_change_of_clocks_croniter_agrees(expression: str, begin: datetime) -> None:
    theirs = croniter(expression, begin)
    ours = occurrences(Cron(expression, "Etc/GMT-3"), (begin - timedelta(hours=3)).replace(tzinfo=UTC))
    for _ in range(5):
        assert next(ours) == theirs.get_next(datetime).replace(tzinfo=UTC) - timedelta(hours=3)


@given(
    st.sampled_from(["30 2 * * *", "0 */6 * * 1"]), st.sampled_from(["Europe/Berlin", "America/New_York"]), st.data()
)
def test_croniter_agrees_wherever_no_change_is_near(expression: str, name: str, data: st.DataObject) -> None:
    begin = data.draw(st.datetimes(datetime(2001, 1, 1), datetime(2039, 1, 1))).replace(tzinfo=ZoneInfo(name))
    if all(abs(change.at - begin) > 10 * DAY for change in changes_of(name)):
        theirs = croniter(expression, begin).get_next(datetime)
        assert cadence.next_after(Cron(expression, name), begin) == theirs


@lru_cache
def changes_of(name: str) -> list[Change]:
    return list(changes(ZoneInfo(name)))


@given(
    st.sampled_from(RULES),
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia", "Australia/Lord_Howe", "America/St_Johns", "Asia/Gaza"]),
    st.datetimes(datetime(2001, 1, 1), datetime(2038, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 20 * 86_400),
)
@settings(max_examples=60)
def test_what_is_missed_is_counted_as_if_stepped_through(
    expression: str, name: str, begin: datetime, late: int
) -> None:
    rule = Cron(expression, name)
    first = cadence.next_after(rule, begin)
    assert first is not None
    now = first + timedelta(seconds=late)
    stepped = [first, *until(rule, first, now)]
    assert cadence.latest_due(rule, first, now) == (stepped[-1], len(stepped) - 1)
    assert all(a < b for a, b in pairwise(stepped))


@pytest.mark.parametrize("expression", ["* * * * *", "45 * * * *", "30 2 * * *"])
def test_missed_weeks_around_every_change_are_counted_exactly(expression: str) -> None:
    for name, change in one_change_of_each_kind()[:: 1 if "2" in expression else 6]:
        rule = Cron(expression, name)
        first = cadence.next_after(rule, change.at - 3 * DAY)
        assert first is not None
        stepped = [first, *until(rule, first, change.at + 3 * DAY)]
        assert cadence.latest_due(rule, first, change.at + 3 * DAY) == (stepped[-1], len(stepped) - 1), name


def test_the_year_before_the_end_of_the_zones_is_like_any_other() -> None:
    rule = Cron("0 0 1 1 *", "Europe/Berlin")
    assert cadence.next_after(rule, END).astimezone(ZoneInfo("Europe/Berlin")).date() == date(2041, 1, 1)
