"""What holds of every simulation, whatever was recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import Fixed, Retry
from runlane.simulation import WhatIf
from runlane.simulation.comparing import compare
from runlane.simulation.playing import Policy, play
from runlane.simulation.scratch import Scratch
from runlane.simulation.trace import Trace
from tests.recordings import SECOND, TINY, ZERO, Log, Tried, history, pause, trace_of

SHORT = st.integers(0, 6)
FOLLOWED = ("retried", "released", "interrupted", "lost")
ENDED = ("succeeded", "failed", "final", "given up")
LAST = (*ENDED, "cancelled", "open", "waiting", "withdrawn")
LIMITS = {"q": 1, "r": 2}


@st.composite
def recordings(draw: st.DrawFn, lasts: Sequence[str] = LAST, shortest: int = 0) -> list[list[Any]]:
    """Runs that may have gone like this or not: their starts need not be those of any policy."""
    runs = []
    for number in range(draw(st.integers(1, 10))):
        now = created = draw(st.integers(0, 20))
        tried = []
        for _ in range(draw(st.integers(0, 3))):
            start = now + draw(SHORT)
            end = start + draw(st.integers(shortest, 6))
            now = end + draw(SHORT)
            tried.append(Tried(start, end, draw(st.sampled_from(FOLLOWED)), now, draw(st.integers(1, 3))))
        last, start = draw(st.sampled_from(lasts)), now + draw(SHORT)
        if last not in ("waiting", "withdrawn"):
            tried.append(Tried(start, start + draw(st.integers(shortest, 6)), last, session=draw(st.integers(1, 3))))
        runs.append(
            history(
                number,
                created,
                *tried,
                cancelled=start if last == "withdrawn" else None,
                task=draw(st.sampled_from("tu")),
                queue=draw(st.sampled_from("qrs")),
                concurrency_key=draw(st.sampled_from([None, "x", "y"])),
                priority=draw(st.integers(-1, 1)),
            )
        )
    return runs


RETRIES = st.sampled_from([None, Retry(1), Retry(3, Fixed("2s")), Retry(2, Fixed("1s"), jitter=1.0, max_lost=1)])


def executed_at(log: Log) -> dict[int, set[int]]:
    """At each instant that anything happened at, which runs were executed behind it."""
    instants = {one for _, due, start, end, _ in log.attempts for one in (due, start, end)}
    instants |= {due for _, due, _ in log.lefts}
    return {when: {run for run, _, start, end, _ in log.attempts if start <= when < end} for when in instants}


def partitions(trace: Trace) -> dict[tuple[int, int], set[int]]:
    found: dict[tuple[int, int], set[int]] = {}
    for run in range(len(trace)):
        found.setdefault((trace.queue[run], trace.key[run]), set()).add(run)
    return found


@settings(max_examples=60)
@given(recordings(), st.integers(1, 4), RETRIES, st.booleans())
def test_every_run_ends_once_no_limit_is_passed_and_no_slot_is_left_idle(
    runs: list[list[Any]], slots: int, retry: Retry | None, paused: bool
) -> None:
    trace = trace_of(*runs, pauses=[pause("q", 3, 9)] if paused else [])
    limits = {trace.queues.index(name): limit for name, limit in LIMITS.items() if name in trace.queues}
    log = Log()
    play(trace, Policy(slots, limits, [retry] * len(trace.tasks), seed=1), log)

    assert Counter(run for run, *_ in log.ends) == Counter(trace.chosen)
    ends = {run: end for run, _, end in log.ends}
    for run in trace.chosen:
        mine = sorted((start, end, due) for one, due, start, end, _ in log.attempts if one == run)
        assert all(due <= start <= end for start, end, due in mine)
        assert all(before[1] <= behind[2] for before, behind in pairwise(mine))
        assert not mine or mine[-1][1] <= ends[run]

    opens = trace.opens - ZERO
    assert trace.opens == min(trace.start, default=0)
    of = partitions(trace)
    place = {run: partition for partition, members in of.items() for run in members}
    executed = executed_at(log)
    for running in executed.values():
        assert len(running) <= slots
        for (queue, _), members in of.items():
            assert len(running & members) <= limits.get(queue, slots)
    waits = [(run, due, start) for run, due, start, _, _ in log.attempts] + log.lefts
    for run, due, start in waits:
        for when, running in executed.items():
            if due <= when < start:
                queue = place[run][0]
                stopped = paused and trace.queues[queue] == "q" and 3 * SECOND <= when < 9 * SECOND
                full = queue in limits and len(running & of[place[run]]) == limits[queue]
                assert when < opens or stopped or full or len(running) == slots


@given(st.lists(st.tuples(SHORT, st.integers(1, 6), st.integers(0, 2)), min_size=1, max_size=14), st.integers(1, 3))
def test_the_better_run_begins_first(runs: list[tuple[int, int, int]], slots: int) -> None:
    trace = trace_of(*[history(n, at, Tried(at, at + long), priority=p) for n, (at, long, p) in enumerate(runs)])
    log = Log()
    play(trace, Policy(slots, {}, [None]), log)
    for one, due, start, _, _ in log.attempts:
        for other, due_of_other, start_of_other, _, _ in log.attempts:
            if due_of_other <= start < start_of_other:
                assert (-runs[one][2], due, one) < (-runs[other][2], due_of_other, other)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(1, 3),
            st.integers(0, 1),
            st.sampled_from("rrs"),
            st.sampled_from([None, "x", "x"]),
            st.none() | st.integers(1, 12),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(2, 5),
)
def test_where_a_key_is_full_others_begin_and_where_it_is_not_none_is_kept(
    runs: list[tuple[int, int, int, str, str | None, int | None]], slots: int
) -> None:
    def recorded(number: int) -> list[Any]:
        at, long, priority, queue, key, gone = runs[number]
        tried, cancelled = ([], at + gone) if gone else ([Tried(at, at + long)], None)
        return history(number, at, *tried, cancelled=cancelled, priority=priority, queue=queue, concurrency_key=key)

    log = Log()
    with Scratch(TINY) as scratch:
        trace = trace_of(*map(recorded, range(len(runs))), scratch=scratch)
        limits = {trace.queues.index(name): limit for name, limit in LIMITS.items() if name in trace.queues}
        play(trace, Policy(slots, limits, [None]), log)
        of, chosen, opens = partitions(trace), set(trace.chosen), trace.opens - ZERO
    assert log.statuses.keys() == chosen
    place = {run: partition for partition, members in of.items() for run in members}
    executed = executed_at(log)
    for run, due, start in [(run, due, start) for run, due, start, _, _ in log.attempts] + log.lefts:
        limit, members, rank = limits.get(place[run][0]), of[place[run]], (-runs[run][2], due, run)
        for when, running in executed.items():
            if max(due, opens) <= when < start:
                assert len(running & members) == limit or len(running) == slots
        for other, due_of_other, begun, _, _ in log.attempts:
            if due <= begun < start and rank < (-runs[other][2], due_of_other, other):
                assert len(executed[begun] & members) == limit


@settings(max_examples=50)
@given(
    st.lists(recordings(), min_size=1, max_size=6),
    st.integers(1, 3) | st.none(),
    RETRIES,
    st.sampled_from([{}, {"q": 1}, {"q": 1, "r": 2, "s": 1}]),
    st.booleans(),
)
def test_how_much_is_in_memory_changes_nothing(
    parts: list[list[list[Any]]], workers: int | None, retry: Retry | None, limit: dict[str, int], paused: bool
) -> None:
    runs = [run for part in parts for run in part]
    limit = {queue: most for queue, most in limit.items() if any(run[0].event.queue == queue for run in runs)}
    asked = WhatIf(retry, limit, workers, workers)
    pauses = [pause("q", 3, 9, 20)] if paused else []
    large = trace_of(*runs, pauses=pauses)
    with Scratch(TINY) as scratch:
        small = trace_of(*runs, pauses=pauses, scratch=scratch)
        assert compare(small, asked) == compare(large, asked)
        limits = {small.queues.index(queue): most for queue, most in limit.items()}
        few, many = Log(), Log()
        for trace, log in ((small, few), (large, many)):
            play(trace, Policy(workers or 9, limits, [retry] * len(trace.tasks), seed=1), log)
        assert few.attempts == many.attempts
        assert (sorted(few.lefts), few.statuses) == (sorted(many.lefts), many.statuses)
    assert large.scratch.size == 0


@given(st.lists(st.tuples(st.integers(0, 30), SHORT), min_size=1, max_size=20), st.integers(1, 4))
def test_with_another_slot_no_run_begins_later(runs: list[tuple[int, int]], slots: int) -> None:
    # First come, first served, one attempt each, no limits: there it is a theorem, run by run.  With retries,
    # priorities or limits it is not: what begins earlier can take a slot that another run had.
    trace = trace_of(*[history(n, at, Tried(at, at + long)) for n, (at, long) in enumerate(runs)])
    few, more = Log(), Log()
    play(trace, Policy(slots, {}, [None]), few)
    play(trace, Policy(slots + 1, {}, [None]), more)
    starts = {run: start for run, _, start, _, _ in few.attempts}
    assert all(start <= starts[run] for run, _, start, _, _ in more.attempts)


@settings(max_examples=60)
@given(recordings(ENDED, shortest=1), st.integers(1, 4))  # of what took no time nobody can tell whether it had a slot
def test_what_the_model_played_it_plays_again(runs: list[list[Any]], slots: int) -> None:
    """A record that is exact under the model is reproduced to the microsecond: waits, depth, everything."""
    trace = trace_of(*runs)
    limits = {trace.queues.index(name): limit for name, limit in LIMITS.items() if name in trace.queues}
    log = Log()
    play(trace, Policy(slots, limits, [None] * len(trace.tasks)), log)
    again = trace_of(*[_as_played(trace, log, run, limits) for run in trace.chosen])
    found = compare(again, WhatIf())
    assert found.recorded == found.baseline == found.simulated
    assert found.drawn_baseline == 0
    assert found.baseline.attempts == len(log.attempts)


def _as_played(trace: Trace, log: Log, run: int, limits: dict[int, int]) -> list[Any]:
    """The history that a play would have written."""
    mine = [(start, end, due, outcome) for one, due, start, end, outcome in log.attempts if one == run]
    names = ["succeeded", "retried", "failed", "final", "released", "interrupted", "lost", "given up"]
    limit, tried = limits.get(trace.queue[run]), []
    for place, (start, end, _, outcome) in enumerate(mine):
        until = mine[place + 1][2] if place + 1 < len(mine) else end
        tried.append(Tried(start / SECOND, end / SECOND, names[outcome], until / SECOND, limit=limit))
    return history(
        run,
        (trace.due[run] - ZERO) / SECOND,
        *tried,
        queue=trace.queues[trace.queue[run]],
        concurrency_key=str(trace.key[run]) if trace.key[run] else None,
        priority=trace.priority[run],
    )
