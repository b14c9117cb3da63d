"""The log: the one append, and reading streams.

``append_runs``, ``append_schedule``, ``append_queue``, ``append_environment`` and ``reset_key`` are the only writers of
events and of the tables folded from them (``storage.prune`` removes whole histories, and only what an event has told
before).  Each is guarded by the sequence that its changes were decided on, or by a lock; what lost its race is reported
and nothing of it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import sqlalchemy
from sqlalchemy import ColumnElement, Text, and_, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from runlane import codec
from runlane.decisions import Change, QueueChange, environment_stream
from runlane.errors import ConflictKind, StorageConflict
from runlane.events import EnvironmentEvent, IdempotencyReset, Recorded, RunDeliveryRequested, RunLeased, ScheduleFired
from runlane.projections.runs import Run
from runlane.schedule_decisions import ScheduleChange
from runlane.storage import faults, outbox, rows, tables
from runlane.storage.dialect import Alike, EventRow, LeaseTerms, Stamping
from runlane.storage.encoding import encoded, event_rows
from runlane.storage.floors import Stretch
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction
from runlane.values import Actor

_EVENTS = tables.events.c
# Constants, so that SQLAlchemy knows them again: building one costs more than executing it.
_MOVE_SCHEDULE = (
    update(tables.schedules)
    .where(tables.schedules.c.stream_id == bindparam("of_stream"), tables.schedules.c.sequence == bindparam("expected"))
    .values({column.name: bindparam(column.name) for column in tables.schedules.columns})
)


def append_runs(tx: Transaction, changes: Sequence[Change]) -> set[UUID]:
    """Write the events and the folded rows of independent runs, at most one change each.

    A step is written only if the stored sequence is the one it was decided on; a birth with an idempotency key only if
    nobody owns the key.

    Returns:
        The ids of the runs that lost; of those nothing is written.

    Raises:
        StorageConflict: a run with the id of a birth exists already (kind ``run_exists``).
    """
    births = [change for change in changes if change.before is None]
    steps = [change for change in changes if change.before is not None]
    lost = _give_birth(tx, births) if births else set()
    if steps:
        steps.sort(key=lambda change: change.after.id.int)  # one lock order for everybody
        expected = [change.before.sequence for change in steps if change.before is not None]
        states = [rows.state_values(change.after) for change in steps]
        events = event_rows(steps)
        late = tx.dialect.update_runs(tx.statements, expected, states, events)
        tx.written.extend(event for event in events if event[0] not in late) if late else tx.written.extend(events)
        if tx.publishes:
            _ask_for_delivery(tx, [change for change in steps if change.after.id not in late])
        lost |= late
    return lost


def append_leases(
    tx: Transaction,
    environment: str,
    terms: LeaseTerms,
    stretches: Sequence[Stretch],
    tasks: Sequence[str],
    now: datetime | None,
    limit: int,
    beside: Successes | None = None,
) -> tuple[list[Run], datetime | None]:
    """Find and lease up to `limit` runs of these parts of unlimited queues that are due at `now`, best first, in one
    statement; also since when the last of them was due.

    Here and in ``append_successes`` SQL advances runs by itself, as most of a worker's time goes by there; that it does
    what ``decisions`` and the fold do is what tests/storage/test_claims.py and test_successes.py compare.

    Args:
        beside: successes to append in the same statement.
    """
    if beside is None:
        found = tx.dialect.lease_runs(tx.statements, environment, terms, stretches, tasks, now, limit)
    else:
        dialect, ends = cast(Stamping, tx.dialect), beside.ends()
        place = (environment, terms, stretches, tasks, limit)
        beside.late, found = dialect.finish_and_lease(tx.statements, ends, *place)
    runs = [rows.leased_from_row(row, environment, terms.session_id, terms.worker_id) for row in found]
    if runs:
        first = runs[0]
        data = f"{terms.before}{first.attempt_count}{terms.behind}"
        stored = codec.STORED_AS[RunLeased][0]
        tx.written.append(
            (first.id, first.sequence, stored, terms.version, first.updated_at, environment, terms.actor, data)
        )
        if tx.appended is not None:
            tx.appended.extend((run.id, run.sequence) for run in runs)
    return runs, found[-1][-1] if runs else None


def append_successes(tx: Transaction, successes: Successes) -> None:
    """Write that leased runs have succeeded, at the moment of the one statement that it takes, each if it is still as
    it was leased; only for databases that can do it (``dialect.Stamping``)."""
    successes.late = cast(Stamping, tx.dialect).finish_runs(tx.statements, successes.ends())


def append_alike(
    tx: Transaction, alike: Alike, ids: Sequence[UUID], payloads: Sequence[Any], now: datetime | None
) -> datetime:
    """Write the births of runs that are due at once and differ by their ids and payloads, in one statement, as born at
    `now`, else at the moment of that statement by the database's clock; that moment.

    The other place where SQL makes rows of runs by itself; that they are what ``decisions.begin`` and the fold make of
    each is what tests/storage/test_alike.py compares.

    Only for databases that can do it (``dialect.Stamping``).

    Raises:
        StorageConflict: a run with one of the ids exists already (kind ``run_exists``).
    """
    data = codec.put_between(alike.around, payloads)
    with _unique_ids():
        dialect = cast(Stamping, tx.dialect)
        at = dialect.insert_alike(tx.statements, alike, ids, data, now)
    first = alike.events[0]
    tx.written.append((ids[0], *first[1:4], at, *first[5:7], data[0]))
    if tx.appended is not None:
        tx.appended.extend((id, event[1]) for id in ids for event in alike.events)
    return at


def append_singleton(tx: Transaction, change: Change) -> bool:
    """Write the birth of a run with a singleton key; False, and nothing is written, if an active run owns that key.

    The idempotency key, if it has one, is the caller's to settle.

    Raises:
        StorageConflict: a run with this id exists already (kind ``run_exists``).
    """
    events = event_rows([change])
    with _unique_ids():
        if not tx.dialect.insert_singleton(tx.statements, rows.birth_values(change.after), events):
            return False
    _insert_events(tx, events)
    _ask_for_delivery(tx, [change])
    return True


def claim_key(tx: Transaction, change: Change) -> bool:
    """Take the idempotency key of a birth that is about to be written; False if somebody owns it."""
    run = change.after
    key = (run.environment, run.task_id, run.idempotency_key or "", run.id)
    return bool(tx.dialect.claim_keys(tx.statements, [key]))


def give_key_back(tx: Transaction, change: Change) -> None:
    """Undo ``claim_key`` for a birth that was not written after all."""
    run = change.after
    tx.execute(delete(tables.idempotency_keys).where(_owned(run.environment, run.task_id, run.idempotency_key, run.id)))


def move_key(tx: Transaction, change: Change, owner: UUID) -> bool:
    """Make a birth the owner of its idempotency key, which `owner` holds no longer; False if it was not `owner`'s."""
    run = change.after
    mine = _owned(run.environment, run.task_id, run.idempotency_key, owner)
    moved = tx.execute(update(tables.idempotency_keys).where(mine).values(run_id=run.id, reset_at=None))
    return moved.rowcount == 1


def _owned(environment: str, task_id: str, key: str | None, owner: UUID) -> ColumnElement[bool]:
    """The row of a key, found by its primary key, while it is `owner`'s."""
    c = tables.idempotency_keys.c
    return and_(c.environment == environment, c.task_id == task_id, c.key == key, c.run_id == owner)


def take_over_key(tx: Transaction, change: Change, owner: UUID) -> bool:
    """Write a birth whose idempotency key `owner` holds no longer; the caller has locked the key's row.

    Returns whether the key was still `owner`'s; if not, nothing is written.
    """
    if not move_key(tx, change, owner):
        return False
    _insert_births(tx, [change])
    return True


def append_schedule(tx: Transaction, change: ScheduleChange) -> bool:
    """Write the events and the folded row of one schedule, and the occurrences that fired.

    Returns whether it won; if somebody else moved the schedule first, nothing is written.
    """
    if not _write_schedule(tx, change):
        return False
    _insert_events(tx, event_rows([change]))
    _insert_occurrences(tx, [change])
    return True


def append_schedules(tx: Transaction, changes: Sequence[ScheduleChange]) -> bool:
    """Write the steps of several schedules, and the occurrences that fired; the caller has locked their rows.

    Returns whether all of them won; if not, the transaction has to be rolled back.
    """
    moved = [
        {**rows.schedule_values(change.after), **_guard(change.after.stream_id, change.before.sequence)}
        for change in changes
        if change.before is not None
    ]
    if tx.execute(_MOVE_SCHEDULE, moved).rowcount != len(changes):
        return False
    _insert_events(tx, event_rows(changes))
    _insert_occurrences(tx, changes)
    return True


def _insert_occurrences(tx: Transaction, changes: Sequence[ScheduleChange]) -> None:
    fired = [
        {
            "environment": change.after.environment,
            "schedule_id": change.after.schedule_id,
            "scheduled_for": record.event.scheduled_for,
            "id": record.event.occurrence_id,
            "run_id": record.event.run_id,
        }
        for change in changes
        for record in change.records
        if isinstance(record.event, ScheduleFired)
    ]
    if fired:
        tx.execute(insert(tables.occurrences), fired)


def reset_key(tx: Transaction, record: Recorded, event: IdempotencyReset) -> None:
    """Write that a key was freed; the caller has locked the key's row."""
    freed = _owned(record.environment, event.task_id, event.key, event.run_id)
    tx.execute(update(tables.idempotency_keys).where(freed).values(reset_at=record.occurred_at))
    _insert_events(tx, encoded([record]))


def append_queue(tx: Transaction, change: QueueChange) -> bool:
    """Write the events and the folded row of one queue.

    Returns whether it won; if somebody else moved the queue first, nothing is written.
    """
    table, values = tables.queues, rows.queue_values(change.after)
    if change.before is None:
        new = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(table).values(**values)
        won = tx.execute(new.on_conflict_do_nothing().returning(table.c.stream_id)).first() is not None
    else:
        guard = (table.c.stream_id == change.after.stream_id) & (table.c.sequence == change.before.sequence)
        key = (table.c.environment == change.after.environment) & (table.c.name == change.after.name)
        won = tx.execute(update(table).where(key, guard).values(**values)).rowcount == 1
    if won:
        _insert_events(tx, event_rows([change]))
    return won


def lock_environment(tx: Transaction, environment: str) -> None:
    """Let nobody else append to the environment's own stream until the transaction ends."""
    tx.dialect.lock_stream(tx.statements, environment_stream(environment))


def append_environment(
    tx: Transaction, environment: str, event: EnvironmentEvent, at: datetime, actor: Actor
) -> Recorded:
    """Write an event to the environment's own stream, which nothing is folded from; the caller has locked it.

    Raises:
        StorageConflict: somebody appended without the lock (kind ``sequence``).
    """
    stream_id = environment_stream(environment)
    newest = select(_EVENTS.sequence, _EVENTS.occurred_at).where(_EVENTS.stream_id == stream_id)
    last = tx.execute(newest.order_by(_EVENTS.sequence.desc()).limit(1)).first()
    sequence, at = (1, at) if last is None else (last.sequence + 1, max(at, last.occurred_at))
    record = Recorded(stream_id, sequence, event, at, environment, actor)
    try:
        _insert_events(tx, encoded([record]))
    except IntegrityError as error:
        if not faults.is_duplicate(error):
            raise
        raise StorageConflict("the environment's stream has moved on", kind=ConflictKind.SEQUENCE) from error
    return record


def is_stored(tx: Transaction, event: EventRow, patience: float) -> bool:
    """Whether the transaction that appended this very event was committed; waits for it at most `patience` seconds.

    To look would not do: it may still be about to commit.  To append the event once more has to wait for it.
    """
    if tx.dialect.name == "postgresql":
        tx.statements.exec_driver_sql(f"set local lock_timeout = {max(1, int(patience * 1000))}")
    once_more = tx.connection.begin_nested()
    try:
        tx.dialect.insert_events(tx.statements, [event])
        return False
    except IntegrityError:  # one stands there; is it this one?
        pass
    finally:
        once_more.rollback()
    names = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor")
    stored = select(*(_EVENTS[name] for name in names), sqlalchemy.cast(_EVENTS.data, Text))
    place = (_EVENTS.stream_id == event[0]) & (_EVENTS.sequence == event[1])
    return tuple(tx.execute(stored.where(place)).one()) == event


def _give_birth(tx: Transaction, births: Sequence[Change]) -> set[UUID]:
    keyed = [
        (run.environment, run.task_id, run.idempotency_key, run.id)
        for run in (change.after for change in births)
        if run.idempotency_key is not None
    ]
    lost: set[UUID] = set()
    if keyed:
        # Sorted, so that two batches with common keys wait for each other and never in a circle; of entries with the
        # same key the first one in the batch comes first.
        won = tx.dialect.claim_keys(tx.statements, sorted(keyed, key=lambda key: key[:3]))
        lost = {key[3] for key in keyed} - won
    _insert_births(tx, [change for change in births if change.after.id not in lost])
    return lost


def _insert_births(tx: Transaction, births: Sequence[Change]) -> None:
    if not births:
        return
    runs, events = [rows.birth_values(change.after) for change in births], event_rows(births)
    with _unique_ids():
        tx.dialect.insert_runs(tx.statements, runs, events)
    tx.written.extend(events)
    _ask_for_delivery(tx, births)


def _insert_events(tx: Transaction, events: Sequence[EventRow]) -> None:
    tx.dialect.insert_events(tx.statements, events)
    tx.written.extend(events)


def _ask_for_delivery(tx: Transaction, changes: Sequence[Change]) -> None:
    """Where the transport carries one wakeup per run: each event that asks for one has its row in the outbox."""
    if tx.publishes:
        asked = [(c.after, r) for c in changes for r in c.records if isinstance(r.event, RunDeliveryRequested)]
        outbox.enqueue(tx, (outbox.Requested(run, record.sequence, record.occurred_at) for run, record in asked))


@contextmanager
def _unique_ids() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if not faults.is_duplicate(error):
            raise
        raise StorageConflict(
            "a run with this run_id exists already; run ids are never reused",
            kind=ConflictKind.RUN_EXISTS,
            retryable=False,
        ) from error


def _guard(stream_id: UUID, sequence: int) -> dict[str, Any]:
    """Of a schedule that is to be moved, as it was read."""
    return {"of_stream": stream_id, "expected": sequence}


def _write_schedule(tx: Transaction, change: ScheduleChange) -> bool:
    values = rows.schedule_values(change.after)
    if change.before is not None:
        guarded = {**values, **_guard(change.after.stream_id, change.before.sequence)}
        return tx.execute(_MOVE_SCHEDULE, guarded).rowcount == 1
    # Two processes that are deployed at the same moment register the same schedule: the database picks one.
    new = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(tables.schedules).values(**values)
    return tx.execute(new.on_conflict_do_nothing().returning(tables.schedules.c.stream_id)).first() is not None
