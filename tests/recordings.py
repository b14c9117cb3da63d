"""Histories of runs written down in seconds, and what a simulation tells of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from attrs import define, field, frozen

from runlane import events as e
from runlane.events import Recorded
from runlane.simulation.scratch import Scratch, Sizes
from runlane.simulation.trace import Reader, Selection, Trace
from runlane.values import SYSTEM, Failure, RunStatus, Source
from tests.support import START

SECOND = 1_000_000
#: So little in memory that everything else is in the file.
TINY = Sizes(chunk=8, cached=2, stretch=8, ways=2, near=4, block=64, piece=128)
#: Where 0 is.
ZERO = int(START.timestamp()) * SECOND


def at(seconds: float) -> datetime:
    """The instant so many seconds behind the start."""
    return START + timedelta(seconds=seconds)


@frozen
class Tried:
    """An attempt from one second to another, and what it came to; of a release and a retry, until when it waited."""

    start: float
    end: float = 0.0
    what: str = "succeeded"
    until: float = 0.0
    session: int = 1
    limit: int | None = None


def _ending(tried: Tried, number: int) -> Any:
    session, failure = UUID(int=tried.session), Failure("task_failed", "no", tried.what != "final")
    match tried.what:
        case "succeeded":
            return e.RunSucceeded(session, number)
        case "retried":
            return e.RunRetryScheduled(session, number, failure, at(tried.until), 0, 0)
        case "failed" | "final":
            return e.RunFailed(session, number, failure)
        case "given up":
            return e.RunFailed(session, number, Failure("lease_lost", "no", False))
        case "released":
            return e.RunReleased(session, number, at(tried.until))
        case "interrupted":
            return e.RunInterrupted(session, number, "worker_stopping")
        case "lost":
            return e.RunLeaseExpired(session, number)
        case "cancelled":
            return e.RunCancelled()
    raise AssertionError(tried.what)


def history(
    number: int, created: float, *tried: Tried, cancelled: float | None = None, source: Source | None = None, **of: Any
) -> list[Recorded]:
    """The events of a run with this number; `of` are fields of its birth."""
    birth = e.RunCreated(of.pop("task", "t"), of.pop("queue", "q"), None, source or Source(), **of)
    told: list[tuple[float, Any]] = [(created, birth)]
    for count, one in enumerate(tried, 1):
        told.append((one.start, e.RunLeased(UUID(int=one.session), "w", count, one.limit)))
        if one.what == "open":
            break
        if one.what == "stopped":
            told += [(one.end, e.RunCancellationRequested())]
            told += [(one.end, e.RunFailed(UUID(int=one.session), count, Failure("task_failed", "no", True)))]
        else:
            told.append((one.end, _ending(one, count)))
    if cancelled is not None:
        told.append((cancelled, e.RunCancelled()))
    return [
        Recorded(UUID(int=number), sequence, event, at(seconds), "default", SYSTEM)
        for sequence, (seconds, event) in enumerate(told, 1)
    ]


def pause(queue: str, *turns: float) -> list[Recorded]:
    """A queue paused, resumed, paused … at these seconds."""
    kinds = (e.QueuePaused, e.QueueResumed)
    return [
        Recorded(UUID(int=99), n, kinds[(n - 1) % 2](queue), at(seconds), "default", SYSTEM)
        for n, seconds in enumerate(turns, 1)
    ]


def trace_of(
    *runs: list[Recorded],
    pauses: Iterable[list[Recorded]] = (),
    selection: Selection | None = None,
    scratch: Scratch | None = None,
) -> Trace:
    """The trace of these histories."""
    reader = Reader(selection or Selection(), scratch)
    for one in pauses:
        reader.add_queue(one)
    for one in runs:
        reader.add_run(one)
    return reader.trace()


@define
class Log:
    """Keeps what is told, in microseconds from the start."""

    attempts: list[tuple[int, int, int, int, int]] = field(factory=list)
    lefts: list[tuple[int, int, int]] = field(factory=list)
    ends: list[tuple[int, RunStatus | None, int]] = field(factory=list)

    def attempt(self, run: int, due: int, start: int, end: int, outcome: int) -> None:
        self.attempts.append((run, due - ZERO, start - ZERO, end - ZERO, outcome))

    def left(self, run: int, due: int, until: int) -> None:
        self.lefts.append((run, due - ZERO, until - ZERO))

    def ended(self, run: int, status: RunStatus | None, at: int) -> None:
        self.ends.append((run, status, at - ZERO))

    @property
    def seconds(self) -> list[tuple[int, float, float, float]]:
        """The attempts by run, in seconds: due, begun, ended."""
        return sorted((run, due / SECOND, start / SECOND, end / SECOND) for run, due, start, end, _ in self.attempts)

    @property
    def statuses(self) -> dict[int, RunStatus | None]:
        return {run: status for run, status, _ in self.ends}
