"""Printing: tables and sentences for people, JSON lines for programs."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import click
import orjson
from attrs import asdict
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runlane import codec
from runlane.cadence import Cadence, Cron, Every, Once
from runlane.events import Recorded
from runlane.jsontext import dumps
from runlane.payload_codec import Sealed
from runlane.projections.attempts import Attempt
from runlane.projections.occurrences import Occurrence
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState

#: Columns where the width of the paper is not known: nothing is cut in a file or a pipe.
_WIDE = 200
#: Columns of free text: folded, but not to less than so many characters.
_FREE = frozenset(
    {"note", "failure", "reason", "what happened", "cadence", "stored", "folded", "before", "now", "found"}
)
_LEAST = 14
#: Control characters but for tab and newline, marks that turn the direction of writing, lone surrogates.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "cancelled": "magenta",
    "running": "cyan",
    "retrying": "yellow",
    "retried": "yellow",
    "released": "blue",
    "cancellation_requested": "magenta",
    "ok": "green",
    "warning": "yellow",
    "critical": "red",
}
#: Set once standard output took no more though somebody reads it, as on a full disk.
unwritten = threading.Event()


def harmless(text: str) -> str:
    """`text` without what a terminal would obey, or that would have it show something else than it says.

    Reasons, keys and what exceptions say come from anywhere; control characters in them are told as Python writes them.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def console(*, stderr: bool = False) -> Console:
    """Where people read."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDE)


def write(text: str | bytes, *, nl: bool = True, err: bool = False) -> None:
    """Print `text`; a command whose reader has gone goes on, as it would with one, and says the rest to nobody.

    So does one whose output has no room, but that is told.
    """
    try:
        click.echo(text, nl=nl, err=err)
    except BrokenPipeError:
        forsake(sys.stderr if err else sys.stdout)
    except OSError as error:
        if err:
            forsake(sys.stderr)
        else:
            _lose(error)


def _lose(error: OSError) -> None:
    unwritten.set()
    forsake(sys.stdout)
    complain(f"the output could not be written: {error.strerror or error}")


def lost(error: OSError) -> bool:
    """Whether an error came from what click prints by itself, help for instance; that is told then."""
    came = any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
    if came:
        _lose(error)
    return came


def forsake(stream: TextIO) -> None:
    """Have what is printed there from now on, and what waits in its buffer, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def complain(message: str, see: str | None = None) -> None:
    """One line on standard error."""
    line = harmless(" ".join(message.split()))
    write(f"error: {line}" + (f" (see {see})" if see else ""), err=True)


def json_lines(rows: Iterable[Any]) -> None:
    """One JSON value a line."""
    for row in rows:
        write(json_line(row))


def json_line(row: Any) -> str:
    """A value as JSON, on one line."""
    try:
        return orjson.dumps(row, default=str).decode()
    except TypeError:  # a name of a file that is no text
        return json.dumps(row, default=str)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """A table for people; columns of free text are folded where the terminal is narrow.

    Args:
        right: columns of numbers.
        spare: columns that may go where even that does not help, the first one first; a last line names them.
    """
    cells = [["" if value is None else harmless(str(value)) for value in row] for row in rows]
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    shown = _fitting(columns, cells, console().width, spare)
    for name in shown:
        drawn.add_column(
            name.upper(), justify="right" if name in right else "left", no_wrap=name not in _FREE, overflow="fold"
        )
    places = [columns.index(name) for name in shown]
    for row in cells:
        drawn.add_row(*[_cell(row[place]) for place in places])
    _draw(drawn)
    if len(shown) < len(columns):
        missing = ", ".join(name for name in columns if name not in shown)
        say(f"(the terminal is too narrow for: {missing}; runlane --json … tells everything)")


def _draw(grid: Table) -> None:
    """Print without the blanks that fill up the last column."""
    for line in _drawn(grid).splitlines():
        write(line.rstrip())


def _drawn(what: object, **how: Any) -> str:
    """What is printed for people, as text: rich would end the process itself when nobody reads."""
    screen, text = console(), io.StringIO()
    Console(
        file=text,
        force_terminal=screen.is_terminal,
        color_system=screen.color_system,  # type: ignore[arg-type]
        width=screen.width,
        highlight=False,
    ).print(what, **how)
    return text.getvalue()


def _fitting(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int, spare: Sequence[str]) -> list[str]:
    """The columns that fit, without as few of the spare ones as will do."""
    widths = {name: cell_len(name) for name in columns}
    for place, name in enumerate(columns):
        widest = max((cell_len(line) for row in cells for line in row[place].splitlines()), default=0)
        widths[name] = max(widths[name], min(widest, _LEAST) if name in _FREE else widest)
    shown = list(columns)
    for name in spare:
        if sum(widths[name] + 2 for name in shown) - 2 <= width:
            break
        shown.remove(name)
    return shown


def say(text: str) -> None:
    """A sentence for people."""
    write(sentence(text))


def sentence(text: str) -> str:
    """What ``say`` prints."""
    return _drawn(escape(harmless(text)), soft_wrap=True).removesuffix("\n")


def value(of_run: Any) -> str:
    """A payload or result as JSON, or why it is not shown."""
    return str(of_run) if isinstance(of_run, Sealed) else dumps(of_run)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = escape(harmless(str(value)))
    colour = _COLOURS.get(text)
    return f"[{colour}]{text}[/]" if colour else text


def counted(number: int, what: str) -> str:
    """A number with its noun: ``1 event``, ``1,234 events``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def moment(at: datetime | None) -> str:
    """An instant, in UTC and to the second."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(length: timedelta | None) -> str:
    """A length of time for people: ``12 ms``, ``3.4 s``, ``2 min 5 s``, ``3 h 4 min``, ``2 d 3 h``."""
    if length is None:
        return ""
    seconds = length.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return " ".join(_parts(timedelta(seconds=int(seconds)))[:2])


def _parts(length: timedelta) -> list[str]:
    """A length of time unit by unit, with nothing left out."""
    parts, left = [], length
    for unit, size in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    if left:
        parts.append(f"{left.total_seconds():.6f}".rstrip("0").rstrip(".") + " s")
    return parts


def cadence_text(rule: Cadence) -> str:
    """When a schedule fires."""
    match rule:
        case Once(at=at):
            return f"once at {moment(at)}"
        case Every(interval=interval):
            return f"every {' '.join(_parts(interval))}"
        case Cron(expression=expression, zone=zone):
            return f"cron {expression} ({zone})"


def coloured(status: str) -> str:
    """A status in its colour, for a line of text."""
    return click.style(status, fg=_COLOURS.get(status))


def run_row(run: Run) -> dict[str, Any]:
    """A run with every field of the model, as JSON values."""
    return {
        "id": run.id,
        "environment": run.environment,
        "task_id": run.task_id,
        "queue": run.queue,
        "status": run.status,
        "sequence": run.sequence,
        "priority": run.priority,
        "payload": run.payload,
        "result": run.result,
        "failure": None if run.failure is None else codec.to_json(run.failure),
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "due_at": run.due_at,
        "run_at": run.run_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "attempt_count": run.attempt_count,
        "failure_count": run.failure_count,
        "retry_count": run.retry_count,
        "release_count": run.release_count,
        "lost_count": run.lost_count,
        "lease": None
        if run.lease is None
        else {
            "session_id": run.lease.session_id,
            "worker_id": run.lease.worker_id,
            "attempt": run.lease.attempt,
            "leased_at": run.lease.leased_at,
        },
        "reservation": None
        if run.reservation is None
        else {"reserved_at": run.reservation.reserved_at, "expires_at": run.reservation.expires_at},
        "cancellation": None
        if run.cancellation is None
        else {
            "requested_at": run.cancellation.requested_at,
            "actor": run.cancellation.actor.text,
            "reason": run.cancellation.reason,
        },
        "source": asdict(run.source),
        "idempotency_key": run.idempotency_key,
        "idempotency_ttl": run.idempotency_ttl,
        "singleton_key": run.singleton_key,
        "concurrency_key": run.concurrency_key,
        "correlation_id": run.correlation_id,
        "trace_carrier": run.trace_carrier,
        "meta": run.meta,
    }


def event_row(record: Recorded) -> dict[str, Any]:
    """An event in its envelope, as JSON values."""
    stored = codec.encode(record.event)
    return {
        "position": record.position,
        "stream_id": record.stream_id,
        "sequence": record.sequence,
        "type": stored.type,
        "version": stored.version,
        "occurred_at": record.occurred_at,
        "environment": record.environment,
        "actor": record.actor.text,
        "data": orjson.loads(stored.data),
    }


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """An attempt, as JSON values."""
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "worker_id": attempt.worker_id,
        "session_id": attempt.session_id,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "failure": None if attempt.failure is None else codec.to_json(attempt.failure),
    }


def schedule_row(schedule: ScheduleState) -> dict[str, Any]:
    """A schedule, as JSON values."""
    return {
        "id": schedule.schedule_id,
        "environment": schedule.environment,
        "task_id": schedule.task_id,
        "queue": schedule.queue,
        "cadence": schedule.cadence,
        "payload": schedule.payload,
        "enabled": schedule.enabled,
        "paused": schedule.paused,
        "removed": schedule.removed,
        "next_at": schedule.next_at,
        "last_at": schedule.last_at,
        "fired_count": schedule.fired_count,
        "registered_at": schedule.registered_at,
    }


def occurrence_row(occurrence: Occurrence) -> dict[str, Any]:
    """What became of an occurrence, as JSON values."""
    return {
        "outcome": occurrence.outcome,
        "scheduled_for": occurrence.scheduled_for,
        "decided_at": occurrence.decided_at,
        "run_id": occurrence.run_id,
        "occurrence_id": occurrence.occurrence_id,
        "collapsed": occurrence.collapsed,
        "collapsed_from": occurrence.collapsed_from,
        "reason": occurrence.reason,
        "actor": occurrence.actor.text,
    }


def details(facts: Mapping[str, object], *, right: bool = False) -> None:
    """Names and values, one a line, the values perhaps on the right; what is absent is left out."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold", justify="right" if right else "left")
    for name, value in facts.items():
        if value not in (None, "", {}):
            grid.add_row(name, _cell(value))
    _draw(grid)
