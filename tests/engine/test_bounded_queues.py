"""Bounded queues through their faces: never more at once than allowed, over all runtimes, and never less for long."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from runlane import (
    Context,
    Queue,
    QueueCapacityExceeded,
    Release,
    Retry,
    Runlane,
    RunStatus,
    SettableClock,
    Trigger,
    task,
)
from runlane.events import RunCancelled, RunFailed, RunLeased
from runlane.policy import Fixed
from runlane.storage import streams
from tests.engine.sessions import EXPIRY, take
from tests.support import PATIENCE, at_once, database_of, eventually, types_of, written

Make = Callable[..., Runlane]
LIMIT = 3
BOUNDED, SINGLE = Queue("bounded", concurrency_limit=LIMIT), Queue("single", concurrency_limit=1)
FREE = Queue("free", default=True)
QUEUES = [FREE, BOUNDED, SINGLE]
KEYS = ("a", "b", None)


class Gauge:
    """How many handlers of each partition run at once, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()

    def __call__(self, context: Context, work: Callable[[], Any]) -> Any:
        place = (context.run.queue, context.run.concurrency_key)
        with self._lock:
            self._now[place] += 1
            self.most[place] = max(self.most[place], self._now[place])
        try:
            return work()
        finally:
            with self._lock:
                self._now[place] -= 1


def most_open_leases(app: Runlane) -> Counter[Any]:
    """By partition the most leases that were open at any position in the log."""
    with database_of(app).snapshot() as tx:
        records = [record for stream in streams.read_streams(tx, "run.", app.environment) for record in stream.records]
    partition, leased, open_now, most = {}, set(), Counter[Any](), Counter[Any]()
    for record in sorted(records, key=lambda record: record.position or 0):
        event, run_id = record.event, record.stream_id
        if hasattr(event, "concurrency_key"):
            partition[run_id] = (event.queue, event.concurrency_key)
        elif isinstance(event, RunLeased):
            leased.add(run_id)
            open_now[partition[run_id]] += 1
            most[partition[run_id]] = max(most[partition[run_id]], open_now[partition[run_id]])
        elif run_id in leased and (hasattr(event, "attempt") or isinstance(event, (RunCancelled, RunFailed))):
            leased.remove(run_id)
            open_now[partition[run_id]] -= 1
    assert not +open_now
    return most


def within(most: Counter[Any], limits: Iterable[Queue]) -> bool:
    allowed = {queue.name: queue.concurrency_limit for queue in limits}
    return all(number <= (allowed[queue] or 10_000) for (queue, _), number in most.items())


def test_invariant_9_limits_are_never_exceeded_by_8_threads_of_2_runtimes(shared_url: str) -> None:
    """Claimed one by one and in batches, finished, failed, released and run at once, at random."""
    gauge, pause = Gauge(), threading.Event()

    @task("work", queue=BOUNDED, retry=Retry(9, Fixed("1ms"), jitter=0.0))
    def work(payload: int, context: Context) -> Any:
        def body() -> Any:
            draw = random.Random(payload * 100 + context.attempt)
            pause.wait(draw.choice((0, 0, 0.002)))
            if context.attempt < 3 and draw.random() < 0.2:
                raise ValueError("once more")
            if context.attempt < 3 and draw.random() < 0.2:
                return context.release("1ms")
            return payload

        return gauge(context, body)

    made = [Runlane(shared_url, queues=QUEUES, tasks=[work]).start() for _ in range(2)]
    for n in range(120):
        made[n % 2].trigger(work, n, queue=QUEUES[n % 3], concurrency_key=KEYS[n % 7 % 3], priority=n % 2)

    def by_hand(app: Runlane) -> None:
        while not _all_ended(app):
            if app.execute_next() is None:
                pause.wait(0.002)

    def by_call(app: Runlane) -> None:
        while not _all_ended(app):
            with suppress(QueueCapacityExceeded):
                app.run_now(work, 0, concurrency_key="a")
            pause.wait(0.01)

    def by_worker(app: Runlane) -> None:
        worker = app.worker(concurrency=5, poll_interval=0.005, maintenance=False)
        worker.start()
        eventually(lambda: _all_ended(app), "the end of all runs")
        worker.stop()

    at_once([lambda app=app, how=how: how(app) for app in made for how in (by_hand, by_hand, by_call, by_worker)])
    assert made[0].runs.count()[RunStatus.SUCCEEDED] >= 120
    assert within(gauge.most, QUEUES)
    assert within(most_open_leases(made[0]), QUEUES)
    assert made[0].audit.verify().differences == ()
    for app in made:
        app.close()


def _all_ended(app: Runlane) -> bool:
    return all(status.is_terminal for status in app.runs.count())


def test_one_slot_and_three_keys_are_three_at_once(make_app: Make) -> None:
    barrier = threading.Barrier(3)

    @task("meets", concurrency_key=lambda payload: payload)
    def meets(payload: str) -> None:
        barrier.wait(PATIENCE)

    app = make_app(meets, queues=[Queue("single", default=True, concurrency_limit=1)])
    app.trigger_many(meets, ["a", "b", "c"] * 4)
    worker = app.worker("drain", maintenance=False)
    worker.run()
    assert worker.completed == 12
    assert most_open_leases(app) == {("single", key): 1 for key in "abc"}


def test_a_freed_slot_is_used_at_once_and_not_at_the_next_poll(make_app: Make) -> None:
    """With a poll of ten minutes the test would not end."""

    @task("quick")
    def quick(payload: int) -> None:
        """Has nothing to do."""

    app = make_app(quick, queues=[Queue("single", default=True, concurrency_limit=1)])
    app.trigger_many(quick, range(30))
    worker = app.worker(poll_interval=600, maintenance=False)
    worker.start()
    eventually(lambda: _all_ended(app), "the end of all runs")
    worker.stop()
    assert most_open_leases(app) == {("single", None): 1}


def test_a_drain_works_off_a_bounded_queue_beside_a_free_one(make_app: Make) -> None:
    gauge = Gauge()

    @task("work")
    def work(payload: int, context: Context) -> Any:
        return gauge(context, lambda: payload)

    app = make_app(work, queues=QUEUES)
    for queue in QUEUES:
        for n in range(40):
            app.trigger(work, n, queue=queue)
    worker = app.worker("drain", maintenance=False)
    worker.run()
    assert worker.completed == 120
    assert within(gauge.most, QUEUES)
    assert within(most_open_leases(app), QUEUES)


def test_every_way_out_of_a_lease_frees_its_slot(make_app: Make, clock: SettableClock) -> None:
    @task("ends", retry=Retry(2, Fixed("1h"), jitter=0.0))
    def ends(payload: str, context: Context) -> Release | str:
        if payload == "release":
            return context.release("1h")
        if payload == "fail":
            raise ValueError("no")
        return payload

    app = make_app(ends, queues=[Queue("single", default=True, concurrency_limit=1)], clock=clock)
    for payload in ("release", "fail", "succeed"):
        app.trigger(ends, payload)
        run = app.execute_next()
        assert run is not None
        assert run.payload == payload
    assert app.execute_next() is None


def test_a_lost_worker_frees_its_slot_once_it_is_recovered(shared_url: str, clock: SettableClock) -> None:
    @task("work")
    def work(payload: int) -> int:
        return payload

    options: dict[str, Any] = {"queues": [Queue("single", default=True, concurrency_limit=1)], "clock": clock}
    with Runlane(shared_url, tasks=[work], **options) as lost, Runlane(shared_url, tasks=[work], **options) as app:
        app.trigger_many(work, range(2))
        (held,) = take(lost, clock)
        assert app.execute_next() is None
        clock.advance(EXPIRY)
        assert app.execute_next() is None  # nobody has taken the lease away yet
        assert app.tick().runs_recovered == 1
        executed = [app.execute_next(), app.execute_next()]
        assert held.id in [run.id for run in executed if run is not None]
        assert app.runs.count() == {RunStatus.SUCCEEDED: 2}
        assert most_open_leases(app) == {("single", None): 1}


def test_two_workers_over_two_bounded_queues_in_opposite_order(
    shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A deadlock would be resolved by the database, and logged by the worker as a wait."""

    @task("work")
    def work(payload: int) -> int:
        return payload

    first, second = Queue("first", default=True, concurrency_limit=2), Queue("second", concurrency_limit=2)
    made = [Runlane(shared_url, queues=queues, tasks=[work]).start() for queues in ([first, second], [second, first])]
    for n in range(60):
        made[0].trigger(work, n, queue=(first, second)[n % 2], concurrency_key=f"k{n % 5}")
    workers = [app.worker(poll_interval=0.002, maintenance=False) for app in made]
    for worker in workers:
        worker.start()
    eventually(lambda: _all_ended(made[0]), "the end of all runs")
    for worker in workers:
        worker.stop()
    assert within(most_open_leases(made[0]), [first, second])
    assert "have to wait" not in caplog.text
    for app in made:
        app.close()


def test_run_now_on_a_full_queue_is_refused_and_writes_nothing(make_app: Make) -> None:
    inner: list[Any] = []

    @task("outer")
    def outer(payload: Any) -> None:
        before = written(app)
        with pytest.raises(QueueCapacityExceeded, match="all 1 slots are in use") as refusal:
            app.run_now(outer, 1, idempotency_key="k")
        inner.append((refusal.value, written(app) == before))

    app = make_app(outer, queues=[Queue("single", default=True, concurrency_limit=1)])
    assert app.run_now(outer, 0).run.status == "succeeded"
    ((error, nothing_written),) = inner
    assert nothing_written
    assert (error.code, error.retryable) == ("queue_capacity_exceeded", True)
    assert error.meta == {"queue": "single", "concurrency_key": None, "concurrency_limit": 1}
    assert app.runs.count() == {RunStatus.SUCCEEDED: 1}


def test_run_now_counts_in_its_own_partition(make_app: Make) -> None:
    @task("nests")
    def nests(payload: int) -> Any:
        return app.run_now(nests, payload - 1, concurrency_key=f"k{payload}").run.result if payload else "bottom"

    app = make_app(nests, queues=[Queue("single", default=True, concurrency_limit=1)])
    done = app.run_now(nests, 3)
    assert (done.executed, done.run.result) == (True, "bottom")
    assert types_of(app, done.run.id) == ["RunCreated", "RunLeased", "RunSucceeded"]
    assert app.runs.events(done.run.id)[1].event.concurrency_limit == 1


def test_run_now_on_a_full_queue_still_finds_the_owner_of_its_key(make_app: Make) -> None:
    found: list[Any] = []

    @task("outer")
    def outer(payload: Any) -> None:
        found.append(app.run_now(outer, 1, idempotency_key="k"))

    app = make_app(outer, queues=[Queue("single", default=True, concurrency_limit=1)])
    done = app.run_now(outer, 0, idempotency_key="k")
    assert [(one.run.id, one.executed) for one in found] == [(done.run.id, False)]


def test_run_now_from_many_threads_keeps_to_the_limit(shared_url: str) -> None:
    gauge, gate = Gauge(), threading.Event()

    @task("work")
    def work(payload: int, context: Context) -> Any:
        return gauge(context, lambda: gate.wait(PATIENCE))

    bounded = Queue("bounded", default=True, concurrency_limit=LIMIT)
    made = [Runlane(shared_url, queues=[bounded], tasks=[work]).start() for _ in range(2)]
    refused = []

    def run(n: int) -> None:
        try:
            made[n % 2].run_now(work, n)
        except QueueCapacityExceeded:
            refused.append(n)
            if len(refused) == 8 - LIMIT:
                gate.set()

    at_once([lambda n=n: run(n) for n in range(8)])
    assert len(refused) == 8 - LIMIT
    assert made[0].runs.count() == {RunStatus.SUCCEEDED: LIMIT}
    assert gauge.most == {("bounded", None): LIMIT}
    for app in made:
        app.close()


def test_a_drain_with_two_lanes_ends_when_a_full_partition_has_been_emptied(postgres_url: str) -> None:
    """A claim that began before another lane's outcomes made room has missed what is there now."""

    @task("quick")
    async def quick(payload: int) -> None: ...

    narrow = Queue("narrow", default=True, concurrency_limit=5)
    with Runlane(postgres_url, tasks=[quick], queues=[narrow]) as app:
        for _ in range(12):
            app.trigger_many([Trigger(quick, n, concurrency_key="one") for n in range(6)])
            app.worker("drain", concurrency=50, maintenance=False).run()
            assert set(app.runs.count()) == {"succeeded"}
