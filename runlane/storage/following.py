"""Reading the log in the order of positions, missing nothing.

A position is drawn when an event is written, and the event appears when its transaction commits: on PostgreSQL others
with higher positions may have appeared before.  Who only reads on behind the last position that he saw misses events.
So a reader goes no further than the last position that is *settled*: every transaction that drew that one or a lower
one has ended, with its events visible or gone for good.

How the last settled position is found on PostgreSQL, where writers are many:

1. read the sequence behind the positions, P, and how far the write-ahead log has come, L;
2. then draw a transaction id, Z.  Who writes an event has an id before he draws its position (``events.tx`` stands
   before ``events.position``), and ids are given in order: so every id above Z draws positions above P;
3. once the oldest id that is still running is not below Z, all that could have drawn P or less have ended.

Only the oldest running id of a snapshot is used (``pg_snapshot_xmin``); its upper end (``xmax``) will not do, as it is
the first id behind the last one that has *ended*, and ids from there on may be running already.  An id is drawn only
where positions have been drawn since.  And P counts only when L is on the disk: positions that nobody has committed may
be given again after a crash, and a reader must not have gone past them.

Why not by (tx, position) below that oldest running id, which is exact too: a transaction that got its id early may
append to a stream behind a younger one that has committed, so that order does not keep to the sequences of streams
(tests/storage/test_following.py shows it); positions do, as event n+1 is written when n has been committed.  By
position a cursor is one number, which survives a restore.

On SQLite writers take turns, so what has a position is settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

from attrs import define, field, frozen
from sqlalchemy import bindparam, select

from runlane.errors import StorageUnavailable
from runlane.storage import epochs, streams, tables
from runlane.storage.transaction import Transaction

_EVENTS = tables.events.c
#: How many positions are looked through at once, at most.
_WIDEST = 1 << 20
#: How many looks are kept in mind while transactions are in flight.
_MARKS = 16
_OLDEST = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint, (pg_current_wal_flush_lsn() - '0/0')::bigint"
_LOOK = f"""
    select pg_sequence_last_value('{{sequence}}'::regclass),
      (pg_current_wal_insert_lsn() - '0/0')::bigint, {_OLDEST}, {epochs.TIMELINE},
      concat_ws(' ', {epochs.TIMELINE}, pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time())"""
_DRAW = "select pg_current_xact_id()::text::bigint"
_FLUSH = "select set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'runlane', 'flush')"
#: Rows are found by the bounds of their pages, and the processes that would share so little work cost more than it.
_PLAN = "select set_config('enable_bitmapscan', 'on', true), set_config('max_parallel_workers_per_gather', '0', true)"


class Elsewhere(Exception):
    """The database behind the connection is not the one that was looked at before."""


@frozen
class _Mark:
    """All up to `position` is settled once no id below `id` is running and the log is on disk up to `written`."""

    position: int
    id: int
    written: int


@define
class Horizon:
    """How far the log is settled, as one follower has found out so far."""

    settled: int = 0
    #: The last position that was drawn when it last looked.
    drawn: int = 0
    #: Whether only the disk is waited for, and not for long.
    waits_for_disk: bool = False
    _marks: deque[_Mark] = field(factory=deque)
    #: Another one after a failover, a restart or a crash (statistics begin anew): ids and places in it are given again.
    _server: str | None = None

    @property
    def waits(self) -> bool:
        """Whether something was written that is not settled yet."""
        return bool(self._marks)

    def look(self, tx: Transaction) -> int:
        """The last settled position, as of now; who reads later sees all up to there.

        It has to be a transaction of its own, as it may draw an id, which others wait for.

        Raises:
            Elsewhere: the server has changed; forget everything.
            StorageUnavailable: it is a standby.
        """
        if tx.dialect.name != "postgresql":
            self.settled = self.drawn = epochs.last_position(tx)
            return self.settled
        ask = tx.statements.exec_driver_sql
        ((last, written, oldest, flushed, timeline, server),) = ask(_LOOK.format(sequence=epochs.sequence(tx))).all()
        if timeline is None:
            raise StorageUnavailable("this is a standby; the log can be followed on the primary only")
        position = epochs.drawn(tx, last)
        if self._server not in (None, server) or position < self._highest():
            raise Elsewhere
        self._server = server
        self._release(oldest, flushed)
        self.drawn = position
        if position > self._highest():
            mark = _Mark(position, ask(_DRAW).scalar_one(), written)
            if len(self._marks) == _MARKS:
                self._marks.pop()  # the older ones come true sooner
            self._marks.append(mark)
            ((oldest, flushed),) = ask(f"select {_OLDEST}").all()
            self._release(oldest, flushed)
        self.waits_for_disk = bool(self._marks) and oldest >= self._marks[0].id
        if self.waits_for_disk:  # what this transaction commits takes all that was written before along
            ask(_FLUSH)
        return self.settled

    def _highest(self) -> int:
        return self._marks[-1].position if self._marks else self.settled

    def _release(self, oldest: int, flushed: int) -> None:
        while self._marks and oldest >= self._marks[0].id and flushed >= self._marks[0].written:
            self.settled = max(self.settled, self._marks.popleft().position)


@define
class Reader:
    """Reads the events of one environment behind `reached`, up to what is settled.

    Args:
        types: stored names of the events that are wanted; None for all.
    """

    environment: str
    types: tuple[str, ...] | None
    reached: int
    _span: int = 0

    def read(self, tx: Transaction, settled: int, most: int) -> list[Any]:
        """Up to `most` rows of events, which are the next ones; none if there is none up to there."""
        self._span = max(self._span, most)
        if tx.dialect.name == "postgresql":
            tx.statements.exec_driver_sql(_PLAN)
        rows: list[Any] = []
        while self.reached < settled and len(rows) < most:
            until = min(settled, self.reached + self._span)
            asked: dict[str, Any] = {"environment": self.environment, "behind": self.reached, "until": until}
            if self.types is not None:
                asked["types"] = list(self.types)
            left = most - len(rows)
            found: Sequence[Any] = tx.execute(_stretch(self.types is not None), {**asked, "most": left}).all()
            rows += found
            if len(found) == left:
                self._span = max(most, self._span // 2)
                self.reached = found[-1].position
            else:
                self._span = min(_WIDEST, 2 * self._span)
                self.reached = until
        return rows


def summarize(tx: Transaction) -> None:
    """Note the bounds of the pages written since the last time, which a reader has to read otherwise; PostgreSQL only.

    Autovacuum does so too, when it comes by.  Only the owner of the table may.
    """
    tx.statements.exec_driver_sql("set local lock_timeout = '100ms'")
    tx.statements.exec_driver_sql(f"select brin_summarize_new_values('\"{tx.schema}\".events_position'::regclass)")


@cache
def _stretch(of_types: bool) -> Any:
    """The events of a stretch of positions."""
    wanted = [
        _EVENTS.position > bindparam("behind"),
        _EVENTS.position <= bindparam("until"),
        _EVENTS.environment == bindparam("environment"),
    ]
    if of_types:
        wanted.append(_EVENTS.type.in_(bindparam("types", expanding=True)))
    return select(*streams.ENVELOPE).where(*wanted).order_by(_EVENTS.position).limit(bindparam("most"))
