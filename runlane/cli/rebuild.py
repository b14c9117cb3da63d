"""``runlane audit repair`` and ``runlane audit rebuild``: the tables made again from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from attrs import asdict
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runlane.cli import show
from runlane.cli.options import actor_option, operator, reason_option
from runlane.cli.program import Program, program_options
from runlane.storage.findings import Difference
from runlane.storage.rebuild import Rebuilt


@click.command(short_help="Make the row of one run again from its events.")
@program_options
@click.argument("run", metavar="RUN")
@actor_option
@reason_option
@click.pass_obj
def repair(program: Program, /, run: str, actor: str, reason: str | None) -> None:
    """Make the row of one run again from its events, with the ownership of its idempotency keys.

    Shows what was different.  The history of the run is not touched; one that is damaged is refused.
    """
    found = program.started().audit.repair(run, actor=operator(actor), reason=reason)
    _show(program, found)
    if program.json:
        show.json_lines([{"repaired": bool(found), "differences": len(found)}])
    else:
        show.say(f"repaired: {show.counted(len(found), 'difference')}" if found else "nothing to repair")


@click.command(short_help="Make all tables again from the log, while others work.")
@program_options
@click.option("--dry-run", is_flag=True, help="Only show what is different; change nothing.")
@actor_option
@reason_option
@click.pass_obj
def rebuild(program: Program, /, dry_run: bool, actor: str, reason: str | None) -> None:
    """Make all tables that are folded from the log again, in all environments of the database, while others work.

    Exit code 1 if a dry run finds any difference, or if something stays different as its history is damaged.
    """
    app = program.started()
    with _progress(program) as progress:
        found = app.audit.rebuild(progress=progress, swap=not dry_run, actor=operator(actor), reason=reason)
    _show(program, found.differences)
    _sum_up(program, found)
    if found.damaged or (dry_run and not found.identical):
        raise click.exceptions.Exit(1)


@contextmanager
def _progress(program: Program) -> Iterator[Callable[[int], None] | None]:
    """What shows how many events have been folded, on a terminal only."""
    screen = show.console(stderr=True)
    if program.json or not screen.is_terminal:
        yield None
        return
    columns = (SpinnerColumn(), TextColumn("folding: {task.completed:,.0f} events"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        shown = bar.add_task("", total=None)
        yield lambda events: bar.update(shown, completed=events)


def _show(program: Program, differences: Sequence[Difference]) -> None:
    if program.json:
        show.json_lines([asdict(difference) for difference in differences])
    elif differences:
        show.table(
            ("id", "#", "field", "stored", "folded"),
            [(d.stream_id, d.sequence, d.field, d.stored, d.folded) for d in differences],
            right=("#",),
        )


def _sum_up(program: Program, found: Rebuilt) -> None:
    if program.json:
        held = None if found.held is None else found.held.total_seconds()
        facts = {**asdict(found, recurse=False), "held": held, "differences": len(found.differences)}
        show.json_lines([facts])
        return
    counts = [(found.events, "event"), (found.runs, "run"), (found.schedules, "schedule"), (found.queues, "queue")]
    seen = ", ".join(show.counted(number, what) for number, what in counts if number)
    right = show.counted(found.rows - found.damaged, "row") + (" put right" if found.swapped else " to put right")
    verdict = "identical" if found.identical else right
    if found.damaged:
        histories = "1 damaged history" if found.damaged == 1 else f"{found.damaged:,} damaged histories"
        verdict += f", {histories} left as stored"
    waited = f"; others waited for {show.span(found.held)}" if found.held is not None else ""
    show.say(f"{'rebuilt' if found.swapped else 'dry run'}, {verdict}: {seen or 'nothing'}{waited}")
