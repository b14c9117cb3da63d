"""Attempts that succeeded, appended at the moment of the statement that does it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from runlane import codec
from runlane.events import RunSucceeded
from runlane.projections.runs import Run
from runlane.storage.dialect import Ends


class Successes:
    """Runs as they were leased, and what each came to; `late` are, afterwards, those that are not so any more, of which
    nothing was written.

    Args:
        runs: at least one, all of one environment and leased under one name.
        actor: who has it from, as text.
    """

    def __init__(self, runs: Sequence[Run], events: Sequence[RunSucceeded], actor: str) -> None:
        self._ended = sorted(zip(runs, events, strict=True), key=lambda one: one[0].id.int)  # one lock order for all
        self._actor = actor
        self.late: set[UUID] = set()

    def ends(self) -> Ends:
        """As the database takes them."""
        known: dict[tuple[UUID, int], str] = {}  # those without a result say the same
        data = []
        for _, event in self._ended:
            text = known.get((event.session_id, event.attempt)) if event.result is None else None
            if text is None:
                text = codec.encode(event).data
                if event.result is None:
                    known[event.session_id, event.attempt] = text
            data.append(text)
        runs = [run for run, _ in self._ended]
        version = codec.STORED_AS[RunSucceeded][1]
        sequences = [run.sequence for run in runs]
        return Ends(version, runs[0].environment, self._actor, [run.id for run in runs], sequences, data)
