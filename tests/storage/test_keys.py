"""Idempotency keys: who owns one, for how long, and that the database decides it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from runlane import (
    ConfigurationInvalid,
    Fixed,
    NonRetryable,
    Retry,
    Runlane,
    RunStatus,
    SettableClock,
    StorageConflict,
    Trigger,
    TriggerOutcome,
    task,
)
from runlane.errors import ConflictKind
from tests.engine.tasks import echo, flaky, patient
from tests.support import SECOND, at_once, written

CREATED, REUSED = TriggerOutcome.CREATED, TriggerOutcome.REUSED_IDEMPOTENT
MOMENT = timedelta(microseconds=1)
Make = Callable[..., Runlane]


@task("fail")
def fail(payload: Any) -> None:
    raise NonRetryable("no")


@task("keyed", idempotency_key=lambda payload: f"order-{payload['order']}", idempotency_ttl="2h")
def keyed(payload: dict) -> None:
    """Takes its key from its payload."""


@pytest.fixture
def app(make_app: Make, clock: SettableClock) -> Runlane:
    return make_app(echo, fail, flaky, patient, keyed, clock=clock)


@pytest.mark.parametrize(
    ("wanted", "used", "options"),
    [
        ("queued", echo, {}),
        ("scheduled", echo, {"delay": "1h"}),
        ("retrying", flaky, {}),
        ("released", patient, {}),
        ("succeeded", echo, {}),
    ],
)
def test_an_owner_is_returned_as_it_is_and_nothing_is_written(
    app: Runlane, wanted: str, used: Any, options: dict
) -> None:
    first = app.trigger(used, 1, idempotency_key="k", **options)
    if wanted not in ("queued", "scheduled"):
        app.execute_next()
    owner = app.runs.get(first.run.id)
    assert owner.status == wanted
    before = written(app)
    again = app.trigger(used, 2, idempotency_key="k", priority=5, meta={"another": True})
    assert (again.outcome, again.run) == (REUSED, owner)
    assert written(app) == before


def test_a_running_owner_is_returned(make_app: Make, clock: SettableClock) -> None:
    seen = []

    @task("asks")
    def asks(payload: Any) -> None:
        seen.append(app.trigger("asks", 2, idempotency_key="k"))

    app = make_app(asks, clock=clock)
    owner = app.trigger(asks, 1, idempotency_key="k").run
    app.execute_next()
    assert (seen[0].outcome, seen[0].run.id, seen[0].run.status) == (REUSED, owner.id, RunStatus.RUNNING)


def test_a_succeeded_owner_keeps_the_key_until_exactly_its_ttl(app: Runlane, clock: SettableClock) -> None:
    first = app.trigger(echo, 1, idempotency_key="k", idempotency_ttl="10m").run
    clock.advance(timedelta(minutes=5))
    app.execute_next()
    clock.set(first.created_at + timedelta(minutes=10) - MOMENT)
    assert app.trigger(echo, 2, idempotency_key="k").outcome is REUSED
    clock.set(first.created_at + timedelta(minutes=10))
    second = app.trigger(echo, 3, idempotency_key="k")
    assert second.outcome is CREATED
    assert app.trigger(echo, 4, idempotency_key="k").run == second.run


def test_the_default_is_thirty_days(app: Runlane, clock: SettableClock) -> None:
    first = app.trigger(echo, 1, idempotency_key="k").run
    app.execute_next()
    assert first.idempotency_ttl == "30d"
    clock.advance(timedelta(days=30) - MOMENT)
    assert app.trigger(echo, 2, idempotency_key="k").outcome is REUSED
    clock.advance(MOMENT)
    assert app.trigger(echo, 3, idempotency_key="k").outcome is CREATED


def test_the_ttl_is_the_one_captured_at_creation(app: Runlane, clock: SettableClock) -> None:
    app.trigger(echo, 1, idempotency_key="k", idempotency_ttl="1h")
    app.execute_next()
    clock.advance(timedelta(minutes=30))
    assert app.trigger(echo, 2, idempotency_key="k", idempotency_ttl="1s").outcome is REUSED
    clock.advance(timedelta(minutes=31))
    assert app.trigger(echo, 3, idempotency_key="k", idempotency_ttl="30d").outcome is CREATED


def test_a_failed_owner_frees_the_key_at_once(app: Runlane) -> None:
    first = app.trigger(fail, 1, idempotency_key="k").run
    app.execute_next()
    second = app.trigger(fail, 2, idempotency_key="k")
    assert second.outcome is CREATED
    assert second.run.id != first.id
    assert app.runs.get(first.id).status is RunStatus.FAILED


def test_ttl_active_frees_the_key_when_the_owner_ends(app: Runlane) -> None:
    app.trigger(echo, 1, idempotency_key="k", idempotency_ttl="active")
    assert app.trigger(echo, 2, idempotency_key="k").outcome is REUSED
    app.execute_next()
    assert app.trigger(echo, 3, idempotency_key="k").outcome is CREATED


@pytest.mark.parametrize("ttl", ["1s", timedelta(milliseconds=5), "active"])
def test_an_active_owner_owns_past_its_ttl(app: Runlane, clock: SettableClock, ttl: Any) -> None:
    first = app.trigger(patient, 1, idempotency_key="k", idempotency_ttl=ttl).run
    app.execute_next()
    clock.advance(timedelta(days=400))
    assert app.trigger(patient, 2, idempotency_key="k").run.id == first.id
    app.execute_next()
    assert app.runs.get(first.id).status is RunStatus.SUCCEEDED
    assert app.trigger(patient, 0, idempotency_key="k").outcome is CREATED


def test_a_key_changes_hands_as_often_as_its_owners_fail(app: Runlane) -> None:
    owners = []
    for n in range(5):
        owners.append(app.trigger(fail, n, idempotency_key="k").run.id)
        app.execute_next()
    assert len(set(owners)) == 5


def test_the_scope_is_the_task_and_the_environment(
    app: Runlane, make_app: Make, lane_url: str, clock: SettableClock
) -> None:
    app.trigger(echo, 1, idempotency_key="k")
    assert app.trigger(fail, 1, idempotency_key="k").outcome is CREATED
    if lane_url != "memory:":
        assert make_app(echo, clock=clock, environment="e").trigger(echo, 1, idempotency_key="k").outcome is CREATED


def test_keys_are_compared_exactly(app: Runlane) -> None:
    for key in ("k", "K", "k ", " k", "é", "e\u0301", "k" * 255):
        assert app.trigger(echo, key, idempotency_key=key).outcome is CREATED
        assert app.trigger(echo, key, idempotency_key=key).outcome is REUSED


def test_a_task_takes_its_key_from_the_payload_and_a_trigger_replaces_it(app: Runlane) -> None:
    first = app.trigger(keyed, {"order": 7})
    assert (first.run.idempotency_key, first.run.idempotency_ttl) == ("order-7", "2h")
    assert app.trigger(keyed, {"order": 7, "note": "again"}).run == first.run
    assert app.trigger(keyed, {"order": 8}).outcome is CREATED
    other = app.trigger(keyed, {"order": 7}, idempotency_key="mine")
    assert (other.outcome, other.run.idempotency_key) == (CREATED, "mine")


def test_a_ttl_without_a_key_is_refused(app: Runlane) -> None:
    with pytest.raises(ConfigurationInvalid, match="idempotency_ttl needs an idempotency_key"):
        app.trigger(echo, 1, idempotency_ttl="1h")
    assert written(app) == (0, 0, 0)


def test_within_one_batch_the_first_entry_owns_the_key(app: Runlane) -> None:
    done = app.trigger_many([Trigger(echo, n, idempotency_key=f"k{n % 3}") for n in range(9)])
    assert [one.outcome for one in done] == [CREATED] * 3 + [REUSED] * 6
    assert [one.run.payload for one in done] == [0, 1, 2] * 3
    assert written(app) == (6, 3, 3)


def test_the_first_entry_of_a_batch_owns_the_key_whatever_its_id(app: Runlane) -> None:
    ids = [UUID(int=2**127), UUID(int=1)]
    done = app.trigger_many([Trigger(echo, n, idempotency_key="k", run_id=id) for n, id in enumerate(ids)])
    assert [one.outcome for one in done] == [CREATED, REUSED]


def test_a_batch_finds_owners_takes_over_freed_keys_and_creates_the_rest(app: Runlane) -> None:
    kept = app.trigger(fail, "kept", idempotency_key="kept", delay="1h").run
    freed = app.trigger(fail, "freed", idempotency_key="freed").run
    app.execute_next()
    done = app.trigger_many([Trigger(fail, k, idempotency_key=k) for k in ("new", "kept", "freed", "freed")])
    assert [one.outcome for one in done] == [CREATED, REUSED, CREATED, REUSED]
    assert done[1].run.id == kept.id
    assert done[2].run.id == done[3].run.id != freed.id


def test_a_taken_run_id_leaves_the_key_with_nobody_new(app: Runlane) -> None:
    taken = app.trigger(fail, 1, idempotency_key="k").run
    app.execute_next()
    before = written(app)
    with pytest.raises(StorageConflict) as caught:
        app.trigger(fail, 2, idempotency_key="k", run_id=taken.id)
    assert caught.value.kind is ConflictKind.RUN_EXISTS
    assert written(app) == before
    assert app.trigger(fail, 3, idempotency_key="k").outcome is CREATED


def test_an_owner_is_found_before_a_taken_run_id_is_noticed(app: Runlane) -> None:
    first = app.trigger(echo, 1, idempotency_key="k").run
    again = app.trigger(echo, 2, idempotency_key="k", run_id=first.id)
    assert (again.outcome, again.run) == (REUSED, first)


@pytest.mark.parametrize("freed", [False, True], ids=["a key nobody had", "a key of a failed owner"])
def test_sixteen_triggers_at_once_make_exactly_one_run(shared_url: str, clock: SettableClock, freed: bool) -> None:
    with Runlane(shared_url, tasks=[fail], clock=clock) as one, Runlane(shared_url, tasks=[fail], clock=clock) as two:
        if freed:
            one.trigger(fail, "old", idempotency_key="k")
            one.execute_next()
        apps = [one, two] * 8
        done = at_once([lambda n=n, app=app: app.trigger(fail, n, idempotency_key="k") for n, app in enumerate(apps)])
        assert sorted(one.outcome for one in done) == [CREATED] + [REUSED] * 15
        assert len({one.run.id for one in done}) == 1
        assert len(one.runs.list(idempotency_key="k").data) == 1 + freed
        assert one.audit.verify().differences == ()


def test_batches_that_cross_make_one_run_per_key_and_do_not_deadlock(shared_url: str) -> None:
    keys = [f"k{n}" for n in range(30)]
    with Runlane(shared_url, tasks=[echo]) as app:

        def batch(n: int) -> list[TriggerOutcome]:
            turned = keys[n * 5 :] + keys[: n * 5]
            return [one.outcome for one in app.trigger_many([Trigger(echo, n, idempotency_key=k) for k in turned])]

        outcomes = at_once([lambda n=n: batch(n) for n in range(6)])
        assert sum(one.count(CREATED) for one in outcomes) == len(keys)
        assert sorted(run.idempotency_key for run in app.runs.list(limit=500).data) == sorted(keys)
        assert app.audit.verify().differences == ()


def test_a_retry_of_the_owner_does_not_free_the_key(make_app: Make, clock: SettableClock) -> None:
    @task("twice", retry=Retry(2, Fixed("1s"), jitter=0.0))
    def twice(payload: Any) -> None:
        raise ValueError("again")

    app = make_app(twice, clock=clock)
    first = app.trigger(twice, 1, idempotency_key="k").run
    app.execute_next()
    assert app.trigger(twice, 2, idempotency_key="k").run.id == first.id
    clock.advance(SECOND)
    app.execute_next()
    assert app.trigger(twice, 3, idempotency_key="k").outcome is CREATED
