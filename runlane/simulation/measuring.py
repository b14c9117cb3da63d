"""Waits, depth, use and costs of runs, as they were recorded or played."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from attrs import frozen

from runlane.simulation import ordering
from runlane.simulation.ordering import Ordering
from runlane.simulation.playing import Told
from runlane.simulation.scratch import Scratch
from runlane.simulation.trace import FAILURES, NEVER, Outcome, Trace, has_ended
from runlane.values import RunStatus

_SECOND = 1_000_000
_STATUS = {Outcome.SUCCEEDED: RunStatus.SUCCEEDED, Outcome.CANCELLED: RunStatus.CANCELLED}


@frozen
class Spread:
    """Some lengths of time, in seconds: `count` of them, and 0.0 where there is none.

    A quantile is one of them, the smallest that so many are not above.
    """

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@frozen
class QueueMeasures:
    """One queue: the waits of its attempts, how many there were, and how many runs waited at once at most."""

    attempts: int
    waits: Spread
    depth_max: int


_NOTHING = QueueMeasures(0, Spread(), 0)


@frozen
class Measures:
    """What became of the runs.

    Args:
        workers, concurrency: how many worker processes, and how many attempts at once in each.
        limits: the concurrency limits of queues.
        runs: all of them; what `succeeded`, `failed` and `cancelled` do not count has not ended.
        attempts, failures: how many attempts, and how many of them the handler failed.
        handler_seconds: the attempts laid end to end: from lease to outcome, so what a worker adds is within.
        waits: of attempts, from when they were due to their lease.
        turnaround: of ended runs, from when they were first due to their end.
        depth_max, depth_mean: how many due runs waited for a slot, at most and over the time.
        utilisation: the used part of all slots over the time.
        throughput: ended runs a second.
        seconds: the time: from the first due instant to the last end.
        queues: the same for each queue, in part.
    """

    workers: int
    concurrency: int
    limits: Mapping[str, int]
    runs: int
    succeeded: int
    failed: int
    cancelled: int
    attempts: int
    failures: int
    handler_seconds: float
    waits: Spread
    turnaround: Spread
    depth_max: int
    depth_mean: float
    utilisation: float
    throughput: float
    seconds: float
    queues: Mapping[str, QueueMeasures]

    @property
    def ended(self) -> int:
        """How many runs have ended."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def unfinished(self) -> int:
        """How many runs have not."""
        return self.runs - self.ended


class _Waits:
    """What is known of some attempts, and of runs that waited in vain."""

    def __init__(self, scratch: Scratch) -> None:
        self.began, self.until = ordering.of_numbers(scratch), ordering.of_numbers(scratch)
        self.lengths = ordering.of_numbers(scratch)

    def add(self, began: int, until: int, is_attempt: bool) -> None:
        """One that waited for so long, for an attempt or in vain."""
        self.began.add(began)
        self.until.add(until)
        if is_attempt:
            self.lengths.add(until - began)

    def measures(self) -> QueueMeasures:
        """All of it, once."""
        attempts = len(self.lengths)
        return QueueMeasures(attempts, spread(self.lengths), deepest(self.began, self.until))


class Measuring(Told):
    """Takes in what is told, and sums it up, once."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        # Where there is one queue, what holds of it holds of all.
        self._by_queue = [_Waits(trace.scratch) for _ in trace.queues]
        self._all = _Waits(trace.scratch) if len(trace.queues) > 1 else None
        self._turnaround = ordering.of_numbers(trace.scratch)
        self._statuses: dict[RunStatus | None, int] = {}
        self._failures = self._used = self._runs = self._waited = 0
        self._first: int | None = None
        self._last = NEVER

    def attempt(self, run: int, due: int, start: int, end: int, outcome: int) -> None:
        """See ``Told.attempt``."""
        self._add(run, due, start, end, True)
        self._used += end - start
        self._failures += outcome in FAILURES

    def left(self, run: int, due: int, until: int) -> None:
        """See ``Told.left``."""
        self._add(run, due, until, until, False)

    def _add(self, run: int, began: int, until: int, end: int, is_attempt: bool) -> None:
        self._by_queue[self._trace.queue[run]].add(began, until, is_attempt)
        if self._all is not None:
            self._all.add(began, until, is_attempt)
        self._waited += until - began
        self._first = began if self._first is None else min(self._first, began)
        self._last = max(self._last, end)

    def ended(self, run: int, status: RunStatus | None, at: int) -> None:
        """See ``Told.ended``."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._runs += 1
        if status is not None:
            self._turnaround.add(max(0, at - self._trace.due[run]))

    def measures(self, workers: int, concurrency: int, limits: Mapping[str, int]) -> Measures:
        """All of it, for so many slots."""
        names = self._trace.queues
        queues = {
            names[queue]: self._by_queue[queue].measures()
            for queue in sorted(range(len(names)), key=names.__getitem__)
            if len(self._by_queue[queue].began)
        }
        whole = self._all.measures() if self._all is not None else next(iter(queues.values()), _NOTHING)
        seconds = max(0, self._last - (self._first or 0)) / _SECOND if self._last != NEVER else 0.0
        slots, used = workers * concurrency, self._used / _SECOND
        statuses = {status: self._statuses.get(status, 0) for status in RunStatus}
        ended = len(self._turnaround)
        return Measures(
            workers,
            concurrency,
            limits,
            self._runs,
            statuses[RunStatus.SUCCEEDED],
            statuses[RunStatus.FAILED],
            statuses[RunStatus.CANCELLED],
            whole.attempts,
            self._failures,
            used,
            whole.waits,
            spread(self._turnaround),
            whole.depth_max,
            self._waited / _SECOND / seconds if seconds else 0.0,
            used / (slots * seconds) if seconds else 0.0,
            ended / seconds if seconds else 0.0,
            seconds,
            queues,
        )


def spread(lengths: Ordering[int]) -> Spread:
    """Of lengths in microseconds, which are taken with that."""
    count = len(lengths)
    if not count:
        return Spread()
    wanted = [math.ceil(count * part / 100) - 1 for part in (50, 90, 99, 100)]
    found: list[float] = []
    total = before = 0
    for block in lengths.lists():
        total += sum(block)
        while len(found) < len(wanted) and wanted[len(found)] < before + len(block):
            found.append(block[wanted[len(found)] - before] / _SECOND)
        before += len(block)
    return Spread(count, total / count / _SECOND, *found)


def deepest(began: Iterable[int], until: Iterable[int]) -> int:
    """How many stretches, each from an instant until before another, there are at once at most; both in order."""
    ends = iter(until)
    end = next(ends, None)
    most = depth = 0
    for begin in began:
        depth += 1
        while end is not None and end <= begin:
            depth -= 1
            end = next(ends, None)
        most = max(most, depth)
    return most


def as_recorded(trace: Trace, told: Told) -> None:
    """Tell what was recorded of the chosen runs, as ``play`` tells what it plays."""
    for run in trace.chosen:
        due, end, status = trace.due[run], trace.horizon, None
        attempts = range(trace.first[run], trace.first[run + 1])
        for attempt in attempts:
            start, outcome = trace.start[attempt], trace.outcome[attempt]
            end = start + trace.length[attempt]
            told.attempt(run, min(due, start), start, end, outcome)
            due = end + trace.delay[attempt]
        last = trace.outcome[attempts[-1]] if attempts else None
        if last is not None and has_ended(last):
            status = _STATUS.get(Outcome(last), RunStatus.FAILED)
        elif trace.withdrawn[run] != NEVER:
            status, end = RunStatus.CANCELLED, trace.withdrawn[run]
            if due < end:
                told.left(run, due, end)
        elif last != Outcome.OPEN and due < trace.horizon:
            end = trace.horizon
            told.left(run, due, end)
        told.ended(run, status, end)
