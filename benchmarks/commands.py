"""A command for each scenario, made of its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from attrs import Attribute, fields

from benchmarks import report, running
from benchmarks.knobs import Knobs
from benchmarks.report import json, terminal
from benchmarks.scenarios.contract import Scenario, about

Command = Callable[..., Any]

_COMMON = (
    click.option(
        "--database",
        "named",
        multiple=True,
        default=["postgres"],
        show_default=True,
        help="postgres or sqlite (of our own, thrown away afterwards), memory:, or the URL of a database; repeatable.",
    ),
    click.option("--repeat", default=5, show_default=True, type=click.IntRange(1), help="How often each is measured."),
    click.option("--seed", default=1, show_default=True, help="For what is drawn at random."),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Where the results go, without an ending: .json, .md and .html are added."
        "  [default: bench-results/TIME-SCENARIO]",
    ),
)
_KNOBS = (
    click.option("--batch", type=click.IntRange(1), help="Most runs of one transaction of a worker."),
    click.option("--lanes", type=click.IntRange(1, 64), help="Transactions that a worker has in flight at once."),
    click.option("--heartbeat", help="Such as 1s."),
    click.option("--fillfactor", type=click.IntRange(10, 100), help="Of the table of runs (PostgreSQL)."),
    click.option("--relaxed", is_flag=True, help="Commit without waiting for the disk."),
)


def common(command: Command) -> Command:
    """The options that every command which measures has."""
    for decorate in reversed(_COMMON):
        command = decorate(command)
    return command


def turned(command: Command) -> Command:
    """The options that turn a setting of the engine, else left at its default."""
    for decorate in reversed(_KNOBS):
        command = decorate(command)
    return command


def command_of(scenario: Scenario) -> click.Command:
    """The command that measures one scenario."""
    names = [attribute.name for attribute in fields(scenario.options)]

    def run(named: tuple[str, ...], repeat: int, seed: int, out: Path | None, **given: Any) -> None:
        plan = [(scenario, {name: given.pop(name) for name in names})]
        results = running.measure(plan, named, Knobs(**given), seed, repeat)
        publish(json.document(results, seed), scenario.name, out)

    made = common(turned(run))
    for attribute in reversed(fields(scenario.options)):
        made = _option(attribute)(made)
    return click.command(scenario.name, help=scenario.help)(made)


def publish(document: dict[str, Any], name: str, out: Path | None) -> None:
    """Show the results, write the reports, and say where they are."""
    terminal.show(document["results"])
    stem = out or Path("bench-results") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    tell_files(report.write_all(document, stem))


def tell_files(files: Sequence[Path]) -> None:
    """Say where the reports are."""
    click.echo("\nwritten to " + ", ".join(str(file) for file in files if file.suffix != ".svg"))


def _option(attribute: Attribute[Any]) -> Callable[[Command], Command]:
    known = about(attribute)
    kind = click.IntRange(1) if known.type is int else known.type
    several = known.each is not None or known.many
    usual = known.each if known.each is not None else attribute.default
    return click.option(
        f"--{attribute.name.replace('_', '-')}",
        attribute.name,
        type=kind,
        multiple=several,
        default=() if several else attribute.default,
        show_default=_listed(usual) if several else True,
        help=known.help + ("  Repeatable." if several else ""),
    )


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))
