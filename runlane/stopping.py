"""Stopping on signals: gracefully at the first, at once at the second."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger("runlane.worker")
#: Seconds after which a signal is heeded that came to another thread.
LOOK = 0.25


@contextmanager
def stopped_by_signals(gracefully: Callable[[], object], at_once: Callable[[], object]) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM call `gracefully` the first time and `at_once` from then on, on a thread.

    Signals are heeded only in the main thread; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before_this, ours = 0, os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal before_this
        if os.getpid() != ours:  # a child that a handler has forked
            signal.signal(number, before[number] or signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # Counted first: another signal may interrupt this very function.
        asked, before_this = before_this, before_this + 1
        name = signal.Signals(number).name
        if asked:
            log.warning("%s again: stopping at once", name)
        else:
            log.warning("%s: stopping gracefully; once more to stop at once", name)
        # Not here: a signal handler must not wait for locks that the thread it interrupts may hold.
        threading.Thread(target=at_once if asked else gracefully, name="runlane-stop", daemon=True).start()

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_heeding_signals(over: threading.Event) -> None:
    """Wait for an event in the main thread, in which Python calls the handlers of signals.

    The kernel hands a signal to any thread, and not to the main one if that is stopped (SIGSTOP, a container that is
    frozen) as the signal comes.  Nothing would wake the main thread from a wait without a limit then.
    """
    while not over.wait(LOOK):
        pass
