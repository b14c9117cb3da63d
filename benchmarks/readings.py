"""Ways to read the whole log, each in a process of its own, so that its memory can be told from everything else."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.audit_commands import COMMANDS, run
from benchmarks.counting import verified
from benchmarks.places import Place
from benchmarks.workers import SPAWN, beside
from runlane import Runlane
from runlane.export import import_events, replay
from runlane.readmodels import TaskHours

_BATCH = 1_000


@frozen
class Reading:
    """What a reading came to: seconds, events, and by how many MiB its process grew at most (Linux knows; else 0)."""

    took_s: float
    events: int
    grown_mib: float


def _verify(app: Runlane, _: Path) -> int:
    return verified(app)


def _as_of(app: Runlane, _: Path) -> int:
    return app.audit.as_of(datetime.now(UTC)).events


def _rebuild(app: Runlane, _: Path) -> int:
    if differences := app.audit.rebuild().differences:
        raise SystemExit(f"the rebuilt tables differ: {differences[:3]}")
    return _stored(app)


def _follow(app: Runlane, _: Path) -> int:
    return sum(len(batch) for batch in app.follow(batch=_BATCH, poll=None))


def _project(app: Runlane, _: Path) -> int:
    return app.projections.rebuild(TaskHours(), batch=_BATCH)


def _export(app: Runlane, folder: Path) -> int:
    return app.audit.export(folder / "log.jsonl").events


def _exported(app: Runlane, folder: Path) -> Path:
    app.audit.export(folder / "log.jsonl")
    return folder / "log.jsonl"


def _replay(_: Runlane, folder: Path) -> int:
    found = replay(folder / "log.jsonl")
    if found.problems:
        raise SystemExit(f"the export does not replay: {found.problems[:3]}")
    return found.events


def _import(_: Runlane, folder: Path) -> int:
    return import_events(folder / "log.jsonl", f"sqlite:///{folder / 'imported.db'}").events


READINGS: dict[str, Callable[[Runlane, Path], int]] = {
    "verify": _verify,
    "as-of": _as_of,
    "rebuild": _rebuild,
    "follow": _follow,
    "project": _project,
    "export": _export,
    "replay": _replay,
    "import": _import,
}
#: Those that read an export, which is made before they begin.
OF_EXPORTS = frozenset({"replay", "import"})


def read(place: Place, name: str) -> Reading:
    """Read the log of a place once, in a process of its own.

    Raises:
        SystemExit: it failed, or found that something is wrong.
    """
    reports: SimpleQueue[Reading] = SPAWN.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="runlane-bench-") as folder:
        if name in OF_EXPORTS:
            with place.app() as app:
                _exported(app, Path(folder))
        with beside(_measured, place, name, Path(folder), reports):
            pass
        return reports.get()


def _measured(ready: Any, place: Place, name: str, folder: Path, reports: SimpleQueue[Reading]) -> None:
    with place.app() as app:
        app.runs.count()
        ready()
        before, began = _resident_mib(), time.perf_counter()
        events = READINGS[name](app, folder)
        took = time.perf_counter() - began
        reports.put(Reading(took, events, _resident_mib() - before))


def command(place: Place, name: str) -> Reading:
    """Run one of ``COMMANDS`` once, in a process of its own; its events are not counted.

    Raises:
        SystemExit: it failed, or found that something is wrong.
    """
    reports: SimpleQueue[Reading] = SPAWN.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="runlane-bench-") as folder:
        arguments = []
        with place.app() as app:
            for before in COMMANDS[name].before:
                run(app, place.url, Path(folder), before(app, Path(folder)))
            arguments += COMMANDS[name].arguments(app, Path(folder))
        with beside(_timed, place, Path(folder), arguments, reports):
            pass
        return reports.get()


def _timed(ready: Any, place: Place, folder: Path, arguments: list[str], reports: SimpleQueue[Reading]) -> None:
    with place.app() as app:
        app.runs.count()
        ready()
        before, began = _resident_mib(), time.perf_counter()
        run(app, place.url, folder, arguments)
        reports.put(Reading(time.perf_counter() - began, 0, _resident_mib() - before))


def _resident_mib() -> float:
    """The most memory that this process has had at any time; what the parent had is not in it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _stored(app: Runlane) -> int:
    return sum(app.audit.count().values())
