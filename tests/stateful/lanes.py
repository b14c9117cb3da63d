"""Where episodes are played: two lanes on one database, as two processes would have them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from attrs import frozen
from sqlalchemy import event

from runlane.lanes import Lane, lane_of, sqlite_lane
from runlane.storage.database import Database
from runlane.transport.local import LocalTransport
from tests.stateful.post import Post
from tests.stateful.reader import Reader, reader_of


@frozen(eq=False)
class KeptLane(Lane):
    """A lane whose connections outlive the process that is played on it: opening them is not what is tested here."""

    def close(self) -> None:
        self.transport.close()


def keep_plans(database: Database) -> None:
    """Prepared statements outlive a rollback.

    psycopg drops all of a connection's at each, as what they speak of may have been made in the transaction.  Here
    nothing is, and every tenth step or so is refused: the server would plan most statements anew most of the time.
    """
    from psycopg._preparing import PrepareManager  # there is no public way

    class Keeping(PrepareManager):
        prepared_max = 1000

        def clear(self) -> bool:
            return False

    for engine in (database.engine, database.beat_engine):

        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            kept = Keeping()
            kept.prepare_threshold = connection.prepare_threshold
            connection._prepared = kept


class Stage:
    """Two lanes on one database, and a reader of its own.

    Args:
        name: of the kind of lane, for reports.
        make: the URL of a database; a new one at each call, where that is how old episodes are cleared away.
        post: the publishing transport, if there is one.
        fresh: after how many episodes another database is taken; what lies there makes each step slower.
        durable: wait at each commit until the disk has it, as the product does by default.
        keeps_plans: whether PostgreSQL need not plan each statement anew after a rollback, as by default it does.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], str],
        fresh: int = 40,
        post: Post | None = None,
        durable: bool = True,
        keeps_plans: bool = False,
    ) -> None:
        self.name = name if post is None else f"{name}-delivering"
        self.post = post
        self._make = make
        self._fresh = fresh
        self._durable = durable
        self._keeps_plans = keeps_plans
        self._played = 0
        self.lanes: tuple[Lane, ...] = ()
        self.reader: Reader

    @classmethod
    def memory(cls, post: Post | None = None) -> Stage:
        """Both processes share the one connection there is."""
        return cls("memory", lambda: "memory:", post=post)

    @classmethod
    def sqlite(cls, folder: Path, post: Post | None = None, durable: bool = True) -> Stage:
        """Two connection pools on one file."""
        numbers = count()
        return cls("sqlite", lambda: f"sqlite:///{folder / f'{next(numbers)}.db'}", post=post, durable=durable)

    @classmethod
    def postgres(cls, url: str, post: Post | None = None, keeps_plans: bool = True) -> Stage:
        """Two connection pools on one database."""
        return cls("postgres", lambda: url, 1_000_000, post, keeps_plans=keeps_plans)

    def next_episode(self) -> None:
        """Make sure that a database is there, not too full."""
        if self._played % self._fresh == 0:
            self.close()
            url = self._make()
            first = self._kept(self._lane(url))
            self.lanes = (first, first if first.database.is_memory else self._kept(self._lane(url)))
            first.start()
            self.reader = reader_of(first.database)
        self._played += 1

    def close(self) -> None:
        """Close the connections."""
        if self.lanes:
            self.reader.close()
        for lane in dict.fromkeys(self.lanes):
            lane.transport.close()
            lane.database.dispose()
        self.lanes = ()

    def _lane(self, url: str) -> Lane:
        lane = lane_of(url) if self._durable else sqlite_lane(url, synchronous_commit=False)
        if self._keeps_plans:
            keep_plans(lane.database)
        return lane

    def _kept(self, lane: Lane) -> Lane:
        # Doorbells are tested where somebody sleeps; here they would only cost time.
        return KeptLane(lane.database, LocalTransport() if self.post is None else self.post, lane.name)
