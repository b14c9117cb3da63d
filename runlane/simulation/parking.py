"""Runs that wait behind a full concurrency key: the best of a key at once, however many keys there are."""

from __future__ import annotations

import sqlite3
from heapq import heappop, heappush

from runlane.errors import StorageUnavailable
from runlane.simulation.scratch import Row, Scratch

_TABLE = (
    "create table parked (queue integer, key integer, a integer, b integer, c integer, d integer, e integer, f integer,"
    " primary key (queue, key, a, b, c)) without rowid"
)
_BEST = "select a, b, c, d, e, f from parked where queue = ? and key = ? order by a, b, c limit 1"
_GONE = "delete from parked where queue = ? and key = ? and a = ? and b = ? and c = ?"


class Parking:
    """Rows of six numbers, of which the first three are never twice the same, by queue and key.

    Some are in memory.  More of them are in a database of their own, which SQLite keeps in a nameless file with a small
    cache: each takes it two statements, where a heap for each key would take memory for as many keys as there are runs.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._most, self._count = scratch.sizes.near, 0
        self._near: dict[tuple[int, int], list[Row]] = {}
        self._far: sqlite3.Connection | None = None

    def __enter__(self) -> Parking:
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        """As it is the only SQLite in the block, an error of that is its own.

        Raises:
            StorageUnavailable: there is no room for temporary files.
        """
        if self._far is not None:
            self._far.close()
        if isinstance(error, sqlite3.Error):
            raise StorageUnavailable(f"the temporary file of a simulation cannot be written: {error}") from error

    def put(self, queue: int, key: int, row: Row) -> None:
        """Keep it until it is taken."""
        self._count += 1
        if self._far is None and self._count > self._most:
            self._move()
        if self._far is not None:
            self._far.execute("insert into parked values (?, ?, ?, ?, ?, ?, ?, ?)", (queue, key, *row))
        else:
            heappush(self._near.setdefault((queue, key), []), row)

    def take(self, queue: int, key: int) -> Row | None:
        """The least of this key; None if there is none."""
        if not self._count:
            return None
        if self._far is not None:
            found: Row | None = self._far.execute(_BEST, (queue, key)).fetchone()
            if found is not None:
                self._far.execute(_GONE, (queue, key, *found[:3]))
                self._count -= 1
            return found
        rows = self._near.get((queue, key))
        if rows is None:
            return None
        self._count -= 1
        row = heappop(rows)
        if not rows:
            del self._near[queue, key]
        return row

    def any(self) -> tuple[int, int] | None:
        """A queue and key of which there are some."""
        if self._far is None:
            return next(iter(self._near), None)
        found: tuple[int, int] | None = self._far.execute("select queue, key from parked limit 1").fetchone()
        return found

    def _move(self) -> None:
        """Put all that is in memory into a database."""
        far = self._far = sqlite3.connect("", isolation_level=None)
        # Nothing is to survive: no journal, and one transaction for ever.
        for pragma in ("temp_store = file", "journal_mode = off", "synchronous = off", "cache_size = -4096"):
            far.execute(f"pragma {pragma}")
        far.execute(_TABLE)
        far.execute("begin")
        for (queue, key), rows in self._near.items():
            far.executemany("insert into parked values (?, ?, ?, ?, ?, ?, ?, ?)", [(queue, key, *row) for row in rows])
        self._near = {}
