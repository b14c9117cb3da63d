"""``runlane audit``: replaying the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click
from attrs import asdict
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runlane.cli import exports, show
from runlane.cli.options import Instant
from runlane.cli.program import Program, program_options
from runlane.errors import RunlaneError
from runlane.storage.findings import Verification

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
@program_options
def audit() -> None:
    """Check the log against what is stored."""


@audit.command(short_help="Fold the whole log, and compare with what is stored.")
@program_options
@click.argument("path", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@click.option("--run", metavar="RUN", help="Only this run.")
@click.option("--since", type=Instant(), help="Only what moved since then, each run from its beginning.")
@click.option("--key", "keys", multiple=True, type=FILE, help="A public key (PEM) that signs checkpoints; repeatable.")
@click.option("--checkpoint", "checkpoints", multiple=True, type=FILE, help="A checkpoint kept elsewhere; repeatable.")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="How many share the work.")
@click.pass_obj
def verify(
    program: Program,
    /,
    path: Path | None,
    run: str | None,
    since: datetime | None,
    keys: tuple[Path, ...],
    checkpoints: tuple[Path, ...],
    processes: int,
) -> None:
    """Fold the whole log and compare it, digest by digest and field by field, with what is stored.

    The roots of all checkpoints are worked out again.  With --key each has to be signed, with --checkpoint the one that
    was kept has to be in the log unchanged.

    With FILE it is an export that is checked, without any database, as `audit replay` does; --key is whose signature it
    must have.

    Exit code 0 if all is as the log says, 1 on any difference, 2 if it could not be checked.
    """
    if path is not None:
        if run is not None or since is not None or checkpoints or processes > 1 or len(keys) > 1:
            raise click.UsageError(
                "of an export everything is checked, by one process: give FILE and --key at most once"
            )
        exports.check(program, path, keys[0] if keys else None)
        return
    with _or_unchecked(program), _counting(program) as progress:
        audit = program.started().audit
        found = audit.verify(
            run, since=since, key=keys, checkpoints=checkpoints, progress=progress, processes=processes
        )
    _report(program, found)
    if not found.identical:
        raise click.exceptions.Exit(1)


@contextmanager
def _or_unchecked(program: Program) -> Iterator[None]:
    """What goes wrong on the way is no finding."""
    try:
        yield
    except Exception as error:
        if program.debug or isinstance(error, click.ClickException):
            raise
        told = error.message if isinstance(error, RunlaneError) else f"{type(error).__name__}: {error}"
        raise click.ClickException(f"could not be checked: {told}") from error


@contextmanager
def _counting(program: Program) -> Iterator[Callable[[int], None] | None]:
    """What to tell the number of events to, on a terminal."""
    screen = show.console(stderr=True)
    if not screen.is_terminal or program.json:
        yield None
        return
    columns = (SpinnerColumn(), TextColumn("replaying: {task.completed:,.0f} events"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        shown = bar.add_task("", total=None)
        yield lambda events: bar.update(shown, completed=events)


def _report(program: Program, found: Verification) -> None:
    if program.json:
        show.json_lines([asdict(difference) for difference in found.differences])
        show.json_lines([{**asdict(found, recurse=False), "differences": len(found.differences)}])
        return
    if found.differences:
        show.table(
            ("id", "#", "field", "stored", "folded", "since #"),
            [(d.stream_id, d.sequence, d.field, d.stored, d.folded, d.since) for d in found.differences],
            right=("#", "since #"),
        )
    counts = [(found.events, "event"), (found.runs, "run"), (found.schedules, "schedule")]
    counts += [(found.queues, "queue")] if found.queues else []
    counts += [(found.checkpoints, "checkpoint")] if found.checkpoints else []
    seen = ", ".join(show.counted(number, what) for number, what in counts)
    verdict = "replay identical" if found.identical else show.counted(len(found.differences), "difference")
    show.say(f"{verdict}: {seen}")
    if found.foreign_checkpoints:
        foreign = show.counted(found.foreign_checkpoints, "checkpoint")
        show.say(f"{foreign} of another log, from which this one was imported, could not be checked here")
