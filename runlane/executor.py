"""Calling handlers: ``def`` ones on threads that become more while they block, ``async def`` ones on one event loop.

What a handler does becomes an ``Outcome``; nothing it raises gets further than here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from runlane import jsontext, payloads
from runlane.context import Context, Release, current
from runlane.deadlines import Deadlines
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.errors import AttemptTimeout, ErrorCode, OperationCancelled, PayloadInvalid, RunlaneError, TaskFailed
from runlane.projections.runs import Run
from runlane.tasks import Task
from runlane.values import Failure, storable

log = logging.getLogger("runlane.executor")

#: A handler that takes longer than this is held to block; seconds.
_BLOCKS = 0.0005
#: No execution begun for so long while some wait: all threads are blocked; seconds.
_STALLED = 0.01
_TRACEBACK_LIMIT = 16_384
#: Seconds that a coroutine gets to clean up after Ctrl-C, before its run is given back whatever it does.
_CLEAN_UP = 5.0


class Execution:
    """One attempt under way.

    `ended` says that it has an outcome, `lingers` that its handler is still inside although its time was over;
    `overdue` is the outcome it got by that.  `interrupt` is Ctrl-C, where the handler had the program's main thread.
    """

    __slots__ = ("cancel", "context", "ended", "interrupt", "lingers", "overdue", "run", "task")

    def __init__(self, run: Run, task: Task[..., Any]) -> None:
        lease = run.lease
        if lease is None:
            raise ValueError("only a leased run can be executed")
        self.run = run
        self.task = task
        self.ended = self.lingers = False
        self.overdue: Outcome | None = None
        self.interrupt: KeyboardInterrupt | None = None
        self.cancel: Callable[[], object] | None = None
        self.context = Context(run, lease.attempt, lease.worker_id)

    def arguments(self) -> tuple[Any, ...]:
        """What the handler is called with: the payload, fitted to today's type, and the context."""
        return (self.task.payload.from_json(self.run.payload), self.context)[: self.task.arity]


Done = Callable[[Execution, Outcome], None]


class Executor:
    """Runs executions and reports each outcome to `done`, from whatever thread it ended on.

    An attempt that takes longer than its task's timeout is reported when its time is over, as failed, and its handler
    told to stop; when that comes back, `done` is called a second time, with an outcome that is not to be used.

    Args:
        concurrency: the greatest number of threads for ``def`` handlers.
        redact: store "Task failed." instead of the message of unknown exceptions, and no traceback.
    """

    def __init__(self, concurrency: int, done: Done, redact: bool = False) -> None:
        self._done = done
        self._redact = redact
        self._threads = _Threads(concurrency, self._run)
        self._loop = LoopThread()
        self._deadlines: Deadlines[Execution] = Deadlines(self._expire, self._tell)

    def submit(self, executions: Sequence[Execution]) -> None:
        """Begin to execute them; returns at once."""
        later = [execution for execution in executions if execution.task.is_async]
        if later:
            self._loop.call(self._start, later)
        now = [execution for execution in executions if not execution.task.is_async]
        if now:
            self._threads.submit(now)

    def relieve(self) -> bool:
        """Add threads if all of them are blocked while executions wait; whether some wait, so call again soon."""
        return self._threads.relieve()

    def execute(self, execution: Execution) -> Outcome:
        """Execute in this thread, whichever kind the handler is.

        The caller waits for the handler even when its time is over; the outcome is the timeout's then.
        """
        if not execution.task.is_async:
            outcome = self._attempt(execution)
        else:
            try:
                outcome = self._loop.run(self._attempt_async(execution))
            except KeyboardInterrupt as error:
                outcome = self._interrupted(execution, error)
        return execution.overdue or outcome

    def close(self) -> None:
        """Let the threads and the loop end; those inside a handler end with it."""
        self._deadlines.close()
        self._threads.close()
        self._loop.close()

    def _run(self, execution: Execution) -> None:
        self._done(execution, self._attempt(execution))

    def _start(self, executions: Sequence[Execution]) -> None:
        for execution in executions:
            self._loop.spawn(self._run_async(execution))

    async def _run_async(self, execution: Execution) -> None:
        self._done(execution, await self._attempt_async(execution))

    def _attempt(self, execution: Execution) -> Outcome:
        token = current.set(execution.context)
        try:
            self._begin(execution)
            return self._returned(execution, execution.task.function(*execution.arguments()))
        except BaseException as error:
            return self._raised(execution, error)
        finally:
            self._end(execution)
            current.reset(token)

    async def _attempt_async(self, execution: Execution) -> Outcome:
        current.set(execution.context)
        try:
            self._begin(execution, asyncio.current_task())
            return self._returned(execution, await execution.task.function(*execution.arguments()))
        except BaseException as error:
            return self._raised(execution, error)
        finally:
            self._end(execution)

    def _begin(self, execution: Execution, task: asyncio.Task[Any] | None = None) -> None:
        timeout = execution.task.timeout
        if timeout is None:
            return
        if task is not None:
            loop = task.get_loop()
            execution.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        self._deadlines.watch(execution, timeout.total_seconds())

    def _end(self, execution: Execution) -> None:
        timeout = execution.task.timeout
        if timeout is not None:
            self._deadlines.forget(execution, timeout.total_seconds())

    def _expire(self, execution: Execution) -> None:
        """Its time is over: that is its outcome, before the handler can hear of it and come to another one."""
        error = AttemptTimeout(f"the attempt took longer than {_seconds(execution.task)}")
        execution.overdue = Failed(failure_of(error, execution.task, self._redact))
        self._done(execution, execution.overdue)

    @staticmethod
    def _tell(execution: Execution) -> None:
        execution.context.log.warning(
            "attempt %d of run %s took longer than %s: it has failed, and its handler is told to stop",
            execution.context.attempt,
            execution.run.id,
            _seconds(execution.task),
        )
        execution.context.signal.set("attempt_timeout")
        if execution.cancel is not None:
            with suppress(RuntimeError):  # the loop was closed meanwhile, and the handler with it
                execution.cancel()

    def _returned(self, execution: Execution, value: Any) -> Outcome:
        if isinstance(value, Release):
            return Released(value.delay, value.run_at, value.reason, value.meta)
        if execution.context.released is not None:
            execution.context.log.warning("a release was made but not returned; it has no effect")
        if value is None:
            return _NOTHING
        try:
            return Succeeded(payloads.result_to_json(value))
        except Exception as error:
            reason = str(error) if isinstance(error, jsontext.JsonInvalid) else f"the result is no JSON: {error}"
            return Failed(Failure(ErrorCode.TASK_FAILED, storable(reason), False, type(error).__name__))

    @staticmethod
    def _interrupted(execution: Execution, error: KeyboardInterrupt) -> Outcome:
        """Ctrl-C is the program's to answer, and nothing that the handler did wrong."""
        execution.context.signal.set("worker_stopping")
        execution.interrupt = error
        return Interrupted("keyboard_interrupt")

    def _raised(self, execution: Execution, error: BaseException) -> Outcome:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            return self._interrupted(execution, error)
        reason = execution.context.signal.reason
        if reason is not None and isinstance(error, (OperationCancelled, asyncio.CancelledError)):
            return Interrupted(reason)
        return Failed(failure_of(error, execution.task, self._redact))


_NOTHING = Succeeded()


def _seconds(task: Task[..., Any]) -> str:
    return "" if task.timeout is None else f"{task.timeout.total_seconds():g} s"


def failure_of(error: BaseException, task: Task[..., Any], redact: bool) -> Failure:
    """What is stored of an exception that a handler raised."""
    if isinstance(error, PayloadInvalid):
        return Failure(error.code, storable(str(error)), False, type(error).__name__)
    known = isinstance(error, RunlaneError)
    code = error.code if isinstance(error, RunlaneError) else ErrorCode.TASK_FAILED
    retryable = error.retryable if isinstance(error, RunlaneError) else True
    meta: dict[str, Any] = {}
    if isinstance(error, RunlaneError) and error.meta:
        try:
            jsontext.encode(error.meta, "meta")
            meta = error.meta
        except jsontext.JsonInvalid:
            log.warning("the meta of a %s is no JSON and was left out", type(error).__name__)
    if redact and (not known or isinstance(error, TaskFailed)):
        return Failure(code, "Task failed.", retryable and task.retry.retries(error), None, None, {})
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return Failure(
        code,
        storable(_text(error)),
        retryable and task.retry.retries(error),
        type(error).__qualname__,
        None if redact else storable("".join(lines), _TRACEBACK_LIMIT),
        meta,
    )


def _text(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # a __str__ of the user's that raises
        return type(error).__name__


class _Threads:
    """Threads for ``def`` handlers.  Few while handlers are quick, as more would only fight for the GIL; as many as
    there are executions once handlers block."""

    def __init__(self, limit: int, work: Callable[[Execution], None]) -> None:
        self._limit = limit
        self._work = work
        self._queue: SimpleQueue[Execution | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._size = 0
        self._slow = 0.0  # moving share of handlers that blocked
        self._taken = 0
        self._seen = (-1, 0.0)  # how many were taken when, at the last look
        self._closed = False

    def submit(self, executions: Sequence[Execution]) -> None:
        for execution in executions:
            self._queue.put(execution)
        if self._size == 0:
            self._grow(1)
        if self._slow > 0.5:
            self._grow(self._queue.qsize())

    def relieve(self) -> bool:
        waiting = self._queue.qsize()
        now, (seen, at) = perf_counter(), self._seen
        if self._taken != seen:
            self._seen = (self._taken, now)
        elif waiting and now - at > _STALLED:
            self._grow(min(waiting, 4 * self._size))
            self._seen = (seen, now)
        return waiting > 0

    def close(self) -> None:
        self._closed = True
        for _ in range(self._size):
            self._queue.put(None)

    def _grow(self, by: int) -> None:
        with self._lock:
            for _ in range(min(by, self._limit - self._size)):
                self._size += 1
                # Daemons: a handler that ignores its signal must not keep the process from ending.
                threading.Thread(target=self._loop, name=f"runlane-handler-{self._size}", daemon=True).start()

    def _loop(self) -> None:
        while not self._closed:
            execution = self._queue.get()
            if execution is None:
                return
            self._taken += 1
            started = perf_counter()
            self._work(execution)
            self._slow += (0.05 if perf_counter() - started > _BLOCKS else 0.0) - 0.05 * self._slow


class LoopThread:
    """One event loop on a thread of its own, started when the first ``async def`` handler needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Call `function` on the loop."""
        self._started().call_soon_threadsafe(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a coroutine; only on the loop."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    def run(self, coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Run a coroutine to its end, from another thread."""
        ended = threading.Event()

        async def whole() -> Outcome:
            try:
                return await coroutine
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(whole(), self._started())
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(_CLEAN_UP)
            raise

    def close(self) -> None:
        """Cancel what still runs and end the loop."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._finish, loop)

    def _finish(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in list(self._tasks):
            task.cancel()
        loop.call_later(0.05, loop.stop)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._main, args=(self._loop,), name="runlane-loop", daemon=True).start()
            return self._loop

    @staticmethod
    def _main(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()
