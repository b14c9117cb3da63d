"""A heap of rows of which the least are in memory, and the others in a file."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from runlane.simulation.scratch import Row, Rows, Scratch
from runlane.simulation.stretches import Stretch, grouped, merged


class Heap:
    """Rows of so many numbers; the least one comes first."""

    __slots__ = ("_coding", "_far", "_most", "_near", "_numbers", "_scratch", "_ways")

    def __init__(self, scratch: Scratch, width: int) -> None:
        self._scratch, self._coding = scratch, Rows(width)
        self._most, self._ways = scratch.sizes.near, scratch.sizes.ways
        self._near: list[Row] = []
        #: The first row of each stretch in the file, a number for those that are equal, and the stretch.
        self._far: list[tuple[Row, int, Stretch[Row]]] = []
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._near or self._far)

    def push(self, row: Row) -> None:
        """One row more."""
        heappush(self._near, row)
        if len(self._near) > self._most:
            self._put_aside()

    def least(self) -> Row | None:
        """The least one, which stays; None if there is none."""
        if self._far and (not self._near or self._far[0][0] < self._near[0]):
            return self._far[0][0]
        return self._near[0] if self._near else None

    def pop(self) -> Row:
        """Take the least one; there must be one."""
        far = self._far
        if not far or (self._near and self._near[0] <= far[0][0]):
            return heappop(self._near)
        row, number, stretch = far[0]
        following = stretch.take()
        if following is None:
            heappop(far)
        else:
            heapreplace(far, (following, number, stretch))
        return row

    def drain(self) -> Iterator[Row]:
        """Take all, from the least to the greatest."""
        while self:
            yield self.pop()

    def _put_aside(self) -> None:
        """The greater half of what is in memory goes to the file."""
        self._near.sort()
        half = len(self._near) // 2
        self._add(Stretch(self._scratch, self._coding, [self._near[half:]]))
        del self._near[half:]  # what is in order is a heap
        while group := grouped([stretch for _, _, stretch in self._far], self._ways):
            parts = [self._rest(first, stretch) for first, _, stretch in self._far if stretch in group]
            self._far = [one for one in self._far if one[2] not in group]
            heapify(self._far)
            self._add(Stretch(self._scratch, self._coding, merged(parts), group[0].level + 1))

    @staticmethod
    def _rest(first: Row, stretch: Stretch[Row]) -> Iterator[list[Row]]:
        yield [first]
        yield from stretch.rest()

    def _add(self, stretch: Stretch[Row]) -> None:
        first = stretch.take()
        if first is not None:
            heappush(self._far, (first, next(self._numbers), stretch))
