"""What the log recorded of the runs of a while, in compact arrays: about 70 bytes for a run with one attempt."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from heapq import heappop, heappush
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
from runlane.simulation.ordering import ordered
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


def _instants() -> array[int]:
    return array("q")


def _numbers() -> array[int]:
    return array("I")


@define
class Trace:
    """Runs by number, in the order of their ids, and their attempts, one run's after the other's.

    Instants are microseconds since 1970, lengths are microseconds.  `task` and `queue` are places in `tasks` and
    `queues`; `key` is 0 for none.  The attempts of run n are those from ``first[n]`` to before ``first[n + 1]``.
    """

    tasks: list[str] = Factory(list)
    queues: list[str] = Factory(list)
    task: array[int] = Factory(_numbers)
    queue: array[int] = Factory(_numbers)
    key: array[int] = Factory(_instants)
    priority: array[int] = Factory(lambda: array("h"))
    due: array[int] = Factory(_instants)
    #: When somebody cancelled it while it waited.
    withdrawn: array[int] = Factory(_instants)
    first: array[int] = Factory(lambda: array("q", [0]))
    start: array[int] = Factory(_instants)
    length: array[int] = Factory(_instants)
    #: From its end until the run is due again.
    delay: array[int] = Factory(_instants)
    outcome: array[int] = Factory(lambda: array("b"))
    session: array[int] = Factory(_numbers)
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
        for run, task in enumerate(self.task):
            if not known[task]:
                told = self.outcome[self.first[run] : self.first[run + 1]]
                known[task] = any(one not in (Outcome.OPEN, Outcome.CANCELLED) for one in told)
        return known


class Reader:
    """Makes a trace of streams, which come by their ids."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._trace = Trace()
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
            attempts = len(trace.start)
            try:
                withdrawn = self._attempts(records, self._place(self._queues, trace.queues, created.queue))
            except InvariantViolation:
                for column in (trace.start, trace.length, trace.delay, trace.outcome, trace.session):
                    del column[attempts:]
                self.leave_out("damaged history")
                return
            self._run(first.occurred_at, created, withdrawn)

    def _run(self, at: datetime, created: RunCreated, withdrawn: int) -> None:
        trace = self._trace
        due = at if created.run_at is None else max(at, created.run_at)
        trace.task.append(self._place(self._tasks, trace.tasks, created.task_id))
        trace.queue.append(self._queues[created.queue])
        trace.key.append(0 if created.concurrency_key is None else hash(created.concurrency_key))
        trace.priority.append(created.priority)
        trace.due.append(microseconds(due))
        trace.withdrawn.append(withdrawn)
        trace.first.append(len(trace.start))

    def _attempts(self, records: Sequence[Recorded], queue: int) -> int:
        """Take in the attempts; when the run was cancelled while it waited, if so."""
        trace, is_leased, stops = self._trace, False, False
        for record in records[1:]:
            event, at = record.event, microseconds(record.occurred_at)
            if isinstance(event, RunLeased):
                if is_leased:
                    raise InvariantViolation("leased twice")
                is_leased, stops = True, False
                trace.start.append(at)
                trace.length.append(NEVER)
                trace.delay.append(0)
                trace.outcome.append(Outcome.OPEN)
                trace.session.append(self._sessions.setdefault(event.session_id, len(self._sessions)))
                if event.concurrency_limit is not None:
                    self._limited(queue, event.concurrency_limit, at)
            elif isinstance(event, RunCancellationRequested):
                stops = True
            elif (outcome := _outcome(event, stops)) is not None:
                if not is_leased:
                    if isinstance(event, RunCancelled):
                        return at
                    raise InvariantViolation("ended without a lease")
                is_leased = False
                trace.length[-1] = max(0, at - trace.start[-1])
                trace.outcome[-1] = outcome
                if isinstance(event, (RunRetryScheduled, RunReleased)):
                    trace.delay[-1] = max(0, microseconds(event.run_at) - at)
        return NEVER

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
            trace.chosen = array("q", (run for run in range(len(trace)) if known[trace.task[run]]))
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
    ends: list[tuple[int, int]] = []
    now: dict[int, int] = {}
    lives: dict[int, tuple[int, int]] = {}
    concurrency = 1
    starts, lengths = trace.start, trace.length
    # Of those that begin together, what takes no time comes first: it is over when the others begin.
    for attempt in ordered(range(len(starts)), key=lambda one: (starts[one], lengths[one])):
        start, session = starts[attempt], trace.session[attempt]
        end = start + lengths[attempt]
        while ends and ends[0][0] <= start:
            now[heappop(ends)[1]] -= 1
        heappush(ends, (end, session))
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
