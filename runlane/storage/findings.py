"""What a check of the log says: differences, and how much was looked at."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from attrs import frozen


@frozen
class Difference:
    """Where a stored row and the fold of the log disagree; `sequence` is the last event that was folded.

    `since` is the event from which on they do, where that can be told: before it the row is as the log says.
    """

    stream_id: UUID
    sequence: int
    field: str
    stored: Any
    folded: Any
    since: int | None = None


@frozen
class Verification:
    """What a check of the log found."""

    runs: int
    schedules: int
    events: int
    differences: tuple[Difference, ...]
    queues: int = 0
    #: How many stretches of the log still make the root that their checkpoint says.
    checkpoints: int = 0
    #: Checkpoints of another log, with positions of its own: those that came with an import.
    foreign_checkpoints: int = 0

    @property
    def identical(self) -> bool:
        """Whether replaying the log gives exactly what is stored."""
        return not self.differences
