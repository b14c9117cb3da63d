"""Rerun and manual retry: new linked runs, the source never touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from runlane import Actor, PayloadInvalid, Queue, Runlane, RunNotFound, RunStatus, SettableClock, TaskNotFound, task
from runlane.errors import ConflictKind, RunStateInvalid, StorageConflict
from runlane.values import new_run_id
from tests.engine.tasks import HOUR, echo, hopeless

Make = Callable[..., Runlane]
ANN = Actor.operator("ann")


def test_a_rerun_is_a_new_linked_run_of_the_same_work(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    source = app.trigger(echo, {"a": 1}, idempotency_key="k", priority=7, correlation_id="c", meta={"m": 1}).run
    app.execute_next()
    before = app.runs.get(source.id)
    clock.advance(HOUR)
    again = app.runs.rerun(source.id, actor=ANN, reason="customer asked", meta={"ticket": 1})
    assert (again.status, again.payload, again.priority, again.correlation_id) == ("queued", {"a": 1}, 7, "c")
    assert (again.source.type, again.source.source_run_id) == ("rerun", source.id)
    assert again.idempotency_key is None
    assert again.meta == {"m": 1, "ticket": 1, "reason": "customer asked"}
    assert again.created_at == clock()
    assert app.runs.events(again.id)[0].actor == ANN
    assert app.runs.get(source.id) == before
    assert app.execute_next().id == again.id
    assert [run.id for run in app.runs.list(source_run_id=source.id).data] == [again.id]


def test_a_retry_is_for_failed_runs_only(make_app: Make) -> None:
    app = make_app(echo, hopeless)
    good, bad = app.trigger(echo, 1).run, app.trigger(hopeless, 2).run
    app.worker("drain").run()
    again = app.runs.retry(bad.id)
    assert (again.source.type, again.source.source_run_id, again.status) == ("manual_retry", bad.id, "queued")
    with pytest.raises(RunStateInvalid, match="is succeeded; only a failed run can be retried"):
        app.runs.retry(good.id)
    assert app.runs.rerun(good.id).status is RunStatus.QUEUED


def test_an_active_run_is_not_repeated(make_app: Make) -> None:
    app = make_app(echo)
    run = app.trigger(echo, 1).run
    for repeat in (app.runs.rerun, app.runs.retry):
        with pytest.raises(RunStateInvalid):
            repeat(run.id)
    with pytest.raises(RunNotFound):
        app.runs.rerun(new_run_id())
    assert len(app.runs.list().data) == 1


def test_the_payload_has_to_fit_todays_task(make_app: Make) -> None:
    @attrs.frozen
    class New:
        number: int

    @task("echo")
    def newer(payload: New) -> None:
        """The task of a later deployment."""

    app = make_app(echo)
    run = app.trigger(echo, {"text": "x"}).run
    app.execute_next()
    later = Runlane(app.lane, tasks=[newer]).start()
    with pytest.raises(PayloadInvalid, match="number"):
        later.runs.rerun(run.id)
    with pytest.raises(TaskNotFound):
        Runlane(app.lane, tasks=[hopeless]).start().runs.rerun(run.id)
    assert len(app.runs.list().data) == 1


def test_an_active_singleton_owner_is_a_conflict(make_app: Make) -> None:
    @task("only.one", singleton_key="one")
    def only_one(payload: Any) -> None:
        """Nothing."""

    app = make_app(only_one)
    ended = app.trigger(only_one, 1).run
    app.execute_next()
    active = app.trigger(only_one, 2).run
    with pytest.raises(StorageConflict, match=str(active.id)) as caught:
        app.runs.rerun(ended.id)
    assert caught.value.kind is ConflictKind.SINGLETON_OWNER
    app.execute_next()
    assert app.runs.rerun(ended.id).singleton_key == "one"


def test_a_queue_that_is_gone_gives_way_to_the_tasks_own(make_app: Make) -> None:
    old, new = Queue("old"), Queue("new", default=True)
    app = make_app(echo, queues=[old, new])
    run = app.trigger(echo, 1, queue=old).run
    app.worker("drain").run()
    assert app.runs.rerun(run.id).queue == "old"
    later = Runlane(app.lane, queues=[new], tasks=[echo]).start()
    assert later.runs.rerun(run.id).queue == "new"
