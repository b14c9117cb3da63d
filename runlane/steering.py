"""What operators do to schedules and queues: ``app.schedules`` and ``app.queues``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import islice

from runlane import reading, requests, schedule_decisions
from runlane.capabilities import Capability
from runlane.context import current
from runlane.engine import schedule
from runlane.engine.queues import set_paused
from runlane.engine.trigger import Triggered
from runlane.projections.occurrences import TELLING, Occurrence, occurrences
from runlane.projections.queues import QueueControl
from runlane.projections.schedules import ScheduleState
from runlane.reading import DEFAULT_LIMIT, QueueState
from runlane.requests import actor_of
from runlane.runtime import Runtime
from runlane.storage import outbox, queries, queues, schedules, streams
from runlane.storage.transaction import Transaction
from runlane.tasks import Queue
from runlane.values import Actor, free_text, identifier, new_run_id


class Schedules:
    """Reading and steering schedules: ``app.schedules``.

    A schedule is known from the first ``tick()`` (or worker) of a runtime that has its task.  Actors default to the
    application.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[ScheduleState, ...]:
        """Every schedule ever registered in this environment, by id."""
        self._runtime.lane.require(Capability.CLAIMS_SCHEDULE_OCCURRENCES, "schedules.list")
        with self._runtime.reading() as tx:
            found = schedules.schedules_of(tx, self._runtime.environment)
        return tuple(self._runtime.vault.reveal_schedules(found))

    def get(self, id: str) -> ScheduleState:
        """The schedule with this id, deployed or removed.

        Raises:
            ScheduleNotFound: none was ever registered in this environment.
        """
        self._runtime.lane.require(Capability.CLAIMS_SCHEDULE_OCCURRENCES, "schedules.get")
        wanted = identifier("schedule id", id)
        with self._runtime.reading() as tx:
            found = schedule.find(tx, self._runtime.environment, wanted)
        return self._runtime.vault.reveal_schedules([found])[0]

    def pause(self, id: str, *, actor: Actor | None = None, reason: str | None = None) -> ScheduleState:
        """Stop a schedule from firing until it is resumed; nothing happens if it is paused already.

        Deployments leave it paused; runs already made go on.

        Raises:
            ScheduleNotFound: there is no such schedule.
            RunStateInvalid: it is removed.
        """
        return self._steer(schedule.pause, id, actor, reason)

    def resume(self, id: str, *, actor: Actor | None = None, reason: str | None = None) -> ScheduleState:
        """Let a paused schedule go on with the next occurrence after now; nothing happens if it is not paused.

        Occurrences that fell due while it was paused, a single one (`run_at`) too, are skipped; its history says how
        many.  A schedule that its definition disables still does not fire.

        Raises:
            ScheduleNotFound: there is no such schedule.
            RunStateInvalid: it is removed.
        """
        return self._steer(schedule.resume, id, actor, reason)

    def trigger(self, id: str, *, actor: Actor | None = None) -> Triggered:
        """Make a run of a schedule now, out of turn: no occurrence is used up, and it may be paused.

        The task's idempotency key holds, so that the outcome may be a run that is there already.

        Raises:
            ScheduleNotFound: there is no such schedule.
            RunStateInvalid: it is removed, or disabled by its definition.
            TaskNotFound: its task is not registered here.
            PayloadInvalid: its payload does not fit today's task.
        """
        self._runtime.lane.require(Capability.CLAIMS_SCHEDULE_OCCURRENCES, "schedules.trigger")
        wanted, who, handler = identifier("schedule id", id), actor_of(actor), current.get()
        parent = None if handler is None else handler.run
        runtime = self._runtime
        runtime.start_to_work()

        def work(tx: Transaction) -> Triggered:
            new_id = new_run_id()
            of = runtime.environment, wanted, runtime.registry
            return schedule.trigger_now(tx, *of, new_id, who, parent, runtime.vault)

        done = runtime.database.transact(work, runtime.clock)
        runtime.announce([done.run])
        return Triggered(runtime.vault.reveal(done.run, committed=True), done.outcome)

    def preview(self, id: str, count: int = 5) -> tuple[datetime, ...]:
        """The next nominal times of a schedule as of now, as if it were not paused; nothing is written.

        Args:
            count: 1 to 1000; a single occurrence (`run_at`) gives one time until it has fired, however late it is, or
                was skipped.

        Raises:
            ScheduleNotFound: there is no such schedule.
            RunStateInvalid: it is removed, or disabled by its definition, and so has no next time.
        """
        self._runtime.lane.require(Capability.CLAIMS_SCHEDULE_OCCURRENCES, "schedules.preview")
        wanted, most = identifier("schedule id", id), reading.whole_number("count", count, 1000)
        with self._runtime.reading() as tx:
            state = schedule.find(tx, self._runtime.environment, wanted)
            return schedule_decisions.preview(state, most, tx.now())

    def occurrences(self, id: str, *, limit: int = DEFAULT_LIMIT) -> tuple[Occurrence, ...]:
        """What became of a schedule's occurrences, the newest first: fired with their run, or skipped while paused.

        Args:
            limit: 1 to 500.

        Raises:
            ScheduleNotFound: there is no such schedule.
        """
        self._runtime.lane.require(Capability.CLAIMS_SCHEDULE_OCCURRENCES, "schedules.occurrences")
        wanted, most = identifier("schedule id", id), reading.whole_number("limit", limit, 500)
        with self._runtime.reading() as tx:
            stream = schedule.find(tx, self._runtime.environment, wanted).stream_id
            with closing(streams.read_newest(tx, stream, TELLING)) as records:
                return tuple(islice(occurrences(records), most))

    def _steer(
        self,
        move: Callable[[Transaction, str, str, Actor, str | None], ScheduleState],
        id: str,
        actor: Actor | None,
        reason: str | None,
    ) -> ScheduleState:
        self._runtime.lane.require(Capability.CLAIMS_SCHEDULE_OCCURRENCES, "steering schedules")
        wanted, who, runtime = identifier("schedule id", id), actor_of(actor), self._runtime
        why = None if reason is None else free_text("reason", reason)
        runtime.start()
        moved = runtime.database.transact(lambda tx: move(tx, runtime.environment, wanted, who, why), runtime.clock)
        return runtime.vault.reveal_schedules([moved])[0]


class Queues:
    """Reading queues, pausing them and letting them go on: ``app.queues``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[QueueState, ...]:
        """Every queue that is registered here, has runs or was ever paused, by name; reads all runs' statuses."""
        self._runtime.lane.require(Capability.OPERATOR_READS, "queues.list")
        with self._runtime.reading() as tx:
            counts = queries.count_by_queue(tx, self._runtime.environment)
            reserved = queries.count_reserved(tx, self._runtime.environment)
            controls = {control.name: control for control in queues.queues_of(tx, self._runtime.environment)}
        limits = self._runtime.registry.limits()
        names = sorted({*counts, *controls, *self._runtime.registry.queues})
        return tuple(
            QueueState(name, counts.get(name, {}), controls.get(name), limits.get(name), reserved.get(name, 0))
            for name in names
        )

    def pause(
        self, queue: Queue | str, *, reason: str | None = None, actor: Actor | None = None
    ) -> QueueControl | None:
        """Let no worker claim from a queue, from its next poll on; attempts under way go on, runs can be triggered.

        ``run_now`` is not held back: it claims nothing that waits.  Pausing twice changes nothing.

        Args:
            queue: a definition or a name; it need not be registered here.
            actor: who asks, such as ``Actor.operator("ann")``; else the application.

        Returns:
            The queue as it is then.

        Raises:
            ConfigurationInvalid: an argument is not valid.
            StorageUnavailable: the database cannot be reached.
        """
        return self._set(queue, True, reason, actor)

    def resume(
        self, queue: Queue | str, *, reason: str | None = None, actor: Actor | None = None
    ) -> QueueControl | None:
        """Let workers claim from a queue again; nothing changes if it is not paused.

        Returns the queue as it is then, None if it was never paused; arguments and errors are those of ``pause``.
        """
        control = self._set(queue, False, reason, actor)
        self._runtime.ring()
        if self._runtime.lane.delivers and control is not None:
            while self._runtime.transact(partial(self._publish_again, name=control.name)):
                pass
        return control

    def _publish_again(self, tx: Transaction, name: str) -> bool:
        return outbox.publish_again(tx, self._runtime.environment, name, tx.now(), 1000)

    def _set(self, queue: Queue | str, paused: bool, reason: str | None, actor: Actor | None) -> QueueControl | None:
        name = reading.queue_name(queue)
        why = None if reason is None else free_text("reason", reason)
        who = requests.actor_of(actor)
        self._runtime.start()
        environment = self._runtime.environment
        return self._runtime.database.transact(
            lambda tx: set_paused(tx, environment, name, paused, why, who), self._runtime.clock
        )
