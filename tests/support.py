"""What several tests share: changes made by hand, raw looks into a database, and many threads at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection

from runlane import Runlane, decisions
from runlane.decisions import Change
from runlane.events import RunCreated, RunStep
from runlane.lanes import lane_of
from runlane.projections.runs import Run
from runlane.projections.version import PROJECTION_VERSION
from runlane.storage import install
from runlane.storage.database import Database
from runlane.storage.tables import VERSION, metadata
from runlane.values import APPLICATION, SYSTEM, new_run_id

T = TypeVar("T")

#: Where a SettableClock begins.
START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
#: No test waits longer for something that another thread has to do; seconds.
PATIENCE = 20.0


@contextmanager
def database_at(url: str) -> Iterator[Database]:
    """A migrated database without a face."""
    database = lane_of(url).database
    database.migrate()
    try:
        yield database
    finally:
        database.dispose()


def database_of(app: Runlane) -> Database:
    """The database that a runtime works on."""
    return app.lane.database


def named(database: Database, table: str) -> str:
    """A table's name in raw SQL."""
    return table if database.schema is None else f"{database.schema}.{table}"


@contextmanager
def raw(database: Database) -> Iterator[Connection]:
    """A transaction past every layer of Runlane, as a stranger with SQL access would have it."""
    with database.engine.begin() as connection:
        yield connection


def execute(database: Database, statement: str) -> Any:
    """Execute raw SQL; ``{events}`` and ``{runs}`` stand for the tables."""
    names = {
        name: named(database, name)
        for name in ("events", "runs", "idempotency_keys", "schedules", "occurrences", "queues")
    }
    with raw(database) as connection:
        result = connection.exec_driver_sql(statement.format(**names))
        return result.all() if result.returns_rows else result.rowcount


def count(database: Database, table: str) -> int:
    """How many rows a table has."""
    return int(execute(database, f"select count(*) from {{{table}}}")[0][0])


def written(app: Runlane) -> tuple[int, int, int]:
    """How much is stored of everything that a trigger writes."""
    database = database_of(app)
    return count(database, "events"), count(database, "runs"), count(database, "idempotency_keys")


def birth(
    task_id: str = "work",
    *,
    run_id: UUID | None = None,
    key: str | None = None,
    environment: str = "default",
    queue: str = "default",
    concurrency_key: str | None = None,
    priority: int = 0,
    at: datetime = START,
    run_at: datetime | None = None,
) -> Change:
    """The change that creates a run."""
    created = RunCreated(
        task_id,
        queue,
        None,
        priority=priority,
        run_at=run_at,
        idempotency_key=key,
        idempotency_ttl=None if key is None else "30d",
        concurrency_key=concurrency_key,
    )
    return decisions.begin(run_id or new_run_id(), environment, decisions.create(created, None, at), at, APPLICATION)


def step(run: Run, *events: RunStep, at: datetime = START) -> Change:
    """The change that moves a run on by `events`."""
    return decisions.advance(run, events, at, SYSTEM)


def types_of(app: Runlane, run_id: UUID) -> list[str]:
    """The names of a run's events, in order."""
    return [type(record.event).__name__ for record in app.runs.events(run_id)]


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """Call all of them at the same moment, each on a thread of its own; their results in order."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        barrier.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [future.result(3 * PATIENCE) for future in [threads.submit(begin, work) for work in works]]


def eventually(holds: Callable[[], T], what: str = "the condition") -> T:
    """Look until `holds` is true, and return what it returned; for what only the database or a thread can tell."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} did not come to hold in {PATIENCE} s"
        pause.wait(0.005)
    return found


class ReusedPostgres:
    """One migrated PostgreSQL database that is emptied between tests: much quicker than a new one for each.

    Where a test changed the tables themselves they are made anew.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._made = self._shape()

    def empty(self) -> None:
        """Forget what the last test left."""
        with self._connection.transaction():
            self._connection.execute("set local lock_timeout = '10s'")
            if self._shape() == self._made:
                self._connection.execute(_EMPTY)
            else:
                self._connection.execute(
                    "drop schema if exists runlane cascade; drop schema public cascade; create schema public"
                )
                self._connection.execute(install.ddl("runlane") + _STAMP)

    def close(self) -> None:
        """End the connection that empties it."""
        self._connection.close()

    def _shape(self) -> Any:
        return self._connection.execute(_SHAPE).fetchone()


TABLES = [table.name for table in metadata.sorted_tables if "version" not in table.name]
_STAMP = (
    f"insert into schema_version values ({VERSION});"
    f"insert into projection_version values ({PROJECTION_VERSION}, clock_timestamp())"
)
_EMPTY = (
    "alter table runlane.events disable trigger user;"
    + "".join(f"delete from runlane.{name};" for name in TABLES)
    + f"delete from runlane.schema_version where version <> {VERSION};"
    + f"delete from runlane.projection_version where version <> {PROJECTION_VERSION};"
    + "alter table runlane.events enable always trigger events_append_only;"
    + "alter table runlane.events enable always trigger events_pruned"
)
_SHAPE = """
    select md5(string_agg(line, '|' order by line)) from (
      select concat_ws(' ', n.nspname, c.relname, a.attname, a.atttypid, a.attnotnull)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace left join pg_attribute a on a.attrelid = c.oid
        where n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
      union all select concat_ws(' ', conrelid::regclass, conname) from pg_constraint where connamespace <> 11
      union all select concat_ws(' ', tgrelid::regclass, tgname, tgenabled) from pg_trigger
    ) lines (line)"""


@pytest.fixture(scope="session")
def reused_postgres(postgres: Any) -> Iterator[ReusedPostgres]:
    """The database behind ``postgres_url``."""
    reused = ReusedPostgres(postgres.migrated())
    yield reused
    reused.close()


@pytest.fixture
def postgres_url(reused_postgres: ReusedPostgres) -> str:
    """Takes the place of the fixture of this name in the folders that import it: the same for less time."""
    reused_postgres.empty()
    return reused_postgres.url


@contextmanager
def signalled(number: int, rescue: Callable[[], object], soon: Callable[[], bool]) -> Iterator[None]:
    """Within it, a thread other than the main one gets the signal once `soon` holds; `rescue` ends what is deaf."""
    over, rescued = threading.Event(), []

    def gets_it() -> None:
        while not soon():
            if over.wait(0.01):
                return
        over.wait(0.2)  # the main thread goes into its wait
        signal.pthread_kill(threading.get_ident(), number)
        if not over.wait(PATIENCE):
            rescued.append(number)
            rescue()

    thread = threading.Thread(target=gets_it)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not rescued, "the signal was not heeded"
