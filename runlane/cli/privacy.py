"""``runlane audit erase`` and ``runlane audit rewrap``: the keys of encrypted payloads."""

from __future__ import annotations

import click
from attrs import asdict

from runlane.cli import show
from runlane.cli.options import actor_option, operator, reason_option
from runlane.cli.program import Program, program_options


@click.command(short_help="Make a subject's payloads unreadable, for good.")
@program_options
@click.option("--subject", metavar="KEY", required=True, help="As it was given when the runs were triggered.")
@actor_option
@reason_option
@click.pass_obj
def erase(program: Program, /, subject: str, actor: str, reason: str | None) -> None:
    """Destroy the data keys of a subject: its payloads and results cannot be read again, by anybody.

    The log stays valid.  Other processes may know a key for up to a minute.  To erase twice changes nothing.
    """
    done = program.started(tasks=True).audit.erase(subject, reason=reason, actor=operator(actor))
    if program.json:
        show.json_lines([asdict(done)])
    elif done.keys:
        show.say(f"erased: {show.counted(done.keys, 'data key')} destroyed ({done.fingerprint})")
    else:
        show.say(f"nothing left to erase: that was done at {show.moment(done.erased_at)} ({done.fingerprint})")


@click.command(short_help="Wrap all data keys by today's master key.")
@program_options
@click.pass_obj
def rewrap(program: Program) -> None:
    """Wrap every data key of the environment by the codec's first master key, so that older ones can go."""
    done = program.started(tasks=True).audit.rewrap()
    if program.json:
        show.json_lines([{"rewrapped": done}])
    else:
        show.say(f"wrapped anew: {show.counted(done, 'data key')}")
