"""``runlane follow`` and ``runlane projections``: the log as it grows, and the tables that are folded from it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from runlane import codec
from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.events import Recorded
from runlane.projecting import ProjectionState


@click.command(short_help="Show events as they are committed.")
@program_options
@click.option(
    "--cursor",
    default="end",
    show_default=True,
    metavar="CURSOR",
    help="Where to begin: start, end, a cursor, or name:NAME, which is moved behind what was shown.",
)
@click.option("--types", metavar="TYPE,…", help="Only events of these types, such as run.failed,run.succeeded.")
@click.option("--once", is_flag=True, help="End behind what is there now instead of waiting for more.")
@click.pass_obj
def follow(program: Program, /, cursor: str, types: str | None, once: bool) -> None:
    """Show the events of the environment in the order of the log, each once, until you stop it with Ctrl-C.

    With --json each line is an event, and says the cursor behind it: give it to --cursor to go on from there.
    """
    app = program.started()
    wanted = None if types is None else [name.strip() for name in types.split(",")]
    with until_interrupted() as stop:
        follower = app.follow(cursor, types=wanted, stop=stop, poll=None if once else 0.5)
        for batch in follower:
            for record in batch:
                # Not by `show.write`: it ends when nobody reads, and its cursor stays before what nobody saw.
                click.echo(_json(record, batch.cursor_behind(record)) if program.json else _line(record))
            if follower.name is not None:
                batch.commit()
        follower.settle()


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come; the second one interrupts, as usual."""
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(record: Recorded) -> str:
    kind, _ = codec.STORED_AS[type(record.event)]
    at = record.occurred_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
    return show.sentence(f"{at}  {record.stream_id}  {record.sequence:>3}  {kind:<30}  {record.actor.text}")


def _json(record: Recorded, cursor: str) -> str:
    return show.json_line({**show.event_row(record), "cursor": cursor})


@click.group()
@program_options
def projections() -> None:
    """Tables folded from the log by the program's projections."""


@projections.command("list", short_help="The projections, and how far they have come.")
@program_options
@click.pass_obj
def list_(program: Program, /) -> None:
    """The program's projections and those that have run here, and how far each has come."""
    found = program.started().projections.list()
    if program.json:
        show.json_lines([_state(one) for one in found])
        return
    if not found:
        show.say("no projections: give them to Runlane(…, projections=[…])")
        return
    show.table(
        ("name", "version", "stored", "behind", "updated", "note"),
        [
            (
                one.name,
                one.version,
                one.stored_version,
                one.behind,
                show.moment(one.updated_at),
                _note(one),
            )
            for one in found
        ],
        right=("version", "stored", "behind"),
    )


def _note(one: ProjectionState) -> str:
    if one.is_outdated:
        return "rebuild it"
    if one.is_inline:
        return "inline" if one.becomes_inline else "inline, but not in this program"
    return "not inline yet: run it" if one.becomes_inline else ""


def _state(one: ProjectionState) -> dict[str, Any]:
    return {
        "name": one.name,
        "version": one.version,
        "stored_version": one.stored_version,
        "cursor": one.cursor,
        "updated_at": one.updated_at,
        "behind": one.behind,
        "outdated": one.is_outdated,
        "inline": one.is_inline,
    }


@projections.command(short_help="Keep a projection up to date.")
@program_options
@click.argument("name")
@click.option("--once", is_flag=True, help="End when it is up to date.")
@click.pass_obj
def run(program: Program, /, name: str, once: bool) -> None:
    """Fold the log into a projection's tables as it grows, until you stop it with Ctrl-C.

    One of the program's inline projections is made inline, and that is all.
    """
    app = program.runtime(tasks=True).start()
    with until_interrupted() as stop:
        _report(program, name, app.project(name, stop=stop, poll=None if once else 0.5))


@projections.command(short_help="Empty a projection and fold the whole log again.")
@program_options
@click.argument("name")
@click.pass_obj
def rebuild(program: Program, /, name: str) -> None:
    """Empty a projection's tables and fold the whole log again, after its version has grown or whenever you doubt it.

    Stopped with Ctrl-C it goes on with the next ``run``.
    """
    app = program.runtime(tasks=True).start()
    with until_interrupted() as stop:
        _report(program, name, app.projections.rebuild(name, stop=stop))


@projections.command(short_help="Forget a projection, inline or not.")
@program_options
@click.argument("name")
@click.pass_obj
def remove(program: Program, /, name: str) -> None:
    """Have nobody fold a projection any more; its tables stay as they are.

    It ends an inline projection that the program has no longer, and by which it is refused.
    """
    program.started().projections.remove(name)
    if program.json:
        show.json_lines([{"name": name, "removed": True}])
    else:
        show.say(f"{name}: forgotten; its tables are as they were")


def _report(program: Program, name: str, events: int) -> None:
    if program.json:
        show.json_lines([{"name": name, "events": events}])
    else:
        show.say(f"{name}: {show.counted(events, 'event')} folded")
