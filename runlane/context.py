"""What a handler is given besides its payload: the run, the signal to stop, and the way to continue later."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

from attrs import frozen

from runlane import jsontext
from runlane.errors import ConfigurationInvalid, OperationCancelled
from runlane.projections.runs import Run
from runlane.values import duration, free_text, instant

_log = logging.getLogger("runlane.task")
_setting = threading.Lock()


@frozen
class Release:
    """Returned by a handler: continue the same run later; the wait is no failure."""

    delay: timedelta | None
    run_at: datetime | None
    reason: str | None
    meta: Mapping[str, Any] | None


class Signal:
    """Tells a handler that it should stop.

    `reason` is ``worker_stopping``, ``lease_lost``, ``cancellation_requested`` or ``attempt_timeout``.
    """

    __slots__ = ("_event", "reason")

    def __init__(self) -> None:
        self.reason: str | None = None
        self._event: threading.Event | None = None

    def is_set(self) -> bool:
        """Whether the handler should stop."""
        return self.reason is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Block a ``def`` handler until the signal is set or `timeout` seconds have passed; whether it is set.

        Use it instead of ``time.sleep`` so that a worker can stop.
        """
        with _setting:
            if self.reason is not None:
                return True
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        return event.wait(timeout)

    def raise_if_set(self) -> None:
        """Raise ``OperationCancelled`` if the handler should stop; let it pass, and the attempt ends cleanly."""
        if self.reason is not None:
            raise OperationCancelled(f"the attempt was asked to stop: {self.reason}", meta={"reason": self.reason})

    def set(self, reason: str) -> None:
        """Ask the handler to stop; the first reason stays."""
        with _setting:
            if self.reason is None:
                self.reason = reason
            if self._event is not None:
                self._event.set()


class Context:
    """The second argument of a handler, for one attempt."""

    __slots__ = ("attempt", "released", "run", "signal", "worker_id")

    def __init__(self, run: Run, attempt: int, worker_id: str) -> None:
        self.run = run
        self.attempt = attempt
        self.worker_id = worker_id
        self.signal = Signal()
        self.released: Release | None = None

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry run_id, task_id and attempt."""
        facts = {"run_id": str(self.run.id), "task_id": self.run.task_id, "attempt": self.attempt}
        return logging.LoggerAdapter(_log, facts)

    def is_cancellation_requested(self) -> bool:
        """Whether somebody asked, durably, to cancel this run."""
        return self.signal.reason == "cancellation_requested"

    def release(
        self,
        delay: timedelta | str | None = None,
        *,
        run_at: datetime | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Release:
        """A value to return from the handler: continue this run after `delay`, or at the instant `run_at`.

        Args:
            delay: ``"30s"`` or a timedelta; give this or `run_at`.
            reason: told in the run's history.
            meta: JSON facts for the history.

        Raises:
            ConfigurationInvalid: both or neither of `delay` and `run_at`, or a bad value.
        """
        self.released = checked(Release(delay, run_at, reason, meta))  # type: ignore[arg-type]  # text becomes a length
        return self.released


def checked(release: Release) -> Release:
    """The same with nothing in it that cannot be stored, nor be changed any more: handlers may make one by hand.

    Raises:
        ConfigurationInvalid: both or neither of delay and time, or a bad value.
    """
    delay, run_at, reason, meta = release.delay, release.run_at, release.reason, release.meta
    if (delay is None) == (run_at is None):
        raise ConfigurationInvalid("release needs exactly one of delay and run_at")
    kept = None
    if meta is not None:
        if not isinstance(meta, Mapping):
            raise ConfigurationInvalid(f"meta must be a mapping, not {type(meta).__name__}")
        try:
            kept = jsontext.decode(jsontext.encode(dict(meta), "meta"))
        except jsontext.JsonInvalid as error:
            raise ConfigurationInvalid(str(error)) from None
    return Release(
        None if delay is None else duration("delay", delay),
        None if run_at is None else instant("run_at", run_at),
        None if reason is None else free_text("reason", reason),
        kept,
    )


#: The attempt that the current thread or asyncio task executes; a trigger made there records its parent.
current: ContextVar[Context | None] = ContextVar("runlane_current", default=None)
