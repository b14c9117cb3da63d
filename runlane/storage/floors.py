"""How far down its queues a worker has claimed, so that it need not walk over what was there.

A run that is claimed leaves its entry in the claim's index until PostgreSQL may remove it: never while a transaction
anywhere in the server is open that began before.  Until then each claim walks over every such entry, and looks each of
them up in the table, before it finds a run.  Where claims have become slow, a worker therefore begins the next ones
where the last one ended, and looks from the beginning only every now and then.

This decides nothing about a run.  One that appears further up (committed late, of a queue that was paused) is claimed
at the next look from the beginning; one that became due within the last second is seen at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from time import monotonic
from uuid import UUID

from attrs import frozen

#: The span of priorities.
HIGHEST, LOWEST = 32767, -32768
#: A claim is slow when it takes longer than this, and so much more for each run that it finds; seconds.
_SLOW, _PER_RUN = 0.006, 0.00012
#: Seconds between looks from the beginning, and how many times as long as such a look they must at least be.
_REST, _SHARE = 1.0, 20
#: What is due since then may still be committed by those who are slow: it is always looked at.
_RECENT = timedelta(seconds=1)


@frozen
class Stretch:
    """Part of a queue: priorities from `highest` down to `lowest`, behind this due time and id if there are any."""

    queue: str
    highest: int = HIGHEST
    lowest: int = LOWEST
    due_at: datetime | None = None
    id: UUID = UUID(int=0)


@frozen
class _Reached:
    """The last run taken, and since when something may have come above it; `all` says that nothing was left below."""

    priority: int
    due_at: datetime
    id: UUID
    recent: datetime
    all: bool


@frozen
class Look:
    """What a claim has come to.

    `last` is the place of the last run that it took: priority, since when it was due, id; `all_found` says that no due
    run was left, `everywhere` that it began at the beginning.  Without `now` nothing is passed over next time.
    """

    found: int
    last: tuple[int, datetime, UUID] | None
    all_found: bool
    now: datetime | None
    seconds: float
    everywhere: bool


class Floors:
    """Where one worker's claims go on; safe to share between its threads.

    Args:
        timer: seconds, as ``time.monotonic`` counts them.
    """

    def __init__(self, timer: Callable[[], float] = monotonic) -> None:
        self._timer = timer
        self._lock = threading.Lock()
        self._reached: _Reached | None = None  # None: claims are quick, and begin at the beginning
        self._next_look = 0.0

    @property
    def in_use(self) -> bool:
        """Whether claims pass over what they have seen."""
        return self._reached is not None

    def stretches(self, queues: Sequence[str]) -> tuple[list[Stretch], bool]:
        """Where to look for runs of these queues, and whether that is everywhere."""
        with self._lock:
            reached = self._reached
            if reached is None or self._timer() >= self._next_look:
                self._next_look = self._timer() + _REST  # the other threads go on meanwhile
                return [Stretch(queue) for queue in queues], True
        found = []
        level, recent = reached.priority, reached.recent
        due_at, id = min((recent, UUID(int=0)), (reached.due_at, reached.id))
        for queue in queues:
            if level < HIGHEST:
                found.append(Stretch(queue, lowest=level + 1, due_at=recent))
            found.append(Stretch(queue, level, level, due_at, id))
            if level > LOWEST:
                found.append(Stretch(queue, highest=level - 1, due_at=recent if reached.all else None))
        return found, False

    def learn(self, look: Look) -> None:
        """What a claim has taken, and how long that took."""
        with self._lock:
            if look.everywhere:
                self._next_look = self._timer() + max(_REST, _SHARE * look.seconds)
                if look.seconds < _SLOW + look.found * _PER_RUN:
                    self._reached = None
                    return
            elif self._reached is None:  # another thread has found that claims are quick again
                return
            if look.now is None:
                self._reached = None
                return
            recent = look.now - _RECENT
            if look.last is not None:
                self._reached = _Reached(*look.last, recent, look.all_found)
            elif look.all_found:
                level = 0 if self._reached is None else self._reached.priority
                self._reached = _Reached(level, recent, UUID(int=0), recent, True)
            else:
                self._reached = None
