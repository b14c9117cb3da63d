"""When a worker looks into the database for runs: because somebody rang, the last look left something, or it is time.

Kept by ``Exchange`` under its lock; seconds are those of the monotonic clock, which the caller has.
"""

from __future__ import annotations

import random


class Appetite:
    """What one worker knows of the work that there may be.

    Args:
        poll_interval: seconds between looks while there is nothing.
        drain: the worker ends when it has found nothing.
        limited: some of its queues have limits, so an outcome on one lane can make room for what a claim on the other
            one has just missed.
        most: a claim that comes to this number may have left runs that are due.
    """

    def __init__(self, poll_interval: float, drain: bool, limited: bool, most: int) -> None:
        self._poll_interval = poll_interval
        self._drain = drain
        self._one_looks = not drain and not limited
        self._most = most
        self._next_poll = 0.0
        self._rang = False  # since the last claim began, so it may have missed what there is
        self._plenty = True  # the last claim left something: more of them at once are of use
        #: The last claim found as much as it asked for.
        self.hungry = True
        #: The last claim found nothing, and nothing has been committed since it began.
        self.dry = False
        #: How many runs are being asked for.
        self.claiming = 0

    def ring(self) -> None:
        """There may be work."""
        self.hungry = self._rang = True
        self.dry = False

    def rang_late(self) -> None:
        """What is due is locked by others: it is not the end of a drain, and worth another look."""
        self._rang = True

    @property
    def awaits_look(self) -> bool:
        """Whether a look is under way that may be a drain's last one: it is not if another one begins beside it, and
        where looks take longer than the time between polls none ever would be."""
        return self._drain and self.claiming > 0

    @property
    def may_look(self) -> bool:
        """Whether another claim could find what the one under way does not."""
        return not (self._one_looks and self.claiming and not self._plenty)

    def until_poll(self, now: float) -> float:
        """Seconds until it is time to look."""
        return self._next_poll - now

    def wanted(self, room: int, executing: int, now: float) -> int:
        """How many runs to claim, there being room for so many."""
        if room <= 0:
            return 0
        idle_drain = self._drain and not self.dry and not executing and not self.claiming
        is_time = now >= self._next_poll and not self.awaits_look
        return room if self.hungry or idle_drain or is_time else 0

    def asks(self, wanted: int, now: float) -> None:
        """A claim of so many begins."""
        self.claiming += wanted
        if wanted:
            # Not quite even, so that workers that began together do not look together.
            self._next_poll = now + self._poll_interval * random.uniform(0.9, 1.1)  # noqa: S311
            self._rang = False

    def was_refused(self, wanted: int) -> None:
        """A claim of so many came to nothing, as the database was away."""
        self.claiming -= wanted

    def found(self, claimed: int, wanted: int, stored: bool, others_stored: bool) -> None:
        """A trip is back that claimed so many of those `wanted`.

        Args:
            stored: it also stored outcomes.
            others_stored: so have others since it began; what they stored may be due again, and this claim have been
                too early to see it.
        """
        self.claiming -= wanted
        if wanted:
            self._plenty = claimed >= min(wanted, self._most)
            self.hungry = self._plenty or self._rang
            self.dry = not (claimed or stored or self._rang or others_stored)
        elif stored:
            self.dry = False
