"""What operators ask: ``app.runs``, ``app.schedules``, ``app.queues`` and ``app.audit``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from runlane import pruning, reading
from runlane.engine import prune
from runlane.errors import RunNotFound
from runlane.events import Recorded
from runlane.projections.attempts import Attempt, attempts
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.pruning import Pruned
from runlane.reading import DEFAULT_LIMIT, Order, Page, QueueState
from runlane.requests import acting
from runlane.runtime import Runtime
from runlane.storage import log, queries, replay, schedules
from runlane.storage.replay import Verification
from runlane.tasks import Queue, Task
from runlane.values import Actor, RunStatus, run_id


class Runs:
    """Reading and pruning runs: ``app.runs``."""

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

    def prune(
        self,
        older_than: timedelta | str | datetime,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        limit: int = pruning.DEFAULT_LIMIT,
        cursor: str | None = None,
        actor: Actor | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove ended runs of this environment with their events and the idempotency keys they own, for good.

        One call is one transaction, in which ``environment.pruned`` records what went.  A key that a removed run still
        held is free: keep runs for longer than their keys are to work.

        Args:
            older_than: an age such as ``"30d"``, or the aware instant before which a run was last updated.
            statuses: only these, of ``succeeded``, ``failed`` and ``cancelled``; else all three.
            limit: the most runs of this call, 1 to 10000.
            cursor: ``next_cursor`` of the call before, to go on behind it.
            actor: who does it; else the application.
            dry_run: only count; nothing is removed or recorded.

        Raises:
            ConfigurationInvalid: a status that is not terminal, or another argument that is not valid.
            InvariantViolation: the history of a run is damaged; nothing is removed.
        """
        environment, by = self._runtime.environment, acting(actor)
        old = pruning.old_runs(environment, older_than, statuses, limit, cursor)
        if dry_run:
            with self._runtime.reading() as tx:
                return pruning.answer(environment, old, prune.find(tx, environment, old))
        self._runtime.start()
        removed = self._runtime.database.transact(
            lambda tx: prune.remove(tx, environment, old, by), self._runtime.clock
        )
        return pruning.answer(environment, old, removed)


class Schedules:
    """Reading schedules: ``app.schedules``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> tuple[ScheduleState, ...]:
        """Every schedule ever registered in this environment, by id."""
        with self._runtime.reading() as tx:
            return tuple(schedules.schedules_of(tx, self._runtime.environment))


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
