"""Folding a stream of any kind event by event, in constant memory however long it is."""

from __future__ import annotations

from uuid import UUID

from runlane.decisions import environment_stream, key_stream
from runlane.errors import InvariantViolation
from runlane.events import EnvironmentEvent, Event, KeyEvent, QueueEvent, Recorded, ScheduleEvent
from runlane.projections import queues, runs, schedules
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.structs import struct


@struct
class Unfolded:
    """A stream that nothing is folded from, an idempotency key's or the environment's own, as of its last event."""

    stream_id: UUID
    environment: str
    sequence: int
    last: Recorded


State = Run | ScheduleState | QueueControl | Unfolded


def after(state: State | None, record: Recorded) -> State:
    """The state of a stream once `record` has happened; None is a stream without events.

    Raises:
        InvariantViolation: the event cannot follow.
    """
    match state:
        case None:
            return _born(record)
        case Run():
            return runs.after(state, record)
        case ScheduleState():
            return schedules.after(state, record)
        case QueueControl():
            return queues.after(state, record)
        case Unfolded():
            return _next(state, record)


def _born(record: Recorded) -> State:
    event = record.event
    if isinstance(event, ScheduleEvent):
        return schedules.born(record)
    if isinstance(event, QueueEvent):
        return queues.after(None, record)
    if isinstance(event, KeyEvent | EnvironmentEvent):
        return _next(None, record)
    return runs.born(record)


def _next(state: Unfolded | None, record: Recorded) -> Unfolded:
    sequence = 0 if state is None else state.sequence
    if record.sequence != sequence + 1:
        raise InvariantViolation(f"event {record.sequence} cannot follow {sequence} of stream {record.stream_id}")
    if record.stream_id != _stream_of(record.event, record.environment):
        raise InvariantViolation(f"event {record.sequence} does not belong to stream {record.stream_id}")
    return Unfolded(record.stream_id, record.environment, record.sequence, record)


def _stream_of(event: Event, environment: str) -> UUID | None:
    """The id of the only stream in which this event of a key or an environment may stand."""
    if isinstance(event, KeyEvent):
        return key_stream(environment, event.task_id, event.key)
    return environment_stream(environment) if isinstance(event, EnvironmentEvent) else None
