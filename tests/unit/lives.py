"""Runs in every status, each made by the shortest plain list of events that leads there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from runlane import events as e
from runlane.events import Recorded
from runlane.projections import runs
from runlane.projections.runs import Run
from runlane.values import SYSTEM, Actor, ActorType, Failure

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = T0 + 2 * HOUR
RUN_ID = UUID("019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f")
SESSION = UUID("00000000-0000-4000-8000-000000000001")
OTHER_SESSION = UUID("00000000-0000-4000-8000-000000000002")
WORKER = Actor(ActorType.WORKER, "w1")
BROKEN = Failure("task_failed", "it broke", True)

CREATED = e.RunCreated("emails.welcome", "emails", {"user": 1})
LEASED = e.RunLeased(SESSION, "w1", 1)

#: The steps after creation that lead to each status; those that wait are due one hour after ``T0``.
PATHS: dict[str, tuple[e.RunStep, ...]] = {
    "queued": (),
    "scheduled": (),
    "running": (LEASED,),
    "released": (LEASED, e.RunReleased(SESSION, 1, T0 + HOUR)),
    "retrying": (LEASED, e.RunRetryScheduled(SESSION, 1, BROKEN, T0 + HOUR, 3_600_000, 0)),
    "cancellation_requested": (LEASED, e.RunCancellationRequested("enough")),
    "succeeded": (LEASED, e.RunSucceeded(SESSION, 1, {"ok": True})),
    "failed": (LEASED, e.RunFailed(SESSION, 1, BROKEN)),
    "cancelled": (e.RunCancelled("enough"),),
}
STATUSES = tuple(PATHS)
ACTIVE = STATUSES[:6]
TERMINAL = STATUSES[6:]
HELD = ("running", "cancellation_requested")


def record(
    sequence: int, event: e.Event, at: datetime = T0, stream: UUID = RUN_ID, environment: str = "default"
) -> Recorded:
    """An event in an envelope with the tests' usual values."""
    return Recorded(stream, sequence, event, at, environment, SYSTEM)


def history(*events: e.RunEvent, at: datetime = T0) -> list[Recorded]:
    """The events as a stream, all at one instant."""
    return [record(n, event, at) for n, event in enumerate(events, 1)]


def run_in(status: str, created: e.RunCreated = CREATED) -> Run:
    """A run in `status`; its only lease, if it had one, was attempt 1 of ``SESSION``."""
    if status == "scheduled":
        created = e.RunCreated(created.task_id, created.queue, created.payload, run_at=T0 + HOUR)
    return runs.replay(history(created, *PATHS[status]))
