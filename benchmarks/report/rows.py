"""The rows that every table of results shows, on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import frozen

from benchmarks.figures import unit_of


@frozen
class Row:
    """A figure of a case: its median, and the range of its repeats where there are several."""

    database: str
    scenario: str
    case: str
    figure: str
    unit: str
    median: str
    least: str
    most: str
    repeats: int

    @property
    def measured(self) -> str:
        """Scenario and case."""
        return f"{self.scenario}: {self.case}"


def rows(results: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Every figure of every case."""
    for one in results:
        for name, median in one["median"].items():
            values = [figures[name] for figures in one["repeats"]]
            several = len(values) > 1
            yield Row(
                one["database"],
                one["scenario"],
                one["case"],
                *written(name),
                number(median),
                number(min(values)) if several else "",
                number(max(values)) if several else "",
                len(values),
            )
        yield from _notes(one)


def _notes(one: dict[str, Any]) -> Iterator[Row]:
    """What is worth telling beside the figures."""
    for name in one["notes"][0]:
        values = [notes[name] for notes in one["notes"]]
        words = f"({name.replace('_', ' ')})"
        told = number(statistics.median(values))
        yield Row(one["database"], one["scenario"], one["case"], words, "", told, "", "", len(values))


def written(figure: str) -> tuple[str, str]:
    """A figure's name as words, without its unit, and the unit: ``call_p50_ms`` is ("call p50", "ms")."""
    unit = unit_of(figure)
    return figure.removesuffix(unit.ending).replace("_", " "), unit.text


def number(value: float) -> str:
    """Three digits that count, and thousands set apart."""
    size = abs(value)
    if size >= 1000:
        return f"{float(f'{value:.3g}') if size >= 1e6 else value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
