"""``Runlane``: the sync face.  Each method opens one transaction, or joins the caller's, and calls the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from runlane.auditing import Audit
from runlane.capabilities import Capability
from runlane.clock import Clock
from runlane.decisions import MAX_EVENTS
from runlane.doctor import Examined
from runlane.engine.deliver import Delivery
from runlane.engine.tick import TickReport
from runlane.engine.trigger import Triggered
from runlane.errors import ConfigurationInvalid, InternalError
from runlane.inline import Executed, Inline
from runlane.intake import Intake
from runlane.lanes import Lane, lane_of
from runlane.logface import ReadsLog
from runlane.operators import IdempotencyKeys, Runs
from runlane.payload_codec import KeyedCodec, PayloadCodec, checked
from runlane.projecting import Projection, Projections
from runlane.projections.runs import Run
from runlane.registry import Registry
from runlane.requests import Trigger, build
from runlane.runtime import Runtime, Settings
from runlane.session import HEARTBEAT, LEASE_DURATION
from runlane.shown import shown
from runlane.steering import Queues, Schedules
from runlane.tasks import Queue, Task
from runlane.values import Actor, SourceType, duration
from runlane.wakeup import Wakeup, checked_wakeup
from runlane.worker import Worker


class Runlane(ReadsLog, Examined):
    """A durable run engine on one database.

    Args:
        lane: a ``Lane``, or a URL: ``memory:``, ``sqlite:///file.db``, ``postgresql://…``.
        queues: the queues that tasks may use; without any there is one, ``default``.
        tasks: the tasks that this process triggers and executes.
        environment: separates runs that share a database.
        dispatch: ``eager`` wakes workers, or publishes wakeups, as soon as a run is committed; ``deferred`` leaves that
            to polling workers and to maintenance.
        clock: replaces the database's clock everywhere; for tests.
        worker_id: names this process in histories; else host, process and a random part.
        heartbeat: how often a worker process says that it lives (default 10 s).
        lease_duration: for how long it is believed (default 30 s).
        max_events: the greatest length of a run's history.
        redact_failures: store "Task failed." instead of the messages of unknown exceptions.
        projections, inline_projections: tables folded from the log, by a follower or by what appends to it.
        payload_codec: encodes payloads, results and the meta of releases before they are stored, such as ``AesGcm``.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid.
        CapabilityUnsupported: a definition needs what the lane does not promise; calls may raise it too.
    """

    def __init__(
        self,
        lane: Lane | str,
        *,
        queues: Iterable[Queue] = (),
        tasks: Iterable[Task[..., Any]] = (),
        environment: str = "default",
        dispatch: str = "eager",
        clock: Clock | None = None,
        worker_id: str | None = None,
        heartbeat: timedelta | str = HEARTBEAT,
        lease_duration: timedelta | str = LEASE_DURATION,
        max_events: int = MAX_EVENTS,
        redact_failures: bool = False,
        projections: Iterable[Projection] = (),
        inline_projections: Iterable[Projection] = (),
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        if not isinstance(dispatch, str) or dispatch not in ("eager", "deferred"):
            raise ConfigurationInvalid(f"dispatch must be 'eager' or 'deferred'; got {shown(dispatch)}")
        where = lane_of(lane)
        codec = checked(payload_codec)
        registry = Registry.of(queues, tasks, where.delivers, isinstance(codec, KeyedCodec))
        settings = Settings(
            duration("heartbeat", heartbeat),
            duration("lease_duration", lease_duration),
            max_events,
            redact_failures,
            eager=dispatch == "eager",
        )
        self._runtime = Runtime(where, registry, environment, clock, worker_id, settings, codec)
        self._inline = Inline(self._runtime)
        self._intake = Intake(self._runtime)
        self._workers: list[Worker] = []
        self._making = threading.Lock()
        self.runs = Runs(self._runtime)
        self.idempotency_keys = IdempotencyKeys(self._runtime)
        self.schedules = Schedules(self._runtime)
        self.queues = Queues(self._runtime)
        self.audit = Audit(self._runtime)
        self.projections = Projections(self._runtime, projections, inline_projections)

    @property
    def lane(self) -> Lane:
        """The lane it works on."""
        return self._runtime.lane

    @property
    def environment(self) -> str:
        """The environment it works in."""
        return self._runtime.environment

    @property
    def registry(self) -> Registry:
        """The queues and tasks it knows."""
        return self._runtime.registry

    def start(self) -> Self:
        """Make sure that the database is there and migrated; the memory and SQLite lanes migrate themselves.

        Raises:
            StorageUnavailable: the database cannot be reached.
            ConfigurationInvalid: it is not migrated.
        """
        self._runtime.start()
        return self

    def close(self) -> None:
        """Stop workers that still run, end the session, close the connections.

        In a forked child it does nothing: all that is its parent's.

        Raises:
            RunlaneError: a worker could not go on.
        """
        if not self._runtime_is_ours():
            return
        for worker in self._workers:
            if not worker.closed:
                worker.stop()
        self._inline.close()
        self._runtime.close()

    def _runtime_is_ours(self) -> bool:
        try:
            self._runtime._in_this_process()
        except InternalError:
            return False
        return True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def migrate(self, *, roles: bool | str = False) -> int:
        """Create or upgrade the tables; returns the schema version.

        Args:
            roles: make the six roles of least privilege as well, and grant each what it needs (PostgreSQL only): True
                for names that begin with the schema's, as ``runlane_worker``, or another prefix.  Do it again after an
                upgrade of the tables.

        Raises:
            ConfigurationInvalid: the tables are newer than this Runlane; there are no roles on this lane, this user may
                not create them, or one belongs to another installation of the same server.  Nothing is changed.
        """
        return self._runtime.database.migrate(roles)

    def trigger(
        self,
        task: Task[..., Any] | str,
        payload: Any = None,
        *,
        queue: Queue | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: str | timedelta | None = None,
        singleton_key: str | None = None,
        concurrency_key: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: str | timedelta | None = None,
        run_id: UUID | str | None = None,
        correlation_id: str | None = None,
        actor: Actor | None = None,
        trace_carrier: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        subject: str | None = None,
        connection: Any = None,
    ) -> Triggered:
        """Create a run of `task`, or find the owner of its idempotency key.

        Args:
            payload: an instance of the task's payload type, or its JSON form.
            concurrency_key: what it counts under on a queue with a limit, instead of the task's key.
            run_at: the aware instant, or `delay` (``"10m"``) from now, before which it does not start.
            run_id: a UUID of your own; it must be new.
            subject: whom the payload is about, instead of the task's subject; see ``audit.erase``.
            connection: your SQLAlchemy connection or session, or psycopg connection; the run exists only if that
                transaction commits.  The commit is yours: where it breaks, look for the run's id.

        Raises:
            PayloadInvalid: the payload does not fit, naming the field; nothing is written.
            ConfigurationInvalid, TaskNotFound: an argument is not valid; nothing is written.
            StorageConflict: `run_id` exists already (kind ``run_exists``).
            StorageUnavailable: the database cannot be reached; nothing is written, unless ``meta["outcome"]`` is
                ``unknown``: then it was lost during the commit, and ``meta["ids"]`` says which run to look for.
        """
        asked = Trigger(
            task,
            payload,
            queue,
            idempotency_key,
            idempotency_ttl,
            singleton_key,
            concurrency_key,
            priority,
            run_at,
            delay,
            run_id,
            correlation_id,
            actor,
            trace_carrier,
            meta,
            subject,
        )
        return self._intake.ask(asked, connection)

    def trigger_many(
        self,
        task: Task[..., Any] | str | Iterable[Trigger],
        payloads: Iterable[Any] | None = None,
        *,
        connection: Any = None,
    ) -> list[Triggered]:
        """Create many runs in one transaction, all or none: ``(task, payloads)`` or ``([Trigger(…), …])``.

        Returns the outcomes in order; raises as ``trigger`` does, naming the entry.
        """
        return self._intake.ask_many(task, payloads, connection)

    def run_now(
        self,
        task: Task[..., Any] | str,
        payload: Any = None,
        *,
        idempotency_key: str | None = None,
        idempotency_ttl: str | timedelta | None = None,
        singleton_key: str | None = None,
        concurrency_key: str | None = None,
        correlation_id: str | None = None,
        actor: Actor | None = None,
        trace_carrier: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        subject: str | None = None,
    ) -> Executed:
        """Create a run and execute its first attempt here and now; never executes any other run.

        A handler's failure is in the run, not raised.  A later attempt is the workers' business.  A queue that is
        paused is no hindrance: that only holds back what waits.

        Raises:
            QueueCapacityExceeded: its queue is bounded and has no free slot for it; nothing is written.
            PayloadInvalid, ConfigurationInvalid, TaskNotFound: as by ``trigger``.
            LeaseLost: the attempt outlived its lease; its outcome was dropped.
            StorageUnavailable: as by ``trigger``; or the database is away when the outcome is to be stored: then the
                run is there, and its attempt was executed, and it is queued again when its lease ends.
        """
        asked = Trigger(
            task,
            payload,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            singleton_key=singleton_key,
            concurrency_key=concurrency_key,
            correlation_id=correlation_id,
            actor=actor,
            trace_carrier=trace_carrier,
            meta=meta,
            subject=subject,
        )
        self.lane.require(Capability.LEASES_RUNS, "run_now")
        new = build(self.registry, asked, SourceType.RUN_NOW)
        self.lane.require_keys(new.created)
        return self._inline.run_now(new)

    def execute_next(self, queues: Sequence[Queue] | None = None) -> Run | None:
        """Claim one due run, execute one attempt in this thread, and return the run; None if nothing is due.

        Raises:
            LeaseLost: the attempt outlived its lease; its outcome was dropped.
            StorageUnavailable: the database cannot be reached; where the attempt was executed and its outcome is not
                stored, the run is queued again when its lease ends.
        """
        self.lane.require(Capability.LEASES_RUNS, "execute_next")
        return self._inline.execute_next(self._queue_names(queues))

    def execute_delivery(self, wakeup: Wakeup, queues: Sequence[Queue] | None = None) -> Delivery:
        """Execute the run that a wakeup is about, one attempt in this thread, or ignore it and say why.

        For consumers of a transport that carries wakeups.  Whatever is returned, the wakeup is done with: early,
        doubled or stale ones are harmless, as the run is read from storage first.

        Args:
            wakeup: as it came.
            queues: those whose runs this consumer executes; else all registered ones.

        Raises:
            ConfigurationInvalid: it is no wakeup.
            StorageUnavailable: the database cannot be reached; let the provider deliver the wakeup again.
        """
        self.lane.require(Capability.LEASES_RUNS, "execute_delivery")
        return self._inline.execute_delivery(checked_wakeup(wakeup), self._queue_names(queues))

    def worker(
        self,
        mode: str = "poll",
        *,
        queues: Sequence[Queue] | None = None,
        concurrency: int = 10,
        maintenance: bool = True,
        poll_interval: float = 1.0,
        maintenance_interval: float = 1.0,
    ) -> Worker:
        """A worker of this process; call ``run()`` or ``start()`` on it.

        Args:
            mode: ``poll`` goes on until stopped, ``drain`` ends when nothing is due.
            queues: those to claim from; else all registered ones.
            concurrency: the greatest number of attempts at once.
            maintenance: run ``tick()`` in the background, every `maintenance_interval` seconds.
            poll_interval: seconds between looks into the database while nothing is due.
        """
        self.lane.require(Capability.LEASES_RUNS, "a worker")
        self._runtime.start_to_work()
        worker = Worker(
            self._runtime,
            mode=mode,
            queues=self._queue_names(queues),
            concurrency=concurrency,
            maintenance=maintenance,
            poll_interval=poll_interval,
            maintenance_interval=maintenance_interval,
        )
        with self._making:
            self._workers = [known for known in self._workers if not known.closed] + [worker]
        return worker

    def tick(self) -> TickReport:
        """One maintenance pass: recover lost runs, make the runs of due schedules, publish what is to be published.

        Safe at any time, anywhere, in any number of processes at once.
        """
        self._runtime.start_to_work()
        return self._runtime.tick()

    def _queue_names(self, queues: Sequence[Queue] | None) -> list[str]:
        if queues is None:
            return list(self.registry.queues)
        if isinstance(queues, Queue | str) or not isinstance(queues, Iterable):
            raise ConfigurationInvalid(f"queues must be a list of Queue definitions; got {shown(queues)}")
        return [self.registry.registered(queue) for queue in queues]
