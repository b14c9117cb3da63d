"""Signals are heeded whichever thread of the process gets them: while all are stopped, that is not always the main one.

Python calls handlers in the main thread alone, and another thread's signal does not end a wait without a limit there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
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


#: A handler forks a process and ends it; a process of its own, as it is about the main thread.
FORKS = """
import multiprocessing, signal, time
from runlane import Runlane, task

def sleeps(up, by_default):
    # Where Python called a handler, a signal on the way into the sleep would wait for its end.
    by_default.value = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    up.set()
    time.sleep(60)

@task("forks")
def forks():
    fork = multiprocessing.get_context("fork")
    up, by_default = fork.Event(), fork.Value("b", False)
    child = fork.Process(target=sleeps, args=(up, by_default), daemon=True)
    child.start()
    up.wait(20)  # a signal in the middle of a fork is lost
    child.terminate()
    child.join(20)
    code = child.exitcode
    child.kill()
    return [code, bool(by_default.value)]

with Runlane("memory:", tasks=[forks]) as app:
    run = app.trigger(forks).run
    app.worker("drain").run()
    print(app.runs.get(run.id).result)
"""


def test_a_process_that_a_handler_has_forked_ends_by_its_signal() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"[{-signal.SIGTERM}, True]\n")
