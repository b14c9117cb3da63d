"""Tables of one's own that are folded from the log: ``app.projections`` and ``app.project``.

A projection is driven by a follower: it folds batch after batch, each in one transaction with the move of its cursor,
so each event counts exactly once.  The cursor belongs to a version of the projection: a program that brings another
version is refused until it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar, runtime_checkable
from uuid import uuid4

from attrs import frozen
from sqlalchemy import Connection

from runlane.capabilities import Capability
from runlane.errors import ConfigurationInvalid, StorageUnavailable
from runlane.events import Recorded
from runlane.following import DEFAULT_BATCH, Follower, Stop, prepared
from runlane.runtime import Runtime
from runlane.storage import commits, cursors, epochs, faults, places
from runlane.storage.cursors import Named
from runlane.storage.places import Place
from runlane.storage.transaction import Transaction
from runlane.values import identifier

T = TypeVar("T")


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
    environment, lie before it.
    """

    name: str
    version: int | None
    stored_version: int | None
    cursor: str | None
    updated_at: datetime | None
    behind: int

    @property
    def is_outdated(self) -> bool:
        """Whether it has to be rebuilt."""
        return None not in (self.version, self.stored_version) and self.version != self.stored_version


class Projections:
    """The projections of an application: ``app.projections``."""

    def __init__(self, runtime: Runtime, registered: Iterable[Projection]) -> None:
        self._runtime = runtime
        self._registered: dict[str, Projection] = {}
        for one in registered:
            checked(one)
            if one.name in self._registered:
                raise ConfigurationInvalid(f"two projections have the name {one.name!r}")
            self._registered[one.name] = one

    def list(self) -> tuple[ProjectionState, ...]:
        """The registered projections and those that have left a cursor here, by name."""
        with self._reading() as tx:
            last = epochs.last_position(tx)
            stored = {name: (version, named) for name, version, named in _stored(tx, self._runtime.environment)}
        found = []
        for name in sorted(self._registered.keys() | stored.keys()):
            known = self._registered.get(name)
            version, named = stored.get(name, (None, None))
            found.append(
                ProjectionState(
                    name,
                    None if known is None else known.version,
                    version,
                    None if named is None else named.cursor,
                    None if named is None else named.updated_at,
                    last - (0 if named is None else places.parsed(named.cursor).position),
                )
            )
        return tuple(found)

    def read(self, query: Callable[[Connection], T]) -> T:
        """What `query` returns, which is given a connection in a transaction that reads."""
        with self._reading() as tx:
            return query(prepared(tx))

    def rebuild(self, projection: Projection | str, *, stop: Stop | None = None, batch: int = DEFAULT_BATCH) -> int:
        """Empty a projection and fold the whole log again, up to what is there now; how many events that were.

        In place: who reads its tables meanwhile sees them grow.  A process that runs it, in this or in an older
        version, is fenced off by the first transaction, which empties it.

        Raises:
            ConfigurationInvalid: there is no projection of this name.
        """
        chosen = self._chosen(projection)
        self._begin(chosen)
        return self._fold(chosen, stop, None, batch)

    def _run(self, projection: Projection | str, stop: Stop | None, poll: float | None, batch: int) -> int:
        """See ``Runlane.project``."""
        chosen = self._chosen(projection)
        environment = self._runtime.environment
        with self._reading() as tx:
            version = {name: version for name, version, _ in _stored(tx, environment)}.get(chosen.name)
        if version is None:
            self._begin(chosen)
        elif version != chosen.version:
            raise ConfigurationInvalid(
                f"projection {chosen.name!r} is stored in version {version}, and this program has {chosen.version}: "
                f"`runlane projections rebuild {chosen.name}` makes it anew"
            )
        return self._fold(chosen, stop, poll, batch)

    def _reading(self) -> Any:
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "projections")
        return self._runtime.reading()

    def _chosen(self, projection: Projection | str) -> Projection:
        if not isinstance(projection, str):
            return checked(projection)
        if projection not in self._registered:
            known = ", ".join(sorted(self._registered)) or "none"
            raise ConfigurationInvalid(f"there is no projection {projection!r}; known are: {known}")
        return self._registered[projection]

    def _begin(self, projection: Projection) -> None:
        """Empty tables, and the cursor at the start; nobody else's cursor remains."""
        environment, me = self._runtime.environment, uuid4()
        self._runtime.start()
        self._runtime.database.open_epoch()

        def begin(tx: Transaction) -> None:
            known = epochs.history(tx)[-1]
            start = Place(known.number, known.token, 0).text
            stored = [named.name for name, _, named in _stored(tx, environment) if name == projection.name]
            cursors.remove(tx, environment, stored)
            cursors.move(tx, environment, Named(_name_of(projection), start, 0), start, me, tx.now())
            connection = prepared(tx)
            projection.clear(connection, environment)
            projection.setup(connection)

        self._runtime.transact(begin)

    def _fold(self, projection: Projection, stop: Stop | None, poll: float | None, batch: int) -> int:
        types: Any = getattr(projection, "types", None)
        folded = 0

        def opened() -> Follower:
            return Follower(self._runtime, None, batch, types, stop, poll, name=_name_of(projection))

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
