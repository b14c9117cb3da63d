"""Statistics of each task by hour: how many runs, how they ended, how long they waited and ran."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from attrs import define, field, frozen
from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, PrimaryKeyConstraint, Table, Text, select

from runlane import events as e
from runlane.events import Recorded
from runlane.readmodels import rows
from runlane.readmodels.sketch import Sketch, bucket_of
from runlane.storage.tables import Guid, Instant
from runlane.values import identifier

_COUNTS = ("created", "succeeded", "failed", "cancelled", "retried", "released", "lost")
_ENDS: dict[type, str] = {e.RunSucceeded: "succeeded", e.RunFailed: "failed", e.RunCancelled: "cancelled"}


@frozen
class TaskHour:
    """What became of a task's runs in one hour.

    `retried`, `released` and `lost` count attempts; `waits` are the times from when a run was due until it was leased,
    `runs` those of attempts, in seconds.
    """

    task_id: str
    hour: datetime
    created: int
    succeeded: int
    failed: int
    cancelled: int
    retried: int
    released: int
    lost: int
    waits: Sketch = field(factory=Sketch, eq=False)
    runs: Sketch = field(factory=Sketch, eq=False)


@define
class _Live:
    """A run that has not ended: its task, since when it is due, since when it is leased."""

    task_id: str
    ready_at: datetime
    leased_at: datetime | None = None


class TaskHours:
    """A projection: `hours` reads it.

    Args:
        name: what it is called; its tables are ``runlane_NAME``, ``runlane_NAME_durations`` and ``runlane_NAME_live``.
    """

    version: ClassVar[int] = 1

    def __init__(self, name: str = "task_hours") -> None:
        self.name = identifier("projection name", name)
        self._metadata = MetaData()
        self._hours = Table(
            f"runlane_{name}",
            self._metadata,
            *_key(),
            *(Column(count, BigInteger, nullable=False) for count in _COUNTS),
            PrimaryKeyConstraint("environment", "task_id", "hour"),
        )
        self._durations = Table(
            f"runlane_{name}_durations",
            self._metadata,
            *_key(),
            Column("measure", Text),
            Column("bucket", Integer),
            Column("times", BigInteger, nullable=False),
            PrimaryKeyConstraint("environment", "task_id", "hour", "measure", "bucket"),
        )
        self._live = Table(
            f"runlane_{name}_live",
            self._metadata,
            Column("run_id", Guid, primary_key=True),
            Column("environment", Text, nullable=False),
            Column("task_id", Text, nullable=False),
            Column("ready_at", Instant, nullable=False),
            Column("leased_at", Instant),
        )

    def setup(self, connection: Connection) -> None:
        """See ``Projection``."""
        self._metadata.create_all(connection)

    def clear(self, connection: Connection, environment: str) -> None:
        """See ``Projection``."""
        self.setup(connection)
        for table in self._metadata.sorted_tables:
            connection.execute(table.delete().where(table.c.environment == environment))

    def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
        """See ``Projection``."""
        mine = [record for record in records if isinstance(record.event, e.RunEvent)]
        if not mine:
            return
        environment = mine[0].environment
        ids = {record.stream_id for record in mine}
        live = self._read_live(connection, ids)
        counted = _Counted()
        for record in mine:
            _step(live, record, counted)
        key = ("task_id", "hour")
        hours = [
            {"environment": environment, **dict(zip(key, at, strict=True)), **{n: counts[n] for n in _COUNTS}}
            for at, counts in sorted(counted.hours.items())
        ]
        rows.add(connection, self._hours, hours, _COUNTS)
        named = (*key, "measure", "bucket")
        durations = [
            {"environment": environment, **dict(zip(named, at, strict=True)), "times": times}
            for at, times in sorted(counted.durations.items())
        ]
        rows.add(connection, self._durations, durations, ["times"])
        self._write_live(connection, environment, ids, live)

    def _read_live(self, connection: Connection, ids: set[UUID]) -> dict[UUID, _Live]:
        c = self._live.c
        found: dict[UUID, _Live] = {}
        for part in rows.chunks(ids):
            for row in connection.execute(select(self._live).where(c.run_id.in_(part))):
                found[row.run_id] = _Live(row.task_id, row.ready_at, row.leased_at)
        return found

    def _write_live(self, connection: Connection, environment: str, ids: set[UUID], live: dict[UUID, _Live]) -> None:
        for part in rows.chunks(ids - live.keys()):
            connection.execute(self._live.delete().where(self._live.c.run_id.in_(part)))
        stored = [
            {
                "run_id": id,
                "environment": environment,
                "task_id": one.task_id,
                "ready_at": one.ready_at,
                "leased_at": one.leased_at,
            }
            for id, one in live.items()
        ]
        rows.put(connection, self._live, stored, ["ready_at", "leased_at"])

    def hours(
        self,
        connection: Connection,
        environment: str = "default",
        *,
        task_id: str | None = None,
        since: datetime | None = None,
    ) -> list[TaskHour]:
        """The statistics, by hour and task; of one task, or from an hour on, if asked for."""

        def chosen(table: Table) -> Any:
            wanted = select(table).where(table.c.environment == environment)
            wanted = wanted if task_id is None else wanted.where(table.c.task_id == task_id)
            return wanted if since is None else wanted.where(table.c.hour >= since)

        found = {}
        for row in connection.execute(chosen(self._hours).order_by(self._hours.c.hour, self._hours.c.task_id)):
            counts = {name: getattr(row, name) for name in _COUNTS}
            found[row.task_id, row.hour] = TaskHour(row.task_id, row.hour, **counts)
        for row in connection.execute(chosen(self._durations)):
            one = found[row.task_id, row.hour]
            (one.waits if row.measure == "wait" else one.runs).counts[row.bucket] += row.times
        return list(found.values())


def _key() -> list[Column[Any]]:
    return [Column("environment", Text), Column("task_id", Text), Column("hour", Instant)]


class _Counted:
    """What a batch adds, by task and hour."""

    def __init__(self) -> None:
        self.hours: dict[tuple[str, datetime], Counter[str]] = defaultdict(Counter)
        self.durations: Counter[tuple[str, datetime, str, int]] = Counter()

    def count(self, task_id: str, at: datetime, what: str) -> None:
        self.hours[task_id, _hour(at)][what] += 1

    def measure(self, task_id: str, at: datetime, what: str, since: datetime) -> None:
        self.hours[task_id, _hour(at)]  # so that it is there
        self.durations[task_id, _hour(at), what, bucket_of((at - since).total_seconds())] += 1


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _step(live: dict[UUID, _Live], record: Recorded, counted: _Counted) -> None:
    """One event of a run: what it adds, and what the run is behind it."""
    at, event = record.occurred_at, record.event
    if isinstance(event, e.RunCreated):
        live[record.stream_id] = _Live(event.task_id, at if event.run_at is None else max(at, event.run_at))
        counted.count(event.task_id, at, "created")
        return
    one = live.get(record.stream_id)
    if one is None:  # its beginning was pruned before it was read
        return
    if isinstance(event, e.RunLeased):
        counted.measure(one.task_id, at, "wait", one.ready_at)
        one.leased_at = at
        return
    if one.leased_at is not None and isinstance(
        event, (e.RunSucceeded, e.RunFailed, e.RunCancelled, e.RunRetryScheduled, e.RunReleased)
    ):
        counted.measure(one.task_id, at, "run", one.leased_at)
    match event:
        case e.RunSucceeded() | e.RunFailed() | e.RunCancelled():
            counted.count(one.task_id, at, _ENDS[type(event)])
            del live[record.stream_id]
        case e.RunRetryScheduled(run_at=then):
            counted.count(one.task_id, at, "retried")
            one.ready_at, one.leased_at = then, None
        case e.RunReleased(run_at=then):
            counted.count(one.task_id, at, "released")
            one.ready_at, one.leased_at = then, None
        case e.RunInterrupted() | e.RunLeaseExpired():
            if isinstance(event, e.RunLeaseExpired):
                counted.count(one.task_id, at, "lost")
            one.ready_at, one.leased_at = at, None
