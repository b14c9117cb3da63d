"""Cron rules in a time zone: which instants they name, whatever the clocks do.

croniter parses the expression and picks the days; it never sees a time zone, because it goes wrong where clocks change.
A rule therefore names *wall times*, naive and minute by minute, and each is resolved here to one instant:

    the first instant at which the zone's clocks show that wall time, or a later one.

Everything follows from this sentence.  A wall time that a gap skips fires at the first instant after the gap, together
with whatever else falls there: several skipped times are one occurrence.  A wall time that comes twice fires the first
time only, for hourly rules too.  A date that a zone skips altogether (Pacific/Apia had no 30 December 2011) fires at
the first instant after it, so a rule for 02:30 fires at 00:00 on the 31st for the 30th, and again at 02:30; a rule for
00:00 fires once.  Instants never run backwards, so occurrences strictly increase.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from attrs import frozen
from croniter import croniter

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown

_TICK, _SECOND, _MINUTE, _DAY = timedelta(microseconds=1), timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
#: No rule that ever matches waits longer than from 29 February 2096 to 2104; croniter gives up after 50 years too.
_YEARS = 50
_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
# croniter knows H and R besides, which draw numbers: every process would have a schedule of its own.
_FIELD = re.compile(rf"(?:[0-9*,/?#LW-]|{_NAMES})+", re.ASCII | re.IGNORECASE)
# Names that ZoneInfo finds on some machines, and that mean something else on the next, or count leap seconds.
_NOT_IANA = re.compile(r"localtime|posixrules|(?:posix|right)/.*", re.DOTALL)


@frozen
class Cron:
    """An occurrence at each wall time of an IANA time zone that a cron expression of five fields matches."""

    expression: str
    zone: str


def checked(what: str, expression: object, zone: object) -> Cron:
    """The rule, with its expression in one normal form.

    Args:
        what: whose rule it is, for messages: ``schedule nightly``.
        expression: minute, hour, day of month, month, day of week, as croniter reads them.
        zone: a name of the IANA time zone database.

    Raises:
        ConfigurationInvalid: it has not five fields, is nonsense, never matches, or the zone is unknown.
    """
    if not isinstance(expression, str):
        raise ConfigurationInvalid(f"cron of {what} must be text like '30 2 * * *'; got {shown(expression)}")
    fields = expression.split()
    if len(fields) != 5:
        raise ConfigurationInvalid(
            f"cron of {what} must have five fields (minute, hour, day of month, month, day of week), "
            f"like '30 2 * * *'; got {len(fields)} in {shown(expression)}"
        )
    rule = " ".join(fields)
    if not all(_FIELD.fullmatch(field) for field in fields) or not croniter.is_valid(rule):
        raise ConfigurationInvalid(f"cron of {what} cannot be understood: {shown(expression)}")
    if next(_days_from(rule, date(2000, 1, 1)), None) is None:
        raise ConfigurationInvalid(f"cron of {what} names no day that exists: {shown(expression)}")
    return Cron(rule, _known_zone(what, zone))


def _known_zone(what: str, zone: object) -> str:
    if isinstance(zone, str) and not _NOT_IANA.fullmatch(zone):
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):  # the last for names of folders, and too long ones
            pass
        else:
            return zone
    raise ConfigurationInvalid(f"time_zone of {what} must be an IANA name such as 'Europe/Berlin'; got {shown(zone)}")


def next_after(rule: Cron, moment: datetime) -> datetime | None:
    """The first occurrence later than `moment`, in UTC; None at the end of the calendar."""
    zone = ZoneInfo(rule.zone)
    try:
        # Clocks that were put back show wall times again that have had their turn: those lie behind `moment`.
        for wall in _walls_from(rule.expression, _wall(zone, moment)):
            at = _reached(zone, wall)
            if at > moment:
                return at
    except OverflowError:
        pass
    return None


def latest_due(rule: Cron, first: datetime, now: datetime) -> tuple[datetime, int]:
    """The latest occurrence at or before `now`, and how many from `first` on it collapses, counted exactly.

    A day on which the clocks do not change is counted as a whole, so that a year costs some milliseconds however
    often the rule matches.  `first` counts as an occurrence even if the zone's rules have changed since it was decided.
    """
    zone, minutes = ZoneInfo(rule.zone), _minutes(rule.expression)
    latest, behind = first, 0
    for day in _days_from(rule.expression, _wall(zone, first - _TICK).date()):
        midnight = datetime.combine(day, time())
        start, end = _reached(zone, midnight), _reached(zone, midnight + _DAY)
        if start > now:
            break
        if first < start and end <= now and _is_plain(zone, start, end):
            latest, behind = start + minutes[-1] * _MINUTE, behind + len(minutes)
            continue
        for minute in minutes:
            at = _reached(zone, midnight + minute * _MINUTE)
            if latest < at <= now:
                latest, behind = at, behind + 1
    return latest, behind


def _is_plain(zone: ZoneInfo, start: datetime, end: datetime) -> bool:
    """Whether the clocks do not change from just before `start` until `end`, a day later."""
    return end - start == _DAY and (start - _SECOND).astimezone(zone).utcoffset() == end.astimezone(zone).utcoffset()


def _wall(zone: ZoneInfo, at: datetime) -> datetime:
    """What the zone's clocks show."""
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def _reached(zone: ZoneInfo, wall: datetime) -> datetime:
    """The first instant at which the zone's clocks show `wall` or later."""
    at = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(zone, at) == wall:
        return at
    # In a gap, fold 0 reads the time by the offset before it and lands behind it, fold 1 the other way round.
    ahead = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    steps = range((at - ahead) // _SECOND + 1)  # clocks change on whole seconds
    return ahead + bisect_left(steps, True, key=lambda n: _wall(zone, ahead + n * _SECOND) >= wall) * _SECOND


def _walls_from(expression: str, wall: datetime) -> Iterator[datetime]:
    """The wall times that match, in order, from the minute of `wall` on."""
    minutes = _minutes(expression)
    for day in _days_from(expression, wall.date()):
        midnight = datetime.combine(day, time())
        for minute in minutes[bisect_left(minutes, (wall - midnight) // _MINUTE) :]:
            yield midnight + minute * _MINUTE


def _days_from(expression: str, start: date) -> Iterator[date]:
    """The days that match, in order, from `start` on, until none is found for ``_YEARS``."""
    year, found = start.year, start.year
    while year <= min(found + _YEARS, 9999):
        days = _days(expression, year)
        for day in days[bisect_left(days, start) :]:
            found = year
            yield day
        year += 1


@lru_cache(maxsize=1024)
def _days(expression: str, year: int) -> tuple[date, ...]:
    """The days of a year that match."""
    found: list[date] = []
    try:
        days = croniter("0 0 " + expression.split(" ", 2)[2], datetime(year - 1, 12, 31, 23, 59))
        while (day := days.get_next(datetime).date()).year == year:
            found.append(day)
    except (ValueError, OverflowError):  # no further day, or not in this calendar
        pass
    return tuple(found)


@lru_cache(maxsize=1024)
def _minutes(expression: str) -> tuple[int, ...]:
    """The minutes of a matching day at which it fires, in order."""
    minutes, hours = croniter(expression).expanded[:2]
    every_minute, every_hour = range(60), range(24)
    return tuple(
        hour * 60 + int(minute)
        for hour in (every_hour if hours == ["*"] else sorted(map(int, hours)))
        for minute in (every_minute if minutes == ["*"] else sorted(map(int, minutes)))
    )
