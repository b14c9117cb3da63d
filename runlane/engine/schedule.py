"""Schedules: registering what is deployed, and making runs of due occurrences."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from runlane import decisions
from runlane.decisions import ScheduleDefinition
from runlane.engine.trigger import NewRun, trigger
from runlane.errors import ConflictKind, StorageConflict
from runlane.events import RunCreated, ScheduleEvent
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.storage import log, schedules
from runlane.storage.transaction import Transaction
from runlane.tasks import Registry, Task, idempotency_ttl
from runlane.values import Actor, ActorType, Source, SourceType


def definitions(registry: Registry) -> list[ScheduleDefinition]:
    """What the registered tasks say about schedules."""
    return [
        ScheduleDefinition(
            schedule.id,
            task.id,
            registry.queue_of(task, schedule.queue),
            schedule.cadence(),
            task.payload.to_json(schedule.payload, f"payload of schedule {schedule.id}"),
            schedule.enabled,
        )
        for task in registry.tasks.values()
        for schedule in task.schedules
    ]


def deploy(tx: Transaction, environment: str, wanted: Sequence[ScheduleDefinition], tasks: Sequence[str]) -> int:
    """Record new and changed definitions, and withdraw those that `tasks` have no longer; how many changed."""
    known = {state.schedule_id: state for state in schedules.schedules_of(tx, environment)}
    now = tx.now()
    changed = 0
    for definition in wanted:
        state = known.get(definition.schedule_id)
        events = decisions.deploy(state, definition, now)
        changed += _move(tx, environment, definition.schedule_id, state, events, now)
    deployed = {definition.schedule_id for definition in wanted}
    for state in known.values():
        if state.task_id in tasks and state.schedule_id not in deployed:
            changed += _move(tx, environment, state.schedule_id, state, decisions.withdraw(state), now)
    return changed


def fire(tx: Transaction, stream_id: UUID, registry: Registry, new_id: UUID) -> Run | None:
    """Make the run of a due schedule's latest occurrence; None if it is not due, or another maintainer has it."""
    state = schedules.lock_schedule(tx, stream_id)
    if state is None:
        return None
    now = tx.now()
    due = decisions.fire(state, new_id, now)
    if not due:
        return None
    task = registry.task(state.task_id)
    triggered = trigger(tx, state.environment, [_occurrence(state, task, new_id, due[0].scheduled_for)])[0]
    # Decided again with the run that the task's key may have led to.
    events = decisions.fire(state, triggered.run.id, now)
    if not _move(tx, state.environment, state.schedule_id, state, events, now):
        raise StorageConflict(
            f"schedule {state.schedule_id} was moved by somebody else", kind=ConflictKind.SCHEDULE_OCCURRENCE
        )
    return triggered.run


def _occurrence(state: ScheduleState, task: Task[..., object], new_id: UUID, scheduled_for: datetime) -> NewRun:
    key = task.key("idempotency_key", None, state.payload)
    occurrence = decisions.occurrence_id(state.environment, state.schedule_id, scheduled_for)
    created = RunCreated(
        task.id,
        state.queue,
        state.payload,
        Source(SourceType.SCHEDULE, None, None, state.schedule_id, occurrence, scheduled_for),
        task.priority,
        idempotency_key=key,
        idempotency_ttl=None if key is None else idempotency_ttl(task.idempotency_ttl),
        singleton_key=task.key("singleton_key", None, state.payload),
        concurrency_key=task.key("concurrency_key", None, state.payload),
    )
    return NewRun(new_id, created, Actor(ActorType.SCHEDULE, state.schedule_id))


def _move(
    tx: Transaction,
    environment: str,
    schedule_id: str,
    state: ScheduleState | None,
    events: Sequence[ScheduleEvent],
    now: datetime,
) -> int:
    if not events:
        return 0
    actor = Actor(ActorType.SCHEDULE, schedule_id)
    change = decisions.move_schedule(environment, schedule_id, state, events, now, actor)
    return int(log.append_schedule(tx, change))
