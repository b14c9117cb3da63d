"""From trigger over SQS to the end of the run, on PostgreSQL and SQLite, and whatever may go wrong between."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import AsyncRunlane, Context, Fixed, Queue, Retry, Runlane, RunStatus, SettableClock, Trigger, task
from runlane.engine import deliver
from runlane.errors import ConfigurationInvalid
from runlane.lanes import Lane
from runlane.projections.runs import Run
from runlane.sqs import SqsConsumer, SqsQueue, SqsTransport
from runlane.sqs import consumer as consumer_module
from runlane.sqs.messages import wakeup_in
from runlane.storage.database import Database
from runlane.transport import Wakeup
from runlane.values import new_run_id
from tests.sqs.conftest import WORK
from tests.sqs.server import Body, SqsServer, refusal
from tests.support import PATIENCE, START, eventually, signalled, types_of

MakeApp = Callable[..., Runlane]
Consume = Callable[..., SqsConsumer]


@task("double")
def double(number: int) -> int:
    return 2 * number


@task("double.later")
async def double_later(number: int) -> int:
    return 2 * number


class Gate:
    """A task that stays inside its handler until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.go = threading.Event()
        self.calls = 0

        @task("gate")
        def gate() -> None:
            self.calls += 1
            self.inside.release()
            assert self.go.wait(PATIENCE)

        self.task = gate


class Slow:
    """Something that a delivery waits for while its consumer stops."""

    def __init__(self) -> None:
        self._inside, self._go = threading.Event(), threading.Event()

    def wait(self) -> None:
        self._inside.set()
        assert self._go.wait(PATIENCE)

    def stop_meanwhile(self, consumer: SqsConsumer) -> None:
        """Once the delivery waits, stop the consumer, then let it go on and come to an end."""
        assert self._inside.wait(PATIENCE)
        consumer.stop(timeout=0.05)
        assert consumer.closed
        self._go.set()
        eventually(lambda: not consumer._executing, "the end of the delivery")


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.go.set()


def ended(app: Runlane, run: Run) -> Run:
    return app.runs.wait(run.id, timeout=PATIENCE)


def wakeup_of(run: Run, **changes: Any) -> Wakeup:
    facts = {"environment": run.environment, "run_id": run.id, "queue": run.queue, "requested_at": run.created_at}
    return Wakeup(**facts | changes)


def send(client: Any, url: str, *wakeups: Wakeup) -> None:
    for wakeup in wakeups:
        client.send_message(QueueUrl=url, MessageBody=wakeup.to_json())


@pytest.mark.parametrize("work", [double, double_later], ids=["def", "async def"])
def test_a_triggered_run_is_executed_by_a_consumer(
    make_sqs_app: MakeApp, shared_url: str, consume: Consume, url: str, left: Callable[[str], int], work: Any
) -> None:
    app = make_sqs_app(shared_url, url, double, double_later)
    run = app.trigger(work, 21).run
    assert left(url) == 1
    consume(app)
    done = ended(app, run)
    assert (done.status, done.result, done.attempt_count) == (RunStatus.SUCCEEDED, 42, 1)
    eventually(lambda: left(url) == 0, "the message is deleted")


def test_many_runs_are_executed_once_each(
    make_sqs_app: MakeApp, shared_url: str, consume: Consume, url: str, left: Callable[[str], int]
) -> None:
    app = make_sqs_app(shared_url, url, double)
    consumer = consume(app)
    triggered = app.trigger_many(double, range(60))
    for one in triggered:
        assert ended(app, one.run).status is RunStatus.SUCCEEDED
    eventually(lambda: left(url) == 0)
    assert {app.runs.get(one.run.id).attempt_count for one in triggered} == {1}
    assert consumer.completed == 60


def test_a_fifo_queue_carries_runs_too(
    make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, make_queue: Callable[..., str], left: Callable[[str], int]
) -> None:
    url = make_queue(fifo=True)
    app = make_sqs_app(sqlite_url, url, double)
    consume(app)
    runs = [one.run for one in app.trigger_many(double, range(15))]
    assert {ended(app, run).status for run in runs} == {RunStatus.SUCCEEDED}
    eventually(lambda: left(url) == 0)


def test_runs_wait_for_an_sqs_that_is_away(
    make_sqs_app: MakeApp, shared_url: str, consume: Consume, url: str, sqs: SqsServer, clock: SettableClock
) -> None:
    app = make_sqs_app(shared_url, url, double, clock=clock)
    sqs.stop()
    run = app.trigger(double, 1).run
    assert run.status is RunStatus.QUEUED
    clock.advance(timedelta(minutes=1))
    report = app.tick()
    assert (report.wakeups_published, report.wakeups_failed) == (0, 1)
    sqs.start()
    clock.advance(timedelta(minutes=1))
    assert app.tick().wakeups_published == 1
    consume(app)
    assert ended(app, run).status is RunStatus.SUCCEEDED


def test_a_bounded_queue_is_worked_off_within_its_limit(
    shared_url: str, url: str, client: Any, consume: Consume, left: Callable[[str], int]
) -> None:
    """Wakeups of a bounded queue are sent when maintenance has set a slot aside."""
    narrow = Queue("narrow", default=True, concurrency_limit=1)
    inside: list[int] = []
    most: list[int] = []

    @task("narrow.work")
    def narrow_work(number: int) -> None:
        inside.append(number)
        most.append(len(inside))
        inside.remove(number)

    lane = Lane(Database(shared_url), SqsTransport([SqsQueue(narrow, url=url)], client=client))
    with Runlane(lane, queues=[narrow], tasks=[narrow_work]) as app:
        runs = [one.run for one in app.trigger_many(narrow_work, range(4))]
        assert left(url) == 0
        consumer = consume(app)
        eventually(lambda: app.tick() and all(app.runs.get(run.id).is_terminal for run in runs))
        consumer.stop()
        assert {app.runs.get(run.id).status for run in runs} == {RunStatus.SUCCEEDED}
        assert set(most) == {1}
        assert app.audit.verify().differences == ()


class TestIgnored:
    """Messages that no run follows from are acknowledged."""

    def test_doubles(
        self,
        make_sqs_app: MakeApp,
        sqlite_url: str,
        consume: Consume,
        url: str,
        client: Any,
        left: Callable[[str], int],
    ) -> None:
        app = make_sqs_app(sqlite_url, url, double)
        run = app.trigger(double, 1).run
        send(client, url, *[wakeup_of(run)] * 5)
        consumer = consume(app)
        eventually(lambda: left(url) == 0)
        eventually(lambda: consumer.completed == 6)
        assert app.runs.get(run.id).attempt_count == 1

    @pytest.mark.parametrize("changes", [{"environment": "elsewhere"}, {"queue": "other"}, {"run_id": new_run_id()}])
    def test_words_that_do_not_fit_the_run(
        self,
        make_sqs_app: MakeApp,
        sqlite_url: str,
        consume: Consume,
        url: str,
        client: Any,
        left: Callable[[str], int],
        changes: dict[str, Any],
    ) -> None:
        app = make_sqs_app(sqlite_url, url, double, dispatch="deferred")
        run = app.trigger(double, 1).run
        send(client, url, wakeup_of(run, **changes))
        consumer = consume(app)
        eventually(lambda: consumer.completed == 1)
        eventually(lambda: left(url) == 0)
        assert app.runs.get(run.id).status is RunStatus.QUEUED


def test_a_handler_may_take_longer_than_the_visibility_timeout(
    make_sqs_app: MakeApp,
    sqlite_url: str,
    consume: Consume,
    url: str,
    sqs: SqsServer,
    gate: Gate,
    left: Callable[[str], int],
) -> None:
    app = make_sqs_app(sqlite_url, url, gate.task)
    consume(app, visibility_timeout="2s")
    run = app.trigger(gate.task).run
    assert gate.inside.acquire(timeout=PATIENCE)
    # The fourth extension comes when the first visibility is over.
    eventually(lambda: len(sqs.made("ChangeMessageVisibilityBatch")) >= 4)
    gate.go.set()
    assert ended(app, run).attempt_count == 1
    assert gate.calls == 1
    eventually(lambda: left(url) == 0)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Nobody else can get at the database for the time being."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("begin immediate")
    else:
        connection = psycopg.connect(url)
        connection.execute("lock table runlane.runs, runlane.sessions in access exclusive mode")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def test_a_storage_fault_leaves_the_message_to_be_delivered_again(
    make_sqs_app: MakeApp,
    consume: Consume,
    shared_url: str,
    url: str,
    left: Callable[[str], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = shared_url
    if not shared_url.startswith("sqlite"):  # whose locks are waited for by `busy_timeout`
        impatient = make_url(shared_url).update_query_dict({"options": "-c lock_timeout=50"})
        database = impatient.render_as_string(hide_password=False)
    app = make_sqs_app(database, url, double, busy_timeout=0.05)
    run = app.trigger(double, 1).run
    with caplog.at_level(logging.WARNING, "runlane.sqs"), locked(shared_url):
        consumer = consume(app, visibility_timeout="1s")
        eventually(lambda: "is left to be delivered again" in caplog.text)
        assert left(url) == 1
    assert ended(app, run).status is RunStatus.SUCCEEDED
    eventually(lambda: left(url) == 0)
    assert consumer.completed == 1


def test_a_consumer_needs_nobody_else_to_keep_house(
    make_sqs_app: MakeApp, consume: Consume, shared_url: str, url: str
) -> None:
    """A retry that falls due is published by the consumer's own maintenance, and comes back to it over SQS."""

    @task("second.time", retry=Retry(2, Fixed("10ms")))
    async def second_time(_: None, context: Context) -> int:
        if context.attempt == 1:
            raise ValueError("the first time fails")
        return context.attempt

    app = make_sqs_app(shared_url, url, second_time)
    consume(app, maintenance=True)
    done = ended(app, app.trigger(second_time).run)
    assert (done.status, done.result, done.failure_count) == (RunStatus.SUCCEEDED, 2, 1)


def test_an_asyncio_runtime_is_consumed_for_just_the_same(
    sqlite_url: str, url: str, client: Any, consume: Consume
) -> None:
    async def life() -> Run:
        lane = Lane(Database(sqlite_url), SqsTransport([SqsQueue(WORK, url=url)], client=client))
        async with AsyncRunlane(lane, queues=[WORK], tasks=[double_later]) as app:
            consumer = SqsConsumer(app, wait_seconds=1)
            consumer.start()
            triggered = await app.trigger(double_later, 4)
            done = await app.runs.wait(triggered.run.id, timeout=PATIENCE)
            await asyncio.to_thread(consumer.stop)
            return done

    assert asyncio.run(life()).result == 8


def test_a_database_that_is_away_is_left_alone_for_a_while(
    make_sqs_app: MakeApp, consume: Consume, sqlite_url: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise every message would soon have been received too often."""
    app = make_sqs_app(sqlite_url, url, double, busy_timeout=0.01)
    app.trigger_many(double, range(5))
    left = "is left to be delivered again"
    with caplog.at_level(logging.WARNING, "runlane.sqs"), locked(sqlite_url):
        consume(app, concurrency=1)
        eventually(lambda: caplog.text.count(left) == 2)
    first, second = (record.created for record in caplog.records if left in record.getMessage())
    assert second - first >= 0.45


def _said(**changes: Any) -> str:
    said = {"environment": "default", "run_id": str(new_run_id()), "queue": "work", "requested_at": START.isoformat()}
    return json.dumps(said | changes)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "secret",
        "[1, 2",
        "null",
        "{}",
        _said(run_id=5),
        _said(requested_at="0001-01-01T00:00:00+14:00"),  # before the first instant that can be told in UTC
        _said(trace_carrier={"a": 1}),
        "[" * 5000,
    ],
)
def test_no_strange_words_are_taken_for_a_wakeup(body: str) -> None:
    assert wakeup_in(body) is None
    assert wakeup_in(_said()) is not None


class TestPoison:
    """Messages that are no wakeups."""

    BODY = '{"environment": "default:secret", "run_id": "1", "queue": "work", "requested_at": "now"}'

    def test_goes_when_there_is_no_redrive_policy(
        self,
        make_sqs_app: MakeApp,
        sqlite_url: str,
        consume: Consume,
        url: str,
        client: Any,
        left: Callable[[str], int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        app = make_sqs_app(sqlite_url, url, double)
        client.send_message(QueueUrl=url, MessageBody=self.BODY)
        with caplog.at_level(logging.DEBUG, "runlane"):
            consume(app)
            eventually(lambda: left(url) == 0)
        assert "is no wakeup of Runlane: deleted" in caplog.text
        assert "secret" not in caplog.text

    def test_is_left_to_the_redrive_policy(
        self, make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, make_queue: Callable[..., str], client: Any
    ) -> None:
        dead = make_queue()
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        url = make_queue(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"}))
        app = make_sqs_app(sqlite_url, url, double)
        client.send_message(QueueUrl=url, MessageBody=self.BODY)
        consume(app, visibility_timeout="1s")
        buried = client.receive_message(QueueUrl=dead, WaitTimeSeconds=10)["Messages"]
        assert [message["Body"] for message in buried] == [self.BODY]


def test_a_consumer_outlives_errors_of_sqs(
    make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, url: str, sqs: SqsServer, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_twice(action: str, body: Body) -> Any:
        if action == "ReceiveMessage" and len(sqs.made(action)) <= 2:
            return refusal("RequestThrottled", "slow down")
        return None

    sqs.faults.append(refuse_twice)
    app = make_sqs_app(sqlite_url, url, double)
    run = app.trigger(double, 1).run
    with caplog.at_level(logging.WARNING, "runlane.sqs"):
        consume(app)
        assert ended(app, run).status is RunStatus.SUCCEEDED
    assert caplog.text.count("gives no messages for now: RequestThrottled: slow down") == 2


def test_what_other_consumers_could_begin_is_given_back_while_a_long_handler_runs(
    sqlite_url: str,
    make_queue: Callable[..., str],
    client: Any,
    consume: Consume,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each queue has a poll of its own: together they may bring more than there are handlers for."""
    monkeypatch.setattr(consumer_module, "_LATE", 1.0)
    queues = {name: (Queue(name, default=name == "one"), make_queue()) for name in ("one", "two")}
    transport = SqsTransport([SqsQueue(queue, url=url) for queue, url in queues.values()], client=client)
    lane = Lane(Database(sqlite_url), transport)
    with Runlane(lane, queues=[queue for queue, _ in queues.values()], tasks=[gate.task]) as app:
        consumer = consume(app, concurrency=1, wait_seconds=2)
        runs = [one.run for one in app.trigger_many([Trigger(gate.task, queue=queue) for queue, _ in queues.values()])]
        assert gate.inside.acquire(timeout=PATIENCE)
        eventually(lambda: len(consumer._waiting) == 1, "both are received")
        eventually(lambda: sum(_visible(client, url) for _, url in queues.values()) == 1, "one is given back")
        assert not consumer._waiting
        gate.go.set()
        assert {ended(app, run).status for run in runs} == {RunStatus.SUCCEEDED}
        consumer.stop(PATIENCE)


class TestStopping:
    """What becomes of messages and handlers."""

    def test_handlers_under_way_end_and_messages_not_begun_are_given_back_at_once(
        self, sqlite_url: str, make_queue: Callable[..., str], client: Any, gate: Gate, left: Callable[[str], int]
    ) -> None:
        queues = {name: (Queue(name, default=name == "one"), make_queue()) for name in ("one", "two")}
        transport = SqsTransport([SqsQueue(queue, url=url) for queue, url in queues.values()], client=client)
        lane = Lane(Database(sqlite_url), transport)
        with Runlane(lane, queues=[queue for queue, _ in queues.values()], tasks=[gate.task]) as app:
            consumer = SqsConsumer(app, concurrency=1, wait_seconds=2)
            consumer.start()
            app.trigger_many([Trigger(gate.task, queue=queue) for queue, _ in queues.values()])
            assert gate.inside.acquire(timeout=PATIENCE)
            eventually(lambda: all(_visible(client, url) == 0 for _, url in queues.values()), "both are received")
            eventually(lambda: len(consumer._waiting) == 1)
            stopping = threading.Thread(target=consumer.stop, args=(PATIENCE,))
            stopping.start()
            eventually(lambda: sum(_visible(client, url) for _, url in queues.values()) == 1, "one is given back")
            assert not consumer.closed
            gate.go.set()
            stopping.join(PATIENCE)
            assert consumer.closed
            assert gate.calls == 1
            assert sum(left(url) for _, url in queues.values()) == 1

    def test_what_fails_while_it_clears_up_keeps_it_from_no_end(
        self, make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, url: str
    ) -> None:
        consumer = consume(make_sqs_app(sqlite_url, url, double))

        def fails(timeout: float) -> None:
            raise RuntimeError("no way to clear up")

        consumer._in_flight.close = fails  # type: ignore[method-assign]
        stopping = threading.Thread(target=consumer.stop, args=(0,), daemon=True)
        stopping.start()
        stopping.join(PATIENCE)
        is_closed = consumer.closed
        consumer._closed.set()
        assert is_closed

    def test_a_handler_that_does_not_end_is_not_waited_for(
        self, make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, url: str, gate: Gate
    ) -> None:
        app = make_sqs_app(sqlite_url, url, gate.task)
        consumer = consume(app)
        run = app.trigger(gate.task).run
        assert gate.inside.acquire(timeout=PATIENCE)
        consumer.stop(timeout=0.05)
        assert consumer.closed
        assert app.runs.get(run.id).status is RunStatus.QUEUED
        assert types_of(app, run.id)[-2:] == ["RunInterrupted", "RunDeliveryRequested"]

    def test_what_is_being_accepted_is_left_to_others(
        self,
        make_sqs_app: MakeApp,
        shared_url: str,
        consume: Consume,
        url: str,
        gate: Gate,
        client: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The database is slow: the stop has returned before the lease is written."""
        accept, slow = deliver.accept, Slow()

        def slowly(*args: Any) -> Any:
            slow.wait()
            return accept(*args)

        monkeypatch.setattr(deliver, "accept", slowly)
        app = make_sqs_app(shared_url, url, gate.task)
        consumer = consume(app)
        run = app.trigger(gate.task).run
        slow.stop_meanwhile(consumer)
        eventually(lambda: _visible(client, url) == 1, "it is given back")
        assert gate.calls == 0
        assert types_of(app, run.id) == ["RunCreated", "RunDeliveryRequested"]

    def test_what_was_accepted_and_has_not_begun_is_queued_again(
        self,
        make_sqs_app: MakeApp,
        shared_url: str,
        consume: Consume,
        url: str,
        gate: Gate,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        app = make_sqs_app(shared_url, url, gate.task)
        unlock, slow = app._runtime.vault.unlock, Slow()

        def slowly(*args: Any) -> Any:
            slow.wait()
            return unlock(*args)

        monkeypatch.setattr(app._runtime.vault, "unlock", slowly)
        consumer = consume(app)
        run = app.trigger(gate.task).run
        slow.stop_meanwhile(consumer)
        eventually(lambda: app.runs.get(run.id).status is RunStatus.QUEUED)
        assert gate.calls == 0
        assert types_of(app, run.id)[-2:] == ["RunInterrupted", "RunDeliveryRequested"]

    def test_handlers_are_told(self, make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, url: str) -> None:
        inside = threading.Event()
        told: list[str | None] = []

        @task("patient")
        def patient(_: None, context: Context) -> None:
            inside.set()
            context.signal.wait(PATIENCE)
            told.append(context.signal.reason)
            context.signal.raise_if_set()

        app = make_sqs_app(sqlite_url, url, patient)
        consumer = consume(app)
        run = app.trigger(patient).run
        assert inside.wait(PATIENCE)
        consumer.stop(PATIENCE)
        assert told == ["worker_stopping"]
        assert types_of(app, run.id)[-2:] == ["RunInterrupted", "RunDeliveryRequested"]

    def test_an_sqs_that_does_not_answer_holds_neither_it_nor_its_handlers_up(
        self, sqlite_url: str, make_queue: Callable[..., str], client: Any, sqs: SqsServer
    ) -> None:
        inside, told, go = threading.Event(), threading.Event(), threading.Event()

        @task("patient")
        def patient(_: None, context: Context) -> None:
            inside.set()
            if context.signal.wait(PATIENCE):
                told.set()
            go.wait(PATIENCE)

        def hangs(action: str, _: Body) -> None:
            if action == "ChangeMessageVisibilityBatch":
                go.wait(PATIENCE)

        queues = {name: (Queue(name, default=name == "one"), make_queue()) for name in ("one", "two")}
        transport = SqsTransport([SqsQueue(queue, url=url) for queue, url in queues.values()], client=client)
        lane = Lane(Database(sqlite_url), transport)
        with Runlane(lane, queues=[queue for queue, _ in queues.values()], tasks=[patient]) as app:
            consumer = SqsConsumer(app, concurrency=1, wait_seconds=2, maintenance=False)
            consumer.start()
            app.trigger_many([Trigger(patient, queue=queue) for queue, _ in queues.values()])
            assert inside.wait(PATIENCE)
            eventually(lambda: len(consumer._waiting) == 1)
            sqs.faults.append(hangs)
            stopping = threading.Thread(target=consumer.stop, args=(0.05,))
            stopping.start()
            was_told = told.wait(PATIENCE / 2)
            stopping.join(PATIENCE / 2)
            has_stopped = consumer.closed
            go.set()
            stopping.join(PATIENCE)
        assert (was_told, has_stopped) == (True, True)

    def test_a_signal_stops_it_gracefully(
        self, make_sqs_app: MakeApp, sqlite_url: str, url: str, gate: Gate, client: Any, left: Callable[[str], int]
    ) -> None:
        app = make_sqs_app(sqlite_url, url, gate.task)
        consumer = SqsConsumer(app, wait_seconds=1)
        run = app.trigger(gate.task).run

        def interrupt() -> None:
            assert gate.inside.acquire(timeout=PATIENCE)
            os.kill(os.getpid(), signal.SIGTERM)
            eventually(lambda: consumer._stopping)
            gate.go.set()

        thread = threading.Thread(target=interrupt)
        thread.start()
        consumer.run()
        thread.join()
        assert consumer.closed
        assert app.runs.get(run.id).status is RunStatus.SUCCEEDED
        assert left(url) == 0

    def test_a_signal_that_another_thread_gets_stops_it_too(
        self, make_sqs_app: MakeApp, sqlite_url: str, url: str
    ) -> None:
        app = make_sqs_app(sqlite_url, url, double)
        consumer = SqsConsumer(app, wait_seconds=1)
        app.trigger(double, 1)
        with signalled(signal.SIGTERM, lambda: consumer.stop(0), lambda: consumer.completed == 1):
            consumer.run()
        assert consumer.closed

    def test_what_a_poll_brings_after_the_stop_is_given_back(
        self,
        make_sqs_app: MakeApp,
        sqlite_url: str,
        consume: Consume,
        url: str,
        client: Any,
        sqs: SqsServer,
    ) -> None:
        app = make_sqs_app(sqlite_url, url, double)
        consumer = consume(app, wait_seconds=10)
        eventually(lambda: sqs.made("ReceiveMessage"), "a poll is under way")
        stopping = threading.Thread(target=consumer.stop, args=(PATIENCE,))
        stopping.start()
        eventually(lambda: consumer._stopping)
        run = app.trigger(double, 1).run
        stopping.join(PATIENCE)
        assert consumer.closed
        assert _visible(client, url) == 1
        assert app.runs.get(run.id).status is RunStatus.QUEUED

    def test_a_consumer_that_was_stopped_before_its_start_does_not_start(
        self, make_sqs_app: MakeApp, sqlite_url: str, url: str, sqs: SqsServer
    ) -> None:
        consumer = SqsConsumer(make_sqs_app(sqlite_url, url, double))
        consumer.stop()
        consumer.run()
        assert consumer.closed
        assert sqs.made("ReceiveMessage") == []


def _visible(client: Any, url: str) -> int:
    names = ["ApproximateNumberOfMessages"]
    return int(
        client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]["ApproximateNumberOfMessages"]
    )


class TestRefusals:
    """Mistakes of the caller."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"concurrency": 0}, "concurrency must be an integer from 1 to 1000; got 0"),
            ({"wait_seconds": 0}, "wait_seconds must be an integer from 1 to 20; got 0"),
            ({"wait_seconds": 21}, "got 21"),
            ({"visibility_timeout": "500ms"}, "whole seconds, 1s to 12h; got '500ms'"),
            ({"visibility_timeout": "13h"}, "got '13h'"),
            ({"visibility_timeout": "soon"}, "visibility_timeout must be"),
            ({"queues": []}, "at least one queue"),
            ({"queues": [Queue("strange")]}, "queue 'strange' is not registered"),
        ],
    )
    def test_an_option_that_is_not_valid(
        self, sqlite_url: str, client: Any, url: str, options: dict[str, Any], words: str
    ) -> None:
        lane = Lane(Database(sqlite_url), SqsTransport([SqsQueue(WORK, url=url)], client=client))
        with pytest.raises(ConfigurationInvalid) as caught:
            SqsConsumer(Runlane(lane, queues=[WORK]), **options)
        assert words in str(caught.value)

    def test_a_lane_without_sqs(self) -> None:
        with pytest.raises(ConfigurationInvalid, match="the lane's transport is 'local'; build the runtime on Lane"):
            SqsConsumer(Runlane("memory:"))

    def test_a_second_start(self, make_sqs_app: MakeApp, sqlite_url: str, consume: Consume, url: str) -> None:
        with pytest.raises(ConfigurationInvalid, match="can be started once"):
            consume(make_sqs_app(sqlite_url, url, double)).start()

    def test_a_queue_without_a_binding(self, sqlite_url: str, client: Any, url: str) -> None:
        lane = Lane(Database(sqlite_url), SqsTransport([SqsQueue(WORK, url=url)], client=client))
        with pytest.raises(ConfigurationInvalid, match="no SQS queue is bound to 'other'"):
            Runlane(lane, queues=[WORK, Queue("other")])
