"""Playing recorded runs again under a policy: a discrete-event simulation without a clock.

The model is the engine's order of claims and its decisions, and nothing of its latencies: `slots` runs at once over all
workers, of the due ones that with the greatest priority first, then the one that has been due for longest, then by id;
no more of a queue and concurrency key at once than its limit; nothing of a paused queue.  A run that is due, with a
slot free, begins at that very instant, but none before the first recorded lease: nobody was there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from heapq import heapify, heappop, heappush
from itertools import repeat
from typing import Protocol

from attrs import define, field, frozen

from runlane.decisions import MAX_EVENTS
from runlane.policy import Retry
from runlane.simulation import ordering
from runlane.simulation.columns import Column
from runlane.simulation.drawing import Draws
from runlane.simulation.heaps import Heap
from runlane.simulation.parking import Parking
from runlane.simulation.scratch import Row
from runlane.simulation.trace import FAILURES, NEVER, Outcome, Trace, has_ended
from runlane.values import RunStatus

#: What can happen at an instant.
_END, _WITHDRAWN, _DUE, _PAUSE, _OPENS = range(5)
#: Where a run is; one that is stopping is running, and was asked to stop.
_FUTURE, _READY, _RUNNING, _STOPPING, _DONE = range(5)
#: An attempt takes two events at least, and a history is bounded.
MOST_ATTEMPTS = MAX_EVENTS // 2
_MILLISECOND = timedelta(milliseconds=1)
#: Of the rows that runs wait in, and of those of what is to happen.
_WAITING_WIDTH, _LATER_WIDTH = 6, 9


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
class _Tries:
    """What a run has behind it: attempts, failures of the handler and losses."""

    number: int = 0
    failures: int = 0
    losses: int = 0


@define
class _Line:
    """The due runs of a queue.

    What waits is in rows of priority (negative), when it was due, run, number of attempts, failures and losses: so the
    best comes first.  `used` counts what is executed, by concurrency key, or altogether if the queue has none.
    """

    queue: int
    limit: int | None
    is_keyed: bool
    waiting: Heap
    used: dict[int, int] = field(factory=dict)
    is_paused: bool = False

    def has_room(self, key: int) -> bool:
        """Whether another one with this key may begin."""
        return self.limit is None or self.used.get(key, 0) < self.limit

    @property
    def is_open(self) -> bool:
        """Whether any may begin, as far as that is known without its key."""
        return not self.is_paused and (self.is_keyed or self.has_room(0))


def play(trace: Trace, policy: Policy, told: Told) -> int:
    """Play the chosen runs of a trace; how many attempts were drawn, as the record has none like them."""
    with Parking(trace.scratch) as parking:
        playing = _Playing(trace, policy, told, parking)
        playing.play()
    return playing.drawn


class _Playing:
    """One simulation.

    A run is in one place at a time, and takes what it has behind it along: in `order` until it is first due; in the
    line of its queue, or parked where its key was full when its turn came; in `later` while it is executed, and until
    it is due again.  For each that ends of a full key one is let out of the parking: so there is never room for more of
    a key than there are of it in the line, as long as any is parked.
    """

    def __init__(self, trace: Trace, policy: Policy, told: Told, parking: Parking) -> None:
        self._trace, self._policy, self._told, self._parking = trace, policy, told, parking
        self._draws = Draws(trace, policy.seed)
        self.drawn = 0
        self._free = policy.slots
        self._state = Column(trace.scratch, "b", repeat(_FUTURE, len(trace)))
        #: Since when runs are due, if any of them is withdrawn.
        self._since: Column | None = None
        self._lines = [self._line(queue) for queue in range(len(trace.queues))]
        self._heads: list[tuple[Row, int]] = []  # of the open lines; some are out of date
        #: When, what, run (or number of a pause), tries as above, due since, begun and which attempt.
        self._later = Heap(trace.scratch, _LATER_WIDTH)

    def _line(self, queue: int) -> _Line:
        limit = self._policy.limits.get(queue)
        is_keyed = limit is not None and queue in self._trace.keyed
        return _Line(queue, limit, is_keyed, Heap(self._trace.scratch, _WAITING_WIDTH))

    def play(self) -> None:
        """From the first instant to the last."""
        trace, later, opens = self._trace, self._later, self._trace.opens
        order = iter(ordering.of_rows(trace.scratch, 2, ((trace.due[run], run) for run in trace.chosen)))
        for run in trace.chosen:
            if trace.withdrawn[run] != NEVER:
                self._since = self._since or Column(trace.scratch, "q", trace.due)
                self._plan(trace.withdrawn[run], _WITHDRAWN, run)
        for number, (at, _, _) in enumerate(trace.pauses):
            self._plan(at, _PAUSE, number)
        self._plan(opens, _OPENS, 0)
        at, following = 0, next(order, None)
        while (then := later.least()) is not None or following is not None:
            at = _earlier(then, following)
            while following is not None and following[0] == at:
                self._become_ready(at, following[1], _Tries())
                following = next(order, None)
            while (then := later.least()) is not None and then[0] == at:
                self._happen(later.pop())
            if self._free and self._heads and at >= opens:
                self._assign(at)
        self._give_up(max(at, trace.horizon))

    def _give_up(self, at: int) -> None:
        """What still waits is of queues that nobody resumed."""
        for line in self._lines:
            for row in line.waiting.drain():
                self._leave(row, at)
        while (place := self._parking.any()) is not None:
            while (parked := self._parking.take(*place)) is not None:
                self._leave(parked, at)
        for column in (self._state, self._since, self._draws):
            if column is not None:
                column.give_back()

    def _leave(self, row: Row, at: int) -> None:
        _, due, run, *_ = row
        if self._state[run] == _READY:
            self._told.left(run, due, at)
            self._told.ended(run, None, at)

    def _plan(self, at: int, what: int, subject: int, tries: _Tries | None = None) -> None:
        behind = (0, 0, 0) if tries is None else (tries.number, tries.failures, tries.losses)
        self._later.push((at, what, subject, *behind, 0, 0, 0))

    def _happen(self, row: Row) -> None:
        at, what, subject, number, failures, losses, due, start, attempt = row
        if what == _END:
            self._end(at, subject, _Tries(number, failures, losses), due, start, attempt)
        elif what == _DUE:
            if self._since is not None:
                self._since[subject] = at
            self._become_ready(at, subject, _Tries(number, failures, losses))
        elif what == _WITHDRAWN:
            self._withdraw(at, subject)
        elif what == _PAUSE:
            self._pause(subject)

    def _become_ready(self, at: int, run: int, tries: _Tries) -> None:
        if self._state[run] != _FUTURE:  # cancelled before it was due
            return
        self._state[run] = _READY
        self._wait(
            self._lines[self._trace.queue[run]],
            (-self._trace.priority[run], at, run, tries.number, tries.failures, tries.losses),
        )

    def _wait(self, line: _Line, row: Row) -> None:
        line.waiting.push(row)
        if line.waiting.least() is row:
            self._offer(line)

    def _offer(self, line: _Line) -> None:
        """Put the best run of a line up for a slot, if one may be given to it."""
        best = line.waiting.least()
        if best is None or not line.is_open:
            return
        heads = self._heads
        heappush(heads, (best, line.queue))
        if len(heads) > 4 * len(self._lines) + 64:
            heads[:] = {head for head in heads if self._lines[head[1]].waiting.least() == head[0]}
            heapify(heads)

    def _assign(self, at: int) -> None:
        """Give the free slots to the best runs that may have one."""
        heads = self._heads
        while self._free and heads:
            best, queue = heappop(heads)
            line = self._lines[queue]
            if line.is_open and line.waiting.least() == best:  # else out of date: its better is there, or will be
                self._admit(at, line.waiting.pop(), line)
                self._offer(line)

    def _admit(self, at: int, row: Row, line: _Line) -> None:
        """Let a run begin, or park it where its concurrency key is full."""
        run = row[2]
        key = self._trace.key[run] if line.is_keyed else 0
        if self._state[run] != _READY:  # cancelled: another one has its place in the line
            self._let_out(line, key)
        elif line.has_room(key):
            self._start(at, row, line, key)
        else:
            self._parking.put(line.queue, key, row)

    def _let_out(self, line: _Line, key: int) -> None:
        """Where a key has room again, its best run goes back to the line."""
        while line.is_keyed and line.has_room(key) and (parked := self._parking.take(line.queue, key)) is not None:
            if self._state[parked[2]] == _READY:
                self._wait(line, parked)
                return

    def _start(self, at: int, row: Row, line: _Line, key: int) -> None:
        trace = self._trace
        _, due, run, number, failures, losses = row
        number += 1
        attempt = trace.first[run] + number - 1
        is_recorded = attempt < trace.first[run + 1]
        if not is_recorded or (trace.outcome[attempt] == Outcome.OPEN and number <= self._draws.greatest(run)):
            attempt = self._draws.attempt(run, number)
            self.drawn += 1
        self._free -= 1
        if line.limit is not None:
            line.used[key] = line.used.get(key, 0) + 1
        self._state[run] = _RUNNING
        self._later.push((at + trace.length[attempt], _END, run, number, failures, losses, due, at, attempt))

    def _end(self, at: int, run: int, tries: _Tries, due: int, start: int, attempt: int) -> None:
        outcome = self._trace.outcome[attempt]
        self._free += 1
        self._vacate(self._lines[self._trace.queue[run]], run)
        self._told.attempt(run, due, start, at, outcome)
        follows = self._decide(run, tries, attempt, outcome, at)
        if isinstance(follows, int):
            self._state[run] = _FUTURE
            self._plan(follows, _DUE, run, tries)
        else:
            self._state[run] = _DONE
            self._told.ended(run, follows, at)

    def _vacate(self, line: _Line, run: int) -> None:
        """A run of a line is executed no more."""
        if line.limit is None:
            return
        key = self._trace.key[run] if line.is_keyed else 0
        used = line.used.pop(key)
        if used > 1:
            line.used[key] = used - 1
        if line.is_keyed:
            self._let_out(line, key)
        elif used == line.limit:
            self._offer(line)

    def _decide(self, run: int, tries: _Tries, attempt: int, outcome: int, at: int) -> RunStatus | int | None:
        """How a run ends with an attempt, or when it is due again; what ``decisions.complete`` and ``recover`` say.

        None if that is where the record of it, and of all others of its task, ends.
        """
        retry = self._policy.retry[self._trace.task[run]]
        if outcome == Outcome.OPEN:
            return None
        if self._state[run] == _STOPPING:
            return RunStatus.FAILED if outcome in FAILURES else RunStatus.CANCELLED
        if retry is not None and outcome in _RETRIED:
            follows = self._retried(run, tries, outcome, retry, at)
            return RunStatus.FAILED if tries.number >= MOST_ATTEMPTS else follows
        if has_ended(outcome):
            return _LAST.get(outcome, RunStatus.FAILED)
        recorded = self._trace.first[run + 1] - self._trace.first[run]
        if tries.number >= recorded and tries.number >= self._draws.greatest(run):
            return None
        return at + self._trace.delay[attempt]

    def _retried(self, run: int, tries: _Tries, outcome: int, retry: Retry, at: int) -> RunStatus | int:
        """What a policy has follow a failure or a loss."""
        if outcome in FAILURES:
            tries.failures += 1
            if tries.failures >= retry.max_attempts:
                return RunStatus.FAILED
            wait = retry.delay(tries.failures, self._draws.spread(run, tries.number)) // _MILLISECOND
            return at + wait * 1000
        tries.losses += 1
        return RunStatus.FAILED if tries.losses >= retry.max_lost else at

    def _withdraw(self, at: int, run: int) -> None:
        state = self._state[run]
        if state == _RUNNING:
            self._state[run] = _STOPPING
        elif state in (_FUTURE, _READY):
            self._state[run] = _DONE
            if state == _READY and self._since is not None:
                self._told.left(run, self._since[run], at)
            self._told.ended(run, RunStatus.CANCELLED, at)

    def _pause(self, number: int) -> None:
        _, name, is_paused = self._trace.pauses[number]
        if name in self._trace.queues:
            line = self._lines[self._trace.queues.index(name)]
            line.is_paused = is_paused
            self._offer(line)


def _earlier(one: Row | None, other: Row | None) -> int:
    """The first number of the one that comes first; there must be one."""
    if one is None or (other is not None and other[0] < one[0]):
        return other[0] if other is not None else 0
    return one[0]


#: How a run ends by an outcome that ends it; by others it fails.
_LAST: dict[int, RunStatus] = {Outcome.SUCCEEDED: RunStatus.SUCCEEDED, Outcome.CANCELLED: RunStatus.CANCELLED}
#: What a policy decides about.
_RETRIED = frozenset({Outcome.RETRIED, Outcome.SPENT, Outcome.LOST, Outcome.GIVEN_UP})
