"""``AsyncRunlane``: the same names, awaitable.

There is one engine.  A call runs it on a thread of the application's own pool, which measured cheaper than every other
bridge and brings all three lanes with the base install; inside a caller's asyncio transaction it runs on that
connection, through SQLAlchemy's ``run_sync``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar
from uuid import UUID

from runlane.aio_auditing import AsyncAudit
from runlane.aio_doctor import AsyncExamined
from runlane.aio_following import AsyncProjections, AsyncReadsLog
from runlane.aio_operators import AsyncIdempotencyKeys, AsyncQueues, AsyncRuns, AsyncSchedules
from runlane.app import Runlane
from runlane.bridge import Bridged, ThreadCalls
from runlane.clock import Clock
from runlane.decisions import MAX_EVENTS
from runlane.engine.deliver import Delivery
from runlane.engine.tick import TickReport
from runlane.engine.trigger import Triggered
from runlane.inline import Executed
from runlane.lanes import Lane
from runlane.payload_codec import PayloadCodec
from runlane.projecting import Projection
from runlane.projections.runs import Run
from runlane.registry import Registry
from runlane.requests import Trigger
from runlane.session import HEARTBEAT, LEASE_DURATION
from runlane.storage import faults
from runlane.storage.borrow import is_a
from runlane.tasks import Queue, Task
from runlane.values import Actor
from runlane.wakeup import Wakeup
from runlane.worker import STOP_TIMEOUT, Worker, limit_of

P = ParamSpec("P")
T = TypeVar("T")

#: Calls at once: more would only wait for the connections of the pool.
_THREADS = 16
#: As many as there are callers: threads are made as they are needed.
_MANY = 10_000


class AsyncRunlane(AsyncReadsLog, AsyncExamined):
    """``Runlane`` for asyncio programs; constructor and methods are the same, and the methods are awaited.

    Handlers may be ``def`` or ``async def``; a worker runs the latter on an event loop of its own.  A call that is
    cancelled may still take effect, as with any database.
    """

    def __init__(
        self,
        lane: Lane | str,
        *,
        queues: Iterable[Queue] = (),
        tasks: Iterable[Task[..., Any]] = (),
        environment: str = "default",
        dispatch: str = "eager",
        clock: Clock | None = None,
        worker_id: str | None = None,
        heartbeat: timedelta | str = HEARTBEAT,
        lease_duration: timedelta | str = LEASE_DURATION,
        max_events: int = MAX_EVENTS,
        redact_failures: bool = False,
        projections: Iterable[Projection] = (),
        inline_projections: Iterable[Projection] = (),
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        self._app = Runlane(
            lane,
            queues=queues,
            tasks=tasks,
            environment=environment,
            dispatch=dispatch,
            clock=clock,
            worker_id=worker_id,
            heartbeat=heartbeat,
            lease_duration=lease_duration,
            max_events=max_events,
            redact_failures=redact_failures,
            projections=projections,
            inline_projections=inline_projections,
            payload_codec=payload_codec,
        )
        self._call = ThreadCalls(_THREADS)
        # Handlers call back, and whoever has a transaction open is waited for: neither may wait for others' threads.
        self._execute, self._joined = ThreadCalls(_MANY), ThreadCalls(_MANY)
        self.runs = AsyncRuns(self._app.runs, self._call)
        self.idempotency_keys = AsyncIdempotencyKeys(self._app.idempotency_keys, self._call)
        self.schedules = AsyncSchedules(self._app.schedules, self._call)
        self.queues = AsyncQueues(self._app.queues, self._call)
        self.audit = AsyncAudit(self._app.audit, self._call)
        self.projections = AsyncProjections(self._app.projections, self._call)

    @property
    def lane(self) -> Lane:
        """The lane it works on."""
        return self._app.lane

    @property
    def environment(self) -> str:
        """The environment it works in."""
        return self._app.environment

    @property
    def registry(self) -> Registry:
        """The queues and tasks it knows."""
        return self._app.registry

    async def start(self) -> Self:
        """See ``Runlane.start``."""
        await self._call(self._app.start)
        return self

    async def close(self) -> None:
        """See ``Runlane.close``."""
        if not self._app._runtime_is_ours():  # a forked child has none of the threads
            return
        await self._call(self._app.close)
        self._end_threads()

    def _end_threads(self) -> None:
        for threads in (self._call, self._execute, self._joined):
            threads.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def migrate(self, *, roles: bool | str = False) -> int:
        """See ``Runlane.migrate``."""
        return await self._call(self._app.migrate, roles=roles)

    async def trigger(
        self,
        task: Task[..., Any] | str,
        payload: Any = None,
        *,
        queue: Queue | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: str | timedelta | None = None,
        singleton_key: str | None = None,
        concurrency_key: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: str | timedelta | None = None,
        run_id: UUID | str | None = None,
        correlation_id: str | None = None,
        actor: Actor | None = None,
        trace_carrier: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        subject: str | None = None,
        connection: Any = None,
    ) -> Triggered:
        """See ``Runlane.trigger``; `connection` may be a SQLAlchemy ``AsyncConnection`` or ``AsyncSession``, or a
        psycopg ``AsyncConnection``, besides the sync ones."""
        asked = Trigger(
            task,
            payload,
            queue,
            idempotency_key,
            idempotency_ttl,
            singleton_key,
            concurrency_key,
            priority,
            run_at,
            delay,
            run_id,
            correlation_id,
            actor,
            trace_carrier,
            meta,
            subject,
        )
        if connection is None:
            if not self._app._runtime.started:
                await self.start()
            return await self._app._intake.submit(asked, self._call)
        return await self._within(partial(self._app._intake.ask, asked), connection)

    async def trigger_many(
        self,
        task: Task[..., Any] | str | Iterable[Trigger],
        payloads: Iterable[Any] | None = None,
        *,
        connection: Any = None,
    ) -> list[Triggered]:
        """See ``Runlane.trigger_many``."""
        return await self._within(partial(self._app.trigger_many, task, payloads), connection)

    async def run_now(
        self,
        task: Task[..., Any] | str,
        payload: Any = None,
        *,
        idempotency_key: str | None = None,
        idempotency_ttl: str | timedelta | None = None,
        singleton_key: str | None = None,
        concurrency_key: str | None = None,
        correlation_id: str | None = None,
        actor: Actor | None = None,
        trace_carrier: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        subject: str | None = None,
    ) -> Executed:
        """See ``Runlane.run_now``."""
        return await self._execute(
            self._app.run_now,
            task,
            payload,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            singleton_key=singleton_key,
            concurrency_key=concurrency_key,
            correlation_id=correlation_id,
            actor=actor,
            trace_carrier=trace_carrier,
            meta=meta,
            subject=subject,
        )

    async def execute_next(self, queues: Sequence[Queue] | None = None) -> Run | None:
        """See ``Runlane.execute_next``."""
        return await self._execute(self._app.execute_next, queues)

    async def execute_delivery(self, wakeup: Wakeup, queues: Sequence[Queue] | None = None) -> Delivery:
        """See ``Runlane.execute_delivery``."""
        return await self._execute(self._app.execute_delivery, wakeup, queues)

    def worker(
        self,
        mode: str = "poll",
        *,
        queues: Sequence[Queue] | None = None,
        concurrency: int = 10,
        maintenance: bool = True,
        poll_interval: float = 1.0,
        maintenance_interval: float = 1.0,
    ) -> AsyncWorker:
        """See ``Runlane.worker``; its ``run``, ``start``, ``stop`` and ``wait`` are awaited."""
        make = partial(
            self._app.worker,
            mode,
            queues=queues,
            concurrency=concurrency,
            maintenance=maintenance,
            poll_interval=poll_interval,
            maintenance_interval=maintenance_interval,
        )
        return AsyncWorker(self, make)

    async def tick(self) -> TickReport:
        """See ``Runlane.tick``."""
        return await self._call(self._app.tick)

    async def _within(self, call: Callable[..., T], connection: Any) -> T:
        """Make the call in a transaction of its own, or on the caller's connection."""
        if is_a(connection, "sqlalchemy.ext.asyncio", "AsyncSession"):
            with faults.translated(self.lane.database.where):
                connection = await connection.connection()
        if is_a(connection, "sqlalchemy.ext.asyncio", "AsyncConnection"):
            await self.start()
            done: T = await connection.run_sync(lambda joined: call(connection=joined))
            return done
        if type(connection).__module__.partition(".")[0] == "psycopg" and asyncio.iscoroutinefunction(
            connection.execute
        ):
            connection = Bridged(connection, asyncio.get_running_loop())
        if connection is None:
            return await self._call(call, connection=None)
        return await self._joined.to_the_end(call, connection=connection)


class AsyncWorker:
    """A ``Worker`` whose waiting is awaited."""

    def __init__(self, app: AsyncRunlane, make: Callable[[], Worker]) -> None:
        self._app = app
        self._make = make
        self._making = threading.Lock()
        self._worker: Worker | None = None
        self._unwanted = False  # stopped before it was made

    @property
    def closed(self) -> bool:
        """Whether the worker has ended, with everything it had in hand."""
        return self._unwanted if self._worker is None else self._worker.closed

    @property
    def completed(self) -> int:
        """How many attempts it has brought to an end, those apart that it has given back to be executed again."""
        return 0 if self._worker is None else self._worker.completed

    async def start(self) -> None:
        """See ``Worker.start``."""
        await self._app._call(self._start)

    async def run(self) -> None:
        """See ``Worker.run``; cancelling the task stops the worker gracefully.  Signals are the program's to handle."""
        try:
            if self._worker is None:
                await self.start()
            await self.wait()
        except asyncio.CancelledError:
            await asyncio.shield(self.stop())  # a start under way, too: it goes on in its thread
            raise
        await self.stop()

    async def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """See ``Worker.stop``."""
        limit_of(timeout)
        await _apart(partial(self._stop, timeout))

    async def wait(self, timeout: float | None = None) -> bool:
        """See ``Worker.wait``."""
        limit = limit_of(timeout)
        if self._worker is None:
            return self.closed
        # No thread waits: a worker may run for days, and must take neither a place in a pool nor the program's end.
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(over.set)

        with self._worker._telling(tell), suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await over.wait()
        return self._worker.closed

    def _start(self) -> None:
        with self._making:
            if self._worker is None and not self._unwanted:
                self._worker = self._make()
        if self._worker is not None:  # that one says it if it was started before, and does not start if it was stopped
            self._worker.start()

    def _stop(self, timeout: float) -> None:
        with self._making:  # one that is being made will be there
            self._unwanted = self._worker is None
        if self._worker is not None:
            self._worker.stop(timeout)


async def _apart(call: Callable[[], None]) -> None:
    """Make a call on a daemon thread of its own: a pool may be full just when a worker has to stop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():  # cancelled
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def make() -> None:
        failed: BaseException | None = None
        try:
            call()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, failed)

    threading.Thread(target=make, name="runlane-stop", daemon=True).start()
    await done
