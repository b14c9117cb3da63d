"""Bounded waits for what a worker does: a run in a status, or an event in its history."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from runlane import codec
from runlane.app import Runlane
from runlane.events import Event, Recorded
from runlane.projections.runs import Run
from runlane.values import RunStatus

T = TypeVar("T")

#: Seconds that a wait takes at most, unless it says otherwise.
TIMEOUT = 10.0
_PAUSE = (0.002, 0.1)  # seconds between looks, the first and the longest


def wait_for_status(app: Runlane, run: Run | UUID | str, status: RunStatus | str, timeout: float = TIMEOUT) -> Run:
    """Wait until a run is in a status, and return it.

    Args:
        timeout: seconds.

    Raises:
        AssertionError: it is not in time, or has ended in another one; telling what it is and why.
    """
    id, wanted = _id(run), RunStatus(status)

    def look() -> Run | None:
        found = app.runs.get(id)
        if found.is_terminal and found.status is not wanted:
            raise AssertionError(f"run {id} never becomes {wanted}: {'; '.join(app.runs.why(id))}")
        return found if found.status is wanted else None

    def describe() -> str:
        return f"run {id} is {app.runs.get(id).status}, not {wanted}: {'; '.join(app.runs.why(id))}"

    return _until(look, describe, timeout)


def wait_for_event(
    app: Runlane, run: Run | UUID | str, event: type[Event] | str, timeout: float = TIMEOUT, *, count: int = 1
) -> Recorded:
    """Wait until a run's history has `count` events of a type, and return the last of those.

    Args:
        event: a class such as ``RunLeased``, or its stored name, ``"run.leased"``.
        timeout: seconds.

    Raises:
        AssertionError: there are not so many in time; telling the history.
    """
    id, name = _id(run), event if isinstance(event, str) else codec.STORED_AS[event][0]
    if name not in {stored for stored, _ in codec.STORED_AS.values()}:
        raise ValueError(f"no event is called {name!r}; one of a run is, for example, 'run.leased'")

    def look() -> Recorded | None:
        found = [record for record in app.runs.events(id) if _name(record) == name]
        return found[count - 1] if len(found) >= count else None

    def describe() -> str:
        there = ", ".join(_name(record) for record in app.runs.events(id))
        return f"run {id} has not {count} event(s) {name}; its history is {there}"

    return _until(look, describe, timeout)


def _until(look: Callable[[], T | None], describe: Callable[[], str], timeout: float) -> T:
    pause, longest = _PAUSE
    deadline = time.monotonic() + timeout
    waiting = threading.Event()
    while (found := look()) is None:
        if time.monotonic() >= deadline:
            raise AssertionError(f"after {timeout:g} s {describe()}")
        waiting.wait(pause)
        pause = min(1.5 * pause, longest)
    return found


def _name(record: Recorded) -> str:
    return codec.STORED_AS[type(record.event)][0]


def _id(run: Run | UUID | str) -> UUID | str:
    return run.id if isinstance(run, Run) else run
