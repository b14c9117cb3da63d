"""Wakeups: doorbells that make idle workers look into the database, and publishers that send one message per run.

A transport never decides whether a run exists or what state it is in.  Wakeups may be lost, doubled, late or out of
order: whoever gets one reads the run from storage first, so only latency depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, runtime_checkable

from runlane.wakeup import PublishOutcome, PublishStatus, Wakeup

__all__ = ["Bell", "BoundToQueues", "PublishOutcome", "PublishStatus", "Publisher", "Transport", "Wakeup"]

#: Called when there may be work.  It returns at once and raises nothing.
Bell = Callable[[], None]


class Transport(Protocol):
    """What a lane needs of a doorbell."""

    name: str

    def start(self) -> None:
        """Make ready; called once, after the storage has started."""
        ...

    def close(self) -> None:
        """Send what is still to be sent, and end; may be started again."""
        ...

    def ring(self, environment: str, queues: Collection[str] | None) -> None:
        """There may be work on these queues, or on any; after the commit that made it.  Returns at once."""
        ...

    def listen(self, environment: str, queues: Collection[str], bell: Bell) -> None:
        """Ring `bell` whenever one of `queues` is rung for."""
        ...

    def unlisten(self, bell: Bell) -> None:
        """The inverse of ``listen``."""
        ...


@runtime_checkable
class Publisher(Transport, Protocol):
    """A transport that carries one wakeup per run to consumers, who call ``execute_delivery``."""

    def publish(self, wakeups: Sequence[Wakeup]) -> Sequence[PublishOutcome]:
        """Hand wakeups of one environment to the provider; one outcome each, in their order.

        Raises:
            TransportUnavailable: nothing can be published at the moment; all of them are tried again.
        """
        ...


@runtime_checkable
class BoundToQueues(Protocol):
    """A transport that needs something of its own for each queue, and knows which queues it serves."""

    def check(self, queues: Collection[str]) -> None:
        """Refuse queues that it cannot serve; called with those of each runtime that is built on it.

        Raises:
            ConfigurationInvalid: naming them.
        """
        ...
