"""What became of every job, from the notes of handlers and clients and what the tables say; pure.

Nothing here knows a library.  A completion is called stale only where nothing else is possible: the tables had the job
as done at a moment at which the execution that had begun last had not come to its end, and an earlier one had.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from attrs import frozen

#: Seconds by which an execution may have ended after its outcome was stored: clocks that are cut off at milliseconds.
SLACK = 0.005


@frozen
class Execution:
    """One time that a handler was called for a job; `ended` is None if it never came to its end."""

    job: int
    worker: str
    started: float
    ended: float | None = None


@frozen
class State:
    """What the tables say of a job: ``pending``, ``done``, ``failed`` or ``missing``, and since when."""

    status: str
    at: float | None = None


MISSING = State("missing")


@frozen
class Counts:
    """What is counted of a contestant.

    Args:
        acknowledged: jobs whose enqueuing call returned.
        done: those of them that the tables have as done.
        lost: those that never came to an end and that nobody will execute any more.
        stuck: those that were not over when the time was up.
        repeated: executions beyond the first of a job, of all jobs.
        overlapping: jobs that had two executions at once that both came to their ends.
        stale: jobs for which the outcome of a superseded execution was accepted.
    """

    acknowledged: int
    done: int
    lost: tuple[int, ...]
    stuck: tuple[int, ...]
    repeated: int
    overlapping: int
    stale: tuple[int, ...]


def executions_of(notes: Iterable[Mapping[str, Any]]) -> list[Execution]:
    """The executions that the notes of handlers tell of, in the order in which they started."""
    started: dict[str, Mapping[str, Any]] = {}
    ended: dict[str, float] = {}
    for note in notes:
        if note["what"] == "started":
            started[note["execution"]] = note
        elif note["what"] == "ended":
            ended[note["execution"]] = note["at"]
    found = [
        Execution(note["n"], note["worker"], note["at"], ended.get(execution)) for execution, note in started.items()
    ]
    return sorted(found, key=lambda one: one.started)


def count(acknowledged: Iterable[int], states: Mapping[int, State], executions: Iterable[Execution]) -> Counts:
    """What became of the jobs that were acknowledged; `states` has none for a job that is in no table."""
    lives: dict[int, list[Execution]] = defaultdict(list)
    for execution in executions:
        lives[execution.job].append(execution)
    jobs = sorted(set(acknowledged))
    known = {job: states.get(job, MISSING) for job in jobs}
    return Counts(
        acknowledged=len(jobs),
        done=sum(known[job].status == "done" for job in jobs),
        lost=tuple(job for job in jobs if is_lost(known[job], lives[job])),
        stuck=tuple(job for job in jobs if known[job].status == "pending"),
        repeated=sum(len(life) - 1 for life in lives.values() if life),
        overlapping=sum(overlap(life) for life in lives.values()),
        stale=tuple(job for job in jobs if was_stale(known[job], lives[job])),
    )


def is_lost(state: State, life: Iterable[Execution]) -> bool:
    """Whether a job is over, by the tables or because they do not have it, though no execution came to its end."""
    return state.status != "pending" and all(one.ended is None for one in life)


def was_stale(state: State, life: Iterable[Execution]) -> bool:
    """Whether the outcome that made the job done can only be that of a superseded execution."""
    if state.status != "done" or state.at is None:
        return False
    begun = sorted((one for one in life if one.started <= state.at), key=lambda one: one.started)
    if not begun or _had_ended(begun[-1], state.at + SLACK):
        return False
    return any(_had_ended(one, state.at) for one in begun[:-1])


def overlap(life: Iterable[Execution]) -> bool:
    """Whether two executions of a job ran at once and both came to their ends."""
    spans = sorted((one.started, one.ended) for one in life if one.ended is not None)
    return any(later < ended for (_, ended), (later, _) in pairwise(spans))


def _had_ended(execution: Execution, at: float) -> bool:
    return execution.ended is not None and execution.ended <= at
