"""The results as a table, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: A line of the table: what it is called, and its figure of a contestant's result.
LINES: Sequence[tuple[str, Callable[[Mapping[str, Any]], object]]] = (
    ("workers killed / paused / connections terminated", lambda one: _strikes(one["course"])),
    ("jobs acknowledged", lambda one: one["course"]["acknowledged"]),
    ("jobs lost", lambda one: len(one["course"]["lost"])),
    ("jobs stuck after 60 s", lambda one: len(one["course"]["stuck"])),
    ("accepted stale completions", lambda one: len(one["course"]["stale"])),
    ("executions repeated", lambda one: one["course"]["repeated"]),
    ("seconds until all was over", lambda one: _seconds(one["course"]["recovery"])),
    ("worker processes that ended by themselves", lambda one: one["course"]["ended_by_themselves"]),
)

FORCED = (
    "A's late outcome, while B is at the job",
    "success: accepted",
    "failure: accepted",
    "failed by the tables, though B ended well",
)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the course, and under it the forced scenario."""
    courses = [one for one in results if "course" in one]
    rows = [["", *(one["title"] for one in courses)], ["---", *("---" for _ in courses)]]
    rows += [[name, *(str(figure(one)) for one in courses)] for name, figure in LINES]
    forced = [[*FORCED], ["---" for _ in FORCED]]
    forced += [
        [
            one["title"],
            _accepted(one["forced_ends"]),
            _accepted(one["forced_fails"]),
            str(one["forced_fails"]["failed"]),
        ]
        for one in results
        if "forced_ends" in one
    ]
    return "\n\n".join(
        "\n".join(f"| {' | '.join(row)} |" for row in part)
        for part in (rows if courses else [], forced)
        if len(part) > 2
    )


def _strikes(course: Mapping[str, Any]) -> str:
    return " / ".join(str(course["strikes"].get(kind, 0)) for kind in ("kill", "pause", "terminate"))


def _seconds(value: float | None) -> str:
    return "not within 60" if value is None else f"{value:.0f}"


def _accepted(part: Mapping[str, Any]) -> str:
    """Of so many trials; those that did not come about are named."""
    missing = f", {part['problems']} did not come about" if part["problems"] else ""
    return f"**{part['accepted']}** of {part['finished']}{missing}"
