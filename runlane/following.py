"""Following the log: ``app.follow``, an iterator over batches of committed events, and named cursors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from attrs import evolve, field, frozen

from runlane import codec
from runlane.capabilities import Capability
from runlane.errors import ConfigurationInvalid, RunlaneError
from runlane.events import Event, Recorded
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.storage import borrow, cursors, epochs, places, streams
from runlane.storage.cursors import Named
from runlane.storage.following import Elsewhere, Horizon, Reader, summarize
from runlane.storage.inlining import prepared
from runlane.storage.places import Place
from runlane.storage.transaction import Transaction
from runlane.values import identifier

#: How the follower is told to end: an event of ``threading``, or a function that says whether to.
Stop = threading.Event | Callable[[], bool]

DEFAULT_BATCH, MAX_BATCH = 500, 10_000
#: Seconds between looks while something written is not settled yet.
_SOON = 0.01
#: How many positions may have been passed since the bounds of new pages were last noted.
_NOTED = 50_000


class _Theirs(BaseException):
    """Carries what a consumer raised past the translation of our own errors."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@frozen(eq=False)
class Batch:
    """Events in the order of the log: iterate over it, or take `records`.

    `cursor` is the place behind the last of them: follow it to go on from there.
    """

    records: tuple[Recorded, ...]
    cursor: str
    position: int = field(repr=False)
    _follower: Follower = field(repr=False)

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def cursor_behind(self, record: Recorded) -> str:
        """The place behind one of its events."""
        epoch, token, *_ = self.cursor.split(".")
        return Place(int(epoch), token, record.position or 0, places.mark_of(record)).text

    def commit(self, connection: Any = None) -> None:
        """See ``Follower.commit``."""
        self._follower.commit(self, connection)

    @contextmanager
    def transaction(self, connection: Any = None) -> Iterator[Any]:
        """Process the batch and move the named cursor in one transaction: exactly once.

        Args:
            connection: as in ``trigger``: yours, in whose transaction the cursor moves before the block begins; to
                commit it is your business.  Without one, the block is given a SQLAlchemy connection of Runlane's, whose
                transaction is committed at its end, or rolled back by an exception.

        Raises:
            StorageConflict: another follower has moved the cursor meanwhile; the block is not entered.
        """
        with self._follower.transaction(self, connection) as given:
            yield given


class Follower:
    """An iterator over batches, made by ``app.follow``; for one thread.  Close it, or leave it to itself.

    An error of the database ends nothing: ask for the next batch again.
    """

    def __init__(
        self,
        runtime: Runtime,
        cursor: str | None,
        batch: int,
        types: Iterable[str | type[Event]] | None,
        stop: Stop | None,
        poll: float | None,
        *,
        name: str | None = None,
    ) -> None:
        if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= MAX_BATCH:
            raise ConfigurationInvalid(f"batch must be a number from 1 to {MAX_BATCH}; got {shown(batch)}")
        if poll is not None and (not isinstance(poll, (int, float)) or not 0 < poll <= 3600):
            raise ConfigurationInvalid(
                f"poll must be seconds, more than 0 and at most 3600, or None; got {shown(poll)}"
            )
        if stop is not None and not isinstance(stop, threading.Event) and not callable(stop):
            raise ConfigurationInvalid("stop must be a threading.Event or a function that says whether to stop")
        if cursor is not None and not isinstance(cursor, str):
            raise ConfigurationInvalid(f"cursor must be text, or None for the start; got {type(cursor).__name__}")
        runtime.lane.require(Capability.READS_RUN_HISTORY, "follow")
        self._runtime = runtime
        self._batch, self._types, self._stop, self._poll = batch, stored_types(types), stop, poll
        self._me = uuid4()
        self._closed = threading.Event()
        #: The named cursor as it was found, and as it was moved, with the positions; the last two.
        self._moves: list[tuple[int, Named]] = []
        self._until: int | None = None
        self._noted: int | None = None
        runtime.start()
        runtime.database.open_epoch()
        with runtime.reading() as tx:
            self._open(tx, "start" if cursor is None else cursor, name)

    @property
    def was_there(self) -> bool:
        """Whether its named cursor was stored when it began."""
        return bool(self._moves) and self._moves[0][1].version > 0

    def _open(self, tx: Transaction, cursor: str, name: str | None) -> None:
        known = epochs.history(tx)
        kind, _, rest = cursor.partition(":")
        if name is None and kind == "name" and rest:
            name = identifier("cursor name", rest)
        start = Place(known[-1].number, known[-1].token, 0)
        if name is not None:
            named = cursors.find(tx, self._runtime.environment, name) or Named(name, start.text, 0)
            start = places.check(tx, places.parsed(named.cursor), known)
            self._moves = [(start.position, named)]
        elif cursor == "end":
            start = evolve(start, position=epochs.last_position(tx))
        elif cursor != "start":
            start = places.check(tx, places.parsed(cursor), known)
        self._begin(start)

    def _begin(self, place: Place) -> None:
        self._place = place
        self._horizon: Horizon | None = Horizon(place.position)
        self._reader = Reader(self._runtime.environment, self._types, place.position)

    @property
    def cursor(self) -> str:
        """The place up to which everything has been read, also what was of no interest."""
        reached = self._reader.reached
        return (
            self._place if reached == self._place.position else evolve(self._place, position=reached, mark=None)
        ).text

    @property
    def name(self) -> str | None:
        """The name of its cursor, if it has one."""
        return self._moves[-1][1].name if self._moves else None

    def settle(self) -> None:
        """At the end: move the named cursor, if everything was committed, past what was of no interest."""
        if self._moves and self._moves[-1][0] == self._place.position < self._reader.reached:
            self.commit()

    def goes_on_behind(self, other: Follower, batch: Batch) -> bool:
        """Whether it found its named cursor where the other one has moved it with this batch."""
        return bool(self._moves) and (self._moves[0][1].moved_by, self._moves[0][0]) == (other._me, batch.position)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration, from any thread."""
        self._closed.set()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        while not self._is_stopped():
            try:
                found = self._look()
            except RunlaneError:
                self._horizon = None
                raise
            if found is not None:
                return found
            horizon = self._horizon
            if horizon is None or horizon.waits_for_disk:
                continue
            if self._poll is None and self._until is not None and self._reader.reached >= self._until:
                break
            self._wait(_SOON if self._poll is None else min(_SOON, self._poll) if horizon.waits else self._poll)
        raise StopIteration

    def _look(self) -> Batch | None:
        if self._horizon is None:  # after an error: it may be another server by now
            self._runtime.database.open_epoch()
            with self._runtime.reading() as tx:
                self._begin(places.check(tx, self._place, epochs.history(tx)))
        assert self._horizon is not None
        if self._reader.reached >= self._horizon.settled:
            with self._runtime.reading() as tx:
                try:
                    self._horizon.look(tx)
                except Elsewhere:
                    self._horizon = None
                    return None
            if self._until is None:
                self._until = self._horizon.drawn
            if self._reader.reached >= self._horizon.settled:
                return None
        settled = self._horizon.settled
        self._note_bounds()
        with self._runtime.reading() as tx:
            records = tuple(streams.recorded(row) for row in self._reader.read(tx, settled, self._batch))
        if not records:
            return None
        position = records[-1].position or 0
        self._place = evolve(self._place, position=position, mark=places.mark_of(records[-1]))
        return Batch(records, self._place.text, position, self)

    def _note_bounds(self) -> None:
        """On PostgreSQL: see that what is read on the way is found quickly."""
        assert self._horizon is not None
        database, ahead = self._runtime.database, self._horizon.settled
        if database.schema is None or (self._noted is not None and ahead < self._noted + _NOTED):
            return
        first, self._noted = self._noted is None, ahead
        if first and ahead - self._reader.reached < _NOTED:
            return
        try:
            database.transact(summarize)
        except RunlaneError:  # another role's table, or a vacuum under way: it is only slower
            self._noted = ahead + 9 * _NOTED

    def _is_stopped(self) -> bool:
        stop = self._stop
        asked = False if stop is None else stop.is_set() if isinstance(stop, threading.Event) else stop()
        return asked or self._closed.is_set()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._is_stopped():
            if isinstance(self._stop, threading.Event):
                self._stop.wait(min(left, 0.1))
            else:
                self._closed.wait(left if self._stop is None else min(left, 0.1))

    def commit(self, batch: Batch | None = None, connection: Any = None) -> None:
        """Move the named cursor behind a batch, or, without one, behind all that has been read.

        Args:
            connection: as in ``trigger``: the cursor moves if that transaction commits.  Where it is rolled back, the
                same batch can be committed again; later ones cannot.

        Raises:
            ConfigurationInvalid: the follower has no named cursor, or the batch is another one's.
            StorageConflict: another follower has moved the cursor meanwhile (kind ``sequence``): what was done with the
                batch may have been done twice; in the same transaction it is to be rolled back.
        """
        if connection is None:
            self._runtime.transact(lambda tx: self._move(tx, batch))
            return
        with borrow.joined(self._runtime.database, connection, self._runtime.clock, appends=False) as tx:
            self._move(tx, batch)

    @contextmanager
    def transaction(self, batch: Batch, connection: Any = None) -> Iterator[Any]:
        """See ``Batch.transaction``."""
        # The cursor first: who has lost the race waits there for the other one, and does not even begin.
        if connection is not None:
            self.commit(batch, connection)
            yield connection
            return
        self._runtime.start()
        with theirs_raised(), self._runtime.database.write(self._runtime.clock) as tx:
            self._move(tx, batch)
            ready = prepared(tx)
            with theirs():
                yield ready

    def _move(self, tx: Transaction, batch: Batch | None) -> None:
        if not self._moves:
            raise ConfigurationInvalid("only a named cursor is committed: follow cursor='name:…'")
        if batch is not None and batch._follower is not self:
            raise ConfigurationInvalid("this batch came from another follower")
        position = self._reader.reached if batch is None else batch.position
        before = [one for one in self._moves if one[0] < position or one[1].version == 0] or self._moves[:1]
        if position < before[-1][0]:
            raise ConfigurationInvalid("a later batch has been committed already")
        cursor = self.cursor if batch is None else batch.cursor
        moved = cursors.move(tx, self._runtime.environment, before[-1][1], cursor, self._me, tx.now())
        self._moves = [*before[-1:], (position, moved)]


@contextmanager
def theirs() -> Iterator[None]:
    """What is raised within belongs to a consumer, and is not translated on its way to ``theirs_raised``."""
    try:
        yield
    except BaseException as error:
        raise _Theirs(error) from None


@contextmanager
def theirs_raised() -> Iterator[None]:
    """Where it comes out again."""
    try:
        yield
    except _Theirs as theirs:
        error = theirs.error
    else:
        return
    raise error


def stored_types(types: Iterable[str | type[Event]] | None) -> tuple[str, ...] | None:
    """The stored names of types of events, given as such or as classes.

    Raises:
        ConfigurationInvalid: there is no such type.
    """
    if types is None:
        return None
    if isinstance(types, str):
        types = [types]
    if not isinstance(types, Iterable):
        raise ConfigurationInvalid(f"types must be a list of types of events, or one's name; got {shown(types)}")
    known: Sequence[str] = [name for name, _ in codec.STORED_AS.values()]
    found: list[str] = []
    for one in types:
        name = codec.STORED_AS[one][0] if isinstance(one, type) and one in codec.STORED_AS else one
        if not isinstance(name, str) or name not in known:
            raise ConfigurationInvalid(f"there is no type of event {shown(name)}; known are {', '.join(sorted(known))}")
        found.append(name)
    if not found:
        raise ConfigurationInvalid("types must name at least one type of event; None is for all")
    return tuple(dict.fromkeys(found))
