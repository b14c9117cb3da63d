"""Reading the whole log again."""

from __future__ import annotations

import click
from attrs import frozen

from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.figures import Sample
from benchmarks.history import History
from benchmarks.places import Place
from benchmarks.readings import READINGS, read
from benchmarks.scenarios.contract import Scenario, each, option, timed
from runlane import RunStatus

_PER_RUN = 4


@frozen
class Options:
    """How the log is read, and how long it is."""

    read: str = each(tuple(READINGS), "What reads it.", click.Choice(list(READINGS)))
    runs: int = option(20_000, "Finished runs of four events each.")


def fill(place: Place, runs: int) -> None:
    """Finished runs of four events each."""
    with place.app() as app:
        History(place, app, finished=True).add(runs)
        counted(app, RunStatus.SUCCEEDED, runs, events_per_run=_PER_RUN)


def measure(places: Databases, options: Options, _: int, repeat: int) -> list[Sample]:
    """Make the log once, for all cases, and read it so many times, each time in a new process."""
    place = places.kept(f"{options.runs} runs", lambda place: fill(place, options.runs))

    def once() -> Sample:
        reading = read(place, options.read)
        # Each rebuild notes itself in the log.
        if not _PER_RUN * options.runs <= reading.events <= _PER_RUN * options.runs + 100:
            raise SystemExit(f"expected {_PER_RUN * options.runs} events; {options.read} read {reading.events}")
        return Sample({"events_per_s": reading.events / reading.took_s, "grown_mib": reading.grown_mib})

    return [timed(once) for _ in range(repeat)]


SCENARIO = Scenario(
    "replay",
    "The whole log read again: verified, as of an instant, rebuilt beside the live tables, followed, projected,"
    " exported, and an export replayed and imported.  Events per second, and by how much the reading process grows."
    "  The history is copied by the database from a real run.",
    Options,
    measure,
    lambda options: options.read,
    tiny={"runs": 100, "read": ("verify", "rebuild", "import")},
)
