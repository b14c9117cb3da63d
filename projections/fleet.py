"""All runs of an environment as of an instant: how many were where, who worked, and who held a key."""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from attrs import frozen

from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.values import RunStatus

T = TypeVar("T")


class KeyKind(StrEnum):
    """What a key is for."""

    SINGLETON = "singleton"
    CONCURRENCY = "concurrency"
    IDEMPOTENCY = "idempotency"


@frozen
class Holding:
    """A run that was leased: to whom, for which attempt, and since when.

    A run that was asked to stop (``cancellation_requested``) is leased until it has.
    """

    run_id: UUID
    task_id: str
    queue: str
    status: RunStatus
    worker_id: str
    session_id: UUID
    attempt: int
    since: datetime


@frozen
class HeldKey:
    """A key that a run held.

    An idempotency or singleton key is one of the task's and held since the run was created; of a concurrency key, one
    of the queue's, a run takes a slot while it is leased, or one is reserved for it.  Queues without a limit count
    nothing, but the log does not know which had one: the runs with a key that were leased there are told as well.
    """

    kind: KeyKind
    key: str
    task_id: str
    queue: str
    run_id: UUID
    status: RunStatus
    since: datetime


@frozen
class Fleet:
    """An environment as of an instant, as far as the log still tells of it.

    Attributes:
        environment: of which environment.
        at: the instant; what happened at it has happened.
        runs: how many runs there were, ended ones too.
        events: how many of their events had been written.
        counts: how many runs were in each status on each queue; a combination without runs is left out.
        running: the runs that were leased, those first that were for longest.
        running_count: how many those are, listed or not.
        keys: the keys that were held, by kind, key and task or queue.
        key_counts: how many keys of each kind were held, listed or not; of concurrency keys each slot counts.
        paused: the queues that were paused, by name.
        pruned_since: how many runs have been pruned since.  They are not counted above, whatever they were then; some
            of them were not there yet.
        unreadable: streams that cannot be folded, and so are not counted either: ``audit.verify`` says why.
        unreadable_count: how many those are, listed or not.
    """

    environment: str
    at: datetime
    runs: int
    events: int
    counts: Mapping[str, Mapping[RunStatus, int]]
    running: tuple[Holding, ...]
    running_count: int
    keys: tuple[HeldKey, ...]
    key_counts: Mapping[KeyKind, int]
    paused: tuple[QueueControl, ...]
    pruned_since: int
    unreadable: tuple[UUID, ...]
    unreadable_count: int


class Tally:
    """Counts states one after the other; keeps no more of them than the answer has."""

    def __init__(
        self,
        environment: str,
        at: datetime,
        keeps_key: Callable[[Run, datetime], bool],
        freed: Container[UUID],
        limit: int,
    ) -> None:
        """Nothing is counted yet.

        Args:
            keeps_key: whether a run keeps the idempotency key it has taken, as of an instant.
            freed: the runs from which an operator had freed their key by then.
            limit: how many runs, and keys of each kind, are listed at most.
        """
        self._environment, self._at = environment, at
        self._keeps_key, self._freed = keeps_key, freed
        self._runs = self._events = self._pruned = 0
        self._counts: dict[str, Counter[RunStatus]] = defaultdict(Counter)
        self._running: _First[Holding] = _First(limit, lambda held: (held.since, held.run_id))
        self._keys = {
            kind: _First[HeldKey](limit, lambda held: (held.key, held.task_id, held.since, held.run_id))
            for kind in KeyKind
        }
        self._unreadable: _First[UUID] = _First(limit, lambda stream_id: stream_id)
        self._paused: list[QueueControl] = []

    def add_run(self, run: Run) -> None:
        """Count a run as it was then."""
        self._runs += 1
        self._events += run.sequence
        self._counts[run.queue][run.status] += 1
        lease = run.lease
        if lease is not None:
            self._running.add(
                Holding(
                    run.id,
                    run.task_id,
                    run.queue,
                    run.status,
                    lease.worker_id,
                    lease.session_id,
                    lease.attempt,
                    lease.leased_at,
                )
            )
        if run.singleton_key is not None and run.is_active:
            self._hold(KeyKind.SINGLETON, run.singleton_key, run, run.created_at)
        if run.concurrency_key is not None and (lease is not None or run.reservation is not None):
            since = lease.leased_at if lease is not None else run.reservation and run.reservation.reserved_at
            self._hold(KeyKind.CONCURRENCY, run.concurrency_key, run, since or run.updated_at)
        if run.idempotency_key is not None and run.id not in self._freed and self._keeps_key(run, self._at):
            self._hold(KeyKind.IDEMPOTENCY, run.idempotency_key, run, run.created_at)

    def add_queue(self, control: QueueControl) -> None:
        """Count a queue as it was then."""
        if control.paused:
            self._paused.append(control)

    def add_pruned(self, runs: int) -> None:
        """Count runs that have been pruned since."""
        self._pruned += runs

    def add_unreadable(self, stream_id: UUID) -> None:
        """Count a stream that cannot be folded."""
        self._unreadable.add(stream_id)

    def fleet(self) -> Fleet:
        """What was counted."""
        return Fleet(
            self._environment,
            self._at,
            self._runs,
            self._events,
            {queue: dict(self._counts[queue]) for queue in sorted(self._counts)},
            tuple(self._running.kept),
            self._running.count,
            tuple(held for kind in KeyKind for held in self._keys[kind].kept),
            {kind: self._keys[kind].count for kind in KeyKind},
            tuple(sorted(self._paused, key=lambda control: control.name)),
            self._pruned,
            tuple(self._unreadable.kept),
            self._unreadable.count,
        )

    def _hold(self, kind: KeyKind, key: str, run: Run, since: datetime) -> None:
        self._keys[kind].add(HeldKey(kind, key, run.task_id, run.queue, run.id, run.status, since))


class _First(Generic[T]):
    """The first `limit` of things that come in any order, and how many have come."""

    def __init__(self, limit: int, order: Callable[[T], Any]) -> None:
        self.kept: list[T] = []
        self.count = 0
        self._limit, self._order = limit, order

    def add(self, thing: T) -> None:
        self.count += 1
        if len(self.kept) == self._limit:
            if self._order(thing) >= self._order(self.kept[-1]):
                return
            self.kept.pop()
        insort(self.kept, thing, key=self._order)
