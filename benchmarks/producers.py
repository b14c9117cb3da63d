"""Processes that trigger at a given rate."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.places import Place

#: Runs are triggered together so many seconds apart; each counts as sent when its turn was, however late the call.
_SLICE = 0.01


def produce(ready: Any, place: Place, task_id: str, rate: float, runs: int) -> None:
    """Trigger `runs` runs at `rate` a second; their payloads say when each was to be sent, in monotonic nanoseconds."""
    with place.app() as app:
        task = app.registry.tasks[task_id]
        ready()
        began = time.monotonic()
        sent = 0
        while sent < runs:
            time.sleep(max(0.0, began + (sent / rate) + _SLICE - time.monotonic()))
            due = min(runs, max(sent + 1, int((time.monotonic() - began) * rate)))
            app.trigger_many(task, [round((began + number / rate) * 1e9) for number in range(sent, due)])
            sent = due
