"""Why is it not running: the reasons that hold, in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runlane import Actor, Queue, Runlane, RunNotFound, SettableClock
from runlane.values import new_run_id
from tests.engine.post import Office, office
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import HOUR, echo, flaky, hopeless, patient

__all__ = ["office"]

Make = Callable[..., Runlane]
narrow = Queue("narrow", default=True, concurrency_limit=1)


def test_what_waits_says_until_when(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, flaky, patient, clock=clock)
    later = app.trigger(echo, 1, delay=HOUR).run
    assert app.runs.why(later.id)[0].startswith("it is not to start yet; due in 60 min")
    app.trigger(flaky, 1)
    (retrying,) = (app.execute_next(),)
    assert app.runs.why(retrying.id)[0].startswith("it waits to be retried after: not yet: 1; due in 10 s")
    app.trigger(patient, 1)
    released = app.execute_next()
    assert app.runs.why(released.id)[0].startswith("its handler released it; due in 60 min")


def test_what_is_due_says_what_holds_it_back(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, queues=[narrow], clock=clock)
    first, second = app.trigger(echo, 1).run, app.trigger(echo, 2).run
    assert app.runs.why(first.id) == ("no worker is alive in this environment",)
    app.tick()
    app._runtime.session()
    assert app.runs.why(first.id) == ("nothing holds it back: a worker claims it next",)
    assert app.runs.why(second.id) == ("one due run of queue narrow comes before it",)
    app.queues.pause(narrow, reason="night", actor=Actor.operator("ann"))
    clock.advance(HOUR)
    assert "queue narrow is paused by operator:ann since 60 min (night)" in app.runs.why(first.id)
    app.queues.resume(narrow)


def test_a_full_queue_names_who_has_its_slots(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, queues=[narrow], clock=clock)
    holder, waiting = app.trigger(echo, 1).run, app.trigger(echo, 2).run
    from runlane.engine import lease
    from tests.support import database_of

    session = app._runtime.session().holder
    database_of(app).transact(
        lambda tx: lease.claim(tx, app.environment, session, ["narrow"], ["echo"], 1, clock(), {"narrow": 1}), clock
    )
    assert app.runs.why(waiting.id) == (f"queue narrow has reached its limit of 1: taken by {holder.id}",)
    assert app.runs.why(holder.id)[0].startswith("attempt 1 is running on ")


def test_a_slot_that_is_set_aside_counts_as_taken_and_holds_its_own_run_back_from_nothing(office: Office) -> None:
    app = office.app(echo, queues=[narrow])
    first, second = app.trigger(echo, 1).run, app.trigger(echo, 2).run
    assert app.tick().slots_reserved == 1
    session_of(app)  # a worker is there
    assert app.runs.why(second.id) == (f"queue narrow has reached its limit of 1: taken by {first.id}",)
    assert app.runs.why(first.id) == ("nothing holds it back: a worker claims it next",)


def test_a_leased_run_whose_worker_has_vanished_says_so(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    run = app.trigger(echo, 1).run
    take(app, clock)
    app.runs.cancel(run.id)
    clock.advance(EXPIRY)
    reasons = app.runs.why(run.id)
    assert reasons[1] == "it was asked to stop, and its handler has not ended yet"
    assert reasons[2].startswith("its worker has vanished")


def test_an_ended_run_says_how(make_app: Make) -> None:
    app = make_app(echo, hopeless)
    good, bad, gone = app.trigger(echo, 1).run, app.trigger(hopeless, 1).run, app.trigger(echo, 2, delay=HOUR).run
    app.worker("drain").run()
    app.runs.cancel(gone.id, actor=Actor.operator("ann"), reason="too late")
    assert app.runs.why(good.id) == ("it has ended: succeeded",)
    assert app.runs.why(bad.id) == ("it has ended: failed (task_failed: no hope)",)
    assert app.runs.why(gone.id) == ("it has ended: cancelled by operator:ann: too late",)
    with pytest.raises(RunNotFound):
        app.runs.why(new_run_id())


def test_a_task_that_nobody_here_knows_is_named(make_app: Make) -> None:
    app = make_app(echo)
    run = app.trigger(echo, 1).run
    other = Runlane(app.lane, tasks=[hopeless]).start()
    assert "does not know task echo" in " ".join(other.runs.why(run.id))
