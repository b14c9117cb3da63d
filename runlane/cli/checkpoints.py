"""``runlane audit checkpoint``: sealing the log."""

from __future__ import annotations

from pathlib import Path

import click

from runlane.checkpoints import Checkpoint
from runlane.cli import show
from runlane.cli.options import actor_option, operator
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid
from runlane.sealing import PATIENCE

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Seal what has happened since the last checkpoint.")
@program_options
@click.option("--sign", type=_FILE, metavar="KEY.pem", help="Sign it with this Ed25519 private key.")
@click.option(
    "--out", type=_NEW_FILE, metavar="FILE", help="Write its statement there; a new file, to be kept elsewhere."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=PATIENCE,
    show_default=True,
    help="Seconds to wait for open writes.",
)
@actor_option
@click.pass_obj
def checkpoint(program: Program, /, sign: Path | None, out: Path | None, timeout: float, actor: str) -> None:
    """Seal all that has happened in the environment since the last checkpoint, and append that to the log.

    Where nothing has happened since, none is made, and --out writes the last one.  Keep that file where nobody who can
    write to the database can change it: `audit verify --checkpoint FILE` finds any later change of what it sealed.
    """
    if out is not None and out.exists():
        raise ConfigurationInvalid(f"{out} exists already")
    made = program.started().audit.checkpoint(sign, actor=operator(actor), timeout=timeout)
    if out is not None and made.checkpoint is not None:
        write_new(out, made.checkpoint.dumps())
    if program.json:
        show.json_lines([{"new": made.new, "checkpoint": made.checkpoint and made.checkpoint.content()}])
    elif made.checkpoint is None:
        show.say("nothing to seal: the log is empty")
    elif made.new:
        show.say(f"made {_told(made.checkpoint)}")
    else:
        show.say(f"nothing new: the last one is {_told(made.checkpoint)}")


def _told(one: Checkpoint) -> str:
    stretch = f"positions {one.from_position + 1} to {one.to_position}, {show.counted(one.leaves, 'stream')}"
    return f"checkpoint {one.number}: {stretch}, root {one.root}" + (", signed" if one.signature else "")


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        ConfigurationInvalid: it is, or it cannot be written.
    """
    try:
        with path.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise ConfigurationInvalid(f"{path} cannot be written: {error.strerror or error}") from error
