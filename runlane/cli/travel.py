"""``runlane audit as-of|diff|timeline|who``: going back in the log, and asking who did what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
from attrs import asdict
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runlane import attribution, travel
from runlane.app import Runlane
from runlane.cli import show
from runlane.cli.options import Instant
from runlane.cli.program import Program, program_options
from runlane.events import Recorded, RunEvent, ScheduleEvent
from runlane.jsontext import dumps
from runlane.projections.fleet import Fleet, HeldKey, Holding, KeyKind
from runlane.projections.timeline import Moment, sentence
from runlane.values import RunStatus

#: Characters of a value that a table shows.
_SHOWN = 200


@click.command("as-of", short_help="All runs as of an instant.")
@program_options
@click.argument("time", metavar="TIME|AGO", type=Instant())
@click.option("--limit", default=travel.DEFAULT_LIMIT, show_default=True, help="Runs, and keys of each kind, to list.")
@click.pass_obj
def as_of(program: Program, /, time: datetime, limit: int) -> None:
    """How many runs were in each status at an instant (2026-01-31T12:00:00Z, or an age such as 2h), which were leased,
    who held a key, and what was paused; reads the log up to there."""
    audit, screen = program.started().audit, show.console(stderr=True)
    if screen.is_terminal and not program.json:
        columns = (SpinnerColumn(), TextColumn("replaying: {task.completed:,.0f} events"), TimeElapsedColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            shown = bar.add_task("", total=None)
            found = audit.as_of(time, limit=limit, progress=lambda events: bar.update(shown, completed=events))
    else:
        found = audit.as_of(time, limit=limit)
    if program.json:
        show.json_lines(_rows_of(found))
    else:
        _tell_fleet(found)


def _rows_of(found: Fleet) -> Iterator[dict[str, Any]]:
    """The numbers on the first line, then a line for each run, key and queue that is listed."""
    yield {
        "type": "fleet",
        "environment": found.environment,
        "at": found.at,
        "runs": found.runs,
        "events": found.events,
        "queues": {name: {str(s): n for s, n in queue.items()} for name, queue in found.counts.items()},
        "running": found.running_count,
        "keys": {str(kind): count for kind, count in found.key_counts.items()},
        "paused": len(found.paused),
        "pruned_since": found.pruned_since,
        "unreadable": found.unreadable_count,
    }
    for held in found.running:
        yield {"type": "running", **asdict(held)}
    for key in found.keys:
        yield {"type": "key", **asdict(key)}
    for control in found.paused:
        yield {
            "type": "paused",
            "queue": control.name,
            "since": control.updated_at,
            "actor": control.actor,
            "reason": control.reason,
        }
    for stream_id in found.unreadable:
        yield {"type": "unreadable", "stream_id": stream_id}


def _tell_fleet(found: Fleet) -> None:
    show.say(f"as of {_to_the_millisecond(found.at)}, from {show.counted(found.events, 'event')}:")
    if found.counts:
        statuses = [s for s in RunStatus if any(queue.get(s) for queue in found.counts.values())]
        lines: list[list[object]] = [
            [name, *[f"{queue.get(status, 0):,}" for status in statuses]] for name, queue in found.counts.items()
        ]
        show.say("")
        show.table(("queue", *statuses), lines, right=statuses)
    else:
        show.say("no run was there yet")
    if found.running:
        show.say(f"\n{show.counted(found.running_count, 'run')} leased, the longest first:")
        show.table(
            ("run", "task", "attempt", "worker", "since", "for", "status"),
            [_line_of_run(held, found.at) for held in found.running],
            right=("attempt", "for"),
            spare=("status", "since"),
        )
        _tell_rest(found.running_count, len(found.running))
    for kind in KeyKind:
        _tell_keys(kind, [held for held in found.keys if held.kind is kind], found.key_counts[kind])
    if found.paused:
        show.say("\nqueues paused:")
        show.table(
            ("queue", "since", "by", "reason"),
            [(c.name, show.moment(c.updated_at), c.actor, c.reason) for c in found.paused],
        )
    if found.pruned_since:
        runs = show.counted(found.pruned_since, "run")
        show.say(f"\n{runs} pruned since; whatever they were then, they are not counted here")
    for stream_id in found.unreadable:
        show.complain(f"the history of {stream_id} cannot be folded, and is not counted; see `runlane audit verify`")


def _line_of_run(held: Holding, at: datetime) -> tuple[object, ...]:
    since, length = show.moment(held.since), show.span(at - held.since)
    return (held.run_id, held.task_id, held.attempt, held.worker_id, since, length, held.status)


def _tell_keys(kind: KeyKind, held: Sequence[HeldKey], count: int) -> None:
    if not held:
        return
    of = "queue" if kind is KeyKind.CONCURRENCY else "task"
    show.say(f"\n{show.counted(count, f'{kind} key')} held:")
    show.table(
        ("key", of, "run", "status", "since"),
        [
            (key.key, key.queue if of == "queue" else key.task_id, key.run_id, key.status, show.moment(key.since))
            for key in held
        ],
        spare=("since", "status"),
    )
    _tell_rest(count, len(held))


def _tell_rest(count: int, listed: int) -> None:
    if count > listed:
        show.say(f"… and {count - listed:,} more (--limit)")


@click.command(short_help="What changed in a run between two of its events.")
@program_options
@click.argument("run", metavar="RUN")
@click.option("--from", "from_sequence", default=1, show_default=True, help="The event that counts as before.")
@click.option("--to", "to_sequence", type=int, help="The event that counts as after (default: the last one).")
@click.pass_obj
def diff(program: Program, /, run: str, from_sequence: int, to_sequence: int | None) -> None:
    """What changed in a run, field by field, between the states behind two of its events, and by which event."""
    found = program.started().audit.diff(run, from_sequence, to_sequence)
    if program.json:
        show.json_lines(asdict(change) for change in found.changes)
        return
    show.say(
        f"run {found.run_id} from event {found.from_sequence} to {found.to_sequence}, "
        f"{show.span(found.to_at - found.from_at)} later:"
    )
    if not found.changes:
        show.say("nothing has changed")
        return
    show.table(
        ("#", "field", "before", "now"),
        [(c.sequence, c.field, _value(c.before), _value(c.after)) for c in found.changes],
        right=("#",),
    )


def _value(value: Any) -> str:
    """A field for people, on one line."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return _to_the_millisecond(value)
    if isinstance(value, (dict, list, bool)):
        text = dumps(value)
    else:
        first, *more = str(value).splitlines() or [""]
        text = f"{first} … ({show.counted(len(more), 'more line')})" if more else first
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _to_the_millisecond(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(" ", "milliseconds").removesuffix("+00:00") + "Z"


@click.command(short_help="What happened to a run, in sentences.")
@program_options
@click.argument("run", metavar="RUN")
@click.pass_obj
def timeline(program: Program, /, run: str) -> None:
    """What happened to a run, a sentence for each event, with the time since the event before (gap) and since the
    creation (after); times are UTC."""
    found = program.started().audit.timeline(run)
    if program.json:
        show.json_lines(_row_of(moment) for moment in found)
        return
    show.say(f"run {run}; times are UTC:")
    show.table(("#", "time", "gap", "after", "what happened"), list(_lines_of(found)), right=("#", "gap", "after"))


def _row_of(moment: Moment) -> dict[str, Any]:
    """A moment as JSON values; lengths of time are seconds."""
    return {
        "sequence": moment.sequence,
        "at": moment.at,
        "since_start": moment.since_start.total_seconds(),
        "since_last": moment.since_last.total_seconds(),
        "actor": moment.actor.text,
        "reason": moment.reason,
        "text": moment.text,
    }


def _lines_of(moments: Sequence[Moment]) -> Iterator[Sequence[object]]:
    """A line for each event, and one for each day before its first event."""
    day = ""
    for moment in moments:
        today, _, time = _to_the_millisecond(moment.at).removesuffix("Z").partition(" ")
        if today != day:
            day = today
            yield ("", day, "", "", "")
        gap, after = ("", "") if moment is moments[0] else (show.span(moment.since_last), show.span(moment.since_start))
        yield (moment.sequence, time, gap, after, moment.text)


@click.command(short_help="What somebody did, or what was done with a key.")
@program_options
@click.option("--actor", metavar="NAME", help="An operator or application: ann, or operator:ann.")
@click.option("--worker", metavar="ID", help="A worker: what it has leased, and what came of it.")
@click.option("--key", metavar="KEY", help="An idempotency, singleton or concurrency key: who used it for which run.")
@click.option("--limit", default=attribution.DEFAULT_LIMIT, show_default=True, help="Events on a page, 1 to 500.")
@click.option("--cursor", metavar="TEXT", help="Go on where the page before ended.")
@click.pass_obj
def who(program: Program, /, **asked: Any) -> None:
    """What somebody did in this environment, or what was done with a key, the newest first."""
    app = program.started()
    found = app.audit.who(**asked)
    if program.json:
        show.json_lines(show.event_row(record) for record in found.data)
        if found.next_cursor:
            show.json_lines([{"next_cursor": found.next_cursor}])
        return
    if not found.data:
        show.say("no event tells of that")
        return
    names = _schedules(app, found.data)
    lines = [_line_of(record, names) for record in found.data]
    if len({record.actor for record in found.data}) == 1:  # or the sentences would have no room
        show.say(f"by {found.data[0].actor}:")
        lines = [(time, *others) for time, _, *others in lines]
        show.table(("time", "run", "#", "what happened"), lines, right=("#",))
    else:
        show.table(("time", "by", "run", "#", "what happened"), lines, right=("#",), spare=("by",))
    if found.next_cursor:
        show.say(f"\nmore: add --cursor {found.next_cursor}")


def _schedules(app: Runlane, records: Sequence[Recorded]) -> dict[UUID, str]:
    """The names of schedules by their streams, if any of these events is of one."""
    if not any(isinstance(record.event, ScheduleEvent) for record in records):
        return {}
    return {state.stream_id: f"schedule {state.schedule_id}" for state in app.schedules.list()}


def _line_of(record: Recorded, names: Mapping[UUID, str]) -> tuple[object, ...]:
    of = record.stream_id if isinstance(record.event, RunEvent) else names.get(record.stream_id, "")
    return (show.moment(record.occurred_at), record.actor, of, record.sequence, sentence(record))
