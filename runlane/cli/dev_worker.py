"""The worker of ``runlane dev``: says what it works on, works, and tells how each attempt ended."""

from __future__ import annotations

import importlib
import logging
import os
import select
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import click
from attrs import frozen

import runlane
from runlane.app import Runlane
from runlane.cli import show
from runlane.cli.options import queues_named
from runlane.cli.program import Program
from runlane.errors import RunlaneError
from runlane.projections.runs import Run
from runlane.registry import Registry
from runlane.stopping import LOOK
from runlane.trips import Attempt, attempts_log
from runlane.worker import Worker

#: The most names on one line.
_MOST = 20


@frozen
class Work:
    """What is asked of the worker.

    `lifeline` is a file descriptor that ends with the process that watches; without one nobody watches.
    """

    named: str
    queues: tuple[str, ...]
    concurrency: int
    stop_timeout: timedelta
    lifeline: int | None
    watched: str


class Teller:
    """Lines for people, or JSON lines for programs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def tell(self, event: str, text: str, **facts: Any) -> None:
        """Say what happened: `text` to people, `event` and `facts` to programs."""
        if self._as_json:
            show.json_lines([{"event": event, **facts}])
        else:
            show.write(text)


def work(program: Program, asked: Work) -> None:
    """Work until a signal, or the end of the process that watches.

    Raises:
        RunlaneError: the database cannot be reached, or the worker could not go on.
        Exit: the program cannot be loaded; that is told already.
    """
    teller = Teller(program.json)
    program.log()
    try:
        app = program.runtime(tasks=True)
    except Exception as error:
        if program.debug:
            raise
        _tell_broken(teller, asked.named, error)
        raise click.exceptions.Exit(1) from None
    app.migrate()
    worker = app.start().worker(queues=queues_named(app, asked.queues), concurrency=asked.concurrency)
    _tell_start(teller, app, asked)
    with _Ends(teller).heard():
        _until_asked(worker, asked, teller)


def tell_stopping(teller: Teller) -> None:
    """Say that the end has begun."""
    teller.tell("stopping", "stopping; Ctrl-C again waits for no attempt")


def _until_asked(worker: Worker, asked: Work, teller: Teller) -> None:
    with _Stop(asked.lifeline).signals() as stop:
        worker.start()
        stop.when_closed(worker)
        stop.wait()
        if asked.lifeline is None and not worker.closed:
            tell_stopping(teller)
        gentle = threading.Thread(target=_quietly, args=(worker, asked.stop_timeout.total_seconds()), daemon=True)
        gentle.start()
        if not worker.closed:
            stop.wait()
    worker.stop(0)


def _quietly(worker: Worker, timeout: float) -> None:
    with suppress(Exception):  # it is raised again where somebody hears it
        worker.stop(timeout)


class _Stop:
    """What asks for the end: signals, the end of whoever watches, and of the worker.  No lock, as handlers use it."""

    def __init__(self, lifeline: int | None) -> None:
        self._ends, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._heard = [self._ends] if lifeline is None else [self._ends, lifeline]

    @contextmanager
    def signals(self) -> Iterator[_Stop]:
        """Heed SIGINT and SIGTERM."""
        before: dict[int, Any] = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            os.write(self._tell, b".")

    def when_closed(self, worker: Worker) -> None:
        """Count the end of `worker` too."""

        def follow() -> None:
            worker.wait()
            self(0, None)

        threading.Thread(target=follow, name="runlane-dev", daemon=True).start()

    def wait(self) -> None:
        """Wait for the next of them; each counts once."""
        heard: list[int] = []
        while not heard:  # with a limit, as in ``wait_heeding_signals``
            heard = select.select(self._heard, [], [], LOOK)[0]
        ready = heard[0]
        if ready == self._ends:
            os.read(self._ends, 1)
        else:
            self._heard.remove(ready)


class _Ends(logging.Handler):
    """A line for each attempt that has ended."""

    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.DEBUG)
        self._teller = teller

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear of attempts meanwhile, and nobody else."""
        attempts_log.addHandler(self)
        attempts_log.setLevel(logging.DEBUG)
        attempts_log.propagate = False
        try:
            yield
        finally:
            attempts_log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of one attempt; that nobody reads it must not end the worker."""
        try:
            self._tell(record)
        except Exception:
            self.handleError(record)

    def _tell(self, record: logging.LogRecord) -> None:
        attempt: Attempt = record.__dict__["attempt"]
        before, after = attempt.before, attempt.after
        assert before.lease is not None
        took = after.updated_at - before.lease.leased_at
        self._teller.tell(
            "attempt",
            f"{after.updated_at.astimezone():%H:%M:%S}  {show.harmless(after.task_id)}  …{after.id.hex[-8:]}  "
            f"{_ending(after)}  {show.span(took)}{_trouble(after)}",
            run_id=after.id,
            task_id=after.task_id,
            attempt=before.lease.attempt,
            status=after.status,
            seconds=took.total_seconds(),
            failure=after.failure and after.failure.message,
        )


def _ending(after: Run) -> str:
    status = show.coloured(after.status)
    if after.status == "queued":
        return f"{status} again, interrupted"
    return f"{status} until {after.due_at.astimezone():%H:%M:%S}" if after.due_at else status


def _trouble(after: Run) -> str:
    """What a failed attempt is to be mended by."""
    if after.failure is None or after.status not in ("failed", "retrying"):
        return ""
    lines = (after.failure.traceback or f"{after.failure.code}: {after.failure.message}").rstrip().splitlines()
    return "".join(f"\n    {show.harmless(line)}" for line in lines)


def _tell_start(teller: Teller, app: Runlane, asked: Work) -> None:
    registry, lane = app.registry, app.lane
    kept = "nothing is kept, every start begins empty" if lane.database.is_memory else "tables are up to date"
    lines = [f"{asked.named} on {lane.database.where} ({kept}), environment {app.environment}"]
    lines += [f"  {what:<10} {_some(names)}" for what, names in _definitions(registry, asked.queues).items()]
    if asked.lifeline is None:
        lines.append("working, without reloading; Ctrl-C stops")
    else:
        lines.append(f"working; changes of source in {asked.watched} reload; Ctrl-C stops")
    teller.tell(
        "started",
        "\n".join(lines),
        app=asked.named,
        lane=lane.name,
        keeps=not lane.database.is_memory,
        environment=app.environment,
        queues=list(asked.queues or registry.queues),
        tasks=list(registry.tasks),
        schedules=[entry.id for task in registry.tasks.values() for entry in task.schedules],
    )


def _definitions(registry: Registry, chosen: tuple[str, ...]) -> dict[str, list[str]]:
    limits = registry.limits()
    schedules = [entry for task in registry.tasks.values() for entry in task.schedules]
    return {
        "queues": [name + (f" (limit {limits[name]})" if name in limits else "") for name in chosen or registry.queues],
        "tasks": list(registry.tasks),
        "schedules": [
            f"{entry.id} {show.cadence_text(entry.cadence())}" + ("" if entry.enabled else " (disabled)")
            for entry in schedules
        ],
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return (", ".join(names[:_MOST]) or "none") + more


#: Frames that lie between the program and its mistake only for technical reasons.
_OURS = (str(Path(runlane.__file__).parent), str(Path(importlib.__file__).parent), "<frozen importlib")


def _tell_broken(teller: Teller, named: str, error: Exception) -> None:
    """Why the program does not start, and where in it that is."""
    cause = error.__cause__ or error
    seen = traceback.TracebackException.from_exception(cause)
    frames = [frame for frame in seen.stack if not frame.filename.startswith(_OURS)]
    seen.stack = traceback.StackSummary.from_list(frames)
    where = "".join(seen.format(chain=False)).rstrip() if frames or isinstance(cause, SyntaxError) else ""
    message = error.message if isinstance(error, RunlaneError) else f"{type(error).__name__}: {error}"
    message = message.removeprefix(f"--app {named}: ")
    block = "".join(f"\n    {line}" for line in where.splitlines())
    teller.tell("broken", f"{named} does not start: {message}{block}", app=named, message=message, traceback=where)
