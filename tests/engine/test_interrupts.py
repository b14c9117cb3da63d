"""Ctrl-C while a handler has the program's main thread: the run is queued again, and the program hears of it.

And what of that kind the child tasks of ``async def`` handlers raise, which ends an event loop.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runlane import Runlane, RunStatus, task
from tests.engine.tasks import echo_async
from tests.support import PATIENCE

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


async def exits() -> None:
    raise SystemExit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    raise ValueError("stopped")


@pytest.mark.parametrize(
    ("child", "kind"), [(exits, "SystemExit"), (interrupts, "KeyboardInterrupt"), (stops_the_loop, "ValueError")]
)
@pytest.mark.parametrize("together", [False, True])
def test_what_ends_the_event_loop_of_handlers_ends_no_worker(
    child: Callable[[], Coroutine[Any, Any, None]], kind: str, together: bool
) -> None:
    @task("async def")
    async def mother() -> None:
        if together:
            await asyncio.gather(child(), asyncio.sleep(0))
        else:
            await asyncio.create_task(child())

    with Runlane("memory:", tasks=[mother, echo_async]) as app:
        failed, well = app.trigger(mother).run, app.trigger(echo_async, 1).run
        worker = app.worker("drain", maintenance=False)
        worker.start()
        over = worker.wait(PATIENCE)
        if not over:
            app._workers.clear()  # it would wait for ever to close
        assert over
        assert app.runs.get(failed.id).failure.exception_type == kind
        assert app.runs.get(well.id).result == 1


@pytest.mark.parametrize("child", [exits, stops_the_loop])
def test_nor_a_caller_that_executes(child: Callable[[], Coroutine[Any, Any, None]]) -> None:
    @task("async def")
    async def mother() -> None:
        await asyncio.create_task(child())

    with Runlane("memory:", tasks=[mother]) as app:
        done: list[RunStatus] = []
        caller = threading.Thread(target=lambda: done.append(app.run_now(mother).run.status), daemon=True)
        caller.start()
        caller.join(PATIENCE)
        assert done == [RunStatus.FAILED]


def test_a_broken_event_loop_is_replaced() -> None:
    @task("breaks")
    async def breaks() -> None:
        loop = asyncio.get_running_loop()
        loop._run_once = None  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    with Runlane("memory:", tasks=[breaks, echo_async]) as app:
        done: list[RunStatus] = []
        caller = threading.Thread(target=lambda: done.append(app.run_now(breaks).run.status), daemon=True)
        caller.start()
        caller.join(PATIENCE)
        assert done == [RunStatus.QUEUED]
        assert app.run_now(echo_async, 1).run.result == 1


#: A child of a program that has a worker under way; a process of its own, as a fork copies all that the tests have.
FORKS = """
import os, signal, sys
from runlane import InternalError, Runlane

app = Runlane(sys.argv[1]).start()
worker = app.worker()
worker.start()
child = os.fork()
if not child:
    signal.alarm(20)  # it must not outlive the test
    for use in (worker.stop, worker.wait, worker.run):
        try:
            use()
        except InternalError:
            print("refused", flush=True)
    app.close()
    print("left alone", flush=True)
    os._exit(0)
status = os.waitpid(child, 0)[1]
running = not worker.wait(0)
app.close()
print(status, running, worker.closed)
"""


#: Children of a program that uses a lane, and has closed it.
CARRIES = """
import os, signal, sys
from runlane import InternalError, Runlane, task
from runlane.lanes import lane_of

@task("t")
def t(payload): ...

def child(lane):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    signal.alarm(20)
    apps = [Runlane(lane, tasks=[t]) for _ in range(2)]
    try:
        print(*[app.trigger(t, 1).outcome for app in apps], flush=True)
    except InternalError as error:
        print(error, flush=True)
    for app in apps:
        app.close()
    os._exit(0)

lane = lane_of(sys.argv[1])
app = Runlane(lane, tasks=[t]).start()
app.trigger(t, 1)
assert child(lane) == 0
app.trigger(t, 1)
app.close()
assert child(lane) == 0
"""


def test_a_forked_child_touches_no_connection_of_its_parent(shared_url: str) -> None:
    done = subprocess.run([sys.executable, "-c", CARRIES, shared_url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["a Lane that is open must not be carried over a fork; create it in the child process", "created created"],
    )


def test_a_forked_child_waits_for_no_thread_of_its_parent(lane_url: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, lane_url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()) == (0, [*3 * ["refused"], "left alone", "0 True True"])
