"""Threads for handlers that block: few while handlers are quick, as many as there is work once they are not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import Generic, TypeVar

log = logging.getLogger("runlane.executor")

T = TypeVar("T")

#: Work that takes longer than this is held to block; seconds.
_BLOCKS = 0.0005
#: No work begun for so long while some waits: all threads are blocked; seconds.
_STALLED = 0.01


class Threads(Generic[T]):
    """Threads that become more while they block; more of them than that would only fight for the GIL.

    Args:
        limit: the greatest number of threads.
        work: called with each item, on one of the threads; what it returns is the item that comes next.
    """

    def __init__(self, limit: int, work: Callable[[T], T | None]) -> None:
        self._limit = limit
        self._work = work
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._size = 0
        self._slow = 0.0  # moving share of items that blocked
        self._taken = 0
        self._seen = (-1, 0.0)  # how many were taken when, at the last look
        self._closed = False
        self._refused = False  # the system has allowed no further thread

    def submit(self, items: Sequence[T]) -> None:
        """Have them worked on; returns at once."""
        for item in items:
            self._queue.put(item)
        if self._size == 0:
            self._grow(1)
        if self._slow > 0.5:
            self._grow(self._queue.qsize())

    def relieve(self) -> bool:
        """Add threads if all of them are blocked while items wait; whether some wait, so call again soon."""
        waiting = self._queue.qsize()
        now, (seen, at) = perf_counter(), self._seen
        if self._taken != seen:
            self._seen = (self._taken, now)
        elif waiting and now - at > _STALLED:
            self._grow(min(waiting, 16 * self._size))
            self._seen = (seen, now)
        return waiting > 0

    def close(self) -> None:
        """Let the threads end, those that work once they have come back."""
        self._closed = True
        for _ in range(self._size):
            self._queue.put(None)

    def _grow(self, by: int) -> None:
        with self._lock:
            for _ in range(min(by, self._limit - self._size)):
                # Daemons: a handler that ignores its signal must not keep the process from ending.
                thread = threading.Thread(target=self._loop, name=f"runlane-handler-{self._size + 1}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    if self._size == 0:
                        raise
                    if not self._refused:
                        log.warning("the system allows no more than %d threads for handlers at present", self._size)
                    self._refused = True
                    return
                self._size += 1
                self._refused = False

    def _loop(self) -> None:
        following: T | None = None
        while not self._closed:
            item = self._next(following)
            if item is None:
                return
            self._taken += 1
            started = perf_counter()
            following = self._work(item)
            self._slow += (0.05 if perf_counter() - started > _BLOCKS else 0.0) - 0.05 * self._slow

    def _next(self, following: T | None) -> T | None:
        """What is next for this thread: what its last item has led to, unless others have waited for longer."""
        if following is not None:
            if self._queue.empty():
                return following
            self._queue.put(following)
        return self._queue.get()
