"""A database: its engine, its transactions, and how a caller's own connection joins them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar
from uuid import UUID

from attrs import evolve
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from runlane import jsontext
from runlane.capabilities import OF_THE_STORAGE, WHERE_STATE_LIVES, Capability
from runlane.clock import Clock
from runlane.errors import ConfigurationInvalid, ConflictKind, RunlaneError, StorageConflict, StorageUnavailable
from runlane.storage import (
    commits,
    engines,
    epochs,
    faults,
    inlining,
    install,
    log,
    poolers,
    rebuild,
    roles,
    shadows,
    urls,
)
from runlane.storage.compiled import Compiled
from runlane.storage.dialect import EventRow, Statements, StorageDialect, can_stamp
from runlane.storage.direct import is_heard, shortest
from runlane.storage.direct_postgres import PsycopgConnection
from runlane.storage.postgres import Postgres
from runlane.storage.sqlite import Sqlite
from runlane.storage.tables import SCHEMA
from runlane.storage.transaction import Transaction
from runlane.storage.turns import Turns

T = TypeVar("T")

#: How often a transaction that the database ended for the sake of another one is run again.
_ATTEMPTS = 8
#: Seconds at least that a writer waits for another thread of this process.
_TURN = 30.0
#: Statements that SQLite's driver keeps prepared on a connection; by default 128, which are fewer than there are.
_CACHED = 1000
#: Through which drivers a caller's connection may come: those that take our statements as they are.
_DRIVERS = {"postgresql": ("psycopg", "psycopg_async"), "sqlite": ("pysqlite", "aiosqlite")}
#: What every database here promises, wherever its state lives.
_PROMISED = OF_THE_STORAGE - WHERE_STATE_LIVES


class Database:
    """One database, opened lazily; safe to share between threads, not over a fork.

    Args:
        url: ``memory:``, ``sqlite:///file.db`` or ``postgresql://…``.
        schema: the PostgreSQL schema that holds Runlane's tables.
        pool_size: the greatest number of connections of this process, besides one for heartbeats.
        busy_timeout: seconds that a writer waits for SQLite's lock, or a caller for a connection.
        synchronous_commit: False trades the last moments before a crash for speed (PostgreSQL
            ``synchronous_commit=off``, SQLite ``synchronous=NORMAL``); consistency is never at risk.
        patience: seconds for which a database that broke during a commit is asked whether that happened.

    Raises:
        ConfigurationInvalid: the URL names no database that Runlane knows, or an option is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "runlane",
        pool_size: int = 10,
        busy_timeout: float = 30.0,
        synchronous_commit: bool = True,
        patience: float = commits.PATIENCE,
    ) -> None:
        parsed = urls.parsed(url)
        engines.check_options(pool_size, busy_timeout)
        self.is_memory = parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")
        self.where = "the memory lane" if self.is_memory else urls.described(parsed)
        self.url = parsed
        #: Whether the transport beside it carries one wakeup per run; the lane says so.
        self.publishes = False
        self.dialect: StorageDialect
        self._busy_timeout = busy_timeout
        self._patience = patience
        self._synchronous = synchronous_commit
        if parsed.get_backend_name() == "postgresql":
            self.schema: str | None = install.schema_name(schema)
            self.dialect = Postgres(install.quoted(schema))
        else:
            self.schema = None
            self.dialect = Sqlite()
        self._can_stamp = can_stamp(self.dialect)
        self._of_schema = {"schema_translate_map": {SCHEMA: self.schema}}
        #: The projections that its transactions fold.
        self.inline = inlining.Inlined(self.where, is_shared=not self.is_memory)
        # One connection guards the database in memory: whoever has it has the database.
        self.engine = self._engine(parsed, 1 if self.is_memory else pool_size)
        self._at_hand: list[Connection] = []
        self._keeps_at_hand = 2 if pool_size >= 5 else 0  # of a small pool none may be idle
        self._passings = commits.Passings()
        self._disposals = 0
        self._statements = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.beat_engine = self.engine if self.is_memory else self._engine(parsed, 1)
        is_file = parsed.get_backend_name() == "sqlite" and not self.is_memory
        self.writer: AbstractContextManager[None] = (
            Turns(self.where, max(busy_timeout, _TURN)) if is_file else nullcontext()
        )

    @property
    def chose_speed(self) -> bool:
        """Whether a crash may lose the last moments before it, by the choice of who made this."""
        return not self._synchronous

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this storage promises; an adapter that can do less says so here, and what needs it is refused."""
        return _PROMISED | {Capability.PROCESS_LOCAL_STATE if self.is_memory else Capability.DURABLE_STATE}

    @property
    def stamps(self) -> bool:
        """Whether one statement can make runs, tell when that was, and commit itself (``state``)."""
        return self._can_stamp and not self.inline

    @property
    def is_connected(self) -> bool:
        """Whether there are connections, in use or not."""
        pools: list[Any] = [engine.pool for engine in (self.engine, self.beat_engine)]
        return any(pool.checkedin() or pool.checkedout() for pool in pools)

    def _engine(self, url: URL, size: int) -> Engine:
        if url.get_backend_name() == "sqlite":
            connect_args: dict[str, Any] = {"timeout": self._busy_timeout, "check_same_thread": False}
            if "cached_statements" not in url.query:
                connect_args["cached_statements"] = _CACHED
        else:
            connect_args = engines.connect_args(url, self._synchronous)
            if poolers.THRESHOLD in url.query:
                connect_args[poolers.THRESHOLD] = poolers.threshold(url)
        try:
            engine = create_engine(
                url.difference_update_query([poolers.THRESHOLD]),
                poolclass=QueuePool,
                pool_size=size,
                max_overflow=0,
                pool_timeout=self._busy_timeout,
                pool_pre_ping=False,
                connect_args=connect_args,
                execution_options={"compiled_cache": Compiled(self.schema)},
                json_serializer=jsontext.dumps,
                json_deserializer=jsontext.decode,
                hide_parameters=True,  # payloads, which the causes of our errors would quote in every traceback
            )
            if url.get_backend_name() == "postgresql":
                from runlane.storage import postgres_packing  # noqa: F401 - it teaches the driver, if there is one
        except ModuleNotFoundError as error:
            raise ConfigurationInvalid(f"{self.where} needs a driver: pip install 'runlane[postgres]'") from error
        if url.get_backend_name() == "sqlite":
            engines.prepare_sqlite(engine, self._synchronous)
        else:
            poolers.attach(engine, url)
        engines.close_late_ones(engine, lambda: self._disposals)
        engines.name_schema(engine, self.schema)
        return engine

    @contextmanager
    def write(self, clock: Clock | None = None, *, beat: bool = False) -> Iterator[Transaction]:
        """A transaction that writes: committed at the end, rolled back by an exception.

        Raises:
            ProjectionFailed: an inline projection could not fold what it has appended.
            StorageUnavailable: among others where the connection broke during the commit, so that nobody knows whether
                it happened; ``meta["outcome"]`` is ``unknown`` then.
        """
        with faults.translated(self.where), self.writer:
            with (self.beat_engine if beat else self.engine).connect() as connection, connection.begin() as ending:
                tx = self.inline.begin(self._of_our_own(connection, clock))
                yield tx
                self.inline.end(tx)
                commits.commit(ending, tx, self.where)

    @contextmanager
    def read(self, clock: Clock | None = None) -> Iterator[Transaction]:
        """A transaction that only reads."""
        with faults.translated(self.where), self.engine.connect() as connection:
            connection.execution_options(runlane_read_only=True)
            with connection.begin():
                yield self._of_our_own(connection, clock)

    @contextmanager
    def snapshot(self, of: str | None = None) -> Iterator[Transaction]:
        """A transaction that reads one and the same state throughout, whatever others commit meanwhile.

        Args:
            of: the snapshot of another transaction of PostgreSQL's, which has exported it and is open still.
        """
        with faults.translated(self.where), self.engine.connect() as connection:
            if self.schema is not None:
                connection.execution_options(isolation_level="REPEATABLE READ")
            connection.execution_options(runlane_read_only=True)
            with connection.begin():
                tx = self.join(connection)
                if of is not None:
                    connection.exec_driver_sql(f"set transaction snapshot '{of}'")
                shadows.stay(tx)
                yield tx

    def join(self, connection: Connection, clock: Clock | None = None) -> Transaction:
        """A transaction that lives inside one the caller opened and will end.

        Raises:
            ConfigurationInvalid: the connection is to another kind of database, or through another driver.
        """
        name, driver = connection.dialect.name, connection.dialect.driver
        if name != self.engine.dialect.name or driver not in _DRIVERS[name]:
            accepted = " or ".join(
                f"{self.engine.dialect.name}+{known}" for known in _DRIVERS[self.engine.dialect.name]
            )
            raise ConfigurationInvalid(
                f"connection= must use {accepted}, as it joins {self.where}; it uses {name}+{driver}"
            )
        is_own = connection.dialect is self.engine.dialect or connection.dialect is self.beat_engine.dialect
        options = None if is_own else self._of_schema
        return Transaction(connection, self.dialect, self.schema, clock, self.publishes, options)

    def _of_our_own(self, connection: Connection, clock: Clock | None = None) -> Transaction:
        """A transaction that was begun here; its statements go the shortest way, unless somebody listens to them."""
        tx = self.join(connection, clock)
        if self.schema is None:
            statements: Statements = shortest(connection)
        else:
            statements = connection if is_heard(connection) else PsycopgConnection(connection)
        return tx if statements is connection else evolve(tx, statements=statements)

    def transact(self, work: Callable[[Transaction], T], clock: Clock | None = None, *, beat: bool = False) -> T:
        """Run `work` in a transaction of its own, and again if the database resolved a conflict against it.

        Where the connection broke during the commit, the log tells whether that happened: if it did, `work` has been
        done, and if not, it is run again.  A `work` that appends no event must therefore be one that may be repeated.

        Raises:
            StorageUnavailable: the database is away; if ``meta["outcome"]`` is ``unknown``, it could not be asked
                within `patience` seconds whether the commit had happened.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._once(work, clock, beat)
            except StorageConflict as error:
                if not error.retryable or attempt == _ATTEMPTS:
                    raise
            except StorageUnavailable as error:
                if commits.outcome(error) != commits.UNDONE or attempt == _ATTEMPTS:
                    raise
            time.sleep(random.uniform(0, 0.01 * attempt))  # noqa: S311
        raise AssertionError("unreachable")

    def _once(self, work: Callable[[Transaction], T], clock: Clock | None, beat: bool) -> T:
        done: list[T] = []
        written: list[EventRow] = []
        with self._passings.one() as mine:
            try:
                with self.write(clock, beat=beat) as tx:
                    written = tx.written
                    done.append(work(tx))
                    mine.ends(written)
            except StorageUnavailable as error:
                if commits.outcome(error) != commits.UNKNOWN:
                    raise
                if not written or not self._is_stored(written[0], beat, error):
                    raise commits.undone(self.where) from error
                if commits.is_anybodys(written[0]) and self._passings.may_mistake(mine):
                    raise
        return done[0]

    def _is_stored(self, event: EventRow, beat: bool, unknown: StorageUnavailable) -> bool:
        """Ask the log, as soon as it can be asked; raises `unknown` if that takes too long."""

        def ask(left: float) -> bool:
            with self.write(beat=beat) as tx:
                return log.is_stored(tx, event, min(left, 2.0))

        return commits.find_out(ask, self._patience, unknown, lambda error: error.retryable)

    def state(self, statement: Callable[[Transaction], T], again: Callable[[Transaction], T], ids: Sequence[UUID]) -> T:
        """Run `statement`, a single one that commits itself; where its answer was lost, find out whether it happened.

        Args:
            again: does the same in a transaction, unless it finds that it has been done.
            ids: the runs that it makes.

        Raises:
            StorageUnavailable: as by ``transact``.
        """
        try:
            with faults.translated(self.where), self._stating() as connection:
                with commits.stating(ids, self.where):
                    return statement(self._of_our_own(connection))
        except StorageConflict as error:
            if not error.retryable:
                raise
            return self.transact(again)
        except StorageUnavailable as error:
            if commits.outcome(error) != commits.UNKNOWN:
                raise
            return self._find_out(again, error)

    def singly(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, each of whose statements commits itself; once, whatever happens: for what may get lost."""
        with self._passings.one(), faults.translated(self.where), self._stating() as connection:
            return work(self._of_our_own(connection))

    @contextmanager
    def _stating(self) -> Iterator[Connection]:
        """A connection whose statements commit themselves.

        A few are kept at hand: to take one from the pool and to give it back costs as much as a short statement.
        """
        disposals = self._disposals
        try:
            connection = self._at_hand.pop()
        except IndexError:
            connection = self._statements.connect()
        try:
            yield connection
            connection.rollback()  # only in name: nothing is open
        except BaseException as error:
            if commits.is_unknown(error):
                connection.invalidate()  # the answer may come later, and is no answer to what is asked then
            connection.close()
            raise
        if disposals != self._disposals or len(self._at_hand) >= self._keeps_at_hand:
            connection.close()
        else:
            self._at_hand.append(connection)

    def _find_out(self, again: Callable[[Transaction], T], unknown: StorageUnavailable) -> T:
        """Repeat a statement whose answer was lost, as soon as it can be; raises `unknown` if that takes too long."""

        def passes(error: RunlaneError) -> bool:
            if not isinstance(error, (StorageConflict, StorageUnavailable)):
                raise error
            # A conflict over the run, if the statement has committed only now.
            return error.retryable or getattr(error, "kind", None) is ConflictKind.RUN_EXISTS

        return commits.find_out(lambda _: self.transact(again), self._patience, unknown, passes)

    def migrate(self, roles_too: bool | str = False) -> int:
        """Create or upgrade the tables, and rebuild them if the folds have changed; safe to call from many processes at
        once.  Returns the schema version; `roles_too` as ``Runlane.migrate`` has it."""
        prefix = roles.prefix_of(roles_too, self.schema)
        version, outdated = self.transact(lambda tx: install.migrate(tx.connection, self.schema, prefix))
        if outdated:
            rebuild.renew(self)
        self.open_epoch(if_allowed=True)
        return version

    def check(self) -> None:
        """Raise ``ConfigurationInvalid`` unless the tables are there in the version this Runlane needs."""
        with faults.translated(self.where), self.engine.connect() as connection:
            connection.execution_options(runlane_read_only=True)
            with connection.begin():
                install.check(connection, self.schema, self.where)
                if self.schema is not None:
                    poolers.check(connection, engines.settings(self._synchronous), self.where)

    def open_epoch(self, *, if_allowed: bool = False) -> None:
        """Note it, once, if this database is another one than before: see ``storage.epochs``.

        Args:
            if_allowed: a role that may not is not told.
        """
        with self.read() as tx:
            due = (not if_allowed or epochs.may_open(tx)) and epochs.is_due(tx)
        if due:
            self.transact(epochs.open_if_due)

    def dispose(self) -> None:
        """Close every connection; those that are in use close later."""
        both = {self.engine, self.beat_engine}
        pools = [engine.pool for engine in both]
        # Other pools first: whoever asked these while their connections are closed, one by one, would wait for one that
        # never comes back.
        for engine in both:
            engine.dispose(close=False)
        self._disposals += 1
        while self._at_hand:
            self._at_hand.pop().close()
        for pool in pools:
            pool.dispose()
