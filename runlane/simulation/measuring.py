"""Waits, depth, use and costs of runs, as they were recorded or played."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from runlane.simulation.ordering import ordered
from runlane.simulation.playing import Told
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


class Measuring(Told):
    """Takes in what is told, and sums it up."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._began: list[array[int]] = [array("q") for _ in trace.queues]
        self._until: list[array[int]] = [array("q") for _ in trace.queues]
        self._waits: list[array[int]] = [array("q") for _ in trace.queues]
        self._turnaround = array("q")
        self._statuses: dict[RunStatus | None, int] = {}
        self._failures = self._used = self._runs = 0
        self._last = NEVER

    def attempt(self, run: int, due: int, start: int, end: int, outcome: int) -> None:
        """See ``Told.attempt``."""
        queue = self._trace.queue[run]
        self._began[queue].append(due)
        self._until[queue].append(start)
        self._waits[queue].append(start - due)
        self._used += end - start
        self._failures += outcome in FAILURES
        self._last = max(self._last, end)

    def left(self, run: int, due: int, until: int) -> None:
        """See ``Told.left``."""
        queue = self._trace.queue[run]
        self._began[queue].append(due)
        self._until[queue].append(until)
        self._last = max(self._last, until)

    def ended(self, run: int, status: RunStatus | None, at: int) -> None:
        """See ``Told.ended``."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._runs += 1
        if status is not None:
            self._turnaround.append(max(0, at - self._trace.due[run]))

    def measures(self, workers: int, concurrency: int, limits: Mapping[str, int]) -> Measures:
        """All of it, for so many slots."""
        trace = self._trace
        first = min((min(began) for began in self._began if began), default=0)
        seconds = max(0, self._last - first) / _SECOND if self._last != NEVER else 0.0
        slots, used = workers * concurrency, self._used / _SECOND
        waited = sum(map(sum, self._until)) - sum(map(sum, self._began))
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
            sum(map(len, self._waits)),
            self._failures,
            used,
            spread(_all(self._waits)),
            spread(self._turnaround),
            deepest(_all(self._began), _all(self._until)),
            waited / _SECOND / seconds if seconds else 0.0,
            used / (slots * seconds) if seconds else 0.0,
            ended / seconds if seconds else 0.0,
            seconds,
            {
                trace.queues[queue]: QueueMeasures(
                    len(self._waits[queue]),
                    spread(self._waits[queue]),
                    deepest(self._began[queue], self._until[queue]),
                )
                for queue in sorted(range(len(trace.queues)), key=trace.queues.__getitem__)
                if self._began[queue]
            },
        )


def _all(parts: Iterable[array[int]]) -> array[int]:
    whole = array("q")
    for part in parts:
        whole.extend(part)
    return whole


def spread(lengths: Sequence[int]) -> Spread:
    """Of lengths in microseconds."""
    if not lengths:
        return Spread()
    found = ordered(lengths)
    p50, p90, p99 = (found[math.ceil(len(found) * part / 100) - 1] / _SECOND for part in (50, 90, 99))
    return Spread(len(found), sum(found) / len(found) / _SECOND, p50, p90, p99, found[-1] / _SECOND)


def deepest(began: Sequence[int], until: Sequence[int]) -> int:
    """How many stretches, each from an instant until before another, there are at once at most."""
    ends = ordered(until)
    most = gone = 0
    for number, begin in enumerate(ordered(began), 1):
        while gone < len(ends) and ends[gone] <= begin:
            gone += 1
        most = max(most, number - gone)
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
