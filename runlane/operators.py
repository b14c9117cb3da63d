"""What operators ask: ``app.runs``, ``app.schedules``, ``app.queues`` and ``app.audit``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from runlane import decisions, reading
from runlane.context import current
from runlane.engine import schedule
from runlane.engine.trigger import Triggered
from runlane.errors import RunNotFound
from runlane.events import Recorded
from runlane.projections.attempts import Attempt, attempts
from runlane.projections.occurrences import TELLING, Occurrence, occurrences
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.reading import DEFAULT_LIMIT, Order, Page, QueueState
from runlane.requests import actor_of
from runlane.runtime import Runtime
from runlane.storage import log, queries, replay, schedules
from runlane.storage.replay import Verification
from runlane.storage.transaction import Transaction
from runlane.tasks import Queue, Task
from runlane.values import Actor, RunStatus, free_text, identifier, new_run_id, run_id


class Runs:
    """Reading runs: ``app.runs``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get(self, id: UUID | str) -> Run:
        """The run with this id.

        Raises:
            RunNotFound: there is none in this environment.
        """
        wanted = run_id(id)
        with self._runtime.reading() as tx:
            run = queries.get_run(tx, self._runtime.environment, wanted)
        if run is None:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return run

    def list(
        self,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        tasks: Sequence[Task[..., Any] | str] | None = None,
        queues: Sequence[Queue | str] | None = None,
        correlation_id: str | None = None,
        idempotency_key: str | None = None,
        source_run_id: UUID | str | None = None,
        parent_run_id: UUID | str | None = None,
        schedule_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """A page of runs that match every given condition, by id; ids that Runlane makes grow with time.

        Args:
            limit: 1 to 500.
            cursor: ``next_cursor`` of the page before, with the same conditions.
            order: ``newest`` or ``oldest`` first.
        """
        wanted = reading.run_filter(
            statuses=statuses,
            tasks=tasks,
            queues=queues,
            correlation_id=correlation_id,
            idempotency_key=idempotency_key,
            source_run_id=source_run_id,
            parent_run_id=parent_run_id,
            schedule_id=schedule_id,
            created_after=created_after,
            created_before=created_before,
        )
        with self._runtime.reading() as tx:
            return reading.list_runs(tx, self._runtime.environment, wanted, limit, cursor, order)

    def count(self, *, tasks: Sequence[Task[..., Any] | str] | None = None) -> dict[RunStatus, int]:
        """How many runs (of `tasks`) are in each status; reads every run of the environment."""
        ids = reading.task_ids(tasks)
        with self._runtime.reading() as tx:
            return queries.count_by_status(tx, self._runtime.environment, ids)

    def events(self, id: UUID | str) -> tuple[Recorded, ...]:
        """The history of a run, by sequence.

        Raises:
            RunNotFound: there is no such run.
        """
        wanted = run_id(id)
        with self._runtime.reading() as tx:
            events = log.read_stream(tx, wanted)
        if not events or events[0].environment != self._runtime.environment:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return events

    def attempts(self, id: UUID | str) -> tuple[Attempt, ...]:
        """The attempts of a run, as its events tell them.

        Raises:
            RunNotFound: there is no such run.
        """
        return attempts(self.events(id))

    def wait(self, id: UUID | str, *, timeout: float | None = None) -> Run:
        """Wait until a run has ended, and return it.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: it has not ended in time.
            RunNotFound: there is no such run.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.005
        while not (run := self.get(id)).is_terminal:
            if deadline is not None and time.monotonic() + pause > deadline:
                raise TimeoutError(f"run {run.id} is still {run.status} after {timeout} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        return run


class Schedules:
    """Reading and steering schedules: ``app.schedules``.

    A schedule is known from the first ``tick()`` (or worker) of a runtime that has its task.  Actors default to the
    application.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[ScheduleState, ...]:
        """Every schedule ever registered in this environment, by id."""
        with self._runtime.reading() as tx:
            return tuple(schedules.schedules_of(tx, self._runtime.environment))

    def get(self, id: str) -> ScheduleState:
        """The schedule with this id, deployed or removed.

        Raises:
            ScheduleNotFound: none was ever registered in this environment.
        """
        wanted = identifier("schedule id", id)
        with self._runtime.reading() as tx:
            return schedule.find(tx, self._runtime.environment, wanted)

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
        wanted, who, handler = identifier("schedule id", id), actor_of(actor), current.get()
        parent = None if handler is None else handler.run
        runtime = self._runtime
        runtime.start()

        def work(tx: Transaction) -> Triggered:
            new_id = new_run_id()
            return schedule.trigger_now(tx, runtime.environment, wanted, runtime.registry, new_id, who, parent)

        done = runtime.database.transact(work, runtime.clock)
        runtime.ring()
        return done

    def preview(self, id: str, count: int = 5) -> tuple[datetime, ...]:
        """The next nominal times of a schedule as of now, as if it were not paused; nothing is written.

        Args:
            count: 1 to 1000; a single occurrence (`run_at`) gives one time, or none once it has passed.

        Raises:
            ScheduleNotFound: there is no such schedule.
            RunStateInvalid: it is removed, or disabled by its definition, and so has no next time.
        """
        wanted, most = identifier("schedule id", id), reading.whole_number("count", count, 1000)
        with self._runtime.reading() as tx:
            state = schedule.find(tx, self._runtime.environment, wanted)
            return decisions.preview(state, most, tx.now())

    def occurrences(self, id: str, *, limit: int = DEFAULT_LIMIT) -> tuple[Occurrence, ...]:
        """What became of a schedule's occurrences, the newest first: fired with their run, or skipped while paused.

        Args:
            limit: 1 to 500.

        Raises:
            ScheduleNotFound: there is no such schedule.
        """
        wanted, most = identifier("schedule id", id), reading.whole_number("limit", limit, 500)
        with self._runtime.reading() as tx:
            stream = schedule.find(tx, self._runtime.environment, wanted).stream_id
            with closing(log.read_newest(tx, stream, TELLING)) as records:
                return tuple(islice(occurrences(records), most))

    def _steer(
        self,
        move: Callable[[Transaction, str, str, Actor, str | None], ScheduleState],
        id: str,
        actor: Actor | None,
        reason: str | None,
    ) -> ScheduleState:
        wanted, who, runtime = identifier("schedule id", id), actor_of(actor), self._runtime
        why = None if reason is None else free_text("reason", reason)
        runtime.start()
        return runtime.database.transact(lambda tx: move(tx, runtime.environment, wanted, who, why), runtime.clock)


class Queues:
    """Reading queues: ``app.queues``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[QueueState, ...]:
        """Every queue that is registered here or has runs, by name; reads every run of the environment."""
        with self._runtime.reading() as tx:
            counts = queries.count_by_queue(tx, self._runtime.environment)
        names = sorted({*counts, *self._runtime.registry.queues})
        return tuple(QueueState(name, counts.get(name, {})) for name in names)


class Audit:
    """Checking the log: ``app.audit``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def count(self) -> dict[str, int]:
        """How many events of each type the log holds for this environment; reads all of them."""
        with self._runtime.reading() as tx:
            return queries.count_events(tx, self._runtime.environment)

    def verify(self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None) -> Verification:
        """Fold the whole log of this environment (or one run's), and compare it field by field with what is stored.

        `progress` is called with the number of events folded so far.
        """
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            if id is None:
                return replay.verify(tx, self._runtime.environment, progress)
            wanted = run_id(id)
            found = replay.compare_run(tx, self._runtime.environment, wanted)
        if not found.events and not found.differences:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return found
