"""Reports of a run: JSON for programs, Markdown and HTML for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import html, json, markdown
from benchmarks.report.plots import plots


def write_all(document: dict[str, Any], stem: Path) -> list[Path]:
    """Write ``STEM.json``, ``STEM.md`` with its plots, and ``STEM.html``; the files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    return [json.write(document, stem), *write_readable(document, stem)]


def write_readable(document: dict[str, Any], stem: Path) -> list[Path]:
    """Write only what is for people."""
    drawn = plots(document)
    return [html.write(document, drawn, stem), *markdown.write(document, drawn, stem)]
