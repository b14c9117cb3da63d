"""Bulk operations: bounded, resumable, each run a change of its own, one refusal not stopping the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runlane import (
    Actor,
    ConfigurationInvalid,
    Run,
    Runlane,
    RunlaneError,
    RunStatus,
    SettableClock,
    StorageUnavailable,
)
from runlane.bulk import Bulk, done_before
from runlane.engine import operate
from tests.engine.tasks import HOUR, echo, hopeless

Make = Callable[..., Runlane]
ANN = Actor.operator("ann")


def test_cancelling_what_matches(make_app: Make) -> None:
    app = make_app(echo)
    wanted = [one.run.id for one in app.trigger_many(echo, range(5))]
    app.trigger(echo, 9, correlation_id="keep")
    first = app.runs.cancel_many(tasks=[echo], limit=3, actor=ANN, reason="flood")
    assert [run.id for run in first.changed] == wanted[:3]
    assert {run.cancellation.reason for run in first.changed} == {"flood"}
    second = app.runs.cancel_many(tasks=[echo], limit=2, cursor=first.next_cursor, actor=ANN)
    assert [run.id for run in second.changed] == wanted[3:]
    assert app.runs.count() == {RunStatus.CANCELLED: 5, RunStatus.QUEUED: 1}


def test_retrying_and_rerunning_what_matches(make_app: Make) -> None:
    app = make_app(echo, hopeless)
    app.trigger_many(echo, range(2))
    app.trigger_many(hopeless, range(2))
    app.worker("drain").run()
    retried = app.runs.retry_many(actor=ANN)
    assert ([run.task_id for run in retried.changed], retried.next_cursor) == (["hopeless"] * 2, None)
    assert {app.runs.events(run.id)[0].actor for run in retried.changed} == {ANN}
    again = app.runs.rerun_many(tasks=["echo"])
    assert [run.source.type for run in again.changed] == ["rerun"] * 2


def test_every_bulk_form_takes_the_keys(make_app: Make) -> None:
    app = make_app(echo, hopeless)
    app.trigger(echo, 1, concurrency_key="a")
    mine = app.trigger(echo, 2, concurrency_key="b", singleton_key="s").run
    bad = app.trigger(hopeless, 3, concurrency_key="b", delay="1h").run
    cancelled = app.runs.cancel_many(concurrency_key="b", tasks=[echo])
    assert [run.id for run in cancelled.changed] == [mine.id]
    again = app.runs.rerun_many(singleton_key="s")
    assert [run.source.source_run_id for run in again.changed] == [mine.id]
    assert app.runs.retry_many(concurrency_key="b").changed == ()
    assert [run.id for run in app.runs.cancel_many(concurrency_key="b", tasks=[hopeless]).changed] == [bad.id]


def test_one_that_refuses_does_not_stop_the_rest(make_app: Make) -> None:
    app = make_app(echo)
    for n in range(3):
        app.trigger(echo, n, singleton_key=f"k{n}")
    app.worker("drain").run()
    owner = app.trigger(echo, 1, singleton_key="k1").run
    done = app.runs.rerun_many(statuses=["succeeded"])
    assert [run.payload for run in done.changed] == [0, 2]
    (reason,) = done.refused.values()
    assert str(owner.id) in reason


@pytest.mark.parametrize("stands_still", [False, True])
@pytest.mark.parametrize("name", ["retry_many", "rerun_many"])
def test_going_on_repeats_no_repeats(make_app: Make, clock: SettableClock, name: str, stands_still: bool) -> None:
    app = make_app(hopeless, clock=clock if stands_still else None)
    wanted = [one.run.id for one in app.trigger_many(hopeless, range(5))]
    app.worker("drain").run()
    sources, cursor, calls = [], None, 0
    while calls == 0 or (cursor is not None and calls < 9):
        done = getattr(app.runs, name)(tasks=[hopeless], limit=2, cursor=cursor)
        sources += [run.source.source_run_id for run in done.changed]
        cursor, calls = done.next_cursor, calls + 1
        app.trigger(hopeless, "later")
        app.worker("drain").run()  # the repeats end as their sources did
    assert (sources, cursor, calls) == (wanted, None, 3)
    assert len(getattr(app.runs, name)(tasks=[hopeless]).changed) == 5 + 5 + 3, "anew it is for all that there are"


def test_a_clock_that_is_set_back_hides_no_run(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    wanted = [one.run.id for one in app.trigger_many(echo, range(4))]
    clock.advance(-HOUR)
    first = app.runs.cancel_many(limit=3)
    second = app.runs.cancel_many(limit=3, cursor=first.next_cursor)
    assert [run.id for run in (*first.changed, *second.changed)] == wanted


def test_a_cursor_belongs_to_its_conditions(make_app: Make) -> None:
    app = make_app(echo)
    app.trigger_many(echo, range(3))
    cursor = app.runs.cancel_many(limit=1).next_cursor
    for call in (lambda: app.runs.cancel_many(tasks=[echo], cursor=cursor), lambda: app.runs.list(cursor=cursor)):
        with pytest.raises(ConfigurationInvalid, match="another filter"):
            call()


@pytest.mark.parametrize("cut", [StorageUnavailable("away"), KeyboardInterrupt(), ValueError("a codec's")], ids=repr)
def test_what_is_cut_short_tells_what_it_did_and_where_to_go_on(
    make_app: Make, monkeypatch: pytest.MonkeyPatch, cut: BaseException
) -> None:
    app = make_app(echo)
    wanted = [one.run.id for one in app.trigger_many(echo, range(5))]
    app.worker("drain").run()
    first = app.runs.rerun_many(limit=1)
    run_again, left = operate.run_again, [None, None]

    def cuts(*arguments: Any) -> Run:
        if not left:
            raise cut
        left.pop()
        return run_again(*arguments)

    monkeypatch.setattr(operate, "run_again", cuts)
    with pytest.raises(type(cut)) as caught:
        app.runs.rerun_many(cursor=first.next_cursor)
    done = done_before(caught.value)
    assert done is not None
    assert [run.source.source_run_id for run in done.changed] == wanted[1:3]
    if isinstance(cut, RunlaneError):
        assert cut.meta == {"changed": 2, "refused": 0, "next_cursor": done.next_cursor}
    with pytest.raises(type(cut)) as caught:
        app.runs.rerun_many(cursor=done.next_cursor)
    assert done_before(caught.value) == Bulk((), {}, done.next_cursor), "nothing was done, so that it begins there"
    monkeypatch.undo()
    rest = app.runs.rerun_many(cursor=done.next_cursor)
    assert [run.source.source_run_id for run in rest.changed] == wanted[3:]
    assert done_before(ValueError()) is None


def test_a_status_that_the_operation_is_not_for_is_refused(make_app: Make) -> None:
    app = make_app(echo)
    app.trigger(echo, 1)
    for operation, status in (
        (app.runs.cancel_many, "succeeded"),
        (app.runs.retry_many, "cancelled"),
        (app.runs.rerun_many, "queued"),
    ):
        with pytest.raises(ConfigurationInvalid, match=f"not for '{status}'"):
            operation(statuses=[status])
    with pytest.raises(ConfigurationInvalid, match="limit"):
        app.runs.cancel_many(limit=0)
    assert app.runs.count() == {RunStatus.QUEUED: 1}
