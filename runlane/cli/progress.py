"""A progress bar while a drain runs, on a terminal only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from runlane.app import Runlane
from runlane.cli.show import console
from runlane.worker import Worker

_REFRESH = 0.1  # seconds


@contextmanager
def drain_progress(app: Runlane, worker: Worker) -> Iterator[None]:
    """Show how far `worker` is with the runs that wait in `app`."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    waiting = sum(count for status, count in app.runs.count().items() if status.is_active)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("draining"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} attempts, {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
    )
    with moving(bar, waiting, worker):
        yield


@contextmanager
def moving(bar: Progress, total: int, worker: Worker) -> Iterator[None]:
    """Move `bar` along with `worker`, from a thread of its own; retries and releases make it longer."""
    done = threading.Event()
    shown = bar.add_task("", total=total, rate=0.0)

    def follow() -> None:
        before, rate = 0, 0.0
        while not done.wait(_REFRESH):
            now = worker.completed
            rate += 0.2 * ((now - before) / _REFRESH - rate)
            before = now
            bar.update(shown, completed=now, total=max(total, now), rate=rate)

    thread = threading.Thread(target=follow, name="runlane-progress", daemon=True)
    with bar:
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
