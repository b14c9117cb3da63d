"""What the cases of the suites share: changes made by hand, many threads at once, and what an adapter promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from attrs import evolve

from runlane import decisions
from runlane.capabilities import Capability
from runlane.clock import SettableClock
from runlane.decisions import MAX_EVENTS, Change, Outcome, Succeeded
from runlane.engine import lease
from runlane.engine.complete import Finished, complete
from runlane.engine.lease import UNLIMITED, Holder
from runlane.engine.trigger import NewRun, Triggered, trigger
from runlane.events import Recorded, RunCreated
from runlane.policy import ONE_ATTEMPT, Retry
from runlane.projections.runs import Run
from runlane.storage import log, queries, replay, sessions, streams
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction
from runlane.values import APPLICATION, new_run_id

T = TypeVar("T")

#: Seconds that a case waits for a thread of its own, at most.
PATIENCE = 30.0
START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
ENVIRONMENT, QUEUE, TASK = "conformance", "work", "task"


def needs(*capabilities: Capability) -> Callable[[T], T]:
    """Marks a case, or every case of a class, as one of a promise that not every adapter makes."""

    def mark(target: Any) -> Any:
        cases = list(vars(target).items()) if isinstance(target, type) else [("test_", target)]
        for name, case in cases:
            if name.startswith("test_"):
                case.needs = (*getattr(case, "needs", ()), *capabilities)
        return target

    return mark


def skip_unpromised(request: pytest.FixtureRequest, promised: frozenset[Capability]) -> None:
    """Skip the case of a promise that the adapter does not make."""
    for capability in getattr(request.function, "needs", ()):
        if capability not in promised:
            pytest.skip(f"the adapter does not promise {capability}")


def new(payload: Any = None, *, delay: timedelta | None = None, **options: Any) -> NewRun:
    """A request for a run of ``TASK``; `options` are fields of ``RunCreated``."""
    if options.get("idempotency_key") is not None:
        options.setdefault("idempotency_ttl", "30d")
    created = RunCreated(options.pop("task_id", TASK), options.pop("queue", QUEUE), payload, **options)
    return NewRun(new_run_id(), created, APPLICATION, delay)


def birth(wanted: NewRun | None = None, *, run_id: UUID | None = None, at: datetime = START) -> Change:
    """The change that creates a run."""
    wanted = wanted or new()
    events = decisions.create(wanted.created, wanted.delay, at)
    return decisions.begin(run_id or wanted.id, ENVIRONMENT, events, at, APPLICATION)


def told(records: Sequence[Recorded]) -> list[Recorded]:
    """Events without their positions, which only the log knows."""
    return [evolve(record, position=None) for record in records]


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Call all of them at the same moment, each on a thread of its own; their results in order."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        barrier.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [future.result(PATIENCE) for future in [threads.submit(begin, work) for work in works]]


class Store:
    """A storage with a clock that stands still, and the engine's steps in a transaction each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = SettableClock(START)

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction of its own."""
        return self.database.transact(work, self.clock)

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction that only reads."""
        with self.database.read(self.clock) as tx:
            return work(tx)

    def append(self, *changes: Change) -> set[UUID]:
        """Append changes; the ids of those that lost."""
        return self.transact(lambda tx: log.append_runs(tx, changes))

    def trigger(self, *wanted: NewRun) -> list[Triggered]:
        """Create runs."""
        return self.transact(lambda tx: trigger(tx, ENVIRONMENT, wanted))

    def run(self, id: UUID) -> Run:
        """The run as a reader sees it."""
        found = self.read(lambda tx: queries.get_run(tx, ENVIRONMENT, id))
        assert found is not None, f"run {id} was stored, and is not read back"
        return found

    def history(self, id: UUID) -> list[Recorded]:
        """The events of a run, without positions."""
        return told(self.read(lambda tx: streams.read_stream(tx, id)))

    def hold(self, lasts: timedelta = HOUR) -> Holder:
        """Open the session of a worker."""
        holder = Holder(uuid4(), "worker")

        def work(tx: Transaction) -> None:
            now = tx.now()
            sessions.open_session(tx, holder.session_id, ENVIRONMENT, holder.worker_id, now, now + lasts)

        self.transact(work)
        return holder

    def claim(
        self,
        holder: Holder,
        most: int = 1,
        *,
        queues: Sequence[str] = (QUEUE,),
        tasks: Sequence[str] = (TASK,),
        limits: Mapping[str, int] = UNLIMITED,
        environment: str = ENVIRONMENT,
    ) -> list[Run]:
        """Lease up to `most` due runs."""
        return self.transact(lambda tx: lease.claim(tx, environment, holder, queues, tasks, most, tx.now(), limits))

    def finish(self, run: Run, outcome: Outcome | None = None, retry: Retry = ONE_ATTEMPT) -> Run | None:
        """Append the outcome of a leased run's attempt; None if it was dropped."""
        finished = Finished(run, outcome or Succeeded(), retry)
        return self.transact(lambda tx: complete(tx, [finished], tx.now(), MAX_EVENTS)[0])

    def end(self, wanted: NewRun, outcome: Outcome | None = None) -> Run:
        """Create a run, claim it and end its only attempt."""
        self.trigger(wanted)
        (leased,) = self.claim(self.hold(), tasks=[wanted.created.task_id], queues=[wanted.created.queue])
        after = self.finish(leased, outcome)
        assert after is not None, f"the outcome of run {leased.id} was dropped, though its lease was held"
        return after

    def verify(self) -> None:
        """Fail unless every stored row is what the log folds to."""
        with self.database.snapshot() as tx:
            found = replay.verify(tx, ENVIRONMENT, None)
        assert found.differences == (), f"what is stored is not what the log folds to: {found.differences}"


class StorageCases:
    """The fixtures of the storage's suites."""

    @pytest.fixture
    def storage(self) -> Database:
        """The adapter, on a place without any runs of its own: yours to provide."""
        pytest.fail("a subclass of StorageConformance needs a fixture `storage` that returns a Database", pytrace=False)

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, storage: Database) -> Iterator[Store]:
        """The adapter, migrated; afterwards its log and its rows have to agree."""
        skip_unpromised(request, storage.capabilities)
        storage.migrate()
        store = Store(storage)
        yield store
        try:
            store.verify()
        finally:
            storage.dispose()
