"""Recorded runs played again: examples that were worked out by hand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from runlane import ConfigurationInvalid, Exponential, Fixed, Retry
from runlane.simulation import WhatIf
from runlane.simulation.comparing import compare, what_if
from runlane.simulation.drawing import Draws
from runlane.simulation.measuring import Measuring, as_recorded, deepest, spread
from runlane.simulation.ordering import of_numbers
from runlane.simulation.playing import MOST_ATTEMPTS, Policy, play
from runlane.simulation.scratch import Scratch, Sizes
from runlane.simulation.trace import Outcome, Reader, Selection, Trace, crew
from runlane.values import RunStatus, Source, SourceType
from tests.recordings import SECOND, Log, Tried, at, history, pause, trace_of

SUCCEEDED, FAILED, CANCELLED = RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED


def played(trace: Trace, slots: int = 1, retry: Retry | None = None, **limits: int) -> Log:
    log = Log()
    by_place = {trace.queues.index(name): limit for name, limit in limits.items()}
    play(trace, Policy(slots, by_place, [retry] * len(trace.tasks)), log)
    return log


def three() -> Trace:
    """A takes 4 s, B 2 s, C 1 s; one worker took them one by one, and C has priority over B."""
    return trace_of(
        history(0, 0, Tried(0, 4)),
        history(1, 1, Tried(5, 7)),
        history(2, 2, Tried(4, 5), priority=5),
    )


def test_the_example_worked_out_by_hand() -> None:
    found = compare(three(), WhatIf(workers=2))
    assert found.recorded == found.baseline, "what one worker recorded, one worker plays"
    one, two = found.baseline, found.simulated
    assert (one.workers, one.concurrency, two.workers, two.concurrency) == (1, 1, 2, 1)
    # One worker: A 0-4, C 4-5 before B by its priority, B 5-7.
    assert (one.waits.count, one.waits.p50, one.waits.p90, one.waits.p99, one.waits.max) == (3, 2.0, 4.0, 4.0, 4.0)
    assert one.waits.mean == 2.0
    assert (one.depth_max, one.depth_mean) == (2, 6 / 7)  # B waits from 1 to 5, C from 2 to 4, in 7 s
    assert (one.utilisation, one.throughput, one.seconds) == (1.0, 3 / 7, 7.0)
    assert (one.turnaround.p50, one.turnaround.max) == (4.0, 6.0)  # A 4, B 6, C 3
    # Two workers: A 0-4, B 1-3, C 3-4.
    assert (two.waits.p50, two.waits.max) == (0.0, 1.0)
    assert (two.depth_max, two.depth_mean, two.utilisation, two.throughput) == (1, 1 / 4, 7 / 8, 3 / 4)
    assert (two.handler_seconds, two.attempts, two.succeeded, two.unfinished) == (7.0, 3, 3, 0)
    assert played(three(), 2).seconds == [(0, 0, 0, 4), (1, 1, 1, 3), (2, 2, 3, 4)]


def test_a_limit_holds_for_each_concurrency_key_and_does_not_hide_others() -> None:
    def bounded() -> Trace:
        return trace_of(
            history(0, 0, Tried(0, 3, limit=1), concurrency_key="x"),
            history(1, 0, Tried(3, 6, limit=1), concurrency_key="x"),
            history(2, 0, Tried(0, 3, limit=1), concurrency_key="y"),
            history(3, 0, Tried(0, 3), queue="free"),
        )

    assert played(bounded(), 9, q=1).seconds == [(0, 0, 0, 3), (1, 0, 3, 6), (2, 0, 0, 3), (3, 0, 0, 3)]
    found = compare(bounded(), WhatIf(limit={"q": None}, concurrency=9))
    assert (found.baseline.limits, found.simulated.limits) == ({"q": 1}, {})
    assert found.baseline == found.recorded
    assert (found.baseline.queues["q"].waits.max, found.simulated.queues["q"].waits.max) == (3.0, 0.0)
    assert found.baseline.queues["free"].attempts == 1


def test_where_the_best_of_a_key_is_cancelled_the_next_one_begins() -> None:
    trace = trace_of(
        history(0, 0, Tried(0, 3), concurrency_key="x"),
        history(1, 0, cancelled=4, concurrency_key="x"),
        history(2, 0, Tried(6, 8), concurrency_key="x"),
        # When the key has room at 3, these have both slots, and at 6 the best one of it is there no more.
        history(3, 0, Tried(0, 6), queue="free"),
        history(4, 3, Tried(3, 10), queue="free", priority=5),
    )
    log = played(trace, 2, q=1)
    assert log.seconds == [(0, 0, 0, 3), (2, 0, 6, 8), (3, 0, 0, 6), (4, 3, 3, 10)]
    assert log.lefts == [(1, 0, 4 * SECOND)]


def test_the_last_limit_counts_as_the_recorded_one() -> None:
    trace = trace_of(history(0, 0, Tried(0, 1, limit=4)), history(1, 5, Tried(5, 6, limit=2)))
    found = compare(trace, WhatIf())
    assert found.baseline.limits == {"q": 2}
    assert found.notes[0].startswith("queue q had the limits 2, 4 in this time; the last one, 2,")


def test_another_retry_policy_gives_up_earlier_and_waits_otherwise() -> None:
    trace = trace_of(
        history(0, 0, Tried(0, 1, "retried", 11), Tried(11, 12, "retried", 22), Tried(22, 23)),
        history(1, 0, Tried(1, 2, "final")),
    )
    as_it_was = played(trace)
    assert as_it_was.seconds == [(0, 0, 0, 1), (0, 11, 11, 12), (0, 22, 22, 23), (1, 0, 1, 2)]
    twice = played(trace, retry=Retry(2, Fixed("3s"), jitter=0.0))
    assert twice.seconds == [(0, 0, 0, 1), (0, 4, 4, 5), (1, 0, 1, 2)]
    assert twice.statuses == {0: FAILED, 1: FAILED}, "what no policy retries stays failed"
    growing = played(trace, retry=Retry(3, Exponential("2s"), jitter=0.0))
    assert [due for run, due, *_ in growing.seconds if run == 0] == [0, 3, 8]  # 1 + 2, then 4 + 4
    assert growing.statuses[0] is SUCCEEDED


def test_an_attempt_that_was_never_made_is_drawn_from_those_of_the_same_number() -> None:
    trace = trace_of(
        history(0, 0, Tried(0, 1, "failed")),
        history(1, 0, Tried(1, 2, "retried", 3), Tried(3, 8)),
        history(2, 0, Tried(2, 3), task="another"),
    )
    found = compare(trace, WhatIf(retry=Retry(3, Fixed("1s"), jitter=0.0)))
    assert (found.drawn_baseline, found.drawn) == (0, 1)
    assert (found.baseline.failed, found.simulated.failed) == (1, 0)
    # The only second attempt of this task lasted 5 s and went well.
    assert found.simulated.handler_seconds == found.baseline.handler_seconds + 5
    assert (found.simulated.attempts, found.simulated.failures) == (5, 2)


def test_what_no_attempt_of_the_number_is_recorded_for_is_drawn_from_the_greatest_there_is() -> None:
    trace = trace_of(history(0, 0, Tried(0, 1, "retried", 2), Tried(2, 3, "failed")))
    log = played(trace, retry=Retry(4, Fixed("1s"), jitter=0.0))
    assert len(log.attempts) == 4
    assert log.statuses == {0: FAILED}


def test_the_same_luck_under_every_policy() -> None:
    trace = trace_of(*[history(n, n, Tried(n, n + 1, "failed" if n % 3 else "succeeded")) for n in range(50)])
    draws, again = Draws(trace, 7), Draws(trace, 7)
    drawn = [draws.attempt(run, 2) for run in range(50)]
    assert drawn == [again.attempt(run, 2) for run in reversed(range(50))][::-1]
    assert len(set(drawn)) > 20
    assert drawn != [Draws(trace, 8).attempt(run, 2) for run in range(50)]
    spreads = [draws.spread(run, 1) for run in range(50)]
    assert -1 <= min(spreads) < -0.5 < 0.5 < max(spreads) <= 1


def test_releases_interruptions_and_losses_go_on_as_recorded() -> None:
    trace = trace_of(
        history(0, 0, Tried(0, 1, "released", 6), Tried(6, 7)),
        history(1, 0, Tried(1, 2, "interrupted"), Tried(2, 4)),
        history(2, 10, Tried(10, 12, "lost"), Tried(12, 13, "given up"), task="u"),
    )
    log = played(trace)
    assert log.seconds == [
        *[(0, 0, 0, 1), (0, 6, 6, 7)],
        *[(1, 0, 1, 2), (1, 2, 2, 4)],
        *[(2, 10, 10, 12), (2, 12, 12, 13)],
    ]
    assert log.statuses == {0: SUCCEEDED, 1: SUCCEEDED, 2: FAILED}
    patient = played(trace, retry=Retry(1, max_lost=9))
    assert len([1 for run, *_ in patient.seconds if run == 2]) == 9, "lost once more with every draw"
    assert patient.statuses == {0: SUCCEEDED, 1: SUCCEEDED, 2: FAILED}


def test_a_run_that_nobody_has_seen_end_stays_unfinished() -> None:
    trace = trace_of(history(0, 0, Tried(0, 1, "released", 3), Tried(3, 4, "released", 6), Tried(6, what="open")))
    log = played(trace)
    assert [start for _, _, start, _ in log.seconds] == [0, 3, 6]
    assert log.statuses == {0: None}
    polled = history(1, 0, Tried(0, 1, "released", 9), Tried(9, 10, "released", 19), Tried(19, 20))
    trace = trace_of(history(0, 0, Tried(0, 1, "released", 3)), polled)
    assert played(trace, 2).statuses == {0: SUCCEEDED, 1: SUCCEEDED}, "the other one shows how that goes on"


def test_a_history_is_bounded_whatever_is_drawn() -> None:
    trace = trace_of(history(0, 0, Tried(0, 1, "failed")))
    log = played(trace, retry=Retry(1_000_000, Fixed("1ms")))
    assert len(log.attempts) == MOST_ATTEMPTS
    assert log.statuses == {0: FAILED}


def test_a_run_that_was_cancelled_while_it_waited() -> None:
    waiting = trace_of(history(0, 0, Tried(0, 9)), history(1, 1, cancelled=5))
    log = played(waiting)
    assert (log.lefts, log.statuses) == ([(1, 1 * SECOND, 5 * SECOND)], {0: SUCCEEDED, 1: CANCELLED})
    measured = Measuring(waiting)
    as_recorded(waiting, measured)
    assert compare(waiting, WhatIf()).baseline == measured.measures(1, 1, {})
    # With another slot it begins, and is asked to stop: what goes well then is cancelled, like the engine has it.
    two = played(waiting, 2)
    assert two.lefts == []
    assert two.statuses == {0: SUCCEEDED, 1: CANCELLED}
    assert played(trace_of(history(0, 0, Tried(0, 1)), history(1, 0, cancelled=3, run_at=at(9)))).ends[-1] == (
        *(1, CANCELLED),
        3 * SECOND,
    )


def test_a_run_that_was_cancelled_between_attempts_had_waited_since_it_was_due_again() -> None:
    released = history(1, 0, Tried(0, 1, "released", 2), cancelled=5)
    goes_on = history(2, 20, Tried(20, 21, "released", 22), Tried(22, 23))  # else nothing is known behind a release
    log = played(trace_of(history(0, 1, Tried(1, 9)), released, goes_on))
    assert log.seconds[:2] == [(0, 1, 1, 9), (1, 0, 0, 1)]
    assert (log.lefts, log.statuses[1]) == ([(1, 2 * SECOND, 5 * SECOND)], CANCELLED)


def test_a_run_that_failed_while_it_was_asked_to_stop_is_not_retried() -> None:
    trace = trace_of(history(0, 0, Tried(0, 1, "stopped")), history(1, 0, Tried(1, 2, "cancelled")))
    assert list(trace.outcome) == [Outcome.FINAL, Outcome.CANCELLED]
    log = played(trace, retry=Retry(5))
    assert (len(log.attempts), log.statuses) == (2, {0: FAILED, 1: CANCELLED})


def test_nothing_of_a_paused_queue_begins() -> None:
    runs = [history(0, 0, Tried(5, 6)), history(1, 2, Tried(2, 3), queue="other")]
    log = played(trace_of(*runs, pauses=[pause("q", -1, 5)]), 2)
    assert log.seconds == [(0, 0, 5, 6), (1, 2, 2, 3)]
    for_good = played(trace_of(*runs, pauses=[pause("q", -1)]), 2)
    assert for_good.statuses == {0: None, 1: SUCCEEDED}
    assert for_good.lefts == [(0, 0, 6 * SECOND)]


def test_what_waits_behind_a_key_of_a_queue_that_nobody_resumed_stays_unfinished() -> None:
    runs = [history(n, 0, Tried(3 * n, 3 * n + 3), concurrency_key="x") for n in range(4)]
    log = played(trace_of(*runs, pauses=[pause("q", 1)]), 2, q=1)
    assert log.statuses == {0: SUCCEEDED, 1: None, 2: None, 3: None}
    assert sorted(log.lefts) == [(n, 0, 12 * SECOND) for n in (1, 2, 3)]


def test_nothing_begins_before_the_first_recorded_lease() -> None:
    trace = trace_of(history(0, 0, Tried(60, 61)), history(1, 5, Tried(61, 62)))
    found = compare(trace, WhatIf(workers=5))
    assert found.baseline == found.recorded
    assert found.simulated.waits.max == 60.0


def test_what_has_not_ended_is_drawn() -> None:
    trace = trace_of(
        history(0, 0, Tried(0, 2)),
        history(1, 0, Tried(2, what="open")),
        history(2, 0),
        history(3, 1, Tried(1, what="open"), task="unknown"),
        history(4, 9, Tried(9, 10), task="other"),
    )
    found = compare(trace, WhatIf())
    assert found.left_out == {"no attempt of their task has ended in this time": 1}
    assert (found.recorded.runs, found.recorded.succeeded, found.recorded.unfinished) == (4, 2, 2)
    assert (found.baseline.succeeded, found.baseline.unfinished, found.drawn_baseline) == (4, 0, 2)
    assert found.recorded.handler_seconds == 2 + 8 + 1, "the open one has lasted until the last instant that is known"


def test_only_what_is_selected() -> None:
    runs = [
        history(0, 0, Tried(0, 1)),
        history(1, 5, Tried(5, 6), task="other"),
        history(2, 6, Tried(6, 7), queue="side"),
        history(3, 9, Tried(9, 10)),
        history(4, 5, Tried(5, 6), source=Source(SourceType.RUN_NOW)),
        history(5, 5, Tried(5, 6), Tried(6, 7)),
    ]
    runs[-1] = [one for one in runs[-1] if one.sequence != 3]  # leased twice: a hole
    assert list(trace_of(*runs).due) == [(at(s).timestamp()) * SECOND for s in (0, 5, 6, 9)]
    everything = trace_of(*runs)
    assert everything.left_out == {"run_now: executed where it was asked for, by no worker": 1, "damaged history": 1}
    assert len(everything.start) == everything.first[-1] == 4
    for selection, there in (
        (Selection(since=at(5)), 3),
        (Selection(until=at(5)), 1),
        (Selection(since=at(5), until=at(9)), 2),
        (Selection(tasks=frozenset({"t"})), 3),
        (Selection(queues=frozenset({"side"})), 1),
    ):
        assert len(trace_of(*runs, selection=selection)) == there


def test_the_crew_that_the_log_shows() -> None:
    apart = trace_of(history(0, 0, Tried(0, 1, session=1)), history(1, 5, Tried(5, 6, session=2)))
    assert crew(apart) == (1, 1), "a process that was started again is not another one"
    together = trace_of(
        history(0, 0, Tried(0, 9, session=1)),
        history(1, 0, Tried(0, 9, session=1)),
        history(2, 5, Tried(5, 6, session=2)),
    )
    assert crew(together) == (2, 2)
    assert crew(Trace()) == (1, 1)


def test_measuring() -> None:
    assert spread(of_numbers(Scratch())).count == 0
    found = spread(of_numbers(Scratch(), range(1, 101)))
    assert [one * SECOND for one in (found.p50, found.p90, found.p99, found.max)] == pytest.approx([50, 90, 99, 100])
    assert deepest([], []) == 0
    assert deepest([0, 0, 5], [0, 5, 9]) == 1, "who begins at once did not wait"
    assert deepest([0, 1, 2], [9, 9, 9]) == 3


def test_the_memory_is_the_same_however_many_runs_there_are() -> None:
    sizes = Sizes(chunk=64, cached=4, stretch=128, ways=4, near=32, block=1024, piece=4096)

    def peak(runs: int) -> int:
        """Of runs of which all are due before the first one ends; every third fails, and is tried again."""
        with Scratch(sizes) as scratch:
            reader = Reader(Selection(), scratch)
            tracemalloc.start()
            for n in range(runs):
                tried = [Tried(n, n + 1, "failed" if n % 3 else "succeeded")] if n % 7 else []
                of: dict[str, Any] = {
                    "concurrency_key": str(n) if n % 2 else "x",
                    "queue": "keyed" if n % 5 else "free",
                }
                reader.add_run(history(n, n / runs, *tried, cancelled=None if tried else n, **of))
            compare(reader.trace(), WhatIf(Retry(3, Fixed("500s")), {"keyed": 1}, 1, 3))
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return found

    peak(100)  # what is made once
    few, many = peak(500), peak(2000)
    assert many < 1.25 * few, (few, many)


def test_an_empty_log() -> None:
    found = compare(trace_of(), WhatIf(workers=3, limit={"mail": 1}, retry={"x": Retry(2)}))
    assert (found.recorded.runs, found.simulated.runs, found.simulated.throughput) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workers": 0}, "workers must be an integer from 1 to"),
        ({"concurrency": 2.5}, "concurrency must be"),
        ({"workers": True}, "workers must be"),
        ({"limit": {"mail": 0}}, "the limit of queue 'mail' must be"),
        ({"limit": 5}, "limit must be a mapping"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"retry": 5}, "retry must be a Retry"),
        ({"retry": {"t": 3}}, "retry must be a Retry"),
        ({"retry": Retry(2, retry_on=ValueError)}, "leave out retry_on and give_up_on"),
        ({"retry": {"t": Retry(2, give_up_on=ValueError)}}, "leave out retry_on and give_up_on"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], says: str) -> None:
    given = {"retry": None, "limit": None, "workers": None, "concurrency": None, "seed": 0} | asked
    with pytest.raises(ConfigurationInvalid, match=says):
        what_if(**given)


def test_names_that_no_run_has_are_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match=r"no run of queue 'mial'.*known are \['q'\]"):
        compare(three(), WhatIf(limit={"mial": 1}))
    with pytest.raises(ConfigurationInvalid, match=r"no run of task 'x'.*known are \['t'\]"):
        compare(three(), WhatIf(retry={"x": Retry(1)}))
