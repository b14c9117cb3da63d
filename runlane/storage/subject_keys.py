"""The data keys of subjects, wrapped: the one table that is neither folded from the log nor written into it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from runlane.storage import tables
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction

log = logging.getLogger("runlane.keys")

_TABLE = tables.subject_keys
_C = _TABLE.c
_MINE = _C.environment == bindparam("of_environment")
_ROWS = select(_C.id, _C.subject, _C.master, _C.wrapped, _C.erased_at)
# Constants, so that SQLAlchemy knows them again.
_WITH_IDS = _ROWS.where(_MINE, _C.id.in_(bindparam("ids", expanding=True)))
_CURRENT = _ROWS.where(_MINE, _C.subject.in_(bindparam("subjects", expanding=True)), _C.erased_at.is_(None))
_OF_SUBJECT = _ROWS.where(_MINE, _C.subject == bindparam("of_subject")).order_by(_C.id).with_for_update()
_ERASE = update(_TABLE).where(_MINE, _C.id == bindparam("of_id")).values(wrapped=None, erased_at=bindparam("at"))
_REWRAP = (
    update(_TABLE)
    .where(_MINE, _C.id == bindparam("of_id"), _C.wrapped.is_not(None))
    .values(master=bindparam("by"), wrapped=bindparam("anew"))
)
_OTHERS = (
    _ROWS.where(_MINE, _C.erased_at.is_(None), _C.master != bindparam("current"))
    .order_by(_C.id)
    .limit(bindparam("most"))
    .with_for_update()
)


@frozen
class KeyRow:
    """A data key as it is stored; `wrapped` is None once it was erased.  The environment's own has no subject."""

    id: UUID
    subject: str
    master: str
    wrapped: bytes | None
    erased_at: datetime | None = None


def with_ids(tx: Transaction, environment: str, ids: Collection[UUID]) -> list[KeyRow]:
    """The keys with these ids, erased or not."""
    return _found(tx, _WITH_IDS, {"of_environment": environment, "ids": list(ids)})


def current(tx: Transaction, environment: str, subjects: Collection[str]) -> dict[str, KeyRow]:
    """By subject, the keys that encrypt at present."""
    found = _found(tx, _CURRENT, {"of_environment": environment, "subjects": list(subjects)})
    return {row.subject: row for row in found}


def of_subject(tx: Transaction, environment: str, subject: str) -> list[KeyRow]:
    """Every key that a subject ever had; nobody else changes them until the transaction ends."""
    return _found(tx, _OF_SUBJECT, {"of_environment": environment, "of_subject": subject})


def wrapped_otherwise(tx: Transaction, environment: str, master: str, limit: int) -> list[KeyRow]:
    """Up to `limit` keys that another master key than this has wrapped; locked."""
    return _found(tx, _OTHERS, {"of_environment": environment, "current": master, "most": limit})


def add(tx: Transaction, environment: str, rows: Sequence[KeyRow], at: datetime) -> None:
    """Store keys of subjects that have none at present; of those that have got one meanwhile nothing is written."""
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    for row in rows:  # in the order of their subjects, so that two transactions cannot wait for each other in a circle
        values = {
            "id": row.id,
            "environment": environment,
            "subject": row.subject,
            "master": row.master,
            "wrapped": row.wrapped,
            "created_at": at,
        }
        tx.execute(dialect.insert(_TABLE).values(**values).on_conflict_do_nothing())


def erase(tx: Transaction, environment: str, key_id: UUID, at: datetime) -> None:
    """Destroy a key; its row stays, to tell what has become of it."""
    if tx.schema is None:
        tx.statements.exec_driver_sql("pragma secure_delete = on")  # what was there is written over
    tx.execute(_ERASE, {"of_environment": environment, "of_id": key_id, "at": at})


def rewrap(tx: Transaction, environment: str, key_id: UUID, master: str, wrapped: bytes) -> None:
    """Store a key as another master key has wrapped it."""
    tx.execute(_REWRAP, {"of_environment": environment, "of_id": key_id, "by": master, "anew": wrapped})


def _found(tx: Transaction, statement: Any, asked: Mapping[str, Any]) -> list[KeyRow]:
    rows = tx.execute(statement, asked).all()
    return [KeyRow(row.id, row.subject, row.master, row.wrapped, row.erased_at) for row in rows]


def scrub(database: Database) -> None:
    """Take what erased rows held out of the table's pages, as far as the database can be made to; else that is done by
    its next vacuum, or by whatever takes the place."""
    try:
        with database.engine.connect() as connection:
            if database.schema is None:
                _checkpoint(connection.connection.driver_connection)
            else:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql(f'vacuum "{database.schema}".subject_keys')
    except (SQLAlchemyError, sqlite3.Error) as error:  # readers are in the way, or the role may not
        log.info("the pages of erased keys were not scrubbed: %s", type(error).__name__)


def _checkpoint(driver: Any) -> None:
    """Empty SQLite's write-ahead log, outside of any transaction; a reader in the way is waited for no longer than a
    second."""
    ((patience,),) = driver.execute("pragma busy_timeout").fetchall()
    driver.execute("pragma busy_timeout = 1000")
    try:
        driver.execute("pragma wal_checkpoint(truncate)").fetchall()
    finally:
        driver.execute(f"pragma busy_timeout = {int(patience)}")
