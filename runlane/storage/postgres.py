"""PostgreSQL: set-based statements over arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from runlane.digests import chained
from runlane.storage import postgres_claims as claims
from runlane.storage import rows
from runlane.storage.dialect import Alike, Ends, EventRow, LeaseTerms, Room, RunRow, Statements
from runlane.storage.floors import Stretch
from runlane.storage.postgres_batches import (
    Batch,
    Instants,
    Integers,
    OptionalUuids,
    Shape,
    Smallints,
    Texts,
    Uuids,
    source,
)
from runlane.storage.postgres_births import Form, cast, digests_of, inserting

_EVENT = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor", "data")
_EVENT_VALUES = ", ".join("data::json" if column == "data" else column for column in _EVENT)
_DIGESTED = (*_EVENT, "digest")
_DIGESTED_VALUES = f"{_EVENT_VALUES}, digest"
_BIRTH = (*rows.BIRTH, "digest")
_STEP = ("id", "expected", *rows.STATE[1:])
_ADVANCE = (*_STEP, *_EVENT[2:])
_STEP_DIGESTED = (*_STEP, "digest")
#: Which runs were advanced, unless all were.
_LATE = "select case when count(*) < %b::int then coalesce(array_agg(id), '{}') end from u"


def _digested(events: Sequence[EventRow], before: Mapping[UUID, bytes]) -> tuple[Batch, dict[UUID, bytes]]:
    """Events with their digests, and the last one of each stream; `before` is what stands before each in the log."""
    digests, last = chained(events, before)
    return Batch(_DIGESTED, [(*event, digest) for event, digest in zip(events, digests, strict=True)]), last


def _ended(ends: Ends) -> tuple[Any, ...]:
    """The parameters of ``claims.finish``."""
    runs = (Uuids(ends.ids), Integers(ends.expected), Texts(ends.data))
    return (ends.version, ends.environment, ends.actor, *runs, len(ends.ids))


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
        self._update_runs = cache(self._updating_runs)
        self._advance_runs = cache(self._advancing_runs)
        self._claim_keys = f"""
            insert into {schema}.idempotency_keys (environment, task_id, key, run_id)
            select * from unnest(%b::text[], %b::text[], %b::text[], %b::uuid[])
            on conflict do nothing returning run_id"""
        self._digests_before = f"""
            select e.stream_id, e.digest from unnest(%b::uuid[], %b::int[]) p (stream_id, sequence)
            join {schema}.events e on e.stream_id = p.stream_id and e.sequence = p.sequence"""
        self._digests_of = f"select id, digest from {schema}.runs where id = any(%b::uuid[])"
        self._lock_for_pruning = f"select {schema}.lock_for_pruning(%b::uuid[])"
        self._delete_runs = f"select {schema}.prune_runs(%s, %s, %b::uuid[])"
        self._lock_due = claims.lock_due(schema)
        self._any_due = claims.any_due(schema)
        self._claim = claims.claim(schema)
        self._finish = claims.finish(schema)
        self._finish_and_claim = claims.claim(schema, with_ends=True)
        self._lock_due_in = {reserving: claims.lock_due_in(schema, reserving) for reserving in (False, True)}

    def _inserting_events(self, events: Shape) -> str:
        return claims.flat(f"""
            insert into {self._schema}.events ({", ".join(_DIGESTED)})
            select {_DIGESTED_VALUES} from {source("t", _DIGESTED, events, ordinality=True)} order by ord""")

    def _inserting_runs(self, events: Shape, runs: Shape) -> str:
        return f"with e as ({self._inserting_events(events)}) {self._inserting_rows(runs)}"

    def _inserting_rows(self, runs: Shape) -> str:
        return claims.flat(f"""
            insert into {self._schema}.runs ({", ".join(_BIRTH)})
            select {", ".join(map(self._cast, _BIRTH))} from {source("d", _BIRTH, runs)}""")

    def _inserting_singleton(self, runs: Shape) -> str:
        return f"""{self._inserting_rows(runs)}
            on conflict (environment, task_id, singleton_key)
            where singleton_key is not null and finished_at is null do nothing returning id"""

    def _updating_runs(self, runs: Shape, events: Shape) -> str:
        return claims.flat(f"""
            with u as ({self._updating_rows(source("d", _STEP_DIGESTED, runs), "d.digest")} returning r.id), e as (
              insert into {self._schema}.events ({", ".join(_DIGESTED)})
              select {_DIGESTED_VALUES} from {source("t", _DIGESTED, events, ordinality=True)}
              where stream_id in (select id from u) order by ord
            )
            {_LATE}""")

    def _advancing_runs(self, steps: Shape) -> str:
        """Each run by one event, whose own columns stand behind those of the run."""
        event = ("r.digest", "d.id", "d.sequence", *(f"d.{column}" for column in _EVENT[2:]))
        return claims.flat(f"""
            with u as (
              {self._updating_rows(source("d", _ADVANCE, steps), claims.digest(self._schema, *event))}
              returning r.id, r.sequence, {", ".join(f"d.{column}" for column in _EVENT[2:])}, r.digest
            ), e as (
              insert into {self._schema}.events ({", ".join(_DIGESTED)})
              select id, sequence, {", ".join(_DIGESTED_VALUES.split(", ")[2:])} from u
            )
            {_LATE}""")

    def _updating_rows(self, steps: str, digest: str) -> str:
        changed = ", ".join(f"{column} = d.{self._cast(column)}" for column in rows.STATE[1:])
        return f"""
            update {self._schema}.runs r set {changed}, digest = {digest} from {steps}
            where r.id = d.id and r.sequence = d.expected"""

    def _cast(self, column: str) -> str:
        return cast(self._schema, column)

    def now(self, conn: Statements) -> datetime:
        moment: datetime = conn.exec_driver_sql("select clock_timestamp()").scalar_one()
        return moment

    def insert_events(self, conn: Statements, events: Sequence[EventRow]) -> None:
        began = {event[0]: event[1] - 1 for event in reversed(events)}
        behind = [(stream_id, sequence) for stream_id, sequence in began.items() if sequence]
        before: dict[UUID, bytes] = {}
        if behind:
            found = conn.exec_driver_sql(self._digests_before, tuple(map(list, zip(*behind, strict=True))))
            before = {row[0]: row[1] for row in found}
        digested, _ = _digested(events, before)
        conn.exec_driver_sql(self._insert_events(digested.shape), digested.parameters)

    def insert_runs(self, conn: Statements, runs: Sequence[RunRow], events: Sequence[EventRow]) -> None:
        first, last = _digested(events, {})
        second = Batch(_BIRTH, [(*run, last[run[0]]) for run in runs])
        conn.exec_driver_sql(self._insert_runs(first.shape, second.shape), (*first.parameters, *second.parameters))

    def insert_alike(
        self, conn: Statements, alike: Alike, ids: Sequence[UUID], data: Sequence[str], now: datetime | None
    ) -> datetime:
        events = alike.events
        differing: tuple[Any, ...] = (Uuids(ids), Texts(data))
        form = Form.MANY
        if len(ids) == 1:
            form, differing = Form.LONE, (ids[0], data[0])
        elif now is not None:
            form, differing = Form.DIGESTED, (*differing, *digests_of(events, ids, data, now))
        statement, data_behind, columns = inserting(self._schema, alike, form)
        parameters = (now, *events[0][5:7], *data_behind, *differing, *columns)
        done = conn.exec_driver_sql(statement, parameters)
        if now is not None:
            return now
        at: datetime = done.scalar_one()
        return at

    def insert_singleton(self, conn: Statements, run: RunRow, events: Sequence[EventRow]) -> bool:
        batch = Batch(_BIRTH, [(*run, chained(events, {})[0][-1])])
        return conn.exec_driver_sql(self._insert_singleton(batch.shape), batch.parameters).first() is not None

    def update_runs(
        self, conn: Statements, expected: Sequence[int], runs: Sequence[RunRow], events: Sequence[EventRow]
    ) -> set[UUID]:
        steps = [(run[0], sequence, *run[1:]) for run, sequence in zip(runs, expected, strict=True)]
        if len(events) == len(runs):
            batch = Batch(_ADVANCE, [step + event[2:] for step, event in zip(steps, events, strict=True)])
            statement, parameters = self._advance_runs(batch.shape), batch.parameters
        else:
            before = {row[0]: row[1] for row in conn.exec_driver_sql(self._digests_of, ([run[0] for run in runs],))}
            second, last = _digested(events, before)
            first = Batch(_STEP_DIGESTED, [(*step, last[step[0]]) for step in steps])
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

    def lock_for_pruning(self, conn: Statements, ids: Sequence[UUID]) -> None:
        conn.exec_driver_sql(self._lock_for_pruning, (list(ids),))

    def delete_runs(self, conn: Statements, told: tuple[UUID, int], ids: Sequence[UUID]) -> int:
        deleted: int = conn.exec_driver_sql(self._delete_runs, (*told, list(ids))).scalar_one()
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

    def any_due(
        self,
        conn: Statements,
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
    ) -> bool:
        parameters = self._best(environment, session_id, stretches, tasks, now, 1)
        return bool(conn.exec_driver_sql(self._any_due, parameters).all())

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
        parameters = self._leases(environment, terms, stretches, tasks, now, limit)
        return conn.exec_driver_sql(self._claim, parameters).all()

    def finish_runs(self, conn: Statements, ends: Ends) -> set[UUID]:
        won = conn.exec_driver_sql(self._finish, _ended(ends)).scalar_one()
        return set() if won is None else set(ends.ids).difference(won)

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
        leases = self._leases(environment, terms, stretches, tasks, None, limit)
        found = conn.exec_driver_sql(self._finish_and_claim, (*leases, *_ended(ends))).all()
        won = found[0][0]
        late = set() if won is None else set(ends.ids).difference(won)
        return late, [row[1:] for row in found if row[1] is not None]

    def _leases(
        self,
        environment: str,
        terms: LeaseTerms,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime | None,
        limit: int,
    ) -> tuple[Any, ...]:
        best = self._best(environment, terms.session_id, stretches, tasks, now, limit)
        event = (terms.version, environment, terms.actor, terms.before, terms.behind)
        return (*best, *event, terms.session_id, terms.worker_id)

    @staticmethod
    def _best(
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime | None,
        limit: int,
    ) -> tuple[Any, ...]:
        branch = (environment, Texts(tasks), limit)
        return (
            now,
            Texts({stretch.queue: None for stretch in stretches}),
            session_id,
            environment,
            Texts([stretch.queue for stretch in stretches]),
            Smallints([stretch.highest for stretch in stretches]),
            Smallints([stretch.lowest for stretch in stretches]),
            Instants([stretch.due_at for stretch in stretches]),
            OptionalUuids([stretch.id for stretch in stretches]),
            environment,
            environment,
            *branch,
            *branch,
            limit,
        )

    def lock_numbers(self, conn: Statements, numbers: Sequence[int]) -> None:
        conn.exec_driver_sql("select pg_advisory_xact_lock(n) from unnest(%b::bigint[]) n", (list(numbers),))

    def lock_due_in(
        self,
        conn: Statements,
        environment: str,
        rooms: Sequence[Room],
        tasks: Sequence[str],
        now: datetime,
        reserving: bool,
    ) -> list[tuple[UUID, str, str | None]]:
        columns = [list(column) for column in zip(*rooms, strict=True)]
        levels, branch = (environment,) * 4, (environment, now, list(tasks))
        found = conn.exec_driver_sql(self._lock_due_in[reserving], (*columns, *levels, *branch, *branch, *branch)).all()
        return [(row[0], row[1], row[2]) for row in found]
