"""PostgreSQL: set-based statements over arrays.

The driver's own text with ``%b`` arrays, not SQLAlchemy expressions: binary array parameters cost a sixtieth of what
text ones do.  A column with the same value in every row of a batch, as most have, travels as that one value beside an
empty array: unnest() pads the array with NULLs and coalesce() puts the value in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from runlane.storage import rows
from runlane.storage.dialect import EventRow, Room, RunRow
from runlane.storage.floors import Stretch

_TYPES = {
    "id": "uuid",
    "stream_id": "uuid",
    "sequence": "int",
    "expected": "int",
    "version": "smallint",
    "occurred_at": "timestamptz",
    "status": "text",
    "priority": "smallint",
    "attempt_count": "int",
    "failure_count": "int",
    "retry_count": "int",
    "release_count": "int",
    "lost_count": "int",
    "lease_session_id": "uuid",
    "source_run_id": "uuid",
    "parent_run_id": "uuid",
    **dict.fromkeys(
        ("due_at", "run_at", "updated_at", "created_at", "started_at", "finished_at", "leased_at"), "timestamptz"
    ),
}
_ABOVE_ALL = 32768  # one more than the highest priority
_CAST = {"status": "{schema}.run_status", "failure": "json", "reservation": "json", "cancellation": "json"}
_EVENT = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor", "data")


def _batch(name: str, columns: Sequence[str], ordinality: str = "") -> str:
    """A FROM item of rows given as parameters (see ``_parameters``), each column by its name."""
    arrays = ", ".join(f"%b::{_TYPES.get(column, 'text')}[]" for column in columns)
    values = ", ".join(f"coalesce({column}_, %b::{_TYPES.get(column, 'text')}) as {column}" for column in columns)
    names = ", ".join(f"{column}_" for column in columns)
    if ordinality:
        return f"(select {values}, ord from unnest({arrays}) with ordinality as {name}_({names}, ord)) {name}"
    return f"(select {values} from unnest({arrays}) as {name}_({names})) {name}"


def _parameters(rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """The parameters of a ``_batch``: the values that all rows share, then the columns that differ as lists."""
    shared: list[Any] = []
    lists: list[list[Any]] = []
    for index, column in enumerate(zip(*rows, strict=True)):
        # The first column is the key: it must be a full array, as it tells how many rows there are.
        if index and column.count(column[0]) == len(column):
            shared.append(column[0])
            lists.append([])
        else:
            shared.append(None)
            lists.append(list(column))
    return (*shared, *lists)


def _lock_due_in(schema: str) -> str:
    """Per partition and level of priority a lateral join, so that each reads an index in order and stops at its room.

    Runs with a key have one index for all statuses; those without share theirs with the other keys' runs.
    """
    runs = f"select {{what}} from {schema}.runs where environment = %t and queue = {{of}}.queue and {{which}}"
    keyed = "{of}.key = concurrency_key and due_at is not null"
    queued = "concurrency_key is null and status = 'queued'"
    waiting = "concurrency_key is null and status in ('scheduled', 'released', 'retrying')"

    def levels(name: str, which: str, parts: str) -> str:
        highest = runs.format(what="max(priority)", of="{of}", which=which + " and priority < {below}")
        first, next_ = highest.format(of="p", below=_ABOVE_ALL), highest.format(of="l", below="l.level")
        return f"""{name} (queue, key, room, level) as (
              select queue, key, room, ({first}) from parts p where {parts}
              union all
              select queue, key, room, ({next_}) from {name} l where level is not null
            )"""

    def due(of: str, which: str, condition: str) -> str:
        best = runs.format(what="id, priority, due_at", of=of, which=which.format(of=of))
        return f"""
              select {of}.queue, {of}.key, r.* from {condition} cross join lateral (
                {best} and reservation is null and due_at <= %b and task_id = any(%b::text[])
                order by priority desc, due_at, id limit {of}.room for update skip locked
              ) r"""

    return f"""
            with recursive parts as materialized (
              select * from unnest(%b::text[], %b::text[], %b::int[]) p (queue, key, room)
            ), {levels("keyed", keyed, "key is not null")}, {levels("waiting", waiting, "key is null")},
            candidates as materialized (
              {due("l", keyed + " and priority = l.level", "keyed l")}
              union all
              {due("p", queued, "(select * from parts where key is null) p")}
              union all
              {due("l", waiting + " and priority = l.level", "waiting l")}
            )
            select id, queue, key from candidates order by priority desc, due_at, id"""


class Postgres:
    """The statements for one schema."""

    name = "postgresql"

    def __init__(self, quoted_schema: str) -> None:
        schema = quoted_schema.replace("%", "%%")

        def cast(column: str) -> str:
            kind = _CAST.get(column)
            return column if kind is None else f"{column}::{kind.format(schema=schema)}"

        read = ", ".join(f"{column}::text" if column in _CAST else column for column in rows.READ)
        order = "priority desc, due_at, id"
        events = ", ".join(_EVENT)
        event_values = ", ".join("data::json" if column == "data" else column for column in _EVENT)
        self._insert_events = f"""
            insert into {schema}.events ({events})
            select {event_values} from {_batch("t", _EVENT, "ord")} order by ord"""
        self._insert_runs = f"""
            with e as ({self._insert_events})
            insert into {schema}.runs ({", ".join(rows.BIRTH)})
            select {", ".join(cast(column) for column in rows.BIRTH)} from {_batch("d", rows.BIRTH)}"""
        self._insert_singleton = f"""
            insert into {schema}.runs ({", ".join(rows.BIRTH)})
            select {", ".join(cast(column) for column in rows.BIRTH)} from {_batch("d", rows.BIRTH)}
            on conflict (environment, task_id, singleton_key)
            where singleton_key is not null and finished_at is null do nothing returning id"""
        changed = ", ".join(f"{column} = d.{cast(column)}" for column in rows.STATE[1:])
        self._update_runs = f"""
            with d as materialized (
              select * from {_batch("d", ("id", "expected", *rows.STATE[1:]))}
            ), u as (
              update {schema}.runs r set {changed} from d where r.id = d.id and r.sequence = d.expected returning r.id
            ), e as (
              insert into {schema}.events ({events})
              select {event_values} from {_batch("t", _EVENT, "ord")}
              where stream_id in (select id from u) order by ord
            )
            select id from u"""
        self._claim_keys = f"""
            insert into {schema}.idempotency_keys (environment, task_id, key, run_id)
            select * from unnest(%b::text[], %b::text[], %b::text[], %b::uuid[])
            on conflict do nothing returning run_id"""
        self._delete_runs = f"""
            with gone as materialized (
              select id, environment, task_id, idempotency_key from {schema}.runs where id = any(%b::uuid[])
            ), k as (
              delete from {schema}.idempotency_keys k using gone
              where k.environment = gone.environment and k.task_id = gone.task_id and k.key = gone.idempotency_key
                and k.run_id = gone.id
            ), r as (
              delete from {schema}.runs using gone where runs.id = gone.id
            ), e as (
              delete from {schema}.events using gone where events.stream_id = gone.id returning 1
            )
            select count(*) from e"""
        queued, waiting = "status = 'queued'", "status in ('scheduled', 'released', 'retrying')"
        highest = f"""(
                select priority from {schema}.runs
                where environment = %t and queue = name and {waiting} and priority < %b
                order by priority desc limit 1)"""
        # Per queue and branch a lateral join, so each reads its own index in order and stops after `limit` rows.
        # What waits is read level by level of priority: within one, runs that are not yet due come last.
        # What is locked beyond the overall limit is free again at this transaction's commit, which follows at once.
        candidate = f"""
              select r.* from {{source}} cross join lateral (
                select * from {schema}.runs
                where environment = %t and queue = name and {{status}} and due_at <= %b and task_id = any(%b::text[])
                order by {order} limit %b for update skip locked
              ) r"""
        # The two bounds and the row comparison are one place in the index, where the walk begins (see floors.py).
        behind = "priority between lowest and highest and (due_at, id) > (due, behind)"
        self._lock_due = f"""
            with recursive names as materialized (
              select name from unnest(%b::text[]) q(name)
              where exists (select 1 from {schema}.sessions where id = %b::uuid)
              and not exists (select 1 from {schema}.queues c where c.environment = %t and c.name = q.name and paused)
            ), stretches as materialized (
              select name, highest, lowest, coalesce(due, '-infinity') as due, behind
              from unnest(%b::text[], %b::smallint[], %b::smallint[], %b::timestamptz[], %b::uuid[])
                s(name, highest, lowest, due, behind)
              where name in (select name from names)
            ), levels (name, level) as (
              select name, {highest} from names
              union all
              select name, {highest.replace("%b", "level")} from levels where level is not null
            ), candidates as materialized (
              select * from ({candidate.format(source="stretches", status=f"{queued} and {behind}")}) queued
              union all
              select * from ({candidate.format(source="levels", status=waiting + " and priority = level")}) waiting
            ), best as materialized (
              select * from candidates order by {order} limit %b
            )
            select {", ".join("c." + column for column in read.split(", "))}, e.version, e.data::text
            from best c join {schema}.events e on e.stream_id = c.id and e.sequence = 1
            order by {", ".join("c." + column for column in order.split(", "))}"""
        self._lock_due_in = _lock_due_in(schema)

    def now(self, conn: Connection) -> datetime:
        moment: datetime = conn.exec_driver_sql("select clock_timestamp()").scalar_one()
        return moment

    def insert_events(self, conn: Connection, events: Sequence[EventRow]) -> None:
        conn.exec_driver_sql(self._insert_events, _parameters(events))

    def insert_runs(self, conn: Connection, runs: Sequence[RunRow], events: Sequence[EventRow]) -> None:
        conn.exec_driver_sql(self._insert_runs, (*_parameters(events), *_parameters(runs)))

    def insert_singleton(self, conn: Connection, run: RunRow) -> bool:
        return conn.exec_driver_sql(self._insert_singleton, _parameters([run])).first() is not None

    def update_runs(
        self, conn: Connection, expected: Sequence[int], runs: Sequence[RunRow], events: Sequence[EventRow]
    ) -> set[UUID]:
        guarded = [(run[0], sequence, *run[1:]) for run, sequence in zip(runs, expected, strict=True)]
        parameters = (*_parameters(guarded), *_parameters(events))
        return {row[0] for row in conn.exec_driver_sql(self._update_runs, parameters)}

    def claim_keys(self, conn: Connection, keys: Sequence[tuple[str, str, str, UUID]]) -> set[UUID]:
        return {
            row[0]
            for row in conn.exec_driver_sql(
                self._claim_keys, tuple([list(column) for column in zip(*keys, strict=True)])
            )
        }

    def lock_stream(self, conn: Connection, stream_id: UUID) -> None:
        conn.exec_driver_sql("select pg_advisory_xact_lock(%s)", (stream_id.int >> 65,))

    def delete_runs(self, conn: Connection, told: tuple[UUID, int], ids: Sequence[UUID]) -> int:
        conn.exec_driver_sql("select set_config('runlane.pruned', %s, true)", (f"{told[0]}:{told[1]}",))
        deleted: int = conn.exec_driver_sql(self._delete_runs, (list(ids),)).scalar_one()
        return deleted

    def lock_due(
        self,
        conn: Connection,
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
        limit: int,
    ) -> list[tuple[Any, ...]]:
        branch = (environment, now, list(tasks), limit)
        parameters = (
            list({stretch.queue: None for stretch in stretches}),
            session_id,
            environment,
            [stretch.queue for stretch in stretches],
            [stretch.highest for stretch in stretches],
            [stretch.lowest for stretch in stretches],
            [stretch.due_at for stretch in stretches],
            [stretch.id for stretch in stretches],
            environment,
            _ABOVE_ALL,
            environment,
            *branch,
            *branch,
            limit,
        )
        found = conn.exec_driver_sql(self._lock_due, parameters).all()
        return [tuple(row) for row in found]

    def lock_numbers(self, conn: Connection, numbers: Sequence[int]) -> None:
        conn.exec_driver_sql("select pg_advisory_xact_lock(n) from unnest(%b::bigint[]) n", (list(numbers),))

    def lock_due_in(
        self, conn: Connection, environment: str, rooms: Sequence[Room], tasks: Sequence[str], now: datetime
    ) -> list[tuple[UUID, str, str | None]]:
        columns = [list(column) for column in zip(*rooms, strict=True)]
        levels, branch = (environment,) * 4, (environment, now, list(tasks))
        found = conn.exec_driver_sql(self._lock_due_in, (*columns, *levels, *branch, *branch, *branch)).all()
        return [(row[0], row[1], row[2]) for row in found]
