"""PostgreSQL: set-based statements over arrays.

The driver's own text with ``%b`` arrays, not SQLAlchemy expressions: binary array parameters cost a sixtieth of what
text ones do.  A column that is NULL in every row of a batch travels as an empty array; unnest() pads it with NULLs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from runlane.storage import rows
from runlane.storage.dialect import EventRow, RunRow

_TYPES = {
    "id": "uuid",
    "sequence": "int",
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
_CAST = {"status": "{schema}.run_status", "failure": "json", "reservation": "json", "cancellation": "json"}
_EVENT_COLUMNS = "stream_id, sequence, type, version, occurred_at, environment, actor, data"
_EVENT_ARRAYS = (
    "%b::uuid[], %b::int[], %b::text[], %b::smallint[], %b::timestamptz[], %b::text[], %b::text[], %b::text[]"
)


def _arrays(columns: Sequence[str]) -> str:
    return ", ".join(f"%b::{_TYPES.get(column, 'text')}[]" for column in columns)


def _value(column: str, schema: str) -> str:
    cast = _CAST.get(column)
    return f"d.{column}" if cast is None else f"d.{column}::{cast.format(schema=schema)}"


def _columns(table: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows' columns as lists, those without any value as empty ones."""
    return [[] if not any(value is not None for value in column) else list(column) for column in zip(*table)]


class Postgres:
    """The statements for one schema."""

    name = "postgresql"

    def __init__(self, quoted_schema: str) -> None:
        schema = quoted_schema.replace("%", "%%")
        read = ", ".join(f"{column}::text" if column in _CAST else column for column in rows.READ)
        order = "priority desc, due_at, id"
        self._insert_events = f"""
            insert into {schema}.events ({_EVENT_COLUMNS})
            select {_EVENT_COLUMNS.replace("data", "data::json")}
            from unnest({_EVENT_ARRAYS}) with ordinality as t({_EVENT_COLUMNS}, ord) order by ord"""
        self._insert_runs = f"""
            with e as ({self._insert_events})
            insert into {schema}.runs ({", ".join(rows.BIRTH)})
            select {", ".join(_value(column, schema) for column in rows.BIRTH)}
            from unnest({_arrays(rows.BIRTH)}) as d({", ".join(rows.BIRTH)})"""
        changed = ", ".join(f"{column} = {_value(column, schema)}" for column in rows.STATE[1:])
        event_values = _EVENT_COLUMNS.replace("data", "data::json")
        self._update_runs = f"""
            with d as materialized (
              select * from unnest(%b::int[], {_arrays(rows.STATE)}) as d(expected, {", ".join(rows.STATE)})
            ), u as (
              update {schema}.runs r set {changed} from d where r.id = d.id and r.sequence = d.expected returning r.id
            ), e as (
              insert into {schema}.events ({_EVENT_COLUMNS})
              select {event_values}
              from unnest({_EVENT_ARRAYS}) with ordinality as t({_EVENT_COLUMNS}, ord)
              where stream_id in (select id from u) order by ord
            )
            select id from u"""
        self._claim_keys = f"""
            insert into {schema}.idempotency_keys (environment, task_id, key, run_id)
            select * from unnest(%b::text[], %b::text[], %b::text[], %b::uuid[])
            on conflict do nothing returning run_id"""
        # Per queue and branch a lateral join, so each reads its own index in order and stops after `limit` rows.
        # What is locked beyond the overall limit is free again at this transaction's commit, which follows at once.
        candidate = f"""
              select r.* from unnest(%b::text[]) q(name) cross join lateral (
                select * from {schema}.runs
                where environment = %t and queue = q.name and {{status}} and due_at <= %b and task_id = any(%b::text[])
                order by {{order}} limit %b for update skip locked
              ) r"""
        self._lock_due = f"""
            with candidates as materialized (
              select * from ({candidate.format(status="status = 'queued'", order=order)}) queued
              union all
              select * from ({candidate.format(status="status in ('scheduled', 'released', 'retrying')", order="due_at, id")}) waiting
            ), best as materialized (
              select * from candidates order by {order} limit %b
            )
            select {", ".join("c." + column for column in read.split(", "))}, e.version, e.data::text
            from best c join {schema}.events e on e.stream_id = c.id and e.sequence = 1
            order by {", ".join("c." + column for column in order.split(", "))}"""

    def now(self, conn: Connection) -> datetime:
        moment: datetime = conn.exec_driver_sql("select clock_timestamp()").scalar_one()
        return moment

    def insert_events(self, conn: Connection, events: Sequence[EventRow]) -> None:
        conn.exec_driver_sql(self._insert_events, tuple(_columns(events)))

    def insert_runs(self, conn: Connection, runs: Sequence[RunRow], events: Sequence[EventRow]) -> None:
        conn.exec_driver_sql(self._insert_runs, (*_columns(events), *_columns(runs)))

    def update_runs(
        self, conn: Connection, expected: Sequence[int], runs: Sequence[RunRow], events: Sequence[EventRow]
    ) -> set[UUID]:
        parameters = (list(expected), *_columns(runs), *_columns(events))
        return {row[0] for row in conn.exec_driver_sql(self._update_runs, parameters)}

    def claim_keys(self, conn: Connection, keys: Sequence[tuple[str, str, str, UUID]]) -> set[UUID]:
        return {row[0] for row in conn.exec_driver_sql(self._claim_keys, tuple(_columns(keys)))}

    def lock_due(
        self, conn: Connection, environment: str, queues: Sequence[str], tasks: Sequence[str], now: datetime, limit: int
    ) -> list[tuple[Any, ...]]:
        branch = (list(queues), environment, now, list(tasks), limit)
        found = conn.exec_driver_sql(self._lock_due, (*branch, *branch, limit)).all()
        return [tuple(row) for row in found]
