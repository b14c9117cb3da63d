"""Wakeups make idle workers look at once; whatever becomes of them, only latency changes."""

from __future__ import annotations

import os
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url

from runlane import Fixed, Lane, Queue, Retry, Runlane, RunStatus, task
from runlane.lanes import lane_of
from runlane.transport import Bell, notify
from runlane.transport.local import LocalTransport
from runlane.transport.notify import NotifyTransport, channel_of
from runlane.transport.watch import FileTransport
from tests.chaos.proxy import Proxy
from tests.conftest import PostgresServer
from tests.support import PATIENCE, at_once

NEVER = 3600.0  # seconds: whoever depends on polling does not see the end of the test
fast, slow = Queue("fast", default=True), Queue("slow")


@task("wake.echo")
def echo(payload: Any) -> Any:
    return payload


def app_on(url: str, **options: Any) -> Runlane:
    return Runlane(url, queues=[fast, slow], tasks=[echo], **options).start()


def hears(app: Runlane) -> None:
    """Wait until a LISTEN has gone through, where there is one."""
    transport = app.lane.transport
    if isinstance(transport, NotifyTransport):
        assert transport.hears.wait(PATIENCE)


@pytest.mark.parametrize("by", ["trigger", "trigger_many", "rerun"])
def test_a_worker_elsewhere_is_woken_without_polling(shared_url: str, by: str) -> None:
    with app_on(shared_url) as one, app_on(shared_url) as two:
        ended = one.trigger(echo, 0).run
        one.worker("drain", maintenance=False).run()
        worker = two.worker(poll_interval=NEVER, maintenance=False)
        worker.start()
        hears(two)
        run = {
            "trigger": lambda: one.trigger(echo, 1).run,
            "trigger_many": lambda: one.trigger_many(echo, [1])[0].run,
            "rerun": lambda: one.runs.rerun(ended.id),
        }[by]()
        assert two.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
        worker.stop()


def test_what_a_program_triggers_just_before_it_ends_wakes_workers_too(shared_url: str) -> None:
    with app_on(shared_url) as two:
        worker = two.worker(poll_interval=NEVER, maintenance=False)
        worker.start()
        hears(two)
        with app_on(shared_url) as one:
            run = one.trigger(echo, 1).run
        assert two.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
        worker.stop()


@pytest.mark.parametrize("kind", ["memory", "postgres"])  # a file tells of every change
def test_deferred_dispatch_leaves_runs_to_the_next_poll(kind: str, request: pytest.FixtureRequest) -> None:
    url = "memory:" if kind == "memory" else request.getfixturevalue("postgres_url")
    lane = lane_of(url)
    with Runlane(lane, tasks=[echo], dispatch="deferred") as app, Runlane(lane, tasks=[echo]) as eager:
        bells = Bells()
        app.lane.transport.listen(app.environment, ["default"], bells)
        hears(app)
        before = bells.count
        app.trigger(echo, 1, idempotency_key="k")
        eager.trigger(echo, 1, idempotency_key="k")  # finds the run: nothing is new
        assert bells.count == before
        eager.trigger(echo, 2)
        assert bells.count == before + 1
        app.lane.transport.unlisten(bells)


class Bells:
    """Counts rings, and can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for(self, more_than: int) -> int:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count > more_than, PATIENCE)
            return self.count


def test_a_bell_hears_its_environment_and_its_queues_only() -> None:
    transport, bells = LocalTransport(), Bells()
    transport.listen("here", ["a", "b"], bells)
    for environment, queues in (("there", ["a"]), ("here", ["c"]), ("here", [])):
        transport.ring(environment, queues)
    assert bells.count == 0
    for queues in (["b", "c"], ["a"], None):
        transport.ring("here", queues)
    assert bells.count == 3
    transport.unlisten(bells)
    transport.ring("here", None)
    assert bells.count == 3


def test_a_ring_comes_after_the_commit(sqlite_url: str) -> None:
    """Whoever is rung finds the run."""
    with app_on(sqlite_url) as app:
        found: list[int] = []
        caller = threading.current_thread()

        def look() -> None:
            # Whoever watches the file rings when it likes: of what was written before, too.
            if threading.current_thread() is caller:
                found.append(len(app.runs.list().data))

        app.lane.transport.listen(app.environment, ["fast"], look)
        app.trigger(echo, 1)
        app.trigger_many(echo, [2, 3])
        app.lane.transport.unlisten(look)
    assert found == [1, 3]


def test_a_transport_is_started_once_however_many_threads_begin_at_once(shared_url: str) -> None:
    class Counting(LocalTransport):
        def __init__(self) -> None:
            super().__init__()
            self.starts, self.twice = 0, threading.Event()

        def start(self) -> None:
            self.starts += 1
            if self.starts > 1:
                self.twice.set()
            self.twice.wait(0.2)  # long enough for whoever is to come, too

    transport = Counting()
    app = Runlane(Lane(lane_of(shared_url).database, transport), tasks=[echo])
    at_once([lambda: app.trigger(echo, 1)] * 4)
    app.close()
    assert transport.starts == 1


@pytest.fixture
def pair(postgres_url: str) -> Any:
    """Two ends of LISTEN and NOTIFY."""
    lanes = [lane_of(postgres_url) for _ in range(2)]
    yield [lane.transport for lane in lanes]
    for lane in lanes:
        lane.close()


def test_rings_close_to_each_other_go_out_together(pair: Any, postgres_url: str) -> None:
    sender, _ = pair
    with psycopg.connect(postgres_url, autocommit=True) as witness:
        witness.execute(f"listen {channel_of('runlane')}")
        for n in range(500):
            sender.ring("env", [f"q{n % 3}"])
        sender.close()
        heard = [notice.payload for notice in witness.notifies(timeout=2, stop_after=100)]
    assert 1 <= len(heard) < 50
    assert all(f'"q{n}"' in "".join(heard) for n in range(3))


def test_a_listener_does_not_hear_itself_twice(pair: Any) -> None:
    one, two = pair
    mine, theirs = Bells(), Bells()
    one.listen("env", ["q"], mine)
    two.listen("env", ["q"], theirs)
    assert one.hears.wait(PATIENCE)
    assert two.hears.wait(PATIENCE)
    before = mine.wait_for(0), theirs.wait_for(0)  # both ring once when they begin to hear
    one.ring("env", ["q"])
    theirs.wait_for(before[1])
    two.ring("env", ["q"])
    mine.wait_for(before[0] + 1)
    assert mine.count == before[0] + 2, "its own ring once, and the other's"
    one.unlisten(mine)
    two.unlisten(theirs)


def test_a_listener_that_lost_its_connection_rings_once_it_is_back(pair: Any, postgres_url: str) -> None:
    one, two = pair
    bells = Bells()
    two.listen("env", ["q"], bells)
    assert two.hears.wait(PATIENCE)
    seen = bells.wait_for(0)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        killed = connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'runlane wakeups' and datname = current_database()"
        ).fetchall()
    assert killed
    seen = bells.wait_for(seen)
    assert two.hears.wait(PATIENCE)
    one.ring("env", ["q"])
    bells.wait_for(seen)
    two.unlisten(bells)


def test_a_connection_that_is_dead_without_a_word_is_replaced(
    postgres: PostgresServer, postgres_url: str, pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that has lost the server keeps the connection up: no keepalive finds that out."""
    for name in ("CHECK", "_PATIENCE"):
        monkeypatch.setattr(notify, name, 0.2, raising=False)
    place = make_url(postgres.admin_url)
    proxy = Proxy(Path(str(place.query["host"])) / f".s.PGSQL.{place.port or 5432}")
    conninfo = make_conninfo(pair[0]._conninfo, host="127.0.0.1", port=proxy.port, sslmode="disable")
    transport, bells = NotifyTransport(conninfo, "runlane"), Bells()
    try:
        transport.listen("env", ["q"], bells)
        assert transport.hears.wait(PATIENCE)
        seen = bells.wait_for(0)
        assert proxy.strike("half_open", NEVER)
        bells.wait_for(seen)
        assert transport.hears.wait(PATIENCE)
        assert proxy.strike("half_open", NEVER)
        listener = transport._listener
        transport.unlisten(bells)
        assert listener is not None
        listener.join(PATIENCE)
        assert not listener.is_alive()
    finally:
        transport.unlisten(bells)
        proxy.close()


def test_words_that_are_not_ours_ring_everybody(pair: Any, postgres_url: str) -> None:
    _, two = pair
    bells = Bells()
    two.listen("env", ["q"], bells)
    assert two.hears.wait(PATIENCE)
    seen = bells.wait_for(0)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("select pg_notify(%s, 'hello')", (channel_of("runlane"),))
    bells.wait_for(seen)
    two.unlisten(bells)


def test_a_database_that_is_away_fails_no_ring() -> None:
    transport = NotifyTransport("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1", "runlane")
    began = time.monotonic()
    for _ in range(100):
        transport.ring("env", ["q"])
    assert time.monotonic() - began < 5
    transport.close()


def test_many_open_files_do_not_make_a_listener_deaf(pair: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A descriptor beyond 1023 is nothing that select() could wait for."""
    one, two = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.dup(0) for _ in range(1100)]
    try:
        assert max(held) > 1023
        bells = Bells()
        two.listen("env", ["q"], bells)
        assert two.hears.wait(PATIENCE)
        seen = bells.wait_for(0)
        one.ring("env", ["q"])
        bells.wait_for(seen)
        two.unlisten(bells)
        assert "not heard" not in caplog.text
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Between:
    """A transport's lock; the next time that it is to be taken, something else comes first."""

    def __init__(self, transport: Any, first: Callable[[], None]) -> None:
        self._transport, self._lock, self._first = transport, transport._lock, first
        transport._lock = self

    def __enter__(self) -> None:
        self._transport._lock = self._lock
        self._first()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("kind", ["notify", "file"])
def test_who_begins_to_listen_while_the_last_one_ends_hears(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"
    transport: Any = NotifyTransport(nowhere, "runlane") if kind == "notify" else FileTransport(tmp_path / "runs.db")
    thread, one, two = "_listener" if kind == "notify" else "_watcher", Bells(), Bells()
    plain = LocalTransport.unlisten

    def unlisten(itself: Any, bell: Bell) -> None:
        plain(itself, bell)
        Between(itself, lambda: itself.listen("env", ["q"], two))

    transport.listen("env", ["q"], one)
    with monkeypatch.context() as patch:
        patch.setattr(LocalTransport, "unlisten", unlisten)
        transport.unlisten(one)
    assert getattr(transport, thread).is_alive()
    transport.unlisten(two)
    assert getattr(transport, thread) is None


def test_several_hosts_in_a_url_reach_the_listener_as_libpq_takes_them() -> None:
    lane = lane_of("postgresql://ann@/shop?host=one:5432&host=two:5433")
    assert "host=one,two" in lane.transport._conninfo
    assert "port=5432,5433" in lane.transport._conninfo


def test_a_lane_promises_what_it_keeps(lane_url: str) -> None:
    promised = lane_of(lane_url).capabilities
    assert {"prunes_runs", "enforces_queue_concurrency", "enforces_singleton", "leases_runs"} <= promised
    assert ("process_local_state" in promised) == (lane_url == "memory:")
    assert ("durable_state" in promised) == (lane_url != "memory:")
    assert ("production_durable" in promised) == lane_url.startswith("postgres")


class Whimsical(LocalTransport):
    """Drops, doubles and delays rings, by a given die."""

    name = "whimsical"

    def __init__(self, die: random.Random) -> None:
        super().__init__()
        self._die = die
        self._late: list[tuple[str, Collection[str] | None]] = []

    def ring(self, environment: str, queues: Collection[str] | None) -> None:
        fate = self._die.choice(["drop", "double", "late", "as it is"])
        if fate == "late":
            self._late.append((environment, queues))
            return
        for _ in range({"drop": 0, "double": 2}.get(fate, 1)):
            super().ring(environment, queues)
        while self._late and self._die.random() < 0.5:
            super().ring(*self._late.pop(self._die.randrange(len(self._late))))

    def listen(self, environment: str, queues: Collection[str], bell: Bell) -> None:
        super().listen(environment, queues, bell)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_becomes_of_wakeups_the_final_states_are_the_same(shared_url: str, seed: int) -> None:
    """Metamorphic: the same work under a faithful and a whimsical doorbell ends in the same states."""
    failed: Counter[int] = Counter()

    @task("wake.flaky", retry=Retry(3, Fixed("1ms"), jitter=0.0))
    def flaky(number: int) -> int:
        failed[number] += 1
        if number % 3 == 0 and failed[number] < 3:
            raise RuntimeError("not yet")
        if number % 7 == 0:
            raise RuntimeError("never")
        return number

    lane = lane_of(shared_url)
    lane = Lane(lane.database, Whimsical(random.Random(seed)))
    with Runlane(lane, tasks=[flaky]) as app:
        workers = [app.worker(poll_interval=0.02, maintenance=False, concurrency=4) for _ in range(2)]
        for worker in workers:
            worker.start()
        runs = [app.trigger(flaky, number, idempotency_key=f"k{number % 30}").run for number in range(40)]
        ended = {run.id: app.runs.wait(run.id, timeout=PATIENCE) for run in runs}
        for worker in workers:
            worker.stop()
        assert {run.payload: run.status.value for run in ended.values() if run.payload < 30} == {
            number: "failed" if number % 7 == 0 else "succeeded" for number in range(30)
        }
        assert app.audit.verify().identical
