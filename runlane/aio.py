"""``AsyncRunlane``: the same names, awaitable.

There is one engine.  A call runs it on a thread of the application's own pool, which measured cheaper than every other
bridge and brings all three lanes with the base install; inside a caller's asyncio transaction it runs on that
connection, through SQLAlchemy's ``run_sync``.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from runlane.app import Executed, Runlane
from runlane.clock import Clock
from runlane.decisions import MAX_EVENTS
from runlane.engine.tick import TickReport
from runlane.engine.trigger import Triggered
from runlane.events import Recorded
from runlane.lanes import Lane
from runlane.projections.attempts import Attempt
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.reading import DEFAULT_LIMIT, Order, Page
from runlane.requests import Trigger
from runlane.session import HEARTBEAT, LEASE_DURATION
from runlane.storage.replay import Verification
from runlane.tasks import Queue, Registry, Task
from runlane.values import Actor, RunStatus
from runlane.worker import STOP_TIMEOUT, Worker

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 16


class AsyncRunlane:
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
        )
        self._threads = ThreadPoolExecutor(_THREADS, "runlane-async")
        self.runs = AsyncRuns(self)
        self.schedules = AsyncSchedules(self)
        self.audit = AsyncAudit(self)

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
        await self._call(self._app.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def migrate(self) -> int:
        """See ``Runlane.migrate``."""
        return await self._call(self._app.migrate)

    async def trigger(
        self,
        task: Task[..., Any] | str,
        payload: Any = None,
        *,
        queue: Queue | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: str | timedelta | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: str | timedelta | None = None,
        run_id: UUID | str | None = None,
        correlation_id: str | None = None,
        actor: Actor | None = None,
        trace_carrier: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> Triggered:
        """See ``Runlane.trigger``; `connection` may be a SQLAlchemy ``AsyncConnection`` or ``AsyncSession``, or a
        psycopg ``AsyncConnection``, besides the sync ones."""
        call = partial(
            self._app.trigger,
            task,
            payload,
            queue=queue,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            priority=priority,
            run_at=run_at,
            delay=delay,
            run_id=run_id,
            correlation_id=correlation_id,
            actor=actor,
            trace_carrier=trace_carrier,
            meta=meta,
        )
        return await self._within(call, connection)

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
        correlation_id: str | None = None,
        actor: Actor | None = None,
        trace_carrier: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Executed:
        """See ``Runlane.run_now``."""
        return await self._call(
            self._app.run_now,
            task,
            payload,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            correlation_id=correlation_id,
            actor=actor,
            trace_carrier=trace_carrier,
            meta=meta,
        )

    async def execute_next(self, queues: Sequence[Queue] | None = None) -> Run | None:
        """See ``Runlane.execute_next``."""
        return await self._call(self._app.execute_next, queues)

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

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # The copied context carries the current attempt, so a trigger inside a handler still finds its parent.
        context = contextvars.copy_context()
        call = partial(context.run, partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _within(self, call: Callable[..., T], connection: Any) -> T:
        """Make the call in a transaction of its own, or on the caller's connection."""
        if isinstance(connection, AsyncSession):
            connection = await connection.connection()
        if isinstance(connection, AsyncConnection):
            await self.start()
            return await connection.run_sync(lambda joined: call(connection=joined))
        if type(connection).__module__.partition(".")[0] == "psycopg" and asyncio.iscoroutinefunction(
            connection.execute
        ):
            bridged = _Bridged(connection, asyncio.get_running_loop())
            return await self._call(partial(call, connection=bridged))
        return await self._call(partial(call, connection=connection))


class AsyncWorker:
    """A ``Worker`` whose waiting is awaited."""

    def __init__(self, app: AsyncRunlane, make: Callable[[], Worker]) -> None:
        self._app = app
        self._make = make
        self._worker: Worker | None = None

    @property
    def closed(self) -> bool:
        """Whether the worker has ended, with everything it had in hand."""
        return self._worker is not None and self._worker.closed

    @property
    def completed(self) -> int:
        """How many attempts it has brought to an end."""
        return 0 if self._worker is None else self._worker.completed

    async def start(self) -> None:
        """See ``Worker.start``."""
        self._worker = await self._app._call(self._make)
        await self._app._call(self._worker.start)

    async def run(self) -> None:
        """See ``Worker.run``; cancelling the task stops the worker gracefully.  Signals are the program's to handle."""
        if self._worker is None:
            await self.start()
        try:
            await self.wait()
        except asyncio.CancelledError:
            await asyncio.shield(self.stop())
            raise
        await self.stop()

    async def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """See ``Worker.stop``."""
        if self._worker is not None:
            await asyncio.to_thread(self._worker.stop, timeout)

    async def wait(self, timeout: float | None = None) -> bool:
        """See ``Worker.wait``."""
        if self._worker is None:
            return False
        # A thread outside the pool: a worker may run for days, and must not take a place that calls need.
        return await asyncio.to_thread(self._worker.wait, timeout)


class AsyncRuns:
    """See ``runlane.app.Runs``."""

    def __init__(self, app: AsyncRunlane) -> None:
        self._app = app

    async def get(self, id: UUID | str) -> Run:
        """See ``Runs.get``."""
        return await self._app._call(self._app._app.runs.get, id)

    async def list(
        self,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        tasks: Sequence[Task[..., Any] | str] | None = None,
        queues: Sequence[Queue | str] | None = None,
        correlation_id: str | None = None,
        idempotency_key: str | None = None,
        source_run_id: UUID | str | None = None,
        parent_run_id: UUID | str | None = None,
        schedule_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """See ``Runs.list``."""
        return await self._app._call(
            self._app._app.runs.list,
            statuses=statuses,
            tasks=tasks,
            queues=queues,
            correlation_id=correlation_id,
            idempotency_key=idempotency_key,
            source_run_id=source_run_id,
            parent_run_id=parent_run_id,
            schedule_id=schedule_id,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            cursor=cursor,
            order=order,
        )

    async def count(self) -> dict[RunStatus, int]:
        """See ``Runs.count``."""
        return await self._app._call(self._app._app.runs.count)

    async def events(self, id: UUID | str) -> tuple[Recorded, ...]:
        """See ``Runs.events``."""
        return await self._app._call(self._app._app.runs.events, id)

    async def attempts(self, id: UUID | str) -> tuple[Attempt, ...]:
        """See ``Runs.attempts``."""
        return await self._app._call(self._app._app.runs.attempts, id)

    async def wait(self, id: UUID | str, *, timeout: float | None = None) -> Run:
        """See ``Runs.wait``."""
        return await asyncio.to_thread(self._app._app.runs.wait, id, timeout=timeout)


class AsyncSchedules:
    """See ``runlane.app.Schedules``."""

    def __init__(self, app: AsyncRunlane) -> None:
        self._app = app

    async def list(self) -> tuple[ScheduleState, ...]:
        """See ``Schedules.list``."""
        return await self._app._call(self._app._app.schedules.list)


class AsyncAudit:
    """See ``runlane.app.Audit``."""

    def __init__(self, app: AsyncRunlane) -> None:
        self._app = app

    async def verify(
        self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None
    ) -> Verification:
        """See ``Audit.verify``."""
        return await self._app._call(self._app._app.audit.verify, id, progress=progress)


class _Bridged:
    """A psycopg ``AsyncConnection`` for code on another thread: each call is made on its loop and waited for."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: Any, parameters: Any = None) -> _BridgedCursor:
        return _BridgedCursor(self._connection.cursor(), self._loop).execute(query, parameters)

    def cursor(self, *, row_factory: Any) -> _BridgedCursor:
        return _BridgedCursor(self._connection.cursor(row_factory=row_factory), self._loop)


class _BridgedCursor:
    def __init__(self, cursor: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._cursor = cursor
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: Any, parameters: Any = None) -> _BridgedCursor:
        self._wait(self._cursor.execute(query, parameters))
        return self

    def fetchone(self) -> Any:
        return self._wait(self._cursor.fetchone())

    def fetchmany(self, size: int = 0) -> Any:
        return self._wait(self._cursor.fetchmany(size))

    def fetchall(self) -> Any:
        return self._wait(self._cursor.fetchall())

    def close(self) -> None:
        self._wait(self._cursor.close())

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
