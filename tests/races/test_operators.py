"""Pruning, running again and resetting keys while others use the same runs and keys."""

from __future__ import annotations

from typing import Any

import pytest

from runlane import (
    ConfigurationInvalid,
    Failure,
    PayloadInvalid,
    Pruned,
    Run,
    Runlane,
    RunNotFound,
    RunStateInvalid,
    StorageConflict,
    Triggered,
    TriggerOutcome,
    task,
)
from runlane.decisions import Failed, Outcome, Succeeded, environment_stream
from runlane.storage import streams
from tests.races.arena import Arena, Place, claim, finish, ids
from tests.races.interleave import Race
from tests.support import SECOND, database_of

CREATED = TriggerOutcome.CREATED
BOOM, DONE = Failed(Failure("boom", "boom", False)), Succeeded(None)


@task("work")
def work(payload: Any = None) -> Any:
    return payload


@task("work")
def stricter(payload: int) -> int:
    """The same task as a later version of the program has it."""
    return payload


def ended(app: Runlane, count: int = 1, outcome: Outcome = DONE, **options: Any) -> list[Run]:
    """Runs that have ended a second ago."""
    made = [app.trigger(work, f"payload {n}", **options).run for n in range(count)]
    for run in claim(app, count):
        finish(app, run, outcome)
    app._runtime.clock.advance(SECOND)  # type: ignore[union-attr]
    return made


def prunings(app: Runlane) -> list[int]:
    """How many runs each pruning has told of."""
    with database_of(app).read() as tx:
        records = streams.read_stream(tx, environment_stream(app.environment))
    return [record.event.runs for record in records]  # type: ignore[union-attr]


def test_invariant_14_a_prune_and_a_rerun_of_its_run_come_one_after_the_other(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        (source,) = ended(a)

        def check(pruned: Pruned, child: Run | RunNotFound) -> str:
            assert (pruned.runs, prunings(a)) == (1, [1])
            left = a.runs.list().data
            if isinstance(child, RunNotFound):
                assert left == ()
                return "pruned first"
            assert ids(left) == [child.id]
            assert (child.payload, child.source.source_run_id) == ("payload 0", source.id)
            return "run again first"

        return Race([lambda: a.runs.prune(place.clock()), lambda: b.runs.rerun(source.id)], check, (RunNotFound,))

    assert set(arena.race(scene)) == {"pruned first", "run again first"}


def test_invariant_14_a_prune_and_a_trigger_with_the_key_of_its_run_leave_one_owner(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        (old,) = ended(a, idempotency_key="k")

        def check(pruned: Pruned, found: Triggered) -> str:
            assert (pruned.runs, pruned.keys, prunings(a)) == (1, 1, [1])
            now = a.runs.find_current(work, "k")
            if found.outcome is CREATED:
                assert now is not None
                assert now.id == found.run.id
                assert ids(a.runs.list().data) == [now.id]
                return "pruned first"
            assert found.run.id == old.id
            assert now is None
            return "triggered first"

        return Race([lambda: a.runs.prune(place.clock()), lambda: b.trigger(work, 1, idempotency_key="k")], check)

    assert set(arena.race(scene)) == {"pruned first", "triggered first"}


def test_invariant_14_a_prune_and_a_trigger_that_takes_the_key_over_leave_one_owner(arena: Arena) -> None:
    """The failed owner has freed the key: the prune must not take it from the next one."""

    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        ended(a, outcome=BOOM, idempotency_key="k")

        def check(pruned: Pruned, found: Triggered) -> str:
            assert pruned.runs == 1
            assert found.outcome is CREATED
            owner = a.runs.find_current(work, "k")
            assert owner is not None
            assert ids(a.runs.list().data) == [owner.id] == [found.run.id]
            return f"with {pruned.keys} keys"

        return Race([lambda: a.runs.prune(place.clock()), lambda: b.trigger(work, 1, idempotency_key="k")], check)

    assert set(arena.race(scene)) == {"with 1 keys", "with 0 keys"}


def test_two_prunes_remove_each_run_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        ended(a, 3)

        def check(x: Pruned, y: Pruned) -> str:
            assert sum(prunings(a)) == x.runs + y.runs == 3
            assert a.runs.list().data == ()
            return f"{x.runs}{y.runs}"

        return Race([lambda: a.runs.prune(place.clock(), limit=2), lambda: b.runs.prune(place.clock())], check)

    assert set(arena.race(scene)) == {"21", "03"}


def test_a_prune_of_an_active_status_is_refused_before_storage_is_touched(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        ended(a)

        def check(refused: ConfigurationInvalid, done: Triggered) -> str:
            assert "running" in str(refused)
            assert len(a.runs.list().data) == 2
            return str(done.outcome)

        refused = lambda: a.runs.prune(place.clock(), statuses=["succeeded", "running"])  # noqa: E731
        return Race([refused, lambda: b.trigger(work)], check, (ConfigurationInvalid,))

    # One schedule only: the refused one never stands before a statement.
    assert arena.race(scene).total() == 1


def test_a_rerun_is_validated_against_the_schema_of_the_program_that_makes_it(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.app(work), place.app(stricter)
        (source,) = ended(a, outcome=BOOM)
        before = a.runs.events(source.id)

        def check(child: Run, refused: PayloadInvalid) -> str:
            assert isinstance(refused, PayloadInvalid)
            assert (child.payload, child.source.source_run_id) == ("payload 0", source.id)
            assert sorted(ids(a.runs.list().data)) == sorted([source.id, child.id])
            assert a.runs.events(source.id) == before
            return "one"

        return Race([lambda: a.runs.retry(source.id), lambda: b.runs.retry(source.id)], check, (PayloadInvalid,))

    assert set(arena.race(scene)) == {"one"}


def test_invariant_8_of_two_reruns_under_a_singleton_key_one_is_made(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        (source,) = ended(a, singleton_key="s")

        def check(*results: Run | StorageConflict) -> str:
            (child,) = [one for one in results if isinstance(one, Run)]
            active = a.runs.find_active(work, singleton_key="s")
            assert active is not None
            assert active.id == child.id
            return "A" if results[0] is child else "B"

        return Race([lambda: a.runs.rerun(source.id), lambda: b.runs.rerun(source.id)], check, (StorageConflict,))

    assert set(arena.race(scene)) == {"A", "B"}


def test_a_reset_and_a_trigger_come_one_after_the_other(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        (old,) = ended(a, idempotency_key="k")

        def check(freed: bool | RunStateInvalid, found: Triggered) -> str:
            assert freed is True
            current = a.runs.find_current(work, "k")
            if found.outcome is CREATED:
                assert current is not None
                assert current.id == found.run.id
                return "reset first"
            assert found.run.id == old.id
            assert current is None
            return "triggered first"

        return Race(
            [lambda: a.idempotency_keys.reset(work, "k"), lambda: b.trigger(work, 1, idempotency_key="k")], check
        )

    assert set(arena.race(scene)) == {"reset first", "triggered first"}


def test_a_reset_never_takes_the_key_from_an_active_owner(arena: Arena) -> None:
    """The owner has failed, so a trigger makes a new one: whoever comes first, that one keeps the key."""

    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        ended(a, outcome=BOOM, idempotency_key="k")

        def check(freed: bool | RunStateInvalid, found: Triggered) -> str:
            assert found.outcome is CREATED
            current = a.runs.find_current(work, "k")
            assert current is not None
            assert current.id == found.run.id
            return "refused" if isinstance(freed, RunStateInvalid) else str(freed)

        return Race(
            [lambda: a.idempotency_keys.reset(work, "k"), lambda: b.trigger(work, 1, idempotency_key="k")],
            check,
            (RunStateInvalid,),
        )

    assert set(arena.race(scene)) == {"False", "refused"}


@pytest.mark.parametrize("other", ["reset", "prune"])
def test_of_two_that_free_one_key_one_does(arena: Arena, other: str) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        ended(a, idempotency_key="k")

        def check(freed: bool, done: bool | Pruned) -> str:
            if isinstance(done, Pruned):
                assert (done.runs, done.keys) == (1, 1)
            else:
                assert freed is not done
            assert a.runs.find_current(work, "k") is None
            return str(freed)

        reset = lambda: b.idempotency_keys.reset(work, "k")  # noqa: E731
        prune = lambda: b.runs.prune(place.clock())  # noqa: E731
        return Race([lambda: a.idempotency_keys.reset(work, "k"), reset if other == "reset" else prune], check)

    assert set(arena.race(scene)) == {"True", "False"}
