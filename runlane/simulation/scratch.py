"""Where a simulation keeps what it cannot hold in memory: one temporary file, that nobody else sees.

It is written with ``pwrite`` and read with ``pread``: pages that are mapped count as memory of the process.  Nothing is
written until something does not fit, and the file has no name where the system can do so: it is gone with the process,
whatever ends it.  What is no longer needed is written over, in pieces of 64 KiB; a list of the pieces, eight bytes for
each, is all that grows in memory.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from itertools import chain
from types import TracebackType
from typing import BinaryIO, Protocol, TypeVar, cast

from attrs import frozen

from runlane.errors import StorageUnavailable

T = TypeVar("T")
Row = tuple[int, ...]

_NUMBER = 8


@frozen
class Sizes:
    """How much of everything stays in memory; tests take small ones.

    Args:
        chunk: numbers in a chunk of a column; a power of two.
        cached: chunks of a column.
        stretch: numbers or rows that are put in order at once.
        ways: stretches that are merged at once.
        near: rows of a heap, or of one behind full keys.
        block: bytes of a stretch that are read at once.
        piece: bytes of the file that are taken at once, and given back; no less than a chunk, a block or a row.
    """

    chunk: int = 512
    cached: int = 64
    stretch: int = 8192
    ways: int = 64
    near: int = 2048
    block: int = 4096
    piece: int = 1 << 16


class Scratch:
    """The file, and how much may stay beside it.  ``close`` it, or use it in a ``with`` statement."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or Sizes()
        self._file: BinaryIO | None = None
        self._end = 0
        self._free = array("Q")

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the room on the disk back; what is in the file can be read no more."""
        if self._file is not None:
            self._file.close()

    @property
    def size(self) -> int:
        """How long the file has become, in bytes."""
        return self._end

    @property
    def used(self) -> int:
        """How many bytes of it are in use."""
        return self._end - len(self._free) * self.sizes.piece

    def take(self) -> int:
        """Where in the file a piece is free."""
        if self._free:
            return self._free.pop()
        self._end += self.sizes.piece
        return self._end - self.sizes.piece

    def give_back(self, place: int) -> None:
        """A piece is needed no more."""
        self._free.append(place)

    def write(self, place: int, content: bytes) -> None:
        """Write behind that place.

        Raises:
            StorageUnavailable: there is no room for temporary files.
        """
        try:
            number = self._number()
            while content:  # a nearly full disk may take a part
                written = os.pwrite(number, content, place)
                place, content = place + written, content[written:]
        except OSError as error:
            why = error.strerror or error
            raise StorageUnavailable(f"the temporary file of a simulation cannot be written: {why}") from error

    def read(self, place: int, length: int) -> bytes:
        """So many bytes from there, which have been written.

        Raises:
            StorageUnavailable: the disk does not give them back.
        """
        try:
            return os.pread(self._number(), length, place)
        except OSError as error:
            why = error.strerror or error
            raise StorageUnavailable(f"the temporary file of a simulation cannot be read: {why}") from error

    def _number(self) -> int:
        if self._file is None:
            # Unbuffered: what is read in blocks and written in blocks needs no buffer between.
            self._file = cast("BinaryIO", tempfile.TemporaryFile(buffering=0, prefix="runlane-"))  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        return self._file.fileno()


class Blocks:
    """Blocks of one length by their numbers from 0, somewhere in the file."""

    __slots__ = ("_length", "_pieces", "_scratch", "_within")

    def __init__(self, scratch: Scratch, length: int) -> None:
        self._scratch, self._length = scratch, length
        self._within = scratch.sizes.piece // length
        self._pieces = array("Q")

    def write(self, number: int, content: bytes) -> None:
        """Write a block that is there, or the one behind the last; the last one may be shorter."""
        piece, place = divmod(number, self._within)
        while piece >= len(self._pieces):
            self._pieces.append(self._scratch.take())
        self._scratch.write(self._pieces[piece] + place * self._length, content)

    def read(self, number: int, length: int | None = None) -> bytes:
        """The whole block, or its first bytes."""
        piece, place = divmod(number, self._within)
        return self._scratch.read(self._pieces[piece] + place * self._length, length or self._length)

    def done_with(self, number: int, is_last: bool = False) -> None:
        """This block has been read for the last time, and so have all before it."""
        piece, place = divmod(number, self._within)
        if is_last or place == self._within - 1:
            self._scratch.give_back(self._pieces[piece])

    def give_back(self) -> None:
        """No block is read any more."""
        while self._pieces:
            self._scratch.give_back(self._pieces.pop())


class Coding(Protocol[T]):
    """How items are written: so many numbers of 64 bits each."""

    @property
    def size(self) -> int:
        """Bytes of one of them."""
        ...

    def encode(self, items: list[T]) -> bytes:
        """As bytes."""
        ...

    def decode(self, content: bytes) -> list[T]:
        """From bytes."""
        ...


class Numbers:
    """Whole numbers of 64 bits."""

    size = _NUMBER

    def encode(self, items: Iterable[int]) -> bytes:
        """See ``Coding``."""
        return array("q", items).tobytes()

    def decode(self, content: bytes) -> list[int]:
        """See ``Coding``."""
        return array("q", content).tolist()


class Rows:
    """Rows of so many numbers each."""

    def __init__(self, width: int) -> None:
        self._width, self.size = width, width * _NUMBER

    def encode(self, items: Iterable[Row]) -> bytes:
        """See ``Coding``."""
        return array("q", chain.from_iterable(items)).tobytes()

    def decode(self, content: bytes) -> list[Row]:
        """See ``Coding``."""
        numbers = iter(array("q", content))
        return list(zip(*[numbers] * self._width, strict=True))
