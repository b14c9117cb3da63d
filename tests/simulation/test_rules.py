"""The rules of the simulator, one broken promise at a time: they are of no use if they let anything pass."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from runlane.errors import ErrorCode
from runlane.events import (
    Event,
    QueuePaused,
    QueueResumed,
    Recorded,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunFailed,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunsPruned,
    RunSucceeded,
    ScheduleFired,
    SchedulePaused,
)
from runlane.values import SYSTEM, Failure, Source, SourceType
from tests.simulation.rules import Rules

START, SECOND = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=1)
RUN, OTHER, SESSION = UUID(int=1), UUID(int=2), UUID(int=3)
BORN = RunCreated("plain", "main", None)  # three attempts, three losses
FRAIL = RunCreated("only", "main", None)  # one loss is too many
AGAIN = Failure(ErrorCode.TASK_FAILED, "again", True)
GONE = Failure(ErrorCode.LEASE_LOST, "gone", False)
NO_MORE = Failure(ErrorCode.TASK_FAILED, "never", False)


def lease(attempt: int = 1) -> RunLeased:
    return RunLeased(SESSION, "w", attempt)


def retry(attempt: int) -> RunRetryScheduled:
    return RunRetryScheduled(SESSION, attempt, AGAIN, START, 0, 0)


FAILS_TWICE = (BORN, lease(), retry(1), lease(2), retry(2), lease(3))
LOST_TWICE = (BORN, lease(), RunLeaseExpired(SESSION, 1), lease(2), RunLeaseExpired(SESSION, 2), lease(3))
PAUSED = QueuePaused("main")
NOW = RunCreated("plain", "main", None, Source(SourceType.RUN_NOW))
PRUNED = RunsPruned(1, 3, START, (), "")
FIRED = ScheduleFired(OTHER, START, RUN, None)


def seen(events: Sequence[Event]) -> Rules:
    """The rules after these, a second apart; those of a queue or schedule are not the run's."""
    rules = Rules(10_000)
    sequence = 0
    for second, event in enumerate(events):
        of_run = not isinstance(event, QueuePaused | QueueResumed | SchedulePaused | ScheduleFired | RunsPruned)
        sequence += of_run
        stream, at = RUN if of_run else OTHER, START + second * SECOND
        rules.see(Recorded(stream, sequence, event, at, "simulated", SYSTEM, second + 1))
    return rules


@pytest.mark.parametrize(
    "events",
    [
        (BORN, lease(), RunSucceeded(SESSION, 1)),
        (*FAILS_TWICE, RunFailed(SESSION, 3, AGAIN)),
        (BORN, lease(), RunFailed(SESSION, 1, NO_MORE)),
        (*LOST_TWICE, RunFailed(SESSION, 3, GONE)),
        (FRAIL, lease(), RunFailed(SESSION, 1, GONE)),
        (PAUSED, QueueResumed("main"), BORN, lease()),
        (PAUSED, NOW, lease()),
        (BORN, lease(), RunCancellationRequested(), RunCancelled()),
        (BORN, lease(), RunCancellationRequested(), RunFailed(SESSION, 1, AGAIN)),
        (FIRED,),
    ],
)
def test_what_may_happen_passes(events: Sequence[Event]) -> None:
    seen(events)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ((BORN, PAUSED, lease()), "which is paused"),
        ((PAUSED, NOW, lease(), RunReleased(SESSION, 1, START), lease(2)), "which is paused"),
        ((BORN, lease(), RunCancellationRequested(), RunSucceeded(SESSION, 1)), "invariant 12"),
        ((BORN, lease(), RunCancellationRequested(), RunReleased(SESSION, 1, START)), "invariant 12"),
        ((BORN, lease(), retry(1), lease(2), RunSucceeded(SESSION, 1)), "invariant 3"),
        ((BORN, lease(), RunSucceeded(OTHER, 1)), "invariant 3"),
        ((BORN, lease(), lease(2)), "invariant 2"),
        ((BORN, lease(2)), "attempt"),
        ((BORN, lease(), RunReleased(SESSION, 1, START + 60 * SECOND), lease(2)), "before its time"),
        ((*LOST_TWICE, RunLeaseExpired(SESSION, 3)), "3 are too many"),
        ((BORN, lease(), RunFailed(SESSION, 1, GONE)), "after 1 losses"),
        ((*FAILS_TWICE, retry(3)), "more often than 3"),
        ((BORN, lease(), RunFailed(SESSION, 1, AGAIN)), "after 1 failures"),
        ((SchedulePaused(), FIRED), "a paused schedule"),
        ((ScheduleFired(OTHER, START + SECOND, RUN, None),), "before its time"),
    ],
)
def test_a_broken_promise_is_noticed(events: Sequence[Event], words: str) -> None:
    seen(events[:-1])
    with pytest.raises(AssertionError, match=words):
        seen(events)


@pytest.mark.parametrize("events", [(BORN, lease(), PRUNED), (BORN, lease(), RunSucceeded(SESSION, 1), PRUNED)])
def test_what_must_not_go_is_missed(events: Sequence[Event]) -> None:
    """A run that is active, and one that has ended when the prune says."""
    with pytest.raises(AssertionError, match="was pruned"):
        seen(events).forget([RUN])
