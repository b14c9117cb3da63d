"""The async face in the shape of the sync one, so that the same calls can be made of both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runlane import AsyncRunlane
from runlane.aio import AsyncWorker
from runlane.aio_following import AsyncFollower


class Awaited:
    """A part of an ``AsyncRunlane``: what has to be awaited is awaited here."""

    def __init__(self, part: Any, loop: asyncio.Runner) -> None:
        self._part = part
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return Awaited(found, self._loop) if type(found).__name__.startswith("Async") else found

        def call(*positional: Any, **named: Any) -> Any:
            done = found(*positional, **named)
            if inspect.isawaitable(done):
                return self._loop.run(_awaited(done))
            if isinstance(done, AsyncFollower):  # opened with the first batch; the sync face does so at once
                self._loop.run(done.start())
                return self._batches(done)
            if isinstance(done, AsyncWorker):  # made at the start, and there as well at once
                done._make()
                return Awaited(done, self._loop)
            return done

        return call

    def _batches(self, follower: AsyncFollower) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(follower, None)

        while (batch := self._loop.run(following())) is not None:
            yield batch


async def _awaited(done: Any) -> Any:
    return await done


@contextmanager
def awaited(app: AsyncRunlane) -> Iterator[Any]:
    """A started runtime of asyncio's that takes calls as ``Runlane`` does; it is closed at the end."""
    with asyncio.Runner() as loop:
        loop.run(app.start())
        try:
            yield Awaited(app, loop)
        finally:
            loop.run(app.close())
