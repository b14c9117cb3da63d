"""Calling handlers: ``def`` ones on threads that become more while they block, ``async def`` ones on one event loop.

What a handler does becomes an ``Outcome``; nothing it raises gets further than here.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from datetime import timedelta
from typing import Any

from runlane import jsontext, payloads
from runlane.context import Context, Release, checked, current
from runlane.deadlines import Deadlines
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.errors import AttemptTimeout, ErrorCode, OperationCancelled, PayloadInvalid, RunlaneError, TaskFailed
from runlane.loop import LoopThread
from runlane.payload_codec import KeyUnavailable, Part
from runlane.projections.runs import Run
from runlane.ready import Ready
from runlane.shown import told, words_of
from runlane.tasks import Task
from runlane.threads import Threads
from runlane.values import Failure, storable

log = logging.getLogger("runlane.executor")

_TRACEBACK_LIMIT = 16_384
_LONGEST_NAME = 255


#: Encodes a part of what an attempt comes to.
Seal = Callable[[Part, Any], Any]
#: For how long a run is left alone whose payload's key is not in this process.
KEY_PAUSE = timedelta(minutes=1)


class Execution:
    """One attempt under way.

    `ended` says that it has an outcome, `lingers` that its handler is still inside although its time was over;
    `overdue` is the outcome it got by that.  `interrupt` is Ctrl-C, where the handler had the program's main thread.
    `seal` encodes what it comes to; `problem` is why its payload cannot be decoded, so that its handler is not called.
    """

    __slots__ = ("cancel", "context", "ended", "interrupt", "lingers", "overdue", "problem", "run", "seal", "task")

    def __init__(
        self, run: Run, task: Task[..., Any], seal: Seal | None = None, problem: RunlaneError | None = None
    ) -> None:
        lease = run.lease
        if lease is None:
            raise ValueError("only a leased run can be executed")
        self.run = run
        self.task = task
        self.seal = seal
        self.problem = problem
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
        concurrency: the greatest number of handlers inside at once; who comes while they are all there is ready, and
            begins as soon as one of them comes back.
        redact: store "Task failed." instead of the message of unknown exceptions, and no traceback.
        look: called with an execution before its handler is, to withdraw what must not begin any more.
    """

    def __init__(
        self, concurrency: int, done: Done, redact: bool = False, look: Callable[[Execution], object] = lambda _: None
    ) -> None:
        self._done = done
        self._look = look
        self._redact = redact
        #: Who is inside, and who is ready.
        self.ready: Ready[Execution] = Ready(concurrency)
        self._threads: Threads[Execution] = Threads(concurrency, self._run)
        self._loop = LoopThread()
        self._deadlines: Deadlines[Execution] = Deadlines(self._expire, self._tell)

    def admit(self, executions: Iterable[Execution]) -> list[Execution]:
        """Let them wait for slots; those that have one, to be passed to ``call``."""
        return self.ready.admit(executions)

    def call(self, executions: Sequence[Execution]) -> None:
        """Execute those that have a slot; returns at once."""
        later = [execution for execution in executions if execution.task.is_async]
        if later:
            self._loop.call(self._start, later)
        now = [execution for execution in executions if not execution.task.is_async]
        if now:
            self._threads.submit(now)

    def withdraw(self, executions: Iterable[Execution]) -> list[Execution]:
        """Those of them whose handlers have not been called; now they never are, and nothing is reported of them."""
        return self.ready.withdraw(executions)

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
            except CancelledError:  # the runtime was closed, and this handler did not end with it
                outcome = Interrupted("worker_stopping")
        return execution.overdue or outcome

    def close(self) -> None:
        """Let the threads and the loop end; those inside a handler end with it."""
        self._deadlines.close()
        self._threads.close()
        self._loop.close()

    def _run(self, execution: Execution) -> Execution | None:
        """On a thread; the execution that has the slot next, if a thread is what it needs."""
        self._look(execution)
        if self.ready.begin(execution):
            # Threads go from run to run: what one of them leaves in context variables is not the next one's.
            self._done(execution, contextvars.Context().run(self._attempt, execution))
        following = self.ready.leave(execution)
        if following is None or not following.task.is_async:
            return following
        self._loop.call(self._start, [following])
        return None

    def _start(self, executions: Sequence[Execution]) -> None:
        for execution in executions:
            self._loop.spawn(self._run_async(execution))

    async def _run_async(self, execution: Execution) -> None:
        """On the loop."""
        self._look(execution)
        outcome = await self._attempt_async(execution) if self.ready.begin(execution) else None
        following = self.ready.leave(execution)
        if following is not None:
            if following.task.is_async:
                self._loop.spawn(self._run_async(following))
            else:
                self._threads.submit([following])
        if outcome is not None:
            self._done(execution, outcome)

    def _attempt(self, execution: Execution) -> Outcome:
        if execution.problem is not None:
            return _locked(execution, execution.problem)
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
        if execution.problem is not None:
            return _locked(execution, execution.problem)
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
        seal = execution.seal
        if isinstance(value, Release):
            asked = checked(value)
            meta = asked.meta if seal is None else seal(Part.META, asked.meta)
            return Released(asked.delay, asked.run_at, asked.reason, meta)
        if execution.context.released is not None:
            execution.context.log.warning("a release was made but not returned; it has no effect")
        if value is None:
            return _NOTHING
        try:
            result = payloads.result_to_json(value)
        except Exception as error:
            known = isinstance(error, jsontext.JsonInvalid)
            reason = str(error) if known else f"the result is no JSON: {words_of(error)}"
            return Failed(Failure(ErrorCode.TASK_FAILED, storable(reason), False, _kind_of(error)))
        return Succeeded(result if seal is None else seal(Part.RESULT, result))

    @staticmethod
    def _interrupted(execution: Execution, error: KeyboardInterrupt) -> Outcome:
        """Ctrl-C is the program's to answer, and nothing that the handler did wrong."""
        execution.context.signal.set("worker_stopping")
        execution.interrupt = error
        return Interrupted("keyboard_interrupt")

    def _raised(self, execution: Execution, error: BaseException) -> Outcome:
        """What an exception comes to; whatever that is, the attempt ends by it, and the thread goes on."""
        try:
            return self._told(execution, error)
        except BaseException:
            log.warning("run %s: a handler has raised what cannot be described", execution.run.id)
            message = "Task failed." if self._redact else "the handler raised an exception that cannot be described"
            return Failed(Failure(ErrorCode.TASK_FAILED, message, True, None if self._redact else _kind_of(error)))

    def _told(self, execution: Execution, error: BaseException) -> Outcome:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            return self._interrupted(execution, error)
        reason = execution.context.signal.reason
        if reason is not None and _is_cancellation(error):
            return Interrupted(reason)
        return Failed(failure_of(error, execution.task, self._redact))


_NOTHING = Succeeded()


def _locked(execution: Execution, problem: RunlaneError) -> Outcome:
    """What becomes of a run whose payload cannot be decoded: it fails if nobody can, else it waits for who can."""
    if isinstance(problem, KeyUnavailable):
        execution.context.log.error("run %s waits, as its payload cannot be read here: %s", execution.run.id, problem)
        return Released(KEY_PAUSE, None, storable(f"payload_unreadable: {problem}"))
    return Failed(Failure(problem.code, storable(problem.message), False, type(problem).__name__))


def _is_cancellation(error: BaseException) -> bool:
    """Whether it says that a handler was told to stop; a group does, as of a ``TaskGroup``, if all in it do."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancellation(one) for one in error.exceptions)
    return isinstance(error, (OperationCancelled, asyncio.CancelledError))


def _seconds(task: Task[..., Any]) -> str:
    return "" if task.timeout is None else f"{task.timeout.total_seconds():g} s"


def unstorable(refusal: BaseException) -> Failed:
    """What becomes of an attempt whose own outcome cannot be stored."""
    message = storable(f"the outcome could not be stored: {words_of(refusal)}")
    return Failed(Failure(ErrorCode.INTERNAL_ERROR, message, False))


def failure_of(error: BaseException, task: Task[..., Any], redact: bool) -> Failure:
    """What is stored of an exception that a handler raised."""
    if isinstance(error, PayloadInvalid):
        return Failure(error.code, storable(str(error)), False, _kind_of(error))
    known = isinstance(error, RunlaneError)
    code, retryable = str(ErrorCode.TASK_FAILED), True
    meta: dict[str, Any] = {}
    if isinstance(error, RunlaneError):
        code = storable(str(error.code), _LONGEST_NAME)  # of a class of the application's it may be anything
        retryable, meta = bool(error.retryable), _meta_of(error)
    retryable = retryable and task.retry.retries(error)
    if redact and (not known or isinstance(error, TaskFailed)):
        return Failure(code, "Task failed.", retryable, None, None, {})
    lines = None if redact else traceback.format_exception(type(error), error, error.__traceback__)
    return Failure(
        code,
        storable(words_of(error)),
        retryable,
        _kind_of(error),
        None if lines is None else storable("".join(lines), _TRACEBACK_LIMIT),
        meta,
    )


def _kind_of(error: BaseException) -> str:
    """The name of an exception's class, which may have been given to it."""
    return storable(type(error).__qualname__, _LONGEST_NAME)


def _meta_of(error: RunlaneError) -> dict[str, Any]:
    """The facts that a handler's error carries, as they are now; none if they are no JSON object."""
    if not error.meta:
        return {}
    with suppress(jsontext.JsonInvalid):
        meta: object = jsontext.decode(jsontext.encode(error.meta, "meta"))
        if isinstance(meta, dict):
            return meta
    log.warning("the meta of a %s is no JSON object and was left out", told(_kind_of(error)))
    return {}
