"""Signals are heeded whichever thread of the process gets them: while all are stopped, that is not always the main one.

Python calls handlers in the main thread alone, and another thread's signal does not end a wait without a limit there.
"""

from __future__ import annotations

import signal
import threading

import pytest

from runlane import Runlane, task
from runlane.cli.dev_worker import _Stop
from runlane.stopping import wait_heeding_signals
from tests.support import signalled


@task("nothing")
def nothing() -> None:
    """Does nothing."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_stops(number: int) -> None:
    with Runlane("memory:", tasks=[nothing]) as app:
        worker = app.worker(poll_interval=0.1)
        run_id = app.trigger(nothing).run.id
        with signalled(number, lambda: worker.stop(0), lambda: worker.completed == 1):
            worker.run()
        assert worker.closed
        assert app.runs.get(run_id).status == "succeeded"


def test_the_process_behind_the_watcher_is_asked_to_stop() -> None:
    with _Stop(None).signals() as stop, signalled(signal.SIGTERM, lambda: stop(0, None), lambda: True):
        stop.wait()


def test_a_wait_ends_with_what_it_waits_for() -> None:
    over = threading.Event()
    threading.Timer(0.05, over.set).start()
    wait_heeding_signals(over)
    assert over.is_set()
