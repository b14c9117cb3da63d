"""The database, which is real and fails where it is told to; and bells and a post office that are no better."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import PoolProxiedConnection

from runlane import PublishOutcome, PublishStatus, Wakeup
from runlane.clock import Clock
from runlane.errors import StorageUnavailable, TransportUnavailable
from runlane.lanes import Lane
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction
from runlane.transport import Bell
from tests.faults.driver import sqlite_error
from tests.simulation.kernel import Crash, Kernel, Process
from tests.simulation.plans import OF_EVENTS

#: Seconds for which a thread asks whether its commit has happened; the default is 10.
PATIENCE = 3.0


class Director(Protocol):
    """Who decides what goes wrong."""

    kernel: Kernel

    def strike(self, process: Process, writes: bool) -> str | None:
        """What goes wrong with the transaction that this process begins now."""
        ...

    def spare(self) -> None:
        """It has not, and strikes another one."""
        ...

    def has_struck(self, process: Process, strike: str, runs: Collection[UUID]) -> None:
        """It has gone wrong, with a transaction that wrote events of these streams."""
        ...

    def look(self, wrote: bool = True) -> None:
        """Something was committed, events of the log if it `wrote`; or may have been."""
        ...


class Kept:
    """The one connection: taking it from SQLAlchemy's pool and giving it back is a tenth of all that a step costs.

    It goes back to the pool, as the product's do, whenever something went wrong, or it is not as it was taken.
    """

    def __init__(self, engine: Engine) -> None:
        self._connect = engine.connect
        self._connection: Connection | None = None
        self._options: Any = None
        self._is_lent = False

    def connect(self) -> Kept:
        """For a ``with``, in which it is nobody else's."""
        return self

    def __enter__(self) -> Connection:
        if self._is_lent:
            raise RuntimeError("a transaction is begun within another one, which has the only connection")
        if self._connection is None:
            self._connection = self._connect()
            self._options = self._connection._execution_options
        self._is_lent = True
        self._connection._execution_options = self._options
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        self._is_lent = False
        connection = self._connection
        if connection is not None and (kind is not None or connection.in_transaction() or connection.invalidated):
            self.close()

    def close(self) -> None:
        """Give it back to the pool."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class StagedDatabase(Database):
    """SQLite in memory: before and after each of its transactions others may go on, and faults strike.

    A file's or server's commit may be refused, or its answer lost; that is played between SQLAlchemy and the driver, so
    that Runlane's own roads are gone from there on.
    """

    def __init__(self) -> None:
        super().__init__("memory:", patience=PATIENCE)
        self.director: Director | None = None
        self._struck: str | None = None
        self._kept = Kept(self.engine)
        self.engine.connect = self._kept.connect  # type: ignore[method-assign]
        self._real = self.engine.dialect.do_commit
        self.engine.dialect.do_commit = self._commit  # type: ignore[method-assign]

    def put_back(self) -> None:
        """The only connection is in its pool, where others may take it from."""
        self._kept.close()

    def dispose(self) -> None:
        """As it is."""
        self.put_back()
        super().dispose()

    def _commit(self, connection: PoolProxiedConnection) -> None:
        strike, self._struck = self._struck, None
        if strike is None or strike == "crash_after_commit":
            self._real(connection)
            return
        if strike == "lost_after_commit" or strike in OF_EVENTS:
            self._real(connection)
        elif strike != "refused":
            connection.rollback()
        raise sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR)

    def _begins(self, writes: bool) -> Process | None:
        """The process that begins a transaction; None outside of the play."""
        director = self.director
        if director is None or director.kernel.current is None:
            return None
        fiber, process = director.kernel.current, director.kernel.current.process
        director.kernel.boundary()
        self._struck = director.strike(process, writes)
        if max(process.away_until, fiber.away_until) > director.kernel.now:
            self._struck = None
            raise StorageUnavailable(f"{self.where} cannot be reached: so it was planned")
        return process

    @contextmanager
    def write(self, clock: Clock | None = None, *, beat: bool = False) -> Iterator[Transaction]:
        """As it is, but for what goes wrong."""
        process, director = self._begins(True), self.director
        strike, written = self._struck, set[UUID]()
        try:
            with super().write(clock, beat=beat) as tx:
                yield tx
                written = {event[0] for event in tx.written}
                if strike in OF_EVENTS and director is not None and not _suits(strike, director.kernel, tx):
                    director.spare()
                    strike = self._struck = None
        except StorageUnavailable:
            if process is not None and director is not None and strike is not None and self._struck is None:
                director.look()
                director.has_struck(process, strike, written)
                if not process.alive:
                    raise Crash from None
            raise
        finally:
            self._struck = None
        if process is not None and director is not None:
            director.look(bool(written))
            if strike == "crash_after_commit":
                director.has_struck(process, strike, written)
                raise Crash
            director.kernel.boundary()

    @contextmanager
    def read(self, clock: Clock | None = None) -> Iterator[Transaction]:
        """As it is, but the database may be out of reach."""
        self._begins(False)
        with super().read(clock) as tx:
            yield tx


def _suits(strike: str, kernel: Kernel, tx: Transaction) -> bool:
    """Whether a transaction has written what a strike is aimed at."""
    types = OF_EVENTS[strike]
    if types is None:
        return bool(tx.written)
    # Whoever executes in the caller's thread does not store an outcome a second time.
    is_worker = kernel.current is not None and kernel.current.name.startswith("runlane-exchange")
    return is_worker and any(event[2] in types for event in tx.written)


@frozen(eq=False)
class StagedLane(Lane):
    """A lane of one process; the database is everybody's, and is there already."""

    def start(self) -> None:
        """Nothing is needed."""

    def close(self) -> None:
        """Nothing is held."""


class Bells:
    """Everybody's bells: they ring later, or twice, or not at all."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.deaf_until = self.echo_until = 0.0
        self.are_kind = False
        self.lost = self.doubled = 0
        self.listeners: dict[tuple[int, Bell], tuple[Process, frozenset[str]]] = {}

    def ring(self, queues: Collection[str] | None) -> None:
        kernel, rng = self.kernel, self.kernel.rng
        for (_, bell), (process, wanted) in list(self.listeners.items()):
            if not process.alive or (queues is not None and wanted.isdisjoint(queues)):
                continue
            draw = 1.0 if self.are_kind else rng.random()
            times = 0 if draw < 0.1 or kernel.now < self.deaf_until else 1
            times *= 2 if 0.1 < draw < 0.2 or kernel.now < self.echo_until else 1
            self.lost += times == 0
            self.doubled += times == 2
            for _ in range(times):
                kernel.later(rng.random() * 0.05, lambda p=process, b=bell: b() if p.alive else None)  # type: ignore[misc]


class Doorbell:
    """The transport of one process: rings with everybody who listens."""

    name = "bells"

    def __init__(self, bells: Bells, process: Process) -> None:
        self._bells, self._process = bells, process

    def start(self) -> None:
        """Nothing is needed."""

    def close(self) -> None:
        """Nothing is held."""

    def ring(self, environment: str, queues: Collection[str] | None) -> None:
        """There may be work."""
        self._bells.ring(queues)

    def listen(self, environment: str, queues: Collection[str], bell: Bell) -> None:
        """Ring `bell` for these queues."""
        self._bells.listeners[id(self), bell] = (self._process, frozenset(queues))

    def unlisten(self, bell: Bell) -> None:
        """The inverse of ``listen``."""
        self._bells.listeners.pop((id(self), bell), None)


class Office:
    """What is under way to consumers: it may fail, keep, drop, double and reorder."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.is_kind = False
        self.lost = self.doubled = self.failed = 0
        self.box: list[Wakeup] = []

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        """Take them, or not."""
        rng = self.kernel.rng
        mood = 1.0 if self.is_kind else rng.random()
        if mood < 0.1:
            self.failed += len(wakeups)
            if mood < 0.03:
                return []  # not one answer to each: as good as none
            raise TransportUnavailable("the provider is away")
        outcomes = []
        for wakeup in wakeups:
            if mood < 0.4 and rng.random() < 0.3:
                rejected = rng.random() < 0.2
                self.failed += 1
                outcomes.append(PublishOutcome(PublishStatus.REJECTED if rejected else PublishStatus.FAILED, "no"))
                continue
            outcomes.append(PublishOutcome(PublishStatus.PUBLISHED))
            copies = 1 if self.is_kind else rng.choice((0, 1, 1, 1, 2))
            self.lost += copies == 0
            self.doubled += copies == 2
            for _ in range(copies):
                self.box.insert(rng.randint(0, len(self.box)), Wakeup.from_json(wakeup.to_json()))
        return outcomes


class Mailing(Doorbell):
    """A transport that carries one wakeup per run."""

    name = "office"

    def __init__(self, bells: Bells, process: Process, office: Office) -> None:
        super().__init__(bells, process)
        self._office = office

    def publish(self, wakeups: Sequence[Wakeup]) -> Sequence[PublishOutcome]:
        """Hand them over, outside of any transaction."""
        self._office.kernel.boundary()
        return self._office.publish(wakeups)


def transport(bells: Bells, process: Process, office: Office | None) -> Any:
    """The transport of a process."""
    return Doorbell(bells, process) if office is None else Mailing(bells, process, office)
