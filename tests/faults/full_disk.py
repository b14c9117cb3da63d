"""What has to happen on a disk that fills up under a working program, and has room again later; for any such disk.

``python -m tests.faults.full_disk FILE`` does it to a process of its own whose files may not grow.
"""

from __future__ import annotations

import random
import re
import resource
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
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
_NAMED = re.compile("No space left on device|is full: (no space left on the device|File too large|Disk quota exceeded)")


def check_full_disk(url: str, fill: Callable[[], None], free: Callable[[], None], *, goes_down: bool = False) -> None:
    """Fill the disk below an application with a worker, in the middle of an attempt; then make room, and go on.

    Args:
        url: a migrated database, or a file to be.
        fill: leaves no room on its disk.
        free: gives the room back.
        goes_down: whether the server does not outlive it, so that it can be asked nothing meanwhile, and an answer of
            it may be lost.
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
        told = _Told(app, echo, may_be_unknown=goes_down)
        told.acknowledged.append(app.trigger(held, "held").run.id)
        eventually(began.is_set, "the attempt that the disk fills under")
        fill()
        try:
            for size in _SIZES:
                told.trigger_until_refused(size)
            may_end.set()  # its outcome finds no room either
            for _ in range(3):
                told.trigger(10)
            if not goes_down:
                told.judge()
        finally:
            may_end.set()
            free()
        eventually(lambda: told.trigger(10), "a trigger that finds room, by the same application")
        eventually(lambda: not any(status.is_active for status in app.runs.count()), "everything being executed")
        told.judge()
        assert set(app.runs.count()) == {"succeeded"}
        losses = {app.runs.get(run_id).lost_count for run_id in told.acknowledged}
        assert losses == {0}, "the worker kept what it held"


class _Told:
    """What a program has been told about the runs that it asked for."""

    def __init__(self, app: Runlane, task: Any, may_be_unknown: bool) -> None:
        self._app = app
        self._task = task
        self._may_be_unknown = may_be_unknown
        self.acknowledged: list[UUID] = []
        self.refused: dict[UUID, StorageUnavailable] = {}
        self.unknown: dict[UUID, StorageUnavailable] = {}

    def trigger_until_refused(self, size: int) -> None:
        """Trigger until there is no room for a payload of this size."""
        for _ in range(_ENOUGH):
            if not self.trigger(size):
                return
        raise AssertionError(f"{_ENOUGH} payloads of {size} bytes found room")

    def trigger(self, size: int) -> bool:
        """Trigger once; whether there was room."""
        run_id = new_run_id()
        try:
            self._app.trigger(self._task, random.randbytes(size // 2).hex(), run_id=run_id)
        except StorageUnavailable as error:
            (self.unknown if error.meta.get("outcome") == "unknown" else self.refused)[run_id] = error
            return False
        self.acknowledged.append(run_id)
        return True

    def judge(self) -> None:
        """What was acknowledged is there, what was refused with one clear error is not, and nothing else is."""
        assert self.refused or self.unknown
        for error in [*self.refused.values(), *self.unknown.values()]:
            assert error.code == "storage_unavailable"
            assert error.retryable
        if not self._may_be_unknown:
            assert not self.unknown, "it is known that nothing was written"
            for error in self.refused.values():
                assert _NAMED.search(error.message), error.message
        for run_id in self.refused:
            with pytest.raises(RunNotFound):
                self._app.runs.get(run_id)
        there = {run_id for run_id in self.unknown if _exists(self._app, run_id)} | set(self.acknowledged)
        assert all(_exists(self._app, run_id) for run_id in there)
        assert sum(self._app.runs.count().values()) == len(there)
        assert self._app.audit.verify().identical


def _exists(app: Runlane, run_id: UUID) -> bool:
    with suppress(RunNotFound):
        return app.runs.get(run_id).id == run_id
    return False


@contextmanager
def _working(app: Runlane) -> Any:
    """A worker that is never started again, and does not end by itself."""
    worker = app.worker(concurrency=4, poll_interval=0.05, maintenance_interval=0.05)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def check_limited_file(file: Path) -> None:
    """The same in a process that may not write beyond the end that the write-ahead log of a SQLite file has now."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

    check_full_disk(f"sqlite:///{file}", lambda: limit(Path(f"{file}-wal").stat().st_size), lambda: limit(most))


if __name__ == "__main__":
    check_limited_file(Path(sys.argv[1]))
