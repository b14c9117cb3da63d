"""Bounded queues: which runs may start without more than `concurrency_limit` of a partition being leased at once.

A partition is (environment, queue, concurrency key); runs without a key are one of their own.  A slot is not a thing
that is stored: the leased runs themselves are counted, so nothing can leak whatever dies.

Claims of one partition go one after the other, under a lock that ends with the transaction; the count is read by a
later statement than the one that waited for the lock, so it sees what the claim before committed.  The lock is one of
PostgreSQL's advisory ones, on a number made of the partition's name: lock rows would have to be created and cleaned up
for every key that ever was, and whoever shares a number by chance only waits.  SQLite has one writer anyway.

No deadlock: everybody takes these locks in the order of their numbers, in one go, and after whatever other locks the
transaction needs; while they are held nobody waits for anything (runs are locked with SKIP LOCKED).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import TextClause, bindparam, text

from runlane import jsontext
from runlane.projections.runs import Run
from runlane.storage import install, queries, tables
from runlane.storage.transaction import Transaction

#: The most partitions that one transaction locks: the server's table of locks is shared by everybody.
MOST_PARTITIONS = 100
_ABOVE_ALL = 32768  # one more than the highest priority


@frozen
class Partition:
    """A part of a bounded queue whose leased runs are counted together, and the limit that holds for them here."""

    queue: str
    key: str | None
    limit: int

    def number(self, schema: str | None, environment: str) -> int:
        """The number of its lock: the same in every process."""
        name = jsontext.dumps(["runlane partition", schema, environment, self.queue, self.key])
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def lock(tx: Transaction, environment: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """Wait for the partitions' locks, which end with the transaction; for each how many slots are free then."""
    numbers = {partition.number(tx.schema, environment) for partition in partitions}
    tx.dialect.lock_numbers(tx.connection, sorted(numbers))
    # A statement of its own: one that waited for the lock would count what was leased before it waited.
    wanted = [{"queue": partition.queue, "key": partition.key} for partition in partitions]
    found = tx.connection.execute(
        _occupied(tx.schema), {"environment": environment, "partitions": jsontext.dumps(wanted)}
    )
    occupied = {(row.queue, row.key): row.occupied for row in found}
    return {p: max(0, p.limit - occupied[p.queue, p.key]) for p in partitions}


def lock_due(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    limits: Mapping[str, int],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
) -> list[Run]:
    """Up to `limit` runs of bounded queues that are due at `now` and have a slot, best first, locked.

    The caller leases them in this transaction or leaves them; their partitions stay locked until its end.

    Args:
        limits: the concurrency limit of each queue.
    """
    if not limits or not tasks or limit < 1:
        return []
    tried: set[Partition] = set()
    while True:
        found = _open(tx, environment, session_id, limits, tasks, now, min(limit, MOST_PARTITIONS) + len(tried))
        chosen = [partition for partition in found if partition not in tried][:MOST_PARTITIONS]
        if not chosen:
            return []
        # Whoever was faster may have filled all of them.  Going back to the savepoint gives their locks back, so that
        # others can be taken: in the order of numbers once more, and never while some are held.
        with tx.connection.begin_nested() as savepoint:
            ids = _take(tx, environment, lock(tx, environment, chosen), tasks, now, limit)
            if not ids:
                savepoint.rollback()
        if ids:
            runs = {run.id: run for run in queries.load(tx, queries.RUN.where(tables.runs.c.id.in_(ids)))}
            return [runs[run_id] for run_id in ids]
        tried.update(chosen)


def _take(
    tx: Transaction,
    environment: str,
    rooms: Mapping[Partition, int],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
) -> list[UUID]:
    """The best runs over all the locked partitions, of each as many as it has room for."""
    wanted = [(p.queue, p.key, min(room, limit)) for p, room in rooms.items() if room]
    if not wanted:
        return []
    left = Counter({(queue, key): room for queue, key, room in wanted})
    ids: list[UUID] = []
    for run_id, queue, key in tx.dialect.lock_due_in(tx.connection, environment, wanted, tasks, now):
        if left[queue, key] and len(ids) < limit:
            left[queue, key] -= 1
            ids.append(run_id)
    return ids


def _open(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    limits: Mapping[str, int],
    tasks: Sequence[str],
    now: datetime,
    most: int,
) -> list[Partition]:
    """Up to `most` partitions that seem to have a free slot and a due run, the one with the best run first.

    Seen without a lock: one that is full here is full at this moment; one that is open may be full when it is locked.
    The best runs are in the first partitions, as each of those has at least one run that is as good.
    """
    queues = [{"queue": queue, "most": most_leased} for queue, most_leased in limits.items()]
    known: Any = list(tasks) if tx.schema is not None else jsontext.dumps(list(tasks))
    found = tx.connection.execute(
        _find_open(tx.schema),
        {
            "environment": environment,
            "session_id": session_id,
            "queues": jsontext.dumps(queues),
            "tasks": known,
            "now": now,
            "most": most,
        },
    )
    return [Partition(row.queue, row.key, limits[row.queue]) for row in found]


def _rows(schema: str | None, parameter: str, columns: Mapping[str, str]) -> str:
    """A FROM item of the objects in a JSON array."""
    if schema is not None:
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"json_to_recordset(cast(:{parameter} as json)) as p ({typed})"
    values = ", ".join(f"json_extract(value, '$.{name}') as {name}" for name in columns)
    return f"(select {values} from json_each(:{parameter})) p"


def _leased(runs: str) -> str:
    """How many runs of partition `p` are leased: one look into an index either way."""
    count = f"select count(*) from {runs} where environment = :environment and queue = p.queue"
    return f"""case when p.key is null
        then ({count} and concurrency_key is null and lease_session_id is not null)
        else ({count} and concurrency_key = p.key and lease_session_id is not null) end"""


def _prefix(schema: str | None) -> str:
    return "" if schema is None else install.quoted(schema) + "."


@cache
def _occupied(schema: str | None) -> TextClause:
    partitions = _rows(schema, "partitions", {"queue": "text", "key": "text"})
    return text(f"select p.queue, p.key, {_leased(_prefix(schema) + 'runs')} as occupied from {partitions}")


@cache
def _find_open(schema: str | None) -> TextClause:
    """Keys one after the other, levels of priority one after the other: nothing that lies in between is read."""
    prefix = _prefix(schema)
    known = "= any(:tasks)" if schema is not None else "in (select value from json_each(:tasks))"
    of_queue = f"from {prefix}runs where environment = :environment and queue = p.queue"
    key = f"select min(concurrency_key) {of_queue} and due_at is not null and concurrency_key"
    keyed = f"{of_queue} and concurrency_key = p.key and due_at is not null"
    waiting = f"{of_queue} and status in ('scheduled', 'released', 'retrying')"
    due = f"due_at <= :now and task_id {known} order by priority desc, due_at, id limit 1"
    by_id = f"from {prefix}runs r where r.id = b.id"  # no join: the planner might read the whole table for it
    statement = f"""
        with recursive names as materialized (
          select queue, most from {_rows(schema, "queues", {"queue": "text", "most": "int"})}
          where exists (select 1 from {prefix}sessions where id = :session_id) and not exists
            (select 1 from {prefix}queues where environment = :environment and name = p.queue and paused)
        ), keys (queue, most, key) as (
          select queue, most, ({key} is not null) from names p
          union all
          select queue, most, ({key} > p.key) from keys p where key is not null
        ), partitions as (
          select queue, most, key from keys where key is not null
          union all
          select queue, most, null from names
        ), free as materialized (
          select queue, key from partitions p where most > {_leased(prefix + "runs")}
        ), keyed (queue, key, level) as (
          select queue, key, (select max(priority) {keyed}) from free p where key is not null
          union all
          select queue, key, (select max(priority) {keyed} and priority < p.level) from keyed p where level is not null
        ), waiting (queue, level) as (
          select queue, (select max(priority) {waiting}) from free p where key is null
          union all
          select queue, (select max(priority) {waiting} and priority < p.level) from waiting p where level is not null
        ), best (queue, key, id) as materialized (
          select queue, key, (select id {keyed} and priority = p.level and {due}) from keyed p
          union all
          select queue, null, (select id {of_queue} and concurrency_key is null and status = 'queued' and {due})
          from free p where key is null
          union all
          select queue, null, (select id {waiting} and concurrency_key is null and priority = p.level and {due})
          from waiting p
        ), known as (
          select queue, key, id, (select priority {by_id}) as priority, (select due_at {by_id}) as due_at
          from best b where id is not null
        ), ranked as (
          select known.*, row_number() over (partition by queue, key order by priority desc, due_at, id) as place
          from known
        )
        select queue, key from ranked where place = 1 order by priority desc, due_at, id limit :most"""
    return text(statement).bindparams(
        bindparam("now", type_=tables.Instant), bindparam("session_id", type_=tables.Guid)
    )
