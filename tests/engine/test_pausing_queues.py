"""Pausing queues: an event, seen by every worker within a poll, and replayed like everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from runlane import Actor, AsyncRunlane, ConfigurationInvalid, Queue, Runlane, RunStatus, SettableClock, task
from runlane import decisions as d
from runlane.errors import InvariantViolation
from runlane.events import QueuePaused, QueueResumed, Recorded
from runlane.projections import queues as fold
from runlane.storage import log, rows, streams
from runlane.testing import drain
from runlane.values import APPLICATION
from tests.engine.tasks import echo
from tests.support import at_once, database_of, eventually, execute

Make = Callable[..., Runlane]
ONE, TWO, BOUNDED = Queue("one", default=True), Queue("two"), Queue("bounded", concurrency_limit=1)
QUEUES = [ONE, TWO, BOUNDED]
ANN = Actor.operator("ann")


def history(app: Runlane, name: str) -> list[Recorded]:
    with database_of(app).snapshot() as tx:
        return list(streams.read_stream(tx, d.queue_stream(app.environment, name)))


def states(app: Runlane) -> dict[str, tuple[bool, int | None, int]]:
    return {queue.name: (queue.paused, queue.concurrency_limit, queue.occupied) for queue in app.queues.list()}


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_nothing_is_claimed_from_a_paused_queue_until_it_is_resumed(make_app: Make, queue: Queue) -> None:
    app = make_app(echo, queues=QUEUES)
    for used in QUEUES:
        app.trigger(echo, used.name, queue=used)
        app.trigger(echo, used.name, queue=used, concurrency_key="k")
    app.queues.pause(queue)
    assert sorted(str(run.payload) for run in drain(app)) == sorted(
        used.name for used in QUEUES if used != queue for _ in range(2)
    )
    app.queues.resume(queue)
    assert [run.payload for run in drain(app)] == [queue.name] * 2


def test_a_paused_queue_does_not_make_a_drain_hang(make_app: Make) -> None:
    app = make_app(echo, queues=QUEUES)
    for used in QUEUES:
        app.queues.pause(used)
        app.trigger(echo, 1, queue=used)
    worker = app.worker("drain", maintenance=False)
    worker.run()
    assert worker.completed == 0
    assert app.runs.count() == {RunStatus.QUEUED: 3}


def test_a_pause_and_a_resume_are_events_with_actor_and_reason(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, queues=QUEUES, clock=clock)
    paused = app.queues.pause(ONE, reason="the mail server is away", actor=ANN)
    assert paused is not None
    assert (paused.name, paused.paused, paused.sequence, paused.updated_at) == ("one", True, 1, clock())
    assert (paused.reason, paused.actor) == ("the mail server is away", "operator:ann")
    resumed = app.queues.resume("one")
    assert resumed is not None
    assert (resumed.paused, resumed.sequence, resumed.reason, resumed.actor) == (False, 2, None, str(APPLICATION))
    assert [(record.event, record.actor) for record in history(app, "one")] == [
        (QueuePaused("one", "the mail server is away"), ANN),
        (QueueResumed("one"), APPLICATION),
    ]


def test_asking_for_what_is_so_already_changes_nothing(make_app: Make) -> None:
    app = make_app(echo, queues=QUEUES)
    assert app.queues.resume(ONE) is None
    first = app.queues.pause(ONE, reason="first")
    assert app.queues.pause(ONE, reason="second") == first
    assert app.queues.resume(ONE) == app.queues.resume(ONE)
    assert len(history(app, "one")) == 2


def test_many_who_pause_and_resume_at_once_make_a_legal_history(shared_url: str) -> None:
    made = [Runlane(shared_url, queues=QUEUES).start() for _ in range(2)]
    at_once(
        [
            lambda n=n: (made[n % 2].queues.pause if n % 4 < 2 else made[n % 2].queues.resume)("one", reason=str(n))
            for n in range(8)
        ]
    )
    kinds = [type(record.event) for record in history(made[0], "one")]
    assert kinds[0] is QueuePaused
    assert all(one is not other for one, other in pairwise(kinds))
    assert made[0].audit.verify().identical
    for app in made:
        app.close()


def test_the_list_tells_what_is_paused_bounded_and_occupied(make_app: Make) -> None:
    app = make_app(echo, queues=QUEUES)
    app.queues.pause("elsewhere", reason="of another program")
    app.queues.pause(BOUNDED)
    assert states(app) == {
        "bounded": (True, 1, 0),
        "elsewhere": (True, None, 0),
        "one": (False, None, 0),
        "two": (False, None, 0),
    }

    seen: list[Any] = []

    @task("looks", queue=BOUNDED)
    def looks(payload: Any) -> None:
        seen.append(states(other))

    other = make_app(looks, queues=QUEUES)
    other.run_now(looks)
    assert seen[0]["bounded"][1:] == (1, 1)


def test_run_now_is_not_held_back_by_a_pause(make_app: Make) -> None:
    app = make_app(echo, queues=QUEUES)
    app.queues.pause(ONE)
    assert app.run_now(echo, 1).run.status == "succeeded"


def test_environments_pause_by_themselves(lane_url: str) -> None:
    with Runlane(lane_url, tasks=[echo], environment="a") as app:
        app.queues.pause("default")
        other = Runlane(app.lane, tasks=[echo], environment="b").start()
        other.trigger(echo, 1)
        assert len(drain(other)) == 1
        assert [queue.paused for queue in other.queues.list()] == [False]
        other._runtime.close()


def test_a_worker_elsewhere_sees_a_pause_within_a_poll(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as app, Runlane(shared_url, tasks=[echo]) as elsewhere:
        worker = elsewhere.worker(poll_interval=0.01, maintenance=False)
        worker.start()
        app.queues.pause("default")
        run = app.trigger(echo, 1).run
        assert elsewhere.execute_next() is None
        assert app.runs.get(run.id).status == "queued"
        app.queues.resume("default")
        eventually(lambda: app.runs.get(run.id).status == "succeeded")
        worker.stop()


def test_the_audit_compares_queues_too(make_app: Make) -> None:
    app = make_app(echo, queues=QUEUES)
    app.queues.pause(ONE, reason="night")
    found = app.audit.verify()
    assert (found.identical, found.queues, found.events) == (True, 1, 1)
    execute(database_of(app), "update {queues} set paused = false, reason = null")
    found = app.audit.verify()
    assert [(one.field, one.stored, one.folded) for one in found.differences] == [
        ("paused", False, True),
        ("reason", None, "night"),
    ]
    execute(database_of(app), "delete from {queues}")
    assert [one.field for one in app.audit.verify().differences] == ["row"]
    state = fold.replay(history(app, "one"))
    with database_of(app).write() as tx:  # back as it was, for the check at the end
        tx.execute(log.tables.queues.insert().values(**rows.queue_values(state)))


@pytest.mark.parametrize("queue", ["", "a:b", 7, None])
def test_what_is_no_queue_is_refused(make_app: Make, queue: Any) -> None:
    app = make_app(echo, queues=QUEUES)
    with pytest.raises(ConfigurationInvalid, match="queue"):
        app.queues.pause(queue)


@pytest.mark.parametrize("options", [{"reason": 7}, {"reason": "a\0b"}, {"actor": "ann"}])
def test_a_reason_or_actor_that_is_none_is_refused(make_app: Make, options: Any) -> None:
    app = make_app(echo, queues=QUEUES)
    with pytest.raises(ConfigurationInvalid):
        app.queues.pause(ONE, **options)
    assert history(app, "one") == []


def test_both_are_awaitable(lane_url: str) -> None:
    async def work() -> list[bool]:
        async with AsyncRunlane(lane_url, tasks=[echo]) as app:
            await app.queues.pause("default", reason="night", actor=ANN)
            paused = [queue.paused for queue in await app.queues.list()]
            await app.queues.resume("default")
            return paused + [queue.paused for queue in await app.queues.list()]

    assert asyncio.run(work()) == [True, False]


STREAM = d.queue_stream("default", "one")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def recorded(sequence: int, event: Any, *, stream: UUID = STREAM, at: datetime = AT, env: str = "default") -> Recorded:
    return Recorded(stream, sequence, event, at, env, ANN)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [recorded(2, QueuePaused("one"))],
        [recorded(1, QueueResumed("one"))],
        [recorded(1, QueuePaused("one")), recorded(2, QueuePaused("one"))],
        [recorded(1, QueuePaused("one")), recorded(3, QueueResumed("one"))],
        [recorded(1, QueuePaused("one")), recorded(2, QueueResumed("two"))],
        [recorded(1, QueuePaused("one")), recorded(2, QueueResumed("one"), stream=UUID(int=1))],
        [recorded(1, QueuePaused("one")), recorded(2, QueueResumed("one"), env="other")],
        [recorded(1, QueuePaused("one")), recorded(2, QueueResumed("one"), at=AT.replace(year=2025))],
    ],
)
def test_a_history_that_cannot_be_is_refused(records: list[Recorded]) -> None:
    with pytest.raises(InvariantViolation):
        fold.replay(records)
