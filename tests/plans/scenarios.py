"""What an application does on its hot paths and what operators ask, each with the number of rows it may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from attrs import frozen

from runlane import Queue, Runlane, RunStatus, Schedule, task
from runlane.clock import Clock
from runlane.engine import lease
from runlane.engine.lease import Holder
from runlane.engine.tick import Tick
from runlane.lanes import Lane
from runlane.requests import Trigger
from runlane.storage import claims
from runlane.storage.database import Database
from runlane.wakeup import Wakeup
from tests.engine.post import Post
from tests.engine.sessions import session_of, take
from tests.support import PATIENCE, eventually

A, B, C, EMPTY, PAUSED = map(Queue, ("a", "b", "c", "empty", "paused"))
UNUSED = Queue("unused", default=True)
#: A bounded queue: all of its slots are taken.
NARROW = Queue("narrow", concurrency_limit=1, dispatch_timeout="1m")
#: The same for a deployment that has given it a second slot.
WIDER = Queue("narrow", concurrency_limit=2, dispatch_timeout="1m")
CLAIMED, PAGE = 50, 50
#: No session beats by itself: it would give back what the claims took, in the middle of some other scenario.
CALM: Mapping[str, Any] = {"heartbeat": "1h", "lease_duration": "2h"}
#: The payload that fails.
FAILS = 13


@task("work")
def work(payload: int) -> int:
    """What every run of the crowd is to do."""
    if payload == FAILS:
        raise ValueError("no")
    return payload


@task("ticking", schedules=[Schedule("elsewhere", payload=1, every="1h")])
def ticking(payload: int) -> int:
    """What the schedules of the crowd make runs of."""
    return payload


@frozen
class Known:
    """What there is in a database: some runs in each state, in numbers that suffice for one pass; keys; sizes."""

    queued: Sequence[UUID]
    blocked: UUID
    paused: UUID
    leased: UUID
    failed: Sequence[UUID]
    ended: UUID
    asked: Sequence[UUID]
    source: UUID
    parent: UUID
    idempotency_key: str
    singleton_key: str
    correlation_id: str
    schedule_id: str
    holder: UUID
    #: How many runs that session holds, and how many are leased at all.
    held: int
    leases: int
    #: How many keys the bounded queue has, and how many runs are queued on the others.
    keys: int
    backlog: int
    clock: Clock
    #: How long ago some runs have ended.
    age: timedelta


@frozen
class Scenario:
    """Something that is done; its statements may each look at so many rows, and at least one looks at `table`.

    Those that `walk` may pass every run that there is on their way to them, each of them once and without its events.
    """

    name: str
    rows: int
    do: Callable[[], Any]
    table: str = "runs"
    walk: bool = False


class World:
    """Applications on one database, with and without a transport that carries wakeups."""

    def __init__(self, database: Callable[[], Database], known: Known) -> None:
        self._database = database
        self.known = known
        self._made: list[Runlane] = []
        self.app = self.deployed(A, B, C)
        self.post = Post()
        self.sending = self.deployed(A, B, C, EMPTY, NARROW, transport=self.post)

    def deployed(self, *queues: Queue, transport: Any = None) -> Runlane:
        """An application with these queues."""
        lane = Lane(self._database()) if transport is None else Lane(self._database(), transport)
        self._made.append(Runlane(lane, tasks=[work, ticking], queues=[*queues, UNUSED], **CALM).start())
        return self._made[-1]

    def close(self) -> None:
        """Close the applications."""
        for app in self._made:
            app.close()

    def scenarios(self) -> Iterator[Scenario]:
        """One pass over all of them."""
        yield from self._claims()
        yield from self._triggers()
        yield from self._leases()
        yield from self._maintenance()
        yield from self._looks()
        yield from self._health()
        yield from self._pages()
        yield from self._operations()

    def _claims(self) -> Iterator[Scenario]:
        known = self.known

        def claimed(*queues: Queue, most: int = CLAIMED, least: int = 0) -> Callable[[], None]:
            app = Runlane(self.app.lane, tasks=[work], queues=[*queues, UNUSED], **CALM)
            self._made.append(app)
            return lambda: _at_least(len(take(app, known.clock, most)), least)

        yield Scenario("claim of one queue", CLAIMED, claimed(A, least=CLAIMED))
        yield Scenario("claim of several queues", 4 * CLAIMED, claimed(A, B, C, EMPTY, PAUSED, least=CLAIMED))
        yield Scenario("claim of one run", 1, claimed(B, most=1, least=1))
        yield Scenario("claim of runs that waited", 2 * CLAIMED, claimed(C, least=CLAIMED))
        # A few runs of the queue that nobody names, which earlier scenarios have left, are claimed beside them.
        yield Scenario("claim of a paused queue", 15, claimed(PAUSED), "")
        yield Scenario("claim of an empty queue", 15, claimed(EMPTY))
        yield Scenario("claim of a full bounded queue", known.keys, claimed(NARROW))
        yield Scenario("claim of an open bounded queue", 2 * known.keys, claimed(WIDER, least=1))
        yield Scenario("a worker at work", 2 * CLAIMED, self._worker)

    def _worker(self) -> None:
        worker = self.app.worker(queues=[B], concurrency=CLAIMED, maintenance=False)
        worker.start()
        eventually(lambda: worker.completed >= 4 * CLAIMED, "the work")
        worker.stop(PATIENCE)

    def _triggers(self) -> Iterator[Scenario]:
        app, known = self.app, self.known
        yield Scenario("trigger", 1, lambda: app.trigger(work, 1, queue=A))
        yield Scenario(
            "trigger under a new key", 1, lambda: app.trigger(work, 1, queue=A, idempotency_key=f"new-{id(known)}")
        )
        yield Scenario(
            "trigger under a kept key", 1, lambda: app.trigger(work, 1, queue=A, idempotency_key=known.idempotency_key)
        )
        yield Scenario(
            "trigger of a singleton", 1, lambda: app.trigger(work, 1, queue=A, singleton_key=known.singleton_key)
        )
        many = [
            Trigger(work, 1, queue=A, concurrency_key=f"k{n}", idempotency_key=f"{id(known)}-{n}") for n in range(100)
        ]
        yield Scenario("trigger of many", 100, lambda: app.trigger_many(many))
        yield Scenario("trigger with a wakeup", 1, lambda: self.sending.trigger(work, 1, queue=A))
        yield Scenario("run now", 1, lambda: app.run_now(work, 1))
        yield Scenario("execute next", 1, lambda: app.execute_next([C]))

    def _leases(self) -> Iterator[Scenario]:
        app, known = self.app, self.known
        database = app.lane.database
        holder = Holder(known.holder, "worker")
        yield Scenario("heartbeat", 4 * CLAIMED, lambda: session_of(app).beat())
        yield Scenario(
            "leases of a session", known.held, lambda: database.transact(lambda tx: claims.leases_of(tx, known.holder))
        )
        given = {known.leased: 1}
        yield Scenario(
            "give back", 1, lambda: database.transact(lambda tx: lease.give_back(tx, holder, given, "stray", 9999))
        )

    def _maintenance(self) -> Iterator[Scenario]:
        known, app = self.known, self.sending
        database, registry = app.lane.database, app.registry
        tick = Tick(database, known.clock, "default", registry, 9999)
        yield Scenario("recovery", 500, tick._recover)
        yield Scenario("due schedules", 100, tick._fire, "schedules")
        yield Scenario("deliveries of what waited", 100, tick._request_deliveries)
        yield Scenario("sweep for runs without a wakeup", known.backlog, tick._sweep)
        yield Scenario("slots reserved", known.keys, tick._reserve)
        yield Scenario("slots given back", known.leases, tick._expire_reservations)
        yield Scenario("wakeups published", 100, self._flush, "outbox")
        yield Scenario("no fault in maintenance", 0, lambda: _no_faults(tick), "")
        yield Scenario("wakeup taken", 1, lambda: self._deliver(known.asked[0]))

    def _flush(self) -> None:
        dispatcher = self.sending._runtime._dispatcher
        assert dispatcher is not None
        assert dispatcher.flush().published

    def _deliver(self, run_id: UUID) -> None:
        run = self.sending.runs.get(run_id)
        self.sending.execute_delivery(Wakeup("default", run.id, run.queue, run.created_at, None))

    def _looks(self) -> Iterator[Scenario]:
        runs, known = self.app.runs, self.known
        bounded = self.deployed(NARROW).runs
        yield Scenario("get", 1, lambda: runs.get(known.ended))
        yield Scenario("events", 5, lambda: runs.events(known.ended), "events")
        for name, id_, look in (
            ("queued", known.queued[0], runs),
            ("paused", known.paused, runs),
            ("blocked", known.blocked, bounded),
            ("ended", known.ended, runs),
        ):
            yield Scenario(f"why {name}", 1000, partial(look.why, id_))
        key, single = known.idempotency_key, known.singleton_key
        yield Scenario("find active by key", 1, lambda: runs.find_active(work, idempotency_key=key))
        yield Scenario("find active singleton", 1, lambda: runs.find_active(work, singleton_key=single))
        yield Scenario("find current", 1, lambda: runs.find_current(work, key))

    def _health(self) -> Iterator[Scenario]:
        def examine() -> None:
            unmade = [check.found for check in self.app.doctor().checks if check.found.startswith("could not")]
            assert not unmade, unmade

        yield Scenario("doctor", 1000, examine)

    def _pages(self) -> Iterator[Scenario]:
        known, runs = self.known, self.app.runs
        moment = runs.get(known.ended).created_at
        filters: Sequence[Mapping[str, Any]] = (
            {},
            {"statuses": [RunStatus.FAILED]},
            {"statuses": [RunStatus.QUEUED]},
            {"statuses": [RunStatus.RUNNING]},
            {"statuses": [RunStatus.RETRYING, RunStatus.RELEASED]},
            {"tasks": [work]},
            {"queues": [A]},
            {"tasks": ["nobody's"], "queues": ["nobody's"]},
            {"idempotency_key": known.idempotency_key, "singleton_key": known.singleton_key},
            {"concurrency_key": "k1", "correlation_id": known.correlation_id},
            {"source_run_id": known.source, "parent_run_id": known.parent, "schedule_id": known.schedule_id},
            {"created_after": moment},
            {"created_after": moment, "created_before": moment + timedelta(seconds=9)},
        )
        # Those that find little pass a million runs: each in one order, but for the first few.
        for number, where in enumerate(filters):
            for order in ("newest", "oldest") if number < 2 else ("newest", "oldest")[number % 2 :][:1]:
                name = f"list by {', '.join(where) or 'nothing'}, {order}"
                walk = bool(where) and where != {"statuses": [RunStatus.FAILED]}
                yield Scenario(name, PAGE, partial(self._two_pages, where, order), walk=walk)

    def _two_pages(self, where: Mapping[str, Any], order: Any) -> None:
        page = self.app.runs.list(**where, order=order, limit=PAGE)
        if page.next_cursor is not None:
            self.app.runs.list(**where, order=order, limit=PAGE, cursor=page.next_cursor)

    def _operations(self) -> Iterator[Scenario]:
        app, known = self.app, self.known
        runs = app.runs
        yield Scenario("cancel", 1, lambda: runs.cancel(known.queued[0]))
        yield Scenario("rerun", 1, lambda: runs.rerun(known.failed[0]))
        yield Scenario("retry", 1, lambda: runs.retry(known.failed[0]))
        yield Scenario("cancel many", 10, lambda: runs.cancel_many(queues=[C], limit=10), walk=True)
        yield Scenario("retry many", 10, lambda: runs.retry_many(limit=10))
        yield Scenario("rerun many", 10, lambda: runs.rerun_many(statuses=["cancelled"], limit=10), walk=True)
        yield Scenario(
            "reset key", 1, lambda: app.idempotency_keys.reset(work, known.idempotency_key), "idempotency_keys"
        )
        yield Scenario("pause", 1, lambda: app.queues.pause(EMPTY), "")
        yield Scenario("resume", known.backlog, lambda: self.sending.queues.resume(EMPTY), "outbox")
        yield Scenario("prune", 100, lambda: _at_least(runs.prune(known.age, limit=100).runs, 1))
        yield Scenario("prune of nothing", 100, lambda: runs.prune("300d", limit=100), walk=True)


def _at_least(found: int, least: int) -> None:
    assert found >= least, f"{found} runs, where {least} were to be found"


def _no_faults(tick: Tick) -> None:
    assert not tick._errors
