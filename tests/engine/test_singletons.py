"""Singleton keys: at most one active owner per key (invariant 8), whoever asks and from wherever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from runlane import ConfigurationInvalid, Runlane, RunStatus, Schedule, SettableClock, Trigger, task
from tests.engine.tasks import HOUR, echo, flaky, patient
from tests.support import at_once, count, database_of

Make = Callable[..., Runlane]


@task("one.each", singleton_key=lambda payload: payload["who"])
def one_each(payload: dict[str, Any]) -> None:
    """Nothing."""


def test_a_colliding_trigger_is_given_the_active_owner(make_app: Make) -> None:
    app = make_app(one_each)
    first = app.trigger(one_each, {"who": "ann", "n": 1})
    again = app.trigger(one_each, {"who": "ann", "n": 2})
    other = app.trigger(one_each, {"who": "bob", "n": 3})
    assert (first.outcome, again.outcome, other.outcome) == ("created", "reused_singleton", "created")
    assert again.run == first.run
    assert app.runs.find_active(one_each, singleton_key="ann") == first.run
    assert app.runs.find_active(one_each, singleton_key="eve") is None
    app.worker("drain").run()
    assert app.runs.find_active(one_each, singleton_key="ann") is None
    assert app.trigger(one_each, {"who": "ann"}).outcome == "created"


@pytest.mark.parametrize("status", ["scheduled", "retrying", "released", "running", "cancellation_requested"])
def test_an_owner_owns_in_every_active_status(make_app: Make, clock: SettableClock, status: str) -> None:
    app = make_app(echo, flaky, patient, clock=clock)
    chosen = {"retrying": flaky, "released": patient}.get(status, echo)
    options: dict[str, Any] = {"delay": HOUR} if status == "scheduled" else {}
    owner = app.trigger(chosen, 1, singleton_key="k", **options).run
    if status in ("retrying", "released"):
        app.execute_next()
    if status in ("running", "cancellation_requested"):
        from tests.engine.sessions import take

        take(app, clock)
    if status == "cancellation_requested":
        app.runs.cancel(owner.id)
    assert app.runs.get(owner.id).status == status
    found = app.trigger(chosen, 2, singleton_key="k")
    assert (found.outcome, found.run.id) == ("reused_singleton", owner.id)


def test_the_triggers_key_replaces_the_tasks(make_app: Make) -> None:
    app = make_app(one_each)
    app.trigger(one_each, {"who": "ann"})
    assert app.trigger(one_each, {"who": "ann"}, singleton_key="other").outcome == "created"
    with pytest.raises(ConfigurationInvalid, match="singleton_key"):
        app.trigger(one_each, {"who": "a:b"})


def test_within_a_batch_the_first_entry_owns(make_app: Make) -> None:
    app = make_app(one_each)
    done = app.trigger_many(one_each, [{"who": "ann", "n": n} for n in range(3)] + [{"who": "bob", "n": 3}])
    assert [one.outcome for one in done] == ["created", "reused_singleton", "reused_singleton", "created"]
    assert {one.run.id for one in done[:3]} == {done[0].run.id}


def test_idempotency_is_looked_up_first(make_app: Make) -> None:
    app = make_app(echo)
    first = app.trigger(echo, 1, idempotency_key="i", singleton_key="s").run
    assert app.trigger(echo, 1, idempotency_key="i", singleton_key="s").outcome == "reused_idempotent"
    assert app.trigger(echo, 1, idempotency_key="j", singleton_key="s").outcome == "reused_singleton"
    app.execute_next()
    # The key of a trigger that came to nothing is free.
    assert count(database_of(app), "idempotency_keys") == 1
    fresh = app.trigger(echo, 1, idempotency_key="j", singleton_key="s")
    assert fresh.outcome == "created"
    assert app.trigger(echo, 2, idempotency_key="i", singleton_key="s").run.id == first.id


def test_a_freed_idempotency_key_goes_to_the_next_singleton_owner(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    app.trigger(echo, 1, idempotency_key="i", idempotency_ttl="active", singleton_key="s")
    app.execute_next()
    second = app.trigger(echo, 2, idempotency_key="i", idempotency_ttl="active", singleton_key="s")
    assert second.outcome == "created"
    assert app.runs.find_current(echo, "i").id == second.run.id


def test_run_now_finds_the_owner_too(make_app: Make) -> None:
    app = make_app(one_each)
    owner = app.trigger(one_each, {"who": "ann"}).run
    done = app.run_now(one_each, {"who": "ann"})
    assert (done.executed, done.run.id) == (False, owner.id)


def test_invariant_8_sixteen_threads_make_one_active_owner(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[one_each]) as one, Runlane(shared_url, tasks=[one_each]) as two:
        apps = [one, two] * 8
        for round_ in range(5):
            found = at_once([lambda app=app: app.trigger(one_each, {"who": "ann"}) for app in apps])
            assert len({each.run.id for each in found}) == 1
            assert [each.outcome for each in found].count("created") == 1
            one.worker("drain", maintenance=False).run()
            assert one.runs.count() == {RunStatus.SUCCEEDED: round_ + 1}
        assert one.audit.verify().identical


def test_batches_with_common_keys_in_opposite_order_do_not_lock_each_other_out(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as app:
        names = [f"k{n}" for n in range(20)]

        def batch(order: list[str]) -> list[Any]:
            return app.trigger_many([Trigger(echo, name, singleton_key=name) for name in order])

        found = at_once([lambda: batch(names), lambda: batch(names[::-1])] * 4)
        owners = {each.run.payload: each.run.id for done in found for each in done}
        assert len(owners) == 20
        assert app.runs.count() == {RunStatus.QUEUED: 20}


def test_a_schedule_joins_the_active_owner(make_app: Make, clock: SettableClock) -> None:
    @task("stock", singleton_key="stock", schedules=[Schedule("minutely", every="1m")])
    def stock() -> None:
        """Nothing."""

    app = make_app(stock, clock=clock)
    app.tick()
    for _ in range(3):
        clock.advance(timedelta(minutes=1))
        app.tick()
    assert app.runs.count() == {RunStatus.QUEUED: 1}
    app.worker("drain", maintenance=False).run()
    clock.advance(timedelta(minutes=1))
    app.tick()
    assert app.runs.count() == {RunStatus.QUEUED: 1, RunStatus.SUCCEEDED: 1}
