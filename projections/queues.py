"""The fold of a queue's own stream: whether operators have paused it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never
from uuid import UUID

from attrs import frozen

from runlane.errors import InvariantViolation
from runlane.events import QueueEvent, QueuePaused, QueueResumed, Recorded


@frozen
class QueueControl:
    """A queue as of the last event in its stream: paused or not, since when, by whom and why."""

    stream_id: UUID
    environment: str
    name: str
    sequence: int
    paused: bool
    updated_at: datetime
    actor: str
    reason: str | None = None


def after(state: QueueControl | None, record: Recorded) -> QueueControl:
    """The queue once `record` has happened; None is a queue that nobody has ever paused.

    Raises:
        InvariantViolation: the event cannot follow.
    """
    event = record.event
    sequence = 0 if state is None else state.sequence
    if not isinstance(event, QueueEvent) or record.sequence != sequence + 1:
        raise InvariantViolation(f"event {record.sequence} cannot follow {sequence} of queue stream {record.stream_id}")
    if state is not None and (
        record.stream_id != state.stream_id
        or record.environment != state.environment
        or event.queue != state.name
        or record.occurred_at < state.updated_at
    ):
        raise InvariantViolation(f"event {record.sequence} does not belong to queue {state.name} as of {sequence}")
    match event:
        case QueuePaused():
            paused = True
        case QueueResumed():
            paused = False
        case unhandled:
            assert_never(unhandled)
    if paused is (state is not None and state.paused):
        raise InvariantViolation(f"event {record.sequence} leaves queue {event.queue} as it was")
    return QueueControl(
        record.stream_id,
        record.environment,
        event.queue,
        record.sequence,
        paused,
        record.occurred_at,
        record.actor.text,
        event.reason,
    )


def replay(records: Iterable[Recorded]) -> QueueControl:
    """The queue that a whole stream folds to.

    Raises:
        InvariantViolation: the stream is empty, has a gap, or an event that cannot follow.
    """
    state: QueueControl | None = None
    for record in records:
        state = after(state, record)
    if state is None:
        raise InvariantViolation("a queue without events cannot be folded")
    return state
