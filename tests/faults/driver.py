"""Faults between SQLAlchemy and the driver: what is above is Runlane as it is, what is below the real database."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import psycopg
from attrs import frozen
from sqlalchemy import Connection, Engine, event

from runlane.storage.database import Database


class Moment(StrEnum):
    """When a fault strikes."""

    BEFORE = "before"  # the call has not happened
    AFTER = "after"  # it has, and nobody is told


@frozen
class Call:
    """One call of the driver, an execute or a commit; `reads` says that this is the end of a transaction that reads."""

    kind: str
    reads: bool
    connection: Any

    def end(self) -> None:
        """Break the connection as a lost network would (not under asyncio, and a file cannot go away)."""
        if isinstance(self.connection, psycopg.Connection):
            self.connection.close()

    def lost(self) -> Exception:
        """What the driver raises when its connection is gone, or the file's disk."""
        self.end()
        if isinstance(self.connection, (psycopg.Connection, psycopg.AsyncConnection)):
            return psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")
        return sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR)


def sqlite_error(text: str, code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    """An exception as Python's driver makes it."""
    error = kind(text)
    error.sqlite_errorcode = code
    return error


#: Calls the real driver; a fault raises instead, or afterwards.
Strike = Callable[[Call, Callable[[], None]], None]


@contextmanager
def struck(strike: Strike, *engines: Engine) -> Iterator[None]:
    """Let `strike` stand between these engines and their driver."""
    reading = threading.local()

    def committing(connection: Connection) -> None:
        reading.yes = bool(connection.get_execution_options().get("runlane_read_only"))

    before: list[tuple[Any, str]] = []
    for engine in set(engines):
        event.listen(engine, "commit", committing)
        for name in ("do_execute", "do_executemany", "do_execute_no_params", "do_commit"):
            setattr(engine.dialect, name, _standing_before(getattr(engine.dialect, name), strike, reading))
            before.append((engine.dialect, name))
    try:
        yield
    finally:
        for dialect, name in before:
            delattr(dialect, name)
        for engine in set(engines):
            event.remove(engine, "commit", committing)


def _standing_before(real: Callable[..., Any], strike: Strike, reading: Any) -> Callable[..., None]:
    def called(first: Any, *rest: Any, **named: Any) -> None:
        if real.__name__ == "do_commit":
            call = Call("commit", getattr(reading, "yes", False), getattr(first, "driver_connection", first))
        else:
            # Under asyncio SQLAlchemy's cursor has the driver's own inside.
            call = Call("execute", False, getattr(getattr(first, "_cursor", first), "connection", None))
        strike(call, lambda: real(first, *rest, **named))

    return called


def engines_of(database: Database) -> tuple[Engine, Engine]:
    """The engine for everything, and the one for heartbeats."""
    return database.engine, database.beat_engine


class Nth:
    """Strikes once: at the n-th call of a kind, from 1; `happened` says whether it came to that."""

    def __init__(self, kind: str, n: int, moment: Moment, lose: Callable[[Call], Exception] = Call.lost) -> None:
        self._kind, self._n, self._moment, self._lose = kind, n, moment, lose
        self._lock = threading.Lock()
        self._seen = 0
        self.happened = False

    def __call__(self, call: Call, real: Callable[[], None]) -> None:
        with self._lock:
            self._seen += call.kind == self._kind and not call.reads
            mine = self._seen == self._n and call.kind == self._kind and not call.reads and not self.happened
            self.happened = self.happened or mine
        if not mine:
            real()
            return
        if self._moment is Moment.AFTER:
            real()
        raise self._lose(call)
