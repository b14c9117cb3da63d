"""``runlane audit checkpoint|prove|check-proof``: sealing the log, and proving what it held."""

from __future__ import annotations

from pathlib import Path

import click

from runlane import sealing
from runlane.checkpoints import Checkpoint
from runlane.cli import show
from runlane.cli.options import actor_option, operator
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid
from runlane.proofs import Checked
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


@click.command(short_help="Prove that a run is among what a checkpoint has sealed.")
@program_options
@click.argument("run", metavar="RUN")
@click.option("--event", type=click.IntRange(min=1), metavar="#", help="From this event on (default: all of the run).")
@click.option("--out", type=_NEW_FILE, metavar="FILE", help="Where to, instead of standard output; a new file.")
@click.pass_obj
def prove(program: Program, /, run: str, event: int | None, out: Path | None) -> None:
    """Write a proof that the events of a run are among those that a checkpoint has sealed.

    It holds their facts, payload and result too.  Whoever has the checkpoint, or the key that signs it, can check it
    with `audit check-proof`, or with what the documentation says, without Runlane and without a database.
    """
    proof = program.started().audit.prove(run, event)
    if out is None:
        show.write(proof.dumps(), nl=False)
        return
    write_new(out, proof.dumps())
    events = {"events": len(proof.events), "checkpoint": proof.checkpoint.number}
    if program.json:
        show.json_lines([{"path": str(out), **events}])
    else:
        show.say(f"wrote {out}: {show.counted(len(proof.events), 'event')}, by checkpoint {proof.checkpoint.number}")


@click.command("check-proof", short_help="Check a proof, without a database.")
@program_options
@click.argument("path", type=_FILE, metavar="FILE")
@click.option("--key", "keys", multiple=True, type=_FILE, help="A public key (PEM) that signs checkpoints; repeatable.")
@click.option("--checkpoint", "kept", multiple=True, type=_FILE, help="A checkpoint kept elsewhere; repeatable.")
@click.pass_obj
def check_proof(program: Program, /, path: Path, keys: tuple[Path, ...], kept: tuple[Path, ...]) -> None:
    """Check a proof that `audit prove` has written; needs no database.

    Exit code 0 if it holds, 1 if not, 2 if it could not be checked.  Give the key, or the checkpoint that was kept:
    without one of them it only shows that the proof agrees with itself.
    """
    found = sealing.check_proof(path, key=keys, checkpoints=kept)
    proof = found.proof
    span = (proof.events[0].sequence, proof.events[-1].sequence) if proof.events else (0, 0)
    if program.json:
        told = {"run": proof.stream_id, "from": span[0], "to": span[1], "checkpoint": proof.checkpoint.number}
        verdict = {"holds": found.holds, "problems": found.problems, "signed": found.signed, "kept": found.kept}
        show.json_lines([told | verdict])
    else:
        for problem in found.problems:
            show.say(problem)
        _say_verdict(found, f"events {span[0]} to {span[1]} of run {proof.stream_id}")
    if not found.holds:
        raise click.exceptions.Exit(1)


def _say_verdict(found: Checked, what: str) -> None:
    if not found.holds:
        show.say(f"NOT proved: {what}")
        return
    trust = [name for name, is_so in (("signed", found.signed), ("kept elsewhere", found.kept)) if is_so]
    by = f"checkpoint {found.proof.checkpoint.number} of environment {found.proof.checkpoint.environment}"
    show.say(f"proved: {what}, by {by}, which is {' and '.join(trust) or 'not checked itself'}")


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
