"""The commands of the command line that read the log, on a long one."""

from __future__ import annotations

import click
from attrs import frozen

from benchmarks.audit_commands import COMMANDS
from benchmarks.databases import Databases
from benchmarks.figures import Sample
from benchmarks.places import Place
from benchmarks.readings import command
from benchmarks.scenarios.contract import Scenario, each, option, timed
from benchmarks.scenarios.replay import fill


@frozen
class Options:
    """Which command, and how long the log is."""

    command: str = each(tuple(COMMANDS), "What is run.", click.Choice(list(COMMANDS)))
    runs: int = option(20_000, "Finished runs of four events each.")


def measure(places: Databases, options: Options, _: int, repeat: int) -> list[Sample]:
    """Run the command so many times, each time in a new process; one that changes the log, on a new log each time."""

    def filled(place: Place) -> Place:
        fill(place, options.runs)
        return place

    def once() -> Sample:
        if COMMANDS[options.command].changes:
            place = filled(places.fresh())
        else:
            place = places.kept(f"{options.runs} runs", filled)
        reading = command(place, options.command)
        return Sample({"took_ms": 1000 * reading.took_s, "grown_mib": reading.grown_mib})

    return [timed(once) for _ in range(repeat)]


SCENARIO = Scenario(
    "audit",
    "Commands of the command line on a long log: how long each takes, and by how much its process grows.  The start of"
    " Python is not in it.  The history is copied by the database from a real run.",
    Options,
    measure,
    lambda options: options.command,
    tiny={"runs": 100, "command": ("audit verify", "audit prove", "audit archives")},
)
