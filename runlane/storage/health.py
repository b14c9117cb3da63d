"""Looking at a database: which checks are made, each in a short transaction of its own that only reads.

Whatever one of them cannot look at, the others are made.  No statement may take long or wait for a lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from attrs import frozen
from sqlalchemy import inspect

from runlane.clock import Clock
from runlane.errors import ConfigurationInvalid, RunlaneError, StorageUnavailable
from runlane.health import Check, Health, Thresholds
from runlane.storage import faults, tables
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction

#: Milliseconds that one statement may take on PostgreSQL, and that it may wait for a lock.
_STATEMENT, _LOCK = 5_000, 500
#: Seconds after which no further check is begun: who asks has a timeout of his own.
_PATIENCE = 30.0
_BOUNDED = f"set local statement_timeout = {_STATEMENT}; set local lock_timeout = {_LOCK}"
_OURS = frozenset(table.name for table in tables.metadata.tables.values())


@frozen
class Look:
    """What a check may use: a transaction that only reads, and what its figures are judged by."""

    database: Database
    tx: Transaction
    environment: str
    thresholds: Thresholds
    #: Whether this process uses the database, and does not only look.
    is_used: bool

    def now(self) -> datetime:
        """The instant by which leases and due times go."""
        return self.tx.now()

    def asked(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a statement in the driver's own form."""
        return list(self.tx.connection.exec_driver_sql(statement, parameters).all())


#: Makes one check; its name is known beforehand, for the case that it cannot be made.
Reading = Callable[[Look], Check]


def examine(
    database: Database,
    environment: str,
    thresholds: Thresholds,
    clock: Clock | None,
    readings: Mapping[str, Reading],
    *,
    is_used: bool,
) -> tuple[Check, ...]:
    """Make these checks, in this order; `is_used` says whether this process uses the database besides.

    Raises:
        StorageUnavailable, ConfigurationInvalid: the database cannot be looked at, or has no Runlane tables at all.
    """
    reach(database, clock)
    look = partial(Look, database, environment=environment, thresholds=thresholds, is_used=is_used)
    deadline, made = monotonic() + _PATIENCE, []
    for name, reading in readings.items():
        if monotonic() < deadline:
            made.append(_made(database, clock, look, name, reading))
        else:
            made.append(_not_made(name, f"the checks before it took {_PATIENCE:g} s", "storage_unavailable"))
    return tuple(made)


def reach(database: Database, clock: Clock | None = None) -> None:
    """Make sure that there is a database with at least one of Runlane's tables; no file is made or changed."""
    if database.schema is None and not database.is_memory:
        _look_at_file(database)
    with _reading(database, clock) as tx:
        tx.dialect.now(tx.statements)
        found = inspect(tx.connection).get_table_names(schema=database.schema)
    if not _OURS & set(found):
        raise faults.not_migrated(database.where)


def _look_at_file(database: Database) -> None:
    """A connection of our own would make the file, and turn that of somebody else to write-ahead logging."""
    name = database.url.database or ""
    if name.startswith("file:"):
        return
    if not Path(name).exists():
        raise ConfigurationInvalid(f"{database.where} is not there")
    try:
        with closing(sqlite3.connect(f"file:{quote(name)}?mode=ro", uri=True)) as connection:
            found = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error:
        return  # our own connection tells what is wrong
    if not _OURS & found:
        raise faults.not_migrated(database.where)


@contextmanager
def _reading(database: Database, clock: Clock | None) -> Iterator[Transaction]:
    with database.read(clock) as tx:
        if database.schema is not None:
            tx.connection.exec_driver_sql(_BOUNDED)
        yield tx


def _made(
    database: Database, clock: Clock | None, look: Callable[[Transaction], Look], name: str, reading: Reading
) -> Check:
    try:
        with _reading(database, clock) as tx:
            return reading(look(tx))
    except RunlaneError as error:
        if isinstance(error, StorageUnavailable):
            reach(database, clock)  # raises if it is away altogether
        waited = f"it waited {_LOCK / 1000:g} s for a lock that somebody holds"
        return _not_made(name, waited if faults.is_locked_out(error) else error.message, error.code.value)
    except Exception as error:
        return _not_made(name, f"{type(error).__name__}: {error}".splitlines()[0], "internal_error")


def _not_made(name: str, why: str, code: str) -> Check:
    advice = {
        "configuration_invalid": "look with a role that may read everything (docs/roles.md: auditor), or put it right",
        "storage_unavailable": "look again; if it stays so, look at the load of the database",
        "storage_conflict": "look again; somebody holds a lock that excludes readers",
    }.get(code, "look again with `runlane --debug doctor`, and report it if it stays so")
    return Check(name, Health.WARNING, f"could not be looked at: {why}", advice, {"error": code})
