"""What differs by database, behind one Protocol: the hot statements, the clock and the installation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from attrs import Factory, frozen
from sqlalchemy import CursorResult, Executable

from runlane.digests import Facts
from runlane.projections.runs import Run
from runlane.storage.direct import Found, Rows
from runlane.storage.floors import Stretch

#: What is stored of an event but its digest, which whoever inserts it works out (``runlane.digests``).
EventRow = Facts
#: A row of ``rows.STATE`` or ``rows.BIRTH``.
RunRow = tuple[Any, ...]
#: A partition of a bounded queue, and how many of its runs to find: queue, concurrency key, room.
Room = tuple[str, str | None, int]


@frozen
class LeaseTerms:
    """What all the leases of one claim have in common: the session, and what their events say.

    The data of each event is the number of the attempt between `before` and `behind`.
    """

    session_id: UUID
    worker_id: str
    actor: str
    version: int
    before: str
    behind: str


@frozen
class Ends:
    """Leased runs that succeed, all of one environment and by one actor: their ids in order, the sequences that they
    are expected to have, and the data of their last events, whose version is the same."""

    version: int
    environment: str
    actor: str
    ids: Sequence[UUID]
    expected: Sequence[int]
    data: Sequence[str]


@frozen(eq=False)
class Alike:
    """What births have in common that differ by their ids and payloads alone.

    Args:
        one: one of them, without a payload, as it was folded; its id and instants say nothing.
        run: its row; `events` are those of its events.
        around: what stands before and behind the payload in the data of the first event.
        made: what a database has made of all this, to be used again.
    """

    one: Run
    run: RunRow
    events: Sequence[EventRow]
    around: tuple[str, str]
    made: dict[Any, Any] = Factory(dict)


class Statements(Protocol):
    """What executes statements: a SQLAlchemy ``Connection``, or what stands in its place."""

    def exec_driver_sql(self, text: str, parameters: Any = ..., /) -> CursorResult[*tuple[Any, ...]] | Rows:
        """Execute a statement of the driver's own text."""
        ...

    def execute(
        self, statement: Executable, parameters: Any = ..., /, *, execution_options: Any = ...
    ) -> CursorResult[Any] | Found:
        """Execute a statement of SQLAlchemy's."""
        ...


class StorageDialect(Protocol):
    """The statements that are written per database; everything else is SQLAlchemy Core."""

    name: str

    def now(self, conn: Statements) -> datetime:
        """The database's clock, read by a statement of its own."""
        ...

    def insert_events(self, conn: Statements, events: Sequence[EventRow]) -> None:
        """Append events of streams that are not runs, or of runs just born."""
        ...

    def insert_runs(self, conn: Statements, runs: Sequence[RunRow], events: Sequence[EventRow]) -> None:
        """Append the births of runs: their first events and their rows."""
        ...

    def insert_singleton(self, conn: Statements, run: RunRow, events: Sequence[EventRow]) -> bool:
        """Insert the row of a run with a singleton key, unless an active run owns the key; whether it was inserted.

        Its first `events` are inserted behind it, by ``insert_events``.
        """
        ...

    def update_runs(
        self, conn: Statements, expected: Sequence[int], runs: Sequence[RunRow], events: Sequence[EventRow]
    ) -> set[UUID]:
        """Append steps: each row only if the stored sequence is the expected one, and then its events.

        Returns the ids of the runs that were not advanced: they lost.
        """
        ...

    def claim_keys(self, conn: Statements, keys: Sequence[tuple[str, str, str, UUID]]) -> set[UUID]:
        """Insert (environment, task_id, key, run_id) where nobody has the key; the run ids that now own one."""
        ...

    def lock_stream(self, conn: Statements, stream_id: UUID) -> None:
        """Let nobody else append to this stream, which has no row of its own to lock, until the transaction ends."""
        ...

    def lock_for_pruning(self, conn: Statements, ids: Sequence[UUID]) -> None:
        """Let nobody else touch these runs and the keys they own until the transaction ends."""
        ...

    def delete_runs(self, conn: Statements, told: tuple[UUID, int], ids: Sequence[UUID]) -> int:
        """Delete runs, their events, their wakeups and the keys they own; how many events those were.

        The database refuses it unless the event `told` (stream, sequence), just appended, says exactly that.
        """
        ...

    def lock_due(
        self,
        conn: Statements,
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
        limit: int,
    ) -> list[tuple[Any, ...]]:
        """Lock up to `limit` claimable runs of these parts of queues (or of the whole of them), best first.

        Returns ``rows.READ`` columns, created version, created data.
        """
        ...

    def any_due(
        self,
        conn: Statements,
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
    ) -> bool:
        """Whether ``lock_due`` would find a run if nobody else had locked any; only reads."""
        ...

    def lease_runs(
        self,
        conn: Statements,
        environment: str,
        terms: LeaseTerms,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime | None,
        limit: int,
    ) -> Sequence[Sequence[Any]]:
        """Lease up to `limit` claimable runs of these parts of queues, best first.  `now` is else the moment of the
        statement.

        Their rows become what the fold of ``run.leased`` makes of them, with that event for each; none for a session
        without a row.  Returns ``rows.LEASED`` columns, created version, created data, and since when the run was due.
        """
        ...

    def lock_numbers(self, conn: Statements, numbers: Sequence[int]) -> None:
        """Wait for these locks, one after the other in this order; they end with the transaction (or savepoint)."""
        ...

    def lock_due_in(
        self,
        conn: Statements,
        environment: str,
        rooms: Sequence[Room],
        tasks: Sequence[str],
        now: datetime,
        reserving: bool,
    ) -> list[tuple[UUID, str, str | None]]:
        """Lock claimable runs of partitions that hold no reservation, at least the best ones of each up to its room.

        Returns id, queue and concurrency key, in claim order.

        Args:
            reserving: leave out those whose wakeup was refused for good.
        """
        ...


@runtime_checkable
class Stamping(Protocol):
    """A database far enough away that a round trip just to ask for the time is worth saving."""

    def insert_alike(
        self, conn: Statements, alike: Alike, ids: Sequence[UUID], data: Sequence[str], now: datetime | None
    ) -> datetime:
        """Append the births of runs that are due at once and differ by their ids and payloads, in one statement.

        `data` is the first event's of each.  All instants of theirs are `now`, else the moment of the statement, which
        is returned.
        """
        ...

    def finish_runs(self, conn: Statements, ends: Ends) -> set[UUID]:
        """Append the success of each of these runs, at the statement's moment, if its sequence is the expected one.

        Returns the ids of the others: they lost.
        """
        ...

    def finish_and_lease(
        self,
        conn: Statements,
        ends: Ends,
        environment: str,
        terms: LeaseTerms,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        limit: int,
    ) -> tuple[set[UUID], Sequence[Sequence[Any]]]:
        """``finish_runs`` and ``lease_runs`` in one statement."""
        ...


_STAMPING: dict[type, bool] = {}


def can_stamp(dialect: object) -> bool:
    """Whether it is ``Stamping``; each class is asked once, as asking a Protocol takes tens of microseconds."""
    kind = type(dialect)
    known = _STAMPING.get(kind)
    if known is None:
        known = _STAMPING[kind] = isinstance(dialect, Stamping)
    return known
