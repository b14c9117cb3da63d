"""The terms of the model: tasks, triggers, runs and schedules as plain records; nothing imported from Runlane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

WAITING = ("queued", "scheduled", "released", "retrying")
LEASED = ("running", "cancellation_requested")
TERMINAL = ("succeeded", "failed", "cancelled")
LEASE = timedelta(hours=6)
SYSTEM = "system:runlane"
MINUTE = timedelta(minutes=1)

Key = Callable[[str | None], str] | None


@dataclass(frozen=True)
class Rules:
    """What a task says about its runs."""

    max_attempts: int = 1
    backoff: Callable[[int], timedelta] = lambda _: timedelta(0)
    max_lost: int = 3
    queue: str = "main"
    priority: int = 0
    idempotency: Key = None
    ttl: str | None = None
    singleton: Key = None
    concurrency: Key = None


TASKS = {
    "patient": Rules(3, lambda _: 10 * MINUTE, max_lost=2),
    "brief": Rules(),
    "stubborn": Rules(4, lambda n: min(MINUTE * 3 ** (n - 1), 5 * MINUTE), queue="wide", priority=3, concurrency=str),
    "only": Rules(2, lambda _: MINUTE, singleton=str),
    "once": Rules(queue="narrow", idempotency=str, ttl="1h"),
    "rare": Rules(2, lambda _: MINUTE),
    "hasty": Rules(2, lambda _: MINUTE),
    "timed": Rules(2, lambda _: MINUTE, queue="aside"),
}
LIMITS = {"narrow": 1, "wide": 2}
TIMEOUTS = {"wide": 10 * MINUTE}
QUEUES = ("main", "aside", "narrow", "wide")


@dataclass(frozen=True)
class Wanted:
    """A trigger; what is None is the task's."""

    task: str
    payload: str | None = None
    queue: str | None = None
    key: str | None = None
    ttl: str | None = None
    singleton: str | None = None
    concurrency: str | None = None
    priority: int | None = None
    delay: timedelta | None = None
    correlation: str | None = None

    def settled(self) -> Wanted:
        """With the task's defaults."""
        rules = TASKS[self.task]

        def key(asked: str | None, of: Key) -> str | None:
            return asked if asked is not None or of is None else of(self.payload)

        return replace(
            self,
            queue=self.queue or rules.queue,
            key=key(self.key, rules.idempotency),
            ttl=self.ttl or rules.ttl,
            singleton=key(self.singleton, rules.singleton),
            concurrency=key(self.concurrency, rules.concurrency),
            priority=rules.priority if self.priority is None else self.priority,
        )


@dataclass(frozen=True)
class Outcome:
    """What a handler does: succeed, release, fail, give_up (not retryable) or stop (as its signal asks)."""

    kind: str
    delay: timedelta = timedelta(0)
    code: str = "task_failed"


@dataclass(frozen=True)
class Source:
    """What brought a run into being."""

    type: str = "trigger"
    run: UUID | None = None
    parent: UUID | None = None
    schedule: str | None = None
    scheduled_for: datetime | None = None


@dataclass
class ModelRun:
    """What is known of one run.

    `asked` has the reason of a cancellation, `reserved` the end of a reservation, `history` types and actors of events.
    """

    id: UUID
    wanted: Wanted
    source: Source
    created_at: datetime
    status: str
    due_at: datetime | None
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    failures: int = 0
    retries: int = 0
    releases: int = 0
    losses: int = 0
    lease: tuple[UUID, int] | None = None
    asked: tuple[str | None] | None = None
    reserved: tuple[datetime | None] | None = None
    code: str | None = None
    history: list[tuple[str, str]] = field(default_factory=list)

    @property
    def place(self) -> tuple[str | None, str | None]:
        """The partition whose slots it takes."""
        return self.wanted.queue, self.wanted.concurrency

    @property
    def rank(self) -> tuple[Any, ...]:
        """The claim order."""
        return -(self.wanted.priority or 0), self.due_at, self.id


@dataclass(frozen=True)
class Rule:
    """When a schedule is due: `at` once, at multiples of `every` since the Unix epoch, or at `times` of each day."""

    at: datetime | None = None
    every: timedelta | None = None
    times: tuple[tuple[int, int], ...] = ()

    def after(self, moment: datetime) -> datetime | None:
        """The first occurrence later than `moment`."""
        if self.at is not None:
            return self.at if self.at > moment else None
        if self.every is not None:
            epoch = datetime(1970, 1, 1, tzinfo=UTC)
            return epoch + ((moment - epoch) // self.every + 1) * self.every
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        of_two_days = (day + timedelta(days=d, hours=h, minutes=m) for d in (0, 1) for h, m in self.times)
        return next(at for at in of_two_days if at > moment)


@dataclass(frozen=True)
class Planned:
    """A schedule as a deployment defines it."""

    id: str
    task: str
    rule: Rule
    payload: str | None = None
    queue: str | None = None
    enabled: bool = True


@dataclass
class Timetable:
    """A schedule as it is; `ledger` has (outcome, nominal time, how many collapsed into it, run)."""

    planned: Planned
    next_at: datetime | None
    last_at: datetime | None = None
    paused: bool = False
    removed: bool = False
    ledger: list[tuple[str, datetime, int, UUID | None]] = field(default_factory=list)

    def missed(self, now: datetime) -> list[datetime]:
        """The occurrences that are due, the oldest first."""
        found, at = [], self.next_at
        while at is not None and at <= now:
            found.append(at)
            at = self.planned.rule.after(at)
        return found


def retention(wanted: Wanted) -> timedelta:
    """How long after its creation a run keeps its key, once it has succeeded or was cancelled."""
    return timedelta(days=30) if wanted.ttl is None else timedelta(hours=int(wanted.ttl[:-1]))
