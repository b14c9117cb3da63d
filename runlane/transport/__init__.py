"""Wakeups: doorbells that make idle workers look into the database at once.

A transport never decides whether a run exists or what state it is in.  Rings may be lost, doubled, late or out of
order: workers poll beside them, so only latency depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

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
