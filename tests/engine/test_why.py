"""Why is it not running: the reasons that hold, in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from runlane import Actor, Queue, Runlane, RunNotFound, RunStatus, SettableClock
from runlane.events import RunDispatchReserved
from runlane.projections.runs import Run
from runlane.storage import log
from runlane.values import new_run_id
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import HOUR, echo, flaky, hopeless, patient
from tests.support import SECOND, START, database_of, step

Make = Callable[..., Runlane]
narrow = Queue("narrow", default=True, concurrency_limit=1)


def free(queue: str) -> str:
    """What is said of a run that only needs a worker."""
    return f"nothing holds it back: a worker of queue {queue} claims it next, if one is running"


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
    assert app.runs.why(first.id) == (free("narrow"),)
    assert app.runs.why(second.id) == ("one due run of queue narrow comes before it",)
    app.queues.pause(narrow, reason="night", actor=Actor.operator("ann"))
    clock.advance(HOUR)
    assert "queue narrow is paused by operator:ann since 60 min (night)" in app.runs.why(first.id)
    app.queues.resume(narrow)


def test_a_full_queue_names_who_has_its_slots(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, queues=[narrow], clock=clock)
    holder, waiting = app.trigger(echo, 1).run, app.trigger(echo, 2).run
    from runlane.engine import lease

    session = app._runtime.session().holder
    database_of(app).transact(
        lambda tx: lease.claim(tx, app.environment, session, ["narrow"], ["echo"], 1, clock(), {"narrow": 1}), clock
    )
    assert app.runs.why(waiting.id) == (f"queue narrow has reached its limit of 1: taken by {holder.id}",)
    assert app.runs.why(holder.id)[0].startswith("attempt 1 is running on ")


def reserve(app: Runlane, run: Run, until: datetime | None = None) -> None:
    """Set a slot aside, as maintenance does for runs whose wakeups somebody else delivers."""
    change = step(run, RunDispatchReserved(until), at=START)
    assert not database_of(app).transact(lambda tx: log.append_runs(tx, [change]))


def test_a_reserved_slot_is_taken_and_its_holder_says_until_when(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, queues=[narrow], clock=clock)
    session_of(app)
    holder, waiting = app.trigger(echo, 1).run, app.trigger(echo, 2).run
    other = app.trigger(echo, 3, concurrency_key="other").run
    reserve(app, holder, START + HOUR)
    clock.advance(SECOND)
    held = "it holds a slot of queue narrow, reserved 1 s ago until 2026-01-01 01:00:00Z"
    assert app.runs.why(holder.id) == (free("narrow"), held)
    full = f"queue narrow has reached its limit of 1: taken by {holder.id} (reserved)"
    assert app.runs.why(waiting.id) == (full,)
    assert "limit" not in " ".join(app.runs.why(other.id)), "another key has slots of its own"
    (queue,) = app.queues.list()
    assert (queue.occupied, queue.reserved, queue.runs) == (1, 1, {RunStatus.QUEUED: 3})
    clock.advance(HOUR)
    session_of(app)
    assert app.runs.why(holder.id)[-1].endswith("expired at 2026-01-01 01:00:00Z, and maintenance gives the slot back")


def test_a_reservation_without_an_end_says_so(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, queues=[narrow], clock=clock)
    holder = app.trigger(echo, 1).run
    reserve(app, holder)
    assert app.runs.why(holder.id)[-1] == "it holds a slot of queue narrow, reserved 0 s ago until a worker takes it"


def test_a_singleton_key_says_who_owns_it(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    ended = app.trigger(echo, 1, singleton_key="one").run
    app.worker("drain").run()
    assert app.runs.why(ended.id) == ("it has ended: succeeded",)
    owner = app.trigger(echo, 2, singleton_key="one", delay=HOUR).run
    assert app.runs.why(ended.id)[1:] == (
        f"run {owner.id} (scheduled) owns its singleton key 'one': until that ends it cannot rerun",
    )
    owns = "it owns singleton key 'one': until it ends, triggers with it get this run"
    assert app.runs.why(owner.id)[-1] == owns
    clock.advance(HOUR)
    take(app, clock)
    assert app.runs.why(owner.id)[-1] == owns
    assert app.runs.why(owner.id)[0].startswith("attempt 1 is running")


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


def test_a_task_that_no_worker_knows_is_named(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    run = app.trigger(echo, 1).run
    other = Runlane(app.lane, tasks=[hopeless], clock=clock).start()
    session_of(other)
    assert app.runs.why(run.id) == ("no worker that is alive knows task echo",)
    session_of(app)
    assert app.runs.why(run.id) == (free("default"),)
    assert other.runs.why(run.id) == app.runs.why(run.id), "whoever asks: a worker knows it"
    other._runtime.session().close()
