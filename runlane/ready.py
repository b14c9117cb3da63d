"""Who is inside and who is ready: a worker's slots, and the attempts that wait for one in its process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Ready(Generic[T]):
    """A fixed number of slots and a line before them; of each item it is certain whether it has begun or never will.

    An item is admitted, and has a slot at once or waits in the line; it begins, or was withdrawn before; and who leaves
    a slot is told who has it next.

    Args:
        slots: the greatest number of items inside.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._lock = threading.Lock()
        self._line: dict[T, float] = {}  # item to when it came, the first of them first
        self._called: set[T] = set()  # have a slot, and are on their way to it
        self._began: dict[T, float] = {}
        #: How many have been withdrawn, but not yet left their slots.
        self.leaving = 0
        #: How many have begun and left, and the seconds that they were inside, all together.
        self.left = 0
        self.spent = 0.0

    def admit(self, items: Iterable[T]) -> list[T]:
        """Let them in while there are slots, and let the others wait; those that are in."""
        called = []
        with self._lock:
            now = monotonic()
            for item in items:
                if self._free > 0:
                    self._free -= 1
                    self._called.add(item)
                    called.append(item)
                else:
                    self._line[item] = now
        return called

    def begin(self, item: T) -> bool:
        """Whether an item that was let in may begin; otherwise it was withdrawn, and leaves."""
        with self._lock:
            if item not in self._called:
                return False
            self._called.remove(item)
            self._began[item] = monotonic()
            return True

    def leave(self, item: T) -> T | None:
        """An item gives its slot back; the one that has the slot now, if one waited."""
        with self._lock:
            began = self._began.pop(item, None)
            if began is not None:
                self.left += 1
                self.spent += monotonic() - began
            else:
                self.leaving -= 1
            if not self._line:
                self._free += 1
                return None
            following = next(iter(self._line))
            del self._line[following]
            self._called.add(following)
            return following

    def withdraw(self, items: Iterable[T]) -> list[T]:
        """Those of them that have not begun; now they never will."""
        withdrawn = []
        with self._lock:
            for item in items:
                if item in self._called:
                    self._called.remove(item)
                    self.leaving += 1
                elif self._line.pop(item, None) is None:
                    continue
                withdrawn.append(item)
        return withdrawn

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._line)

    def oldest(self) -> float | None:
        """When the first of the line came, by the monotonic clock; None if nobody waits."""
        with self._lock:
            return next(iter(self._line.values()), None)

    def line(self) -> list[T]:
        """Those that wait for a slot."""
        with self._lock:
            return list(self._line)
