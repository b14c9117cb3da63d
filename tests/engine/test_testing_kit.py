"""``runlane.testing``: waits that say what they waited for, runs in each state, and a transport that misbehaves."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from runlane import Fixed, Lane, Queue, Retry, Runlane, RunStatus, SettableClock, task, testing
from runlane.capabilities import Capability
from runlane.engine.deliver import IgnoreReason
from runlane.errors import CapabilityUnsupported, QueueCapacityExceeded
from runlane.events import RunLeased
from runlane.storage.database import Database
from runlane.testing import RecordingTransport, drain, wait_for_event, wait_for_status
from runlane.transport.local import LocalTransport
from runlane.wakeup import OutboxStatus
from tests.support import PATIENCE

few = Queue("few", concurrency_limit=1)
work = Queue("work", default=True)


@task("kit.work", queue=work, retry=Retry(3, Fixed("1h")))
def handler(payload: Any = None) -> Any:
    return payload


@task("kit.single_attempt", queue=work)
def single_attempt(payload: Any = None) -> Any:
    raise AssertionError("the handler is not to be called")


@task("kit.bounded", queue=few)
def bounded() -> None:
    raise AssertionError("the handler is not to be called")


STATES: dict[RunStatus, Callable[..., Any]] = {
    RunStatus.QUEUED: testing.queued_run,
    RunStatus.SCHEDULED: testing.scheduled_run,
    RunStatus.RUNNING: testing.running_run,
    RunStatus.CANCELLATION_REQUESTED: testing.cancellation_requested_run,
    RunStatus.RELEASED: testing.released_run,
    RunStatus.RETRYING: testing.retrying_run,
    RunStatus.SUCCEEDED: testing.succeeded_run,
    RunStatus.FAILED: testing.failed_run,
    RunStatus.CANCELLED: testing.cancelled_run,
}


@pytest.fixture
def app(make_app: Callable[..., Runlane], clock: SettableClock) -> Runlane:
    return make_app(handler, single_attempt, bounded, queues=[work, few], clock=clock)


def test_there_is_a_way_into_every_state() -> None:
    assert set(STATES) == set(RunStatus)


@pytest.mark.parametrize("status", STATES)
def test_a_run_is_made_in_the_state_and_its_history_leads_there(app: Runlane, status: RunStatus) -> None:
    run = STATES[status](app, handler, 7, correlation_id="c", priority=3)
    assert run.status is status
    assert app.runs.get(run.id) == run
    assert (run.payload, run.correlation_id, run.priority) == (7, "c", 3)
    assert app.audit.verify(run.id).differences == ()


def test_what_an_attempt_came_to_is_told(app: Runlane) -> None:
    assert testing.succeeded_run(app, handler, result={"a": 1}).result == {"a": 1}
    for made in (testing.failed_run, testing.retrying_run):
        failure = made(app, handler, message="the printer is on fire").failure
        assert failure is not None
        assert failure.message == "the printer is on fire"


def test_waiting_runs_are_due_when_they_are_asked_to_be(app: Runlane, clock: SettableClock) -> None:
    hour = clock() + timedelta(hours=1)
    assert testing.scheduled_run(app, handler, delay="1h").due_at == hour
    assert testing.released_run(app, handler, released_for="1h").due_at == hour
    assert testing.scheduled_run(app, handler, run_at=hour).due_at == hour
    run = testing.retrying_run(app, handler)
    assert run.due_at is not None
    assert abs(run.due_at - hour) <= timedelta(minutes=6)  # the policy's own jitter
    assert drain(app) == []
    clock.advance(timedelta(hours=2))
    assert {run.status for run in drain(app)} == {RunStatus.SUCCEEDED}


def test_the_worker_of_a_running_run_is_not_heard_of_again(app: Runlane, clock: SettableClock) -> None:
    run = testing.running_run(app, handler)
    assert app.tick().runs_recovered == 0
    clock.advance(timedelta(seconds=31))
    assert app.tick().runs_recovered == 1
    assert app.runs.get(run.id).status is RunStatus.QUEUED


def test_a_state_that_a_task_never_reaches_is_refused(app: Runlane) -> None:
    with pytest.raises(ValueError, match=r"task kit.single_attempt has no retry="):
        testing.retrying_run(app, single_attempt)
    assert testing.failed_run(app, single_attempt).status is RunStatus.FAILED


def test_a_key_that_is_taken_is_refused(app: Runlane) -> None:
    owner = testing.queued_run(app, handler, idempotency_key="k")
    with pytest.raises(ValueError, match=f"run {owner.id} owns the key already"):
        testing.running_run(app, handler, idempotency_key="k")


def test_a_limit_holds_for_these_runs_too(app: Runlane) -> None:
    testing.running_run(app, bounded)
    with pytest.raises(QueueCapacityExceeded):
        testing.running_run(app, bounded)
    with pytest.raises(QueueCapacityExceeded):
        testing.succeeded_run(app, bounded)


def test_no_attempt_where_runs_are_not_leased() -> None:
    class Modest(Database):
        @property
        def capabilities(self) -> frozenset[Capability]:
            return super().capabilities - {Capability.LEASES_RUNS}

    with Runlane(Lane(Modest("memory:"), LocalTransport()), tasks=[handler], queues=[work]) as app:
        with pytest.raises(CapabilityUnsupported, match="leases_runs"):
            testing.running_run(app, handler)
        assert app.runs.count() == {}


def test_waiting_for_a_status(app: Runlane) -> None:
    run = testing.queued_run(app, handler, 5)
    worker = app.worker(maintenance=False, poll_interval=0.02)
    threading.Timer(0.05, worker.start).start()
    assert wait_for_status(app, run, "succeeded", PATIENCE).result == 5
    assert isinstance(wait_for_event(app, run.id, RunLeased, PATIENCE).event, RunLeased)
    assert wait_for_event(app, str(run.id), "run.succeeded", PATIENCE).sequence == 4
    worker.stop()


def test_a_status_that_is_not_reached_is_told_with_its_reasons(app: Runlane) -> None:
    run = testing.scheduled_run(app, handler)
    with pytest.raises(AssertionError, match=r"after 0.01 s run .* is scheduled, not running: it is not to start yet"):
        wait_for_status(app, run, RunStatus.RUNNING, 0.01)


def test_a_run_that_has_ended_is_not_waited_for(app: Runlane) -> None:
    run = testing.failed_run(app, handler, message="the printer is on fire")
    with pytest.raises(AssertionError, match=r"never becomes succeeded: it has ended: failed .*printer is on fire"):
        wait_for_status(app, run, RunStatus.SUCCEEDED, 3600)


def test_an_event_that_does_not_come_is_told_with_the_history(app: Runlane) -> None:
    run = testing.queued_run(app, handler)
    with pytest.raises(AssertionError, match=r"has not 1 event\(s\) run.leased; its history is run.created"):
        wait_for_event(app, run, "run.leased", 0.01)
    with pytest.raises(AssertionError, match=r"has not 2 event\(s\) run.created"):
        wait_for_event(app, run, "run.created", 0.01, count=2)
    with pytest.raises(ValueError, match=r"no event is called 'run.leesed'"):
        wait_for_event(app, run, "run.leesed")


@pytest.fixture
def transport() -> RecordingTransport:
    return RecordingTransport()


@pytest.fixture
def publishing(transport: RecordingTransport, clock: SettableClock) -> Iterator[Runlane]:
    lane = Lane(Database("memory:"), transport)
    with Runlane(lane, tasks=[handler], queues=[work], clock=clock) as app:
        yield app
        assert app.audit.verify().differences == ()


def test_wakeups_are_kept_and_delivered(publishing: Runlane, transport: RecordingTransport) -> None:
    runs = [publishing.trigger(handler, n).run for n in range(3)]
    assert [wakeup.run_id for wakeup in transport.wakeups] == [run.id for run in runs]
    delivered = transport.deliver(publishing)
    assert [one.run.result for one in delivered if one.run] == [0, 1, 2]
    assert transport.wakeups == ()
    assert len(transport.published) == 3
    assert transport.deliver(publishing) == []


def test_a_wakeup_of_another_queue_is_not_for_this_consumer(publishing: Runlane, transport: RecordingTransport) -> None:
    publishing.trigger(handler)
    assert [one.reason for one in transport.deliver(publishing, [])] == [IgnoreReason.WRONG_QUEUE]


@pytest.mark.parametrize(
    ("how", "status"), [("fail", "failed"), ("unavailable", "failed"), ("reject", "dead_lettered")]
)
def test_what_is_refused_is_not_taken(
    publishing: Runlane, transport: RecordingTransport, clock: SettableClock, how: str, status: str
) -> None:
    transport.misbehave(how, times=1)
    run = publishing.trigger(handler).run
    assert transport.published == ()
    assert rows(publishing) == [OutboxStatus(status)]
    clock.advance(timedelta(minutes=5))
    assert publishing.tick().wakeups_published == (0 if how == "reject" else 1)
    transport.deliver(publishing)
    expected = RunStatus.QUEUED if how == "reject" else RunStatus.SUCCEEDED
    assert publishing.runs.get(run.id).status is expected


def test_what_is_dropped_is_published_again(
    publishing: Runlane, transport: RecordingTransport, clock: SettableClock
) -> None:
    transport.misbehave("drop")
    publishing.trigger(handler)
    assert len(transport.published) == 1
    assert transport.wakeups == ()
    transport.behave()
    clock.advance(timedelta(minutes=10))
    publishing.tick()
    assert [one.outcome for one in transport.deliver(publishing)] == ["executed"]


def test_doubled_and_reordered_wakeups(publishing: Runlane, transport: RecordingTransport) -> None:
    transport.misbehave("double", times=1)
    first = publishing.trigger(handler, 1).run
    transport.misbehave("reorder")
    last = [publishing.trigger(handler, n).run for n in (2, 3)]
    assert [wakeup.run_id for wakeup in transport.wakeups] == [last[1].id, last[0].id, first.id, first.id]
    assert [one.reason for one in transport.deliver(publishing)] == [None, None, None, IgnoreReason.TERMINAL]


def rows(app: Runlane) -> list[OutboxStatus]:
    with app.lane.database.engine.connect() as connection:
        return [OutboxStatus(row[0]) for row in connection.exec_driver_sql("select status from outbox")]


def test_only_the_suites_need_pytest() -> None:
    """A program may use the kit in a script, or under another test runner."""
    code = "import sys, runlane.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
