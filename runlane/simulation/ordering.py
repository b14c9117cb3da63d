"""Many numbers or rows in order, in memory that is bounded: stretches are put in order one by one, and merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from runlane.simulation.scratch import Coding, Numbers, Rows, Scratch
from runlane.simulation.stretches import Stretch, grouped, merged


class _Comparable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


T = TypeVar("T", bound=_Comparable)


class Ordering(Generic[T]):
    """Takes items in any order, and gives them back from the least to the greatest, once."""

    def __init__(self, scratch: Scratch, coding: Coding[T]) -> None:
        self._scratch, self._coding = scratch, coding
        self._most = scratch.sizes.stretch
        self._now: list[T] = []
        self._stretches: list[Stretch[T]] = []
        self._before = 0

    def __len__(self) -> int:
        """How many have been added."""
        return self._before + len(self._now)

    def add(self, item: T) -> None:
        """One item more."""
        self._now.append(item)
        if len(self._now) == self._most:
            self._put_aside()

    def extend(self, items: Iterable[T]) -> None:
        """More items."""
        for item in items:
            self.add(item)

    def _put_aside(self) -> None:
        self._now.sort()
        self._before += len(self._now)
        self._stretches.append(Stretch(self._scratch, self._coding, [self._now]))
        self._now = []
        while group := grouped(self._stretches, self._scratch.sizes.ways):
            whole = merged([one.rest() for one in group])
            self._stretches = [one for one in self._stretches if one not in group]
            self._stretches.append(Stretch(self._scratch, self._coding, whole, group[0].level + 1))

    def lists(self) -> Iterator[list[T]]:
        """All of them in order, in lists; they are gone from here with that."""
        self._before, now, self._now = len(self), sorted(self._now), []
        stretches, self._stretches = self._stretches, []
        yield from merged([*(one.rest() for one in stretches), iter([now] if now else [])])

    def __iter__(self) -> Iterator[T]:
        for block in self.lists():
            yield from block


def of_numbers(scratch: Scratch, given: Iterable[int] = ()) -> Ordering[int]:
    """Puts numbers of 64 bits in order."""
    found = Ordering(scratch, Numbers())
    found.extend(given)
    return found


def of_rows(scratch: Scratch, width: int, given: Iterable[tuple[int, ...]] = ()) -> Ordering[tuple[int, ...]]:
    """Puts rows of so many numbers in order."""
    found = Ordering(scratch, Rows(width))
    found.extend(given)
    return found
