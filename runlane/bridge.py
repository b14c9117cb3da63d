"""From asyncio to threads and back: blocking calls on a pool, and an asyncio driver's connection for such a call."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ThreadCalls:
    """Makes blocking calls on threads of its own, at most `threads` at once."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "runlane-async")

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # The copied context carries the current attempt, so a trigger inside a handler still finds its parent.
        context = contextvars.copy_context()
        call = partial(context.run, partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def submit(self, function: Callable[[], object]) -> None:
        """Have a function called on one of the threads, or here if they have been closed."""
        try:
            self._threads.submit(function)
        except RuntimeError:
            function()

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)


class Bridged:
    """A psycopg ``AsyncConnection`` for code on another thread: each call is made on its loop and waited for."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: Any, parameters: Any = None) -> BridgedCursor:
        return BridgedCursor(self._connection.cursor(), self._loop).execute(query, parameters)

    def cursor(self, *, row_factory: Any) -> BridgedCursor:
        return BridgedCursor(self._connection.cursor(row_factory=row_factory), self._loop)


class BridgedCursor:
    def __init__(self, cursor: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._cursor = cursor
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: Any, parameters: Any = None) -> BridgedCursor:
        self._wait(self._cursor.execute(query, parameters))
        return self

    def executemany(self, query: Any, parameters: Any) -> None:
        self._wait(self._cursor.executemany(query, parameters))

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
