"""Rings within this process."""

from __future__ import annotations

import threading
from collections.abc import Collection

from attrs import frozen

from runlane.transport import Bell


@frozen
class _Listener:
    environment: str
    queues: frozenset[str]
    bell: Bell


class LocalTransport:
    """Every runtime on the same lane of this process hears every ring; the others poll."""

    name = "local"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[_Listener, ...] = ()

    def start(self) -> None:
        """Nothing is needed."""

    def close(self) -> None:
        """Nothing is held."""

    def ring(self, environment: str, queues: Collection[str] | None) -> None:
        """Ring every bell of this process that listens for one of `queues`."""
        for listener in self._listeners:
            if listener.environment == environment and (queues is None or not listener.queues.isdisjoint(queues)):
                listener.bell()

    def ring_all(self) -> None:
        """Ring every bell of this process."""
        for listener in self._listeners:
            listener.bell()

    def listen(self, environment: str, queues: Collection[str], bell: Bell) -> None:
        """Ring `bell` whenever one of `queues` is rung for."""
        with self._lock:
            self._listeners = (*self._listeners, _Listener(environment, frozenset(queues), bell))

    def unlisten(self, bell: Bell) -> None:
        """The inverse of ``listen``."""
        with self._lock:
            self._listeners = tuple(listener for listener in self._listeners if listener.bell != bell)

    @property
    def is_listening(self) -> bool:
        """Whether anybody in this process wants to hear."""
        return bool(self._listeners)
