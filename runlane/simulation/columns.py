"""Columns of numbers that need the same memory however long they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

from runlane.simulation.scratch import Blocks, Scratch


class Column(Sequence[int]):
    """Numbers by their places, like an ``array`` that only grows at its end.

    They are in chunks, of which so many are in memory; those that came first make room for others, and are written to
    the file if they were changed.  Who goes through runs in order, at a few places at a time, finds each chunk there as
    long as it is needed; anywhere else a number costs a read of one chunk.
    """

    __slots__ = ("_array", "_blocks", "_changed", "_chunks", "_full", "_most", "_shift", "_tail", "_within")

    def __init__(self, scratch: Scratch, typecode: str = "q", given: Iterable[int] = ()) -> None:
        sizes = scratch.sizes
        self._array = array(typecode)
        self._blocks = Blocks(scratch, sizes.chunk * self._array.itemsize)
        self._shift, self._within, self._most = sizes.chunk.bit_length() - 1, sizes.chunk - 1, sizes.cached
        self._changed: set[int] = set()
        #: The last chunk is always there.
        self._tail = self._array[:]
        self._chunks = {0: self._tail}
        self._full = 0
        self.extend(given)

    def __len__(self) -> int:
        return (self._full << self._shift) + len(self._tail)

    def append(self, number: int) -> None:
        """One number more."""
        self._tail.append(number)
        if len(self._tail) > self._within:
            self._begin_chunk()

    def extend(self, numbers: Iterable[int]) -> None:
        """More numbers."""
        left = iter(numbers)
        while part := array(self._array.typecode, islice(left, self._within + 1 - len(self._tail))):
            self._tail.extend(part)
            if len(self._tail) > self._within:
                self._begin_chunk()

    def _begin_chunk(self) -> None:
        self._changed.add(self._full)
        self._full += 1
        self._tail = self._array[:]
        self._keep(self._full, self._tail)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        try:
            return self._chunks[place >> self._shift][place & self._within]  # type: ignore[operator]
        except (KeyError, TypeError):
            if isinstance(place, slice):
                return self._array[:0] + array(self._array.typecode, map(self.__getitem__, range(len(self))[place]))
            place = range(len(self))[place]
            return self._chunk(place >> self._shift)[place & self._within]

    def __setitem__(self, place: int, number: int) -> None:
        of = place >> self._shift
        chunk = self._chunks.get(of)
        if chunk is None:
            place = range(len(self))[place]
            of = place >> self._shift
            chunk = self._chunk(of)
        chunk[place & self._within] = number
        self._changed.add(of)

    def __iter__(self) -> Iterator[int]:
        for number in range(self._full + 1):
            yield from self._chunks.get(number) or self._chunk(number)

    def give_back(self) -> None:
        """The column is needed no more: so is its room in the file."""
        self._blocks.give_back()

    def _chunk(self, number: int) -> array[int]:
        found = self._chunks.get(number)
        if found is None:
            found = array(self._array.typecode, self._blocks.read(number))
            self._keep(number, found)
        return found

    def _keep(self, number: int, chunk: array[int]) -> None:
        chunks = self._chunks
        chunks[number] = chunk
        if len(chunks) <= self._most:
            return
        for oldest in chunks:
            if oldest not in (self._full, number):
                break
        else:
            return
        gone = chunks.pop(oldest)
        if oldest in self._changed:
            self._changed.discard(oldest)
            self._blocks.write(oldest, gone.tobytes())
