"""``python -m benchmarks peers``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from attrs import asdict
from rich.console import Console

from benchmarks import machine
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.driven import DRIVERS, Driven, DriverFailed
from benchmarks.peers.environments import CACHE, Unavailable, python_of
from benchmarks.peers.measures import MEASURES, Sizes
from benchmarks.peers.ratios import FIGURES, Figure, median, ratio
from benchmarks.peers.rounds import rounds
from benchmarks.peers.server import Server, own_server
from benchmarks.peers.table import REFERENCES, Outcome, show


def chosen_of(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str | None], list[str]]:
    """What an option with names from a list, separated by commas, stands for: in the list's order, each once."""

    def chosen(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
        wanted = [*known] if value is None else [part.strip() for part in value.split(",")]
        for part in wanted:
            if part not in known:
                raise click.BadParameter(f"{part!r} is not one of {', '.join(known)}")
        return [name for name in known if name in wanted]

    return chosen


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--peers", "names", callback=chosen_of([*PEERS]), help=f"Some of {', '.join(PEERS)}.  [default: all]")
@click.option("--measures", callback=chosen_of([*MEASURES]), help=f"Some of {', '.join(MEASURES)}.  [default: all]")
@click.option("--rounds", "count", default=3, show_default=True, type=click.IntRange(1), help="How often each.")
@click.option("--runs", default=20_000, show_default=True, type=click.IntRange(1000), help="Jobs of a drain.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the results.")
def peers(names: list[str], measures: list[str], count: int, runs: int, file: Path | None) -> None:
    """Measure Runlane beside its peers: each at its best settings, on one server, in alternating rounds.

    Each peer is installed once into an environment of its own.  One that cannot be had here is left out, and the table
    says why.  A round that was disturbed is repeated.
    """
    drivers, missing = _available(names)
    if not drivers:
        raise click.ClickException("; ".join(f"{name} {why}" for name, why in missing.items()))
    sizes = Sizes(runs)
    with own_server() as server:
        found = tuple(rounds(drivers, measures, count, server, sizes, _tell))
        outcome = Outcome(drivers, missing, found)
        document = _document(outcome, server, sizes)
    show(outcome, Console(width=None if Console().is_terminal else 120))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        click.echo(f"\nwritten to {file}")


def _available(names: Sequence[str]) -> tuple[dict[str, Driven], dict[str, str]]:
    drivers, missing = {}, {}
    for name in names:
        _tell(f"preparing {name}" + (f" in {CACHE / name}" if PEERS[name].requirements else ""))
        try:
            driven = Driven(name, DRIVERS / f"with_{name}.py", python_of(name, PEERS[name]))
            driven.learn()
        except (Unavailable, DriverFailed) as why:
            missing[name] = str(why)
        else:
            drivers[name] = driven
    return drivers, missing


def _document(outcome: Outcome, server: Server, sizes: Sizes) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
        **machine.circumstances(),
        "server": server.settings(),
        "sizes": asdict(sizes),
        "peers": {
            name: {**driven.meta, "keeps": PEERS[name].keeps, "lacks": PEERS[name].lacks}
            for name, driven in outcome.peers.items()
        },
        "missing": outcome.missing,
        "figures": [_figures(outcome, figure) for figure in FIGURES],
        "rounds": [{**asdict(one), "disturbance": one.disturbance} for one in outcome.rounds],
    }


def _figures(outcome: Outcome, figure: Figure) -> dict[str, Any]:
    return {
        **asdict(figure),
        "median": {name: median(outcome.rounds, figure, name) for name in outcome.peers},
        **{
            f"times_{reference}": {name: ratio(outcome.rounds, figure, name, reference) for name in outcome.peers}
            for reference in REFERENCES
        },
    }


def _tell(line: str) -> None:
    click.echo(line, err=True)
