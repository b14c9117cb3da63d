"""The append contract: what was decided on a stale state writes nothing at all, whatever kind of stream it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from runlane import Runlane, Schedule, task
from runlane.decisions import Change, move_queue
from runlane.events import QueuePaused, RunCancelled, RunLeased, SchedulePaused
from runlane.projections.runs import Run
from runlane.schedule_decisions import move_schedule
from runlane.storage import log
from runlane.storage.transaction import Transaction
from runlane.values import SYSTEM
from tests.engine.sessions import session_of
from tests.races.arena import Arena, Place
from tests.races.interleave import Race
from tests.support import birth, database_of, step, types_of


@task("work", schedules=[Schedule("s", every="1h")])
def work(payload: Any = None) -> Any:
    return payload


def transact(app: Runlane, write: Callable[[Transaction], Any]) -> Any:
    """One transaction, and whatever `write` returns."""
    return database_of(app).transact(write, app._runtime.clock)


def rows(place: Place) -> tuple[int, int, int]:
    """How many events, runs and keys the environment has."""
    with database_of(place.made[0]).read() as tx:
        counts = []
        for table in ("events", "runs", "idempotency_keys"):
            name = table if tx.schema is None else f"{tx.schema}.{table}"
            statement = f"select count(*) from {name} where environment = '{place.environment}'"
            counts.append(int(tx.connection.exec_driver_sql(statement).scalar_one()))
    return counts[0], counts[1], counts[2]


def test_invariant_5_of_two_steps_decided_on_one_sequence_one_is_written(arena: Arena) -> None:
    """Beside it in the same batch a fresh change of another run is written all the same."""

    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        shared, mine, yours = (a.trigger(work, n).run for n in range(3))
        before = rows(place)

        def changes(app: Runlane, other: Run) -> list[Change]:
            holder = session_of(app).holder
            return [step(run, RunLeased(holder.session_id, holder.worker_id, 1)) for run in (shared, other)]

        def check(x: set[UUID], y: set[UUID]) -> str:
            assert sorted([x, y], key=len) == [set(), {shared.id}]
            assert rows(place) == (before[0] + 3, *before[1:])
            winner = b if x else a
            held = a.runs.get(shared.id).lease
            assert held is not None
            assert held.session_id == session_of(winner).holder.session_id
            assert a.runs.get(mine.id).status == a.runs.get(yours.id).status == "running"
            return "B" if x else "A"

        return Race(
            [
                lambda: transact(a, lambda tx: log.append_runs(tx, changes(a, mine))),
                lambda: transact(b, lambda tx: log.append_runs(tx, changes(b, yours))),
            ],
            check,
        )

    assert set(arena.race(scene)) == {"A", "B"}


def test_of_two_births_with_one_key_one_is_written_with_its_ownership(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        births = [birth("work", key="k", environment=place.environment, at=place.clock()) for _ in range(2)]

        def check(x: set[UUID], y: set[UUID]) -> str:
            lost, won = (births[0], births[1]) if x else (births[1], births[0])
            assert x | y == {lost.after.id}
            assert rows(place) == (len(won.records), 1, 1)
            found = a.runs.find_current(work, "k")
            assert found is not None
            assert found.id == won.after.id
            return "B" if x else "A"

        return Race(
            [
                lambda: transact(a, lambda tx: log.append_runs(tx, [births[0]])),
                lambda: transact(b, lambda tx: log.append_runs(tx, [births[1]])),
            ],
            check,
        )

    assert set(arena.race(scene)) == {"A", "B"}


def test_a_stale_step_frees_no_key(arena: Arena) -> None:
    """The end of a singleton's owner, decided before somebody else moved it: the key stays taken."""

    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        run = a.trigger(work, singleton_key="s").run
        holder = session_of(b).holder

        def check(lost: set[UUID], leased: set[UUID]) -> str:
            assert len(lost | leased) == 1
            found = a.runs.find_active(work, singleton_key="s")
            assert (found is not None) == bool(lost)
            assert types_of(a, run.id)[2:] == (["RunLeased"] if lost else ["RunCancelled"])
            return "the step" if lost else "the end"

        return Race(
            [
                lambda: transact(a, lambda tx: log.append_runs(tx, [step(run, RunCancelled())])),
                lambda: transact(
                    b,
                    lambda tx: log.append_runs(tx, [step(run, RunLeased(holder.session_id, holder.worker_id, 1))]),
                ),
            ],
            check,
        )

    assert set(arena.race(scene)) == {"the step", "the end"}


def test_of_two_moves_of_a_schedule_or_a_queue_decided_on_one_state_one_is_written(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        a.tick()
        schedule, queue = a.schedules.get("s"), a.queues.pause("default")
        assert queue is not None
        a.queues.resume("default")
        resumed = next(one.control for one in a.queues.list())
        before = rows(place)

        def move(tx: Transaction) -> tuple[bool, bool]:
            events = [SchedulePaused()]
            paused = move_schedule(place.environment, "s", schedule, events, place.clock(), SYSTEM)
            stopped = move_queue(place.environment, "default", resumed, [QueuePaused("default")], place.clock(), SYSTEM)
            return log.append_schedule(tx, paused), log.append_queue(tx, stopped)

        def check(x: tuple[bool, bool], y: tuple[bool, bool]) -> str:
            assert sorted([x, y]) == [(False, False), (True, True)]
            assert rows(place) == (before[0] + 2, *before[1:])
            return "A" if all(x) else "B"

        return Race([lambda: transact(a, move), lambda: transact(b, move)], check)

    assert set(arena.race(scene)) == {"A", "B"}
