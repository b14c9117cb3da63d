"""Ctrl-C while a handler has the program's main thread: the run is queued again, and the program hears of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runlane import Runlane, RunStatus, task
from tests.support import PATIENCE, types_of

Make = Callable[..., Runlane]


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.mark.parametrize("call", ["run_now", "execute_next"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_run_is_given_back_and_the_program_is_interrupted(make_app: Make, call: str, kind: str) -> None:
    first = threading.Event()

    @task("slow")
    def slow(payload: Any) -> str:
        if not first.is_set():
            first.set()
            press_ctrl_c()
            threading.Event().wait(PATIENCE)
        return "done"

    @task("slow.async")
    async def slow_async(payload: Any) -> str:
        import asyncio

        if not first.is_set():
            first.set()
            press_ctrl_c()
            await asyncio.sleep(PATIENCE)
        return "done"

    used = slow if kind == "def" else slow_async
    app = make_app(used)
    if call == "execute_next":
        app.trigger(used)
    execute = {"run_now": lambda: app.run_now(used), "execute_next": app.execute_next}[call]
    with pytest.raises(KeyboardInterrupt):
        execute()
    (run,) = app.runs.list().data
    assert (run.status, run.failure_count) == (RunStatus.QUEUED, 0)
    assert types_of(app, run.id)[-1] == "RunInterrupted"
    assert app.execute_next().result == "done"


def test_elsewhere_it_is_a_failure_like_any_other(make_app: Make) -> None:
    @task("raises")
    def raises() -> None:
        raise KeyboardInterrupt

    app = make_app(raises)
    run = app.trigger(raises).run
    app.worker("drain").run()
    assert app.runs.get(run.id).failure.exception_type == "KeyboardInterrupt"
