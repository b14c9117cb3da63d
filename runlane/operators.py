"""What operators ask of runs and keys: ``app.runs`` and ``app.idempotency_keys``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

from runlane import bulk, pruning, reading, requests, travel
from runlane.bulk import Bulk
from runlane.capabilities import Capability
from runlane.engine import explain, operate, prune, trigger
from runlane.errors import ConfigurationInvalid, RunNotFound
from runlane.events import Recorded
from runlane.export import archiving
from runlane.projections.attempts import Attempt, attempts
from runlane.projections.runs import Run
from runlane.pruning import Pruned
from runlane.reading import DEFAULT_LIMIT, Order, Page, Where
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.storage import queries, streams
from runlane.tasks import Queue, Task
from runlane.values import ACTIVE, TERMINAL, Actor, RunStatus, SourceType, free_text, identifier, run_id


def pauses(timeout: float | None) -> Callable[[Run], float]:
    """Says of a run that has not ended for how many seconds to wait before the next look; raises as ``Runs.wait``."""
    if timeout is not None and (not isinstance(timeout, int | float) or timeout != timeout):
        raise ConfigurationInvalid(f"timeout must be a number of seconds, or None; got {shown(timeout)}")
    deadline = None if timeout is None else time.monotonic() + min(timeout, 1e9)
    following = 0.005

    def pause(run: Run) -> float:
        nonlocal following
        now, following = following, min(following * 1.5, 0.25)
        if deadline is not None and time.monotonic() + now > deadline:
            raise TimeoutError(f"run {run.id} is still {run.status} after {timeout} s")
        return now

    return pause


class Runs:
    """Reading and operating runs: ``app.runs``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get(self, id: UUID | str, *, at_sequence: int | None = None, at: datetime | None = None) -> Run:
        """The run with this id: as it is, or as it was, which is the fold of its events up to then.

        Args:
            at_sequence: as of this event of its history, 1 being the first.
            at: as of this aware instant; what happened at it has happened, and of the future nothing is known.

        Raises:
            RunNotFound: there is none in this environment, or there was none yet; then it says since when there is.
            ConfigurationInvalid: both moments are given, or the run has no such event.
            InvariantViolation: its history is damaged, so that it cannot be folded.
        """
        wanted, moment = run_id(id), travel.then(at_sequence, at)
        if moment is not None:
            self._runtime.lane.require(Capability.READS_RUN_HISTORY, "runs.get of an earlier moment")
            with self._runtime.reading() as tx:
                found = travel.run_then(tx, self._runtime.environment, wanted, moment)
            return self._runtime.vault.reveal(found)
        with self._runtime.reading() as tx:
            run = queries.get_run(tx, self._runtime.environment, wanted)
        if run is None:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return self._runtime.vault.reveal(run)

    def list(
        self,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        tasks: Sequence[Task[..., Any] | str] | None = None,
        queues: Sequence[Queue | str] | None = None,
        correlation_id: str | None = None,
        idempotency_key: str | None = None,
        singleton_key: str | None = None,
        concurrency_key: str | None = None,
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
        self._runtime.lane.require(Capability.OPERATOR_READS, "runs.list")
        wanted = reading.run_filter(
            statuses=statuses,
            tasks=tasks,
            queues=queues,
            correlation_id=correlation_id,
            idempotency_key=idempotency_key,
            singleton_key=singleton_key,
            concurrency_key=concurrency_key,
            source_run_id=source_run_id,
            parent_run_id=parent_run_id,
            schedule_id=schedule_id,
            created_after=created_after,
            created_before=created_before,
        )
        with self._runtime.reading() as tx:
            page = reading.list_runs(tx, self._runtime.environment, wanted, limit, cursor, order)
        return Page(tuple(self._runtime.vault.reveal_all(page.data)), page.next_cursor)

    def count(self, **where: Unpack[Where]) -> dict[RunStatus, int]:
        """How many runs that match `where` (the conditions of ``list``) are in each status.

        It reads every run of the environment.
        """
        self._runtime.lane.require(Capability.OPERATOR_READS, "runs.count")
        wanted = reading.run_filter(**where)
        with self._runtime.reading() as tx:
            return queries.count_by_status(tx, self._runtime.environment, wanted)

    def events(self, id: UUID | str) -> tuple[Recorded, ...]:
        """The history of a run, by sequence.

        Raises:
            RunNotFound: there is no such run.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "runs.events")
        wanted = run_id(id)
        with self._runtime.reading() as tx:
            events = streams.read_stream(tx, wanted)
        if not events or events[0].environment != self._runtime.environment:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return self._runtime.vault.reveal_events(events)

    def attempts(self, id: UUID | str) -> tuple[Attempt, ...]:
        """The attempts of a run, as its events tell them.

        Raises:
            RunNotFound: there is no such run.
        """
        return attempts(self.events(id))

    def why(self, id: UUID | str) -> tuple[str, ...]:
        """Why a run does not run: every reason that holds now, one sentence each.

        Raises:
            RunNotFound: there is no such run.
        """
        self._runtime.lane.require(Capability.OPERATOR_READS, "runs.why")
        run, registry = self.get(id), self._runtime.registry
        known = explain.Surroundings(frozenset(registry.tasks), registry.limits())
        with self._runtime.reading() as tx:
            return explain.why(tx, self._runtime.environment, run, known)

    def find_active(
        self, task: Task[..., Any] | str, *, idempotency_key: str | None = None, singleton_key: str | None = None
    ) -> Run | None:
        """The active run of `task` with this key, if there is one now; it may have ended when you look at it."""
        if (idempotency_key is None) == (singleton_key is None):
            raise ConfigurationInvalid("find_active needs exactly one of idempotency_key and singleton_key")
        needed = Capability.ENFORCES_SINGLETON if idempotency_key is None else Capability.ENFORCES_IDEMPOTENCY
        self._runtime.lane.require(needed, "runs.find_active")
        task_id = self._runtime.registry.task(task).id
        if idempotency_key is None:
            owned = free_text("singleton_key", singleton_key)
            with self._runtime.reading() as tx:
                found = queries.singleton_owner(tx, self._runtime.environment, task_id, owned)
        else:
            found = self._current(task_id, idempotency_key)
        return self._runtime.vault.reveal(found) if found is not None and found.is_active else None

    def find_current(self, task: Task[..., Any] | str, idempotency_key: str) -> Run | None:
        """The run that a trigger with this key would be given now: active, or ended and within its retention."""
        self._runtime.lane.require(Capability.ENFORCES_IDEMPOTENCY, "runs.find_current")
        found = self._current(self._runtime.registry.task(task).id, idempotency_key)
        return None if found is None else self._runtime.vault.reveal(found)

    def _current(self, task_id: str, idempotency_key: str) -> Run | None:
        key = free_text("idempotency_key", idempotency_key)
        with self._runtime.reading() as tx:
            return trigger.find_current(tx, self._runtime.environment, task_id, key)

    def cancel(
        self,
        id: UUID | str,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Run:
        """Cancel a waiting run at once, or ask a running one to stop; asking twice changes nothing.

        The request is durable before the handler hears of it: at once in this process, within one heartbeat elsewhere.

        Raises:
            RunNotFound: there is no such run.
            RunStateInvalid: it has ended.
        """
        wanted, said = run_id(id), requests.said(actor, reason, meta)
        run = self._runtime.transact(lambda tx: operate.cancel(tx, self._runtime.environment, wanted, said))
        if run.is_active:
            self._runtime.cancel({run.id})
        return self._runtime.vault.reveal(run, committed=True)

    def rerun(
        self,
        id: UUID | str,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Run:
        """A new run that repeats an ended one, whatever it came to; ``source.source_run_id`` links them.

        It carries no idempotency key; the payload is validated against today's task.  A `reason` is kept in its meta.

        Raises:
            RunNotFound: there is no such run.
            RunStateInvalid: it is active.
            TaskNotFound, PayloadInvalid: the task is not registered here, or does not take the payload any more.
            PayloadErased, PayloadUnreadable: the payload cannot be decoded.
            StorageConflict: an active run owns its singleton key (kind ``singleton_owner``).
        """
        return self._again(id, SourceType.RERUN, requests.said(actor, reason, meta))

    def retry(
        self,
        id: UUID | str,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Run:
        """The same for a failed run only; raises as ``rerun``."""
        return self._again(id, SourceType.MANUAL_RETRY, requests.said(actor, reason, meta))

    def cancel_many(
        self,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        limit: int = bulk.LIMIT,
        cursor: str | None = None,
        **where: Unpack[Where],
    ) -> Bulk:
        """Cancel up to `limit` active runs that match `where` (the conditions of ``list``), oldest first."""
        return bulk.each(
            self._runtime, ACTIVE, lambda id: self.cancel(id, actor=actor, reason=reason), limit, cursor, **where
        )

    def rerun_many(
        self,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        limit: int = bulk.LIMIT,
        cursor: str | None = None,
        **where: Unpack[Where],
    ) -> Bulk:
        """Run up to `limit` ended runs that match `where` again, oldest first.

        A call repeated with the same cursor makes another run of each; go on with ``next_cursor``.
        """
        return bulk.each(
            self._runtime, TERMINAL, lambda id: self.rerun(id, actor=actor, reason=reason), limit, cursor, **where
        )

    def retry_many(
        self,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        limit: int = bulk.LIMIT,
        cursor: str | None = None,
        **where: Unpack[Where],
    ) -> Bulk:
        """The same for failed runs only."""
        failed = frozenset({RunStatus.FAILED})
        return bulk.each(
            self._runtime, failed, lambda id: self.retry(id, actor=actor, reason=reason), limit, cursor, **where
        )

    def _again(self, id: UUID | str, type_: SourceType, said: operate.Said) -> Run:
        runtime, wanted = self._runtime, run_id(id)
        runtime.start_to_work()
        run = runtime.transact(
            lambda tx: operate.run_again(tx, runtime.environment, wanted, runtime.registry, type_, said, runtime.vault)
        )
        runtime.announce([run])
        return runtime.vault.reveal(run, committed=True)

    def wait(self, id: UUID | str, *, timeout: float | None = None) -> Run:
        """Wait until a run has ended, and return it.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: it has not ended in time.
            RunNotFound: there is no such run.
            ConfigurationInvalid: an argument is not valid.
        """
        pause = pauses(timeout)
        while not (run := self.get(id)).is_terminal:
            time.sleep(pause(run))
        return run

    def prune(
        self,
        older_than: timedelta | str | datetime,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        limit: int = pruning.DEFAULT_LIMIT,
        cursor: str | None = None,
        actor: Actor | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        archive: str | Path | None = None,
        key: str | Path | None = None,
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
            reason: why; kept in the log.
            dry_run: only count; nothing is removed, recorded or archived.
            archive: the folder in which the removed histories are kept, as an export of their own with a manifest; they
                are on the disk before anything is removed, and the log tells the file's SHA-256, which is its name.
            key: sign the manifest with this Ed25519 private key, a PEM file; needs the package cryptography.

        Raises:
            ConfigurationInvalid: a status that is not terminal, or another argument that is not valid.
            InvariantViolation: the history of a run is damaged; nothing is removed.
            StorageUnavailable: the database or the folder failed; nothing is removed, but an archive may be left over.
        """
        self._runtime.lane.require(Capability.PRUNES_RUNS, "runs.prune")
        environment, by = self._runtime.environment, requests.said(actor, reason)
        old = pruning.old_runs(environment, older_than, statuses, limit, cursor)
        kept = archiving.into(archive, environment, by.actor.text, key)
        if dry_run:
            with self._runtime.reading() as tx:
                return pruning.answer(environment, old, prune.find(tx, environment, old))
        self._runtime.start()
        removed = self._runtime.database.transact(
            lambda tx: prune.remove(tx, environment, old, by.actor, by.reason, None if kept is None else kept.keep),
            self._runtime.clock,
        )
        done = pruning.answer(environment, old, removed)
        return done if kept is None or removed.archive is None else kept.named(done, removed.archive)


class IdempotencyKeys:
    """Freeing keys: ``app.idempotency_keys``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def reset(
        self, task: Task[..., Any] | str, key: str, *, actor: Actor | None = None, reason: str | None = None
    ) -> bool:
        """Free a key that an ended run keeps, so that the next trigger makes a new run; whether anything was freed.

        Raises:
            RunStateInvalid: the owner is active.
        """
        self._runtime.lane.require(Capability.ENFORCES_IDEMPOTENCY, "idempotency_keys.reset")
        runtime, said = self._runtime, requests.said(actor, reason)
        task_id, wanted = runtime.registry.task(task).id, identifier("idempotency_key", key)
        return runtime.transact(lambda tx: operate.reset_key(tx, runtime.environment, task_id, wanted, said))
