"""``runlane migrate``, ``worker``, ``tick`` and ``trigger``."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click
import orjson
from attrs import asdict

from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.cli.progress import drain_progress
from runlane.errors import PayloadInvalid
from runlane.tasks import Queue
from runlane.values import Actor, identifier


@click.command(short_help="Create or upgrade the tables.")
@program_options
@click.pass_obj
def migrate(program: Program, /) -> None:
    """Create or upgrade the tables; harmless when they are there already."""
    app = program.runtime()
    version = app.migrate()
    if program.json:
        show.json_lines([{"schema_version": version}])
    else:
        show.say(f"the tables are there, schema version {version}")


@click.command(short_help="Execute runs until stopped, or until nothing is due.")
@program_options
@click.option("--drain", is_flag=True, help="End when nothing is due.")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only this queue; repeatable.")
@click.option("--concurrency", default=10, show_default=True, help="The greatest number of attempts at once.")
@click.option("--no-maintenance", is_flag=True, help="Leave recovery and schedules to other workers.")
@click.option("--poll-interval", default=1.0, show_default=True, help="Seconds between looks when nothing is due.")
@click.pass_obj
def worker(
    program: Program,
    /,
    drain: bool,
    queues: tuple[str, ...],
    concurrency: int,
    no_maintenance: bool,
    poll_interval: float,
) -> None:
    """Execute runs until stopped: once with Ctrl-C or SIGTERM gracefully, twice at once."""
    app = program.started(tasks=True)
    made = app.worker(
        mode="drain" if drain else "poll",
        queues=[_queue(app.registry.queues, name) for name in queues] or None,
        concurrency=concurrency,
        maintenance=not no_maintenance,
        poll_interval=poll_interval,
    )
    _log(program)
    if drain:
        with drain_progress(app, made):
            made.run()
    else:
        made.run()
    if program.json:
        show.json_lines([{"attempts": made.completed}])
    else:
        show.say(show.counted(made.completed, "attempt"))


def _queue(known: Any, name: str) -> Queue:
    if name not in known:
        raise click.UsageError(f"there is no queue {name!r}; known are {', '.join(sorted(known))}")
    queue: Queue = known[name]
    return queue


def _log(program: Program) -> None:
    logging.basicConfig(
        level=logging.DEBUG if program.debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


@click.command(short_help="One maintenance pass.")
@program_options
@click.pass_obj
def tick(program: Program, /) -> None:
    """One maintenance pass: recover lost runs, make the runs of due schedules."""
    app = program.started(tasks=True)
    report = app.tick()
    if program.json:
        show.json_lines([asdict(report)])
    else:
        counts: tuple[tuple[int, str, str], ...] = (
            (report.sessions_expired, "session", "expired"),
            (report.runs_recovered, "run", "recovered"),
            (report.cancellations_finalized, "cancellation", "finalized"),
            (report.schedules_changed, "schedule", "changed"),
            (report.schedules_fired, "schedule", "fired"),
        )
        if app.lane.delivers:
            counts += (
                (report.reservations_expired, "reservation", "expired"),
                (report.deliveries_requested, "delivery request", "made"),
                (report.slots_reserved, "slot", "reserved"),
                (report.wakeups_published, "wakeup", "published"),
                (report.wakeups_failed, "wakeup", "failed"),
                (report.wakeups_dead_lettered, "wakeup", "given up"),
            )
        done = ", ".join(f"{show.counted(number, what)} {how}" for number, what, how in counts)
        show.say(done + ("; more waits" if report.more else ""))
    for error in report.errors:
        show.complain(error)
    if report.errors:
        raise click.exceptions.Exit(1)


@click.command(short_help="Create a run.")
@program_options
@click.argument("task", metavar="TASK")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--queue", metavar="NAME", help="Instead of the task's queue.")
@click.option("--idempotency-key", metavar="KEY")
@click.option("--idempotency-ttl", metavar="DURATION", help='Such as 30d, or "active".')
@click.option("--priority", type=int, help="-32768 to 32767, higher first.")
@click.option("--delay", metavar="DURATION", help="Such as 10m.")
@click.option("--correlation-id", metavar="TEXT")
@click.option("--actor", default="cli", show_default=True, metavar="NAME", help="Who asks; an operator's name.")
@click.pass_obj
def trigger(program: Program, /, task: str, payload: str | None, queue: str | None, actor: str, **options: Any) -> None:
    """Create a run of TASK with a payload given as JSON ("-" reads it from standard input)."""
    app = program.started(tasks=True)
    text = sys.stdin.read() if payload == "-" else payload
    try:
        value = None if text is None else orjson.loads(text)
    except ValueError as error:
        raise PayloadInvalid(f"the payload is no JSON: {error}") from None
    found = app.trigger(
        task,
        value,
        queue=None if queue is None else _queue(app.registry.queues, queue),
        actor=Actor.operator(identifier("actor", actor)),
        **options,
    )
    if program.json:
        show.json_lines([{"outcome": found.outcome, "run": show.run_row(found.run)}])
    else:
        show.say(f"{found.run.id}  {found.outcome}  {found.run.status}")
