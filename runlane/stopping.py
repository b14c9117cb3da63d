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


#: Of each block that is under way our handler, and by signal what was there before.
_ours: list[tuple[Any, dict[int, Any]]] = []


def _give_back() -> None:
    """In a child that a handler has forked, signals are what they were before.

    Our own handler, if it were left there, would be called by Python: a signal that comes as the child goes into a
    system call would have to wait for its end.
    """
    for handle, before in reversed(_ours):
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler or signal.SIG_DFL)
    _ours.clear()


os.register_at_fork(after_in_child=_give_back)


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
        if os.getpid() != ours:  # in the middle of a fork
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
    _ours.append((handle, before))
    try:
        yield
    finally:
        _ours[:] = [one for one in _ours if one[0] is not handle]
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_heeding_signals(over: threading.Event) -> None:
    """Wait for an event in the main thread, in which Python calls the handlers of signals.

    The kernel hands a signal to any thread, and not to the main one if that is stopped (SIGSTOP, a container that is
    frozen) as the signal comes.  Nothing would wake the main thread from a wait without a limit then.
    """
    while not over.wait(LOOK):
        pass
