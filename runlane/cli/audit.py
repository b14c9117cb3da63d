"""``runlane audit``: replaying the log."""

from __future__ import annotations

import click
from attrs import asdict
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.storage.findings import Verification


@click.group()
@program_options
def audit() -> None:
    """Check the log against what is stored."""


@audit.command(short_help="Fold the whole log, and compare with what is stored.")
@program_options
@click.option("--run", metavar="RUN", help="Only this run.")
@click.pass_obj
def verify(program: Program, /, run: str | None) -> None:
    """Fold the whole log and compare it, field by field, with what is stored; exit code 1 on any difference."""
    app = program.started()
    screen = show.console(stderr=True)
    if screen.is_terminal and not program.json:
        columns = (SpinnerColumn(), TextColumn("replaying: {task.completed:,.0f} events"), TimeElapsedColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            shown = bar.add_task("", total=None)
            found = app.audit.verify(run, progress=lambda events: bar.update(shown, completed=events))
    else:
        found = app.audit.verify(run)
    _report(program, found)
    if not found.identical:
        raise click.exceptions.Exit(1)


def _report(program: Program, found: Verification) -> None:
    if program.json:
        show.json_lines([asdict(difference) for difference in found.differences])
        show.json_lines([{**asdict(found, recurse=False), "differences": len(found.differences)}])
        return
    if found.differences:
        show.table(
            ("id", "#", "field", "stored", "folded"),
            [(d.stream_id, d.sequence, d.field, d.stored, d.folded) for d in found.differences],
            right=("#",),
        )
    counts = [(found.events, "event"), (found.runs, "run"), (found.schedules, "schedule")]
    counts += [(found.queues, "queue")] if found.queues else []
    seen = ", ".join(show.counted(number, what) for number, what in counts)
    verdict = "replay identical" if found.identical else show.counted(len(found.differences), "difference")
    show.say(f"{verdict}: {seen}")
