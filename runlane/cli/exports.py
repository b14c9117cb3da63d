"""``runlane audit export|replay|import``: the log outside its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click
import orjson
from attrs import asdict
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runlane.cli import show
from runlane.cli.options import Instant, actor_option, operator
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid
from runlane.export import FORMATS, Replayed, fixtures, import_events, replay

_FILE = click.Path(path_type=Path)
public_key_option = click.option("--public-key", type=_FILE, metavar="FILE", help="Whose signature it must have (PEM).")


@contextmanager
def counting(program: Program, what: str, of: str = "events") -> Iterator[Callable[[int], None] | None]:
    """What to tell the number of events to, or of something else, on a terminal."""
    screen = show.console(stderr=True)
    if not screen.is_terminal or program.json:
        yield None
        return
    columns = (SpinnerColumn(), TextColumn(what + ": {task.completed:,.0f} " + of), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        shown = bar.add_task("", total=None)
        yield lambda events: bar.update(shown, completed=events)


@click.command(short_help="Write every event into a file, with a manifest.")
@program_options
@click.argument("path", type=_FILE)
@click.option(
    "--format", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="JSON Lines can be replayed."
)
@click.option("--since", type=Instant(), help="Of runs, only those that moved since then; whole ones.")
@click.option("--key", type=_FILE, metavar="FILE", help="Sign the manifest with this Ed25519 private key (PEM).")
@click.option("--resume", is_flag=True, help="Go on with an interrupted export of the same.")
@actor_option
@click.pass_obj
def export(
    program: Program, /, path: Path, format: str, since: datetime | None, key: Path | None, resume: bool, actor: str
) -> None:
    """Write every event of the environment into a file, stream by stream, with a manifest of counts and digests."""
    app = program.started()
    with counting(program, "exporting") as progress:
        told = app.audit.export(path, format, since, key, resume=resume, actor=operator(actor), progress=progress)
    if program.json:
        show.json_lines([orjson.loads(told.dumps())])
        return
    signed = "" if told.key is None else f", signed with key {told.key[:16]}…"
    show.say(
        f"exported {show.counted(told.events, 'event')} of {show.counted(told.streams, 'stream')} "
        f"of environment {told.environment}{signed}"
    )
    show.say(f"sha256 {told.sha256}")


@click.command("replay", short_help="Fold and check an export, without a database.")
@program_options
@click.argument("path", type=_FILE)
@public_key_option
@click.pass_obj
def replay_(program: Program, /, path: Path, public_key: Path | None) -> None:
    """Fold and check an export in JSON Lines, without any database.

    Exit code 0 if it is exactly what was exported and a legal history, 1 if not, 2 if it could not be checked.
    """
    check(program, path, public_key)


def check(program: Program, path: Path, public_key: Path | None) -> None:
    """Replay an export, and tell what came of it."""
    with counting(program, "replaying") as progress:
        found = replay(path, public_key=public_key, progress=progress)
    _report(program, found)
    if not found.clean:
        raise click.exceptions.Exit(1)


@click.command(short_help="Write a run's history as a pytest module.")
@program_options
@click.argument("run", metavar="RUN")
@click.option("--output", type=_FILE, metavar="FILE", help="Where to, instead of standard output; a new file.")
@click.pass_obj
def fixture(program: Program, /, run: str, output: Path | None) -> None:
    """Write a run's history as a pytest module that calls the task's handler for each attempt as it was called then.

    It expects the same kind of outcome: success, release, or failure with the same code.
    """
    module = fixtures.module_of(program.started().runs.events(run))
    if output is None:
        show.write(module, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(module)
    except OSError as error:
        raise ConfigurationInvalid(f"{output} cannot be written: {error.strerror or error}") from error
    if program.json:
        show.json_lines([{"path": str(output)}])
    else:
        show.say(f"wrote {output}")


def _report(program: Program, found: Replayed) -> None:
    counts = {"events": found.events, "streams": found.streams, "schedules": found.schedules, "queues": found.queues}
    if program.json:
        show.json_lines([asdict(problem) for problem in found.problems])
        statuses = {str(status): number for status, number in found.by_status.items()}
        ended = {"signed": found.signed, "clean": found.clean, "problems": len(found.problems)}
        show.json_lines([{"environment": found.manifest.environment, **counts, "by_status": statuses, **ended}])
        return
    if found.problems:
        rows = [(one.line, one.stream_id, one.sequence, one.what) for one in found.problems]
        show.table(("line", "stream", "#", "what happened"), rows, right=("line", "#"))
    elif found.by_status:
        show.table(("status", "runs"), [(s, f"{n:,}") for s, n in found.by_status.items()], right=("runs",))
    verdict = "export intact" if found.clean else show.counted(len(found.problems), "problem")
    seen = [(found.events, "event"), (sum(found.by_status.values()), "run"), (found.schedules, "schedule")]
    seen += [(found.queues, "queue")] if found.queues else []
    signature = {True: ", signature good", False: ", signature NOT good", None: ""}[found.signed]
    show.say(f"{verdict}: {', '.join(show.counted(number, what) for number, what in seen)}{signature}")


@click.command("import", short_help="Write an export into an empty database.")
@program_options
@click.argument("path", type=_FILE)
@public_key_option
@click.pass_obj
def import_(program: Program, /, path: Path, public_key: Path | None) -> None:
    """Write an export into the database of --database, with everything that it folds to.

    The tables are made if they are not there.  The environment must have no events; an import that was interrupted goes
    on when it is repeated.
    """
    if program.database is None:
        raise ConfigurationInvalid("say where to: --database sqlite:///incident.db")
    if program.app:
        raise ConfigurationInvalid("an import goes into a database, not into an app: leave out --app")
    with counting(program, "importing") as progress:
        done = import_events(
            path, program.database, environment=program.environment, public_key=public_key, progress=progress
        )
    if program.json:
        show.json_lines([asdict(done)])
        return
    there = f" ({done.found:,} were there)" if done.found else ""
    show.say(
        f"imported {show.counted(done.events, 'event')}{there} of {show.counted(done.runs, 'run')} "
        f"into environment {done.environment}"
    )
