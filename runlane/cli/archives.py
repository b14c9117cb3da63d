"""``runlane audit archives``: whether archives of pruned runs are what the log tells of them."""

from __future__ import annotations

from pathlib import Path

import click
from attrs import asdict

from runlane.cli import show
from runlane.cli.exports import counting, public_key_option
from runlane.cli.program import Program, program_options
from runlane.export import Archives


@click.command(short_help="Check archives of pruned runs against the log.")
@program_options
@click.argument("path", type=click.Path(path_type=Path))
@public_key_option
@click.pass_obj
def archives(program: Program, /, path: Path, public_key: Path | None) -> None:
    """Check a folder of archives (runs prune --archive), or one of them, against what the log tells of them.

    Exit code 0 if every archive that the log tells of is there, intact, and of exactly the runs that were removed (of
    one file: if it is such an archive); 1 if not, 2 if it could not be checked.
    """
    with counting(program, "checking", "archives") as progress:
        found = program.started().audit.archives(path, public_key=public_key, progress=progress)
    _report(program, found)
    if not found.intact:
        raise click.exceptions.Exit(1)


def _report(program: Program, found: Archives) -> None:
    if program.json:
        show.json_lines(
            [{**asdict(one), "path": one.path and str(one.path), "actor": one.actor.text} for one in found.kept]
        )
        ended = {"archives": len(found.kept), "intact": found.intact, "unarchived_runs": found.unarchived}
        show.json_lines([{**ended, "untold": [str(file) for file in found.untold]}])
        return
    wrong = [(one.digest[:16] + "…", problem) for one in found.kept for problem in one.problems]
    if wrong:
        show.table(("archive", "what is wrong"), wrong)
    bad = sum(bool(one.problems) for one in found.kept)
    verdict = "archives intact" if found.intact else f"{show.counted(bad, 'archive')} not as the log tells"
    if found.alone and found.untold:
        verdict = "no archive of this log"
    counts = ((len(found.kept), "archive"), (sum(one.runs for one in found.kept), "run"))
    show.say(f"{verdict}: {', '.join(show.counted(number, what) for number, what in counts)}")
    if found.unarchived:
        show.say(f"{show.counted(found.unarchived, 'run')} pruned without an archive")
    for file in found.untold:
        show.say(f"the log does not tell of {file}")
