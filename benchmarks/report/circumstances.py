"""What a reader of the figures has to know first, and what tune advises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def circumstances(document: dict[str, Any]) -> Iterator[str]:
    """One line for each."""
    machine, versions = document["machine"], document["versions"]
    changed = ", with changes that are not committed" if document["dirty"] else ""
    yield f"Commit {document['commit'] or 'unknown'}{changed}; {document['at']}; seed {document['seed']}"
    yield f"{machine['cpus']} × {machine['cpu']}, {machine['memory_gib']:g} GiB, {machine['system']}"
    yield f"Python {machine['python']}, " + ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    for database, server in {one["database"]: one["server"] for one in document["results"]}.items():
        settings = ", ".join(f"{name} {value}" for name, value in server.items() if name != "version")
        yield f"{database}: {server['version']}; {settings}"
    speeds = [speed for one in document["results"] for speed in one["machine_loops_per_s"]]
    if speeds:
        yield (
            f"Just before the repeats the machine ran {min(speeds) / 1e6:.0f} to {max(speeds) / 1e6:.0f} million empty"
            " loops a second; the wider that is, the less its figures can be compared"
        )
    if turned := _turned(document):
        yield f"Settings turned from their defaults: {turned}"
    yield " ".join(document["command"])


def advice(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each knob with the value to use, and why."""
    for one in document.get("tune", ()):
        yield f"{one['knob']} = {one['use']} on {one['database']}.", one["text"]


def _turned(document: dict[str, Any]) -> str:
    found = {
        f"{name} {value}": None
        for one in document["results"]
        if one["scenario"] != "tune"
        for name, value in one["knobs"].items()
        if value not in (None, False)
    }
    return ", ".join(found)
