"""Outcomes and jitter of attempts that the record has none like."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain, islice, repeat

from runlane.simulation.columns import Column
from runlane.simulation.trace import UNTOLD, Trace

_ODD, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1
#: What the number is drawn for.
_ATTEMPT, _JITTER = 1, 2


class Draws:
    """What is drawn: from what has been recorded, by the seed, the run and the number of its attempt only.

    So the same attempt of the same run meets with the same luck under every policy.
    """

    def __init__(self, trace: Trace, seed: int) -> None:
        self._trace, self._seed = trace, seed
        #: Of each task by number of the attempt, how many attempts have come to an outcome of their own.
        self._counts: list[list[int]] | None = None
        #: Those attempts, of one task and number after the other, and where those begin.
        self._pool: Column | None = None
        self._begins: list[list[int]] = []

    def attempt(self, run: int, number: int) -> int:
        """A recorded attempt of the same task with this number, or with the greatest one that was ever recorded."""
        counts = self._of_task(run)
        place = min(number, len(counts)) - 1
        if self._pool is None:
            self._pool = self._pooled()
        begin = self._begins[self._trace.task[run]][place]
        return self._pool[begin + (self._mixed(run, number, _ATTEMPT) * counts[place] >> 64)]

    def greatest(self, run: int) -> int:
        """The greatest number of an attempt that was recorded to its end for the task of this run."""
        return len(self._of_task(run))

    def spread(self, run: int, number: int) -> float:
        """Where within the jitter the wait behind this attempt lies, -1 to 1."""
        return self._mixed(run, number, _JITTER) / 2**63 - 1.0

    def give_back(self) -> None:
        """Nothing is drawn any more."""
        if self._pool is not None:
            self._pool.give_back()

    def _of_task(self, run: int) -> list[int]:
        if self._counts is None:
            self._counts = self._counted()
        return self._counts[self._trace.task[run]]

    def _recorded(self) -> Iterator[tuple[int, int, int]]:
        """As ``Trace.attempts``, those that have come to an outcome of their own."""
        for one, outcome in zip(self._trace.attempts(), self._trace.outcome, strict=True):
            if outcome not in UNTOLD:
                yield one

    def _counted(self) -> list[list[int]]:
        counts: list[list[int]] = [[] for _ in self._trace.tasks]
        for task, number, _ in self._recorded():
            of_task = counts[task]
            if len(of_task) < number:
                of_task.append(0)
            of_task[number - 1] += 1
        return counts

    def _pooled(self) -> Column:
        counts = self._counts or []
        begins = accumulate(chain.from_iterable(counts), initial=0)
        self._begins = [list(islice(begins, len(of_task))) for of_task in counts]
        pool = Column(self._trace.scratch, "q", repeat(0, sum(map(sum, counts))))
        following = [list(of_task) for of_task in self._begins]
        for task, number, attempt in self._recorded():
            pool[following[task][number - 1]] = attempt
            following[task][number - 1] += 1
        return pool

    def _mixed(self, run: int, number: int, what: int) -> int:
        """A number below 2 to the 64th, as good as random (the finishing steps of MurmurHash3)."""
        mixed = self._seed & _MASK
        for one in (run, number, what):
            mixed = (mixed ^ one + 1) * _ODD & _MASK
            mixed = (mixed ^ mixed >> 33) * 0xFF51AFD7ED558CCD & _MASK
            mixed = (mixed ^ mixed >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
            mixed ^= mixed >> 33
        return mixed
