"""Clocks.  By default the database's clock decides; an injected one replaces it everywhere at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

#: Returns an aware instant in UTC.
Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The clock of this process, in UTC."""
    return datetime.now(UTC)


class SettableClock:
    """A clock that stands still until a test moves it; safe to share between threads."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be timezone-aware, for example datetime(2026, 1, 1, tzinfo=UTC)")
        self._now = start.astimezone(UTC)
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, by: timedelta) -> datetime:
        """Move the clock by `by` (which may be negative) and return the new instant."""
        with self._lock:
            self._now += by
            return self._now

    def set(self, to: datetime) -> None:
        """Set the clock to the aware instant `to`."""
        if to.tzinfo is None:
            raise ValueError("the clock needs a timezone-aware instant")
        with self._lock:
            self._now = to.astimezone(UTC)
