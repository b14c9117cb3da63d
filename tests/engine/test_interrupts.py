"""Ctrl-C while a handler has the program's main thread: the run is queued again, and the program hears of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from runlane import Runlane, task

Make = Callable[..., Runlane]
#: A program that presses Ctrl-C on itself in its first attempt; a process of its own, as it is about the main thread.
PROGRAM = """
import asyncio, signal, sys, threading
from runlane import Runlane, task

first = threading.Event()
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored

def press():
    first.set()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

@task("def")
def slow() -> str:
    if not first.is_set():
        press()
        threading.Event().wait(20)
    return "done"

@task("async def")
async def slow_async() -> str:
    if not first.is_set():
        press()
        await asyncio.sleep(20)
    return "done"

used = {"def": slow, "async def": slow_async}[sys.argv[1]]
with Runlane("memory:", tasks=[used]) as app:
    try:
        if sys.argv[2] == "run_now":
            app.run_now(used)
        else:
            app.trigger(used)
            app.execute_next()
    except KeyboardInterrupt:
        (run,) = app.runs.list().data
        told = [type(record.event).__name__ for record in app.runs.events(run.id)]
        print(run.status, run.failure_count, told[-1], app.execute_next().result, app.audit.verify().identical)
"""


@pytest.mark.parametrize("call", ["run_now", "execute_next"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_run_is_given_back_and_the_program_is_interrupted(call: str, kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind, call], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["queued", "0", "RunInterrupted", "done", "True"]


def test_elsewhere_it_is_a_failure_like_any_other(make_app: Make) -> None:
    @task("raises")
    def raises() -> None:
        raise KeyboardInterrupt

    app = make_app(raises)
    run = app.trigger(raises).run
    app.worker("drain").run()
    assert app.runs.get(run.id).failure.exception_type == "KeyboardInterrupt"
