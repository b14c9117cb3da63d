"""``runlane queues``: what waits on each queue, pausing one and letting it go on."""

from __future__ import annotations

from typing import Any

import click

from runlane.cli import completion, show
from runlane.cli.options import actor_option, operator, reason_option
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid
from runlane.reading import QueueState
from runlane.values import RunStatus

_STATUSES = [status.value for status in RunStatus]


@click.group(invoke_without_command=True, short_help="Look at queues, pause them, let them go on.")
@program_options
@click.pass_context
def queues(context: click.Context, /) -> None:
    """Look at queues, pause them, let them go on; without a command, list them."""
    if context.invoked_subcommand is None:
        _list(context.ensure_object(Program))


@queues.command("list", short_help="How many runs are in each status on each queue.")
@program_options
@click.pass_obj
def list_(program: Program, /) -> None:
    """How many runs are in each status on each queue, and what is paused; reads every run of the environment."""
    _list(program)


@queues.command(short_help="Let no worker claim from a queue.")
@program_options
@click.argument("queue", metavar="QUEUE", shell_complete=completion.queues)
@actor_option
@reason_option
@click.pass_obj
def pause(program: Program, /, queue: str, actor: str, reason: str | None) -> None:
    """Let no worker claim from QUEUE, from its next poll on; attempts under way go on."""
    app = program.started()
    _known(program, queue)
    control = app.queues.pause(queue, reason=reason, actor=operator(actor))
    _report(program, queue, control is not None and control.paused)


@queues.command()
@program_options
@click.argument("queue", metavar="QUEUE", shell_complete=completion.queues)
@actor_option
@reason_option
@click.pass_obj
def resume(program: Program, /, queue: str, actor: str, reason: str | None) -> None:
    """Let workers claim from QUEUE again."""
    app = program.started()
    _known(program, queue)
    control = app.queues.resume(queue, reason=reason, actor=operator(actor))
    _report(program, queue, control is not None and control.paused)


def _known(program: Program, queue: str) -> None:
    """Refuse a name that the program does not know: to pause it would look like success and change nothing."""
    names = program.runtime().registry.queues
    if not program.database and queue not in names:
        stored = [state.name for state in program.runtime().queues.list()]
        if queue not in stored:
            raise ConfigurationInvalid(f"there is no queue {queue!r}; known are {', '.join(sorted({*names, *stored}))}")


def _report(program: Program, queue: str, paused: bool) -> None:
    if program.json:
        show.json_lines([{"queue": queue, "paused": paused}])
    else:
        show.say(f"queue {queue} is paused" if paused else f"queue {queue} is open")


def _list(program: Program) -> None:
    # With a bare database the registered queue is not the operator's.
    states = program.started().queues.list()
    found = [state for state in states if state.runs or state.control is not None or not program.database]
    if program.json:
        show.json_lines(_row(state) for state in found)
        return
    if not found:
        show.say("no run is stored")
        return
    statuses = [status for status in _STATUSES if any(state.runs.get(RunStatus(status)) for state in found)]
    slots = ["slots"] if any(state.concurrency_limit is not None for state in found) else []
    paused = ["paused", "by", "reason"] if any(state.paused for state in found) else []
    show.table(
        ("queue", *statuses, *slots, *paused),
        [
            [
                state.name,
                *[state.runs.get(RunStatus(status), 0) for status in statuses],
                *[_slots(state)][: len(slots)],
                *_pause(state)[: len(paused)],
            ]
            for state in found
        ],
        right=[*statuses, *slots],
    )


def _row(state: QueueState) -> dict[str, Any]:
    """A queue for programs; what does not apply to it is left out."""
    row: dict[str, Any] = {"queue": state.name, **{status.value: number for status, number in state.runs.items()}}
    if state.concurrency_limit is not None:
        row |= {"concurrency_limit": state.concurrency_limit, "occupied": state.occupied, "reserved": state.reserved}
    if state.control is not None and state.paused:
        control = state.control
        row |= {"paused": True, "since": control.updated_at, "actor": control.actor, "reason": control.reason}
    return row


def _slots(state: QueueState) -> str | None:
    """Occupied slots over all keys, and the limit of each key."""
    if state.concurrency_limit is None:
        return None
    reserved = f", {state.reserved} reserved" if state.reserved else ""
    return f"{state.occupied} (limit {state.concurrency_limit}{reserved})"


def _pause(state: QueueState) -> list[str | None]:
    control = state.control
    if control is None or not control.paused:
        return [None, None, None]
    return [show.moment(control.updated_at), control.actor, control.reason]
