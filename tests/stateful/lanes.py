"""Where episodes are played: two lanes on one database, as two processes would have them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from attrs import frozen

from runlane.lanes import Lane, lane_of, sqlite_lane
from runlane.transport.local import LocalTransport
from tests.stateful.post import Post
from tests.stateful.reader import Reader, reader_of


@frozen(eq=False)
class KeptLane(Lane):
    """A lane whose connections outlive the process that is played on it: opening them is not what is tested here."""

    def close(self) -> None:
        self.transport.close()


class Stage:
    """Two lanes on one database, and a reader of its own.

    Args:
        name: of the kind of lane, for reports.
        make: the URL of a database; a new one at each call, where that is how old episodes are cleared away.
        post: the publishing transport, if there is one.
        fresh: after how many episodes another database is taken; what lies there makes each step slower.
        durable: wait at each commit until the disk has it, as the product does by default.
    """

    def __init__(
        self, name: str, make: Callable[[], str], fresh: int = 40, post: Post | None = None, durable: bool = True
    ) -> None:
        self.name = name if post is None else f"{name}-delivering"
        self.post = post
        self._make = make
        self._fresh = fresh
        self._durable = durable
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
    def postgres(cls, url: str, post: Post | None = None) -> Stage:
        """Two connection pools on one database."""
        return cls("postgres", lambda: url, 1_000_000, post)

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
        return lane_of(url) if self._durable else sqlite_lane(url, synchronous_commit=False)

    def _kept(self, lane: Lane) -> Lane:
        # Doorbells are tested where somebody sleeps; here they would only cost time.
        return KeptLane(lane.database, LocalTransport() if self.post is None else self.post, lane.name)
