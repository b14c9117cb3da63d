"""Events as rows."""

from __future__ import annotations

from collections.abc import Iterable

from runlane import codec
from runlane.decisions import Change, QueueChange
from runlane.events import Recorded
from runlane.schedule_decisions import ScheduleChange
from runlane.storage.dialect import EventRow


def event_rows(changes: Iterable[Change] | Iterable[ScheduleChange] | Iterable[QueueChange]) -> list[EventRow]:
    """The rows of the events of changes."""
    return encoded(record for change in changes for record in change.records)


def encoded(records: Iterable[Recorded]) -> list[EventRow]:
    """The rows of events."""
    found: list[EventRow] = []
    known: dict[int, codec.Stored] = {}  # runs of one batch share events such as a lease by the same session
    actors: dict[int, str] = {}
    for record in records:
        stored = known.get(id(record.event))
        if stored is None:
            stored = known[id(record.event)] = codec.encode(record.event)
        actor = actors.get(id(record.actor))
        if actor is None:
            actor = actors[id(record.actor)] = record.actor.text
        found.append(
            (
                record.stream_id,
                record.sequence,
                stored.type,
                stored.version,
                record.occurred_at,
                record.environment,
                actor,
                stored.data,
            )
        )
    return found
