"""``python -m benchmarks COMMAND``; ``--help`` lists them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import machine, report, running
from benchmarks.commands import command_of, common, publish, tell_files, turned
from benchmarks.compare import compare
from benchmarks.knobs import Knobs
from benchmarks.peers.command import peers
from benchmarks.report import json
from benchmarks.scenarios import SCENARIOS
from benchmarks.tune import tune


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Measure Runlane with the whole history kept and the database's default durability.

    Every figure is refused unless the database bears it out afterwards.
    """


@main.command("all")
@common
@turned
@click.option("--tiny", is_flag=True, help="The smallest sizes: shows that everything works, and measures nothing.")
def measure_all(named: tuple[str, ...], repeat: int, seed: int, out: Path | None, tiny: bool, **knobs: Any) -> None:
    """Every scenario with its usual cases."""
    if tiny:
        machine.PROBE_SECONDS = 0.01
    plan = [(scenario, scenario.tiny if tiny else {}) for scenario in SCENARIOS.values()]
    results = running.measure(plan, named, Knobs(**knobs), seed, repeat)
    publish(json.document(results, seed), "all", out)


@main.command("report")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def rewrite(file: Path) -> None:
    """Write a report once more.  The Markdown and the HTML of FILE.json go beside it."""
    try:
        document = json.read(file)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    tell_files(report.write_readable(document, file.with_suffix("")))


main.add_command(compare)
main.add_command(tune)
for _scenario in SCENARIOS.values():
    main.add_command(command_of(_scenario))
main.add_command(peers)

if __name__ == "__main__":
    # Told to stop, it still stops the server and removes the files that it has made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
