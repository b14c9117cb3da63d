"""``runlane queues``."""

from __future__ import annotations

import click

from runlane.cli import show
from runlane.cli.program import Program, program_options


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
