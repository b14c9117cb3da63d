"""``runlane audit simulate``: recorded runs under another policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from attrs import asdict
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runlane.cli import completion, show
from runlane.cli.options import Instant
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid
from runlane.policy import Exponential, Fixed, Retry
from runlane.simulation import Measures, QueueMeasures, Simulation, simulate_export

_KNOWN = ("fixed", "exponential", "max_delay", "factor", "jitter", "max_lost")


class RetryOf(click.ParamType[tuple[str | None, Retry]]):
    """A policy as text, perhaps behind the id of a task: ``5,exponential=30s,max_delay=10m`` or ``mail.send:3``."""

    name = "[TASK:]RETRY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, Retry]:
        """The task, None for all of them, and its policy."""
        if not isinstance(value, str):
            found: tuple[str | None, Retry] = value
            return found
        task, colon, text = value.rpartition(":")
        try:
            return (task if colon else None), _retry(text)
        except (ConfigurationInvalid, ValueError) as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def _retry(text: str) -> Retry:
    """The policy of ``ATTEMPTS[,NAME=VALUE…]``."""
    attempts, *rest = (part.strip() for part in text.split(","))
    if not attempts.isascii() or not attempts.isdigit():
        raise ValueError("it begins with a number of attempts, as in 5,exponential=30s,max_delay=10m,jitter=0.1")
    given: dict[str, str] = {}
    for part in rest:
        name, _, value = part.partition("=")
        if name not in _KNOWN or not value or name in given:
            raise ValueError(f"{part!r} is not one of {', '.join(_KNOWN)}, once each, as in fixed=30s")
        given[name] = value
    options: dict[str, Any] = {}
    if "fixed" in given:
        if alone := [name for name in ("exponential", "max_delay", "factor") if name in given]:
            raise ValueError(f"fixed and {alone[0]} exclude each other")
        options["backoff"] = Fixed(given["fixed"])
    elif "exponential" in given:
        factor = {"factor": float(given["factor"])} if "factor" in given else {}
        options["backoff"] = Exponential(given["exponential"], max_delay=given.get("max_delay"), **factor)
    elif alone := [name for name in ("max_delay", "factor") if name in given]:
        raise ValueError(f"{alone[0]} belongs to exponential=…")
    if "jitter" in given:
        options["jitter"] = float(given["jitter"])
    if "max_lost" in given:
        options["max_lost"] = int(given["max_lost"])
    return Retry(int(attempts), **options)


class LimitOf(click.ParamType[tuple[str, int | None]]):
    """``QUEUE=N``, or ``QUEUE=none``."""

    name = "QUEUE=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        """The queue and its limit."""
        if not isinstance(value, str):
            found: tuple[str, int | None] = value
            return found
        queue, _, most = value.rpartition("=")
        if not queue or not (most == "none" or (most.isascii() and most.isdigit())):
            self.fail(f"{value!r} is not like mail=5 or mail=none", param, ctx)
        return queue, None if most == "none" else int(most)


@click.command(short_help="What if: recorded runs under another policy.")
@program_options
@click.option("--since", type=Instant(), help="Runs created since then.")
@click.option("--until", type=Instant(), help="Runs created before then.")
@click.option(
    "--retry",
    "retries",
    multiple=True,
    type=RetryOf(),
    help="Of all tasks or of one: attempts, then what differs: 5,exponential=30s,max_delay=10m,factor=2,jitter=0.1 or "
    "3,fixed=10s.",
)
@click.option("--limit", "limits", multiple=True, type=LimitOf(), help="A queue's concurrency limit, or none.")
@click.option("--workers", type=int, metavar="N", help="Worker processes.")
@click.option("--concurrency", type=int, metavar="N", help="Attempts at once in each.")
@click.option("--task", "tasks", multiple=True, metavar="ID", shell_complete=completion.tasks, help="Only this task.")
@click.option(
    "--queue", "queues", multiple=True, metavar="NAME", shell_complete=completion.queues, help="Only this queue."
)
@click.option("--seed", default=0, show_default=True, help="For what has to be drawn.")
@click.option("--from", "path", type=click.Path(path_type=Path), metavar="FILE", help="Of an export, not a database.")
@click.pass_obj
def simulate(
    program: Program,
    /,
    retries: tuple[tuple[str | None, Retry], ...],
    limits: tuple[tuple[str, int | None], ...],
    tasks: tuple[str, ...],
    queues: tuple[str, ...],
    path: Path | None,
    **options: Any,
) -> None:
    """Play recorded runs again under another policy, and tell waits, costs and failures side by side: as recorded, as
    played with the recorded policy (what parts these two is the error of the model), and as played with yours.

    Nothing is executed and nothing written. What is not given stays as recorded.
    """
    asked = {
        **options,
        "retry": _by_task(retries),
        "limit": dict(limits),
        "tasks": tasks or None,
        "queues": queues or None,
    }
    since, until = options["since"], options["until"]
    with _Counting(program) as progress:
        if path is not None:
            found = simulate_export(path, progress=progress, **asked)
        else:
            found = program.started().audit.simulate(progress=progress, **asked)
    if program.json:
        show.json_lines([{"since": since, "until": until, **_row(found)}])
    else:
        _tell(found, since, until)


def _by_task(retries: tuple[tuple[str | None, Retry], ...]) -> Retry | Mapping[str, Retry] | None:
    everywhere = [retry for task, retry in retries if task is None]
    if len(everywhere) > 1 or (everywhere and len(retries) > 1):
        raise click.UsageError("--retry is given once for all tasks, or for some tasks by their ids: --retry TASK:5")
    return everywhere[0] if everywhere else {str(task): retry for task, retry in retries} or None


class _Counting:
    """Shows how many events have been read, on a terminal."""

    def __init__(self, program: Program) -> None:
        screen = show.console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("reading: {task.completed:,.0f} events"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=screen, transient=True)
        self._shown = screen.is_terminal and not program.json

    def __enter__(self) -> Callable[[int], None] | None:
        if not self._shown:
            return None
        self._bar.start()
        shown = self._bar.add_task("", total=None)
        return lambda events: self._bar.update(shown, completed=events)

    def __exit__(self, *raised: object) -> None:
        if self._shown:
            self._bar.stop()


def _row(found: Simulation) -> dict[str, Any]:
    """All of it as JSON values; lengths of time are seconds."""
    row = asdict(found)
    for name in ("recorded", "baseline", "simulated"):
        row[name]["unfinished"] = getattr(found, name).unfinished
    return row


def _tell(found: Simulation, since: datetime | None, until: datetime | None) -> None:
    recorded, baseline, simulated = found.recorded, found.baseline, found.simulated
    window = "".join(
        f" {word} {show.moment(at)}" for word, at in (("since", since), ("until", until)) if at is not None
    )
    if not recorded.runs:
        show.say(f"no run to simulate was created{window}")
    if recorded.runs:
        show.say(f"{show.counted(recorded.runs, 'run')} created{window}, played again:")
        show.say("")
        show.table(
            ("", *_COLUMNS),
            [_line(*line, recorded, baseline, simulated) for line in _LINES],
            right=_COLUMNS,
        )
        if len({*recorded.queues, *simulated.queues}) > 1:
            _tell_queues(found)
        show.say("")
        if found.drawn or found.drawn_baseline:
            drawn = f"{found.drawn_baseline:,} and {found.drawn:,}"
            show.say(f"attempts drawn in the two plays, as none like them is recorded: {drawn} (seed {found.seed})")
    for note in found.notes:
        show.say(f"note: {note}")
    for assumption in found.assumptions if recorded.runs else ():
        show.say(f"- {assumption}")


def _line(
    name: str, told: _Format, of: Callable[[Measures], Any], recorded: Measures, baseline: Measures, simulated: Measures
) -> tuple[str, ...]:
    before, after = of(baseline), of(simulated)
    return (name, told(of(recorded)), told(before), told(after), _change(before, after))


def _tell_queues(found: Simulation) -> None:
    lines: list[tuple[str, ...]] = []
    for name in sorted({*found.recorded.queues, *found.simulated.queues}):
        for what, told, of in _OF_QUEUES:
            measured = [one.queues.get(name) for one in (found.recorded, found.baseline, found.simulated)]
            values = [None if one is None else of(one) for one in measured]
            cells = ["–" if value is None else told(value) for value in values]
            lines.append((name, what, *cells, _change(values[1], values[2])))
    show.say("")
    show.table(("queue", "", *_COLUMNS), lines, right=_COLUMNS)


def _count(value: int) -> str:
    return f"{value:,}"


def _rate(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _seconds(value: float) -> str:
    """A length of time with three digits, so that small ones show."""
    if value >= 60:
        return show.span(timedelta(seconds=value))
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms" if value else "0"


def _change(before: Any, after: Any) -> str:
    """From one number to another, in percent."""
    if before == after or not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return ""
    if not before:
        return "new"
    times = after / before
    return f"×{times:,.1f}" if times >= 10 else f"{times - 1:+.1%}" if abs(times - 1) < 0.1 else f"{times - 1:+.0%}"


def _limits(of: Measures) -> str:
    return ", ".join(f"{queue} {limit}" for queue, limit in of.limits.items()) or "–"


_COLUMNS = ("as recorded", "same policy played", "your policy played", "change")
_Format = Callable[[Any], str]
_LINES: tuple[tuple[str, _Format, Callable[[Measures], Any]], ...] = (
    ("workers × concurrency", str, lambda of: f"{of.workers} × {of.concurrency}"),
    ("limits", str, _limits),
    ("runs succeeded", _count, lambda of: of.succeeded),
    ("runs failed", _count, lambda of: of.failed),
    ("runs cancelled", _count, lambda of: of.cancelled),
    ("runs unfinished", _count, lambda of: of.unfinished),
    ("attempts", _count, lambda of: of.attempts),
    ("attempts failed", _count, lambda of: of.failures),
    ("handlers took", _seconds, lambda of: of.handler_seconds),
    ("wait p50", _seconds, lambda of: of.waits.p50),
    ("wait p90", _seconds, lambda of: of.waits.p90),
    ("wait p99", _seconds, lambda of: of.waits.p99),
    ("wait max", _seconds, lambda of: of.waits.max),
    ("turnaround p50", _seconds, lambda of: of.turnaround.p50),
    ("turnaround p99", _seconds, lambda of: of.turnaround.p99),
    ("depth, mean", _rate, lambda of: of.depth_mean),
    ("depth, max", _count, lambda of: of.depth_max),
    ("slots used", lambda value: f"{value:.1%}", lambda of: of.utilisation),
    ("runs ended per second", _rate, lambda of: of.throughput),
    ("from first to last", _seconds, lambda of: of.seconds),
)
_OF_QUEUES: tuple[tuple[str, _Format, Callable[[QueueMeasures], Any]], ...] = (
    ("wait p50", _seconds, lambda of: of.waits.p50),
    ("wait p99", _seconds, lambda of: of.waits.p99),
    ("depth, max", _count, lambda of: of.depth_max),
)
