"""``runlane runs``: looking at runs, and removing old ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from attrs import asdict

from runlane.app import Runlane
from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid
from runlane.jsontext import dumps
from runlane.projections.runs import Run
from runlane.projections.timeline import timeline
from runlane.pruning import DEFAULT_LIMIT as BATCH
from runlane.pruning import Pruned
from runlane.reading import DEFAULT_LIMIT
from runlane.values import TERMINAL, Actor, RunStatus, duration

F = TypeVar("F", bound=Callable[..., Any])
_STATUSES = [status.value for status in RunStatus]


@click.group()
def runs() -> None:
    """Look at runs, cancel them, run them again, remove old ones."""


class Instant(click.ParamType[datetime]):
    """An aware instant, or how long ago (``2h``)."""

    name = "TIME|AGO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """An instant of what was typed."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.now(UTC) - duration("age", value)
        except ConfigurationInvalid:
            pass
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither an instant like 2026-01-31T12:00:00Z nor an age like 2h", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


def filter_options(command: F) -> F:
    """The conditions on runs that ``list`` and the bulk operations share."""
    options = (
        click.option("--status", "statuses", multiple=True, type=click.Choice(_STATUSES), help="Repeatable."),
        click.option("--task", "tasks", multiple=True, metavar="ID", help="Repeatable."),
        click.option("--queue", "queues", multiple=True, metavar="NAME", help="Repeatable."),
        click.option("--correlation-id", metavar="TEXT"),
        click.option("--idempotency-key", metavar="KEY"),
        click.option("--singleton-key", metavar="KEY"),
        click.option("--concurrency-key", metavar="KEY"),
        click.option("--source-run", "source_run_id", metavar="RUN", help="Reruns and manual retries of this run."),
        click.option("--parent-run", "parent_run_id", metavar="RUN", help="Runs that this run's handler triggered."),
        click.option("--schedule", "schedule_id", metavar="ID", help="Runs that this schedule made."),
        click.option("--after", "created_after", type=Instant(), help="Created after an instant, or within an age."),
        click.option("--before", "created_before", type=Instant(), help="Created before."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def conditions_of(options: dict[str, Any]) -> dict[str, Any]:
    """The conditions that were given."""
    return {name: value for name, value in options.items() if value not in (None, ())}


class AgeOrInstant(Instant):
    """An age as it was typed, for the database's clock to subtract, or an aware instant."""

    name = "AGE|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The age or the instant of what was typed."""
        try:
            return duration("age", value) if isinstance(value, str) else value
        except ConfigurationInvalid:
            return super().convert(value, param, ctx)


@runs.command("list")
@program_options
@filter_options
@click.option("--oldest", is_flag=True, help="Oldest first (default: newest first).")
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, help="Runs on a page, 1 to 500.")
@click.option("--cursor", metavar="TEXT", help="Go on where the page before ended.")
@click.pass_obj
def list_(program: Program, /, oldest: bool, **conditions: Any) -> None:
    """A page of runs, newest first."""
    page = program.started().runs.list(order="oldest" if oldest else "newest", **conditions_of(conditions))
    if program.json:
        show.json_lines(show.run_row(run) for run in page.data)
        if page.next_cursor:
            show.json_lines([{"next_cursor": page.next_cursor}])
        return
    show.table(
        ("id", "task", "status", "queue", "attempts", "created", "due", "note"),
        [_line(run) for run in page.data],
        right=("attempts",),
    )
    if not page.data:
        show.say("no run matches")
    if page.next_cursor:
        show.say(f"\nmore: add --cursor {page.next_cursor}")


def _line(run: Run) -> tuple[object, ...]:
    note = run.failure.message if run.failure else (run.lease.worker_id if run.lease else "")
    first_line = (note.splitlines() or [""])[0]
    due = show.moment(run.due_at) if run.status in ("scheduled", "released", "retrying") else ""
    return (
        run.id,
        run.task_id,
        run.status,
        run.queue,
        run.attempt_count,
        show.moment(run.created_at),
        due,
        first_line[:60],
    )


@runs.command()
@program_options
@click.argument("run", metavar="RUN")
@click.pass_obj
def get(program: Program, /, run: str) -> None:
    """One run, with everything that is known of it."""
    found = program.started().runs.get(run)
    if program.json:
        show.json_lines([show.run_row(found)])
        return
    show.details(_facts(found))
    if found.failure is not None and found.failure.traceback:
        show.say("\n" + found.failure.traceback.rstrip())


def _facts(found: Run) -> dict[str, object]:
    source, lease, key = found.source, found.lease, found.idempotency_key
    origin = [source.type, source.schedule_id, f"in run {source.parent_run_id}" if source.parent_run_id else None]
    return {
        "run": found.id,
        "task": found.task_id,
        "status": found.status,
        "queue": found.queue,
        "priority": found.priority,
        "environment": found.environment,
        "source": " ".join(part for part in origin if part),
        "payload": dumps(found.payload),
        "result": None if found.result is None else dumps(found.result),
        "created": show.moment(found.created_at),
        "due": show.moment(found.due_at),
        "started": show.moment(found.started_at),
        "finished": show.moment(found.finished_at),
        "attempts": f"{found.attempt_count} ({found.failure_count} failed, {found.release_count} released, "
        f"{found.lost_count} lost)",
        "lease": None if lease is None else f"{lease.worker_id}, since {show.moment(lease.leased_at)}",
        "idempotency key": None if key is None else f"{key} (kept for {found.idempotency_ttl})",
        "correlation id": found.correlation_id,
        "meta": dumps(found.meta) if found.meta else None,
        "failure": None if found.failure is None else f"{found.failure.code}: {found.failure.message}",
    }


@runs.command()
@program_options
@click.argument("run", metavar="RUN")
@click.pass_obj
def events(program: Program, /, run: str) -> None:
    """The history of a run, an event a line."""
    found = program.started().runs.events(run)
    if program.json:
        show.json_lines(show.event_row(record) for record in found)
        return
    show.table(
        ("#", "at", "after", "event", "what happened"),
        [
            (
                moment.sequence,
                show.moment(moment.at),
                show.span(moment.since_start),
                show.event_row(record)["type"],
                moment.text,
            )
            for record, moment in zip(found, timeline(found), strict=True)
        ],
        right=("#", "after"),
    )


@runs.command()
@program_options
@click.argument("run", metavar="RUN")
@click.pass_obj
def attempts(program: Program, /, run: str) -> None:
    """Who tried to execute a run, from when to when, and how it ended."""
    found = program.started().runs.attempts(run)
    if program.json:
        show.json_lines(show.attempt_row(attempt) for attempt in found)
        return
    if not found:
        show.say("no attempt yet")
        return
    show.table(
        ("#", "outcome", "started", "took", "worker", "failure"),
        [
            (
                attempt.number,
                attempt.outcome,
                show.moment(attempt.started_at),
                show.span(None if attempt.finished_at is None else attempt.finished_at - attempt.started_at),
                attempt.worker_id,
                "" if attempt.failure is None else f"{attempt.failure.code}: {attempt.failure.message}",
            )
            for attempt in found
        ],
        right=("#", "took"),
    )


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


def _prune_all(app: Runlane, older_than: timedelta | datetime, limit: int | None, options: dict[str, Any]) -> Pruned:
    """Prune in batches, all under the cutoff of the first."""
    total: Pruned | None = None
    while total is None or (total.more and (limit is None or total.runs < limit)):
        batch = BATCH if limit is None else min(BATCH, limit - (0 if total is None else total.runs))
        if total is None:
            total = app.runs.prune(older_than, limit=batch, **options)
            continue
        some = app.runs.prune(total.cutoff, limit=batch, cursor=total.next_cursor, **options)
        counts = (total.runs + some.runs, total.events + some.events, total.keys + some.keys)
        total = Pruned(*counts, total.cutoff, some.next_cursor)
    return total


@runs.command()
@program_options
@click.option("--older-than", required=True, type=AgeOrInstant(), help="Last updated that long ago, or before then.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([s.value for s in sorted(TERMINAL)]),
    help="Repeatable (default: all three).",
)
@click.option("--limit", type=click.IntRange(min=1), help="The most runs to remove (default: all that are old enough).")
@click.option("--actor", default="cli", show_default=True, metavar="NAME", help="Recorded as the operator.")
@click.option("--dry-run", is_flag=True, help="Only count; remove nothing.")
@click.pass_obj
def prune(
    program: Program,
    /,
    older_than: timedelta | datetime,
    statuses: tuple[str, ...],
    limit: int | None,
    actor: str,
    dry_run: bool,
) -> None:
    """Remove ended runs with their histories, for good; a thousand per transaction, each recorded in the log."""
    options: dict[str, Any] = {"statuses": statuses or None, "actor": Actor.operator(actor), "dry_run": dry_run}
    total = _prune_all(program.started(), older_than, limit, options)
    if program.json:
        show.json_lines([{**asdict(total), "more": total.more, "dry_run": dry_run}])
        return
    went = ((total.runs, "run"), (total.events, "event"), (total.keys, "idempotency key"))
    verb = "would remove" if dry_run else "removed"
    show.say(f"{verb} {', '.join(show.counted(number, what) for number, what in went)}")
    if total.more:
        show.say(f"more are older than {show.moment(total.cutoff)}")
