"""Runs as recorded, as played under the recorded policy, and as played under another one, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import Factory, frozen

from runlane.errors import ConfigurationInvalid
from runlane.policy import Retry
from runlane.shown import shown
from runlane.simulation.measuring import Measures, Measuring, as_recorded
from runlane.simulation.playing import Policy, play
from runlane.simulation.trace import Trace, crew

#: The greatest number of processes, of slots in each, and of a queue's limit that may be asked for.
MOST = 1_000_000

#: What every simulation takes for granted.
ASSUMPTIONS = (
    (
        "Runs come when they came and last as long as they lasted: what triggered them is not played, and no handler "
        "is slower or quicker in other company."
    ),
    "Only these runs are played: they find all slots free at first, and share them with no others.",
    (
        "Every worker serves every queue, and a due run begins at once where there is a slot; what the engine and its "
        "database take is within the recorded lengths, and otherwise left out."
    ),
    (
        "The recorded crew is what the log shows: processes from their first lease to their last outcome, and the most "
        "leases that one of them held at once. What is claimed ahead counts, slots that nobody used do not show, and "
        "before the first lease there are none."
    ),
    (
        "Attempt n of a run comes to what its attempt n came to. Where none is recorded, an outcome is drawn by the "
        "seed from the recorded attempts n of the same task, or of the greatest number there is; but a run that had "
        "not ended stays so where no run of its task is recorded to have had another attempt."
    ),
    (
        "A release is followed by the same wait as recorded, even if it named a time of day; a queue is paused when "
        "it was; a run that was cancelled while it waited is asked to stop at the same instant."
    ),
)


@frozen
class WhatIf:
    """The policy to be tried; what is None stays as recorded.

    Args:
        retry: for all tasks, or by task.
        limit: concurrency limits by queue; None takes a limit away.
        workers: how many worker processes.
        concurrency: how many attempts at once in each.
        seed: for what is drawn.
    """

    retry: Retry | Mapping[str, Retry] | None = None
    limit: Mapping[str, int | None] = Factory(dict)
    workers: int | None = None
    concurrency: int | None = None
    seed: int = 0


@frozen
class Simulation:
    """What a simulation found.

    `baseline` is the recorded policy played: what parts it from `recorded` is the error of the model, and what
    `simulated` is to be compared with.

    Args:
        recorded: as the log has it.
        baseline: as played with the recorded workers, limits and retries.
        simulated: as played under the other policy.
        drawn_baseline, drawn: how many attempts of the two had to be drawn, as the record has none like them.
        seed: of what was drawn.
        left_out: how many runs were not looked at, by reason.
        notes: what is to be known of this simulation.
        assumptions: what every simulation takes for granted.
    """

    recorded: Measures
    baseline: Measures
    simulated: Measures
    drawn_baseline: int
    drawn: int
    seed: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    assumptions: tuple[str, ...] = ASSUMPTIONS


def what_if(
    retry: Retry | Mapping[str, Retry] | None,
    limit: Mapping[str, int | None] | None,
    workers: int | None,
    concurrency: int | None,
    seed: int,
) -> WhatIf:
    """A policy from what a caller wrote.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid.
    """
    for name, value in (("workers", workers), ("concurrency", concurrency)):
        if value is not None:
            _number(name, value)
    if limit is not None and not isinstance(limit, Mapping):
        raise ConfigurationInvalid(f"limit must be a mapping such as {{'mail': 5}}; got {shown(limit)}")
    for queue, most in (limit or {}).items():
        if most is not None:
            _number(f"the limit of queue {shown(queue)}", most)
    if type(seed) is not int:
        raise ConfigurationInvalid(f"seed must be an integer; got {shown(seed)}")
    policies = retry.values() if isinstance(retry, Mapping) else [] if retry is None else [retry]
    for one in policies:
        if not isinstance(one, Retry):
            raise ConfigurationInvalid(f"retry must be a Retry, or a mapping of task ids to such; got {shown(one)}")
        if one.retry_on is not None or one.give_up_on:
            raise ConfigurationInvalid(
                "the log knows whether a failure was retryable, not its class: leave out retry_on and give_up_on"
            )
    return WhatIf(retry, dict(limit or {}), workers, concurrency, seed)


def _number(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= MOST:
        raise ConfigurationInvalid(f"{name} must be an integer from 1 to {MOST}; got {shown(value)}")


def compare(trace: Trace, asked: WhatIf) -> Simulation:
    """Play a trace under its own policy and under the other one.

    Raises:
        ConfigurationInvalid: a limit is for a queue, or a retry for a task, that no run of the trace has.
    """
    if len(trace):
        _known("queue", asked.limit, trace.queues)
        _known("task", asked.retry if isinstance(asked.retry, Mapping) else (), trace.tasks)
    workers, concurrency = crew(trace)
    limits = {queue: seen[-1] for queue, seen in trace.limits.items()}
    as_it_was = Measuring(trace)
    as_recorded(trace, as_it_was)
    recorded = as_it_was.measures(workers, concurrency, _named(trace, limits))
    own = Policy(workers * concurrency, limits, [None] * len(trace.tasks), asked.seed)
    baseline, drawn_baseline = _played(trace, own, workers, concurrency)
    workers, concurrency = asked.workers or workers, asked.concurrency or concurrency
    other = Policy(workers * concurrency, _limits(trace, limits, asked), _retries(trace, asked), asked.seed)
    simulated, drawn = (baseline, drawn_baseline) if other == own else _played(trace, other, workers, concurrency)
    return Simulation(
        recorded, baseline, simulated, drawn_baseline, drawn, asked.seed, dict(trace.left_out), _notes(trace, asked)
    )


def _played(trace: Trace, policy: Policy, workers: int, concurrency: int) -> tuple[Measures, int]:
    measuring = Measuring(trace)
    drawn = play(trace, policy, measuring)
    return measuring.measures(workers, concurrency, _named(trace, policy.limits)), drawn


def _known(what: str, names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigurationInvalid(
                f"no run of {what} {shown(name)} is there to simulate; known are {sorted(known)}"
            )


def _named(trace: Trace, limits: Mapping[int, int]) -> dict[str, int]:
    return {trace.queues[queue]: limits[queue] for queue in sorted(limits, key=trace.queues.__getitem__)}


def _limits(trace: Trace, recorded: Mapping[int, int], asked: WhatIf) -> dict[int, int]:
    limits: dict[int, int | None] = dict(recorded)
    limits.update({trace.queues.index(name): most for name, most in asked.limit.items() if name in trace.queues})
    return {queue: most for queue, most in limits.items() if most is not None}


def _retries(trace: Trace, asked: WhatIf) -> list[Retry | None]:
    retry = asked.retry
    return [retry.get(task) if isinstance(retry, Mapping) else retry for task in trace.tasks]


def _notes(trace: Trace, asked: WhatIf) -> tuple[str, ...]:
    notes = []
    for queue, seen in trace.limits.items():
        if len(seen) > 1:
            notes.append(
                f"queue {trace.queues[queue]} had the limits {', '.join(map(str, sorted(seen)))} in this time; "
                f"the last one, {seen[-1]}, counts as the recorded one"
            )
    for why, count in trace.left_out.items():
        notes.append(f"{count:,} {'run is' if count == 1 else 'runs are'} left out: {why}")
    if asked == WhatIf(seed=asked.seed):
        notes.append("nothing is changed: give another retry, limit, number of workers or concurrency")
    return tuple(notes)
