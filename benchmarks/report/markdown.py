"""The report in Markdown, with its plots in files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.circumstances import advice, circumstances
from benchmarks.report.rows import rows


def write(document: dict[str, Any], drawn: Mapping[str, tuple[str, str]], stem: Path) -> list[Path]:
    """Store the report as ``STEM.md``, and each plot as ``STEM-NAME.svg``."""
    pictures = {name: stem.with_name(f"{stem.name}-{name}.svg") for name in drawn}
    for name, file in pictures.items():
        file.write_text(drawn[name][1])
    text = stem.with_name(stem.name + ".md")
    text.write_text("\n".join(_lines(document, drawn, pictures)) + "\n")
    return [text, *pictures.values()]


def _lines(
    document: dict[str, Any], drawn: Mapping[str, tuple[str, str]], pictures: Mapping[str, Path]
) -> Iterator[str]:
    yield "# Runlane, measured\n"
    yield from (f"- {line}" for line in circumstances(document))
    if said := list(advice(document)):
        yield "\n## Best for this machine\n"
        yield from (f"- **{what}** {why}" for what, why in said)
    for name, file in pictures.items():
        yield f"\n![{drawn[name][0]}]({file.name})"
    yield "\n## Figures\n"
    yield "| database | measured | figure | median | least | most | unit |"
    yield "| --- | --- | --- | ---: | ---: | ---: | --- |"
    for row in rows(document["results"]):
        cells = (row.database, row.measured, row.figure, row.median, row.least, row.most, row.unit)
        yield "| " + " | ".join(cells) + " |"
