"""Workers that want the same run, and the last slot of a bounded queue."""

from __future__ import annotations

from typing import Any

import pytest

from runlane import Context, Executed, Failure, Queue, QueueCapacityExceeded, Retry, Run, Runlane, task
from runlane.decisions import Failed, Outcome, Released, Succeeded
from runlane.engine import lease
from runlane.requests import Trigger, build
from runlane.values import SourceType
from tests.engine.sessions import session_of
from tests.races.arena import Arena, Place, claim, finish, ids
from tests.races.interleave import Race
from tests.support import SECOND, database_of, types_of

FREE, ONE, TWO = Queue("free", default=True), Queue("one", concurrency_limit=1), Queue("two", concurrency_limit=2)
QUEUES = [FREE, ONE, TWO]


@task("work", retry=Retry(2))
def work(payload: Any = None) -> Any:
    return payload


def begin_now(app: Runlane, queue: Queue, **options: Any) -> Run:
    """The first half of ``run_now``: a run made and leased in one step."""
    new = build(app.registry, Trigger(work, queue=queue, **options), SourceType.RUN_NOW)
    holder, limit = session_of(app).holder, queue.concurrency_limit
    made = database_of(app).transact(
        lambda tx: lease.create_leased(tx, app.environment, holder, new, limit), app._runtime.clock
    )
    return made.run


@pytest.mark.parametrize("queue", [FREE, ONE], ids=lambda queue: queue.name)
def test_invariant_2_two_claimers_of_one_run_get_one_lease(arena: Arena, queue: Queue) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        run = a.trigger(work, queue=queue).run

        def check(x: list[Run], y: list[Run]) -> str:
            assert ids([*x, *y]) == [run.id]
            assert types_of(a, run.id) == ["RunCreated", "RunDeliveryRequested", "RunLeased"]
            return "A" if x else "B"

        return Race([lambda: claim(a), lambda: claim(b)], check)

    assert set(arena.race(scene)) == {"A", "B"}


def test_invariant_2_three_claimers_of_two_runs_get_a_lease_of_each(arena: Arena) -> None:
    """Batches: whoever comes first may have both, and nobody gets one twice."""

    def scene(place: Place) -> Race:
        apps = [place.app(work, queues=QUEUES) for _ in range(3)]
        runs = [apps[0].trigger(work, n).run for n in range(2)]

        def check(*claimed: list[Run]) -> str:
            assert sorted(run.id for some in claimed for run in some) == sorted(ids(runs))
            return "".join(str(len(some)) for some in claimed)

        return Race([lambda app=app: claim(app, 2) for app in apps], check)  # type: ignore[misc]

    assert set(arena.race(scene, switches=1)) >= {"200", "020", "002"}


def test_two_workers_execute_one_run_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        calls: list[int] = []

        @task("count")
        def counts(_: Any, context: Context) -> None:
            calls.append(context.attempt)

        a, b = place.apps(counts)
        run = a.trigger(counts).run

        def check(x: Run | None, y: Run | None) -> str:
            assert calls == [1]
            (done,) = [one for one in (x, y) if one is not None]
            assert (done.id, done.status) == (run.id, "succeeded")
            return "A" if x else "B"

        return Race([a.execute_next, b.execute_next], check)

    assert set(arena.race(scene)) == {"A", "B"}


@pytest.mark.parametrize("queue", [FREE, ONE], ids=lambda queue: queue.name)
def test_a_poller_never_sees_a_run_of_run_now_unleased(arena: Arena, queue: Queue) -> None:
    def scene(place: Place) -> Race:
        calls: list[Any] = []

        @task("here", queue=queue)
        def here(payload: Any) -> None:
            calls.append(payload)

        a, b = place.apps(here, queues=QUEUES)

        def check(done: Executed, polled: Run | None) -> str:
            assert polled is None
            assert (done.executed, done.run.status, calls) == (True, "succeeded", [1])
            assert types_of(a, done.run.id)[-2:] == ["RunLeased", "RunSucceeded"]
            return "here"

        return Race([lambda: a.run_now(here, 1), b.execute_next], check)

    assert set(arena.race(scene)) == {"here"}


def test_two_run_now_with_one_key_execute_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)

        def check(x: Executed, y: Executed) -> str:
            assert x.run.id == y.run.id
            assert x.executed is not y.executed
            return "A" if x.executed else "B"

        return Race(
            [lambda: a.run_now(work, 1, idempotency_key="k"), lambda: b.run_now(work, 2, idempotency_key="k")], check
        )

    assert set(arena.race(scene)) == {"A", "B"}


@pytest.mark.parametrize("key", [None, "tenant"])
def test_invariant_9_two_claimers_of_the_last_slot_get_one(arena: Arena, key: str | None) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        for n in range(3):
            a.trigger(work, n, queue=TWO, concurrency_key=key)
        held = claim(a)

        def check(x: list[Run], y: list[Run]) -> str:
            assert len(held) == len(x) + len(y) == 1
            return "A" if x else "B"

        return Race([lambda: claim(a, 5), lambda: claim(b, 5)], check)

    assert set(arena.race(scene)) == {"A", "B"}


def test_a_full_partition_hides_no_other_from_two_claimers(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        for key in ("x", "x", "y", None):
            a.trigger(work, queue=ONE, concurrency_key=key)

        def check(x: list[Run], y: list[Run]) -> str:
            assert sorted(run.concurrency_key or "" for run in [*x, *y]) == ["", "x", "y"]
            return f"{len(x)}{len(y)}"

        return Race([lambda: claim(a, 5), lambda: claim(b, 5)], check)

    assert set(arena.race(scene)) >= {"30", "03"}


def test_invariant_9_a_claimer_and_run_now_share_no_slot(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        waiting = a.trigger(work, queue=ONE).run

        def check(claimed: list[Run], made: Run | QueueCapacityExceeded) -> str:
            if isinstance(made, QueueCapacityExceeded):
                assert ids(claimed) == ids(a.runs.list().data) == [waiting.id]
                return "the claimer"
            assert claimed == []
            assert types_of(a, made.id)[-1] == "RunLeased"
            return "run_now"

        return Race([lambda: claim(a), lambda: begin_now(b, ONE)], check, (QueueCapacityExceeded,))

    assert set(arena.race(scene)) == {"the claimer", "run_now"}


def test_invariant_9_two_run_now_share_no_slot_and_the_one_refused_writes_nothing(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)

        def check(*made: Run | QueueCapacityExceeded) -> str:
            (run,) = [one for one in made if isinstance(one, Run)]
            assert ids(a.runs.list().data) == [run.id]
            assert a.runs.find_current(work, "a" if made[0] is run else "b") is not None
            return "A" if made[0] is run else "B"

        return Race(
            [lambda: begin_now(a, ONE, idempotency_key="a"), lambda: begin_now(b, ONE, idempotency_key="b")],
            check,
            (QueueCapacityExceeded,),
        )

    assert set(arena.race(scene)) == {"A", "B"}


@pytest.mark.parametrize(
    "outcome",
    [Succeeded(None), Failed(Failure("boom", "boom", True)), Released(SECOND)],
    ids=["succeeds", "retries", "is released"],
)
def test_a_slot_that_becomes_free_is_taken_before_or_after(arena: Arena, outcome: Outcome) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        for n in range(2):
            a.trigger(work, n, queue=ONE)
        (held,) = claim(a)

        def check(done: Run | None, claimed: list[Run]) -> str:
            assert done is not None
            assert done.lease is None
            return f"{len(claimed)}"

        return Race([lambda: finish(a, held, outcome, Retry(2)), lambda: claim(b)], check)

    assert set(arena.race(scene)) == {"0", "1"}


def test_invariant_13_a_run_released_many_times_keeps_its_budget_whoever_executes_it(arena: Arena) -> None:
    """Two workers take turns at a run that waits three times and then fails for the first time of two."""

    def scene(place: Place) -> Race:
        @task("waits", retry=Retry(2))
        def waits(_: Any, context: Context) -> Any:
            if context.attempt <= 3:
                return context.release(SECOND)
            raise ValueError("for the first time")

        a, b = place.apps(waits)
        run = a.trigger(waits).run

        def twice(app: Runlane) -> list[Run | None]:
            done = []
            for _ in range(2):
                place.wait(SECOND)
                done.append(app.execute_next())
            return done

        def check(x: list[Run | None], y: list[Run | None]) -> str:
            for _ in range(4 - a.runs.get(run.id).attempt_count):
                place.wait(SECOND)
                a.execute_next()
            now = a.runs.get(run.id)
            assert (now.status, now.release_count, now.failure_count, now.retry_count) == ("retrying", 3, 1, 1)
            return f"{2 - x.count(None)}{2 - y.count(None)}"

        return Race([lambda: twice(a), lambda: twice(b)], check)

    assert set(arena.race(scene, switches=1)) >= {"22"}
