"""What ``Runlane`` does with the log of its environment: following it, and folding it into tables of one's own."""

from __future__ import annotations

from collections.abc import Iterable

from runlane.events import Event
from runlane.following import DEFAULT_BATCH, Follower, Stop
from runlane.projecting import Projection, Projections
from runlane.runtime import Runtime


class ReadsLog:
    """The part of ``Runlane`` that reads the log."""

    _runtime: Runtime
    projections: Projections

    def follow(
        self,
        cursor: str | None = None,
        *,
        batch: int = DEFAULT_BATCH,
        types: Iterable[str | type[Event]] | None = None,
        stop: Stop | None = None,
        poll: float | None = 0.5,
    ) -> Follower:
        """Follow the log of this environment: an iterator over batches of committed events, none missed, none twice.

        Events come in the order of their positions, which keeps to the sequence of each stream.  On PostgreSQL an event
        comes when every transaction that was writing before it has ended.

        Args:
            cursor: where to begin: ``start`` (or None), ``end`` (what is written from now on), the `cursor` of a batch,
                or ``name:billing``: where ``batch.commit()`` has left the cursor of this name, at first at the start.
            batch: the greatest number of events in one batch, 1 to 10,000.
            types: only events of these types, by stored name (``run.failed``) or class.
            stop: ends the iteration when it is set, or returns True.
            poll: seconds between looks while nothing is new; None ends the iteration behind what had been written when
                it began.

        Raises:
            ConfigurationInvalid: an argument is not valid, or the cursor is not of this log: from another database, or
                from beyond the point to which this one was restored.
            StorageUnavailable: the database cannot be reached; raised by the iteration too, which can go on later.
        """
        return Follower(self._runtime, cursor, batch, types, stop, poll)

    def project(
        self,
        projection: Projection | str,
        *,
        stop: Stop | None = None,
        poll: float | None = 0.5,
        batch: int = DEFAULT_BATCH,
    ) -> int:
        """Keep a projection up to date: fold events into its tables, each exactly once, until it is stopped.

        Any number of processes may try; one at a time gets on, and the others are told by a ``StorageConflict``.

        One of the application's `inline_projections` is brought up to date and made inline: from then on each
        transaction that appends events folds them, and there is nothing left to do.  Where it is inline already, it
        returns at once.

        Args:
            projection: the projection, or the name of a registered one.
            stop, poll, batch: as in ``follow``; with poll=None it ends when it is up to date.

        Returns:
            How many events were folded.

        Raises:
            ConfigurationInvalid: there is none of this name, or its tables are of another version: rebuild it.
            StorageConflict: another process folds it, or has rebuilt it; to make it inline, somebody was appending for
                longer than a minute.
        """
        return self.projections._run(projection, stop, poll, batch)
