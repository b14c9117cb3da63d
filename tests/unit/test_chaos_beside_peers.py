"""The counting of the chaos beside peers, on lives made by hand, and its course of strikes."""

from __future__ import annotations

import pytest

from tests.chaos.peers.counting import Execution, State, count, executions_of
from tests.chaos.peers.strikes import course, told
from tests.chaos.peers.table import table

A = Execution(1, "a", 10.0, 20.0)
B = Execution(1, "b", 16.0, 25.0)
B_KILLED = Execution(1, "b", 16.0, None)


def done(at: float) -> dict[int, State]:
    return {1: State("done", at)}


@pytest.mark.parametrize(
    ("at", "life", "stale"),
    [
        (20.1, [A], False),  # nobody else had it
        (20.1, [A, B], True),  # B was at it, so only A can have said so
        (20.1, [A, B_KILLED], True),  # as it was when B was killed afterwards
        (25.1, [A, B], False),  # may be B's
        (15.0, [Execution(1, "a", 10.0, 14.9), B], False),  # B began afterwards
        (24.997, [A, B], False),  # a clock that is cut off at milliseconds
        (24.9, [A, B], True),
        (20.1, [A, B, Execution(1, "c", 20.5, 30.0)], True),
        (12.0, [A, B], False),  # nobody had come to an end: that is something else
    ],
)
def test_a_completion_is_stale_where_only_a_superseded_execution_can_have_made_it(
    at: float, life: list[Execution], stale: bool
) -> None:
    assert count([1], done(at), life).stale == ((1,) if stale else ())
    assert count([1], done(at), reversed(life)).stale == ((1,) if stale else ())


def test_what_is_not_done_has_no_stale_completion() -> None:
    for status in ("pending", "failed", "missing"):
        assert count([1], {1: State(status, 20.1)}, [A, B]).stale == ()


def test_a_job_is_lost_if_it_never_came_to_an_end_and_nobody_will_try_again() -> None:
    killed = Execution(1, "a", 10.0, None)
    for state in ({}, done(11.0), {1: State("failed", 11.0)}):
        assert count([1], state, [killed]).lost == (1,)
        assert count([1], state, []).lost == (1,)
        assert count([1], state, [killed, B]).lost == ()
    pending = count([1], {1: State("pending")}, [killed])
    assert (pending.lost, pending.stuck, pending.done) == ((), (1,), 0)


def test_jobs_that_nobody_was_told_of_are_not_missed_but_their_executions_count() -> None:
    other = [Execution(2, "a", 1.0, 2.0), Execution(2, "b", 1.5, None), Execution(3, "b", 3.0, 4.0)]
    counts = count([1], done(25.1), [A, B, *other])
    assert (counts.acknowledged, counts.done, counts.repeated, counts.overlapping) == (1, 1, 2, 1)
    assert (counts.lost, counts.stuck, counts.stale) == ((), (), ())


def test_notes_become_executions() -> None:
    notes = [
        {"n": 1, "execution": "x", "worker": "a", "what": "started", "at": 2.0},
        {"n": 2, "execution": "y", "worker": "b", "what": "started", "at": 1.0},
        {"n": 1, "execution": "x", "worker": "a", "what": "ended", "at": 3.0},
        {"n": 2, "execution": "y", "worker": "b", "what": "cancelled", "at": 4.0},
    ]
    assert executions_of(notes) == [Execution(2, "b", 1.0, None), Execution(1, "a", 2.0, 3.0)]


def test_the_course_is_the_same_for_everybody_and_leaves_half_of_the_workers_awake() -> None:
    strikes = course(1, 60.0, 4, 5.0)
    assert strikes == course(1, 60.0, 4, 5.0) != course(2, 60.0, 4, 5.0)
    assert min(told(strikes).get(kind, 0) for kind in ("kill", "pause", "terminate")) > 5
    pauses = [strike for strike in strikes if strike.kind == "pause"]
    assert all(5.5 <= pause.seconds <= 9.0 for pause in pauses)
    for one in pauses:
        woken = [kill for kill in strikes if kill.kind == "kill"]
        asleep = {
            other.worker
            for other in pauses
            if other.at <= one.at < other.at + other.seconds
            and not any(kill.worker == other.worker and other.at < kill.at <= one.at for kill in woken)
        }
        assert len(asleep) <= 2


def test_the_table_names_everybody_and_the_forced_scenario() -> None:
    figures = {"acknowledged": 9, "lost": [], "stuck": [4], "stale": [5, 6], "repeated": 3}
    figures |= {"strikes": {"kill": 1, "pause": 2, "terminate": 3}, "recovery": None, "ended_by_themselves": 0}
    ends = {"trials": 10, "finished": 9, "accepted": 8, "failed": 0, "problems": 1}
    forced = {"forced_ends": ends, "forced_fails": ends | {"finished": 10, "accepted": 7, "failed": 6, "problems": 0}}
    shown = table([{"title": "One", "course": figures, **forced}, {"title": "Other", **forced}])
    assert "| accepted stale completions | 2 |" in shown
    assert "| workers killed / paused / connections terminated | 1 / 2 / 3 |" in shown
    assert "| Other | **8** of 9, 1 did not come about | **7** of 10 | 6 |" in shown
