"""A second, independent statement of what becomes of runs: plain records, and nothing imported from Runlane."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

WAITING = ("queued", "scheduled", "released", "retrying")
TERMINAL = ("succeeded", "failed", "cancelled")
LEASE = timedelta(hours=1)


@dataclass(frozen=True)
class Policy:
    """What a task says about failing."""

    max_attempts: int
    retry_delay: timedelta
    max_lost: int


POLICIES = {
    "patient": Policy(3, timedelta(minutes=10), 2),
    "brief": Policy(1, timedelta(0), 3),
}


@dataclass(frozen=True)
class Wanted:
    """A trigger."""

    task: str = "patient"
    queue: str = "main"
    key: str | None = None
    ttl: str | None = None
    delay: timedelta | None = None
    priority: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a handler does: succeed, fail, give_up (not retryable) or release."""

    kind: str
    delay: timedelta = timedelta(0)


@dataclass
class ModelRun:
    """What is known of one run."""

    id: UUID
    wanted: Wanted
    created_at: datetime
    updated_at: datetime
    status: str
    due_at: datetime | None
    sequence: int
    attempts: int = 0
    failures: int = 0
    retries: int = 0
    releases: int = 0
    losses: int = 0
    lease: tuple[UUID, int] | None = None

    def step(self, now: datetime, status: str, due_at: datetime | None = None) -> None:
        """One more event."""
        self.updated_at = max(self.updated_at, now)  # a clock that was set back turns no history round
        self.sequence += 1
        self.status = status
        self.due_at = due_at
        self.lease = None


def rank(run: ModelRun) -> tuple[object, ...]:
    """The claim order."""
    return -run.wanted.priority, run.due_at, run.id


def retention(wanted: Wanted) -> timedelta:
    """How long after its creation a run keeps its key, once it has succeeded."""
    return timedelta(days=30) if wanted.ttl is None else timedelta(hours=int(wanted.ttl[:-1]))


@dataclass
class Model:
    """Every run, who owns which key, and until when the sessions that have a row live."""

    now: datetime
    runs: dict[UUID, ModelRun] = field(default_factory=dict)
    owners: dict[tuple[str, str], UUID] = field(default_factory=dict)
    sessions: dict[UUID, datetime] = field(default_factory=dict)

    def owner_of(self, task: str, key: str | None) -> UUID | None:
        """Whom a trigger with this key would find now."""
        if key is None or (task, key) not in self.owners:
            return None
        owner = self.runs[self.owners[task, key]]
        if owner.status not in TERMINAL:
            return owner.id
        if owner.status == "failed" or owner.wanted.ttl == "active":
            return None
        return owner.id if owner.created_at + retention(owner.wanted) > self.now else None

    def retained(self) -> list[ModelRun]:
        """The runs that have ended and still own their keys for a time, in the order of their creation."""
        owners = (run for run in self.runs.values() if run.status in TERMINAL)
        return [
            run
            for run in owners
            if run.wanted.key is not None and self.owner_of(run.wanted.task, run.wanted.key) == run.id
        ]

    def create(self, run_id: UUID, wanted: Wanted) -> ModelRun:
        """A run comes into being, and owns its key."""
        assert self.owner_of(wanted.task, wanted.key) is None, "the key has an owner"
        assert run_id not in self.runs
        later = wanted.delay is not None and wanted.delay > timedelta(0)
        due_at = self.now + wanted.delay if later and wanted.delay is not None else self.now
        # A run that is due at once is asked to be delivered: its second event.
        run = ModelRun(
            run_id,
            wanted,
            self.now,
            self.now,
            "scheduled" if later else "queued",
            due_at,
            1 if later else 2,
        )
        self.runs[run_id] = run
        if wanted.key is not None:
            self.owners[wanted.task, wanted.key] = run_id
        return run

    def due(self, queues: Collection[str]) -> list[ModelRun]:
        """What may be claimed now, best first."""
        found = [
            run
            for run in self.runs.values()
            if run.status in WAITING
            and run.due_at is not None
            and run.due_at <= self.now
            and run.wanted.queue in queues
        ]
        return sorted(found, key=rank)

    def claimed(self, session: UUID, ids: Sequence[UUID], queues: Collection[str], limit: int) -> list[ModelRun]:
        """A claim of up to `limit` runs came to `ids`."""
        due = self.due(queues) if session in self.sessions else []
        assert list(ids) == [run.id for run in due[:limit]]
        return [self.lease(run.id, session) for run in due[:limit]]

    def lease(self, run_id: UUID, session: UUID) -> ModelRun:
        """A claim."""
        run = self.runs[run_id]
        assert run.status in WAITING
        run.step(self.now, "running")
        run.attempts += 1
        run.lease = (session, run.attempts)
        return run

    def finish(self, run_id: UUID, lease: tuple[UUID, int], outcome: Outcome) -> bool:
        """An attempt ends; False if the lease is not its own any more, so that nothing happens."""
        run = self.runs[run_id]
        if run.lease != lease:
            return False
        policy = POLICIES[run.wanted.task]
        match outcome.kind:
            case "succeed":
                run.step(self.now, "succeeded")
            case "release":
                run.step(self.now, "released", self.now + outcome.delay)
                run.releases += 1
            case "fail" if run.failures + 1 < policy.max_attempts:
                run.step(self.now, "retrying", self.now + policy.retry_delay)
                run.failures += 1
                run.retries += 1
            case "fail" | "give_up":
                run.step(self.now, "failed")
                run.failures += 1
            case other:
                raise AssertionError(other)
        return True

    def give_back(self, run_id: UUID, lease: tuple[UUID, int]) -> None:
        """An attempt is interrupted, which counts for nothing."""
        run = self.runs[run_id]
        assert run.lease == lease
        run.step(self.now, "queued")
        run.due_at = run.updated_at

    def held_by(self, session: UUID) -> dict[UUID, int]:
        """The leases of a session, run to attempt."""
        return {run.id: run.lease[1] for run in self.runs.values() if run.lease is not None and run.lease[0] == session}

    def recover(self) -> int:
        """Maintenance: sessions whose time is up, or that have no row, lose their runs; how many runs those were."""
        lost = [
            run
            for run in self.runs.values()
            if run.lease is not None and self.sessions.get(run.lease[0], self.now) <= self.now
        ]
        for run in lost:
            run.losses += 1
            if run.losses >= POLICIES[run.wanted.task].max_lost:
                run.step(self.now, "failed")
                run.failures += 1
            else:
                run.step(self.now, "queued")
                run.due_at = run.updated_at
        self.sessions = {session: end for session, end in self.sessions.items() if end > self.now}
        return len(lost)
