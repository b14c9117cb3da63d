"""``runlane demo``: the main job on real input, from nothing to a verified history."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from runlane.cli import show
from runlane.cli.program import Program, program_options
from runlane.cli.progress import moving
from runlane.demo import DATABASE, REPORT, Demo, Prepared, first_and_last, keep_report
from runlane.projections.runs import Run
from runlane.projections.timeline import timeline
from runlane.storage.findings import Verification
from runlane.values import RunStatus
from runlane.worker import Worker

_TIMELINE = 12  # lines


@click.command(short_help="The main job: measure every file of the standard library.")
@program_options
@click.option("--files", type=click.Path(path_type=Path), metavar="PATH", help="Other input: a file, or a folder.")
@click.option("--concurrency", default=10, show_default=True, help="The greatest number of attempts at once.")
@click.pass_obj
def demo(program: Program, /, files: Path | None, concurrency: int) -> None:
    """Measure every file of Python's standard library in background runs, then replay the whole history.

    The runs are kept in runlane-demo.db in this folder, or in --database. Kill it and start it again: it goes on.
    """
    database = program.database or DATABASE
    it = Demo(database, files, concurrency)
    try:
        started = time.perf_counter()
        prepared = it.prepare()
        if not program.json:
            show.say(f"{prepared.created:,} new runs, {prepared.found:,} found, in {database}")
        with it.working() as worker:
            _follow(it, prepared, worker)
        took = time.perf_counter() - started
        found = it.app.audit.verify()
        report = it.app.runs.get(prepared.report.id)
        missing = _missing(report)
        _tell(program, it, report, worker.completed, took, found, kept=missing is None)
    finally:
        it.app.close()
    if missing is not None:
        show.complain(missing)
    if missing is not None or not found.identical:
        raise click.exceptions.Exit(1)


def _missing(report: Run) -> str | None:
    """Why the file with the report is not there; None if it is."""
    if report.status is not RunStatus.SUCCEEDED:
        why = f": {report.failure.message}" if report.failure else ""
        return f"there is no report: its run {report.id} {report.status}{why}"
    try:
        keep_report(report.result)
    except OSError as error:
        return f"the report cannot be written: {error}"
    return None


def _follow(it: Demo, prepared: Prepared, worker: Worker) -> None:
    screen = show.console(stderr=True)
    if not screen.is_terminal:
        it.app.runs.wait(prepared.report.id)
        return
    waiting = sum(count for status, count in it.app.runs.count().items() if status.is_active)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("measuring"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} attempts, {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
    )
    with moving(bar, waiting, worker):
        it.app.runs.wait(prepared.report.id)


def _tell(
    program: Program, it: Demo, report: Run, attempts: int, took: float, found: Verification, *, kept: bool
) -> None:
    app = it.app
    events = app.audit.count()
    statuses = {status.value: count for status, count in sorted(app.runs.count().items())}
    facts = {
        "runs": sum(statuses.values()),
        **statuses,
        "events": sum(events.values()),
        "retries": events.get("run.retry_scheduled", 0),
        "releases": events.get("run.released", 0),
        "recovered": events.get("run.lease_expired", 0) + events.get("run.interrupted", 0),
        "stock_takes": sum(app.runs.count(tasks=["demo.take_stock"]).values()),
        "attempts_now": attempts,
        "seconds": round(took, 1),
        "attempts_per_second": round(attempts / took),
    }
    if program.json:
        show.json_lines([{**facts, "report": report.result, "identical": found.identical}])
        return
    labels = {"attempts_now": "attempts in this start", "attempts_per_second": "attempts per second"}
    show.say("")
    show.details({labels.get(name, name.replace("_", " ")): f"{value:,}" for name, value in facts.items()}, right=True)
    _tell_report(report, kept)
    _tell_history(it, report)
    if not found.identical:
        show.say(f"\nREPLAY DIFFERS in {show.counted(len(found.differences), 'place')}; see: runlane audit verify")
        return
    show.say(
        f"\nreplay identical: {show.counted(found.events, 'event')} folded again give exactly the "
        f"{show.counted(found.runs, 'run')} and {show.counted(found.schedules, 'schedule')} that are stored"
    )


def _tell_report(report: Run, kept: bool) -> None:
    if report.result is None:
        return
    summary = report.result
    show.say(
        f"\n{summary['files']:,} files, {summary['lines']:,} lines, {summary['bytes']:,} bytes"
        + (f" ({REPORT})" if kept else "")
        + "; most imported: "
        + ", ".join(list(summary["most_imported"])[:5])
    )
    failed = summary["not_measured"]
    if failed:
        first, _, more = first_and_last([Path(path).name for path in failed], 4)
        show.say(f"{len(failed):,} do not decode: {', '.join(first)}" + (f" and {more:,} more" if more else ""))


def _tell_history(it: Demo, report: Run) -> None:
    moments = timeline(it.app.runs.events(report.id))
    first, last, between = first_and_last(moments, _TIMELINE)
    show.say(f"\nthe history of the polling run {report.id}:")
    for index, moment in enumerate((*first, *last)):
        if between and index == len(first):
            show.say(f"          … {between:,} more …")
        show.say(f"  {show.span(moment.since_start):>10}  {moment.text}")
