"""One event loop on a thread of its own, for ``async def`` handlers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakSet

log = logging.getLogger("runlane.executor")

T = TypeVar("T")

#: Seconds that a coroutine gets to clean up after Ctrl-C, before its run is given back whatever it does.
_CLEAN_UP = 5.0
#: Seconds that handlers get to clean up when the loop ends.
_MOMENT = 0.05


#: The loops that are made here and run.
_OURS: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def _is_on_a_loop_of_ours() -> bool:
    try:
        return asyncio.get_running_loop() in _OURS
    except RuntimeError:
        return False


class LoopThread:
    """One event loop on a thread of its own, started when the first ``async def`` handler needs it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()  # of this loop: it is to run no more
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: list[tuple[asyncio.AbstractEventLoop, Future[Any]]] = []
        self._others: list[LoopThread] = []

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Call `function` on the loop."""
        with self._lock:  # so that it is on the loop before its end is
            self._started().call_soon_threadsafe(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a coroutine, in a context of its own; only on the loop."""
        # Whoever spawns may be another run's handler that has just ended: its context variables are not to be seen.
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, from another thread.

        A handler that asks blocks its loop, and that may be this one, or one that blocks this one: then the coroutine
        has a loop of its own.

        Raises:
            CancelledError: of ``concurrent.futures``; the loop has ended before it.
        """
        if not _is_on_a_loop_of_ours():
            return self._run(coroutine)
        other = LoopThread()
        with self._lock:
            self._others.append(other)
        try:
            return other._run(coroutine)
        finally:
            with self._lock:
                self._others.remove(other)
            other.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        ended = threading.Event()

        async def whole() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        with self._lock:
            try:
                loop = self._started()
            except BaseException:
                coroutine.close()  # nobody will await it
                raise
            future = asyncio.run_coroutine_threadsafe(whole(), loop)
            self._awaited.append((loop, future))
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(_CLEAN_UP)
            raise
        finally:
            self._awaited.remove((loop, future))

    def close(self) -> None:
        """Cancel what still runs and end the loop."""
        with self._lock:
            loop, self._loop = self._loop, None
            ended, others = self._ended, list(self._others)
        for other in others:
            other.close()
        if loop is not None:
            with suppress(RuntimeError):  # it is closed already, as by a handler
                loop.call_soon_threadsafe(self._finish, loop, ended)

    def _finish(self, loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_later(_MOMENT, self._end, loop, ended)

    @staticmethod
    def _end(loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
        ended.set()
        loop.stop()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop, ended = asyncio.new_event_loop(), threading.Event()
                try:
                    threading.Thread(target=self._main, args=(loop, ended), name="runlane-loop", daemon=True).start()
                except RuntimeError:  # the system allows no more of them at present
                    loop.close()
                    raise
                self._loop, self._ended = loop, ended
            return self._loop

    def _main(self, loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        _OURS.add(loop)
        try:
            while not ended.is_set():
                # A handler's child task that raises SystemExit or KeyboardInterrupt ends it, and so does loop.stop():
                # the other handlers have nothing to do with that.
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    log.exception("the event loop of handlers goes on after what one of their tasks has raised")
                else:
                    if not ended.is_set():
                        log.warning("a handler has stopped the event loop of handlers, which goes on")
        except Exception:  # as when a handler has closed its files: to go on would fail again, and again
            log.exception("the event loop of handlers is broken; the next handler gets another one")
        finally:
            self._part_with(loop)

    def _part_with(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._loop is loop:
                self._loop = None
            awaited = [future for mine, future in self._awaited if mine is loop]
        for future in awaited:
            future.cancel()  # or whoever waits for it would for ever
        loop.close()
