"""When a schedule is due: once, at a fixed interval, or by a cron rule.  Pure arithmetic on UTC instants."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from attrs import frozen

from runlane import crontab
from runlane.crontab import Cron

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)

__all__ = ["Cadence", "Cron", "Every", "Once", "first_at", "from_json", "latest_due", "next_after", "to_json"]


@frozen
class Once:
    """A single occurrence."""

    at: datetime


@frozen
class Every:
    """An occurrence at each multiple of `interval` since the Unix epoch, so every process computes the same ones."""

    interval: timedelta


Cadence = Once | Every | Cron


def next_after(cadence: Cadence, moment: datetime) -> datetime | None:
    """The first occurrence later than `moment`, or None when there is none."""
    match cadence:
        case Once(at=at):
            return at if at > moment else None
        case Every(interval=interval):
            try:
                return _EPOCH + ((moment - _EPOCH) // interval + 1) * interval
            except OverflowError:
                return None
        case Cron():
            return crontab.next_after(cadence, moment)
        case unhandled:
            assert_never(unhandled)


def latest_due(cadence: Cadence, first: datetime, now: datetime) -> tuple[datetime, int]:
    """The latest occurrence at or before `now`, and how many from `first` on it collapses (0 if it is `first`).

    `first` is an occurrence that is due, that is, not later than `now`.
    """
    match cadence:
        case Once():
            return first, 0
        case Every(interval=interval):
            behind = (now - first) // interval
            return first + behind * interval, behind
        case Cron():
            return crontab.latest_due(cadence, first, now)
        case unhandled:
            assert_never(unhandled)


def first_at(cadence: Cadence, registered: datetime) -> datetime | None:
    """The first occurrence of a schedule first seen at `registered`; a one-off is a promise, however late."""
    return cadence.at if isinstance(cadence, Once) else next_after(cadence, registered)


def to_json(cadence: Cadence) -> dict[str, Any]:
    """The cadence as events hold it."""
    match cadence:
        case Once(at=at):
            return {"once": at.isoformat()}
        case Every(interval=interval):
            return {"every_us": interval // _TICK}
        case Cron(expression=expression, zone=zone):
            return {"cron": expression, "time_zone": zone}
        case unhandled:
            assert_never(unhandled)


def from_json(value: Mapping[str, Any]) -> Cadence:
    """The inverse of ``to_json``."""
    if "once" in value:
        return Once(datetime.fromisoformat(value["once"]))
    if "cron" in value:
        return Cron(value["cron"], value["time_zone"])
    return Every(value["every_us"] * _TICK)
