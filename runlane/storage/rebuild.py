"""All tables that are folded from the log, made again from it while others go on working.

The log is folded into shadow tables, page by page in short transactions, so that the memory it takes does not grow
with the log and nothing is held up.  What was appended meanwhile is folded in afterwards, once to have a state that
was there at one moment, and once more when the indexes stand; then the shadows are compared with the live tables.  At
last, in one transaction that nobody else can write beside, what came since is folded in, the shadows take the place of
the live tables, and the log tells of it.  Up to then the live tables are untouched: who dies before leaves only
shadows, which the next rebuild removes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from attrs import Factory, define, frozen
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from runlane.clock import Clock
from runlane.errors import ConflictKind, InvariantViolation, StorageConflict
from runlane.events import TablesRebuilt
from runlane.projections import version
from runlane.projections.schedules import ScheduleState
from runlane.storage import faults, folding, install, log, poolers
from runlane.storage.findings import Difference
from runlane.storage.folding import COLUMNS, Folder
from runlane.storage.postgres_shadows import PostgresShadows
from runlane.storage.shadows import Shadows
from runlane.storage.sqlite_shadows import SqliteShadows
from runlane.storage.transaction import Transaction
from runlane.values import SYSTEM, Actor

if TYPE_CHECKING:
    from runlane.storage.database import Database

#: The most differences that are told one by one.
MOST = 1000
#: How many streams are folded again at once.
_STREAMS = 500
#: Seconds for which the tables may be too busy to be locked, and milliseconds of patience with each try: at last more
#: than the second after which PostgreSQL has its own vacuum make way.
_PATIENCE, _TRIES = 60.0, (50, 100, 200, 400, 800, 1600)
_BEFORE_ALL = UUID(int=0), 0
_NOT_NOW = frozenset({"55P03", "40P01"})  # no lock in time, deadlock


@frozen
class Rebuilt:
    """What a rebuild has read, made and found.

    Args:
        events: how many events were folded; those of streams that moved meanwhile more than once.
        runs, schedules, occurrences, queues, keys: how many rows there are, over all environments.
        rows: how many of them were missing, too many or different, damaged histories among them.
        damaged: how many histories could not be folded; what is stored for them stays.
        differences: what was different, field by field, of up to 1000 rows.
        swapped: whether the tables were put right; not by a dry run.
        held: for how long others could not write meanwhile.
    """

    events: int
    runs: int
    schedules: int
    occurrences: int
    queues: int
    keys: int
    rows: int
    damaged: int
    differences: tuple[Difference, ...]
    swapped: bool
    held: timedelta | None = None

    @property
    def identical(self) -> bool:
        """Whether folding the log gave exactly what was stored."""
        return not self.differences


@define
class _Found:
    """What was found when shadows and live tables were compared."""

    counts: dict[str, Counter[str]]
    different: Counter[str]
    told: list[Difference]


def rebuild(
    database: Database,
    *,
    clock: Clock | None = None,
    progress: Callable[[int], None] | None = None,
    swap: bool = True,
    outdated: bool = False,
    actor: Actor = SYSTEM,
    reason: str | None = None,
) -> Rebuilt:
    """Fold the log of all environments again, and put the result in the place of the tables.

    Args:
        progress: called with the number of events folded so far.
        swap: else differences are only told.
        outdated: do nothing if somebody else has made the tables by this version of the folds meanwhile.

    Raises:
        ConfigurationInvalid: a pooler in transaction mode is between, where the lock of a rebuild would be left behind.
        StorageConflict: another rebuild is under way, or others use the tables without a break.
        InvariantViolation: rows that the log folds to cannot stand beside each other.
    """
    work = _Rebuild(database, clock, progress, actor, reason, outdated)
    if database.schema is not None:
        with faults.translated(database.where):
            poolers.require_session(database.engine, database.where, "a rebuild of the tables")
    with faults.translated(database.where), work.line.opened():
        with work.line.writing() as tx:
            if not work.place.lock(tx):
                raise StorageConflict(
                    "another rebuild of these tables is under way", kind=ConflictKind.SEQUENCE, retryable=True
                )
        try:
            return work.run(swap)
        except IntegrityError as error:
            detail = str(error.orig).splitlines()[0]
            raise InvariantViolation(f"the rows that the log folds to exclude each other: {detail}") from error
        finally:
            work.leave()


def renew(database: Database) -> None:
    """Rebuild tables that an older version of the folds has made; waits for who does it already."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            rebuild(database, outdated=True, reason=f"version {version.PROJECTION_VERSION} of the folds")
            return
        except StorageConflict:
            with database.read() as tx:
                if not install.is_outdated(tx.connection, tx.schema):
                    return
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


class _Line:
    """One connection, and transactions on it one after the other; on the memory lane they are a single one.

    Temporary tables and locks that outlive a transaction belong to a connection.
    """

    def __init__(self, database: Database, clock: Clock | None) -> None:
        self._database, self._clock = database, clock
        self._connection: Connection | None = None
        self._only: Transaction | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take the connection, and give it back at the end."""
        with self._database.engine.connect() as self._connection:
            if not self._database.is_memory:
                yield
                return
            with self._connection.begin():
                self._only = self._database.join(self._connection, self._clock)
                yield

    def hang_up(self) -> None:
        """Close the connection, and with it what it holds; the database in memory lives in it."""
        if self._connection is not None and not self._database.is_memory:
            self._connection.invalidate()

    def writing(self, *, locked: bool = False) -> Any:
        """A transaction that writes shadows; `locked`, if SQLite's live tables too."""
        return self._begun(locked, "READ COMMITTED")

    def snapshot(self) -> Any:
        """The same, which reads one and the same state throughout."""
        return self._begun(False, "REPEATABLE READ")

    @contextmanager
    def _begun(self, locked: bool, isolation: str) -> Iterator[Transaction]:
        connection = self._connection
        assert connection is not None
        if self._only is not None:
            yield self._only
            return
        if self._database.schema is not None:
            connection.execution_options(isolation_level=isolation)
        # On a file a transaction that only reads may still write temporary tables.
        connection.execution_options(runlane_read_only=not locked)
        if not locked:
            with connection.begin():
                yield self._database.join(connection, self._clock)
            return
        with self._database.writer, connection.begin():
            yield self._database.join(connection, self._clock)


@define
class _Rebuild:
    """One rebuild under way."""

    database: Database
    clock: Clock | None
    progress: Callable[[int], None] | None
    actor: Actor
    reason: str | None
    outdated: bool
    line: _Line = Factory(lambda self: _Line(self.database, self.clock), takes_self=True)
    place: Any = Factory(lambda self: _place(self.database), takes_self=True)
    shadows: Shadows = Factory(lambda self: Shadows(self.place), takes_self=True)
    events: int = 0
    mark: str = ""
    damaged: dict[UUID, Difference] = Factory(dict)

    def run(self, swap: bool) -> Rebuilt:
        """All of it."""
        self._fold_all()
        with self.line.writing() as tx:
            self.place.add_keys(tx)
        with self.line.snapshot() as tx:
            self._catch_up(tx, owning=True)
        with self.line.writing() as tx:
            self.place.add_indexes(tx)
        with self.line.snapshot() as tx:
            self._catch_up(tx)
            found = _Found(self.shadows.counts(tx), *self.shadows.compare(tx, MOST))
        if not swap:
            return self._told(found, None)
        return self._told(found, self._swap(found))

    def leave(self) -> None:
        """Remove the shadows and let others rebuild; where that cannot be done now, the next rebuild does it."""
        try:
            with self.line.writing() as tx:
                self.place.drop(tx)
            with self.line.writing() as tx:
                self.place.unlock(tx)
        except Exception:
            self.line.hang_up()

    def _fold_all(self) -> None:
        """Fold every stream that is there at the beginning."""
        with self.line.writing() as tx:
            self.place.create(tx)
        with self.line.writing() as tx:
            self.mark = self.place.mark(tx)
            last = folding.last_stream(tx)
        folder, behind = Folder(), _BEFORE_ALL
        while last is not None:
            with self.line.writing() as tx:
                place = folder.take(folding.page(tx, behind, last))
                if place is None:
                    last = None
                    folder.close()
                else:
                    behind = place
                self._write(tx, folder)
            if self.progress is not None:
                self.progress(folder.events)
        self.events = folder.events

    def _write(self, tx: Transaction, folder: Folder) -> dict[str, list[folding.Row]]:
        """Put what was folded into the shadows."""
        found = folder.drain()
        self.shadows.put(tx, found)
        self.shadows.put_resets(tx, folder.resets)
        for kind, damage in folder.damaged:
            self.damaged[damage.stream_id] = damage
            self.shadows.keep(tx, kind, damage.stream_id)
        folder.damaged.clear()
        folder.resets.clear()
        return found

    def _catch_up(self, tx: Transaction, owning: bool = False) -> None:
        """Fold what was appended since; `owning`: and find the owners of all keys, for the first time."""
        mark, since = self.place.mark(tx), self.mark
        pruned = owning
        with closing(self.place.touched(tx, since)) as touched:
            while some := list(islice(touched, _STREAMS)):
                pruned |= any(tells for _, _, tells in some)
                ids = [stream for stream, least, _ in some if not least.startswith("environment.")]
                self._fold_again(tx, ids, settle=not owning)
        if pruned:
            self.shadows.forget_pruned(tx)
        if owning:
            self.shadows.own(tx)
        self.mark = mark

    def _fold_again(self, tx: Transaction, ids: Sequence[UUID], *, settle: bool) -> None:
        """Fold these streams again; of schedules, which may be long, only what is new."""
        known = {row.stream_id: row for row in self.shadows.schedules(tx, ids) if row.stream_id not in self.damaged}
        folder = Folder()
        folder.take(folding.of_streams(tx, [id for id in ids if id not in known]))
        folder.close()
        for id, row in known.items():
            folder.go_on(ScheduleState(**row._mapping), folding.behind(tx, id, row.sequence))
        for id in ids:
            self.damaged.pop(id, None)
        self.shadows.forget(tx, ids)
        resets = list(folder.resets)
        found = self._write(tx, folder)
        if settle:
            self.shadows.settle(tx, found["runs"], resets)
        self.events += folder.events

    def _swap(self, found: _Found) -> timedelta | None:
        """Put the shadows in the place of the live tables; for how long others could not write."""
        deadline = time.monotonic() + _PATIENCE
        for attempt in range(1_000_000):
            patience = _TRIES[min(attempt, len(_TRIES) - 1)]
            try:
                return self._try_to_swap(found, patience)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _NOT_NOW:
                    raise
                if time.monotonic() > deadline:
                    raise StorageConflict(
                        f"the tables were in use for {_PATIENCE:g} s without a break, by a transaction that "
                        "stays open; they are as they were",
                        kind=ConflictKind.SEQUENCE,
                    ) from error
            time.sleep(patience / 1000)  # for those who queued up behind
            with self.line.snapshot() as tx:
                self._catch_up(tx)
        raise AssertionError("unreachable")

    def _try_to_swap(self, found: _Found, patience: int) -> timedelta | None:
        with self.line.writing(locked=True) as tx:
            if self.outdated and not install.is_outdated(tx.connection, tx.schema):
                return None
            before = self.mark, dict(self.damaged)
            try:
                self.place.can_wait(tx, patience)
                for environment in sorted(found.counts.keys() | found.different.keys()):
                    log.lock_environment(tx, environment)
                self.place.hold(tx)
                began = time.monotonic()
                self._catch_up(tx)
                self.place.exchange(tx, self.shadows)
                told = self.database.inline.begin(tx)
                self._tell(told, found)
                install.fold(tx.connection, tx.schema)
                self.database.inline.end(told)
            except BaseException:
                self.mark, self.damaged = before  # what was folded in is rolled back
                raise
        return timedelta(seconds=time.monotonic() - began)

    def _tell(self, tx: Transaction, found: _Found) -> None:
        now = tx.now()
        for environment in sorted(found.counts.keys() | found.different.keys()):
            counts = found.counts.get(environment, Counter())
            event = TablesRebuilt(
                runs=counts["runs"],
                schedules=counts["schedules"],
                occurrences=counts["occurrences"],
                queues=counts["queues"],
                keys=counts["idempotency_keys"],
                differences=found.different[environment],
                version=version.PROJECTION_VERSION,
                reason=self.reason,
            )
            log.append_environment(tx, environment, event, now, self.actor)

    def _told(self, found: _Found, held: timedelta | None) -> Rebuilt:
        made = {name: sum(counts[name] for counts in found.counts.values()) for name in COLUMNS}
        damaged = sorted(self.damaged.values(), key=lambda one: one.stream_id)
        return Rebuilt(
            self.events,
            made["runs"],
            made["schedules"],
            made["occurrences"],
            made["queues"],
            made["idempotency_keys"],
            found.different.total() + len(damaged),
            len(damaged),
            tuple([*damaged, *found.told][:MOST]),
            held is not None,
            held,
        )


def _place(database: Database) -> Any:
    return SqliteShadows() if database.schema is None else PostgresShadows(database.schema)
