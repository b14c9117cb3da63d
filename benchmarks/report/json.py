"""The document of a run: everything that is needed to repeat it, to doubt it and to compare it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from attrs import asdict

from benchmarks import machine
from benchmarks.figures import Sample
from benchmarks.knobs import Knobs

#: Grows when a reader of older documents could not read newer ones.
FORMAT = 1


def document(
    results: Sequence[dict[str, Any]], seed: int, *, tune: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A whole run."""
    return {
        "format": FORMAT,
        "at": _now(),
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
        "seed": seed,
        **machine.circumstances(),
        "results": list(results),
        **({} if tune is None else {"tune": list(tune)}),
    }


def result(
    scenario: str,
    case: str,
    database: str,
    server: dict[str, str],
    options: Any,
    knobs: Knobs,
    samples: Sequence[Sample],
    took_s: float,
) -> dict[str, Any]:
    """One case with all its repeats."""
    # A repeat leaves out what did not matter in it, such as an index that did not grow.
    names = [name for name in samples[0].figures if all(name in sample.figures for sample in samples)]
    return {
        "scenario": scenario,
        "case": case,
        "database": database,
        "server": server,
        "options": asdict(options),
        "knobs": asdict(knobs),
        "at": _now(),
        "took_s": round(took_s, 1),
        "median": {name: statistics.median(sample.figures[name] for sample in samples) for name in names},
        "repeats": [sample.figures for sample in samples],
        "curves": [[asdict(curve) for curve in sample.curves] for sample in samples],
        "notes": [sample.notes for sample in samples],
        "machine_loops_per_s": [sample.machine_loops_per_s for sample in samples],
    }


def write(document: dict[str, Any], stem: Path) -> Path:
    """Store a document as ``STEM.json``."""
    file = stem.with_name(stem.name + ".json")
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return file


def read(file: Path) -> dict[str, Any]:
    """A document that was written here.

    Raises:
        ValueError: it is none, or one of a later format.
    """
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict) or "results" not in found or not isinstance(found.get("format"), int):
        raise ValueError(f"{file} is no result of python -m benchmarks")
    if found["format"] > FORMAT:
        raise ValueError(f"{file} has format {found['format']}; this harness reads up to {FORMAT}")
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
