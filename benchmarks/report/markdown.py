"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report.rows import rows


def write(document: dict[str, Any], stem: Path) -> Path:
    """Store the report as ``STEM.md``."""
    file = stem.with_name(stem.name + ".md")
    file.write_text("\n".join(_lines(document)) + "\n")
    return file


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield "# Runlane, measured"
    yield ""
    yield from (f"- {line}" for line in circumstances(document))
    yield ""
    yield "| database | measured | figure | median | least | most | unit |"
    yield "| --- | --- | --- | ---: | ---: | ---: | --- |"
    for row in rows(document["results"]):
        yield (
            f"| {row.database} | {row.measured} | {row.figure} | {row.median} | {row.least} | {row.most} | {row.unit} |"
        )


def circumstances(document: dict[str, Any]) -> Iterator[str]:
    """What a reader of the figures has to know first."""
    machine, versions = document["machine"], document["versions"]
    state = {None: "", False: "", True: ", with changes that are not committed"}[document["dirty"]]
    yield f"Commit {document['commit'] or 'unknown'}{state}; {document['at']}; seed {document['seed']}"
    yield f"{machine['cpus']} × {machine['cpu']}, {machine['memory_gib']:g} GiB, {machine['system']}"
    yield f"Python {machine['python']}, " + ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    for database, server in {one["database"]: one["server"] for one in document["results"]}.items():
        yield f"{database}: " + ", ".join(f"{name} = {value}" for name, value in server.items())
    speeds = [speed for one in document["results"] for speed in one["machine_loops_per_s"]]
    if speeds:
        yield (
            f"The machine ran {min(speeds) / 1e6:.0f} to {max(speeds) / 1e6:.0f} million empty loops a second just"
            " before the repeats: the wider this is, the less two figures can be compared"
        )
    yield "`" + " ".join(document["command"]) + "`"
