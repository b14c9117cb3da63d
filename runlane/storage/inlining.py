"""Inline projections: folded by the very transaction that appends the events, just before it commits.

So their tables are never behind the log nor ahead of it.  What is appended is read back, as positions are the
database's to give; then the projections' locks are taken, in one order for everybody, so that folds come one after the
other in the order of commits; and whoever has them looks again which projections are inline.  The locks come last: who
holds them waits for nobody.

Every transaction has to do it.  So ``inline_projections`` says which are inline, and whoever does not know one of them
is refused: by a trigger on PostgreSQL, which is there only as long as there is a row; on SQLite, where one writer has
the whole file, by a look before the commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import ARRAY, Connection, Integer, and_, bindparam, delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from runlane.errors import ConfigurationInvalid, ProjectionFailed, RunlaneError, StorageConflict, StorageUnavailable
from runlane.events import Recorded
from runlane.storage import commits, engines, faults, streams, tables
from runlane.storage.direct import shortest
from runlane.storage.tables import Guid
from runlane.storage.transaction import Transaction

_TABLE = tables.inline_projections
_EVENTS = tables.events.c
_ALL = select(_TABLE.c.environment, _TABLE.c.name, _TABLE.c.version, _TABLE.c.since).order_by(_TABLE.c.name)
_OF = _ALL.where(_TABLE.c.environment == bindparam("of_environment"))
_NAMES = "select environment, name, version from inline_projections"
#: Takes SQLite's write lock, and changes nothing.
_CLAIM = "update inline_projections set version = version where 0"
_NAMED = "select set_config('runlane.inline', %s, true)"
TRIGGER = "events_inline"
#: The most events that a fold is given at once.
_MOST = 1000
# What statements of somebody else's are planned with, rather than with what suits ours.
_PLAN = f"""
    select count(set_config(name, value, true)) from (values ('enable_bitmapscan', 'on'), ('enable_seqscan', 'on'),
    ('enable_mergejoin', 'on'), ('idle_in_transaction_session_timeout', '{engines.IDLE_READING}')) as s (name, value)"""

Fold = Callable[[Connection, Sequence[Recorded]], None]
#: Environment, name, version.
Key = tuple[str, str, int]


@frozen
class Inline:
    """A projection that this process folds inline; `types` are the stored names of the events that it wants, or all."""

    environment: str
    name: str
    version: int
    types: frozenset[str] | None
    fold: Fold

    @property
    def key(self) -> Key:
        """As it is registered."""
        return self.environment, self.name, self.version


@frozen
class Registered:
    """A projection that is inline in a database, and since when."""

    environment: str
    name: str
    version: int
    since: datetime


class Inlined:
    """The inline projections that the processes of one ``Database`` fold; without any it costs nothing.

    Args:
        where: names the database.
        is_shared: whether others may write to it, of whose projections nothing is known here.
    """

    def __init__(self, where: str, is_shared: bool) -> None:
        self._where = where
        self._looks = is_shared
        self._known: dict[tuple[str, str], Inline] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, one: Inline) -> None:
        """Fold it from now on, in every transaction, where it is registered.

        Raises:
            ConfigurationInvalid: another application on the same lane has it in another version.
        """
        known = self._known.get((one.environment, one.name), one)
        if known.version != one.version:
            raise ConfigurationInvalid(
                f"projection {one.name!r} is known in version {known.version} on this lane, and in {one.version}"
            )
        self._known = {**self._known, (one.environment, one.name): one}  # others may be looking through it

    def begin(self, tx: Transaction) -> Transaction:
        """The transaction, which may append: it says what it is going to fold."""
        if not self._known:
            return tx
        if tx.schema is not None:
            names = "\n".join(f"{environment}:{name}:{version}" for environment, name, version in self._keys())
            tx.statements.exec_driver_sql(_NAMED, (names,))
        return evolve(tx, appended=[])

    def end(self, tx: Transaction) -> None:
        """Fold what it has appended; nothing but the commit may follow.

        Raises:
            ProjectionFailed: a fold has raised; the transaction has to be rolled back.
            ConfigurationInvalid: a projection is inline here that is not known; the same.
        """
        if not tx.written:
            return
        if tx.schema is None and self._looks:
            self._require(tx)
        wanted = self._wanted(tx) if self._known else []
        if not wanted:
            return
        lock(tx, [(one.environment, one.name) for one, _ in wanted])
        there = {(row[0], row[1], row[2]) for row in tx.statements.exec_driver_sql(_asked(tx)).all()}
        for one, records in wanted:
            if one.key in there:
                fold(one.name, one.fold, tx.connection, records, self._where)

    @contextmanager
    def within(self, tx: Transaction) -> Iterator[Transaction]:
        """A part of a caller's transaction: folded at its end, and undone where that fails, whatever the caller does.

        The locks are kept until his commit.
        """
        if not self._known and (tx.schema is not None or not self._looks):
            yield tx
            return
        if tx.schema is None:
            # Before anything else, so that what is there now is there at the end.
            (shortest(tx.connection) if tx.connection.in_transaction() else tx.connection).exec_driver_sql(_CLAIM)
            if not self._known and not shortest(tx.connection).exec_driver_sql(_NAMES).all():
                yield tx
                return
        ask = tx.connection.exec_driver_sql
        ask("savepoint runlane_inline")
        try:
            own = self.begin(tx)
            yield own
            self.end(own)
        except BaseException:
            with suppress(SQLAlchemyError):  # what went wrong says more
                ask("rollback to savepoint runlane_inline")
                ask("release savepoint runlane_inline")
            raise
        ask("release savepoint runlane_inline")
        if self._known and tx.schema is not None:
            ask(_NAMED, ("",))

    def _keys(self) -> list[Key]:
        return sorted(one.key for one in self._known.values())

    def _require(self, tx: Transaction) -> None:
        mine = self._keys()
        for environment, name, version in tx.statements.exec_driver_sql(_NAMES).all():
            if (environment, name, version) not in mine and any(event[5] == environment for event in tx.written):
                raise ConfigurationInvalid(
                    f"projection {name!r} (version {version}) is inline in environment {environment!r}, and this "
                    "process does not fold it: give it to Runlane(inline_projections=[…]) in this version, or end it "
                    f"with `runlane projections remove {name}`"
                )

    def _wanted(self, tx: Transaction) -> list[tuple[Inline, list[Recorded]]]:
        """The projections that want some of what was appended, and what, in the order of positions."""
        if not {event[5] for event in tx.written} & {environment for environment, _ in self._known}:
            return []
        rows = _appended(tx)
        records = [streams.recorded(row) for row in rows]
        found = []
        for _, one in sorted(self._known.items()):
            mine = [
                record
                for row, record in zip(rows, records, strict=True)
                if row.environment == one.environment and (one.types is None or row.type in one.types)
            ]
            if mine:
                found.append((one, mine))
        return found


def fold(name: str, do: Fold, connection: Connection, records: Sequence[Recorded], where: str) -> None:
    """Have a projection fold events.

    Raises:
        ProjectionFailed: it could not.
        StorageConflict, StorageUnavailable: the database could not, and may another time.
    """
    try:
        for start in range(0, len(records), _MOST):
            do(connection, records[start : start + _MOST])
            if commits.is_over(connection):
                raise ConfigurationInvalid(commits.OVER)
    except SQLAlchemyError as error:
        meant = faults.translate(error, where)
        if isinstance(meant, (StorageConflict, StorageUnavailable)) and meant.retryable:
            raise meant from error
        raise _failed(name, meant if "denied" in meant.meta else getattr(error, "orig", None) or error) from error
    except Exception as error:
        raise _failed(name, error) from error


def prepared(tx: Transaction) -> Connection:
    """The connection of one of our own transactions, for statements of somebody else's."""
    if tx.schema is not None:
        tx.connection.exec_driver_sql(_PLAN)
    return tx.connection


def registered(tx: Transaction, environment: str) -> dict[str, Registered]:
    """The inline projections of an environment, by name."""
    found = tx.execute(_OF, {"of_environment": environment}).all()
    return {row.name: Registered(row.environment, row.name, row.version, row.since) for row in found}


def register(tx: Transaction, key: Key, at: datetime) -> None:
    """Make a projection inline; the caller has locked it, and holds off all writers."""
    environment, name, version = key
    row = {"environment": environment, "name": name, "version": version, "since": at}
    tx.execute(insert(_TABLE).values(**row))
    if tx.schema is not None and not _is_guarded(tx):
        for statement in guard(tx.schema):
            tx.connection.exec_driver_sql(statement)


def guard(schema: str) -> tuple[str, str]:
    """What makes the trigger that refuses who does not fold, and what makes it hold always."""
    of = f'"{schema}"'
    make = (
        f"create trigger {TRIGGER} after insert on {of}.events referencing new table as added "
        f"for each statement execute function {of}.require_inline()"
    )
    return make, f"alter table {of}.events enable always trigger {TRIGGER}"


def forget(tx: Transaction, environment: str, name: str) -> None:
    """A projection is inline no longer; the caller has locked it."""
    tx.execute(delete(_TABLE).where(_TABLE.c.environment == environment, _TABLE.c.name == name))


def unguard(tx: Transaction, patience_ms: int) -> None:
    """Where nothing is inline any more, have nobody pay for it; nobody may read the log for that moment.

    In a transaction of its own: who appends has the log before he waits for a projection, and whoever makes another one
    inline meanwhile has to be seen.
    """
    if tx.schema is None or not _is_guarded(tx) or tx.execute(_ALL).all():
        return
    _wait(tx, patience_ms)
    tx.connection.exec_driver_sql(f'lock table "{tx.schema}".events in access exclusive mode')
    if _is_guarded(tx) and not tx.execute(_ALL).all():
        tx.connection.exec_driver_sql(f'drop trigger {TRIGGER} on "{tx.schema}".events')


def lock(tx: Transaction, projections: Sequence[tuple[str, str]]) -> None:
    """Let nobody else fold these (environment, name), or change what they are, until the transaction ends."""
    numbers = {_number(tx.schema, environment, name) for environment, name in projections}
    tx.dialect.lock_numbers(tx.statements, sorted(numbers))


def hold_writers(tx: Transaction, patience_ms: int) -> None:
    """Wait until nobody is appending, and let nobody begin to until the transaction ends; the log can be read.

    Who appends holds the table's lock until he has committed: what comes later sees what this transaction has done.

    Raises:
        StorageConflict: somebody goes on for longer than this.
    """
    if tx.schema is not None:
        _wait(tx, patience_ms)
        tx.connection.exec_driver_sql(f'lock table "{tx.schema}".events in share row exclusive mode')


def _wait(tx: Transaction, patience_ms: int) -> None:
    tx.connection.exec_driver_sql(f"set local lock_timeout = {patience_ms}")


def _is_guarded(tx: Transaction) -> bool:
    asked = f"select from pg_trigger where tgname = '{TRIGGER}' and tgrelid = '\"{tx.schema}\".events'::regclass"
    return tx.connection.exec_driver_sql(asked).first() is not None


@cache
def _number(schema: str | None, environment: str, name: str) -> int:
    """Of the lock; who shares a number by chance only waits."""
    text = "\0".join(("inline", schema or "", environment, name))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def _asked(tx: Transaction) -> str:
    """Which projections are inline; on PostgreSQL the same round trip prepares our own connection for their folds."""
    if tx.schema is None:
        return _NAMES
    plan = f", ({_PLAN})" if tx.options is None else ""  # a caller's has plans of its own
    return f'select environment, name, version{plan} from "{tx.schema}".inline_projections'


def _failed(name: str, error: BaseException) -> ProjectionFailed:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    told = said if isinstance(error, RunlaneError) else f"{type(error).__name__}: {said}"
    return ProjectionFailed(
        f"inline projection {name!r} could not fold what was appended, and nothing was written: {told}",
        meta={"projection": name},
    )


def _appended(tx: Transaction) -> Sequence[Any]:
    """What the transaction has appended, as rows of ``streams.ENVELOPE`` in the order of positions."""
    if tx.schema is None:  # nobody else has written since the first of them
        stream_id, sequence, *_ = tx.written[0]
        return tx.execute(_since(), {"of_stream": stream_id, "of_sequence": sequence}).all()
    places = dict.fromkeys([*((event[0], event[1]) for event in tx.written), *(tx.appended or ())])
    ids, sequences = zip(*places, strict=True)
    return tx.execute(_at(), {"streams": list(ids), "sequences": list(sequences)}).all()


@cache
def _since() -> Any:
    first = select(_EVENTS.position).where(
        _EVENTS.stream_id == bindparam("of_stream"), _EVENTS.sequence == bindparam("of_sequence")
    )
    return select(*streams.ENVELOPE).where(_EVENTS.position >= first.scalar_subquery()).order_by(_EVENTS.position)


@cache
def _at() -> Any:
    lists = (bindparam("streams", type_=ARRAY(Guid)), bindparam("sequences", type_=ARRAY(Integer)))
    places = func.unnest(*lists).table_valued("stream_id", "sequence", name="places").render_derived()
    place = and_(_EVENTS.stream_id == places.c.stream_id, _EVENTS.sequence == places.c.sequence)
    return select(*streams.ENVELOPE).select_from(places.join(tables.events, place)).order_by(_EVENTS.position)
