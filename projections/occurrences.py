"""What became of a schedule's occurrences, as its events tell it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from attrs import frozen

from runlane.events import Recorded, ScheduleFired, ScheduleResumed
from runlane.values import Actor

#: The events that tell of occurrences.
TELLING = (ScheduleFired, ScheduleResumed)


class OccurrenceOutcome(StrEnum):
    """Whether an occurrence made a run."""

    FIRED = "fired"
    SKIPPED = "skipped"


@frozen
class Occurrence:
    """The occurrence at `scheduled_for`, and the `collapsed` ones before it that shared its fate.

    Attributes:
        outcome: ``fired``: it made, or led to, the run `run_id`; ``skipped``: the schedule was paused.
        scheduled_for: its nominal time.
        decided_at: when that was decided.
        collapsed: how many earlier occurrences it stands for; they were missed, and made no run of their own.
        collapsed_from: the nominal time of the first of those.
        run_id: of the run, which may have been pruned since.
        occurrence_id: the same in every process.
        reason: given by who resumed the schedule.
        actor: who caused it.
    """

    outcome: OccurrenceOutcome
    scheduled_for: datetime
    decided_at: datetime
    collapsed: int
    collapsed_from: datetime | None
    run_id: UUID | None
    occurrence_id: UUID | None
    reason: str | None
    actor: Actor


def occurrences(records: Iterable[Recorded]) -> Iterator[Occurrence]:
    """The occurrences that these events of one schedule tell of, in their order."""
    for record in records:
        event, at, actor = record.event, record.occurred_at, record.actor
        if isinstance(event, ScheduleFired):
            yield Occurrence(
                OccurrenceOutcome.FIRED,
                event.scheduled_for,
                at,
                event.collapsed,
                event.collapsed_from,
                event.run_id,
                event.occurrence_id,
                None,
                actor,
            )
        elif isinstance(event, ScheduleResumed) and event.skipped_until is not None:
            collapsed = event.skipped - 1
            begin = event.skipped_from if collapsed else None
            yield Occurrence(
                OccurrenceOutcome.SKIPPED, event.skipped_until, at, collapsed, begin, None, None, event.reason, actor
            )
