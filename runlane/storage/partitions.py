"""Bounded queues: which runs may start without more than `concurrency_limit` slots of a partition being in use at once.

A partition is (environment, queue, concurrency key); runs without a key are one of their own.  A slot is not a thing
that is stored: the runs that are leased or hold a reservation are counted themselves, so nothing can leak, whatever
dies.  A run with a reservation has its slot already: it may be claimed when no other slot is free.

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
from sqlalchemy import ColumnElement, Select, TextClause, bindparam, select, text

from runlane import jsontext
from runlane.projections.runs import Run
from runlane.storage import given_up, install, queries, tables
from runlane.storage.choices import one_of
from runlane.storage.transaction import Transaction

#: The most partitions that one transaction locks: the server's table of locks is shared by everybody.
MOST_PARTITIONS = 100
_ABOVE_ALL = 32768  # one more than the highest priority


@frozen
class Partition:
    """A part of a bounded queue whose slots are counted together, and the limit that holds for them here."""

    queue: str
    key: str | None
    limit: int

    def number(self, schema: str | None, environment: str) -> int:
        """The number of its lock: the same in every process."""
        name = jsontext.dumps(["runlane partition", schema, environment, self.queue, self.key])
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


@frozen
class Slots:
    """The slots of a partition: how many are free, and how many are set aside for runs that are not leased yet."""

    free: int
    reserved: int


def lock(tx: Transaction, environment: str, partitions: Sequence[Partition]) -> dict[Partition, Slots]:
    """Wait for the partitions' locks, which end with the transaction; the slots of each as they are then."""
    numbers = {partition.number(tx.schema, environment) for partition in partitions}
    tx.dialect.lock_numbers(tx.statements, sorted(numbers))
    # A statement of its own: one that waited for the lock would count what was leased before it waited.
    wanted = [{"queue": partition.queue, "key": partition.key} for partition in partitions]
    found = tx.statements.execute(_slots(tx.schema), {"environment": environment, "partitions": jsontext.dumps(wanted)})
    used = {(row.queue, row.key): (row.occupied, row.reserved) for row in found}
    slots = {}
    for partition in partitions:
        occupied, reserved = used[partition.queue, partition.key]
        # No more may be claimed than are free if the limit has been lowered since they were set aside.
        unleased = max(0, partition.limit - occupied + reserved)
        slots[partition] = Slots(max(0, partition.limit - occupied), min(reserved, unleased))
    return slots


def lock_due(
    tx: Transaction,
    environment: str,
    session_id: UUID,
    limits: Mapping[str, int],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
) -> list[Run]:
    """Up to `limit` runs of bounded queues that are due at `now` and have or get a slot, best first, locked.

    The caller leases them in this transaction or leaves them; their partitions stay locked until its end.

    Args:
        limits: the concurrency limit of each queue.
    """
    return _best(tx, environment, session_id, limits, tasks, now, limit)


def lock_unreserved(
    tx: Transaction, environment: str, limits: Mapping[str, int], tasks: Sequence[str], now: datetime, limit: int
) -> list[Run]:
    """The same for a maintainer that sets slots aside: runs that need one and get one.

    Those whose wakeup was refused for good need none: others go first.
    """
    return _best(tx, environment, None, limits, tasks, now, limit)


def _best(
    tx: Transaction,
    environment: str,
    session_id: UUID | None,
    limits: Mapping[str, int],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
) -> list[Run]:
    """For a worker session runs to lease, for nobody runs to reserve a slot for."""
    if not limits or not tasks or limit < 1:
        return []
    tried: set[Partition] = set()
    while True:
        most = min(limit, MOST_PARTITIONS) + len(tried)
        found = _open(tx, environment, session_id, limits, tasks, now, most)
        chosen = [partition for partition in found if partition not in tried][:MOST_PARTITIONS]
        if not chosen:
            return []
        # Whoever was faster may have filled all of them.  Going back to the savepoint gives their locks back, so that
        # others can be taken: in the order of numbers once more, and never while some are held.
        # (In plain SQL: SQLAlchemy would compile its own savepoints anew each time.)
        tx.statements.exec_driver_sql("savepoint runlane_partitions")
        slots = lock(tx, environment, chosen)
        rooms = {p: s.free for p, s in slots.items()}
        ids = _take(tx, environment, rooms, tasks, now, limit, session_id is None)
        if session_id is not None:
            held = {p: s.reserved for p, s in slots.items() if s.reserved}
            ids += _holding(tx, environment, held, tasks, now) if held else []
        if not ids:
            tx.statements.exec_driver_sql("rollback to savepoint runlane_partitions")
        tx.statements.exec_driver_sql("release savepoint runlane_partitions")
        if ids:
            runs = queries.get_runs(tx, ids).values()
            return sorted(runs, key=lambda run: (-run.priority, run.due_at, run.id))[:limit]
        tried.update(chosen)


def _take(
    tx: Transaction,
    environment: str,
    rooms: Mapping[Partition, int],
    tasks: Sequence[str],
    now: datetime,
    limit: int,
    reserving: bool,
) -> list[UUID]:
    """The best runs over all the locked partitions, of each as many as it has room for."""
    wanted = [(p.queue, p.key, min(room, limit)) for p, room in rooms.items() if room]
    if not wanted:
        return []
    left = Counter({(queue, key): room for queue, key, room in wanted})
    ids: list[UUID] = []
    for run_id, queue, key in tx.dialect.lock_due_in(tx.statements, environment, wanted, tasks, now, reserving):
        if left[queue, key] and len(ids) < limit:
            left[queue, key] -= 1
            ids.append(run_id)
    return ids


def _holding(
    tx: Transaction, environment: str, held: Mapping[Partition, int], tasks: Sequence[str], now: datetime
) -> list[UUID]:
    """The best due runs that hold a reservation, of each partition as many as may be claimed."""
    ids: list[UUID] = []
    for partition, most in held.items():
        asked = {"environment": environment, "queue": partition.queue, "tasks": list(tasks), "now": now, "most": most}
        if partition.key is None:
            ids += tx.execute(_HOLDING_UNKEYED, asked).scalars()
        else:
            ids += tx.execute(_HOLDING_KEYED, {**asked, "key": partition.key}).scalars()
    return ids


def _holding_in(key: ColumnElement[bool]) -> Select[Any]:
    """The due runs of a partition that hold a reservation, best first, locked."""
    c = tables.runs.c
    mine = (c.environment == bindparam("environment"), c.queue == bindparam("queue"), key, c.reservation.is_not(None))
    return (
        select(c.id)
        .where(*mine, c.due_at <= bindparam("now"), c.task_id.in_(bindparam("tasks", expanding=True)))
        .order_by(c.priority.desc(), c.due_at, c.id)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
    )


_HOLDING_UNKEYED = _holding_in(tables.runs.c.concurrency_key.is_(None))
_HOLDING_KEYED = _holding_in(tables.runs.c.concurrency_key == bindparam("key"))


def _open(
    tx: Transaction,
    environment: str,
    session_id: UUID | None,
    limits: Mapping[str, int],
    tasks: Sequence[str],
    now: datetime,
    most: int,
) -> list[Partition]:
    """Up to `most` partitions that seem to have a slot and a due run for it, the one with the best run first.

    Seen without a lock: one that is full here is full at this moment; one that is open may be full when it is locked.
    The best runs are in the first partitions, as each of those has at least one run that is as good.
    """
    queues = [{"queue": queue, "most": most_leased} for queue, most_leased in limits.items()]
    known: Any = list(tasks) if tx.schema is not None else jsontext.dumps(list(tasks))
    found = tx.statements.execute(
        _find_open(tx.schema, session_id is None),
        {
            "environment": environment,
            **({} if session_id is None else {"session_id": session_id}),
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


def _in_partition(runs: str, what: str, which: str, rest: str = "") -> str:
    """What is found of the runs of partition `p`, with a key or without: one look into an index either way."""
    found = f"select {what} from {runs} where environment = :environment and queue = p.queue and ({which})"
    return f"""case when p.key is null
        then ({found} and concurrency_key is null {rest}) else ({found} and concurrency_key = p.key {rest}) end"""


_OCCUPIED = "lease_session_id is not null or reservation is not null"


def _prefix(schema: str | None) -> str:
    return "" if schema is None else install.quoted(schema) + "."


@cache
def _slots(schema: str | None) -> TextClause:
    runs = _prefix(schema) + "runs"
    occupied = _in_partition(runs, "count(*)", _OCCUPIED)
    reserved = _in_partition(runs, "count(reservation)", _OCCUPIED)
    partitions = _rows(schema, "partitions", {"queue": "text", "key": "text"})
    return text(f"select p.queue, p.key, {occupied} as occupied, {reserved} as reserved from {partitions}")


@cache
def _find_open(schema: str | None, reserving: bool) -> TextClause:
    """Keys one after the other, levels of priority one after the other: nothing that lies in between is read."""
    prefix = _prefix(schema)
    known = "= any(:tasks)" if schema is not None else "in (select value from json_each(:tasks))"
    of_queue = f"from {prefix}runs where environment = :environment and queue = p.queue"
    key = f"select min(concurrency_key) {of_queue} and due_at is not null and concurrency_key"
    keyed = f"{of_queue} and concurrency_key = p.key and due_at is not null"
    waits = one_of("status", *tables.WAITING) if schema is None else "status in ('scheduled', 'released', 'retrying')"
    waiting = f"{of_queue} and {waits}"
    # What reserves looks for runs without a slot; what claims takes those that have one too, even where none is free.
    unreserved = f" and reservation is null and {given_up.unrejected(prefix)}" if reserving else ""
    in_session = "" if reserving else f"exists (select 1 from {prefix}sessions where id = :session_id) and"
    has_room = f"most > {_in_partition(prefix + 'runs', 'count(*)', _OCCUPIED)}"
    due = f"due_at <= :now and task_id {known}{unreserved} order by priority desc, due_at, id limit 1"
    # Of a full partition those that have a slot already, and no better run that has none.
    held, of_held = "", ""
    if not reserving:
        reserved = _in_partition(prefix + "runs", "count(reservation)", _OCCUPIED)
        best_held = _in_partition(prefix + "runs", "id", _OCCUPIED, f"and reservation is not null and {due}")
        held = f"""held as materialized (
          select queue, key from partitions p where not {has_room} and {reserved} > 0
        ), """
        of_held = f"union all select queue, key, {best_held} from held p"
    by_id = f"from {prefix}runs r where r.id = b.id"  # no join: the planner might read the whole table for it
    statement = f"""
        with recursive names as materialized (
          select queue, most from {_rows(schema, "queues", {"queue": "text", "most": "int"})}
          where {in_session} not exists
            (select 1 from {prefix}queues where environment = :environment and name = p.queue and paused)
        ), keys (queue, most, key) as (
          select queue, most, ({key} is not null) from names p
          union all
          select queue, most, ({key} > p.key) from keys p where key is not null
        ), partitions as (
          select queue, most, key from keys where key is not null
          union all
          select queue, most, null from names
        ), {held}free as materialized (
          select queue, key from partitions p where {has_room}
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
          {of_held}
        ), known as (
          select queue, key, id, (select priority {by_id}) as priority, (select due_at {by_id}) as due_at
          from best b where id is not null
        ), ranked as (
          select known.*, row_number() over (partition by queue, key order by priority desc, due_at, id) as place
          from known
        )
        select queue, key from ranked where place = 1 order by priority desc, due_at, id limit :most"""
    typed = text(statement).bindparams(bindparam("now", type_=tables.Instant))
    return typed if reserving else typed.bindparams(bindparam("session_id", type_=tables.Guid))
