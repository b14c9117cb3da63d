"""The command line: ``runlane`` and ``python -m runlane``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from runlane.cli import (
    archives,
    audit,
    checkpoints,
    completion,
    demo,
    dev,
    doctor,
    exports,
    follow,
    operate,
    privacy,
    prune,
    queues,
    rebuild,
    runs,
    schedules,
    simulate,
    travel,
    work,
)
from runlane.cli.program import Program, program_options
from runlane.cli.show import complain, forsake, lost, unwritten, write
from runlane.errors import ConfigurationInvalid, RunlaneError

#: Exit codes.
FINE, FOUND, USAGE, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="runlane", message="runlane %(version)s")
@program_options
def cli() -> None:
    """Durable runs on PostgreSQL or SQLite: work, look, check.

    Name the program whose tasks you mean with --app (or RUNLANE_APP, or "app" under [tool.runlane] in
    pyproject.toml); for commands that need no tasks --database is enough.
    """


for command in (
    work.migrate,
    work.worker,
    dev.dev,
    work.tick,
    work.trigger,
    runs.runs,
    operate.keys,
    runs.why,
    schedules.schedules,
    queues.queues,
    audit.audit,
    follow.follow,
    follow.projections,
    doctor.doctor,
    demo.demo,
    completion.completion,
):
    cli.add_command(command)
runs.runs.add_command(prune.prune)
for command in (
    travel.as_of,
    travel.diff,
    travel.timeline,
    travel.who,
    checkpoints.checkpoint,
    checkpoints.prove,
    checkpoints.check_proof,
    rebuild.repair,
    rebuild.rebuild,
    exports.export,
    exports.replay_,
    exports.import_,
    exports.fixture,
    simulate.simulate,
    privacy.erase,
    privacy.rewrap,
    archives.archives,
):
    audit.audit.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all is well, 1 if something was found or failed, 2 for wrong usage."""
    asked = os.environ.get(completion.VARIABLE)
    if asked is not None:
        sys.exit(completion.answer(cli, asked))
    program = Program()
    unwritten.clear()
    code = _run(program, list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(FOUND if code == FINE and unwritten.is_set() else code)


def _run(program: Program, arguments: list[str]) -> int:
    try:
        with cli.make_context("runlane", arguments, obj=program) as context:
            return int(cli.invoke(context) or FINE)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            write(error.message, err=True)
        else:
            complain(error.format_message(), error.ctx.command_path + " --help" if error.ctx else None)
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # as with `runlane follow | head`
        forsake(sys.stdout)
        return FINE
    except Exception as error:
        if isinstance(error, OSError) and lost(error):
            return FOUND
        if program.debug:
            raise
        if not isinstance(error, RunlaneError):
            complain(f"internal error: {type(error).__name__}: {error} (--debug shows where)")
            return FOUND
        complain(error.message)
        return USAGE if isinstance(error, ConfigurationInvalid) else FOUND
    finally:
        program.close()
