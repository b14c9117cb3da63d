"""From asyncio to threads and back: blocking calls on a pool, and an asyncio driver's connection for such a call."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from runlane.errors import ConfigurationInvalid

P = ParamSpec("P")
T = TypeVar("T")


class Once:
    """A function that is called once, however often this is."""

    __slots__ = ("_left",)

    def __init__(self, function: Callable[[], object]) -> None:
        self._left = [function]

    def __call__(self) -> None:
        try:
            function = self._left.pop()
        except IndexError:
            return
        function()


class ThreadCalls:
    """Makes blocking calls on threads of its own, at most `threads` at once.

    What is submitted has a thread for itself, and waits for none of those calls.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "runlane-async")
        self._submitted = ThreadPoolExecutor(1, "runlane-intake")
        self._closed = False

    def require(self) -> None:
        """Make sure that they have not been closed."""
        if self._closed:
            raise ConfigurationInvalid("this AsyncRunlane has been closed; make another")

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.require()
        # The copied context carries the current attempt, so a trigger inside a handler still finds its parent.
        context = contextvars.copy_context()
        call = partial(context.run, partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def to_the_end(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same; whoever is cancelled meanwhile hears of it only when the call has ended.

        For calls on a connection of the caller's: he would go on with it while the thread does, and what the thread
        writes would be in his next transaction.
        """
        made = asyncio.ensure_future(self(function, *args, **kwargs))
        try:
            return await asyncio.shield(made)
        except asyncio.CancelledError:
            while not made.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([made])
            if not made.cancelled():
                made.exception()  # nobody else looks at it
            raise

    def submit(self, function: Callable[[], object]) -> None:
        """Have a function called on a thread, one after the other; or here, if there is none any more."""
        once = Once(function)
        try:
            self._submitted.submit(once)
        except RuntimeError:  # an executor that cannot start a thread says so, and keeps the function
            once()

    def close(self) -> None:
        """Let the threads end."""
        self._closed = True
        self._threads.shutdown(wait=False)
        self._submitted.shutdown(wait=False)


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
