"""What the faces and the workers of one application share: database, definitions, the session, the doorbell."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from time import monotonic
from typing import Protocol, TypeVar
from uuid import UUID

from attrs import evolve, frozen

from runlane.capabilities import Capability
from runlane.clock import Clock
from runlane.decisions import MAX_EVENTS
from runlane.dispatch import Dispatcher
from runlane.engine.tick import Tick, TickReport
from runlane.errors import ConfigurationInvalid, InternalError, RunlaneError
from runlane.lanes import Lane
from runlane.payload_codec import PayloadCodec
from runlane.projections.runs import Run
from runlane.registry import Registry
from runlane.session import HEARTBEAT, LEASE_DURATION, LONGEST_LEASE, Session
from runlane.shown import shown
from runlane.storage import maintainers
from runlane.storage.database import Database
from runlane.storage.maintainers import Maintainer
from runlane.storage.transaction import Transaction
from runlane.transport import BoundToQueues, Publisher
from runlane.values import identifier
from runlane.vault import Vault

T = TypeVar("T")
log = logging.getLogger("runlane.worker")

#: The least time, in seconds, for which a process that keeps house is believed to go on.
_HOUSE = 5.0
#: Seconds between looks for queued runs that nobody has asked the delivery of.
_SWEEP = 600.0


@frozen
class Settings:
    """Options of a runtime that seldom need changing."""

    heartbeat: timedelta = HEARTBEAT
    lease_duration: timedelta = LEASE_DURATION
    max_events: int = MAX_EVENTS
    redact_failures: bool = False
    eager: bool = True

    def __attrs_post_init__(self) -> None:
        if self.lease_duration / 2 < self.heartbeat:
            raise ConfigurationInvalid(
                f"lease_duration ({self.lease_duration}) must be at least twice the heartbeat ({self.heartbeat})"
            )
        if self.lease_duration > LONGEST_LEASE:
            raise ConfigurationInvalid(f"lease_duration must be at most {LONGEST_LEASE.days} days")
        if type(self.max_events) is not int or not 10 <= self.max_events < 2**31:
            raise ConfigurationInvalid(f"max_events must be at least 10; got {shown(self.max_events)}")


class Holding(Protocol):
    """Something that executes runs leased to the session."""

    def held(self) -> dict[UUID, int]:
        """Its attempts under way, run id to attempt."""
        ...

    def lease_lost(self, session_id: UUID) -> None:
        """Tell the attempts of this session that their lease is gone."""
        ...

    def cancel(self, run_ids: Collection[UUID]) -> None:
        """Tell the attempts of these runs, if there are any here, that they are asked to stop."""
        ...


def default_worker_id() -> str:
    """Host, process and a random part: unique per process start, readable, without ``:``."""
    host = "".join(c if c.isalnum() or c in "-_." else "-" for c in socket.gethostname())[:200] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


class Runtime:
    """The shared part of an application; the faces are thin around it."""

    def __init__(
        self,
        lane: Lane,
        registry: Registry,
        environment: str,
        clock: Clock | None,
        worker_id: str | None,
        settings: Settings,
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        lane.require_for(registry)
        self.lane = lane
        self.registry = registry
        self.environment = identifier("environment", environment)
        self.clock = clock
        self.worker_id = default_worker_id() if worker_id is None else identifier("worker_id", worker_id)
        self.settings = settings
        #: Encodes payloads, or lets them pass.
        self.vault = Vault(lane.database, self.environment, payload_codec, clock)
        if isinstance(lane.transport, BoundToQueues):
            lane.transport.check(registry.queues.keys())
        self._dispatcher = (
            Dispatcher(lane.database, lane.transport, self.environment, registry.queues.keys(), clock)
            if isinstance(lane.transport, Publisher)
            else None
        )
        self._starting = threading.RLock()
        self._failed: tuple[RunlaneError | None, int] = (None, 0)  # the last error, and how many there were
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._lost: list[Session] = []  # whose last beat may not have ended
        self._holding: list[Holding] = []
        self._deployed = False
        self._next_sweep = 0.0
        #: Whether ``start`` has been here.
        self.started = False
        self._pid = os.getpid()

    @property
    def database(self) -> Database:
        """The lane's database."""
        self._in_this_process()
        return self.lane.database

    def _in_this_process(self) -> None:
        if os.getpid() != self._pid:
            raise InternalError("a Runlane must not be carried over a fork; create it in the child process")

    def start(self) -> None:
        """Make sure, once, that the tables are there; the memory and SQLite lanes create them.

        Whoever has waited for an attempt of another thread takes its error for an answer: to try again, one after the
        other, would take the last one as often as long as a database that is away takes to be given up.
        """
        self._in_this_process()
        if not self.started:
            _, failed_before = self._failed
            with self._starting:
                self._start_unless_failed(failed_before)

    def _start_unless_failed(self, failed_before: int) -> None:
        if self.started:  # by another thread meanwhile
            return
        error, failed = self._failed
        if error is not None and failed != failed_before:
            raise copy(error)
        try:
            self._start()
        except RunlaneError as refused:
            self._failed = copy(refused), failed + 1
            raise

    def _start(self) -> None:
        self.lane.start()
        try:
            self.vault.check()
        except BaseException:
            self.lane.close()
            raise
        self.started = True

    def start_to_work(self, looks: bool = True) -> None:
        """Start, and make sure that this process can write and read payloads.

        Args:
            looks: ask the database for that once in a while, with a connection of its own.

        Raises:
            ConfigurationInvalid: those of the environment are encrypted, and it has no codec for them.
        """
        self.start()
        if looks:
            self.require_codec()
        else:
            self.vault.require_codec()

    def require_codec(self, tx: Transaction | None = None) -> None:
        """Go on only if payloads may be written here; once in a while the database is asked for that."""
        self.vault.look_again(tx)
        self.vault.require_codec()

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction of its own."""
        self.start()
        return self.database.transact(work, self.clock)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction that only reads."""
        self.start()
        with self.database.read(self.clock) as tx:
            yield tx

    def close(self) -> None:
        """End the session and close the connections."""
        with self._lock:
            sessions, self._lost = self._lost, []
            if self._session is not None:
                sessions.append(self._session)
            self._session = None
            self.started = False
        for session in sessions:  # not under the lock, which a beat under way may need
            session.close()
        with self._lock:  # a session that is opened meanwhile would get a connection that is being closed
            self.lane.close()

    def session(self) -> Session:
        """The session of this process, opened at first need and again after one was lost."""
        with self._lock:
            if self._session is None or not self._session.trusted:
                if self._session is not None:
                    # Its last beat may be waiting for this very lock, or for a database that has been away for long.
                    self._session.stop()
                    self._lost = [one for one in self._lost if one.is_beating] + [self._session]
                session = Session(
                    self.database,
                    self.clock,
                    self.environment,
                    self.worker_id,
                    heartbeat=self.settings.heartbeat,
                    lease_duration=self.settings.lease_duration,
                    max_events=self.settings.max_events,
                    held=self.held,
                    lost=self._lease_lost,
                    cancelled=self.cancel,
                    wakes=self.registry.wakes,
                    tasks=list(self.registry.tasks),
                )
                session.open()
                self._session = session
            return self._session

    def is_trusted(self, session_id: UUID | None) -> bool:
        """Whether what is leased under this session is certainly this process's still; where not, it parts with it.

        A process that was stopped for a while, or a machine that slept, goes on before its next heartbeat is due.
        """
        session = self._session
        return session is not None and session.holder.session_id == session_id and session.trusted

    def join(self, holding: Holding) -> None:
        """Count the attempts of `holding` among those that this process knows."""
        with self._lock:
            self._holding.append(holding)

    def leave(self, holding: Holding) -> None:
        """The inverse of ``join``."""
        with self._lock:
            if holding in self._holding:
                self._holding.remove(holding)

    def held(self) -> dict[UUID, int]:
        """Every attempt that this process knows to be its own."""
        with self._lock:
            known: dict[UUID, int] = {}
            for holding in self._holding:
                for run_id, attempt in holding.held().items():
                    known[run_id] = max(attempt, known.get(run_id, 0))
            return known

    def cancel(self, run_ids: Collection[UUID]) -> None:
        """Tell what this process executes of these runs that a cancellation is requested."""
        for holding in tuple(self._holding):
            holding.cancel(run_ids)

    def ring(self, queues: Collection[str] | None = None) -> None:
        """Tell workers, here and in other processes, that there may be work on `queues`, or on any."""
        if queues is None or queues:
            self.lane.transport.ring(self.environment, queues)

    def announce(self, runs: Sequence[Run]) -> None:
        """Wake workers and consumers for runs just made, unless that is left to maintenance (``deferred``)."""
        if not runs or not self.settings.eager:
            return
        try:
            self.ring({run.queue for run in runs})
        except Exception:  # the runs are there: a doorbell must not make a failure of it
            log.warning(
                "transport %s could not ring; polling workers find the runs", self.lane.transport.name, exc_info=True
            )
        if self._dispatcher is not None:
            self._dispatcher.publish([run.id for run in runs])

    def tick(self) -> TickReport:
        """One maintenance pass; the first of a process records its schedules."""
        self.lane.require(Capability.LEASES_RUNS, "maintenance")
        self.require_codec()
        deploy = not self._deployed and Capability.CLAIMS_SCHEDULE_OCCURRENCES in self.lane.capabilities
        pass_ = Tick(self.database, self.clock, self.environment, self.registry, self.settings.max_events, self.vault)
        now = monotonic()
        sweep = now >= self._next_sweep
        report = pass_.run(deploy=deploy, sweep=sweep)
        self._deployed = self._deployed or pass_.deployed
        if sweep:
            self._next_sweep = now + _SWEEP
        if report.runs_recovered or report.schedules_fired:
            self.ring()
        if self._dispatcher is None:
            return report
        flushed = self._dispatcher.flush()
        return evolve(
            report,
            wakeups_published=flushed.published,
            wakeups_failed=flushed.failed,
            wakeups_dead_lettered=flushed.dead_lettered,
            more=report.more or flushed.more,
        )

    def keep_house(self, interval: float) -> TickReport | None:
        """A maintenance pass, unless another process with the same definitions makes them at present.

        Whoever does is believed for some passes; if it vanishes, somebody else takes over by then.

        Args:
            interval: seconds between the passes of this process.
        """
        me, of = self.session().holder.session_id, self.house(interval)
        lease = timedelta(seconds=max(_HOUSE, 2.5 * interval))
        with self.reading() as tx:
            now, seen = tx.now(), maintainers.find(tx, self.environment, of)
        # One that expires later than it could have been taken for was taken under a clock that has been set back since.
        if seen is not None and seen.session_id != me and now < seen.expires_at <= now + lease:
            return None
        if seen is None or seen.session_id != me or seen.expires_at < now + lease / 2:
            wanted = Maintainer(me, now + lease)
            if not self.transact(lambda tx: maintainers.take(tx, self.environment, of, seen, wanted)):
                return None
        return self.tick()

    def house(self, interval: float) -> str:
        """What is kept by one process at a time: the same for those that would do the same as often."""
        return f"{self.registry.fingerprint}-{interval:g}"

    def leave_house(self, interval: float) -> None:
        """Let another process keep house at once, if this one does."""
        session = self._session
        if session is not None:
            me, of = session.holder.session_id, self.house(interval)
            self.transact(lambda tx: maintainers.retire(tx, self.environment, of, me))

    def _lease_lost(self, session_id: UUID) -> None:
        for holding in tuple(self._holding):
            holding.lease_lost(session_id)
