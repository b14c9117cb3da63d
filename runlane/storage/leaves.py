"""What a checkpoint is made of: the last event of each stream in a stretch of the log, in the order of positions.

Those of runs that were pruned are told by the events that tell of their end.  There may be as many as there ever were
runs, so they are sorted in a temporary file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from heapq import merge
from operator import attrgetter
from typing import Any, NamedTuple

from runlane import checkpoints, codec
from runlane.decisions import environment_stream
from runlane.errors import InvariantViolation
from runlane.events import Head, RunsPruned
from runlane.storage import epochs
from runlane.storage.scan import flow
from runlane.storage.transaction import Transaction

_PRUNED = codec.STORED_AS[RunsPruned][0]
#: Events are some kilobytes long.
_BATCH = 50
_HEADS = {
    "postgresql": """
        select stream_id::text, sequence, position, digest from (
          select distinct on (stream_id) stream_id, sequence, position, digest from {events}
          where environment = %s and position > %s and position <= %s order by stream_id, position desc) heads
        order by position""",
    # The other columns are those of the row that has the maximum.
    "sqlite": """
        select stream_id, sequence, max(position), digest from {events}
        where environment = ? and position > ? and position <= ? group by stream_id order by 3""",
}
_TOLD = {
    "postgresql": """
        select version, data::text, position from {events}
        where stream_id = %s and type = %s and position > %s order by sequence desc""",
    "sqlite": """
        select version, data, position from {events}
        where stream_id = ? and type = ? and position > ? order by sequence desc""",
}


class Leaf(NamedTuple):
    """The last event of a stream in a stretch of the log; the id as it is stored, the digest in hex."""

    stream_id: str
    sequence: int
    position: int
    digest: str

    @property
    def hash(self) -> bytes:
        """Its hash in the tree."""
        return checkpoints.leaf(self.stream_id, self.sequence, self.position, self.digest)

    @property
    def place(self) -> checkpoints.Place:
        """Stream, sequence, position."""
        return self[:3]


def statement(tx: Transaction, statements: dict[str, str]) -> str:
    """The one for this database, with the name of the table."""
    return statements[tx.dialect.name].format(events="events" if tx.schema is None else f'"{tx.schema}".events')


def is_of(known: Collection[str], event: RunsPruned, position: int) -> bool:
    """Whether runs were pruned in the log with these epochs, not in another one that was imported.

    Older events do not tell their epoch: one speaks of another log if what is told does not lie before it.
    """
    if event.epoch is not None:
        return event.epoch in known
    return all(head.position < position for head in event.heads)


class Gone:
    """The last events of pruned runs behind a position, as the log tells of them; what cannot be read is left out.

    What was pruned in another log, before that was imported, had positions of that one, and never stood in this one.
    """

    def __init__(self, tx: Transaction, environment: str, behind: int = 0) -> None:
        self._kept = sqlite3.connect("", isolation_level=None)  # a file without a name, which goes with it
        self._kept.executescript(
            "pragma journal_mode = off; pragma synchronous = off;"
            "create table head (stream text, sequence int, position int, digest text); begin"
        )
        stream: Any = environment_stream(environment)
        known = {epoch.token for epoch in epochs.history(tx)}
        asked = [stream if tx.schema is not None else str(stream), _PRUNED, behind]
        with closing(flow(tx, statement(tx, _TOLD), asked, _BATCH)) as rows:
            for version, data, position in rows:
                event = _read(version, data)
                if event is not None and not is_of(known, event, position):
                    break  # streams are imported as a whole: all before it came with it
                self._keep(() if event is None else event.heads, behind)
        self._kept.executescript("create index by_position on head (position)")
        #: The highest position of them.
        self.highest: int = self._kept.execute("select coalesce(max(position), 0) from head").fetchone()[0]

    def _keep(self, heads: Iterable[Head], behind: int) -> None:
        kept = ((str(h.stream_id), h.sequence, h.position, h.digest) for h in heads if h.position > behind)
        self._kept.executemany("insert into head values (?, ?, ?, ?)", kept)

    def between(self, behind: int, until: int) -> Iterator[Leaf]:
        """Those behind a position, up to another one."""
        found = self._kept.execute(
            "select stream, sequence, position, digest from head where position > ? and position <= ?"
            " order by position",
            (behind, until),
        )
        return (Leaf(*row) for row in found)

    def close(self) -> None:
        """Forget them."""
        self._kept.close()


def _read(version: int, data: str) -> RunsPruned | None:
    try:
        event = codec.decode(_PRUNED, version, data)
    except InvariantViolation:  # the check of its stream names it
        return None
    assert isinstance(event, RunsPruned)
    return event


def plan(tx: Transaction) -> None:
    """Have stretches found by the bounds of their pages, until the transaction ends."""
    if tx.schema is not None:
        tx.statements.exec_driver_sql("select set_config('enable_bitmapscan', 'on', true)")


def between(tx: Transaction, gone: Gone, environment: str, behind: int, until: int) -> Generator[Leaf, None, None]:
    """The leaves of the stretch behind a position, up to another one."""
    with closing(flow(tx, statement(tx, _HEADS), [environment, behind, until])) as rows:
        here: Iterable[Leaf] = (Leaf(row[0], row[1], row[2], _hex(row[3])) for row in rows)
        if gone.highest > behind:
            here = merge(here, gone.between(behind, until), key=attrgetter("position"))
        yield from here


def _hex(stored: Any) -> str:
    """A digest as it is stored; in a SQLite file anything can stand there."""
    return stored.hex() if isinstance(stored, bytes) else str(stored)
