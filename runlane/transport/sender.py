"""Sending rings with NOTIFY: the first one at once, by whoever rings, and what comes close behind it together.

Whoever rings while the line is free writes the statement to its socket and goes on; nobody waits for the answer, and no
other thread has to wake up first, which would take longer than all the rest.  What the server made of it is looked at
before the next one is sent.  A thread connects, sends what came close behind, and connects again.
"""

from __future__ import annotations

import json
import logging
import selectors
import threading
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from runlane.storage import poolers

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger("runlane.transport")

#: Seconds within which rings go out together.
COALESCE = 0.02
_MOST = 7000  # bytes of a payload; PostgreSQL takes 8000
_PATIENCE = 10.0  # seconds for the answer to an earlier ring
_NOTIFY = b"select pg_notify($1, $2)"


class Sender:
    """Sends rings of one process on one channel.

    Args:
        connect: makes a connection.
        channel: where rings are sent to.
        me: what listeners know this process by.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], channel: str, me: str) -> None:
        self._connect = connect
        self._channel = channel
        self._me = me
        self._changed = threading.Condition()
        self._waiting: dict[str, set[str] | None] = {}  # environment to queues
        self._line: psycopg.Connection[Any] | None = None  # free for whoever rings
        self._next = 0.0  # when the next ring may go out
        self._thread: threading.Thread | None = None

    def send(self, environment: str, queues: Collection[str] | None) -> None:
        """Send a ring, now or soon."""
        with self._changed:
            if self._line is not None and not self._waiting and monotonic() >= self._next:
                self._next = monotonic() + COALESCE
                if self._write(self._line, environment, queues):
                    return
                self._next = 0.0
            sleeps = not self._waiting  # else the thread knows when it is to send, and to wake it costs a caller much
            known = self._waiting.get(environment, set())
            self._waiting[environment] = None if queues is None or known is None else known | set(queues)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="runlane-notify", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system allows no more of them at present; the next ring tries again
                    log.debug("a ring has to wait: %s", error)
                else:
                    self._thread = thread
            elif sleeps:
                self._changed.notify()

    def close(self) -> None:
        """Send what waits, for a moment at most, and end."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join(2.0)

    def _write(self, line: psycopg.Connection[Any], environment: str, queues: Collection[str] | None) -> bool:
        """Send on a free line without waiting for anything; whether it was sent."""
        try:
            wire = line.pgconn
            for _ in range(2):  # the second time it shows if the server has hung up behind its last words
                wire.consume_input()
            if not is_done(line):
                return False
            payload = self._payload(environment, queues)
            wire.send_query_params(_NOTIFY, (self._channel.encode(), payload.encode()))
            wire.flush()  # what does not fit into the socket goes with the next one
        except Exception as error:  # the thread connects again
            log.debug("a ring has to wait: %s", error)
            self._line = None
            discard(line)
            return False
        return True

    def _run(self) -> None:
        me = threading.current_thread()
        line: psycopg.Connection[Any] | None = None
        try:
            while (taken := self._take(me)) is not None:
                rings, line = taken[0], taken[1] or line
                line = self._sent(rings, line)
                with self._changed:
                    self._next = monotonic() + COALESCE
                    if self._thread is me:
                        self._line, line = line, None
        finally:
            discard(line)

    def _sent(
        self, rings: Mapping[str, set[str] | None], line: psycopg.Connection[Any] | None
    ) -> psycopg.Connection[Any] | None:
        """Send rings, on a new line if there is none or the old one is broken; the line, None if they are lost."""
        while True:
            is_new = line is None
            try:
                if line is None:
                    line = self._connect()
                    if not poolers.is_between(line):  # others' commits would come upon the same session
                        # A ring is worth nothing after a crash, so it waits for no disk.
                        line.execute("set synchronous_commit to off")
                _settle(line)
                for environment, queues in rings.items():
                    line.execute("select pg_notify(%s, %s)", (self._channel, self._payload(environment, queues)))
                return line
            except Exception as error:  # others poll; a doorbell never fails the caller
                log.debug("rings could not be sent: %s", error)
                discard(line)
                line = None
                if is_new:
                    return None

    def _take(self, me: threading.Thread) -> tuple[dict[str, set[str] | None], psycopg.Connection[Any] | None] | None:
        """Wait for rings that are due: those, and the line if there is one; None at the end."""
        with self._changed:
            while self._thread is me and (not self._waiting or monotonic() < self._next):
                self._changed.wait(self._next - monotonic() if self._waiting else None)
            line, self._line = self._line, None
            if not self._waiting:
                discard(line)
                return None
            rings, self._waiting = self._waiting, {}
            return rings, line

    def _payload(self, environment: str, queues: Collection[str] | None) -> str:
        text = json.dumps([self._me, environment, None if queues is None else sorted(queues)])
        return text if len(text) <= _MOST else json.dumps([self._me, environment, None])


def _settle(line: psycopg.Connection[Any]) -> None:
    """Wait for what came of a ring that was sent and not waited for."""
    deadline = monotonic() + _PATIENCE
    while not is_done(line):
        with selectors.DefaultSelector() as selector:
            selector.register(line.pgconn.socket, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - monotonic())):
                raise TimeoutError("the server does not answer")
        line.pgconn.consume_input()


def is_done(line: psycopg.Connection[Any]) -> bool:
    """Whether nothing is under way on a connection, as far as has been read from it."""
    wire = line.pgconn
    while not wire.is_busy():
        if wire.get_result() is None:
            return True
    return False


def discard(connection: psycopg.Connection[Any] | None) -> None:
    """Close a connection, whatever state it is in."""
    if connection is not None:
        try:
            connection.close()
        except Exception as error:
            log.debug("closing: %s", error)
