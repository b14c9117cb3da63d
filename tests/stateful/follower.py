"""Follows the log of one environment, event by event: what SPEC section 17 says must hold at each of its positions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen

from runlane import codec
from runlane.events import (
    IdempotencyReset,
    QueuePaused,
    QueueResumed,
    Recorded,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunsPruned,
    RunSucceeded,
    ScheduleFired,
)
from runlane.projections import runs as fold
from runlane.projections.runs import Run
from runlane.storage import rows
from runlane.values import Actor
from tests.stateful.reader import Reader

ENDS = (RunSucceeded, RunFailed, RunCancelled)
OUTCOMES = (RunSucceeded, RunFailed, RunReleased, RunRetryScheduled, RunInterrupted, RunLeaseExpired)


@frozen
class Told:
    """An event as the model speaks of it: the stream, the stored type, the actor."""

    stream: Any
    type: str
    actor: str
    record: Recorded


class Follower:
    """Histories, their folds, and what is in use, as of the last position that was read.

    Args:
        limits: the concurrency limits of queues that have one.
        max_events: the greatest length of a run's history.
    """

    def __init__(self, reader: Reader, environment: str, limits: dict[str, int], max_events: int) -> None:
        self._reader = reader
        self._environment = environment
        self._limits = limits
        self._max_events = max_events
        self.position = reader.last_position()
        self.histories: dict[UUID, list[Recorded]] = {}
        self.folds: dict[UUID, Run] = {}
        self._names: dict[UUID, Any] = {}
        self._lengths = Counter[UUID]()
        self._owners: dict[tuple[str, str], UUID] = {}
        self._singletons: dict[tuple[str, str], UUID] = {}
        self._occupied = Counter[tuple[str, str | None]]()
        self._fired: set[tuple[str, datetime]] = set()
        self.counts = Counter[str]()

    def follow(self) -> list[Told]:
        """Read on, check what was appended and the rows that it changed; the new events."""
        told = []
        touched: dict[UUID, None] = {}
        pruned: list[RunsPruned] = []
        news, stored = self._reader.news(self.position)
        for stream, sequence, type, version, data, at, environment, actor, position in news:
            assert environment == self._environment, "another environment was written to"
            assert position > self.position, "invariant 15: a reader by position misses nothing"
            self.position = position
            event = codec.decode(type, version, data)
            record = Recorded(stream, sequence, event, at, environment, Actor.parse(actor), position)
            self.counts[type] += 1
            if type.startswith("run."):
                self._advance(record)
                touched[stream] = None
                told.append(Told(stream, type, actor, record))
            else:
                self._note(record)
                if isinstance(event, RunsPruned):
                    pruned.append(event)
                told.append(Told(self._name(record), type, actor, record))
        if touched:
            self._compare(list(touched), stored)
        assert len(pruned) <= 1
        if pruned:
            self.expected_prune = pruned[0]
        return told

    def forget(self, ids: Sequence[UUID]) -> None:
        """These runs are said to be pruned: the event has to prove it, and nothing may be left of them."""
        event = self.expected_prune
        lines = "\n".join(f"{id}:{len(self.histories[id])}" for id in sorted(ids))
        assert event.digest == hashlib.sha256(lines.encode()).hexdigest()
        assert (event.runs, event.events) == (len(ids), sum(len(self.histories[id]) for id in ids))
        for id in ids:
            assert self.folds.pop(id).is_terminal, "an active run was pruned"
            for record in self.histories.pop(id):
                self.counts[codec.STORED_AS[type(record.event)][0]] -= 1
        assert self._reader.remains(ids) == 0, "invariant 14: a pruned run leaves no orphan row"

    def _advance(self, record: Recorded) -> None:
        """The next event of a run: invariants 2, 3, 4, 5, 12 and 13 on its history, 7, 8 and 9 across runs."""
        history = self.histories.setdefault(record.stream_id, [])
        event, before = record.event, self.folds.get(record.stream_id)
        assert record.sequence == len(history) + 1, "invariant 5: sequences have no gap"
        assert not history or record.occurred_at >= history[-1].occurred_at, "time ran backwards"
        assert not history or not isinstance(history[-1].event, ENDS), "invariant 4: nothing follows the end"
        assert len(history) < self._max_events, "the history grew past its bound"
        lease = None if before is None or before.lease is None else (before.lease.session_id, before.lease.attempt)
        if isinstance(event, RunLeased):
            assert lease is None, "invariant 2: leased twice"
        elif isinstance(event, OUTCOMES):
            assert (event.session_id, event.attempt) == lease, "invariant 3: written without the lease"
        if any(isinstance(past.event, RunCancellationRequested) for past in history[-1:]):
            assert isinstance(event, (RunCancelled, RunFailed)), "invariant 12: a cancellation was lost"
        after = fold.born(record) if before is None else fold.after(before, record)
        history.append(record)
        self.folds[record.stream_id] = after
        self._count(history, after)
        self._share(record, after, leased=(lease is not None, after.lease is not None))

    def _count(self, history: Sequence[Recorded], run: Run) -> None:
        last = history[-1].event
        if isinstance(last, (RunReleased, RunFailed, RunRetryScheduled, *ENDS)):
            kinds = Counter(type(record.event) for record in history)
            assert run.release_count == kinds[RunReleased]
            assert run.failure_count == kinds[RunRetryScheduled] + kinds[RunFailed], "invariant 13"
            assert run.retry_count == kinds[RunRetryScheduled]
            assert run.attempt_count == kinds[RunLeased]

    def _share(self, record: Recorded, run: Run, leased: tuple[bool, bool]) -> None:
        if isinstance(record.event, RunCreated):
            for owners, key, what in (
                (self._owners, run.created.idempotency_key, "invariant 7: two active owners of key"),
                (self._singletons, run.created.singleton_key, "invariant 8: two active singletons of key"),
            ):
                if key is not None:
                    assert (run.task_id, key) not in owners, f"{what} {key}"
                    owners[run.task_id, key] = run.id
        elif run.is_terminal:
            for owners, key in (
                (self._owners, run.created.idempotency_key),
                (self._singletons, run.created.singleton_key),
            ):
                if key is not None:
                    assert owners.pop((run.task_id, key)) == run.id
        place = (run.queue, run.created.concurrency_key)
        self._occupied[place] += leased[1] - leased[0]
        limit = self._limits.get(run.queue)
        assert limit is None or self._occupied[place] <= limit, f"invariant 9: too many leases of {place}"

    def _note(self, record: Recorded) -> None:
        """The next event of a stream that is no run's."""
        self._lengths[record.stream_id] += 1
        assert record.sequence == self._lengths[record.stream_id], "invariant 5: sequences have no gap"
        event = record.event
        if isinstance(event, ScheduleFired):
            occurrence = (self._name(record)[1], event.scheduled_for)
            assert occurrence not in self._fired, "invariant 10: an occurrence fired twice"
            self._fired.add(occurrence)
            run = self.folds[event.run_id]
            if run.source.schedule_id == occurrence[0] and run.source.scheduled_for == event.scheduled_for:
                assert run.source.occurrence_id == event.occurrence_id

    def _name(self, record: Recorded) -> Any:
        """What the model calls the stream."""
        if (known := self._names.get(record.stream_id)) is None:
            match record.event:
                case QueuePaused(queue=queue) | QueueResumed(queue=queue):
                    known = ("queue", queue)
                case IdempotencyReset(task_id=task, key=key):
                    known = ("key", task, key)
                case RunsPruned():
                    known = ("environment",)
                case _:  # a schedule's first event has its id for an actor
                    known = ("schedule", record.actor.id)
            self._names[record.stream_id] = known
        return known

    def _compare(self, ids: Sequence[UUID], stored: dict[UUID, tuple[Any, ...]]) -> None:
        """Invariant 6, for the runs that were touched."""
        for id in ids:
            row, folded = stored.get(id), self._reader.as_stored(rows.birth_values(self.folds[id]))
            if row != folded:
                assert row is not None, f"invariant 6: run {id} has no row"
                differences = {
                    name: pair for name, *pair in zip(rows.BIRTH, row, folded, strict=True) if pair[0] != pair[1]
                }
                raise AssertionError(f"invariant 6: stored and folded differ on run {id}: {differences}")
