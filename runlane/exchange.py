"""The traffic between a worker and the database: finished outcomes out, claimed runs in, one transaction for both.

Outcomes collect while earlier transactions run; the next one takes all of them and claims for every free slot, so
batches grow with the load by themselves and nothing waits for a timer while nothing is in flight.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Collection, Sequence
from time import monotonic
from uuid import UUID

from runlane.claiming import Claims
from runlane.decisions import Failed, Interrupted, Outcome
from runlane.engine.complete import Finished, complete
from runlane.engine.lease import Holder, is_open
from runlane.errors import ErrorCode, RunlaneError
from runlane.executor import Execution, Executor
from runlane.projections.runs import Run
from runlane.runtime import Runtime
from runlane.storage.partitions import MOST_PARTITIONS
from runlane.storage.transaction import Transaction
from runlane.values import Failure, storable

log = logging.getLogger("runlane.worker")
#: Each attempt that ended, at DEBUG; the records carry the run `before` (as it was leased) and `after`.
attempts_log = logging.getLogger("runlane.attempts")

#: The most outcomes, and the most claims, of one transaction.
BATCH = 1000
_BACKOFF = 0.5  # seconds of rest after the database refused
_RELIEF = 0.005  # seconds after which blocked handler threads get company

Ended = tuple[Execution, Outcome]


class Exchange:
    """Claims, executions and outcomes of one worker.

    Args:
        queues: names of the queues to claim from.
        concurrency: the greatest number of attempts at once.
        poll_interval: seconds between looks into the database while it has nothing.
        lanes: how many transactions may be in flight at once.
        drain: end by itself when nothing is due and nothing is under way.
    """

    def __init__(
        self,
        runtime: Runtime,
        queues: Sequence[str],
        concurrency: int,
        poll_interval: float,
        lanes: int,
        drain: bool,
    ) -> None:
        self._runtime = runtime
        self._queues = list(queues)
        self._claims = Claims(runtime, self._queues, drain)
        self._limits = self._claims.limits
        # A claim that came to this number may have left runs that are due.
        self._most = MOST_PARTITIONS if self._limits else BATCH
        self._concurrency = concurrency
        # One lane claims while another stores: each takes its share of the slots.
        self._share = min(BATCH, -(-concurrency // lanes))
        self._poll_interval = poll_interval
        self._drain = drain
        self._executor = Executor(concurrency, self._ended, runtime.settings.redact_failures)
        self._changed = threading.Condition()
        # Handlers append without the lock; a lane that announces itself in `_waiting` before it looks is woken.
        self._finished: deque[Ended] = deque()
        self._waiting = 0
        self._retried: list[Ended] = []  # taken once, but the database was away
        self._active: dict[tuple[UUID, int], Execution] = {}
        self._executing = 0
        self._lingering = 0  # handlers still inside although their time was over; each keeps its slot
        self._claiming = 0
        self._in_flight = 0
        self._hungry = True  # the last claim found as much as it asked for
        self._plenty = True  # the last claim left something: more of them at once are of use
        # Elsewhere an outcome on one lane can make room for what a claim on the other one has just missed.
        self._one_looks = not drain and not self._limits
        self._rang = False  # somebody has rung since the last claim began, so it may have missed what there is
        self._dry = False  # the last claim found nothing, and nothing has been committed since
        self._next_poll = 0.0
        self._stopping = False
        self._cut = False  # wait for no handler any more
        self._backoff = 0.0
        self.completed = 0
        self.error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._lane, name=f"runlane-exchange-{n}", daemon=True) for n in range(lanes)
        ]

    def start(self) -> None:
        """Begin to claim and execute."""
        self._runtime.join(self)
        self._runtime.lane.transport.listen(self._runtime.environment, self._queues, self.ring)
        for thread in self._threads:
            thread.start()

    def ring(self) -> None:
        """There may be work: look now."""
        with self._changed:
            self._hungry = self._rang = True
            self._dry = False
            self._changed.notify_all()

    def stop(self) -> None:
        """Claim nothing any more, and ask the attempts under way to end."""
        with self._changed:
            self._stopping = True
            for execution in self._active.values():
                execution.context.signal.set("worker_stopping")
            self._changed.notify_all()

    def cut_off(self) -> None:
        """Give the attempts that are still under way back, whatever their handlers do from now on."""
        with self._changed:
            self._stopping = self._cut = True
            for execution in self._active.values():
                if not execution.ended:
                    self._finished.append((execution, Interrupted("worker_stopping")))
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything has ended, at most `timeout` seconds; whether it has."""
        deadline = None if timeout is None else monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._runtime.lane.transport.unlisten(self.ring)
        self._runtime.leave(self)
        self._executor.close()
        return True

    def held(self) -> dict[UUID, int]:
        """The attempts under way, or whose outcome is not yet stored."""
        with self._changed:
            return dict(sorted(self._active))

    def lease_lost(self, session_id: UUID) -> None:
        """Tell the handlers of this session to stop; their outcomes will be dropped."""
        with self._changed:
            for execution in self._active.values():
                if _session_of(execution.run) == session_id:
                    execution.context.signal.set("lease_lost")

    def cancel(self, run_ids: Collection[UUID]) -> None:
        """Tell the handlers of these runs that they are asked to stop."""
        with self._changed:
            for (run_id, _), execution in self._active.items():
                if run_id in run_ids:
                    execution.context.signal.set("cancellation_requested")

    def _ended(self, execution: Execution, outcome: Outcome) -> None:
        self._finished.append((execution, outcome))
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _collect(self) -> list[Ended]:
        """The outcomes that wait, the first of each attempt: one that was cut off, or whose time was over, may end a
        second time, and then its handler has come back."""
        batch: list[Ended] = []
        while self._finished and len(batch) < BATCH:
            execution, outcome = self._finished.popleft()
            if execution.ended:
                self._drop(execution)
                continue
            execution.ended = True
            self._executing -= 1
            if outcome is execution.overdue:
                execution.lingers = True
                self._lingering += 1
            batch.append((execution, outcome))
        return batch

    def _drop(self, execution: Execution) -> None:
        if execution.lingers:
            execution.lingers = False
            self._lingering -= 1
        log.info("run %s: the outcome of attempt %d came too late", execution.run.id, execution.context.attempt)

    def _lane(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._exchange(*work)
        except BaseException as error:
            log.exception("the worker cannot go on")
            with self._changed:
                self.error = self.error or error
                self._stopping = True
                self._changed.notify_all()

    def _next(self) -> tuple[list[Ended], int] | None:
        """Wait for something to do: the outcomes to store and how many runs to claim; None at the end."""
        with self._changed:
            while True:
                if self._is_over():
                    self._changed.notify_all()
                    return None
                pause = self._backoff - monotonic()
                if pause <= 0 and (work := self._work()) is not None:
                    return work
                if self._is_over():  # the handler that was waited for had come back
                    continue
                waiting = pause if pause > 0 else max(0.0, self._next_poll - monotonic())
                if self._executing and self._executor.relieve():
                    waiting = min(waiting, _RELIEF)
                self._waiting += 1
                if pause > 0 or not self._finished:
                    self._changed.wait(waiting)
                self._waiting -= 1

    def _work(self) -> tuple[list[Ended], int] | None:
        """The outcomes that wait and the slots that are free, taken for one transaction; None if there are neither."""
        self._retried, batch = [], self._retried
        batch += self._collect()
        # Each of these may have been what another run of its partition waits for.
        if self._limits and any(execution.run.queue in self._limits for execution, _ in batch):
            self._hungry = True
        wanted = self._wanted()
        if not batch and not wanted:
            return None
        self._in_flight += 1
        self._claiming += wanted
        if wanted:
            self._postpone_poll()
            self._rang = False
        return batch, wanted

    def _is_over(self) -> bool:
        idle = not (self._executing or self._retried or self._in_flight)
        if self._drain and self._dry and idle:
            self._stopping = self._cut = True
        return self.error is not None or (self._stopping and idle and (self._cut or not self._lingering))

    def _wanted(self) -> int:
        if self._stopping:
            return 0
        free = min(self._share, self._concurrency - self._executing - self._lingering - self._claiming)
        if free <= 0 or (self._one_looks and self._claiming and not self._plenty):
            return 0
        idle_drain = self._drain and not self._dry and not self._executing and not self._claiming
        return free if self._hungry or idle_drain or monotonic() >= self._next_poll else 0

    def _postpone_poll(self) -> None:
        self._next_poll = monotonic() + self._poll_interval * random.uniform(0.9, 1.1)  # noqa: S311

    def _exchange(self, batch: list[Ended], wanted: int) -> None:
        claimed: list[Run] = []
        try:
            session = self._runtime.session()
            current = [ended for ended in batch if _session_of(ended[0].run) == session.holder.session_id]
            claimed, open_still = self._transact(current, wanted, session.holder)
            if not open_still:
                session.distrust("maintenance has ended it")
                self.ring()  # under another session there may be something
        except RunlaneError as error:
            if error.retryable:
                log.warning("outcomes and claims have to wait: %s", error)
            else:
                batch = self._isolate(batch, error)
            self._postpone(batch, wanted)
            return
        if len(current) < len(batch):
            log.warning("dropped %d outcomes of a lost worker session", len(batch) - len(current))
        self._settle(batch, len(current), wanted, claimed)

    def _transact(self, batch: list[Ended], wanted: int, holder: Holder) -> tuple[list[Run], bool]:
        """Store outcomes and claim; the claimed runs, and whether the session is open still, as far as was seen."""
        runtime = self._runtime
        if not batch and self._claims.are_vain(holder):
            return [], True
        if not batch and self._claims.goes_alone:
            return self._claims.alone(holder, wanted)
        finished = [Finished(execution.run, outcome, execution.task.retry) for execution, outcome in batch]
        most, wakes = runtime.settings.max_events, runtime.registry.wakes

        def work(tx: Transaction) -> tuple[list[Run | None], list[Run], bool]:
            now = tx.now()
            stored = complete(tx, finished, now, most, wakes) if finished else []
            runs = self._claims.within(tx, holder, wanted, now) if wanted else []
            return stored, runs, not wanted or bool(runs) or is_open(tx, holder)

        stored, runs, open_still = runtime.database.transact(work, runtime.clock)
        told = attempts_log.isEnabledFor(logging.DEBUG)
        for one, after in zip(finished, stored, strict=True):
            if told and after is not None:
                _tell(one.run, after)
            if after is None:
                log.warning("run %s: the lease was lost, its outcome was dropped", one.run.id)
            elif after.sequence == runtime.settings.max_events // 10:
                log.warning("run %s has %d events; at %d it fails", after.id, after.sequence, after.sequence * 10)
        return runs, open_still

    def _postpone(self, batch: list[Ended], wanted: int) -> None:
        """Nothing was stored: keep the outcomes, and leave the database alone for a moment."""
        with self._changed:
            self._retried += batch
            self._claiming -= wanted
            self._in_flight -= 1
            self._backoff = monotonic() + _BACKOFF
            self._changed.notify_all()

    def _settle(self, batch: list[Ended], stored: int, wanted: int, claimed: list[Run]) -> None:
        executions = [Execution(run, self._runtime.registry.tasks[run.task_id]) for run in claimed]
        with self._changed:
            for execution, _ in batch:
                self._active.pop((execution.run.id, execution.context.attempt), None)
            for execution in executions:
                self._active[execution.run.id, execution.context.attempt] = execution
            self._executing += len(executions)
            self._claiming -= wanted
            self._in_flight -= 1
            self.completed += stored
            if wanted:
                self._plenty = len(claimed) >= min(wanted, self._most)
                self._hungry = self._plenty or self._rang
                self._dry = not claimed and not batch and not self._rang
            elif batch:
                self._dry = False
            if self._stopping:
                # Claimed while the stop was asked for: given back before their handlers have begun.
                self._finished.extend((execution, Interrupted("worker_stopping")) for execution in executions)
                executions = []
            self._changed.notify_all()
        if executions:
            self._executor.submit(executions)

    def _isolate(self, batch: list[Ended], error: RunlaneError) -> list[Ended]:
        """Store outcomes one by one after a batch was refused, so that one that cannot be stored fails alone.

        Returns what is left because the database is away.
        """
        if not batch:
            raise error
        for place, (execution, outcome) in enumerate(batch):
            try:
                self._store_alone(execution, outcome)
            except RunlaneError as refusal:
                if not refusal.retryable:
                    raise
                return batch[place:]
            with self._changed:
                self._active.pop((execution.run.id, execution.context.attempt), None)
                self.completed += 1
        return []

    def _store_alone(self, execution: Execution, outcome: Outcome) -> None:
        holder = self._runtime.session().holder
        try:
            self._transact([(execution, outcome)], 0, holder)
        except RunlaneError as refusal:
            if refusal.retryable:
                raise
            log.exception("run %s: its outcome cannot be stored", execution.run.id)
            message = storable(f"the outcome could not be stored: {refusal}")
            self._transact([(execution, Failed(Failure(ErrorCode.INTERNAL_ERROR, message, False)))], 0, holder)


def _tell(before: Run, after: Run) -> None:
    attempts_log.debug(
        "run %s of task %s: attempt ended, %s",
        after.id,
        after.task_id,
        after.status,
        extra={"before": before, "after": after},
    )


def _session_of(run: Run) -> UUID | None:
    return None if run.lease is None else run.lease.session_id
