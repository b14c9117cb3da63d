"""What operators ask: ``app.runs``, ``app.schedules``, ``app.queues`` and ``app.audit``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from runlane import reading, requests
from runlane.engine.queues import set_paused
from runlane.errors import RunNotFound
from runlane.events import Recorded
from runlane.projections.attempts import Attempt, attempts
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.reading import DEFAULT_LIMIT, Order, Page, QueueState
from runlane.runtime import Runtime
from runlane.storage import log, queries, queues, replay, schedules
from runlane.storage.replay import Verification
from runlane.tasks import Queue, Task
from runlane.values import Actor, RunStatus, free_text, run_id


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
    """Reading schedules: ``app.schedules``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[ScheduleState, ...]:
        """Every schedule ever registered in this environment, by id."""
        with self._runtime.reading() as tx:
            return tuple(schedules.schedules_of(tx, self._runtime.environment))


class Queues:
    """Reading queues, pausing them and letting them go on: ``app.queues``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[QueueState, ...]:
        """Every queue that is registered here, has runs or was ever paused, by name; reads all runs' statuses."""
        with self._runtime.reading() as tx:
            counts = queries.count_by_queue(tx, self._runtime.environment)
            controls = {control.name: control for control in queues.queues_of(tx, self._runtime.environment)}
        limits = self._runtime.registry.limits()
        names = sorted({*counts, *controls, *self._runtime.registry.queues})
        return tuple(QueueState(name, counts.get(name, {}), controls.get(name), limits.get(name)) for name in names)

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
        return control

    def _set(self, queue: Queue | str, paused: bool, reason: str | None, actor: Actor | None) -> QueueControl | None:
        name = reading.queue_name(queue)
        why = None if reason is None else free_text("reason", reason)
        who = requests.actor(actor)
        self._runtime.start()
        environment = self._runtime.environment
        return self._runtime.database.transact(
            lambda tx: set_paused(tx, environment, name, paused, why, who), self._runtime.clock
        )


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
