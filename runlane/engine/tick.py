"""The maintenance pass.  Every item is a small transaction of its own, safe with any number of tickers at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from attrs import frozen

from runlane.clock import Clock
from runlane.engine import deliver, lease, schedule
from runlane.engine.lease import Recovered
from runlane.errors import PayloadUnreadable, ProjectionFailed, RunlaneError, StorageConflict
from runlane.policy import ONE_ATTEMPT
from runlane.registry import Registry
from runlane.storage import claims, schedules, sessions, waiting
from runlane.storage.database import Database
from runlane.storage.outbox import REDELIVERY
from runlane.storage.transaction import Transaction
from runlane.values import new_run_id
from runlane.vault import PLAIN, Vault

T = TypeVar("T")

log = logging.getLogger("runlane.tick")

#: The most items of a step that one pass handles.
BATCH = 100


@frozen
class TickReport:
    """What a maintenance pass did; `more` says that work was left for the next one."""

    sessions_expired: int = 0
    runs_recovered: int = 0
    cancellations_finalized: int = 0
    reservations_expired: int = 0
    schedules_changed: int = 0
    schedules_fired: int = 0
    deliveries_requested: int = 0
    slots_reserved: int = 0
    wakeups_published: int = 0
    wakeups_failed: int = 0
    wakeups_dead_lettered: int = 0
    errors: tuple[str, ...] = ()
    more: bool = False


class Tick:
    """One pass of maintenance over an environment.

    Args:
        registry: the definitions of this process; schedules of other tasks, and slots of other queues, are left to
            those who know them.
        max_events: the greatest length of a run's history.
        vault: decodes the payloads of schedules, and encodes those of their runs.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None,
        environment: str,
        registry: Registry,
        max_events: int,
        vault: Vault = PLAIN,
    ) -> None:
        self._database = database
        self._clock = clock
        self._environment = environment
        self._registry = registry
        self._max_events = max_events
        self._vault = vault
        self._counts: Counter[str] = Counter()
        self._errors: list[str] = []
        self._more = False
        #: Whether the schedules of this process have been recorded.
        self.deployed = False

    def run(self, *, deploy: bool, sweep: bool = False) -> TickReport:
        """Recover what expired sessions held, give back slots, make the runs of due schedules, ask for deliveries.

        Args:
            deploy: also record the registered schedules, as the first pass of a process does.
            sweep: also look for queued runs that nobody has asked the delivery of.

        Raises:
            StorageUnavailable: the database cannot be reached; other faults of single items are in the report.
        """
        self._recover()
        if self._registry.delivers:
            self._expire_reservations()
        if deploy:
            self._guard(self._deploy, "recording the schedules")
        self._fire()
        if self._registry.delivers:
            self._request_deliveries()
            if sweep:
                self._sweep()
            self._reserve()
        return TickReport(**self._counts, errors=tuple(dict.fromkeys(self._errors)), more=self._more)

    def _deploy(self) -> None:
        wanted, tasks = schedule.definitions(self._registry), list(self._registry.tasks)
        self._counts["schedules_changed"] = self._transact(
            lambda tx: schedule.deploy(tx, self._environment, wanted, tasks, self._vault)
        )
        self.deployed = True

    def _recover(self) -> None:
        with self._database.read(self._clock) as tx:
            found = sessions.expired_sessions(tx, self._environment, tx.now(), BATCH)
            found += claims.orphaned_sessions(tx, self._environment, BATCH)
        before = self._progress("sessions_expired", "runs_recovered", "cancellations_finalized")
        for session_id in found:
            self._guard(partial(self._recover_session, session_id), f"recovering session {session_id}")
        after = self._progress("sessions_expired", "runs_recovered", "cancellations_finalized")
        self._more |= len(found) >= BATCH and after > before

    def _recover_session(self, session_id: UUID) -> None:
        try:
            while self._take_back(session_id).more:
                pass
        except Exception as error:
            if _is_away(error):
                raise
            with self._database.read(self._clock) as tx:
                held = [one.run_id for one in claims.leases_of(tx, session_id)]
            if not held:
                raise
            log.warning("the %d runs of session %s are recovered in parts: %s", len(held), session_id, error)
            for start in range(0, len(held), BATCH):
                self._by_halves(partial(self._take_back, session_id), held[start : start + BATCH], "recovering")
        else:
            self._counts["sessions_expired"] += 1

    def _take_back(self, session_id: UUID, run_ids: Sequence[UUID] | None = None) -> Recovered:
        done = self._transact(
            lambda tx: lease.recover_session(
                tx, session_id, self._max_lost, self._max_events, self._registry.wakes, run_ids=run_ids
            )
        )
        self._counts["runs_recovered"] += done.runs
        self._counts["cancellations_finalized"] += done.cancelled
        return done

    def _max_lost(self, task_id: str) -> int:
        task = self._registry.tasks.get(task_id)
        return (task.retry if task is not None else ONE_ATTEMPT).max_lost

    def _expire_reservations(self) -> None:
        with self._database.read(self._clock) as tx:
            late = deliver.expired_reservations(tx, self._environment, list(self._registry.limits()), BATCH)
        for start in range(0, len(late), BATCH):
            some = partial(deliver.expire_reservations, run_ids=late[start : start + BATCH])
            self._count("reservations_expired", some)

    def _fire(self) -> None:
        tasks = [task.id for task in self._registry.tasks.values() if task.schedules]
        if not tasks:
            return
        until, last = None, None
        # Those that cannot fire stay due and stand in front: page by page, until a batch of others has fired.
        while self._counts["schedules_fired"] < BATCH:
            with self._database.read(self._clock) as tx:
                until = until or tx.now()
                found = schedules.due_schedules(tx, self._environment, tasks, until, BATCH, last)
            due = [one.stream_id for one in found]
            for stream_id in self._fire_together(due) if len(due) > 1 else due:
                self._guard(partial(self._fire_these, [stream_id]), f"firing schedule {stream_id}")
            if len(found) < BATCH:
                return
            last = found[-1]
        self._more = True

    def _fire_together(self, due: Sequence[UUID]) -> Sequence[UUID]:
        """Fire schedules in one transaction; those that have to be fired by themselves."""
        try:
            return self._fire_these(due)
        except Exception as error:
            if _is_away(error) and not isinstance(error, StorageConflict):
                raise
            log.warning("%d due schedules are fired one by one: %s", len(due), error)
            return due

    def _fire_these(self, stream_ids: Sequence[UUID]) -> Sequence[UUID]:
        new_ids = {stream_id: new_run_id() for stream_id in stream_ids}
        fired = self._transact(lambda tx: schedule.fire(tx, self._registry, new_ids, self._vault))
        self._counts["schedules_fired"] += len(fired.runs)
        return fired.left

    def _request_deliveries(self) -> None:
        """Of unbounded queues; those of bounded ones are asked for once they have a slot."""
        for queue in filter(self._registry.wakes, self._registry.queues):
            with self._database.read(self._clock) as tx:
                due = waiting.due_waiting(tx, self._environment, queue, tx.now(), BATCH)
            before = self._counts["deliveries_requested"]
            self._request(deliver.request_deliveries, due)
            self._more |= len(due) >= BATCH and self._counts["deliveries_requested"] > before

    def _request(self, ask: Callable[[Transaction, Sequence[UUID]], int], run_ids: Sequence[UUID]) -> None:
        def request(some: Sequence[UUID]) -> None:
            self._counts["deliveries_requested"] += self._transact(lambda tx: ask(tx, some))

        if run_ids:
            self._by_halves(request, run_ids, "requesting the delivery of")

    def _sweep(self) -> None:
        for queue in filter(self._registry.wakes, self._registry.queues):
            done = -1
            while done < self._counts["deliveries_requested"]:
                done = self._counts["deliveries_requested"]
                with self._database.read(self._clock) as tx:
                    now = tx.now()
                    ids = waiting.unasked(tx, self._environment, queue, now, now - REDELIVERY, BATCH)
                self._request(lambda tx, some: deliver.request_again(tx, some, self._max_events), ids)

    def _reserve(self) -> None:
        limits, tasks = self._registry.limits(), list(self._registry.tasks)
        timeouts = self._registry.dispatch_timeouts()
        before = self._counts["slots_reserved"]
        self._count(
            "slots_reserved",
            lambda tx: deliver.reserve_slots(tx, self._environment, limits, timeouts, tasks, self._max_events, BATCH),
        )
        self._more |= self._counts["slots_reserved"] - before >= BATCH

    def _count(self, what: str, work: Callable[[Transaction], int]) -> None:
        """Do `work` in a transaction of its own, and count what it did."""

        def counted() -> None:
            self._counts[what] += self._transact(work)

        self._guard(counted, what.replace("_", " "))

    def _by_halves(self, work: Callable[[Sequence[UUID]], object], run_ids: Sequence[UUID], what: str) -> None:
        """Do `work` to runs at once; where that fails to each half of them, so that a bad run stops no other."""
        middle = len(run_ids) // 2
        if not middle:
            self._guard(partial(work, run_ids), f"{what} run {run_ids[0]}")
            return
        try:
            work(run_ids)
        except StorageConflict:
            log.debug("%s %d runs was done by somebody else", what, len(run_ids))
        except Exception as error:
            if _is_away(error):
                raise
            self._by_halves(work, run_ids[:middle], what)
            self._by_halves(work, run_ids[middle:], what)

    def _progress(self, *what: str) -> int:
        return sum(self._counts[one] for one in what)

    def _transact(self, work: Callable[[Transaction], T]) -> T:
        return self._database.transact(work, self._clock)

    def _guard(self, work: Callable[[], object], what: str) -> None:
        """One bad item does not stop the rest; a database that is away does."""
        try:
            work()
        except StorageConflict:
            log.debug("%s was done by somebody else", what)
        except RunlaneError as error:
            if _is_away(error):
                raise
            log.exception("%s failed", what)
            self._errors.append(f"{what}: {error}")
        except Exception as error:
            log.exception("%s failed", what)
            self._errors.append(f"{what}: {type(error).__name__}")


def _is_away(error: Exception) -> bool:
    """Whether it is the database that cannot, rather than this item.

    What a projection cannot fold is one bad item, and so is what lacks its key for now.
    """
    of_item = isinstance(error, (PayloadUnreadable, ProjectionFailed))
    return isinstance(error, RunlaneError) and error.retryable and not of_item
