"""``runlane runs``: looking at runs, and waiting for one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from runlane.cli import show
from runlane.cli.options import Instant, Length, conditions_of, filter_options
from runlane.cli.program import Program, program_options
from runlane.jsontext import dumps
from runlane.projections.runs import Run
from runlane.projections.timeline import timeline
from runlane.reading import DEFAULT_LIMIT
from runlane.values import RunStatus, Source


@click.group()
@program_options
def runs() -> None:
    """Look at runs, cancel them, run them again, remove old ones."""


@runs.command("list")
@program_options
@filter_options
@click.option("--oldest", is_flag=True, help="Oldest first (default: newest first).")
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, help="Runs on a page, 1 to 500.")
@click.option("--cursor", metavar="TEXT", help="Go on where the page before ended.")
@click.pass_obj
def list_(program: Program, /, oldest: bool, **conditions: Any) -> None:
    """A page of runs, newest first."""
    where = conditions_of(conditions, conditions["cursor"])
    page = program.started().runs.list(order="oldest" if oldest else "newest", **where)
    if program.json:
        show.json_lines(show.run_row(run) for run in page.data)
        if page.next_cursor:
            show.json_lines([{"next_cursor": page.next_cursor}])
        return
    if not page.data:
        show.say("no run matches")
        return
    show.table(
        ("id", "task", "status", "queue", "attempts", "created", "note"),
        [_line(run) for run in page.data],
        right=("attempts",),
        spare=("queue", "attempts", "created"),
    )
    if page.next_cursor:
        show.say(f"\nmore: add --cursor {page.next_cursor}")


@runs.command(short_help="How many runs are in each status.")
@program_options
@filter_options
@click.pass_obj
def count(program: Program, /, **conditions: Any) -> None:
    """How many runs are in each status; reads every run of the environment."""
    found = program.started().runs.count(**conditions_of(conditions))
    counts = {status.value: found[status] for status in RunStatus if status in found}
    if program.json:
        show.json_lines([counts])
    elif not counts:
        show.say("no run matches")
    else:
        show.details({name: f"{number:,}" for name, number in counts.items()}, right=True)


@runs.command(short_help="Wait until a run has ended.")
@program_options
@click.argument("run", metavar="RUN")
@click.option("--timeout", type=Length(), help="Give up after that long, such as 30s (default: never).")
@click.pass_obj
def wait(program: Program, /, run: str, timeout: timedelta | None) -> None:
    """Wait until a run has ended; exit code 1 if it did not succeed, or not in time."""
    api = program.started().runs
    try:
        found = api.wait(run, timeout=None if timeout is None else timeout.total_seconds())
    except TimeoutError as error:
        show.complain(str(error))
        raise click.exceptions.Exit(1) from None
    if program.json:
        show.json_lines([show.run_row(found)])
    else:
        note = _note(found)
        show.say(f"{found.id}  {found.status}" + (f"  {note}" if note else ""))
    if found.status is not RunStatus.SUCCEEDED:
        raise click.exceptions.Exit(1)


def _line(run: Run) -> tuple[object, ...]:
    return (
        run.id,
        run.task_id,
        run.status,
        run.queue,
        run.attempt_count,
        show.moment(run.created_at),
        _note(run),
    )


def _note(run: Run) -> str:
    """What is most worth knowing of a run in its status, on one line."""
    if run.lease is not None:
        return f"on {run.lease.worker_id}"
    failure = ((run.failure.message.splitlines() if run.failure else None) or [""])[0][:60]
    if run.status in ("scheduled", "released", "retrying"):
        return f"due {show.moment(run.due_at)}" + (f": {failure}" if failure else "")
    if run.status is RunStatus.CANCELLED and run.cancellation is not None:
        return f"by {run.cancellation.actor}" + (f": {run.cancellation.reason}" if run.cancellation.reason else "")
    return failure


@runs.command()
@program_options
@click.argument("run", metavar="RUN")
@click.option("--at-sequence", type=int, metavar="N", help="As of this event of its history.")
@click.option("--at", type=Instant(), help="As of an instant, or of so long ago.")
@click.pass_obj
def get(program: Program, /, run: str, at_sequence: int | None, at: datetime | None) -> None:
    """One run, with everything that is known of it; as it is, or as it was."""
    found = program.started().runs.get(run, at_sequence=at_sequence, at=at)
    if program.json:
        show.json_lines([show.run_row(found)])
        return
    asked = at_sequence is not None or at is not None
    then = {} if not asked else {"as of": f"event {found.sequence}, {show.moment(found.updated_at)}"}
    show.details(then | _facts(found))
    if found.failure is not None and found.failure.traceback:
        show.say("\n" + found.failure.traceback.rstrip())


def _origin(source: Source) -> str:
    """What made it: a trigger, a schedule, or another run."""
    parts = (
        str(source.type),
        source.schedule_id,
        source.scheduled_for and f"for {show.moment(source.scheduled_for)}",
        source.source_run_id and f"of run {source.source_run_id}",
        source.parent_run_id and f"in run {source.parent_run_id}",
    )
    return " ".join(part for part in parts if part)


def _facts(found: Run) -> dict[str, object]:
    lease, key, stop, held = found.lease, found.idempotency_key, found.cancellation, found.reservation
    return {
        "run": found.id,
        "task": found.task_id,
        "status": found.status,
        "queue": found.queue,
        "priority": found.priority,
        "environment": found.environment,
        "source": _origin(found.source),
        "payload": show.value(found.payload),
        "result": None if found.result is None else show.value(found.result),
        "created": show.moment(found.created_at),
        "due": show.moment(found.due_at),
        "started": show.moment(found.started_at),
        "finished": show.moment(found.finished_at),
        "attempts": f"{found.attempt_count} ({found.failure_count} failed, {found.release_count} released, "
        f"{found.lost_count} lost)",
        "lease": None if lease is None else f"{lease.worker_id}, since {show.moment(lease.leased_at)}",
        "idempotency key": None if key is None else f"{key} (kept for {found.idempotency_ttl})",
        "singleton key": found.singleton_key,
        "concurrency key": found.concurrency_key,
        "reservation": None
        if held is None
        else f"since {show.moment(held.reserved_at)}"
        + (f", until {show.moment(held.expires_at)}" if held.expires_at else ""),
        "cancellation": None
        if stop is None
        else f"asked for at {show.moment(stop.requested_at)} by {stop.actor}"
        + (f": {stop.reason}" if stop.reason else ""),
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
