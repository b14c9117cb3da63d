"""Adds up the verdicts of many sittings: ``python -m tests.chaos.tally FILE…``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ADDED = (
    "runs",
    "events",
    "attempts",
    "executions_repeated",
    "stale_writes_attempted",
    "stale_writes_accepted",
    "acknowledged_runs_lost",
    "projection_differences",
)


def add_up(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sums of each database: episodes, seconds, faults by kind, costs and findings; and the slowest recovery."""
    sums: dict[str, dict[str, Any]] = {}
    for line in lines:
        into = sums.setdefault(
            line["database"],
            {
                "episodes": 0,
                "unsound": 0,
                "seconds": 0.0,
                "faults": Counter(),
                "calls": Counter(),
                "violations": Counter(),
                "slowest_recovery": 0.0,
                **dict.fromkeys(ADDED, 0),
            },
        )
        into["episodes"] += 1
        into["unsound"] += not line["sound"]
        into["seconds"] += line["seconds"]
        for name in ("faults", "calls", "violations"):
            into[name].update(line[name])
        for name in ADDED:
            into[name] += line[name]
        into["slowest_recovery"] = max(into["slowest_recovery"], line["recovery_seconds"] or 60.0)
    return sums


def main(paths: list[str]) -> None:
    """Print the sums of all lines in these files."""
    lines = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines() if line.strip()]
    for database, sums in sorted(add_up(lines).items()):
        print(database)
        for name, value in sums.items():
            shown = (
                ", ".join(f"{kind} {number:,}" for kind, number in sorted(value.items()))
                if isinstance(value, Counter)
                else value
            )
            print(f"  {name.replace('_', ' ')}: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:])
