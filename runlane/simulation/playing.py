"""Playing recorded runs again under a policy: a discrete-event simulation without a clock.

The model is the engine's order of claims and its decisions, and nothing of its latencies: `slots` runs at once over all
workers, of the due ones that with the greatest priority first, then the one that has been due for longest, then by id;
no more of a queue and concurrency key at once than its limit; nothing of a paused queue.  A run that is due, with a
slot free, begins at that very instant, but none before the first recorded lease: nobody was there.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from datetime import timedelta
from heapq import heappop, heappush
from typing import Protocol

from attrs import define, field, frozen

from runlane.decisions import MAX_EVENTS
from runlane.policy import Retry
from runlane.simulation.ordering import ordered
from runlane.simulation.trace import FAILURES, NEVER, Outcome, Trace, has_ended
from runlane.values import RunStatus

#: What can happen at an instant.
_END, _WITHDRAWN, _DUE, _PAUSE, _OPENS = range(5)
#: Where a run is.
_FUTURE, _READY, _RUNNING, _DONE = range(4)
#: An attempt takes two events at least, and a history is bounded.
MOST_ATTEMPTS = MAX_EVENTS // 2
_MILLISECOND = timedelta(milliseconds=1)
_ODD, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1
#: What the number is drawn for.
_ATTEMPT, _JITTER = 1, 2

Rank = tuple[int, int, int]


class Told(Protocol):
    """Who is told what happens; instants in microseconds, runs by number."""

    def attempt(self, run: int, due: int, start: int, end: int, outcome: int) -> None:
        """An attempt of a run that had been due since `due`; one that is still open has come to `end` so far."""

    def left(self, run: int, due: int, until: int) -> None:
        """A run that was due waited until then, and no attempt followed."""

    def ended(self, run: int, status: RunStatus | None, at: int) -> None:
        """A run came to its end, or (None) to where nothing is known of it any more; once for each run."""


@frozen
class Policy:
    """Under what runs are played; queues and tasks by their places in the trace.

    `retry` is None for a task whose failures are followed by what followed them in the record.
    """

    slots: int
    limits: Mapping[int, int]
    retry: Sequence[Retry | None]
    seed: int = 0


@define
class _Partition:
    """The due runs of a queue, or of a queue that has a limit and one of its keys, best first."""

    queue: int
    limit: int | None
    used: int = 0
    waiting: list[Rank] = field(factory=list)


class Draws:
    """What is drawn: from what has been recorded, by the seed, the run and the number of its attempt only.

    So the same attempt of the same run meets with the same luck under every policy.
    """

    def __init__(self, trace: Trace, seed: int) -> None:
        self._trace, self._seed = trace, seed
        self._pools: list[list[array[int]]] | None = None

    def attempt(self, run: int, number: int) -> int:
        """A recorded attempt of the same task with this number, or with the greatest one that was ever recorded."""
        pools = self._of_task(run)
        pool = pools[min(number, len(pools)) - 1]
        return pool[self._mixed(run, number, _ATTEMPT) * len(pool) >> 64]

    def greatest(self, run: int) -> int:
        """The greatest number of an attempt that was recorded to its end for the task of this run."""
        return len(self._of_task(run))

    def _of_task(self, run: int) -> list[array[int]]:
        if self._pools is None:
            self._pools = self._recorded()
        return self._pools[self._trace.task[run]]

    def spread(self, run: int, number: int) -> float:
        """Where within the jitter the wait behind this attempt lies, -1 to 1."""
        return self._mixed(run, number, _JITTER) / 2**63 - 1.0

    def _recorded(self) -> list[list[array[int]]]:
        """Of each task by number of the attempt, the attempts that have come to an outcome of their own."""
        trace = self._trace
        pools: list[list[array[int]]] = [[] for _ in trace.tasks]
        for run, task in enumerate(trace.task):
            of_task, begin = pools[task], trace.first[run]
            for attempt in range(begin, trace.first[run + 1]):
                if trace.outcome[attempt] not in (Outcome.OPEN, Outcome.CANCELLED):
                    if len(of_task) <= attempt - begin:
                        of_task.append(array("q"))
                    of_task[attempt - begin].append(attempt)
        return pools

    def _mixed(self, run: int, number: int, what: int) -> int:
        """A number below 2 to the 64th, as good as random (the finishing steps of MurmurHash3)."""
        mixed = self._seed & _MASK
        for one in (run, number, what):
            mixed = (mixed ^ one + 1) * _ODD & _MASK
            mixed = (mixed ^ mixed >> 33) * 0xFF51AFD7ED558CCD & _MASK
            mixed = (mixed ^ mixed >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
            mixed ^= mixed >> 33
        return mixed


def play(trace: Trace, policy: Policy, told: Told) -> int:
    """Play the chosen runs of a trace; how many attempts were drawn, as the record has none like them."""
    playing = _Playing(trace, policy, told)
    playing.play()
    return playing.drawn


class _Playing:
    """One simulation."""

    def __init__(self, trace: Trace, policy: Policy, told: Told) -> None:
        self._trace, self._policy, self._told = trace, policy, told
        self._draws = Draws(trace, policy.seed)
        self.drawn = 0
        self._free = policy.slots
        self._state = bytearray(len(trace))
        self._due = array("q", trace.due)
        self._number = array("I", bytes(4 * len(trace)))
        self._failures: dict[int, int] = {}
        self._losses: dict[int, int] = {}
        self._running: dict[int, tuple[int, int]] = {}
        self._stopping: set[int] = set()
        self._paused: set[int] = set()
        self._partitions: dict[tuple[int, int], _Partition] = {}
        self._heads: list[tuple[Rank, tuple[int, int]]] = []  # of the open partitions; some are out of date
        self._later: list[tuple[int, int, int]] = []

    def play(self) -> None:
        """From the first instant to the last."""
        trace, later = self._trace, self._later
        order = ordered(trace.chosen, key=trace.due.__getitem__)
        for run in order:
            if trace.withdrawn[run] != NEVER:
                heappush(later, (trace.withdrawn[run], _WITHDRAWN, run))
        for number, (at, _, _) in enumerate(trace.pauses):
            heappush(later, (at, _PAUSE, number))
        opens = min(trace.start, default=0)
        heappush(later, (opens, _OPENS, 0))
        happen = {
            _END: self._end,
            _WITHDRAWN: self._withdraw,
            _DUE: self._become_ready,
            _PAUSE: self._pause,
            _OPENS: self._open,
        }
        place, at = 0, 0
        while place < len(order) or later:
            next_due = trace.due[order[place]] if place < len(order) else None
            at = later[0][0] if later and (next_due is None or later[0][0] < next_due) else next_due or 0
            while place < len(order) and trace.due[order[place]] == at:
                self._become_ready(at, order[place])
                place += 1
            while later and later[0][0] == at:
                _, kind, subject = heappop(later)
                happen[kind](at, subject)
            if self._free and self._heads and at >= opens:
                self._assign(at)
        for run in order:  # those of a queue that nobody resumed
            if self._state[run] == _READY:
                self._told.left(run, self._due[run], max(at, trace.horizon))
                self._told.ended(run, None, max(at, trace.horizon))

    def _open(self, at: int, _: int) -> None:
        """From here on runs may begin."""

    def _become_ready(self, at: int, run: int) -> None:
        if self._state[run] != _FUTURE:  # cancelled before it was due
            return
        self._state[run] = _READY
        partition = self._partition(run)
        rank = (-self._trace.priority[run], self._due[run], run)
        heappush(partition.waiting, rank)
        if partition.waiting[0] is rank:
            self._offer(partition, self._place(run))

    def _place(self, run: int) -> tuple[int, int]:
        queue = self._trace.queue[run]
        return queue, self._trace.key[run] if queue in self._policy.limits else 0

    def _partition(self, run: int) -> _Partition:
        place = self._place(run)
        found = self._partitions.get(place)
        if found is None:
            found = self._partitions[place] = _Partition(place[0], self._policy.limits.get(place[0]))
        return found

    def _offer(self, partition: _Partition, place: tuple[int, int]) -> None:
        """Put the best run of a partition up for a slot, if one may be given to it."""
        waiting = partition.waiting
        while waiting and self._state[waiting[0][2]] != _READY:  # cancelled
            heappop(waiting)
        if waiting and self._is_open(partition):
            heappush(self._heads, (waiting[0], place))

    def _is_open(self, partition: _Partition) -> bool:
        return (partition.limit is None or partition.used < partition.limit) and partition.queue not in self._paused

    def _assign(self, at: int) -> None:
        """Give the free slots to the best runs that may have one."""
        heads = self._heads
        while self._free and heads:
            rank, place = heappop(heads)
            partition = self._partitions[place]
            if not partition.waiting or partition.waiting[0] != rank or not self._is_open(partition):
                continue  # out of date: its better is there too, or comes when there is room
            if self._state[rank[2]] == _READY:
                heappop(partition.waiting)
                self._start(at, rank[2], partition)
            self._offer(partition, place)

    def _start(self, at: int, run: int, partition: _Partition) -> None:
        trace = self._trace
        number = self._number[run] = self._number[run] + 1
        attempt = trace.first[run] + number - 1
        is_recorded = attempt < trace.first[run + 1]
        if not is_recorded or (trace.outcome[attempt] == Outcome.OPEN and number <= self._draws.greatest(run)):
            attempt = self._draws.attempt(run, number)
            self.drawn += 1
        self._free -= 1
        partition.used += 1
        self._state[run] = _RUNNING
        self._running[run] = at, attempt
        heappush(self._later, (at + trace.length[attempt], _END, run))

    def _end(self, at: int, run: int) -> None:
        start, attempt = self._running.pop(run)
        outcome = self._trace.outcome[attempt]
        partition = self._partition(run)
        was_full = partition.used == partition.limit
        partition.used -= 1
        self._free += 1
        if was_full:
            self._offer(partition, self._place(run))
        self._told.attempt(run, self._due[run], start, at, outcome)
        follows = self._decide(run, attempt, outcome, at)
        if isinstance(follows, int):
            self._state[run], self._due[run] = _FUTURE, follows
            heappush(self._later, (follows, _DUE, run))
        else:
            self._state[run] = _DONE
            self._told.ended(run, follows, at)

    def _decide(self, run: int, attempt: int, outcome: int, at: int) -> RunStatus | int | None:
        """How a run ends with an attempt, or when it is due again; what ``decisions.complete`` and ``recover`` say.

        None if that is where the record of it, and of all others of its task, ends.
        """
        retry, number = self._policy.retry[self._trace.task[run]], self._number[run]
        if outcome == Outcome.OPEN:
            return None
        if run in self._stopping:
            return RunStatus.FAILED if outcome in FAILURES else RunStatus.CANCELLED
        if retry is not None and outcome in _RETRIED:
            follows = self._retried(run, outcome, retry, at)
            return RunStatus.FAILED if number >= MOST_ATTEMPTS else follows
        if has_ended(outcome):
            return _LAST.get(outcome, RunStatus.FAILED)
        recorded = self._trace.first[run + 1] - self._trace.first[run]
        if number >= recorded and number >= self._draws.greatest(run):
            return None
        return at + self._trace.delay[attempt]

    def _retried(self, run: int, outcome: int, retry: Retry, at: int) -> RunStatus | int:
        """What a policy has follow a failure or a loss."""
        if outcome in FAILURES:
            failures = self._failures[run] = self._failures.get(run, 0) + 1
            if failures >= retry.max_attempts:
                return RunStatus.FAILED
            wait = retry.delay(failures, self._draws.spread(run, self._number[run])) // _MILLISECOND
            return at + wait * 1000
        losses = self._losses[run] = self._losses.get(run, 0) + 1
        return RunStatus.FAILED if losses >= retry.max_lost else at

    def _withdraw(self, at: int, run: int) -> None:
        state = self._state[run]
        if state == _RUNNING:
            self._stopping.add(run)
        elif state != _DONE:
            self._state[run] = _DONE
            if state == _READY:
                self._told.left(run, self._due[run], at)
            self._told.ended(run, RunStatus.CANCELLED, at)

    def _pause(self, at: int, number: int) -> None:
        _, name, paused = self._trace.pauses[number]
        if name not in self._trace.queues:
            return
        queue = self._trace.queues.index(name)
        if paused:
            self._paused.add(queue)
            return
        self._paused.discard(queue)
        for place, partition in self._partitions.items():
            if place[0] == queue:
                self._offer(partition, place)


#: How a run ends by an outcome that ends it; by others it fails.
_LAST: dict[int, RunStatus] = {Outcome.SUCCEEDED: RunStatus.SUCCEEDED, Outcome.CANCELLED: RunStatus.CANCELLED}
#: What a policy decides about.
_RETRIED = frozenset({Outcome.RETRIED, Outcome.SPENT, Outcome.LOST, Outcome.GIVEN_UP})
