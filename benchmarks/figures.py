"""What one measurement comes to: named figures, curves, and how fast the machine was at that moment."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from attrs import field, frozen

#: A figure's name ends with its unit: ``runs_per_s``, ``p99_ms``.
Figures = dict[str, float]

#: The percentiles that make a curve; the tail is what differs, so it is looked at more closely.
_CURVE = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 92.5, 95, 97.5, 99, 99.5, 99.9, 100)


@frozen
class Unit:
    """How a figure is written, and which way it improves: what more of it is called, and what less."""

    ending: str
    text: str
    more_is_better: bool
    more: str
    less: str


_UNITS = (
    Unit("_per_s", "/s", True, "faster", "slower"),
    Unit("_percent", "%", True, "higher", "lower"),
    Unit("_ms", "ms", False, "slower", "faster"),
    Unit("_us_per_run", "µs/run", False, "slower", "faster"),
    Unit("_mib", "MiB", False, "larger", "smaller"),
    Unit("_bytes_per_run", "bytes/run", False, "larger", "smaller"),
)


def unit_of(figure: str) -> Unit:
    """The unit that a figure's name ends with.

    Raises:
        ValueError: it ends with none that is known here.
    """
    for unit in _UNITS:
        if figure.endswith(unit.ending):
            return unit
    raise ValueError(f"the name of figure {figure!r} must end with one of {', '.join(one.ending for one in _UNITS)}")


@frozen
class Curve:
    """A line of a plot.

    Args:
        kind: which plot it belongs to: ``percentiles`` of a delay, or cost against ``history``.
        name: what tells it from the others of its plot.
        unit: of the second coordinates.
        points: pairs, the first coordinates ascending.
    """

    kind: Literal["percentiles", "history"]
    name: str
    unit: str
    points: list[tuple[float, float]]


@frozen
class Sample:
    """One repeat of a measurement.  `notes` are circumstances that are worth telling and not to be compared."""

    figures: Figures = field()
    curves: tuple[Curve, ...] = ()
    notes: Figures = field(factory=dict)
    machine_loops_per_s: float = 0.0

    @figures.validator
    def _named(self, _: object, figures: Figures) -> None:
        for name in figures:
            unit_of(name)


def percentiles(values_ms: Sequence[float], *wanted: int, name: str = "") -> Figures:
    """Percentiles of delays in milliseconds as figures: ``p50_ms``, or ``NAME_p50_ms``."""
    cuts = statistics.quantiles(values_ms, n=100, method="inclusive")
    prefix = f"{name}_" if name else ""
    return {f"{prefix}p{percent}_ms": cuts[percent - 1] for percent in wanted}


def percentile_curve(name: str, values_ms: Sequence[float]) -> Curve:
    """The whole distribution of delays in milliseconds."""
    ordered = sorted(values_ms)
    last = len(ordered) - 1
    points = [(float(percent), ordered[round(percent / 100 * last)]) for percent in _CURVE]
    return Curve("percentiles", name, "ms", points)
