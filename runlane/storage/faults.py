"""Driver errors to Runlane's own, by their codes and never by their texts; no driver exception passes this door."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from runlane.errors import (
    ConfigurationInvalid,
    ConflictKind,
    InternalError,
    RunlaneError,
    StorageConflict,
    StorageUnavailable,
)
from runlane.storage import privileges

# PostgreSQL: serialization failure, deadlock; and a lock that was not to be had within lock_timeout.
_CONFLICTS = frozenset({"40001", "40P01"})
_LOCKED = "55P03"
_DENIED = "42501"
#: Behind the first line of a message: what is wrong with which row or key, or where in the rows of a copy.
_QUOTED = re.compile(r"\n(?:DETAIL|CONTEXT): .*", re.DOTALL)
_SQLITE_BUSY, _SQLITE_LOCKED, _SQLITE_READONLY, _SQLITE_IOERR, _SQLITE_FULL, _SQLITE_CANTOPEN = 5, 6, 8, 10, 13, 14
_SQLITE_CORRUPT, _SQLITE_NOTADB = 11, 26
#: What says that the way to the database is broken, where the database itself has not said anything.
_LOST = (exc.OperationalError, exc.InterfaceError, exc.InternalError)
#: PostgreSQL, or a pooler before it: nobody knows what became of the transaction.
_UNRESOLVED = "40003"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Let no driver error pass: raise the Runlane error it means; `where` names the database, without secrets."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        _forget_rows(error)
        raise translate(error, where) from error


def translate(error: exc.SQLAlchemyError, where: str) -> RunlaneError:
    """The Runlane error that `error` means."""
    if isinstance(error, exc.TimeoutError):
        return StorageUnavailable(
            f"no free connection to {where} in time; raise pool_size or finish transactions sooner"
        )
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None)
    if state == _DENIED:
        return privileges.denied(str(original), getattr(error, "statement", None), where)
    if isinstance(state, str):
        return _postgres(state, str(original), where)
    sqlite_code = getattr(original, "sqlite_errorcode", None)
    if isinstance(sqlite_code, int):
        return _sqlite(sqlite_code & 0xFF, str(original), where)
    # libpq's own words about a protocol that it does not understand have no class but the most general one.
    lost = isinstance(error, _LOST) or type(error) is exc.DatabaseError
    if lost or getattr(error, "connection_invalidated", False):
        return StorageUnavailable(f"{where} cannot be reached: {_first_line(original or error)}")
    if isinstance(error, exc.ArgumentError):
        return ConfigurationInvalid(f"{where} is no valid database: {_first_line(error)}")
    return InternalError(f"unexpected answer of {where}: {_first_line(original or error)}")


def _forget_rows(error: exc.SQLAlchemyError) -> None:
    """Leave out of an error, which a traceback shows as a cause, the rows and keys that PostgreSQL quotes in it."""
    original = getattr(error, "orig", None)
    if isinstance(original, Exception) and hasattr(original, "diag"):
        for one in (error, original):
            one.args = tuple(_QUOTED.sub("", part) if isinstance(part, str) else part for part in one.args)


def _postgres(state: str, text: str, where: str) -> RunlaneError:
    if state in _CONFLICTS:
        return StorageConflict(f"{where} resolved a conflict against this transaction", kind=ConflictKind.SEQUENCE)
    if state == _LOCKED:
        told = f"a lock that somebody holds in {where} was not to be had in time"
        return StorageConflict(told, kind=ConflictKind.SEQUENCE)
    if state == "23505":
        return StorageConflict(f"{where} already holds such a row", kind=ConflictKind.SEQUENCE, retryable=False)
    if state == "09000":  # of an inline projection that the transaction does not fold
        return ConfigurationInvalid(text.splitlines()[0])
    if state == "25P01":
        return ConfigurationInvalid("no transaction is open on connection=: it commits each statement by itself")
    if state in ("42P01", "3F000"):
        return not_migrated(where, text.splitlines()[0])
    if state in ("28P01", "28000", "3D000"):
        return ConfigurationInvalid(f"{where} refuses the connection: {text.splitlines()[0]}")
    if state in ("26000", "42P05"):  # a prepared statement that is not there, or is there already
        return ConfigurationInvalid(
            f"{where} is reached through a pooler that keeps no prepared statements; leave prepare_threshold out of the"
            " URL, or see docs/deployment.md, Behind PgBouncer"
        )
    if state == "25006":
        return StorageUnavailable(f"{where} is read-only: a standby, or a default of the role or the database")
    if state == "25P02":
        return ConfigurationInvalid("the transaction of connection= has failed already; roll it back first")
    if state[:2] in ("08", "53", "57", "58") or state in ("25P03", "25P04"):
        return StorageUnavailable(f"{where} is unavailable: {text.splitlines()[0]}")
    return InternalError(f"unexpected answer of {where} (SQLSTATE {state}): {text.splitlines()[0]}")


def _sqlite(code: int, text: str, where: str) -> RunlaneError:
    if code in (_SQLITE_BUSY, _SQLITE_LOCKED):
        return StorageUnavailable(f"{where} was locked by another process for longer than the busy timeout")
    if code == _SQLITE_FULL:
        return StorageUnavailable(f"{where} is full: no space left on the device; nothing was written")
    if code == _SQLITE_READONLY:
        return ConfigurationInvalid(f"{where} is read-only")
    if code == _SQLITE_CANTOPEN:
        return ConfigurationInvalid(f"{where} cannot be opened; does its folder exist, and may this user write there?")
    if code == _SQLITE_IOERR:
        return StorageUnavailable(f"{where} had an input/output error: {text}")
    if code == _SQLITE_NOTADB:
        return ConfigurationInvalid(f"{where} is not an SQLite database")
    if code == _SQLITE_CORRUPT:
        return InternalError(f"{where} is damaged: {text}")
    if text.startswith("no such table"):
        return not_migrated(where, text)
    return InternalError(f"unexpected answer of {where}: {text}")


def is_broken_off(error: exc.DBAPIError) -> bool:
    """Whether PostgreSQL's answer to a commit leaves open whether that has happened.

    So it is where the driver speaks for the server: a pooler whose server dies can pass on an answer and then its own
    last word, which the driver does not understand.
    """
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state == _UNRESOLVED or state[:2] == "08"


def is_locked_out(error: RunlaneError) -> bool:
    """Whether PostgreSQL gave up waiting for a lock that somebody else holds."""
    original = getattr(error.__cause__, "orig", None)
    return getattr(original, "sqlstate", None) == _LOCKED


def is_full(error: exc.DBAPIError) -> bool:
    """Whether SQLite found no room, and has rolled back the transaction by itself."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == _SQLITE_FULL


def is_duplicate(error: exc.IntegrityError) -> bool:
    """Whether a row with this key exists already, rather than some other constraint being broken."""
    original: object = error.orig
    return getattr(original, "sqlstate", None) == "23505" or getattr(original, "sqlite_errorcode", None) in (
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    )


def not_migrated(where: str, said: str | None = None) -> ConfigurationInvalid:
    """The database has no Runlane tables; or a statement of somebody else's names another one, as `said` tells."""
    told = "" if said is None else f": {said}"
    return ConfigurationInvalid(f"{where} is not migrated; run `runlane migrate` or app.migrate() first{told}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
