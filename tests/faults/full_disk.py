"""What has to happen on a disk that fills up under a working program, and has room again later; for any such disk."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from runlane import Context, Runlane, RunNotFound, StorageUnavailable, task
from runlane.values import new_run_id
from tests.support import eventually

#: Sizes of payloads, so that in the end not even a small one finds room.
_SIZES = (200_000, 20_000, 1_000, 10)
#: More triggers of one size than any of these disks takes.
_ENOUGH = 2_000


def check_full_disk(url: str, fill: Callable[[], None], free: Callable[[], None]) -> None:
    """Fill the disk below an application with a worker, in the middle of an attempt; then make room, and go on.

    Args:
        url: a migrated database, or a file to be.
        fill: leaves no room on its disk.
        free: gives the room back.
    """
    began, may_end = threading.Event(), threading.Event()

    @task("disk.echo")
    def echo(payload: str) -> int:
        return len(payload)

    @task("disk.held")
    def held(payload: str, context: Context) -> str:
        began.set()
        may_end.wait(30)
        return payload

    with Runlane(url, tasks=[echo, held], heartbeat="200ms") as app, _working(app):
        acknowledged = [app.trigger(held, "held").run.id]
        eventually(began.is_set, "the attempt that the disk fills under")
        fill()
        refused = [_trigger_until_refused(app, echo, size, acknowledged) for size in _SIZES]
        may_end.set()  # its outcome finds no room either
        refused += [one for _ in range(3) if (one := _trigger(app, echo, 10, acknowledged)) is not None]
        for run_id in refused:
            with pytest.raises(RunNotFound):
                app.runs.get(run_id)
        assert sum(app.runs.count().values()) == len(acknowledged)
        assert app.audit.verify().identical
        free()
        acknowledged.append(app.trigger(echo, "again", run_id=refused[0]).run.id)
        eventually(lambda: not any(status.is_active for status in app.runs.count()), "everything being executed")
        assert app.runs.count() == {"succeeded": len(acknowledged)}
        assert {app.runs.get(run_id).attempt_count for run_id in acknowledged} == {1}, "nothing was lost on the way"
        assert app.audit.verify().identical


@contextmanager
def _working(app: Runlane) -> Any:
    """A worker that is never started again, and does not end by itself."""
    worker = app.worker(concurrency=4, poll_interval=0.05, maintenance_interval=0.05)
    worker.start()
    yield
    worker.stop()


def _trigger_until_refused(app: Runlane, task: Any, size: int, acknowledged: list[UUID]) -> UUID:
    """Trigger until there is no room for a payload of this size; the id of the run that was not made."""
    for _ in range(_ENOUGH):
        if (refused := _trigger(app, task, size, acknowledged)) is not None:
            return refused
    raise AssertionError(f"{_ENOUGH} payloads of {size} bytes found room")


def _trigger(app: Runlane, task: Any, size: int, acknowledged: list[UUID]) -> UUID | None:
    """Trigger once; the id of the run if it was refused, with the one clear error."""
    run_id = new_run_id()
    try:
        app.trigger(task, random.randbytes(size // 2).hex(), run_id=run_id)
    except StorageUnavailable as error:
        assert "No space left on device" in error.message or "is full: no space left on the device" in error.message
        assert error.code == "storage_unavailable"
        assert error.retryable
        assert "outcome" not in error.meta, "it is known that nothing was written"
        return run_id
    acknowledged.append(run_id)
    return None
