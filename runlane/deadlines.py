"""Attempts that may only last so long: one thread watches all of them, and none does while nothing is watched.

A task's timeout is the same for each of its attempts, so attempts of equal timeouts expire in the order in which they
began: a line per timeout needs no heap, and an attempt that ends in time leaves nothing behind.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

log = logging.getLogger("runlane.executor")

T = TypeVar("T")

#: The longest sleep of the watching thread, seconds; the platform's locks cannot wait for as long as a timedelta lasts.
_LONGEST = 3600.0


class Deadlines(Generic[T]):
    """Watches items, each of them until it is forgotten or its time is over.

    Args:
        expire: called when an item's time is over, while ``forget`` waits: an item is either forgotten or expired.
        expired: called after it, while nothing waits.  Both are called on the watching thread.
    """

    def __init__(self, expire: Callable[[T], None], expired: Callable[[T], None]) -> None:
        self._expire = expire
        self._expired = expired
        self._changed = threading.Condition()
        self._lines: dict[float, dict[T, float]] = {}
        self._wakes = 0.0  # when the watching thread looks again
        self._watching = False
        self._closed = False

    def watch(self, item: T, seconds: float) -> None:
        """Let `item` expire in so many seconds."""
        with self._changed:
            if self._closed:
                return
            at = monotonic() + seconds
            self._lines.setdefault(seconds, {})[item] = at
            if not self._watching:
                thread = threading.Thread(target=self._watch, name="runlane-deadlines", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system allows no more of them at present
                    log.warning("timeouts are not watched until another attempt begins that has one: %s", error)
                else:
                    self._watching = True
            elif at < self._wakes:
                self._changed.notify()

    def forget(self, item: T, seconds: float) -> None:
        """Watch `item`, which was given so many seconds, no more; if it is just expiring, return when it has."""
        with self._changed:
            self._lines.get(seconds, {}).pop(item, None)

    def close(self) -> None:
        """End the thread; nothing expires any more."""
        with self._changed:
            self._closed = True
            self._lines.clear()
            self._changed.notify()

    def _watch(self) -> None:
        while (over := self._next()) is not None:
            for item in over:
                try:
                    self._expired(item)
                except Exception:  # the others are to expire all the same
                    log.exception("an attempt whose time is over cannot be told")

    def _next(self) -> list[T] | None:
        """Wait until something expires; None at the end."""
        with self._changed:
            while not self._closed:
                now = monotonic()
                over = [item for line in self._lines.values() for item in _take(line, now)]
                for item in over:
                    self._expire(item)
                if over:
                    return over
                heads = (next(iter(line.values())) for line in self._lines.values() if line)
                self._wakes = min([now + _LONGEST, *heads])
                self._changed.wait(self._wakes - now)
            return None


def _take(line: dict[T, float], now: float) -> list[T]:
    """Take what is over out of a line; its first one expires first."""
    over = []
    for item, at in line.items():
        if at > now:
            break
        over.append(item)
    for item in over:
        del line[item]
    return over
