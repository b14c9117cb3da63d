"""A TCP proxy before a PostgreSQL socket that cuts, silences and delays connections when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: cut: reset in the middle of a message; half_open: nothing comes through any more in either direction, and nobody is
#: told; swallow: what the server answers is lost; delay: everything takes longer.
KINDS = ("cut", "half_open", "swallow", "delay")


class _Link:
    """One connection of a client, and its counterpart."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.writers = {"up": far, "down": near}
        self.silent: set[str] = set()
        self.cut_in: str | None = None
        self.delay = 0.0
        self.struck = False

    async def pump(self, reader: asyncio.StreamReader, direction: str) -> None:
        writer = self.writers[direction]
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.cut_in == direction:
                    writer.write(data[: random.randrange(len(data))])
                    await asyncio.sleep(0)
                    break
                if direction not in self.silent:
                    writer.write(data)
                    await writer.drain()
            else:
                if direction in self.silent:
                    return  # who is not heard cannot say goodbye
                writer.write_eof()
                return
        self.reset()

    def reset(self) -> None:
        """End both sides without a word of farewell."""
        for writer in self.writers.values():
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError, ValueError):
                if raw is not None and raw.family != socket.AF_UNIX:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Lives on a thread of its own.

    Args:
        target: the Unix socket of the server.
    """

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._thread.start()
        #: Where it listens, on 127.0.0.1.
        self.port: int = self._do(self._listen())

    def strike(self, kind: str, seconds: float = 0.0) -> bool:
        """Do something to one of the connections at random; whether there was one.

        Args:
            kind: one of ``KINDS``.
            seconds: after which a silenced connection is reset, as the keepalives of a real network would find out; or
                by which a message is delayed.
        """
        return self._do(self._strike(kind, seconds))

    def heal(self) -> None:
        """Reset what was struck, so that nobody waits for it any longer."""
        self._do(self._heal())

    def close(self) -> None:
        """Reset everything, and end."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(link.pump(reader, "up"), link.pump(far_reader, "down"))
        finally:
            if not link.silent:
                self._end(link)

    def _end(self, link: _Link) -> None:
        self._links.discard(link)
        link.reset()

    async def _strike(self, kind: str, seconds: float) -> bool:
        whole = [link for link in self._links if not link.struck]
        if not whole:
            return False
        link = random.choice(whole)
        link.struck = True
        if kind == "cut":
            link.cut_in = random.choice(["up", "down"])
        elif kind == "delay":
            link.delay, link.struck = seconds, False
            self._loop.call_later(2 * seconds, setattr, link, "delay", 0.0)
        else:
            link.silent = {"up", "down"} if kind == "half_open" else {"down"}
            self._loop.call_later(seconds, self._end, link)
        return True

    async def _heal(self) -> None:
        for link in list(self._links):
            link.delay = 0.0
            if link.struck:
                self._end(link)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            self._end(link)
        others = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
