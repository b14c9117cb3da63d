"""Following the log and projecting it, awaitable: see ``runlane.following`` and ``runlane.projecting``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from runlane.app import Runlane
from runlane.bridge import ThreadCalls
from runlane.events import Event, Recorded
from runlane.following import DEFAULT_BATCH, Batch, Follower, Stop
from runlane.projecting import Projection, Projections, ProjectionState

T = TypeVar("T")
#: Makes a call in a transaction of its own, or on a caller's connection, asyncio ones included.
_Within = Callable[[Callable[..., None], Any], Awaitable[None]]


class AsyncBatch:
    """A ``Batch`` whose commit is awaited."""

    def __init__(self, batch: Batch, within: _Within) -> None:
        self._batch = batch
        self._within = within

    @property
    def records(self) -> tuple[Recorded, ...]:
        """See ``Batch``."""
        return self._batch.records

    @property
    def cursor(self) -> str:
        """See ``Batch``."""
        return self._batch.cursor

    def cursor_behind(self, record: Recorded) -> str:
        """See ``Batch.cursor_behind``."""
        return self._batch.cursor_behind(record)

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self._batch)

    def __len__(self) -> int:
        return len(self._batch)

    async def commit(self, connection: Any = None) -> None:
        """See ``Batch.commit``; `connection` may be an asyncio one, as in ``trigger``."""
        await self._within(lambda connection: self._batch.commit(connection), connection)

    @asynccontextmanager
    async def transaction(self, connection: Any) -> AsyncIterator[Any]:
        """See ``Batch.transaction``; the transaction is always yours."""
        await self.commit(connection)
        yield connection


class AsyncFollower:
    """A ``Follower`` for ``async for``; the log is read on threads of its own."""

    def __init__(self, make: Callable[[], Follower], within: _Within) -> None:
        self._make = make
        self._within = within
        self._follower: Follower | None = None
        self._is_closed = False

    @property
    def cursor(self) -> str | None:
        """See ``Follower``; None until it has begun."""
        return None if self._follower is None else self._follower.cursor

    async def start(self) -> Self:
        """Open the cursor now rather than with the first batch; raises as ``Runlane.follow`` does."""
        if self._follower is None:
            self._follower = await asyncio.to_thread(self._make)
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See ``Follower.close``."""
        self._is_closed = True
        if self._follower is not None:
            self._follower.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncBatch:
        await self.start()
        assert self._follower is not None
        if self._is_closed:
            raise StopAsyncIteration
        try:
            found = await asyncio.to_thread(next, self._follower, None)
        except asyncio.CancelledError:
            self.close()  # or the thread would wait on
            raise
        if found is None:
            raise StopAsyncIteration
        return AsyncBatch(found, self._within)

    async def commit(self, batch: AsyncBatch | None = None, connection: Any = None) -> None:
        """See ``Follower.commit``."""
        await self.start()
        assert self._follower is not None
        commit = partial(self._follower.commit, None if batch is None else batch._batch)
        await self._within(lambda connection: commit(connection), connection)


class AsyncReadsLog:
    """The part of ``AsyncRunlane`` that reads the log."""

    _app: Runlane
    _within: Callable[..., Awaitable[Any]]

    def follow(
        self,
        cursor: str | None = None,
        *,
        batch: int = DEFAULT_BATCH,
        types: Iterable[str | type[Event]] | None = None,
        stop: Stop | None = None,
        poll: float | None = 0.5,
    ) -> AsyncFollower:
        """See ``Runlane.follow``; for ``async for``, and nothing is opened before."""
        make = partial(self._app.follow, cursor, batch=batch, types=types, stop=stop, poll=poll)
        return AsyncFollower(make, self._within)

    async def project(
        self,
        projection: Projection | str,
        *,
        stop: Stop | None = None,
        poll: float | None = 0.5,
        batch: int = DEFAULT_BATCH,
    ) -> int:
        """See ``Runlane.project``; the projection folds on a thread, and cancelling the task stops it."""
        ended = threading.Event()

        def is_stopped() -> bool:
            asked = False if stop is None else stop.is_set() if isinstance(stop, threading.Event) else stop()
            return asked or ended.is_set()

        try:
            return await asyncio.to_thread(self._app.project, projection, stop=is_stopped, poll=poll, batch=batch)
        except asyncio.CancelledError:
            ended.set()
            raise


class AsyncProjections:
    """See ``runlane.projecting.Projections``."""

    def __init__(self, projections: Projections, call: ThreadCalls) -> None:
        self._sync = projections
        self._call = call

    async def list(self) -> tuple[ProjectionState, ...]:
        """See ``Projections.list``."""
        return await self._call(self._sync.list)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """See ``Projections.read``; `query` is called on a thread."""
        return await self._call(self._sync.read, query)

    async def remove(self, name: str) -> None:
        """See ``Projections.remove``."""
        await self._call(self._sync.remove, name)

    async def rebuild(
        self, projection: Projection | str, *, stop: Stop | None = None, batch: int = DEFAULT_BATCH
    ) -> int:
        """See ``Projections.rebuild``."""
        return await asyncio.to_thread(self._sync.rebuild, projection, stop=stop, batch=batch)
