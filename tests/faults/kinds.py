"""What drivers raise, and the code of the one Runlane error that it has to become."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import psycopg
from attrs import frozen
from psycopg import errors

from tests.faults.driver import Call, sqlite_error


@frozen
class Kind:
    """A fault as the driver tells it."""

    name: str
    raised: Callable[[Call], Exception]
    code: str


def _says(error: type[psycopg.Error]) -> Callable[[Call], Exception]:
    return lambda call: error("the server says so\nDETAIL: at length")


def _shut_down(call: Call) -> Exception:
    call.end()
    return errors.AdminShutdown("terminating connection due to administrator command")


def _sqlite(text: str, code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> Callable[[Call], Exception]:
    return lambda call: sqlite_error(text, code, kind)


POSTGRES = [
    Kind("server gone", Call.lost, "storage_unavailable"),
    Kind("server shut down", _shut_down, "storage_unavailable"),
    Kind("statement timeout", _says(errors.QueryCanceled), "storage_unavailable"),
    Kind("disk full", _says(errors.DiskFull), "storage_unavailable"),
    Kind("out of memory", _says(errors.OutOfMemory), "storage_unavailable"),
    Kind("a standby", _says(errors.ReadOnlySqlTransaction), "storage_unavailable"),
    Kind("lock timeout", _says(errors.LockNotAvailable), "storage_conflict"),
    Kind("deadlock", _says(errors.DeadlockDetected), "storage_conflict"),
    Kind("tables missing", _says(errors.UndefinedTable), "configuration_invalid"),
    Kind("permission denied", _says(errors.InsufficientPrivilege), "configuration_invalid"),
    Kind("something else", _says(errors.InternalError_), "internal_error"),
    Kind("an error without a code", lambda call: psycopg.InterfaceError("the driver says so"), "storage_unavailable"),
]
SQLITE = [
    Kind("disk gone", Call.lost, "storage_unavailable"),
    Kind("disk full", _sqlite("database or disk is full", sqlite3.SQLITE_FULL), "storage_unavailable"),
    Kind("locked", _sqlite("database is locked", sqlite3.SQLITE_BUSY), "storage_unavailable"),
    Kind("table locked", _sqlite("database table is locked", sqlite3.SQLITE_LOCKED), "storage_unavailable"),
    Kind("read-only", _sqlite("attempt to write", sqlite3.SQLITE_READONLY), "configuration_invalid"),
    Kind("moved away", _sqlite("attempt to write", sqlite3.SQLITE_READONLY_DBMOVED), "configuration_invalid"),
    Kind("cannot be opened", _sqlite("unable to open", sqlite3.SQLITE_CANTOPEN), "configuration_invalid"),
    Kind(
        "no database", _sqlite("not a database", sqlite3.SQLITE_NOTADB, sqlite3.DatabaseError), "configuration_invalid"
    ),
    Kind("tables missing", _sqlite("no such table: runs", sqlite3.SQLITE_ERROR), "configuration_invalid"),
    Kind("damaged", _sqlite("malformed", sqlite3.SQLITE_CORRUPT, sqlite3.DatabaseError), "internal_error"),
    Kind("something else", _sqlite("no such column: x", sqlite3.SQLITE_ERROR), "internal_error"),
]
#: Every kind on the lanes that have a driver of their own; the memory lane shares SQLite's.
EVERY = [("sqlite", kind) for kind in SQLITE] + [("postgres", kind) for kind in POSTGRES]
#: Where they strike: at every statement, and some at every commit too.
STRIKES = [(lane, kind, "execute") for lane, kind in EVERY] + [
    (lane, kind, "commit") for lane, kind in [*EVERY[:3], *EVERY[-3:], *EVERY[len(SQLITE) :][:2]]
]
STRIKES += [("memory", kind, "execute") for kind in SQLITE[:2]]
