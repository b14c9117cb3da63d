"""Waiting longer and longer while something keeps failing."""

from __future__ import annotations

import random
import threading
from time import monotonic

LEAST, MOST = 1.0, 30.0


class Backoff:
    """Until when to leave something alone; failures at the same time count as one.

    Args:
        least: seconds after the first failure.
        most: seconds after many.
    """

    def __init__(self, least: float = LEAST, most: float = MOST) -> None:
        self._least = least
        self._most = most
        self._lock = threading.Lock()
        self._pause = least
        self._until = 0.0

    def failed(self) -> None:
        """It failed: wait, and twice as long the next time."""
        with self._lock:
            now = monotonic()
            if now >= self._until:
                self._until = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311
                self._pause = min(2 * self._pause, self._most)

    def worked(self) -> None:
        """It works again."""
        with self._lock:
            self._pause, self._until = self._least, 0.0

    def left(self) -> float:
        """Seconds that are still to be waited."""
        return max(0.0, self._until - monotonic())
