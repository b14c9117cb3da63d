"""PostgreSQL: set-based statements over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from runlane.storage import postgres_claims as claims
from runlane.storage import rows
from runlane.storage.dialect import EventRow, LeaseTerms, Room, RunRow, Statements
from runlane.storage.floors import Stretch
from runlane.storage.postgres_batches import Batch, Shape, Texts, Uuids, source, type_of

#: What is the moment of its birth in a run that is due at once.
_STAMPED = frozenset({"occurred_at", "created_at", "updated_at", "due_at"})
_CAST = {
    "data": "json",
    "status": "{schema}.run_status",
    "failure": "json",
    "reservation": "json",
    "cancellation": "json",
}
_EVENT = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor", "data")
_EVENT_VALUES = ", ".join("data::json" if column == "data" else column for column in _EVENT)
_STEP = ("id", "expected", *rows.STATE[1:])
_ADVANCE = (*_STEP, *_EVENT[2:])
#: Which runs were advanced, unless all were.
_LATE = "select case when count(*) < %b::int then coalesce(array_agg(id), '{}') end from u"


class Postgres:
    """The statements for one schema."""

    name = "postgresql"

    def __init__(self, quoted_schema: str) -> None:
        schema = quoted_schema.replace("%", "%%")

        self._schema = schema
        # By the shapes of their batches; made when needed.
        self._insert_events = cache(self._inserting_events)
        self._insert_runs = cache(self._inserting_runs)
        self._insert_singleton = cache(self._inserting_singleton)
        self._insert_alike = cache(self._inserting_alike)
        self._update_runs = cache(self._updating_runs)
        self._advance_runs = cache(self._advancing_runs)
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
        self._lock_due = claims.lock_due(schema)
        self._claim = claims.claim(schema)
        self._lock_due_in = claims.lock_due_in(schema)

    def _inserting_events(self, events: Shape) -> str:
        return claims.flat(f"""
            insert into {self._schema}.events ({", ".join(_EVENT)})
            select {_EVENT_VALUES} from {source("t", _EVENT, events, ordinality=True)} order by ord""")

    def _inserting_runs(self, events: Shape, runs: Shape) -> str:
        return f"with e as ({self._inserting_events(events)}) {self._inserting_rows(runs)}"

    def _inserting_rows(self, runs: Shape) -> str:
        return claims.flat(f"""
            insert into {self._schema}.runs ({", ".join(rows.BIRTH)})
            select {", ".join(map(self._cast, rows.BIRTH))} from {source("d", rows.BIRTH, runs)}""")

    def _inserting_alike(self, columns: Sequence[str], further: int) -> str:
        """Runs that differ by id and payload: of the one that was folded, those columns of its row that have a value,
        and its first event, which carries the payload, with as many further ones."""
        stored = ", ".join(
            "clock.at" if name in _STAMPED else "d.id" if name == "id" else self._cast(f"%b::{type_of(name)}", name)
            for name in columns
        )
        more = "".join(", (%b::int, %b::text, %b::smallint, %b::text)" for _ in range(further))
        return claims.flat(f"""
            with clock as materialized (select coalesce(%b::timestamptz, clock_timestamp()) as at), d as materialized (
              select id, data, ord from unnest(%b::uuid[], %b::text[]) with ordinality as d_(id, data, ord)
            ), e as (
              insert into {self._schema}.events ({", ".join(_EVENT)})
              select d.id, v.sequence, v.type, v.version, clock.at, %b::text, %b::text, coalesce(v.data, d.data)::json
              from d cross join clock
              cross join (values (1, %b::text, %b::smallint, null::text){more}) as v(sequence, type, version, data)
              order by d.ord, v.sequence
            ), r as (
              insert into {self._schema}.runs ({", ".join(columns)}) select {stored} from d cross join clock
            )
            select at from clock""")

    def _inserting_singleton(self, runs: Shape) -> str:
        return f"""{self._inserting_rows(runs)}
            on conflict (environment, task_id, singleton_key)
            where singleton_key is not null and finished_at is null do nothing returning id"""

    def _updating_runs(self, runs: Shape, events: Shape) -> str:
        return claims.flat(f"""
            with u as ({self._updating_rows(source("d", _STEP, runs))} returning r.id), e as (
              insert into {self._schema}.events ({", ".join(_EVENT)})
              select {_EVENT_VALUES} from {source("t", _EVENT, events, ordinality=True)}
              where stream_id in (select id from u) order by ord
            )
            {_LATE}""")

    def _advancing_runs(self, steps: Shape) -> str:
        """Each run by one event, whose own columns stand behind those of the run."""
        return claims.flat(f"""
            with u as (
              {self._updating_rows(source("d", _ADVANCE, steps))} returning r.id, r.sequence,
                {", ".join(f"d.{column}" for column in _EVENT[2:])}
            ), e as (
              insert into {self._schema}.events ({", ".join(_EVENT)})
              select id, sequence, {", ".join(_EVENT_VALUES.split(", ")[2:])} from u
            )
            {_LATE}""")

    def _updating_rows(self, steps: str) -> str:
        changed = ", ".join(f"{column} = d.{self._cast(column)}" for column in rows.STATE[1:])
        return f"""
            update {self._schema}.runs r set {changed} from {steps} where r.id = d.id and r.sequence = d.expected"""

    def _cast(self, value: str, column: str | None = None) -> str:
        """The value of a column, which is the column of this name unless it is another one's."""
        kind = _CAST.get(column or value)
        return value if kind is None else f"{value}::{kind.format(schema=self._schema)}"

    def now(self, conn: Statements) -> datetime:
        moment: datetime = conn.exec_driver_sql("select clock_timestamp()").scalar_one()
        return moment

    def insert_events(self, conn: Statements, events: Sequence[EventRow]) -> None:
        batch = Batch(_EVENT, events)
        conn.exec_driver_sql(self._insert_events(batch.shape), batch.parameters)

    def insert_runs(self, conn: Statements, runs: Sequence[RunRow], events: Sequence[EventRow]) -> None:
        first, second = Batch(_EVENT, events), Batch(rows.BIRTH, runs)
        conn.exec_driver_sql(self._insert_runs(first.shape, second.shape), (*first.parameters, *second.parameters))

    def insert_alike(
        self,
        conn: Statements,
        run: RunRow,
        events: Sequence[EventRow],
        ids: Sequence[UUID],
        data: Sequence[str],
        now: datetime | None,
    ) -> datetime:
        given = [(name, value) for name, value in zip(rows.BIRTH, run, strict=True) if value is not None]
        fixed = [value for name, value in given if name not in _STAMPED and name != "id"]
        first, *further = events
        more = [value for event in further for value in (*event[1:4], event[7])]
        statement = self._insert_alike(tuple(name for name, _ in given), len(further))
        parameters = (now, Uuids(ids), Texts(data), *first[5:7], *first[2:4], *more, *fixed)
        done = conn.exec_driver_sql(statement, parameters)
        if now is not None:
            return now
        at: datetime = done.scalar_one()
        return at

    def insert_singleton(self, conn: Statements, run: RunRow) -> bool:
        batch = Batch(rows.BIRTH, [run])
        return conn.exec_driver_sql(self._insert_singleton(batch.shape), batch.parameters).first() is not None

    def update_runs(
        self, conn: Statements, expected: Sequence[int], runs: Sequence[RunRow], events: Sequence[EventRow]
    ) -> set[UUID]:
        steps = [(run[0], sequence, *run[1:]) for run, sequence in zip(runs, expected, strict=True)]
        if len(events) == len(runs):
            batch = Batch(_ADVANCE, [step + event[2:] for step, event in zip(steps, events, strict=True)])
            statement, parameters = self._advance_runs(batch.shape), batch.parameters
        else:
            first, second = Batch(_STEP, steps), Batch(_EVENT, events)
            statement = self._update_runs(first.shape, second.shape)
            parameters = (*first.parameters, *second.parameters)
        won = conn.exec_driver_sql(statement, (*parameters, len(runs))).scalar_one()
        return set() if won is None else {run[0] for run in runs}.difference(won)

    def claim_keys(self, conn: Statements, keys: Sequence[tuple[str, str, str, UUID]]) -> set[UUID]:
        return {
            row[0]
            for row in conn.exec_driver_sql(
                self._claim_keys, tuple([list(column) for column in zip(*keys, strict=True)])
            )
        }

    def lock_stream(self, conn: Statements, stream_id: UUID) -> None:
        conn.exec_driver_sql("select pg_advisory_xact_lock(%s)", (stream_id.int >> 65,))

    def delete_runs(self, conn: Statements, told: tuple[UUID, int], ids: Sequence[UUID]) -> int:
        conn.exec_driver_sql("select set_config('runlane.pruned', %s, true)", (f"{told[0]}:{told[1]}",))
        deleted: int = conn.exec_driver_sql(self._delete_runs, (list(ids),)).scalar_one()
        return deleted

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
        parameters = self._best(environment, session_id, stretches, tasks, now, limit)
        return [tuple(row) for row in conn.exec_driver_sql(self._lock_due, parameters)]

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
        best = self._best(environment, terms.session_id, stretches, tasks, now, limit)
        event = (terms.session_id, terms.worker_id, terms.version, environment, terms.actor, terms.before, terms.behind)
        return conn.exec_driver_sql(self._claim, (*best, *event)).all()

    @staticmethod
    def _best(
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime | None,
        limit: int,
    ) -> tuple[Any, ...]:
        branch = (environment, list(tasks), limit)
        return (
            now,
            list({stretch.queue: None for stretch in stretches}),
            session_id,
            environment,
            [stretch.queue for stretch in stretches],
            [stretch.highest for stretch in stretches],
            [stretch.lowest for stretch in stretches],
            [stretch.due_at for stretch in stretches],
            [stretch.id for stretch in stretches],
            environment,
            environment,
            *branch,
            *branch,
            limit,
        )

    def lock_numbers(self, conn: Statements, numbers: Sequence[int]) -> None:
        conn.exec_driver_sql("select pg_advisory_xact_lock(n) from unnest(%b::bigint[]) n", (list(numbers),))

    def lock_due_in(
        self, conn: Statements, environment: str, rooms: Sequence[Room], tasks: Sequence[str], now: datetime
    ) -> list[tuple[UUID, str, str | None]]:
        columns = [list(column) for column in zip(*rooms, strict=True)]
        levels, branch = (environment,) * 4, (environment, now, list(tasks))
        found = conn.exec_driver_sql(self._lock_due_in, (*columns, *levels, *branch, *branch, *branch)).all()
        return [(row[0], row[1], row[2]) for row in found]
