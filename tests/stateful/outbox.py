"""The model of the outbox: which wakeups are to be published, and how far that has come (SPEC 14)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from tests.stateful.terms import WAITING, ModelRun

#: After which a wakeup is published again if its run still waits for it, at first; then twice as long, and so on to...
AGAIN, SELDOM = timedelta(minutes=10), timedelta(hours=4)
MOST_TRIES = 20
#: After which the rows of a publisher are taken over by others.
CLAIM = timedelta(seconds=30)


@dataclass
class Row:
    """A wakeup that was asked for by event `sequence` of its run."""

    run: ModelRun
    sequence: int
    status: str
    due_at: datetime | None
    requested_at: datetime
    attempts: int = 0
    claimed_by: UUID | None = None  # of those that die

    @property
    def key(self) -> tuple[UUID, int]:
        """Which event it belongs to."""
        return self.run.id, self.sequence

    @property
    def is_waited_for(self) -> bool:
        """Whether nothing has happened to the run since, but that a slot was reserved along with it."""
        since = [type for type, _ in self.run.history[self.sequence :]]
        return self.run.status in WAITING and since in ([], ["run.dispatch_reserved"])


@dataclass
class Outbox:
    """All rows of an environment."""

    rows: dict[tuple[UUID, int], Row] = field(default_factory=dict)

    def add(self, run: ModelRun) -> None:
        """The newest event of a run asks for a wakeup."""
        key = (run.id, len(run.history))
        self.rows[key] = Row(run, key[1], "pending", run.updated_at, run.updated_at)

    def has_given_up(self, run: ModelRun) -> bool:
        """Whether the wakeup that came with the run's reservation will not come."""
        return any(row.status == "dead_lettered" for row in self._of(run, 1))

    def was_refused(self, run: ModelRun) -> bool:
        """Whether the transport will never take its wakeup, as it has said since the run waits."""
        return any(row.status == "dead_lettered" and row.attempts < MOST_TRIES for row in self._of(run, 2))

    def _of(self, run: ModelRun, events: int) -> list[Row]:
        """The run's rows, with at most so many events since."""
        return [row for row in self.rows.values() if row.run is run and row.sequence >= len(run.history) - events]

    def remove(self, run_id: UUID) -> None:
        """The run is pruned."""
        self.rows = {key: row for key, row in self.rows.items() if key[0] != run_id}

    def look_again(self, now: datetime) -> None:
        """What was published a while ago has done its work, or is published once more."""
        for row in self.rows.values():
            if row.status == "published" and row.due_at is not None and row.due_at <= now:
                if row.is_waited_for:
                    row.status, row.due_at, row.attempts = "pending", now, 0
                else:
                    row.due_at = None

    def resumed(self, queue: str, now: datetime) -> None:
        """While a queue was paused its wakeups were ignored: they are looked at again at once."""
        for row in self.rows.values():
            if row.run.wanted.queue == queue and row.status == "published" and row.due_at is not None:
                row.due_at = min(row.due_at, now)

    def take(self, now: datetime, of: Collection[UUID] | None = None, publisher: UUID | None = None) -> list[Row]:
        """A publisher claims the rows that are due, for half a minute; those whose run has gone on are done with."""
        found = []
        for row in self.rows.values():
            is_due = row.status in ("pending", "failed", "claimed") and row.due_at is not None and row.due_at <= now
            if is_due and (of is None or row.run.id in of):
                if row.attempts >= MOST_TRIES:
                    row.status, row.due_at = "dead_lettered", None
                elif row.is_waited_for:
                    row.status, row.due_at, row.attempts = "claimed", now + CLAIM, row.attempts + 1
                    row.claimed_by = publisher
                    found.append(row)
                else:
                    row.status, row.due_at = "published", None
        return found

    def settle(self, row: Row, outcome: str, now: datetime) -> str:
        """The transport has answered; what the row is then."""
        if outcome == "published":
            row.status, row.due_at = "published", now + max(AGAIN, min(now - row.requested_at, SELDOM))
        elif outcome == "rejected" or row.attempts >= MOST_TRIES:
            row.status, row.due_at = "dead_lettered", None
        else:
            wait = min(timedelta(seconds=2 ** (row.attempts - 1)), timedelta(minutes=5))
            row.status, row.due_at = "failed", now + wait
        return row.status
