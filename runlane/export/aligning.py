"""Which lines of an export are not the ones that were exported, by the digests of the lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from attrs import frozen

P = TypeVar("P")

#: So many lines are looked through for the place where the file goes on as it was exported.
_WINDOW = 4096


@frozen
class Differing(Generic[P]):
    """A line that is not the one exported: `place` of the line itself, or of what stands behind missing ones.

    Args:
        place: where; None for lines that are missing at the end.
        missing: how many exported lines are missing before that place; 0 says that this line itself is another.
        is_new: it does not stand for an exported line, but beside them.
    """

    place: P | None
    missing: int = 0
    is_new: bool = False


class Aligned(Generic[P]):
    """Lines as they come, side by side with the digests of those that were exported.

    Where they part, both are looked ahead until they meet again: what lies between was changed, put in or left out.
    """

    def __init__(self, exported: Iterator[bytes]) -> None:
        self._exported = exported
        self._pushed: deque[bytes] = deque()
        self._found: list[tuple[bytes, P]] = []
        self._wanted: list[bytes] = []

    def feed(self, digest: bytes, place: P) -> Iterator[Differing[P]]:
        """The next line; yields what is known now of lines that differ."""
        coming = deque([(digest, place)])
        while coming:
            digest, place = coming.popleft()
            wanted = self._next()
            if not self._found and not self._wanted and wanted == digest:
                continue
            self._found.append((digest, place))
            if wanted is not None:
                self._wanted.append(wanted)
            met = self._meet(digest, wanted)
            if met is not None:
                yield from self._parted(*met, coming)
            elif len(self._found) > _WINDOW:
                yield Differing(self._found.pop(0)[1], is_new=not self._wanted)
                del self._wanted[:1]

    def end(self) -> Iterator[Differing[P]]:
        """No more lines; yields the rest of what differs."""
        for number, (_, place) in enumerate(self._found):
            yield Differing(place, is_new=number >= len(self._wanted))
        missing = max(0, len(self._wanted) - len(self._found)) + sum(1 for _ in iter(self._next, None))
        self._found, self._wanted = [], []
        if missing:
            yield Differing(None, missing)

    def _next(self) -> bytes | None:
        return self._pushed.popleft() if self._pushed else next(self._exported, None)

    def _meet(self, digest: bytes, wanted: bytes | None) -> tuple[int, int] | None:
        """Where the newest of one side stands on the other: an index of the lines, and one of the digests."""
        if digest in self._wanted:
            return len(self._found) - 1, self._wanted.index(digest)
        for index, (found, _) in enumerate(self._found):
            if found == wanted:
                return index, len(self._wanted) - 1
        return None

    def _parted(self, here: int, there: int, coming: deque[tuple[bytes, P]]) -> Iterator[Differing[P]]:
        """What lies before the place where both meet; what lies behind it comes again."""
        for number in range(here):
            yield Differing(self._found[number][1], is_new=number >= there)
        if there > here:
            yield Differing(self._found[here][1], there - here)
        coming.extendleft(reversed(self._found[here + 1 :]))
        self._pushed.extendleft(reversed(self._wanted[there + 1 :]))
        self._found, self._wanted = [], []
