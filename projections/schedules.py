"""The fold of a schedule: its definition, and which occurrence comes next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

from attrs import evolve, frozen

from runlane.errors import InvariantViolation
from runlane.events import (
    Recorded,
    ScheduleChanged,
    ScheduleFired,
    SchedulePaused,
    ScheduleRegistered,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleStep,
)


@frozen
class ScheduleState:
    """A schedule as of its last event; `next_at` is the nominal time of the next occurrence, if one is to come."""

    stream_id: UUID
    environment: str
    schedule_id: str
    task_id: str
    queue: str
    cadence: Mapping[str, Any]
    payload: Any
    enabled: bool
    registered_at: datetime
    sequence: int
    updated_at: datetime
    next_at: datetime | None = None
    last_at: datetime | None = None
    fired_count: int = 0
    paused: bool = False
    removed: bool = False


def born(first: Recorded) -> ScheduleState:
    """The schedule that its first event brings into being; the actor's id is the schedule's id.

    Raises:
        InvariantViolation: the event is no ``schedule.registered`` with sequence 1.
    """
    event = first.event
    if not isinstance(event, ScheduleRegistered) or first.sequence != 1:
        raise InvariantViolation(f"schedule stream {first.stream_id} does not begin with ScheduleRegistered")
    at = first.occurred_at
    return ScheduleState(
        first.stream_id,
        first.environment,
        first.actor.id,
        event.task_id,
        event.queue,
        event.cadence,
        event.payload,
        event.enabled,
        at,
        1,
        at,
        event.next_at,
    )


def after(state: ScheduleState, record: Recorded) -> ScheduleState:
    """The schedule once `record` has happened.

    Raises:
        InvariantViolation: the event cannot follow.
    """
    event = record.event
    at = record.occurred_at
    if (
        not isinstance(event, ScheduleStep)
        or record.sequence != state.sequence + 1
        or record.stream_id != state.stream_id
        or record.environment != state.environment
        or at < state.updated_at
    ):
        raise InvariantViolation(f"event {record.sequence} cannot follow {state.sequence} of {state.schedule_id}")
    if state.removed and not isinstance(event, ScheduleChanged):
        raise InvariantViolation(f"schedule {state.schedule_id} is removed; only a new definition can follow")
    step = evolve(state, sequence=record.sequence, updated_at=at)
    match event:
        case ScheduleChanged():
            return evolve(
                step,
                task_id=event.task_id,
                queue=event.queue,
                cadence=event.cadence,
                payload=event.payload,
                enabled=event.enabled,
                next_at=event.next_at,
                removed=False,
            )
        case ScheduleFired():
            return evolve(step, last_at=event.scheduled_for, next_at=event.next_at, fired_count=state.fired_count + 1)
        case SchedulePaused():
            return evolve(step, paused=True)
        case ScheduleResumed():
            return evolve(step, paused=False, next_at=event.next_at)
        case ScheduleRemoved():
            return evolve(step, removed=True, next_at=None)
        case unhandled:
            assert_never(unhandled)


def replay(records: Iterable[Recorded]) -> ScheduleState:
    """The schedule that a whole stream folds to."""
    stream = iter(records)
    first = next(stream, None)
    if first is None:
        raise InvariantViolation("a schedule without events cannot be folded")
    state = born(first)
    for record in stream:
        state = after(state, record)
    return state
