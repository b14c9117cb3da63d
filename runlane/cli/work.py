"""``runlane migrate``, ``worker``, ``tick`` and ``trigger``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from attrs import asdict

from runlane.cli import completion, show
from runlane.cli.options import Moment, actor_option, operator, queue_named, queues_named
from runlane.cli.program import Program, program_options
from runlane.cli.progress import drain_progress
from runlane.errors import ConfigurationInvalid, PayloadInvalid, RunlaneError
from runlane.shown import shown


@click.command(short_help="Create or upgrade the tables.")
@program_options
@click.option("--roles", is_flag=True, help="PostgreSQL: the roles of least privilege as well, with their grants.")
@click.option("--role-prefix", metavar="NAME", help="What their names begin with (default: the schema's name).")
@click.pass_obj
def migrate(program: Program, /, roles: bool, role_prefix: str | None) -> None:
    """Create or upgrade the tables; harmless when they are there already."""
    if role_prefix is not None and not roles:
        raise click.UsageError("--role-prefix needs --roles")
    app = program.runtime()
    version = app.migrate(roles=role_prefix if role_prefix is not None else roles)
    if program.json:
        show.json_lines([{"schema_version": version, "roles": roles}])
    else:
        show.say(f"the tables are there, schema version {version}" + (", and so are the roles" if roles else ""))


@click.command(short_help="Execute runs until stopped, or until nothing is due.")
@program_options
@click.option("--drain", is_flag=True, help="End when nothing is due.")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.queues,
    help="Only this queue; repeatable.",
)
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
        queues=queues_named(app, queues),
        concurrency=concurrency,
        maintenance=not no_maintenance,
        poll_interval=poll_interval,
    )
    program.log()
    if drain:
        with drain_progress(app, made):
            made.run()
    else:
        made.run()
    if program.json:
        show.json_lines([{"attempts": made.completed}])
    else:
        show.say(show.counted(made.completed, "attempt"))


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
@click.argument("task", metavar="TASK", shell_complete=completion.tasks)
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--queue", metavar="NAME", shell_complete=completion.queues, help="Instead of the task's queue.")
@click.option("--idempotency-key", metavar="KEY", help="A run that has it already is given instead of a new one.")
@click.option("--idempotency-ttl", metavar="DURATION", help='How long the key is kept: such as 30d, or "active".')
@click.option("--singleton-key", metavar="KEY", help="An active run that has it is given instead of a new one.")
@click.option("--concurrency-key", metavar="KEY", help="What it counts under on a queue with a limit.")
@click.option("--priority", type=int, help="-32768 to 32767, higher first.")
@click.option("--delay", metavar="DURATION", help="It starts that much later, such as 10m.")
@click.option("--run-at", type=Moment(), help="It does not start before; UTC unless it says otherwise.")
@click.option("--run-id", metavar="UUID", help="Its id; it must be new.")
@click.option("--correlation-id", metavar="TEXT", help="A reference of yours; runs can be listed by it.")
@click.option("--meta", metavar="JSON", help="An object to keep with it.")
@click.option("--subject", metavar="KEY", help="Whom the payload is about: what it can be erased by.")
@actor_option
@click.pass_obj
def trigger(
    program: Program,
    /,
    task: str,
    payload: str | None,
    queue: str | None,
    actor: str,
    meta: str | None,
    **options: Any,
) -> None:
    """Create a run of TASK with a payload given as JSON ("-" reads it from standard input)."""
    app = program.started(tasks=True)
    found = app.trigger(
        task,
        _json("payload", _typed() if payload == "-" else payload, PayloadInvalid),
        queue=None if queue is None else queue_named(app, queue),
        actor=operator(actor),
        meta=_json("meta", meta, ConfigurationInvalid),
        **options,
    )
    if program.json:
        show.json_lines([{"outcome": found.outcome, "run": show.run_row(found.run)}])
    else:
        show.say(f"{found.run.id}  {found.outcome}  {found.run.status}")


def _typed() -> str:
    if sys.stdin is None:
        raise PayloadInvalid("the payload cannot be read: standard input is closed")
    try:
        return sys.stdin.read()
    except ValueError:
        raise PayloadInvalid("the payload on standard input is no text in UTF-8") from None


def _json(what: str, text: str | None, refusal: type[RunlaneError]) -> Any:
    """The value of a JSON text; with all digits of its numbers, so that none is stored as another one.

    Raises:
        RunlaneError: of the class `refusal`: it is no JSON, or says something twice.
    """
    if text is None:
        return None
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise refusal(f"the {what} is no JSON: {error}") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} comes twice")
    return found
