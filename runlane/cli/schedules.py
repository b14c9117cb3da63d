"""``runlane schedules``: looking at schedules, and steering them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click

from runlane import cadence
from runlane.cli import completion, show
from runlane.cli.options import actor_option, operator, reason_option
from runlane.cli.program import Program, program_options
from runlane.projections.occurrences import Occurrence
from runlane.projections.schedules import ScheduleState

_SCHEDULE = click.argument("schedule", metavar="SCHEDULE", shell_complete=completion.schedules)


@click.group(invoke_without_command=True, short_help="The schedules: when each fires, pause, resume, trigger.")
@program_options
@click.pass_context
def schedules(context: click.Context, /) -> None:
    """The schedules of the environment; without a command, a list of them."""
    if context.invoked_subcommand is None:
        _list(context.ensure_object(Program))


@schedules.command("list")
@program_options
@click.pass_obj
def list_(program: Program, /) -> None:
    """Every schedule of the environment, and when it fires next."""
    _list(program)


def _list(program: Program) -> None:
    found = program.started().schedules.list()
    if program.json:
        show.json_lines(show.schedule_row(schedule) for schedule in found)
        return
    if not found:
        show.say("no schedule is registered")
        return
    show.table(
        ("id", "task", "cadence", "state", "next", "last", "fired"),
        [
            (
                schedule.schedule_id,
                schedule.task_id,
                show.cadence_text(cadence.from_json(schedule.cadence)),
                _state(schedule),
                show.moment(_next(schedule)),
                show.moment(schedule.last_at),
                schedule.fired_count,
            )
            for schedule in found
        ],
        right=("fired",),
        spare=("last", "task"),
    )


@schedules.command()
@program_options
@_SCHEDULE
@click.option("--limit", default=10, show_default=True, help="Occurrences to tell, 1 to 500.")
@click.pass_obj
def get(program: Program, /, schedule: str, limit: int) -> None:
    """One schedule, and what became of its last occurrences."""
    operations = program.started().schedules
    found, told = operations.get(schedule), operations.occurrences(schedule, limit=limit)
    if program.json:
        rows = [show.occurrence_row(occurrence) for occurrence in told]
        show.json_lines([{**show.schedule_row(found), "occurrences": rows}])
        return
    show.details(_facts(found))
    if told:
        show.say("")
        show.table(
            ("scheduled for", "outcome", "decided", "run", "collapsed", "by", "reason"),
            [_line(occurrence) for occurrence in told],
            right=("collapsed",),
            spare=("decided", "by", "collapsed"),
        )


def _facts(found: ScheduleState) -> dict[str, object]:
    return {
        "schedule": found.schedule_id,
        "task": found.task_id,
        "queue": found.queue,
        "environment": found.environment,
        "cadence": show.cadence_text(cadence.from_json(found.cadence)),
        "state": _state(found),
        "payload": show.value(found.payload),
        "next": show.moment(_next(found)),
        "last": show.moment(found.last_at),
        "fired": show.counted(found.fired_count, "time"),
        "registered": show.moment(found.registered_at),
    }


def _line(occurrence: Occurrence) -> Sequence[object]:
    since = f"{occurrence.collapsed} since {show.moment(occurrence.collapsed_from)}" if occurrence.collapsed else ""
    return (
        show.moment(occurrence.scheduled_for),
        occurrence.outcome,
        show.moment(occurrence.decided_at),
        occurrence.run_id,
        since,
        occurrence.actor,
        occurrence.reason,
    )


@schedules.command()
@program_options
@_SCHEDULE
@actor_option
@reason_option
@click.pass_obj
def pause(program: Program, /, schedule: str, reason: str | None, actor: str) -> None:
    """Stop SCHEDULE from firing until it is resumed."""
    _told(program, program.started().schedules.pause(schedule, actor=operator(actor), reason=reason))


@schedules.command(short_help="Let a schedule go on after a pause.")
@program_options
@_SCHEDULE
@actor_option
@reason_option
@click.pass_obj
def resume(program: Program, /, schedule: str, reason: str | None, actor: str) -> None:
    """Let SCHEDULE go on with the next occurrence after now; those in between are skipped."""
    _told(program, program.started().schedules.resume(schedule, actor=operator(actor), reason=reason))


def _told(program: Program, found: ScheduleState) -> None:
    if program.json:
        show.json_lines([show.schedule_row(found)])
        return
    following = f"; next at {show.moment(found.next_at)}" if _next(found) else ""
    show.say(f"{found.schedule_id} is {_state(found)}{following}")


@schedules.command(short_help="Make a run of a schedule now, out of turn.")
@program_options
@_SCHEDULE
@actor_option
@click.pass_obj
def trigger(program: Program, /, schedule: str, actor: str) -> None:
    """Make a run of SCHEDULE now, out of turn; its occurrences stay as they are."""
    made = program.started(tasks=True).schedules.trigger(schedule, actor=operator(actor))
    if program.json:
        show.json_lines([{"outcome": made.outcome, "run": show.run_row(made.run)}])
    else:
        show.say(f"{made.run.id}  {made.outcome}  {made.run.status}")


@schedules.command(short_help="The next times of a schedule.")
@program_options
@_SCHEDULE
@click.option("--count", "-n", default=5, show_default=True, help="How many, 1 to 1000.")
@click.pass_obj
def preview(program: Program, /, schedule: str, count: int) -> None:
    """The next times of SCHEDULE, in UTC and as the clocks of its zone show them."""
    operations = program.started().schedules
    found, times = operations.get(schedule), operations.preview(schedule, count)
    rule = cadence.from_json(found.cadence)
    zone = ZoneInfo(rule.zone) if isinstance(rule, cadence.Cron) else UTC
    if program.json:
        show.json_lines({"at": at, "local": at.astimezone(zone)} for at in times)
    elif not times:
        show.say(f"{schedule} does not fire again")
    else:
        lines = [(show.moment(at), f"{at.astimezone(zone):%a %Y-%m-%d %H:%M:%S %z} {zone}") for at in times]
        show.table(("at", "local time"), lines)


def _next(schedule: ScheduleState) -> datetime | None:
    """When it fires next, as far as anybody knows: a paused schedule keeps an occurrence that it may never fire."""
    return None if schedule.paused else schedule.next_at


def _state(schedule: ScheduleState) -> str:
    if schedule.removed:
        return "removed"
    if schedule.paused:
        return "paused"
    return "active" if schedule.enabled else "disabled"
