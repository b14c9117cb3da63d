"""What a command means for a schedule: state + command + now -> events, or a refusal.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from attrs import frozen

from runlane import cadence as cadences
from runlane import jsontext
from runlane.decisions import NAMESPACE
from runlane.errors import RunStateInvalid
from runlane.events import (
    Event,
    Recorded,
    ScheduleChanged,
    ScheduleEvent,
    ScheduleFired,
    SchedulePaused,
    ScheduleRegistered,
    ScheduleRemoved,
    ScheduleResumed,
)
from runlane.projections import schedules
from runlane.projections.schedules import ScheduleState
from runlane.values import Actor


@frozen
class ScheduleChange:
    """What a decision does to a schedule."""

    before: ScheduleState | None
    records: tuple[Recorded, ...]
    after: ScheduleState


@frozen
class ScheduleDefinition:
    """What a deployment says a schedule is; `subject` is whom its payload is about."""

    schedule_id: str
    task_id: str
    queue: str
    cadence: cadences.Cadence
    payload: Any
    enabled: bool
    subject: str | None = None


def deploy(
    state: ScheduleState | None, definition: ScheduleDefinition, now: datetime, *, spent: bool = False
) -> tuple[ScheduleEvent, ...]:
    """Register a schedule seen for the first time, or record that its definition has changed; else nothing.

    A change of rule starts afresh from now; other changes leave the next occurrence as it is.

    Args:
        spent: whether the single occurrence that is defined has fired, or was skipped, under whatever definition.
    """
    rule = cadences.to_json(definition.cadence)
    fields = (definition.task_id, definition.queue, rule, definition.payload, definition.enabled)
    if state is None:
        first = cadences.first_at(definition.cadence, now)
        return (ScheduleRegistered(*fields, first if definition.enabled else None),)
    stored = (state.task_id, state.queue, state.cadence, state.payload, state.enabled)
    # As JSON, in which 1, 1.0 and true are different values.
    if jsontext.dumps(stored) == jsontext.dumps(fields) and not state.removed:
        return ()
    if not definition.enabled:
        return (ScheduleChanged(*fields, None),)
    if rule == state.cadence and state.enabled and not state.removed:
        return (ScheduleChanged(*fields, state.next_at),)
    if isinstance(definition.cadence, cadences.Once):
        spent = spent or definition.cadence.at == state.last_at
        return (ScheduleChanged(*fields, None if spent else definition.cadence.at),)
    # A clock that was set back would lead to an occurrence that has fired.
    since = now if state.last_at is None else max(now, state.last_at)
    return (ScheduleChanged(*fields, cadences.next_after(definition.cadence, since)),)


def withdraw(state: ScheduleState) -> tuple[ScheduleEvent, ...]:
    """A schedule that its task no longer has stops; runs already made stay."""
    return () if state.removed else (ScheduleRemoved(),)


def fire(state: ScheduleState, run_id: UUID, now: datetime) -> tuple[ScheduleFired, ...]:
    """The latest due occurrence makes a run; those missed before it collapse into it."""
    if state.paused or state.removed or not state.enabled or state.next_at is None or state.next_at > now:
        return ()
    rule = cadences.from_json(state.cadence)
    scheduled_for, missed = cadences.latest_due(rule, state.next_at, now)
    return (
        ScheduleFired(
            occurrence_id(state.environment, state.schedule_id, scheduled_for),
            scheduled_for,
            run_id,
            cadences.next_after(rule, scheduled_for),
            missed,
            state.next_at if missed else None,
        ),
    )


def pause(state: ScheduleState, reason: str | None) -> tuple[SchedulePaused, ...]:
    """Stop firing until resumed; nothing if it is paused already."""
    _deployed(state)
    return () if state.paused else (SchedulePaused(reason),)


def resume(state: ScheduleState, reason: str | None, now: datetime) -> tuple[ScheduleResumed, ...]:
    """Go on with the next occurrence after now; those that fell due meanwhile are skipped, and told."""
    _deployed(state)
    if not state.paused:
        return ()
    if state.next_at is None or state.next_at > now:
        return (ScheduleResumed(state.next_at, reason),)
    rule = cadences.from_json(state.cadence)
    until, behind = cadences.latest_due(rule, state.next_at, now)
    return (ScheduleResumed(cadences.next_after(rule, now), reason, behind + 1, state.next_at, until),)


def preview(state: ScheduleState, count: int, now: datetime) -> tuple[datetime, ...]:
    """The next `count` occurrences after now by the rule as it is, or fewer if there are no more.

    A single one that is overdue is to come too, unless the schedule is paused: to resume it would skip that.
    """
    fires_by_hand(state)
    rule = cadences.from_json(state.cadence)
    if isinstance(rule, cadences.Once):
        comes = state.next_at is not None and (state.next_at > now or not state.paused)
        return (rule.at,) if comes and count else ()
    found: list[datetime] = []
    following = cadences.next_after(rule, now)
    while following is not None and len(found) < count:
        found.append(following)
        following = cadences.next_after(rule, following)
    return tuple(found)


def fires_by_hand(state: ScheduleState) -> None:
    """Refuse what makes no sense for a schedule that never fires.

    Raises:
        RunStateInvalid: it is removed, or disabled by its definition.
    """
    _deployed(state)
    if not state.enabled:
        raise RunStateInvalid(f"schedule {state.schedule_id} is disabled by its definition (enabled=False)")


def _deployed(state: ScheduleState) -> None:
    if state.removed:
        raise RunStateInvalid(f"schedule {state.schedule_id} is removed: task {state.task_id} has it no longer")


def occurrence_id(environment: str, schedule_id: str, scheduled_for: datetime) -> UUID:
    """The same id in every process for the same occurrence."""
    return uuid5(NAMESPACE, f"occurrence:{environment}:{schedule_id}:{scheduled_for.isoformat()}")


def schedule_stream(environment: str, schedule_id: str) -> UUID:
    """The id of a schedule's stream of events."""
    return uuid5(NAMESPACE, f"schedule:{environment}:{schedule_id}")


def move_schedule(
    environment: str, schedule_id: str, state: ScheduleState | None, events: Sequence[Event], at: datetime, actor: Actor
) -> ScheduleChange:
    """The change that `events` make to a schedule."""
    stream = schedule_stream(environment, schedule_id)
    at = at if state is None else max(at, state.updated_at)
    records = []
    after = state
    for event in events:
        sequence = 1 if after is None else after.sequence + 1
        record = Recorded(stream, sequence, event, at, environment, actor)
        after = schedules.born(record) if after is None else schedules.after(after, record)
        records.append(record)
    if after is None:
        raise ValueError("a schedule needs at least one event")
    return ScheduleChange(state, tuple(records), after)
