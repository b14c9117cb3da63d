"""Executing in the caller's thread: ``run_now``, ``execute_next`` and ``execute_delivery``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar
from uuid import UUID

from attrs import evolve, frozen

from runlane.decisions import Interrupted, Outcome
from runlane.engine import deliver, lease
from runlane.engine.complete import Finished, complete
from runlane.engine.deliver import Consumer, Delivery, DeliveryOutcome, IgnoreReason
from runlane.engine.lease import Holder
from runlane.engine.trigger import NewRun, sealed
from runlane.errors import ConfigurationInvalid, LeaseLost, RunlaneError
from runlane.executor import Execution, Executor, unstorable
from runlane.policy import Retry
from runlane.projections.runs import Run
from runlane.runtime import Runtime
from runlane.storage import queries
from runlane.storage.transaction import Transaction
from runlane.underway import UnderWay
from runlane.values import TriggerOutcome
from runlane.wakeup import Wakeup

log = logging.getLogger("runlane.worker")

T = TypeVar("T")


@frozen
class Executed:
    """What ``run_now`` came to: the run, and whether this call executed it or found the owner of its key."""

    run: Run
    executed: bool


class Unwanted(Exception):
    """Who asked for an attempt no longer wants it; it has not begun, and its run is queued."""


def _always() -> bool:
    return True


class Inline:
    """Attempts that callers of this process execute themselves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._executor = self._new_executor()
        self._lock = threading.Lock()
        self._active = UnderWay()
        runtime.join(self)

    def held(self) -> dict[UUID, int]:
        """The attempts under way."""
        with self._lock:
            return self._active.attempts()

    def lease_lost(self, session_id: UUID) -> None:
        """Tell the handlers of this session to stop."""
        with self._lock:
            for execution in self._active.of_session(session_id):
                execution.context.signal.set("lease_lost")

    def cancel(self, run_ids: Collection[UUID]) -> None:
        """Tell the handlers of these runs that they are asked to stop."""
        for execution in self._among(run_ids):
            execution.context.signal.set("cancellation_requested")

    def stop(self, run_ids: Collection[UUID]) -> None:
        """Tell the handlers of these runs that their process is stopping."""
        for execution in self._among(run_ids):
            execution.context.signal.set("worker_stopping")

    def cut_off(self, run_ids: Collection[UUID]) -> None:
        """Give the attempts of these runs back, whatever their handlers do from now on."""
        cut = [Finished(one.run, Interrupted("worker_stopping"), one.task.retry) for one in self._among(run_ids)]
        if cut:
            self._store(cut)

    def run_now(self, new: NewRun) -> Executed:
        """See ``Runlane.run_now``."""
        runtime = self._runtime
        runtime.start_to_work()
        holder = runtime.session().holder
        limit = runtime.registry.limits().get(new.created.queue)
        (stored,) = sealed(runtime.vault, runtime.environment, [new])
        found = self._transact(lambda tx: lease.create_leased(tx, runtime.environment, holder, stored, limit))
        if found.outcome is not TriggerOutcome.CREATED:
            return Executed(runtime.vault.reveal(found.run), False)
        return Executed(self.execute(found.run), True)

    def execute_next(self, queues: Sequence[str]) -> Run | None:
        """See ``Runlane.execute_next``."""
        runtime = self._runtime
        runtime.start_to_work()
        tasks, limits = list(runtime.registry.tasks), runtime.registry.limits()

        def claim(tx: Transaction, holder: Holder) -> list[Run] | None:
            found = lease.claim(tx, runtime.environment, holder, queues, tasks, 1, tx.now(), limits)
            return found if found or lease.is_open(tx, holder) else None

        claimed = self._in_session(claim)
        return self.execute(claimed[0]) if claimed else None

    def execute_delivery(self, wakeup: Wakeup, queues: Sequence[str], wanted: Callable[[], bool] = _always) -> Delivery:
        """See ``Runlane.execute_delivery``.

        Args:
            wanted: whether the attempt may still begin; asked before the run is leased, and once more before it begins.

        Raises:
            Unwanted: it may not.
        """
        runtime = self._runtime
        runtime.start_to_work()
        registry = runtime.registry
        consumer = Consumer(frozenset(queues), registry.tasks.keys(), registry.limits())

        def accept(tx: Transaction, holder: Holder) -> list[Run | Delivery] | None:
            _require(wanted)  # before another session is opened, which nobody would end
            if not lease.is_open(tx, holder):
                return None
            accepted = deliver.accept(tx, runtime.environment, holder, wakeup, consumer)
            _require(wanted)  # locks may have been waited for
            return [accepted]

        (found,) = self._in_session(accept)
        if isinstance(found, Delivery):
            return found if found.run is None else evolve(found, run=runtime.vault.reveal(found.run))
        try:
            return Delivery(DeliveryOutcome.EXECUTED, None, self.execute(found, wanted))
        except LeaseLost:
            with runtime.database.read(runtime.clock) as tx:
                after = queries.get_run(tx, runtime.environment, found.id)
            return Delivery(
                DeliveryOutcome.IGNORED, IgnoreReason.LOST_RACE, None if after is None else runtime.vault.reveal(after)
            )

    def execute(self, run: Run, wanted: Callable[[], bool] = _always) -> Run:
        """Execute the attempt that `run` is leased for, and store its outcome; the run as it is then.

        Raises:
            Unwanted: it was not `wanted` any more; the run is queued again.
            LeaseLost: the attempt took longer than the session lived; its outcome was dropped.
            KeyboardInterrupt: it came while the handler was executed in the main thread; the run is queued again.
        """
        opened = self._runtime.vault.unlock([run])[0]
        execution = Execution(opened.run, self._runtime.registry.tasks[run.task_id], opened.seal, opened.problem)
        with self._lock:  # whoever wants it no more finds it among these afterwards, or it finds out here
            begins = wanted()
            if begins:
                self._active.add(execution)
        if not begins:
            self._store([Finished(opened.run, Interrupted("worker_stopping"), execution.task.retry)])
            raise Unwanted
        try:
            outcome = self._executor.execute(execution)
            after = self._keep(opened.run, outcome, execution.task.retry)
        finally:
            with self._lock:
                self._active.forget([execution])
        if execution.interrupt is not None:
            raise execution.interrupt
        if after is None:
            raise LeaseLost(f"run {run.id}: the lease was lost during the attempt; its outcome was dropped")
        if after.queue in self._runtime.registry.limits():
            self._runtime.ring()  # its slot is free for another run
        return self._runtime.vault.reveal(after, committed=True)

    def close(self) -> None:
        """Tell the handlers under way to stop, and end the event loop for ``async def`` ones, if one was needed."""
        with self._lock:
            active = self._active.all()
        for execution in active:
            execution.context.signal.set("worker_stopping")
        # The application may be started again, and an executor that is closed watches no deadlines.
        before, self._executor = self._executor, self._new_executor()
        before.close()

    def _new_executor(self) -> Executor:
        return Executor(1, lambda _, __: None, self._runtime.settings.redact_failures)

    def _among(self, run_ids: Collection[UUID]) -> list[Execution]:
        with self._lock:
            return self._active.of_runs(run_ids)

    def _keep(self, run: Run, outcome: Outcome, retry: Retry) -> Run | None:
        """Store an outcome; the run fails where it cannot be stored, like a release to the year 10000."""
        try:
            return self._store([Finished(run, outcome, retry)])[0]
        except Exception as refusal:
            if isinstance(refusal, RunlaneError) and not isinstance(refusal, ConfigurationInvalid):
                raise  # of the database
            log.exception("run %s: its outcome cannot be stored", run.id)
            return self._store([Finished(run, unstorable(refusal), retry)])[0]

    def _store(self, finished: Sequence[Finished]) -> list[Run | None]:
        """Store outcomes; the runs as they are then, None for those whose lease was lost."""
        limit, wakes = self._runtime.settings.max_events, self._runtime.registry.wakes
        return self._transact(lambda tx: complete(tx, finished, tx.now(), limit, wakes))

    def _in_session(self, work: Callable[[Transaction, Holder], list[T] | None]) -> list[T]:
        """What `work` returns in a transaction; where that is None, as the session is not open, in a new one."""
        while True:
            session = self._runtime.session()
            found = self._transact(lambda tx: work(tx, session.holder))  # noqa: B023
            if found is not None:
                return found
            session.distrust("maintenance has ended it")

    def _transact(self, work: Callable[[Transaction], T]) -> T:
        return self._runtime.database.transact(work, self._runtime.clock)


def _require(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise Unwanted
