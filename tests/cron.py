"""Stepping through cron rules, and where the clocks of every zone change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo, available_timezones

from attrs import frozen

from runlane import cadence
from runlane.cadence import Cadence

BEGIN, END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
_STEP, _SECOND = timedelta(days=3), timedelta(seconds=1)


def occurrences(rule: Cadence, after: datetime) -> Iterator[datetime]:
    """The occurrences later than `after`, one after the other."""
    at: datetime | None = after
    while (at := cadence.next_after(rule, at)) is not None:
        yield at


def until(rule: Cadence, after: datetime, end: datetime) -> list[datetime]:
    """The occurrences later than `after` and not later than `end`."""
    return list(takewhile(lambda at: at <= end, occurrences(rule, after)))


@frozen
class Change:
    """The instant at which the clocks of a zone jump, and its offsets before and after."""

    at: datetime
    before: timedelta
    after: timedelta


def changes(zone: ZoneInfo) -> Iterator[Change]:
    """Every change from 2000 to 2040."""
    left, offset = BEGIN, _offset(zone, BEGIN)
    while left < END:
        right = left + _STEP
        if _offset(zone, right) != offset:
            low, high = left, right
            while high - low > _SECOND:
                middle = low + (high - low) // 2 // _SECOND * _SECOND
                low, high = (middle, high) if _offset(zone, middle) == offset else (low, middle)
            yield Change(high, offset, _offset(zone, high))
            right, offset = high, _offset(zone, high)
        left = right


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    found = at.astimezone(zone).utcoffset()
    assert found is not None
    return found


@lru_cache(maxsize=1)
def every_clock() -> dict[str, tuple[Change, ...]]:
    """The changes of every IANA zone, of zones with the same clocks only the first by name."""
    found: dict[object, str] = {}
    zones: dict[str, tuple[Change, ...]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        clock = tuple(changes(zone))
        if found.setdefault((clock, _offset(zone, BEGIN)), name) == name:
            zones[name] = clock
    return zones
