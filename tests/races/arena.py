"""Where races are run: fresh data on two processes' connections for each schedule, and what any of them must leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
from attrs import define, evolve, field

from runlane import Lane, Queue, Retry, Runlane, SettableClock, Task
from runlane.decisions import Outcome
from runlane.engine import lease
from runlane.engine.complete import Finished, complete
from runlane.lanes import lane_of
from runlane.policy import ONE_ATTEMPT
from runlane.projections.runs import Run
from runlane.storage import replay
from runlane.transport import Transport
from runlane.transport.local import LocalTransport
from tests.engine.sessions import session_of
from tests.races import checks
from tests.races.interleave import Race, explore, gate, watch
from tests.support import database_of

#: Long enough that no heartbeat comes by itself.
HEARTBEAT, LEASE = timedelta(hours=1), timedelta(hours=2)


class _OpenLane(Lane):
    """A lane whose connections outlive the runtimes on it."""

    def start(self) -> None:
        """The arena has."""

    def close(self) -> None:
        """The arena does."""


@define
class Place:
    """One schedule's environment, and the runtimes that the operations use."""

    environment: str
    clock: SettableClock
    lanes: Sequence[Lane]
    made: list[Runlane] = field(factory=list)

    def app(
        self, *tasks: Task[..., Any], queues: Iterable[Queue] = (), post: Transport | None = None, **options: Any
    ) -> Runlane:
        """A started runtime on connections of its own, with a session; `post` carries its wakeups."""
        lane = self.lanes[len(self.made) % len(self.lanes)]
        if post is not None:
            lane = _OpenLane(lane.database, post)
        options = {"clock": self.clock, "heartbeat": HEARTBEAT, "lease_duration": LEASE, **options}
        app = Runlane(lane, tasks=tasks, queues=queues, environment=self.environment, **options).start()
        self.made.append(app)
        session_of(app)
        return app

    def apps(self, *tasks: Task[..., Any], queues: Iterable[Queue] = (), **options: Any) -> tuple[Runlane, Runlane]:
        """Two of them."""
        queues = list(queues)
        return self.app(*tasks, queues=queues, **options), self.app(*tasks, queues=queues, **options)

    def wait(self, length: timedelta) -> None:
        """Let time pass; within an operation that is a step of its own."""
        gate("time passes")
        self.clock.advance(length)

    def outlive(self, gone: Runlane) -> None:
        """Let the time of one runtime's session run out; the others' go on."""
        self.wait(LEASE)
        for app in self.made:
            if app is not gone:
                session_of(app).beat()


@define
class Arena:
    """A database with three processes' connections."""

    lanes: Sequence[Lane]
    monitor: psycopg.Connection | None
    numbers: Iterator[int] = field(factory=lambda: count(1))

    @classmethod
    @contextmanager
    def on(cls, url: str, monitor: psycopg.Connection | None) -> Iterator[Arena]:
        """The database at `url`, watched."""
        lanes = [_OpenLane(lane_of(url).database, LocalTransport()) for _ in range(3)]
        for lane in lanes:
            lane.database.migrate()
            watch(lane.database)
        try:
            yield cls(lanes, monitor)
        finally:
            for lane in lanes:
                lane.database.dispose()

    @property
    def is_sqlite(self) -> bool:
        """Whether there is one writer at a time."""
        return self.monitor is None

    def race(self, scene: Callable[[Place], Race], *, switches: int = 2, few: int = 16) -> Counter[str]:
        """Run the race in every schedule with few switches; how often each course was taken.

        Every environment must satisfy the invariants at the end, beside what the race checks.
        """

        def fresh() -> Race:
            place = Place(f"race-{next(self.numbers)}", SettableClock(), self.lanes)
            race = scene(place)

            def check(*results: Any) -> str:
                course = race.check(*results)
                checks.every_invariant(place.made[0])
                for app in place.made:
                    app.close()
                return course

            return evolve(race, check=check)

        courses = explore(fresh, self.monitor, switches=switches, few=few)
        with self.lanes[0].database.snapshot() as tx:
            assert replay.verify(tx, None, None).differences == ()
        return courses


def claim(app: Runlane, limit: int = 1) -> list[Run]:
    """Lease due runs, as a worker of this runtime does, without executing them."""
    names, tasks, limits = list(app.registry.queues), list(app.registry.tasks), app.registry.limits()
    holder, clock = session_of(app).holder, app._runtime.clock
    return database_of(app).transact(
        lambda tx: lease.claim(tx, app.environment, holder, names, tasks, limit, tx.now(), limits), clock
    )


def finish(app: Runlane, run: Run, outcome: Outcome, retry: Retry = ONE_ATTEMPT) -> Run | None:
    """Store the outcome of a leased run, as its worker does; None if it was dropped."""
    finished = [Finished(run, outcome, retry)]
    return database_of(app).transact(lambda tx: complete(tx, finished, tx.now(), 10_000)[0], app._runtime.clock)


def ids(runs: Iterable[Run]) -> list[UUID]:
    """The ids of runs."""
    return [run.id for run in runs]
