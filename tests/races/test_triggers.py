"""Triggers that want the same key at the same moment, and triggers while the owner ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from runlane import Failure, Run, Runlane, Trigger, Triggered, TriggerOutcome, task
from runlane.decisions import Failed, Succeeded
from tests.races.arena import Arena, Place, claim, finish
from tests.races.interleave import Race

CREATED, REUSED = TriggerOutcome.CREATED, TriggerOutcome.REUSED_IDEMPOTENT
BOOM = Failed(Failure("boom", "boom", False))
TTL = timedelta(days=30)
KEYS: list[dict[str, Any]] = [
    {"idempotency_key": "k"},
    {"singleton_key": "s"},
    {"idempotency_key": "k", "singleton_key": "s"},
]


@task("work")
def work(payload: Any = None) -> Any:
    return payload


def one_active(app: Runlane) -> Run:
    """The only active run."""
    (run,) = [run for run in app.runs.list().data if run.is_active]
    return run


def first(place: Place, *found: Triggered) -> str:
    """Who made the one active run, which all were given."""
    assert [one.run.id for one in found] == [one_active(place.made[0]).id] * len(found)
    outcomes = [one.outcome for one in found]
    assert outcomes.count(CREATED) == 1
    return "ABC"[outcomes.index(CREATED)]


@pytest.mark.parametrize("keys", KEYS)
def test_invariants_7_and_8_two_triggers_with_one_key_make_one_run(arena: Arena, keys: dict[str, Any]) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        return Race(
            [lambda: a.trigger(work, 1, **keys), lambda: b.trigger(work, 2, **keys)], lambda x, y: first(place, x, y)
        )

    assert set(arena.race(scene)) == {"A", "B"}


@pytest.mark.parametrize("keys", KEYS[:2])
def test_three_triggers_with_one_key_make_one_run(arena: Arena, keys: dict[str, Any]) -> None:
    def scene(place: Place) -> Race:
        apps = [place.app(work) for _ in range(3)]
        return Race(
            [lambda app=app: app.trigger(work, **keys) for app in apps],  # type: ignore[misc]
            lambda *found: first(place, *found),
        )

    assert set(arena.race(scene, switches=1)) == {"A", "B", "C"}


def test_batches_with_the_same_keys_in_opposite_order_wait_for_each_other_in_no_circle(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        wanted = [
            Trigger(work, 1, idempotency_key="x"),
            Trigger(work, 2, idempotency_key="y"),
            Trigger(work, 3, singleton_key="x"),
            Trigger(work, 4, singleton_key="y"),
        ]

        def check(x: list[Triggered], y: list[Triggered]) -> str:
            assert [one.run.id for one in x] == [one.run.id for one in reversed(y)]
            created = [one.outcome is CREATED for one in x]
            assert created == [one.outcome is not CREATED for one in reversed(y)]
            return "A" if all(created) else "B" if not any(created) else "mixed"

        return Race([lambda: a.trigger_many(wanted), lambda: b.trigger_many(wanted[::-1])], check)

    assert set(arena.race(scene)) == {"A", "B"}


def test_the_owner_of_both_keys_is_looked_up_by_idempotency_first(arena: Arena) -> None:
    """One wants both keys, one each of them alone; no run is made for a key that another run has."""

    def scene(place: Place) -> Race:
        apps = [place.app(work) for _ in range(3)]

        def check(both: Triggered, idempotent: Triggered, single: Triggered) -> str:
            assert single.run.id == next(run.id for run in place.made[0].runs.list().data if run.singleton_key)
            made = {one.run.id for one in (both, idempotent, single)}
            assert len(made) == len(place.made[0].runs.list().data)
            return f"{both.outcome} {len(made)}"

        return Race(
            [
                lambda: apps[0].trigger(work, idempotency_key="k", singleton_key="s"),
                lambda: apps[1].trigger(work, idempotency_key="k"),
                lambda: apps[2].trigger(work, singleton_key="s"),
            ],
            check,
        )

    courses = arena.race(scene, switches=1)
    assert set(courses) >= {"created 1", "reused_idempotent 2", "reused_singleton 2"}


@pytest.mark.parametrize("keys", KEYS)
def test_a_trigger_while_the_owner_fails_gets_the_old_active_run_or_a_new_one(
    arena: Arena, keys: dict[str, Any]
) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        old = a.trigger(work, 1, **keys).run
        (leased,) = claim(a)

        def check(failed: Run | None, found: Triggered) -> str:
            assert failed is not None
            assert failed.id == old.id
            assert failed.status == "failed"
            if found.run.id == old.id:
                assert found.outcome is not CREATED
                assert not [run for run in a.runs.list().data if run.is_active]
                return "the old one"
            assert found.outcome is CREATED
            assert one_active(a).id == found.run.id
            return "a new one"

        return Race([lambda: finish(a, leased, BOOM), lambda: b.trigger(work, 2, **keys)], check)

    assert set(arena.race(scene)) == {"the old one", "a new one"}


@pytest.mark.parametrize("keys", KEYS[1:])
def test_two_triggers_while_the_owner_fails_make_one_run_at_most(arena: Arena, keys: dict[str, Any]) -> None:
    def scene(place: Place) -> Race:
        apps = [place.app(work) for _ in range(3)]
        old = apps[0].trigger(work, 0, **keys).run
        (leased,) = claim(apps[0])

        def check(_: Run | None, x: Triggered, y: Triggered) -> str:
            new = {one.run.id for one in (x, y)} - {old.id}
            assert [one.outcome for one in (x, y)].count(CREATED) == len(new) <= 1
            assert {run.id for run in apps[0].runs.list().data} == {old.id} | new
            return f"{x.outcome is CREATED} {y.outcome is CREATED}"

        return Race(
            [
                lambda: finish(apps[0], leased, BOOM),
                lambda: apps[1].trigger(work, 1, **keys),
                lambda: apps[2].trigger(work, 2, **keys),
            ],
            check,
        )

    assert set(arena.race(scene, switches=1)) == {"True False", "False True", "False False"}


@pytest.mark.parametrize("end", [BOOM, Succeeded(None)], ids=["failed", "past its retention"])
def test_two_triggers_after_the_owner_has_freed_the_key_make_one_run(arena: Arena, end: Any) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        a.trigger(work, 0, idempotency_key="k", idempotency_ttl=TTL)
        finish(a, claim(a)[0], end)
        place.clock.advance(TTL if isinstance(end, Succeeded) else timedelta(0))
        return Race(
            [lambda: a.trigger(work, 1, idempotency_key="k"), lambda: b.trigger(work, 2, idempotency_key="k")],
            lambda x, y: first(place, x, y),
        )

    assert set(arena.race(scene)) == {"A", "B"}


def test_triggers_within_the_retention_of_a_success_get_it(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        old = a.trigger(work, 0, idempotency_key="k", idempotency_ttl=TTL).run
        finish(a, claim(a)[0], Succeeded(None))
        place.clock.advance(TTL - timedelta(microseconds=1))

        def check(x: Triggered, y: Triggered) -> str:
            assert [x.outcome, y.outcome] == [REUSED, REUSED]
            assert x.run.id == y.run.id == old.id
            assert len(a.runs.events(old.id)) == 4
            return "reused"

        return Race(
            [lambda: a.trigger(work, 1, idempotency_key="k"), lambda: b.trigger(work, 2, idempotency_key="k")], check
        )

    assert set(arena.race(scene)) == {"reused"}
