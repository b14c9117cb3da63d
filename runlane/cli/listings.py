"""``runlane schedules`` and ``runlane queues``."""

from __future__ import annotations

import click

from runlane import cadence
from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.projections.schedules import ScheduleState


@click.command(short_help="Why a run does not run.")
@program_options
@click.argument("run", metavar="RUN")
@click.pass_obj
def why(program: Program, /, run: str) -> None:
    """Every reason why a run is not running now; with --app also limits of queues and unknown tasks."""
    reasons = program.started().runs.why(run)
    if program.json:
        show.json_lines({"reason": reason} for reason in reasons)
        return
    for reason in reasons:
        show.say(reason)


@click.command(short_help="The schedules, and when each fires next.")
@program_options
@click.pass_obj
def schedules(program: Program, /) -> None:
    """Every schedule of the environment, and when it fires next."""
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
                _cadence(schedule),
                _state(schedule),
                show.moment(schedule.next_at),
                show.moment(schedule.last_at),
                schedule.fired_count,
            )
            for schedule in found
        ],
        right=("fired",),
    )


def _cadence(schedule: ScheduleState) -> str:
    match cadence.from_json(schedule.cadence):
        case cadence.Once(at=at):
            return f"once at {show.moment(at)}"
        case cadence.Every(interval=interval):
            return f"every {show.span(interval)}"
        case cadence.Cron(expression=expression, zone=zone):
            return f"cron {expression} ({zone})"


def _state(schedule: ScheduleState) -> str:
    if schedule.removed:
        return "removed"
    if schedule.paused:
        return "paused"
    return "active" if schedule.enabled else "disabled"


@click.command(short_help="How many runs are in each status on each queue.")
@program_options
@click.pass_obj
def queues(program: Program, /) -> None:
    """How many runs are in each status on each queue; reads every run of the environment."""
    found = [queue for queue in program.started().queues.list() if queue.runs or not program.database]
    rows = [{"queue": queue.name, **{status.value: number for status, number in queue.runs.items()}} for queue in found]
    if program.json:
        show.json_lines(rows)
        return
    if not rows:
        show.say("no run is stored")
        return
    statuses = [status for status in _ORDER if any(row.get(status) for row in rows)]
    show.table(
        ("queue", *statuses), [[row["queue"], *[row.get(s, 0) for s in statuses]] for row in rows], right=statuses
    )


_ORDER = (
    "queued",
    "scheduled",
    "running",
    "released",
    "retrying",
    "cancellation_requested",
    "succeeded",
    "failed",
    "cancelled",
)
