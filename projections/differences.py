"""What changed between two states of one run, field by field."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import fields, frozen

from runlane.events import Recorded
from runlane.projections import runs
from runlane.projections.runs import Run
from runlane.values import Actor, Cancellation, Failure, Lease, Reservation

#: What happens to a run, but for its sequence and the time of its last event, which are the question itself.
_PLAIN = (
    "status",
    "due_at",
    "run_at",
    "started_at",
    "finished_at",
    "attempt_count",
    "failure_count",
    "retry_count",
    "release_count",
    "lost_count",
    "result",
)
_GROUPS: tuple[tuple[str, type[Any]], ...] = (
    ("lease", Lease),
    ("failure", Failure),
    ("reservation", Reservation),
    ("cancellation", Cancellation),
)


@frozen
class FieldChange:
    """A field that differs between two states: its value in each, and the event that last changed it.

    Parts of a value object have names such as ``lease.worker_id``; they are None where there is no lease.
    """

    field: str
    before: Any
    after: Any
    sequence: int


@frozen
class RunDiff:
    """What became of a run between two of its events, the first of which counts as before."""

    run_id: UUID
    from_sequence: int
    to_sequence: int
    from_at: datetime
    to_at: datetime
    changes: tuple[FieldChange, ...]


def diff(records: Iterable[Recorded], from_sequence: int) -> RunDiff:
    """What changed between the event `from_sequence` of a run and the last of these, which begin with its first.

    Raises:
        InvariantViolation: they are no legal history.
        ValueError: there is no such event among them.
    """
    stream = iter(records)
    first = next(stream, None)
    if first is None:
        raise ValueError("a run without events has no states")
    run = runs.born(first)
    start = run if from_sequence == 1 else None
    state = before = flat(run)
    changed: dict[str, int] = {}
    for record in stream:
        run = runs.after(run, record)
        last, state = state, flat(run)
        if start is None:
            if record.sequence == from_sequence:
                start, before = run, state
            continue
        changed |= {name: record.sequence for name, value in state.items() if not same(value, last[name])}
    if start is None:
        raise ValueError(f"the run has no event {from_sequence}")
    changes = tuple(
        FieldChange(name, before[name], value, changed[name])
        for name, value in state.items()
        if not same(value, before[name])
    )
    return RunDiff(run.id, start.sequence, run.sequence, start.updated_at, run.updated_at, changes)


def flat(run: Run) -> dict[str, Any]:
    """The fields of a run that its events may change, those of its value objects one by one."""
    found = {name: getattr(run, name) for name in _PLAIN}
    for name, cls in _GROUPS:
        group = getattr(run, name)
        for part in fields(cls):
            value = None if group is None else getattr(group, part.name)
            found[f"{name}.{part.name}"] = value.text if isinstance(value, Actor) else value
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, as JSON has it: to Python ``1``, ``1.0`` and ``True`` are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)
