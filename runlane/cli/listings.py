"""``runlane schedules``."""

from __future__ import annotations

import click

from runlane import cadence
from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.projections.schedules import ScheduleState


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
