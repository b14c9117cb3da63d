"""Lost leases: late outcomes, late heartbeats, and maintainers that find the same expired session."""

from __future__ import annotations

from typing import Any

import pytest

from runlane import Context, Failure, Run, task
from runlane.decisions import Failed, Outcome, Released, Succeeded
from runlane.engine.tick import TickReport
from runlane.errors import LeaseLost
from tests.engine.sessions import session_of
from tests.races.arena import Arena, Place, claim, finish, ids
from tests.races.interleave import Race, gate
from tests.support import SECOND, types_of

OUTCOMES: dict[str, Outcome] = {
    "returns": Succeeded(1),
    "releases": Released(SECOND),
    "fails": Failed(Failure("boom", "boom", False)),
}


@task("work")
def work(payload: Any = None) -> Any:
    return payload


@pytest.mark.parametrize("how", OUTCOMES)
def test_invariant_3_an_outcome_after_expiry_and_another_claim_is_dropped(arena: Arena, how: str) -> None:
    def scene(place: Place) -> Race:
        late, other = place.apps(work)
        run = late.trigger(work).run
        (leased,) = claim(late)
        place.outlive(late)

        def recover_and_claim() -> list[Run]:
            other.tick()
            return claim(other)

        def check(stored: Run | None, claimed: list[Run]) -> str:
            after = types_of(late, run.id)[3:]
            if stored is None:
                assert after[0] == "RunLeaseExpired"
                held = other.runs.get(run.id).lease
                assert (held is not None) == bool(claimed)
                assert held is None or held.session_id == session_of(other).holder.session_id
                return "dropped"
            assert len(after) == 1
            assert claimed == []
            return "in time"

        return Race([lambda: finish(late, leased, OUTCOMES[how]), recover_and_claim], check)

    assert set(arena.race(scene, switches=1)) == {"dropped", "in time"}


def test_invariant_3_a_handler_that_outlives_its_lease_is_told(arena: Arena) -> None:
    """The handler itself takes too long: the recovery comes before it, while it works, or after it."""

    def scene(place: Place) -> Race:
        @task("slow")
        def slow(_: Any, context: Context) -> int:
            gate("the handler at work")
            return context.attempt

        late, other = place.apps(slow)
        run = late.trigger(slow).run

        def recover_and_execute() -> Run | None:
            place.outlive(late)
            other.tick()
            return other.execute_next()

        def check(done: Run | LeaseLost | None, again: Run | None) -> str:
            if isinstance(done, LeaseLost) and again is None:
                assert other.execute_next() is not None  # its row was locked when the other one looked
            ended = late.runs.get(run.id)
            assert ended.status == "succeeded"
            if isinstance(done, LeaseLost):
                assert ended.result == ended.attempt_count == 2
                return "lost"
            assert ended.result == ended.attempt_count == 1
            assert (done is None) != (again is None)
            return "in time" if done else "never begun"

        return Race([late.execute_next, recover_and_execute], check, (LeaseLost,))

    assert set(arena.race(scene, switches=1)) >= {"lost", "in time"}


def test_a_heartbeat_loses_to_recovery_only_if_the_session_was_expired_at_the_commit(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        late, other = place.apps(work)
        run = late.trigger(work).run
        claim(late)
        place.outlive(late)

        def check(lives: bool, report: TickReport) -> str:
            assert report.errors == ()
            status = late.runs.get(run.id).status
            assert (lives, report.runs_recovered, status) in ((True, 0, "running"), (False, 1, "queued"))
            return str(status)

        return Race([session_of(late).beat, other.tick], check)

    assert set(arena.race(scene, switches=1)) == {"running", "queued"}


def test_invariant_1_two_recoveries_of_one_session_count_each_loss_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, gone = (place.app(work) for _ in range(3))
        runs = [gone.trigger(work, n).run for n in range(2)]
        assert len(claim(gone, 2)) == 2
        place.outlive(gone)

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            left = x.runs_recovered + y.runs_recovered
            assert left == 2
            for run in runs:
                now = a.runs.get(run.id)
                assert (now.status, now.lost_count) == ("queued", 1)
            return f"{x.runs_recovered}{y.runs_recovered}"

        return Race([a.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) >= {"20", "02"}


def test_invariant_1_a_claim_under_a_session_that_is_just_ended_is_not_lost(arena: Arena) -> None:
    """What is claimed although the session's row goes away at the same moment is found by the next tick."""

    def scene(place: Place) -> Race:
        late, other = place.apps(work)
        run = late.trigger(work).run
        place.outlive(late)

        def check(claimed: list[Run], report: TickReport) -> str:
            assert report.errors == ()
            other.tick()
            assert other.runs.get(run.id).status == "queued"
            assert ids(claim(other)) == [run.id]
            return f"{len(claimed)}{report.runs_recovered}"

        return Race([lambda: claim(late), other.tick], check)

    assert set(arena.race(scene, switches=1)) >= {"00", "11"}
