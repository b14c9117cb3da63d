"""The epochs of a log: which history a position belongs to.

A position names an event only within one history.  Histories part when a database is restored: from a dump into a
fresh cluster, from an older backup, to a point in time, or by a failover that lost the last commits.  What was written
before is common to both, and from there on the same positions are given to other events.

So each log has epochs, in a table of its own.  An epoch is opened where the database is found to be another one than
before: another cluster (``system_identifier``), another timeline of it, another database.  It notes the highest
position that had been given then: up to there the new history is the old one, and a cursor of an older epoch holds;
beyond it, it speaks of events that were lost.  An epoch also has a random token, which cursors carry, so that a cursor
of some other log, or of an epoch that was opened after the backup was made, is not mistaken for one of these.

Transaction ids start again low in a fresh cluster, but nothing here compares them across epochs: order is the order of
positions, which a dump keeps, and the sequence behind them goes on where it stood.

An epoch is opened by ``migrate``, by ``start`` and by the first look of a follower, whichever comes first.  What is
written between a restore and that moment counts to the old epoch; a cursor from there is still found out if the event
at its position is not the one it was made at (``storage.places``).  Where the role may not call
``pg_control_system()``, a new cluster shows only if its timeline or the number of its database differs; then that
comparison is all there is.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from attrs import frozen
from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql, sqlite

from runlane.errors import ConfigurationInvalid, StorageUnavailable
from runlane.storage import tables
from runlane.storage.transaction import Transaction

_TABLE = tables.log_epochs
_C = _TABLE.c
_ALL = select(_C.epoch, _C.token, _C.identity, _C.since).order_by(_C.epoch)
#: A part of an identity that the role may not know, or that a standby does not have.
_UNKNOWN = "-"
#: The timeline of a primary; null on a standby.
TIMELINE = "case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end"
_MAY_ASK = "select has_function_privilege('pg_catalog.pg_control_system()', 'execute')"
_SYSTEM = "select system_identifier::text from pg_control_system()"
_PLACE = f"select {TIMELINE}, (select oid::text from pg_database where datname = current_database())"


@frozen
class Epoch:
    """One epoch of a log: its number, its token, what the database was, and the last position of the one before."""

    number: int
    token: str
    identity: str
    since: int


def history(tx: Transaction) -> list[Epoch]:
    """Every epoch, the oldest first."""
    found = tx.execute(_ALL).all()
    return [Epoch(row.epoch, row.token, row.identity, row.since) for row in found]


def token(tx: Transaction) -> str:
    """That of the last epoch; empty if none was ever opened."""
    return next((epoch.token for epoch in reversed(history(tx))), "")


def is_still(tx: Transaction, token: str) -> bool:
    """Whether this is the database that the last epoch was opened for, and that one has this token."""
    known = history(tx)
    return bool(known) and known[-1].token == token and is_same(known[-1].identity, _identity(tx))


def identity(tx: Transaction) -> str:
    """What tells this database from another one with the same content: cluster, timeline, database.

    Raises:
        StorageUnavailable: it is a standby, whose positions are not settled.
    """
    found = _identity(tx)
    if found.split("/")[1:2] == [_UNKNOWN]:
        raise StorageUnavailable("this is a standby; the log can be followed on the primary only")
    return found


def _identity(tx: Transaction) -> str:
    if tx.dialect.name != "postgresql":
        return "file"
    ask = tx.statements.exec_driver_sql
    system = ask(_SYSTEM).scalar_one() if ask(_MAY_ASK).scalar_one() else _UNKNOWN
    (row,) = ask(_PLACE).all()
    return f"{system}/{row[0] or _UNKNOWN}/{row[1]}"


def is_same(one: str, other: str) -> bool:
    """Whether two identities may be of one database: what is not known of one of them does not count."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return all(a == b or _UNKNOWN in (a, b) for a, b in pairs)


def may_open(tx: Transaction) -> bool:
    """Whether this role may open an epoch here, should one be due."""
    if tx.dialect.name != "postgresql":
        return True
    asked = f"select not pg_is_in_recovery() and has_table_privilege('{_named(tx, 'log_epochs')}', 'insert')"
    return bool(tx.statements.exec_driver_sql(asked).scalar_one())


def is_due(tx: Transaction) -> bool:
    """Whether an epoch has to be opened."""
    known = history(tx)
    return not known or not is_same(known[-1].identity, identity(tx))


def open_if_due(tx: Transaction) -> list[Epoch]:
    """Open an epoch if the database is another one than before; every epoch then.  Many may call it at once.

    Raises:
        ConfigurationInvalid: the sequence behind the positions was left behind by a restore, so that positions would be
            given a second time.
    """
    known, here = history(tx), identity(tx)
    if known and is_same(known[-1].identity, here):
        return known
    number = known[-1].number + 1 if known else 1
    since = 0
    if known:
        is_elsewhere = here.split("/")[::2] != known[-1].identity.split("/")[::2]
        # Asked first: others may append meanwhile, and what is stored was drawn before.
        stored = _highest_position(tx) if is_elsewhere else 0
        since = last_position(tx)
        if stored > since:
            raise ConfigurationInvalid(
                f"the log was restored with positions up to {stored}, but the sequence behind them stands at {since}: "
                f"select setval('{sequence(tx)}', {stored}) before anything is appended"
            )
    row = {
        "epoch": number,
        "token": secrets.token_hex(4),
        "identity": here,
        "since": since,
        "opened_at": datetime.now(UTC) if tx.clock is None else tx.clock(),
    }
    new = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(_TABLE).values(**row)
    tx.execute(new.on_conflict_do_nothing())
    return history(tx)


def last_position(tx: Transaction) -> int:
    """The highest position that was ever given, of events that were committed and of others."""
    if tx.dialect.name != "postgresql":
        asked = "select coalesce((select seq from sqlite_sequence where name = 'events'), 0)"
        return int(tx.statements.exec_driver_sql(asked).scalar_one())
    asked = f"select pg_sequence_last_value('{sequence(tx)}'::regclass)"
    return drawn(tx, tx.statements.exec_driver_sql(asked).scalar_one())


def drawn(tx: Transaction, last: int | None) -> int:
    """The last value of the sequence as PostgreSQL tells it: null if there is none, or for roles that may not know.

    Raises:
        ConfigurationInvalid: the role may not know.
    """
    if last is None:
        asked = f"select has_sequence_privilege('{sequence(tx)}', 'select')"
        if not tx.statements.exec_driver_sql(asked).scalar_one():
            raise ConfigurationInvalid(f"a follower needs SELECT on the sequence {sequence(tx)}")
    return last or 0


def sequence(tx: Transaction) -> str:
    """The name of the sequence behind the positions, as it stands within a quoted text."""
    return _named(tx, "events_position_seq")


def _named(tx: Transaction, name: str) -> str:
    return f'"{tx.schema}".{name}'  # plain names only: see storage.install


def _highest_position(tx: Transaction) -> int:
    if tx.dialect.name != "postgresql":
        return 0
    highest: Any = tx.execute(select(text("coalesce(max(position), 0)")).select_from(tables.events)).scalar_one()
    return int(highest)
