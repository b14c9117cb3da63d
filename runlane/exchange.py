"""The traffic between a worker and the database: finished outcomes out, claimed runs in, one transaction for both.

Outcomes collect while earlier transactions run; the next one takes all of them and claims for every free slot, so
batches grow with the load by themselves and nothing waits for a timer while nothing is in flight.

A slot that a handler leaves does not wait for any of that: some runs are claimed ahead, as many as `ahead` says, and
are ready in the process.  One that cannot begin soon after all is given back.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from math import inf
from time import monotonic
from uuid import UUID

from runlane.ahead import PATIENCE, Ahead
from runlane.appetite import Appetite
from runlane.claiming import Claims
from runlane.decisions import Interrupted, Outcome
from runlane.errors import ProjectionFailed, RunlaneError
from runlane.executor import Execution, Executor
from runlane.projections.runs import Run
from runlane.runtime import Runtime
from runlane.storage.partitions import MOST_PARTITIONS
from runlane.trips import Ended, Trips, is_an_end
from runlane.underway import UnderWay, session_of

log = logging.getLogger("runlane.worker")

#: The most outcomes, and the most claims, of one transaction.
BATCH = 1000
_BACKOFF = 0.5  # seconds of rest after the database refused
_RELIEF = 0.005  # seconds after which blocked handler threads get company
_NO_SLOT = "no_slot"  # why a ready run is given back


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
        self._trips = Trips(runtime, self._claims)
        self._appetite = Appetite(poll_interval, drain, bool(self._limits), MOST_PARTITIONS if self._limits else BATCH)
        self._concurrency = concurrency
        # One lane claims while another stores: each takes its share of the slots.
        self._share = min(BATCH, -(-concurrency // lanes))
        self._poll_interval = poll_interval
        self._drain = drain
        self._executor = Executor(concurrency, self._ended, runtime.settings.redact_failures, self._look)
        self._ready = self._executor.ready
        # A ready run of a queue with a limit would keep one of its slots idle.
        self._ahead = None if any(queue in self._limits for queue in self._queues) else Ahead(concurrency)
        self._changed = threading.Condition()
        # Handlers append without the lock; a lane that announces itself in `_waiting` before it looks is woken.
        self._finished: deque[Ended] = deque()
        self._waiting = 0
        self._told = False  # a waiting lane is being woken
        self._retried: list[Ended] = []  # taken once, but the database was away
        self._active = UnderWay()
        self._executing = 0
        self._lingering = 0  # handlers still inside although their time was over; each keeps its slot
        self._in_flight = 0
        self._stores = 0  # transactions that have stored outcomes
        self._stopping = False
        self._cut = False  # wait for no handler any more, nor for a database that is away
        self._given_up = 0  # outcomes that were not stored for that
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
            self._appetite.ring()
            self._changed.notify()  # the others would only be in the way of the lane that claims

    def stop(self) -> None:
        """Claim nothing any more, give back what has not begun, and ask the attempts under way to end."""
        with self._changed:
            self._stopping = True
            self._tell_to_stop(self._active.all(), "worker_stopping")

    def cut_off(self) -> None:
        """Give the attempts that are still under way back, whatever their handlers do from now on.

        If the database is away their leases expire instead: nothing is tried twice any more.
        """
        with self._changed:
            self._stopping = self._cut = True
            self._executor.withdraw(self._active.all())
            for execution in self._active.all():
                if not execution.ended:
                    self._finished.append((execution, Interrupted("worker_stopping")))
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything has ended, at most `timeout` seconds; whether it has."""
        deadline = None if timeout is None else monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:  # else its start has failed
                thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        if self._given_up:
            log.warning("gave up %d outcomes: their leases expire, then the runs are executed again", self._given_up)
        self._runtime.lane.transport.unlisten(self.ring)
        self._runtime.leave(self)
        self._executor.close()
        return True

    def held(self) -> dict[UUID, int]:
        """The attempts under way, or whose outcome is not yet stored."""
        with self._changed:
            return self._active.attempts()

    def lease_lost(self, session_id: UUID) -> None:
        """Tell the handlers of this session to stop; their outcomes will be dropped."""
        with self._changed:
            self._tell_to_stop(self._active.of_session(session_id), "lease_lost")

    def _look(self, execution: Execution) -> None:
        self._part_unless_trusted(session_of(execution.run))

    def _part_unless_trusted(self, session_id: UUID | None) -> None:
        """Where its session is lost, nothing begins: whoever found out may have told others only, or not yet us."""
        if session_id is not None and not self._runtime.is_trusted(session_id):
            self.lease_lost(session_id)

    def cancel(self, run_ids: Collection[UUID]) -> None:
        """Tell the handlers of these runs that they are asked to stop."""
        with self._changed:
            self._tell_to_stop(self._active.of_runs(run_ids), "cancellation_requested")

    def _tell_to_stop(self, executions: Sequence[Execution], reason: str) -> None:
        """Those that have begun are told, and the others do not begin."""
        self._withdraw(executions, reason)
        for execution in executions:
            execution.context.signal.set(reason)
        if executions or self._stopping:
            self._changed.notify_all()

    def _withdraw(self, executions: Iterable[Execution], reason: str) -> None:
        withdrawn = self._executor.withdraw(executions)
        self._finished.extend((execution, Interrupted(reason)) for execution in withdrawn)

    def _ended(self, execution: Execution, outcome: Outcome) -> None:
        self._finished.append((execution, outcome))
        if self._waiting and not self._told:
            self._told = True  # whoever ends next need not wait for the lock, too
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
                self._executor.withdraw(self._active.all())
                self._changed.notify_all()

    def _next(self) -> tuple[list[Ended], int] | None:
        """Wait for something to do: the outcomes to store and how many runs to claim; None at the end."""
        with self._changed:
            while True:
                if self._is_over():
                    self._changed.notify_all()
                    return None
                pause = self._backoff - monotonic()
                rests = self._rests()
                if pause <= 0 and not rests and (work := self._work()) is not None:
                    return work
                if self._is_over():  # the handler that was waited for had come back
                    continue
                waiting = pause if pause > 0 else self._leisure()
                if self._executing and self._executor.relieve():
                    waiting = min(waiting, _RELIEF)
                self._told = False
                self._waiting += not rests
                if rests or pause > 0 or not self._finished:
                    self._changed.wait(waiting)
                self._waiting -= not rests
                self._told = False

    def _rests(self) -> bool:
        """Whether to wait for the lane under way: where enough runs are ready, a larger batch costs no time."""
        if not self._in_flight or self._ahead is None:
            return False
        return self._ahead.is_ample(self._ready.waiting) and self._patience() > 0

    def _leisure(self) -> float:
        """How long, in seconds, there will be nothing to do unless somebody tells."""
        # Where nothing can be claimed, it does not matter that it is time to look.
        can_claim = not self._rests() and self._room() > 0 and not self._appetite.awaits_look
        leisure = self._appetite.until_poll(monotonic()) if can_claim else self._poll_interval
        return max(0.0, min(leisure, self._patience()))

    def _patience(self) -> float:
        """In how many seconds the first of the runs that are ready will have waited for too long."""
        since = None if self._ahead is None else self._ready.oldest()
        return inf if since is None else since + PATIENCE - monotonic()

    def _work(self) -> tuple[list[Ended], int] | None:
        """The outcomes that wait and the slots that are free, taken for one transaction; None if there are neither."""
        self._give_back()
        self._retried, batch = [], self._retried
        batch += self._collect()
        # Each of these may have been what another run of its partition waits for.
        if self._limits and any(execution.run.queue in self._limits for execution, _ in batch):
            self._appetite.hungry = True
        wanted = self._appetite.wanted(self._room(), self._executing, monotonic())
        if not batch and not wanted:
            return None
        self._in_flight += 1
        self._appetite.asks(wanted, monotonic())
        return batch, wanted

    def _is_over(self) -> bool:
        idle = not (self._executing or self._retried or self._in_flight)
        if self._drain and self._appetite.dry and idle:
            self._stopping = self._cut = True
        return self.error is not None or (self._stopping and idle and (self._cut or not self._lingering))

    def _give_back(self) -> None:
        """Part with the runs that are ready, if the first of them has waited for too long."""
        if self._ahead is not None and self._patience() <= 0:
            self._ahead.gave_back(monotonic())
            self._withdraw(self._ready.line(), _NO_SLOT)

    def _room(self) -> int:
        """How many runs could be claimed now."""
        if self._stopping or not self._appetite.may_look:
            return 0
        slots = self._concurrency - self._executing - self._lingering - self._ready.leaving - self._appetite.claiming
        if self._ahead is not None:
            slots += self._ahead.wanted(monotonic(), self._ready.left, self._ready.spent)
        return min(self._share, slots)

    def _exchange(self, batch: list[Ended], wanted: int) -> None:
        began, stores = monotonic(), self._stores
        try:
            session = self._runtime.session()
            current = [ended for ended in batch if session_of(ended[0].run) == session.holder.session_id]
            claimed, open_still = self._trips.go(current, wanted, session.holder)
            left = self._trips.left(current)
            ends = self._drain and not (batch or claimed or self._executing or self._in_flight > 1)
            passed_over = ends and self._claims.passed_over(session.holder)
            if not open_still:
                session.distrust("maintenance has ended it")
                self.ring()  # under another session there may be something
        except RunlaneError as error:
            if error.retryable:
                log.warning("outcomes and claims have to wait: %s", error)
            elif not batch:
                raise
            if isinstance(error, ProjectionFailed) or not error.retryable:
                batch = self._store_apart(batch)
            self._postpone(batch, wanted)
            return
        if len(current) < len(batch):
            log.warning("dropped %d outcomes of a lost worker session", len(batch) - len(current))
        if passed_over:
            self._wait_for_locks()
        if wanted and self._ahead is not None:
            with self._changed:
                self._ahead.returned(monotonic() - began)
        done = [ended for ended in batch if ended not in left] if left else batch
        self._settle(done, sum(map(is_an_end, current)) - sum(map(is_an_end, left)), wanted, claimed, stores, left)
        if queues := {execution.run.queue for execution, outcome in current if outcome == Interrupted(_NO_SLOT)}:
            self.ring()
            self._runtime.ring(queues)  # another worker may have a slot for them

    def _postpone(self, batch: list[Ended], wanted: int) -> None:
        """Nothing was stored: keep the outcomes, and leave the database alone for a moment.

        Once cut off, who waits for the end comes before them: their leases expire.
        """
        with self._changed:
            if self._cut:
                self._forget(batch)
                self._given_up += len(batch)
            else:
                self._retried += batch
            self._appetite.was_refused(wanted)
            self._in_flight -= 1
            self._backoff = monotonic() + _BACKOFF
            self._changed.notify_all()

    def _settle(
        self,
        batch: list[Ended],
        stored: int,
        wanted: int,
        claimed: list[Run],
        stores: int,
        left: Sequence[Ended] = (),
    ) -> None:
        executions = self._trips.executions(claimed)
        with self._changed:
            self._forget(batch)
            for execution in executions:
                self._active.add(execution)
            self._executing += len(executions)
            self._retried += left
            self._in_flight -= 1
            self.completed += stored
            self._stores += bool(batch)
            self._appetite.found(len(claimed), wanted, bool(batch), stores != self._stores)
            if self._stopping:
                # Claimed while the stop was asked for: given back before their handlers have begun.
                self._finished.extend((execution, Interrupted("worker_stopping")) for execution in executions)
                executions = []
            called = self._executor.admit(executions)
            # To a lone run another lane has nothing to add: this one goes on by itself.
            if self._stopping or self._drain or self._appetite.hungry or self._executing > 1:
                self._changed.notify_all()
        if claimed:
            self._part_unless_trusted(session_of(claimed[0]))
        self._executor.call(called)

    def _forget(self, batch: Sequence[Ended]) -> None:
        self._active.forget(execution for execution, _ in batch)

    def _wait_for_locks(self) -> None:
        """What is due is locked: it is not the end of a drain, and worth another look in a moment."""
        log.info("runs that are due are locked by another transaction")
        with self._changed:
            self._appetite.rang_late()
            self._backoff = monotonic() + _BACKOFF

    def _store_apart(self, batch: list[Ended]) -> list[Ended]:
        """Store outcomes one by one after a batch was refused; those that have to wait."""
        left: list[Ended] = []
        for ended in self._trips.store_apart(batch, left, lambda: self._stopping):
            with self._changed:
                self._forget([ended])
                self.completed += is_an_end(ended)
                self._stores += 1
                self._appetite.hungry, self._appetite.dry = True, False
        return left
