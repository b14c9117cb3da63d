"""Cancellations against whatever else moves the run: one of the two serial orders, decided again after a conflict."""

from __future__ import annotations

import pytest

from runlane import Failure, Retry, Run, RunStateInvalid, task
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.engine.tick import TickReport
from tests.races.arena import Arena, Place, claim, finish
from tests.races.interleave import Race
from tests.support import SECOND, types_of

OUTCOMES: dict[str, Outcome] = {
    "returns": Succeeded(1),
    "releases": Released(SECOND),
    "fails for a while": Failed(Failure("boom", "boom", True)),
    "fails for good": Failed(Failure("boom", "boom", False)),
    "is interrupted": Interrupted("worker_stopping"),
}


@task("work", retry=Retry(3))
def work() -> str:
    return "done"


def test_invariant_12_a_cancellation_and_a_claim_come_one_after_the_other(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        run = a.trigger(work).run

        def check(cancelled: Run, claimed: list[Run]) -> str:
            if claimed:
                assert cancelled.status == "cancellation_requested"
                assert types_of(a, run.id)[2:] == ["RunLeased", "RunCancellationRequested"]
                ended = finish(b, claimed[0], Succeeded(None))
                assert ended is not None
                assert ended.status == "cancelled"
                return "claimed first"
            assert cancelled.status == "cancelled"
            assert types_of(a, run.id)[2:] == ["RunCancelled"]
            return "cancelled first"

        return Race([lambda: a.runs.cancel(run.id), lambda: claim(b)], check)

    assert set(arena.race(scene)) == {"claimed first", "cancelled first"}


def test_invariant_12_a_cancellation_stands_whenever_it_comes_during_an_execution(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        run = a.trigger(work).run

        def check(cancelled: Run | RunStateInvalid, executed: Run | None) -> str:
            now = b.runs.get(run.id).status
            if isinstance(cancelled, RunStateInvalid):
                assert now == "succeeded"
                return "after"
            assert now == "cancelled"
            assert (executed is None) == (cancelled.status == "cancelled")
            return "before" if executed is None else "during"

        return Race([lambda: a.runs.cancel(run.id), b.execute_next], check, (RunStateInvalid,))

    assert set(arena.race(scene)) == {"before", "during", "after"}


@pytest.mark.parametrize("how", OUTCOMES)
def test_invariant_12_a_cancellation_and_a_completion_come_one_after_the_other(arena: Arena, how: str) -> None:
    outcome = OUTCOMES[how]
    final = isinstance(outcome, Succeeded) or how == "fails for good"

    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        run = a.trigger(work).run
        (leased,) = claim(b)

        def check(cancelled: Run | RunStateInvalid, completed: Run | None) -> str:
            assert completed is not None
            after = types_of(a, run.id)[3:]
            if after[0] == "RunCancellationRequested":
                assert after[1:] == ["RunFailed" if isinstance(outcome, Failed) else "RunCancelled"]
                return "cancelled first"
            assert isinstance(cancelled, RunStateInvalid) == final
            assert after[1:] == ([] if final else ["RunCancelled"])
            return "completed first"

        return Race(
            [lambda: a.runs.cancel(run.id), lambda: finish(b, leased, outcome, Retry(3))], check, (RunStateInvalid,)
        )

    assert set(arena.race(scene)) == {"cancelled first", "completed first"}


def test_invariant_12_a_cancellation_survives_the_recovery_of_its_run(arena: Arena) -> None:
    """Before the recovery it is carried out by it, after it at once: the owner is gone either way."""

    def scene(place: Place) -> Race:
        a, b, gone = place.app(work), place.app(work), place.app(work)
        run = gone.trigger(work).run
        claim(gone)
        place.outlive(gone)

        def check(cancelled: Run, report: TickReport) -> str:
            if cancelled.status == "cancellation_requested":
                a.tick()
            assert a.runs.get(run.id).status == "cancelled"
            after = types_of(a, run.id)[3:]
            assert after in (["RunCancellationRequested", "RunCancelled"], ["RunLeaseExpired", "RunCancelled"])
            assert report.errors == ()
            return after[0] + (
                " left for the next tick" if not report.runs_recovered + report.cancellations_finalized else ""
            )

        return Race([lambda: a.runs.cancel(run.id), b.tick], check)

    assert set(arena.race(scene, switches=1)) >= {"RunCancellationRequested", "RunLeaseExpired"}


@pytest.mark.parametrize("is_leased", [True, False])
def test_of_two_cancellations_one_is_written(arena: Arena, is_leased: bool) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        run = a.trigger(work).run
        if is_leased:
            claim(a)

        def check(*results: Run | RunStateInvalid) -> str:
            statuses = [result.status for result in results if isinstance(result, Run)]
            asked = ["cancellation_requested"] * 2
            assert statuses == (asked if is_leased else ["cancelled"])
            assert len(types_of(a, run.id)) == (4 if is_leased else 3)
            return str(a.runs.events(run.id)[-1].event.reason)  # type: ignore[union-attr]

        return Race(
            [lambda: a.runs.cancel(run.id, reason="A"), lambda: b.runs.cancel(run.id, reason="B")],
            check,
            (RunStateInvalid,),
        )

    assert set(arena.race(scene)) == {"A", "B"}
