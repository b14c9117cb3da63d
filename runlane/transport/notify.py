"""Rings between machines that share a PostgreSQL database: LISTEN and NOTIFY.

NOTIFY inside a transaction that writes would make all such commits wait for each other, so it has a connection of its
own, after the commit (see ``transport.sender``).  A listener that lost its connection is deaf without noticing: it asks
the server now and then, and rings once after each reconnect.  One that was given a session which others use too, by a
pooler in transaction mode, would be deaf for good: it does not listen there at all, and says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import selectors
import socket
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from runlane.storage import poolers
from runlane.transport import Bell
from runlane.transport.local import LocalTransport
from runlane.transport.sender import Sender, discard, is_done

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn

log = logging.getLogger("runlane.transport")

#: Seconds without a word after which a listener asks whether the server is there still.
CHECK = 15.0
_PATIENCE = 10.0  # seconds for the answer
_RETRY = (0.2, 10.0)  # seconds between attempts to connect, least and most
_DEAF = 60.0  # the same where only another pooler, or another setting of it, could help


def channel_of(schema: str) -> str:
    """The channel of a schema's runs."""
    return "runlane_" + hashlib.sha256(schema.encode()).hexdigest()[:16]


class NotifyTransport(LocalTransport):
    """Rings within this process at once, and in every other process through the database.

    Args:
        conninfo: where the database is, as libpq takes it.
        schema: the schema of the runs; processes on other schemas hear nothing.
        listen: where it listens, if that is another way to the same database.
    """

    name = "notify"

    def __init__(self, conninfo: str, schema: str, *, listen: str | None = None) -> None:
        super().__init__()
        self._conninfo = conninfo
        self._listen_at = listen or conninfo
        self._channel = channel_of(schema)
        self._me = secrets.token_hex(8)
        self._sender = Sender(lambda: _connect(self._conninfo), self._channel, self._me)
        self._listener: threading.Thread | None = None
        self._stop: _Stop | None = None
        #: Set once the listener hears, cleared while it is deaf; for tests and for the curious.
        self.hears = threading.Event()
        #: Set once it has found that it cannot hear where it was to listen.
        self.is_deaf = threading.Event()

    def ring(self, environment: str, queues: Collection[str] | None) -> None:
        """Ring here, and soon in other processes."""
        super().ring(environment, queues)
        self._sender.send(environment, queues)

    def listen(self, environment: str, queues: Collection[str], bell: Bell) -> None:
        """Ring `bell` whenever one of `queues` is rung for, here or in another process."""
        super().listen(environment, queues, bell)
        with self._lock:
            if self._listener is None:
                self._stop = _Stop()
                self._listener = threading.Thread(
                    target=self._listen, args=(self._stop,), name="runlane-listen", daemon=True
                )
                self._listener.start()

    def unlisten(self, bell: Bell) -> None:
        """The inverse of ``listen``; nobody listens for nobody."""
        super().unlisten(bell)
        self._end_listener()

    def close(self) -> None:
        """Send what waits, for a moment at most, and end; those who still listen go on hearing."""
        self._end_listener()
        self._sender.close()

    def _end_listener(self) -> None:
        """End the thread if nobody listens, which somebody may begin at any moment outside of the lock."""
        with self._lock:
            if self.is_listening:
                return
            listener, self._listener = self._listener, None
            if self._stop is not None:
                self._stop.set()
        if listener is not None and listener is not threading.current_thread():
            listener.join(2.0)

    def _listen(self, stop: _Stop) -> None:
        least, most = _RETRY
        pause = least
        while not stop.is_set():
            connection: psycopg.Connection[Any] | None = None
            try:
                connection = _connect(self._listen_at)
                if poolers.keeps_sessions(connection, lambda: _connect(self._listen_at), lambda: not stop.is_set()):
                    connection.execute(f"listen {self._channel}".encode())
                    pause = least
                    self.is_deaf.clear()
                    self.ring_all()  # whatever was rung while nobody heard
                    self.hears.set()
                    self._hear(connection, stop)
                elif not stop.is_set():
                    pause = _DEAF
                    self._tell_deaf(connection)
            except Exception as error:
                if not stop.is_set():
                    log.warning("wakeups are not heard for now, polling goes on: %s", str(error).split("\n")[0])
            finally:
                self.hears.clear()
                discard(connection)
            if not stop.wait(pause * random.uniform(0.5, 1.5)):  # noqa: S311
                pause = min(2 * pause, most)
        stop.close()

    def _tell_deaf(self, connection: psycopg.Connection[Any]) -> None:
        if not self.is_deaf.is_set():
            log.warning(
                "wakeups are not heard on %s:%s: a pooler in transaction mode is there, and LISTEN needs a session of"
                " its own; polling goes on; postgres_lane(listen_url=…) takes a URL that leads to PostgreSQL itself"
                " (%s)",
                connection.info.host,
                connection.info.port,
                poolers.SECTION,
            )
            self.is_deaf.set()

    def _hear(self, connection: psycopg.Connection[Any], stop: _Stop) -> None:
        # Not by ``execute``, which waits for an answer for ever: a proxy that has lost the server says nothing.
        wire, asked = connection.pgconn, False
        with selectors.DefaultSelector() as selector:
            for readable in (connection, stop):
                selector.register(readable, selectors.EVENT_READ)
            while not stop.is_set():
                if selector.select(_PATIENCE if asked else CHECK):
                    wire.consume_input()
                    self._dispatch_all(wire)
                    if is_done(connection):
                        asked = False
                        self._dispatch_all(wire)  # what came behind the answer
                elif asked:
                    raise TimeoutError("the server does not answer")
                else:
                    wire.send_query(b"select 1")
                    wire.flush()
                    asked = True

    def _dispatch_all(self, wire: PGconn) -> None:
        while (notice := wire.notifies()) is not None:
            self._dispatch(notice.extra)

    def _dispatch(self, payload: bytes) -> None:
        try:
            sender, environment, queues = json.loads(payload)
            if sender != self._me:
                LocalTransport.ring(self, environment, queues)
        except (ValueError, TypeError, RecursionError):
            self.ring_all()  # somebody else's words on our channel


def _connect(conninfo: str) -> psycopg.Connection[Any]:
    import psycopg

    return psycopg.connect(
        conninfo,
        autocommit=True,
        prepare_threshold=None,  # not worth it for a word now and then, and no pooler minds
        application_name="runlane wakeups",
        connect_timeout=10,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )


class _Stop:
    """An event that a selector can wait for beside a socket."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._ours, self._theirs = socket.socketpair()

    def set(self) -> None:
        self._event.set()
        self._ours.close()  # the other end becomes readable

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float) -> bool:
        return self._event.wait(timeout)

    def fileno(self) -> int:
        return self._theirs.fileno()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
