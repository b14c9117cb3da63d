"""Putting histories back: whole streams of another database, with what they fold to.

This is the second writer of the log, and it decides nothing: it writes into an environment that nobody has written to
but itself, what another log holds already.  Everything else is appended by ``storage.log``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from runlane import jsontext
from runlane.events import Recorded, ScheduleFired
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.storage import rows, tables
from runlane.storage.dialect import EventRow
from runlane.storage.transaction import Transaction

_EVENTS = tables.events
_ANY = select(_EVENTS.c.sequence).where(_EVENTS.c.environment == bindparam("environment")).limit(1)
_HAS = select(_EVENTS.c.sequence).where(_EVENTS.c.stream_id == bindparam("stream_id"), _EVENTS.c.sequence == 1)
_JSON = ("failure", "reservation", "cancellation")


@frozen
class OwnedKey:
    """An idempotency key, the run that was created with it, and when an operator has freed it from that run."""

    environment: str
    task_id: str
    key: str
    run_id: UUID
    reset_at: datetime | None = None


def holds(tx: Transaction, environment: str) -> bool:
    """Whether the log has any event of this environment."""
    return tx.execute(_ANY, {"environment": environment}).first() is not None


def has_stream(tx: Transaction, stream_id: UUID) -> bool:
    """Whether the log has this stream."""
    return tx.execute(_HAS, {"stream_id": stream_id}).first() is not None


def events(tx: Transaction, batch: Sequence[EventRow]) -> None:
    """Append events of streams that are written as a whole in this transaction."""
    if not batch:
        return
    tx.dialect.insert_events(tx.statements, batch)
    if not tx.written:
        tx.written.append(batch[0])  # one is enough to find out whether a lost commit happened
    if tx.appended is not None:
        tx.appended.extend((event[0], event[1]) for event in batch)


def occurrences(tx: Transaction, schedule: ScheduleState, records: Iterable[Recorded]) -> None:
    """Write the occurrences that these events of a schedule tell of."""
    fired = [
        {
            "environment": schedule.environment,
            "schedule_id": schedule.schedule_id,
            "scheduled_for": record.event.scheduled_for,
            "id": record.event.occurrence_id,
            "run_id": record.event.run_id,
        }
        for record in records
        if isinstance(record.event, ScheduleFired)
    ]
    if fired:
        tx.execute(insert(tables.occurrences), fired)


def states(tx: Transaction, folded: Iterable[tuple[object, str]]) -> None:
    """Write the rows of runs, schedules and queues, each with the digest (in hex) of its last event; other streams have
    none."""
    found: dict[type, list[dict[str, Any]]] = {Run: [], ScheduleState: [], QueueControl: []}
    for state, digest in folded:
        if isinstance(state, Run):
            found[Run].append({**_run_values(state), "digest": bytes.fromhex(digest)})
        elif isinstance(state, ScheduleState):
            found[ScheduleState].append(rows.schedule_values(state))
        elif isinstance(state, QueueControl):
            found[QueueControl].append(rows.queue_values(state))
    if found[Run]:
        tx.execute(insert(tables.runs), found[Run])
    if found[ScheduleState]:
        tx.execute(insert(tables.schedules), found[ScheduleState])
    if found[QueueControl]:
        tx.execute(insert(tables.queues), found[QueueControl])


def keys(tx: Transaction, owned: Sequence[OwnedKey]) -> None:
    """Make these runs the owners of their keys; of those with the same key the last one."""
    last = {(one.environment, one.task_id, one.key): one for one in owned}
    if not last:
        return
    new = (postgresql if tx.dialect.name == "postgresql" else sqlite).insert(tables.idempotency_keys)
    upsert = new.on_conflict_do_update(
        index_elements=["environment", "task_id", "key"],
        set_={"run_id": new.excluded.run_id, "reset_at": new.excluded.reset_at},
    )
    values = [
        {"environment": one.environment, "task_id": one.task_id, "key": one.key}
        | {"run_id": one.run_id, "reset_at": one.reset_at}
        for one in last.values()
    ]
    tx.execute(upsert, values)


def _run_values(run: Run) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(rows.BIRTH, rows.birth_values(run), strict=True))
    for name in _JSON:
        values[name] = None if values[name] is None else jsontext.decode(values[name])
    return values
