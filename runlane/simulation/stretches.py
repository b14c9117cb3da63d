"""Stretches of items in order, in a file, of which a block at a time is in memory; and merging them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from runlane.simulation.scratch import Blocks, Coding, Scratch

T = TypeVar("T")


class Stretch(Generic[T]):
    """Items in order that are read once, from the first to the last; what was read gives its room back.

    `level` tells how many merges they come from.
    """

    __slots__ = ("_block", "_blocks", "_coding", "_count", "_next", "_number", "_within", "level")

    def __init__(self, scratch: Scratch, coding: Coding[T], blocks: Iterable[list[T]], level: int = 0) -> None:
        self._coding, self.level = coding, level
        self._within = max(1, scratch.sizes.block // coding.size)
        self._blocks = Blocks(scratch, self._within * coding.size)
        self._count = self._write(blocks)
        #: What is in memory: a block, and how much of it has been taken.
        self._block: list[T] = []
        self._next = self._number = 0

    def _write(self, blocks: Iterable[list[T]]) -> int:
        number, rest, within = 0, list[T](), self._within
        for block in blocks:
            rest += block
            full = len(rest) // within * within
            for place in range(0, full, within):
                self._blocks.write(number, self._coding.encode(rest[place : place + within]))
                number += 1
            del rest[:full]
        if rest:
            self._blocks.write(number, self._coding.encode(rest))
        return number * within + len(rest)

    def take(self) -> T | None:
        """The next item; None behind the last."""
        if self._next == len(self._block) and not self._read():
            return None
        self._next += 1
        return self._block[self._next - 1]

    def rest(self) -> Iterator[list[T]]:
        """All that were not taken, in lists; they are taken with that."""
        while self._next < len(self._block) or self._read():
            left, self._next = self._block[self._next :] if self._next else self._block, len(self._block)
            yield left

    def _read(self) -> bool:
        left = self._count - self._number * self._within
        if left <= 0:
            self._block, self._next = [], 0
            return False
        length = min(left, self._within) * self._coding.size
        self._block, self._next = self._coding.decode(self._blocks.read(self._number, length)), 0
        self._blocks.done_with(self._number, is_last=left <= self._within)
        self._number += 1
        return True


def merged(parts: Iterable[Iterator[list[Any]]]) -> Iterator[list[Any]]:
    """The items of lists that are in order, in lists in order.

    Of all lists at hand what is not beyond the first end is sorted at once: that merges faster than item by item.
    """
    now: list[tuple[list[Any], int, Iterator[list[Any]]]] = [
        (first, 0, part) for part in parts if (first := next(part, None)) is not None
    ]
    while len(now) > 1:
        bound = min(block[-1] for block, _, _ in now)
        taken: list[Any] = []
        then: list[tuple[list[Any], int, Iterator[list[Any]]]] = []
        for block, begin, part in now:
            end = bisect_right(block, bound, begin)
            taken += block[begin:end]
            if end < len(block):
                then.append((block, end, part))
            elif (following := next(part, None)) is not None:
                then.append((following, 0, part))
        taken.sort()
        yield taken
        now = then
    for block, begin, part in now:
        yield block[begin:]
        yield from part


def grouped(stretches: Sequence[Stretch[T]], ways: int) -> list[Stretch[T]]:
    """The stretches of the lowest level of which there are so many; none if there is no such level."""
    levels: dict[int, list[Stretch[T]]] = {}
    for one in stretches:
        levels.setdefault(one.level, []).append(one)
    return next((of for _, of in sorted(levels.items()) if len(of) >= ways), [])
