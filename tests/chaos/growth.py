"""Whether what should stay level has grown, judged from samples taken over time.  No process, no database, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from attrs import frozen

#: With fewer values in a quarter than this, a median says nothing.
LEAST = 5


@frozen
class Sample:
    """What was measured at a moment, seconds from the start; a measure that could not be taken is not in it."""

    at: float
    values: Mapping[str, float]


@frozen
class Bound:
    """How far the last quarter may lie above the second one: `ratio` times as high, and `slack` more."""

    ratio: float
    slack: float

    def above(self, level: float) -> float:
        """The most that the last quarter may be."""
        return level * self.ratio + self.slack


@frozen
class Course:
    """How one measure went: the medians of its second and last quarter, and the greatest of all values."""

    name: str
    bound: Bound
    samples: int
    second: float | None
    last: float | None
    most: float

    @property
    def problem(self) -> str | None:
        """What is wrong with it: it grew, or nobody can tell."""
        if self.second is None or self.last is None:
            return f"{self.name} was measured {self.samples} times, too seldom to be judged"
        if self.last > self.bound.above(self.second):
            told = f"{self.name} grew from {self.second:,.1f} to {self.last:,.1f}"
            return f"{told}; up to {self.bound.above(self.second):,.1f} would be level"
        return None

    def as_json(self) -> dict[str, float | int | bool | None]:
        """The figures."""
        bound = None if self.second is None else round(self.bound.above(self.second), 2)
        return {
            "samples": self.samples,
            "second_quarter": _rounded(self.second),
            "last_quarter": _rounded(self.last),
            "most": _rounded(self.most),
            "bound": bound,
            "level": self.problem is None,
        }


def judged(samples: Sequence[Sample], bounds: Mapping[str, Bound]) -> list[Course]:
    """How each measure that has a bound went.

    The first quarter is left out, as caches fill and pools open then.  Medians let single peaks pass, such as the
    backlog behind a restart, and notice what stays.
    """
    if not samples:
        return [Course(name, bound, 0, None, None, 0.0) for name, bound in bounds.items()]
    began, ended = samples[0].at, samples[-1].at
    quarter = (ended - began) / 4
    courses = []
    for name, bound in bounds.items():
        known = [(one.at - began, one.values[name]) for one in samples if name in one.values]
        second = [value for at, value in known if quarter <= at < 2 * quarter]
        last = [value for at, value in known if at >= 3 * quarter]
        most = max((value for _, value in known), default=0.0)
        courses.append(Course(name, bound, len(known), _median(second), _median(last), most))
    return courses


def _median(values: Sequence[float]) -> float | None:
    return median(values) if len(values) >= LEAST else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
