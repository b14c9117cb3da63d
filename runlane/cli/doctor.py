"""``runlane doctor``: how the database is, in one table and one exit code."""

from __future__ import annotations

import click
from attrs import asdict

from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.errors import RunlaneError
from runlane.health import Check, Diagnosis, Health

#: The exit code of who could not look, as monitors of the Nagios kind know it.
UNKNOWN = 3


@click.command(short_help="How the database is, and what to do about it.")
@program_options
@click.pass_obj
def doctor(program: Program, /) -> None:
    """Look at the database and at the work in it: every check, the worst first, with what to do.

    Only reads, and costs the same however much is stored.

    Exit code 0 if all is well, 1 on a warning, 2 on something critical, 3 if there was nothing to look at: the database
    is away, not migrated, or the wrong one.
    """
    try:
        found = program.runtime().doctor()
    except Exception as error:
        if program.debug or isinstance(error, click.ClickException):
            raise
        told = error.message if isinstance(error, RunlaneError) else f"{type(error).__name__}: {error}"
        show.complain(f"could not be looked at: {told}")
        raise click.exceptions.Exit(UNKNOWN) from error
    if program.json:
        show.json_lines(asdict(check) for check in found.checks)
    else:
        _show(found)
    raise click.exceptions.Exit(found.exit_code)


def _show(found: Diagnosis) -> None:
    checks = sorted(found.checks, key=lambda check: -check.status.code)
    show.table(("status", "check", "found"), [(check.status, check.name, _told(check)) for check in checks])
    counts = [(len(found.of(status)), status) for status in reversed(Health)]
    summed = ", ".join(f"{number} {status}" for number, status in counts if number)
    show.say(f"{found.database}, environment {found.environment}: {summed}")


def _told(check: Check) -> str:
    return check.found if check.advice is None else f"{check.found}\n→ {check.advice}"
