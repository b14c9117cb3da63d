"""Tables of one's own that are folded from the log: ``app.projections`` and ``app.project``.

A projection is driven by a follower: it folds batch after batch, each in one transaction with the move of its cursor,
so each event counts exactly once.  The cursor belongs to a version of the projection: a program that brings another
version is refused until it is rebuilt.

Or it is inline: when the follower has come to the end of the log, one transaction that no writer can pass folds what
is left and takes the cursor away, and from there on each transaction that appends events folds them
(``storage.inlining``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar, runtime_checkable
from uuid import uuid4

from attrs import frozen
from sqlalchemy import Connection

from runlane.capabilities import Capability
from runlane.errors import ConfigurationInvalid, ConflictKind, RunlaneError, StorageConflict, StorageUnavailable
from runlane.events import Recorded
from runlane.following import DEFAULT_BATCH, Follower, Stop, stored_types
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.storage import commits, cursors, epochs, faults, inlining, places, streams
from runlane.storage.cursors import Named
from runlane.storage.following import Reader
from runlane.storage.inlining import Inline, prepared
from runlane.storage.places import Place
from runlane.storage.transaction import Transaction
from runlane.values import identifier

T = TypeVar("T")
log = logging.getLogger("runlane.projections")

#: Milliseconds of patience with each try to hold off all writers, and seconds with all of them together.
_TRIES, _PATIENCE = (50, 100, 200, 400, 800, 1600), 60.0


@runtime_checkable
class Projection(Protocol):
    """Tables made of the log.  A class may also have `types`, the stored names of the events that it wants.

    Every method is given a SQLAlchemy connection of Runlane's, to use and not to commit.
    """

    @property
    def name(self) -> str:
        """What it is called: an identifier."""
        ...

    @property
    def version(self) -> int:
        """1, and one more with each change of what it makes of the same events."""
        ...

    def setup(self, connection: Connection) -> None:
        """Create its tables, if they are not there; may be called again."""
        ...

    def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
        """Take in the next events, each exactly once and in order; nothing but the connection may be written to."""
        ...

    def clear(self, connection: Connection, environment: str) -> None:
        """Forget what it made of this environment's events, if anything, in whatever version; ``setup`` follows."""
        ...


@frozen
class ProjectionState:
    """A projection and how far it has come.

    `stored_version` and `cursor` are None until it has run; `behind` is how many positions of the log, of every
    environment, lie before it.  One that `is_inline` here has no cursor and is never behind; `becomes_inline` says that
    the program wants it to be, once ``project`` has brought it there.
    """

    name: str
    version: int | None
    stored_version: int | None
    cursor: str | None
    updated_at: datetime | None
    behind: int
    is_inline: bool = False
    becomes_inline: bool = False

    @property
    def is_outdated(self) -> bool:
        """Whether it has to be rebuilt."""
        return None not in (self.version, self.stored_version) and self.version != self.stored_version


class Projections:
    """The projections of an application: ``app.projections``."""

    def __init__(self, runtime: Runtime, registered: Iterable[Projection], inline: Iterable[Projection] = ()) -> None:
        self._runtime = runtime
        self._registered: dict[str, Projection] = {}
        self._inline: set[str] = set()
        for one in registered:
            self._register(one)
        for one in inline:
            self._register(one)
            self._inline.add(one.name)
            wanted = stored_types(getattr(one, "types", None))
            types = None if wanted is None else frozenset(wanted)
            runtime.lane.database.inline.add(Inline(runtime.environment, one.name, one.version, types, one.fold))

    def _register(self, one: Projection) -> None:
        checked(one)
        if one.name in self._registered:
            raise ConfigurationInvalid(f"two projections have the name {one.name!r}")
        self._registered[one.name] = one

    def list(self) -> tuple[ProjectionState, ...]:
        """The registered projections and those that have left a cursor here, by name."""
        with self._reading() as tx:
            last = epochs.last_position(tx)
            stored = {name: (version, named) for name, version, named in _stored(tx, self._runtime.environment)}
            inline = inlining.registered(tx, self._runtime.environment)
        found = []
        for name in sorted(self._registered.keys() | stored.keys() | inline.keys()):
            known = self._registered.get(name)
            version, wanted = None if known is None else known.version, name in self._inline
            if (row := inline.get(name)) is not None:
                found.append(ProjectionState(name, version, row.version, None, row.since, 0, True, wanted))
                continue
            stored_version, named = stored.get(name, (None, None))
            cursor, at = (None, None) if named is None else (named.cursor, named.updated_at)
            behind = last - (0 if cursor is None else places.parsed(cursor).position)
            found.append(ProjectionState(name, version, stored_version, cursor, at, behind, False, wanted))
        return tuple(found)

    def read(self, query: Callable[[Connection], T]) -> T:
        """What `query` returns, which is given a connection in a transaction that reads."""
        with self._reading() as tx:
            return query(prepared(tx))

    def rebuild(self, projection: Projection | str, *, stop: Stop | None = None, batch: int = DEFAULT_BATCH) -> int:
        """Empty a projection and fold the whole log again, up to what is there now; how many events that were.

        In place: who reads its tables meanwhile sees them grow.  A process that runs it, in this or in an older
        version, is fenced off by the first transaction, which empties it.  Of an inline projection transactions do not
        fold any more from there until it is up to date, and inline again; those of programs that have it in another
        version are refused then.

        Raises:
            ConfigurationInvalid: there is no projection of this name, or it is inline here, and not in this program.
            StorageConflict: as by ``project``.
        """
        chosen = self._chosen(projection)
        self._begin(chosen, anew=True)
        if chosen.name in self._inline:
            return self._make_inline(chosen, stop, batch)
        return self._fold(chosen, stop, None, batch)

    def remove(self, name: str) -> None:
        """Forget a projection, inline or not: nobody folds it any more.  Its tables stay as they are.

        What ends an inline projection whose class is gone, so that programs without it may append again.

        Raises:
            ConfigurationInvalid: nothing is stored of a projection of this name.
        """
        wanted, environment = identifier("projection name", name), self._runtime.environment
        with self._reading() as tx:
            if not self._cursors(tx, wanted) and wanted not in inlining.registered(tx, environment):
                raise ConfigurationInvalid(f"nothing is stored of a projection {shown(wanted)}")

        def work(tx: Transaction) -> None:
            inlining.lock(tx, [(environment, wanted)])
            cursors.remove(tx, environment, self._cursors(tx, wanted))
            inlining.forget(tx, environment, wanted)

        self._runtime.transact(work)
        if self._runtime.database.schema is None:
            return
        try:
            self._runtime.transact(lambda tx: inlining.unguard(tx, _TRIES[-1]))
        except RunlaneError as error:  # the projection is gone, and the trigger finds nothing that it could ask for
            log.warning("the log keeps the trigger of inline projections: %s", error)

    def _run(self, projection: Projection | str, stop: Stop | None, poll: float | None, batch: int) -> int:
        """See ``Runlane.project``."""
        chosen = self._chosen(projection)
        environment = self._runtime.environment
        with self._reading() as tx:
            row = inlining.registered(tx, environment).get(chosen.name)
            version = {name: version for name, version, _ in _stored(tx, environment)}.get(chosen.name)
        if row is not None:
            version = row.version
        if version is None:
            self._begin(chosen)
            return self._run(chosen, stop, poll, batch)
        if version != chosen.version:
            raise ConfigurationInvalid(
                f"projection {chosen.name!r} is stored in version {version}, and this program has {chosen.version}: "
                f"`runlane projections rebuild {chosen.name}` makes it anew"
            )
        if row is not None:
            self._require_inline(chosen)
            return 0
        if chosen.name in self._inline:
            return self._make_inline(chosen, stop, batch)
        return self._fold(chosen, stop, poll, batch)

    def _reading(self) -> Any:
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "projections")
        return self._runtime.reading()

    def _chosen(self, projection: Projection | str) -> Projection:
        if not isinstance(projection, str):
            return checked(projection)
        if projection not in self._registered:
            known = ", ".join(sorted(self._registered)) or "none"
            raise ConfigurationInvalid(f"there is no projection {shown(projection)}; known are: {known}")
        return self._registered[projection]

    def _require_inline(self, projection: Projection) -> None:
        """Unless this program folds it inline, as it is here."""
        if projection.name not in self._inline:
            raise ConfigurationInvalid(
                f"projection {projection.name!r} is inline here, and this program has it as a follower: give it to "
                f"Runlane(inline_projections=[…]), or end it with `runlane projections remove {projection.name}`"
            )

    def _cursors(self, tx: Transaction, name: str) -> Sequence[str]:
        """The names of a projection's cursors, of whatever version."""
        return [named.name for known, _, named in _stored(tx, self._runtime.environment) if known == name]

    def _begin(self, projection: Projection, *, anew: bool = False) -> None:
        """Empty tables, and the cursor at the start; nobody else's cursor remains, and it is not inline.

        Args:
            anew: even if something is stored already; else who was faster is left alone.
        """
        environment, me = self._runtime.environment, uuid4()
        self._runtime.start()
        self._runtime.database.open_epoch()

        def begin(tx: Transaction) -> None:
            inlining.lock(tx, [(environment, projection.name)])
            stored, row = self._cursors(tx, projection.name), inlining.registered(tx, environment).get(projection.name)
            if row is not None:
                self._require_inline(projection)
            if not anew and (stored or row is not None):
                return
            known = epochs.history(tx)[-1]
            start = Place(known.number, known.token, 0).text
            cursors.remove(tx, environment, stored)
            inlining.forget(tx, environment, projection.name)
            cursors.move(tx, environment, Named(_name_of(projection), start, 0), start, me, tx.now())
            connection = prepared(tx)
            projection.clear(connection, environment)
            projection.setup(connection)

        self._runtime.transact(begin)

    def _make_inline(self, projection: Projection, stop: Stop | None, batch: int) -> int:
        """Follow the log to its end, and have who appends fold from there on; how many events were folded."""
        folded, deadline = 0, 0.0
        for attempt in range(1_000_000):
            folded += self._fold(projection, stop, None, batch)
            if stop is not None and (stop.is_set() if isinstance(stop, threading.Event) else stop()):
                break
            deadline = deadline or time.monotonic() + _PATIENCE
            patience = _TRIES[min(attempt, len(_TRIES) - 1)]
            try:
                return folded + self._runtime.transact(lambda tx: self._switch(tx, projection, patience, batch))  # noqa: B023
            except StorageConflict as error:
                if not error.retryable or time.monotonic() > deadline:
                    raise
        return folded

    def _switch(self, tx: Transaction, projection: Projection, patience_ms: int, batch: int) -> int:
        """Fold what is left while nobody can append, and make it inline."""
        environment = self._runtime.environment
        inlining.hold_writers(tx, patience_ms)
        inlining.lock(tx, [(environment, projection.name)])
        row = inlining.registered(tx, environment).get(projection.name)
        if row is not None and row.version == projection.version:  # the answer to the commit was lost
            return 0
        named = cursors.lock(tx, environment, _name_of(projection))  # a follower of it ends, or has ended
        if row is not None or named is None:
            raise StorageConflict(
                f"another process rebuilds or removes projection {projection.name!r}",
                kind=ConflictKind.SEQUENCE,
                retryable=False,
            )
        place = places.check(tx, places.parsed(named.cursor), epochs.history(tx))
        reader = Reader(environment, stored_types(getattr(projection, "types", None)), place.position)
        last, folded = epochs.last_position(tx), 0
        while rows := reader.read(tx, last, batch):
            with faults.translated(self._runtime.database.where):
                projection.fold(prepared(tx), [streams.recorded(one) for one in rows])
            folded += len(rows)
        cursors.remove(tx, environment, self._cursors(tx, projection.name))
        inlining.register(tx, (environment, projection.name, projection.version), tx.now())
        return folded

    def _fold(self, projection: Projection, stop: Stop | None, poll: float | None, batch: int) -> int:
        types: Any = getattr(projection, "types", None)
        folded = 0

        def opened() -> Follower:
            made = Follower(self._runtime, None, batch, types, stop, poll, name=_name_of(projection))
            if not made.was_there:  # else everything would be folded again, into tables that have it already
                raise StorageConflict(
                    f"another process has removed projection {projection.name!r}, or made it inline",
                    kind=ConflictKind.SEQUENCE,
                    retryable=False,
                )
            return made

        follower = opened()
        while (one := next(follower, None)) is not None:
            try:
                with one.transaction() as connection, faults.translated(self._runtime.database.where):
                    projection.fold(connection, one.records)
            except StorageUnavailable as error:
                if commits.outcome(error) is None:
                    raise
                # Lost during the commit: the cursor has moved if that happened, and the batch comes again if not.
                before, follower = follower, opened()
                if not follower.goes_on_behind(before, one):
                    continue
            folded += len(one)
        follower.settle()
        return folded


def checked(projection: Projection) -> Projection:
    """`projection`, if it is one.

    Raises:
        ConfigurationInvalid: naming what it lacks.
    """
    if not isinstance(projection, Projection):
        raise ConfigurationInvalid(
            f"a projection has name, version, setup, fold and clear; {type(projection).__name__} has not"
        )
    identifier("projection name", projection.name)
    if not isinstance(projection.version, int) or projection.version < 1:
        raise ConfigurationInvalid(f"version of projection {projection.name!r} must be a number from 1 on")
    return projection


def _name_of(projection: Projection) -> str:
    """The name of its cursor; no name that a caller may give has a colon."""
    return f"projection:{projection.name}:{projection.version}"


def _stored(tx: Transaction, environment: str) -> Iterable[tuple[str, int, Named]]:
    """The cursors of projections: name, version."""
    for named in cursors.every(tx, environment):
        kind, _, rest = named.name.partition(":")
        name, _, version = rest.rpartition(":")
        if kind == "projection" and name:
            yield name, int(version), named
