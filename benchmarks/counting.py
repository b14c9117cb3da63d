"""Nothing is believed that the database does not bear out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from runlane import Runlane, RunStatus, Task
from runlane.events import RunCreated, RunSucceeded
from runlane.storage.streams import read_streams

_PATIENCE = 120.0  # seconds


def counted(app: Runlane, status: RunStatus, runs: int, *, events_per_run: int) -> None:
    """Make sure that what was timed is what is stored.

    Raises:
        SystemExit: it is not.
    """
    events = sum(app.audit.count().values())
    if (stored := app.runs.count()) != {status: runs} or events != runs * events_per_run:
        raise SystemExit(f"expected {runs} runs {status} and {runs * events_per_run} events; found {stored}, {events}")


def counted_by_status(app: Runlane, expected: Mapping[RunStatus, int]) -> None:
    """The same where runs end in several ways and have histories of several lengths: those have to verify."""
    if (stored := app.runs.count()) != dict(expected):
        raise SystemExit(f"expected {dict(expected)}; found {stored}")
    verified(app)


def verified(app: Runlane) -> int:
    """Fold the whole log again and compare it with what is stored; the number of events.

    Raises:
        SystemExit: they differ.
    """
    found = app.audit.verify()
    if not found.identical:
        raise SystemExit(f"the replay differs: {found.differences[:3]}")
    return found.events


def wait_until_ended(app: Runlane, runs: int) -> None:
    """Wait until `runs` runs are stored and all of them have ended.

    Raises:
        SystemExit: that takes longer than anything that is measured here.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        stored = app.runs.count()
        if sum(stored.values()) == runs and all(status.is_terminal for status in stored):
            return
        time.sleep(0.05)
    raise SystemExit(f"waited {_PATIENCE:g} s for {runs} runs to end; found {stored}")


def results(app: Runlane, task: Task[..., Any]) -> list[tuple[Any, Any]]:
    """Payload and result of the succeeded runs of `task`, by id, read from their histories."""
    found = []
    with app.lane.database.read() as tx, closing(read_streams(tx, "run.", app.environment)) as streams:
        for stream in streams:
            first, last = stream.records[0].event, stream.records[-1].event
            if isinstance(first, RunCreated) and first.task_id == task.id and isinstance(last, RunSucceeded):
                found.append((first.payload, last.result))
    return found
