"""How many runs a worker claims beyond its free slots, so that a slot that comes free need not wait for the database.

A run that is claimed ahead is lost to every other worker until it begins, so it is meant to begin within some round
trips: only as many are claimed as handlers have lately come back in that time, and none where handlers are slow, where
those round trips are a small part of the time anyway.  Two round trips would do if handlers came back evenly; but those
that have begun together come back together.  Pure arithmetic; the caller has the clock.
"""

from __future__ import annotations

from collections import deque

#: Seconds that a ready run waits before it is given back, to whoever has a slot for it.
PATIENCE = 0.5

_LONGEST_WAIT = 0.05  # seconds that a ready run should have to wait at most
_QUICK = 0.1  # handlers that take longer, seconds on average, are not claimed ahead
_WINDOW = 0.5  # seconds that are looked back on
_STEP = 0.05  # seconds between what is remembered of them
_REST = 2.0  # seconds without, after runs had to be given back
_TRIPS = 6.0  # an outcome waits for one round trip to begin, a claim takes one, and the others are for the crowds


class Ahead:
    """The estimate of one worker.

    Args:
        concurrency: its slots.
    """

    def __init__(self, concurrency: int) -> None:
        self._most = concurrency
        self._trip = 0.0
        self._marks: deque[tuple[float, int, float]] = deque()  # when, how many had left, what they had spent
        self._rests_until = 0.0
        self._wanted = 0
        self._per_trip = 0.0  # so many come back during a round trip

    def returned(self, seconds: float) -> None:
        """A round trip to the database took so long."""
        self._trip += (seconds - self._trip) / 8 if self._trip else seconds

    def is_ample(self, ready: int) -> bool:
        """Whether so many that are ready will do until a round trip that begins now has ended."""
        return self._wanted > 0 and ready >= min(self._per_trip, self._wanted / 2)

    def gave_back(self, now: float) -> None:
        """Ready runs had to be given back, so there were too many of them."""
        self._rests_until = now + _REST

    def wanted(self, now: float, left: int, spent: float) -> int:
        """How many runs to have ready at present.

        Args:
            now: seconds, of a clock that only grows.
            left: how many handlers have come back, ever.
            spent: the seconds that they took, all together.
        """
        self._wanted = self._estimate(now, left, spent)
        return self._wanted

    def _estimate(self, now: float, left: int, spent: float) -> int:
        marks = self._marks
        while marks and now - marks[0][0] > _WINDOW:
            marks.popleft()
        if not marks or now - marks[-1][0] >= _STEP:
            marks.append((now, left, spent))
        began, left_then, spent_then = marks[0]
        count = left - left_then
        if not count or now < self._rests_until or (spent - spent_then) / count > _QUICK:
            return 0
        # Of a window that has only begun, what is not known yet counts as nothing.
        rate = count / max(now - began, _WINDOW / 2)
        self._per_trip = rate * self._trip
        return min(self._most, int(rate * min(_TRIPS * self._trip, _LONGEST_WAIT)))
