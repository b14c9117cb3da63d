"""What the log recorded of the runs of a while, in columns: about 90 bytes for a run with one attempt.

Of each column a small part is in memory, however many runs there are, and the rest in a temporary file
(``runlane.simulation.scratch``).  What is in memory for good are the names of tasks and queues, the pauses, and the
worker processes that were seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import IntEnum
from heapq import heappop, heappush
from itertools import islice
from typing import Any
from uuid import UUID

from attrs import Factory, define, frozen

from runlane.digests import microseconds
from runlane.errors import ErrorCode, InvariantViolation
from runlane.events import (
    QueuePaused,
    QueueResumed,
    Recorded,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunSucceeded,
)
from runlane.simulation import ordering
from runlane.simulation.columns import Column
from runlane.simulation.heaps import Heap
from runlane.simulation.scratch import Scratch
from runlane.values import SourceType

#: Stands for an instant that there is none of.
NEVER = -1


class Outcome(IntEnum):
    """What an attempt came to."""

    SUCCEEDED = 0
    #: Failed, and another attempt was to follow.
    RETRIED = 1
    #: Failed in a way that could have been retried, but the budget was gone.
    SPENT = 2
    #: Failed in a way that no policy retries.
    FINAL = 3
    RELEASED = 4
    INTERRUPTED = 5
    LOST = 6
    #: Lost, and that was once too often.
    GIVEN_UP = 7
    CANCELLED = 8
    #: It has not ended yet.
    OPEN = 9


#: These count as failures of the handler.
FAILURES = frozenset({Outcome.RETRIED, Outcome.SPENT, Outcome.FINAL})
#: These say nothing of what the handler would have come to.
UNTOLD = frozenset({Outcome.OPEN, Outcome.CANCELLED})
_FOR_GOOD = FAILURES - {Outcome.RETRIED} | {Outcome.SUCCEEDED, Outcome.GIVEN_UP, Outcome.CANCELLED}


@frozen
class Selection:
    """Which runs are looked at: created from `since` until before `until`, of these tasks and queues."""

    since: datetime | None = None
    until: datetime | None = None
    tasks: frozenset[str] | None = None
    queues: frozenset[str] | None = None

    def takes(self, first: Recorded, created: RunCreated) -> bool:
        """Whether a run with this birth is one of them."""
        return (
            (self.since is None or first.occurred_at >= self.since)
            and (self.until is None or first.occurred_at < self.until)
            and (self.tasks is None or created.task_id in self.tasks)
            and (self.queues is None or created.queue in self.queues)
        )


def _column(typecode: str, *given: int) -> Any:
    """A field of a trace: a column in its file."""
    return Factory(lambda trace: Column(trace.scratch, typecode, given), takes_self=True)


@define
class Trace:
    """Runs by number, in the order of their ids, and their attempts, one run's after the other's.

    Instants are microseconds since 1970, lengths are microseconds.  `task` and `queue` are places in `tasks` and
    `queues`; `key` is 0 for none.  The attempts of run n are those from ``first[n]`` to before ``first[n + 1]``.
    """

    scratch: Scratch = Factory(Scratch)
    tasks: list[str] = Factory(list)
    queues: list[str] = Factory(list)
    task: Column = _column("I")
    queue: Column = _column("I")
    key: Column = _column("q")
    priority: Column = _column("h")
    due: Column = _column("q")
    #: When somebody cancelled it while it waited.
    withdrawn: Column = _column("q")
    first: Column = _column("q", 0)
    start: Column = _column("q")
    length: Column = _column("q")
    #: From its end until the run is due again.
    delay: Column = _column("q")
    outcome: Column = _column("b")
    session: Column = _column("I")
    #: The places of queues of which some run has a concurrency key.
    keyed: set[int] = Factory(set)
    #: When the first recorded attempt began.
    opens: int = 0
    #: Of queues by place: the limits under which leases were taken, the last one last.
    limits: dict[int, list[int]] = Factory(dict)
    #: When a queue, by its name, was paused (True) or resumed.
    pauses: list[tuple[int, str, bool]] = Factory(list)
    #: The last instant that the log tells of.
    horizon: int = 0
    left_out: dict[str, int] = Factory(dict)
    #: The runs that can be played again: those of tasks of which some attempt has ended.
    chosen: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.task)

    def known_tasks(self) -> list[bool]:
        """Of each task whether any attempt of it has come to an outcome of its own."""
        known = [False] * len(self.tasks)
        for task, _, attempt in self.attempts():
            if not known[task] and self.outcome[attempt] not in UNTOLD:
                known[task] = True
                if all(known):
                    break
        return known

    def attempts(self) -> Iterator[tuple[int, int, int]]:
        """The task, the number (from 1) and the place of each attempt, one run's after the other's."""
        begin = 0
        for task, end in zip(self.task, islice(self.first, 1, None), strict=True):
            for attempt in range(begin, end):
                yield task, attempt - begin + 1, attempt
            begin = end


@define
class _Attempt:
    """One that has just been read."""

    start: int
    session: int
    length: int = NEVER
    delay: int = 0
    outcome: int = Outcome.OPEN


class Reader:
    """Makes a trace of streams, which come by their ids."""

    def __init__(self, selection: Selection, scratch: Scratch | None = None) -> None:
        self._selection = selection
        self._trace = Trace(scratch or Scratch())
        self._tasks: dict[str, int] = {}
        self._queues: dict[str, int] = {}
        self._sessions: dict[UUID, int] = {}
        self._latest_lease: dict[int, int] = {}

    def leave_out(self, why: str) -> None:
        """One run more that cannot be looked at."""
        left_out = self._trace.left_out
        left_out[why] = left_out.get(why, 0) + 1

    def add_run(self, records: Sequence[Recorded]) -> None:
        """The whole history of one run."""
        trace, first = self._trace, records[0]
        created = first.event
        trace.horizon = max(trace.horizon, microseconds(records[-1].occurred_at))
        if not isinstance(created, RunCreated):
            self.leave_out("damaged history")
        elif not self._selection.takes(first, created):
            return
        elif created.source.type is SourceType.RUN_NOW:
            self.leave_out("run_now: executed where it was asked for, by no worker")
        else:
            try:
                withdrawn, attempts = self._attempts(records, self._place(self._queues, trace.queues, created.queue))
            except InvariantViolation:
                self.leave_out("damaged history")
                return
            self._run(first.occurred_at, created, withdrawn, attempts)

    def _run(self, at: datetime, created: RunCreated, withdrawn: int, attempts: Sequence[_Attempt]) -> None:
        trace = self._trace
        due = at if created.run_at is None else max(at, created.run_at)
        queue = self._queues[created.queue]
        trace.task.append(self._place(self._tasks, trace.tasks, created.task_id))
        trace.queue.append(queue)
        if created.concurrency_key is not None:
            trace.keyed.add(queue)
        trace.key.append(0 if created.concurrency_key is None else hash(created.concurrency_key))
        trace.priority.append(created.priority)
        trace.due.append(microseconds(due))
        trace.withdrawn.append(withdrawn)
        for one in attempts:
            trace.opens = one.start if not len(trace.start) else min(trace.opens, one.start)
            trace.start.append(one.start)
            trace.length.append(one.length)
            trace.delay.append(one.delay)
            trace.outcome.append(one.outcome)
            trace.session.append(one.session)
        trace.first.append(len(trace.start))

    def _attempts(self, records: Sequence[Recorded], queue: int) -> tuple[int, list[_Attempt]]:
        """When the run was cancelled while it waited, if so, and its attempts."""
        found: list[_Attempt] = []
        is_leased, stops = False, False
        for record in records[1:]:
            event, at = record.event, microseconds(record.occurred_at)
            if isinstance(event, RunLeased):
                if is_leased:
                    raise InvariantViolation("leased twice")
                is_leased, stops = True, False
                found.append(_Attempt(at, self._sessions.setdefault(event.session_id, len(self._sessions))))
                if event.concurrency_limit is not None:
                    self._limited(queue, event.concurrency_limit, at)
            elif isinstance(event, RunCancellationRequested):
                stops = True
            elif (outcome := _outcome(event, stops)) is not None:
                if not is_leased:
                    if isinstance(event, RunCancelled):
                        return at, found
                    raise InvariantViolation("ended without a lease")
                is_leased = False
                last = found[-1]
                last.length, last.outcome = max(0, at - last.start), outcome
                if isinstance(event, (RunRetryScheduled, RunReleased)):
                    last.delay = max(0, microseconds(event.run_at) - at)
        return NEVER, found

    def _limited(self, queue: int, limit: int, at: int) -> None:
        """A lease was taken under this limit."""
        seen = self._trace.limits.setdefault(queue, [])
        if limit not in seen:
            seen.append(limit)
        if at >= self._latest_lease.get(queue, NEVER):
            self._latest_lease[queue] = at
            seen.remove(limit)
            seen.append(limit)

    def add_queue(self, records: Iterable[Recorded]) -> None:
        """The history of one queue."""
        for record in records:
            if isinstance(record.event, (QueuePaused, QueueResumed)):
                paused = isinstance(record.event, QueuePaused)
                self._trace.pauses.append((microseconds(record.occurred_at), record.event.queue, paused))

    def trace(self) -> Trace:
        """All that was added; what is still leased has gone on until the last instant told of."""
        trace = self._trace
        for attempt, outcome in enumerate(trace.outcome):
            if outcome == Outcome.OPEN:
                trace.length[attempt] = trace.horizon - trace.start[attempt]
        known = trace.known_tasks()
        trace.chosen = range(len(trace))
        if not all(known):
            trace.chosen = Column(trace.scratch, "q", (run for run, task in enumerate(trace.task) if known[task]))
        left = len(trace) - len(trace.chosen)
        if left:
            trace.left_out["no attempt of their task has ended in this time"] = left
        return trace

    @staticmethod
    def _place(places: dict[str, int], names: list[str], name: str) -> int:
        place = places.setdefault(name, len(places))
        if place == len(names):
            names.append(name)
        return place


def _outcome(event: object, stops: bool) -> Outcome | None:
    """What an event says of the attempt that it ends, if it ends one; `stops`: the run was asked to stop."""
    match event:
        case RunSucceeded():
            return Outcome.SUCCEEDED
        case RunRetryScheduled():
            return Outcome.RETRIED
        case RunFailed(failure=failure):
            if failure.code == ErrorCode.LEASE_LOST:
                return Outcome.GIVEN_UP
            return Outcome.SPENT if failure.retryable and not stops else Outcome.FINAL
        case RunReleased():
            return Outcome.RELEASED
        case RunInterrupted():
            return Outcome.INTERRUPTED
        case RunLeaseExpired():
            return Outcome.LOST
        case RunCancelled():
            return Outcome.CANCELLED
    return None


def has_ended(outcome: int) -> bool:
    """Whether a run ended with an attempt that came to this."""
    return outcome in _FOR_GOOD


def crew(trace: Trace) -> tuple[int, int]:
    """How many worker processes were seen at once, and how many attempts the busiest one had at once; at least 1.

    A process is there from its first lease to its last end.
    """
    scratch, now, lives, concurrency = trace.scratch, dict[int, int](), dict[int, tuple[int, int]](), 1
    ends = Heap(scratch, 2)
    # Of those that begin together, what takes no time comes first: it is over when the others begin.
    attempts = zip(trace.start, trace.length, trace.session, strict=True)
    for start, length, session in ordering.of_rows(scratch, 3, attempts):
        end = start + length
        while (least := ends.least()) is not None and least[0] <= start:
            now[ends.pop()[1]] -= 1
        ends.push((end, session))
        now[session] = now.get(session, 0) + 1
        concurrency = max(concurrency, now[session])
        begun, last = lives.get(session, (start, end))
        lives[session] = begun, max(last, end)
    return most_at_once(lives.values()), concurrency


def most_at_once(stretches: Iterable[tuple[int, int]]) -> int:
    """The greatest number of stretches, each from an instant until before another, that overlap; at least 1."""
    ends: list[int] = []
    most = 1
    for begin, end in sorted(stretches):
        while ends and ends[0] <= begin:
            heappop(ends)
        heappush(ends, end)
        most = max(most, len(ends))
    return most
