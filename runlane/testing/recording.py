"""A publishing transport that keeps its wakeups in memory, and misbehaves when told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import StrEnum

from runlane.app import Runlane
from runlane.engine.deliver import Delivery
from runlane.errors import TransportUnavailable
from runlane.tasks import Queue
from runlane.transport.local import LocalTransport
from runlane.wakeup import PublishOutcome, PublishStatus, Wakeup


class Misbehaviour(StrEnum):
    """What may go wrong between a runtime and its consumers; only latency may depend on it."""

    FAIL = "fail"  # says that they failed
    REJECT = "reject"  # says that they are never taken
    UNAVAILABLE = "unavailable"  # raises TransportUnavailable
    DROP = "drop"  # says that they are published, and loses them
    DOUBLE = "double"  # delivers each of them twice
    REORDER = "reorder"  # delivers the newest first


_REFUSED = {Misbehaviour.FAIL: PublishStatus.FAILED, Misbehaviour.REJECT: PublishStatus.REJECTED}


class RecordingTransport(LocalTransport):
    """Keeps every wakeup for the test to look at and to deliver; its bells ring within this process.

    ``wakeups`` are those that wait to be delivered, ``published`` all that were ever taken, in their order.
    """

    name = "recording"

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._waiting: list[Wakeup] = []
        self._published: list[Wakeup] = []
        self._how: Misbehaviour | None = None
        self._times: int | None = None

    @property
    def wakeups(self) -> tuple[Wakeup, ...]:
        """What waits to be delivered, in the order in which it would be."""
        with self._guard:
            return tuple(self._waiting)

    @property
    def published(self) -> tuple[Wakeup, ...]:
        """What was ever taken, also what was lost then."""
        with self._guard:
            return tuple(self._published)

    def misbehave(self, how: Misbehaviour | str, times: int | None = None) -> None:
        """Misbehave from now on, or for the next `times` calls of ``publish``; another call replaces this one."""
        with self._guard:
            self._how, self._times = Misbehaviour(how), times

    def behave(self) -> None:
        """The inverse of ``misbehave``."""
        with self._guard:
            self._how = self._times = None

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        """Take wakeups, or do what was asked of ``misbehave``.

        Raises:
            TransportUnavailable: it was asked to.
        """
        with self._guard:
            how = self._misbehaviour()
            if how is Misbehaviour.UNAVAILABLE:
                raise TransportUnavailable("the transport was asked to be unavailable")
            if how is not None and (refused := _REFUSED.get(how)) is not None:
                return [PublishOutcome(refused, f"the transport was asked to {how}") for _ in wakeups]
            self._take(list(wakeups), how)
            return [PublishOutcome(PublishStatus.PUBLISHED) for _ in wakeups]

    def deliver(self, app: Runlane, queues: Sequence[Queue] | None = None) -> list[Delivery]:
        """Hand everything that waits to ``app.execute_delivery``, as a consumer of these queues would; what came of it.

        Wakeups that are published meanwhile wait for the next call.
        """
        return [app.execute_delivery(wakeup, queues) for wakeup in self.take()]

    def take(self) -> list[Wakeup]:
        """What waits to be delivered; it waits no longer."""
        with self._guard:
            waiting, self._waiting = self._waiting, []
            return waiting

    def _misbehaviour(self) -> Misbehaviour | None:
        if self._times is not None:
            if self._times < 1:
                self._how = self._times = None
            else:
                self._times -= 1
        return self._how

    def _take(self, wakeups: list[Wakeup], how: Misbehaviour | None) -> None:
        self._published += wakeups
        match how:
            case Misbehaviour.DROP:
                pass
            case Misbehaviour.DOUBLE:
                self._waiting += [wakeup for wakeup in wakeups for _ in range(2)]
            case Misbehaviour.REORDER:
                self._waiting[:0] = reversed(wakeups)
            case _:
                self._waiting += wakeups
