"""Every public operation, as data: how it is called, and what has to be there before."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from attrs import field, frozen
from sqlalchemy import select

from runlane import AesGcm, AsyncRunlane, Queue, Runlane, Schedule, SettableClock, TickReport, task
from runlane.bulk import Bulk
from runlane.engine import lease
from runlane.engine.deliver import Delivery
from runlane.engine.lease import Holder
from runlane.engine.trigger import Triggered
from runlane.following import Batch
from runlane.projections.runs import Run
from runlane.pruning import Pruned
from runlane.readmodels import TaskHours
from runlane.sealing import Checkpointed
from runlane.storage import sessions, tables
from runlane.storage.rebuild import Rebuilt
from runlane.wakeup import Wakeup
from tests.engine.tasks import echo, flaky
from tests.support import SECOND, START, database_of

MAIN, TIGHT = Queue("main", default=True), Queue("tight", concurrency_limit=1000)


@task("keyed", idempotency_key=lambda payload: payload)
def keyed(payload: str) -> str:
    return payload


@task("doomed")
def doomed(payload: Any) -> None:
    raise ValueError("as always")


@task("bounded", queue=TIGHT)
def bounded(payload: Any) -> Any:
    return payload


@task("timed", schedules=[Schedule("every-second", every="1s")])
def timed(payload: Any) -> Any:
    return payload


HOURS = TaskHours()
TASKS = [echo, flaky, keyed, doomed, bounded, timed]
# With encrypted payloads, so that their keys are among what may be out of reach.
OPTIONS: dict[str, Any] = {"queues": [MAIN, TIGHT], "tasks": TASKS, "payload_codec": AesGcm(bytes(32))}

Prepared = tuple[tuple[Any, ...], dict[str, Any]]
Prepare = Callable[[Runlane, SettableClock], Prepared]


@frozen
class Operation:
    """A public call: its path from the application, and what makes its arguments and all they speak of."""

    name: str
    path: str
    prepare: Prepare = field(default=lambda app, clock: ((), {}))
    writes: bool = True
    #: Whether it is several transactions one after the other, so that a fault may leave it done in part.
    steps: bool = False

    def call(self, app: Runlane, arguments: Prepared) -> Any:
        """Call it on the sync face."""
        positional, named = arguments
        found: Any = app
        for part in self.path.split("."):
            found = getattr(found, part)
        done = found(*positional, **named)
        return done.run() if self.path == "worker" else next(done, None) if self.path == "follow" else done

    async def call_async(self, app: AsyncRunlane, arguments: Prepared) -> Any:
        """Call it on the async face."""
        positional, named = arguments
        found: Any = app
        for part in self.path.split("."):
            found = getattr(found, part)
        done = found(*positional, **named)
        if self.path == "follow":
            return await anext(done, None)
        return await (done.run() if self.path == "worker" else done)


def given(*positional: Any, **named: Any) -> Prepare:
    """Fixed arguments."""
    return lambda app, clock: (positional, named)


def queued(app: Runlane, clock: SettableClock) -> Prepared:
    """The id of a run that waits."""
    return (app.trigger(echo, 1).run.id,), {}


def ended(app: Runlane, clock: SettableClock) -> Prepared:
    """The id of a run that has succeeded."""
    return (app.run_now(echo, 1).run.id,), {}


def ended_unsealed(app: Runlane, clock: SettableClock) -> Prepared:
    """Something that no checkpoint has sealed."""
    ended(app, clock)
    return (), {}


def ended_and_sealed(app: Runlane, clock: SettableClock) -> Prepared:
    """The id of a run that a checkpoint has sealed."""
    prepared = ended(app, clock)
    app.audit.checkpoint()
    return prepared


def failed(app: Runlane, clock: SettableClock) -> Prepared:
    """The id of a run that has failed."""
    return (app.run_now(doomed, 1).run.id,), {}


def at_its_birth(app: Runlane, clock: SettableClock) -> Prepared:
    """A run, and its first event."""
    return ended(app, clock)[0], {"at_sequence": 1}


def now(app: Runlane, clock: SettableClock) -> Prepared:
    """A run, and this moment."""
    return ended(app, clock)[0], {"at": clock()}


def claimed(app: Runlane, clock: SettableClock) -> Prepared:
    """The id of a run leased to another process, which lives."""
    return (_lease(app, clock, timedelta(hours=1)).id,), {}


def abandoned(app: Runlane, clock: SettableClock) -> Prepared:
    """A run leased to a process that is gone, and a schedule that is due."""
    app.tick()
    _lease(app, clock, SECOND)
    clock.advance(SECOND)
    return (), {}


def _lease(app: Runlane, clock: SettableClock, life: timedelta) -> Run:
    run = app.trigger(echo, 1, priority=next(_RISING)).run  # before what earlier cases left
    holder = Holder(uuid4(), "another")

    def take(tx: Any) -> list[Run]:
        now = tx.now()
        sessions.open_session(tx, holder.session_id, app.environment, holder.worker_id, now, now + life)
        return lease.claim(tx, app.environment, holder, ["main"], ["echo"], 1, now)

    (taken,) = database_of(app).transact(take, clock)
    assert taken.id == run.id
    return taken


_RISING = count(100)


def several(make: Prepare) -> Prepare:
    """Some runs made by `make`, found by their correlation id."""

    def prepare(app: Runlane, clock: SettableClock) -> Prepared:
        mark = str(uuid4())
        for _ in range(2):
            (first, *rest), _ = make(_Marked(app, mark), clock)
            assert not rest
            assert isinstance(first, UUID)
        return (), {"correlation_id": mark}

    return prepare


class _Marked:
    """An application whose triggers carry a correlation id."""

    def __init__(self, app: Runlane, mark: str) -> None:
        self._app, self._mark = app, mark

    def trigger(self, *arguments: Any, **named: Any) -> Any:
        return self._app.trigger(*arguments, correlation_id=self._mark, **named)

    def run_now(self, *arguments: Any, **named: Any) -> Any:
        return self._app.run_now(*arguments, correlation_id=self._mark, **named)


def fresh_key(app: Runlane, clock: SettableClock) -> Prepared:
    """A payload that is an idempotency key nobody has."""
    return (keyed, str(uuid4())), {}


def kept_key(app: Runlane, clock: SettableClock) -> Prepared:
    """A key that an ended run keeps."""
    key = str(uuid4())
    app.run_now(keyed, key)
    return (keyed, key), {}


def freed_key(app: Runlane, clock: SettableClock) -> Prepared:
    """A key whose owner has failed."""
    key = str(uuid4())
    app.run_now(doomed, 1, idempotency_key=key)
    return (doomed, 1), {"idempotency_key": key}


def fresh_singleton(app: Runlane, clock: SettableClock) -> Prepared:
    """A singleton key and an idempotency key that nobody has."""
    return (echo, 1), {"singleton_key": str(uuid4()), "idempotency_key": str(uuid4())}


def fresh_id(app: Runlane, clock: SettableClock) -> Prepared:
    """A run id of the caller's own."""
    return (echo, 1), {"run_id": uuid4()}


def one_due(task: Any) -> Prepare:
    """A run that is due."""

    def prepare(app: Runlane, clock: SettableClock) -> Prepared:
        app.trigger(task, 1, priority=next(_RISING))
        return (), {}

    return prepare


def delivery(app: Runlane, clock: SettableClock) -> Prepared:
    """The wakeup of a run that is due."""
    run = app.trigger(echo, 1).run
    return (Wakeup(app.environment, run.id, run.queue, clock()),), {}


def three_due(app: Runlane, clock: SettableClock) -> Prepared:
    """Work for a worker that drains."""
    app.trigger_many(echo, [1, 2, 3])
    return ("drain",), {"maintenance": False}


def scheduled(move: str | None = None) -> Prepare:
    """The id of a schedule, moved where the operation has something to do."""

    def prepare(app: Runlane, clock: SettableClock) -> Prepared:
        app.tick()
        if move is not None:
            getattr(app.schedules, move)("every-second")
        return ("every-second",), {}

    return prepare


def queue(move: str | None) -> Prepare:
    """A queue, moved where the operation has something to do."""

    def prepare(app: Runlane, clock: SettableClock) -> Prepared:
        if move is not None:
            getattr(app.queues, move)(TIGHT)
        return (TIGHT,), {}

    return prepare


def old(app: Runlane, clock: SettableClock) -> Prepared:
    """Ended runs that are old enough to go."""
    ended(app, clock)
    kept_key(app, clock)
    clock.advance(SECOND)
    return (clock(),), {}


def old_to_archive(app: Runlane, clock: SettableClock) -> Prepared:
    """The same, and a folder to keep them in."""
    return old(app, clock)[0], {"archive": _folder()}


def archived(app: Runlane, clock: SettableClock) -> Prepared:
    """A folder with an archive, of a run that nobody else has prepared."""
    app.runs.cancel(app.trigger(echo, 1).run.id)
    clock.advance(SECOND)
    folder = _folder()
    assert app.runs.prune(clock(), statuses=["cancelled"], archive=folder).archive is not None
    return (folder,), {}


def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="runlane-export-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def to_file(app: Runlane, clock: SettableClock) -> Prepared:
    """A file that is not there yet."""
    return (_folder() / "export.jsonl",), {}


def subject(app: Runlane, clock: SettableClock) -> Prepared:
    """A subject that has a key."""
    name = str(uuid4())
    app.trigger(echo, 1, subject=name)
    return (name,), {}


def unfolded(app: Runlane, clock: SettableClock) -> Prepared:
    """A projection, and events that it has not seen."""
    app.project(HOURS, poll=None)
    app.trigger(echo, 1)
    return (HOURS,), {"poll": None}


def folded(app: Runlane, clock: SettableClock) -> Prepared:
    """A projection that has run."""
    name = f"hours_{uuid4().hex[:8]}"
    app.project(TaskHours(name), poll=None)
    return (name,), {}


OPERATIONS = [
    Operation("trigger", "trigger", given(echo, 1)),
    Operation("trigger with a key", "trigger", fresh_key),
    Operation("trigger with a freed key", "trigger", freed_key),
    Operation("trigger with a singleton key", "trigger", fresh_singleton),
    Operation("trigger with an id", "trigger", fresh_id),
    Operation("trigger that finds", "trigger", kept_key),
    Operation("trigger_many", "trigger_many", given(echo, [1, 2, 3])),
    Operation("run_now", "run_now", given(echo, 1), steps=True),
    Operation("run_now with a key", "run_now", fresh_key, steps=True),
    Operation("run_now on a bounded queue", "run_now", given(bounded, 1), steps=True),
    Operation("execute_next", "execute_next", one_due(echo), steps=True),
    Operation("execute_next that fails", "execute_next", one_due(flaky), steps=True),
    Operation("execute_next on a bounded queue", "execute_next", one_due(bounded), steps=True),
    Operation("execute_delivery", "execute_delivery", delivery, steps=True),
    Operation("worker", "worker", three_due, steps=True),
    Operation("tick", "tick", abandoned, steps=True),
    Operation("runs.cancel", "runs.cancel", queued),
    Operation("runs.cancel of a running one", "runs.cancel", claimed),
    Operation("runs.rerun", "runs.rerun", ended),
    Operation("runs.retry", "runs.retry", failed),
    Operation("runs.cancel_many", "runs.cancel_many", several(queued), steps=True),
    Operation("runs.rerun_many", "runs.rerun_many", several(ended), steps=True),
    Operation("runs.retry_many", "runs.retry_many", several(failed), steps=True),
    Operation("runs.prune", "runs.prune", old),
    Operation("runs.prune into an archive", "runs.prune", old_to_archive),
    Operation("idempotency_keys.reset", "idempotency_keys.reset", kept_key),
    Operation("schedules.pause", "schedules.pause", scheduled("resume")),
    Operation("schedules.resume", "schedules.resume", scheduled("pause")),
    Operation("schedules.trigger", "schedules.trigger", scheduled()),
    Operation("queues.pause", "queues.pause", queue("resume")),
    Operation("queues.resume", "queues.resume", queue("pause")),
    Operation("runs.get", "runs.get", ended, False),
    Operation("runs.get of an event", "runs.get", at_its_birth, False),
    Operation("runs.get of an instant", "runs.get", now, False),
    Operation("runs.list", "runs.list", given(limit=2), False),
    Operation("runs.count", "runs.count", given(), False),
    Operation("runs.events", "runs.events", ended, False),
    Operation("runs.attempts", "runs.attempts", ended, False),
    Operation("runs.why", "runs.why", queued, False),
    Operation("runs.find_active", "runs.find_active", given(echo, singleton_key="x"), False),
    Operation("runs.find_current", "runs.find_current", given(echo, "x"), False),
    Operation("runs.wait", "runs.wait", ended, False),
    Operation("runs.prune, dry", "runs.prune", given("1d", dry_run=True), False),
    Operation("schedules.list", "schedules.list", given(), False),
    Operation("schedules.get", "schedules.get", scheduled(), False),
    Operation("schedules.preview", "schedules.preview", scheduled(), False),
    Operation("schedules.occurrences", "schedules.occurrences", scheduled(), False),
    Operation("queues.list", "queues.list", given(), False),
    Operation("audit.count", "audit.count", given(), False),
    Operation("audit.verify", "audit.verify", given(), False),
    Operation("audit.verify of a run", "audit.verify", ended, False),
    Operation("audit.checkpoint", "audit.checkpoint", ended_unsealed),
    Operation("audit.prove", "audit.prove", ended_and_sealed, False),
    Operation("audit.as_of", "audit.as_of", given(START), False),
    Operation("audit.diff", "audit.diff", ended, False),
    Operation("audit.timeline", "audit.timeline", ended, False),
    Operation("audit.who", "audit.who", given(actor="app"), False),
    Operation("audit.who of a key", "audit.who", given(key="x"), False),
    Operation("audit.simulate", "audit.simulate", given(workers=2), False),
    Operation("audit.repair", "audit.repair", ended, False),  # that these two write is seen in test_repairs.py
    Operation("audit.rebuild", "audit.rebuild", given(), False),
    Operation("audit.rebuild, dry", "audit.rebuild", given(swap=False), False),
    Operation("audit.export", "audit.export", to_file, False),
    Operation("audit.erase", "audit.erase", subject),
    Operation("audit.rewrap", "audit.rewrap", given(), False),
    Operation("audit.archives", "audit.archives", archived, False),
    Operation("doctor", "doctor", given(), False),
    Operation("follow", "follow", given(poll=None), False),
    Operation("follow of a name", "follow", given("name:x", poll=None), False),
    Operation("project", "project", unfolded, steps=True),
    Operation("projections.list", "projections.list", given(), False),
    Operation(
        "projections.read", "projections.read", given(lambda c: c.execute(select(tables.log_epochs)).first()), False
    ),
    Operation("projections.rebuild", "projections.rebuild", given(HOURS), steps=True),
    Operation("projections.remove", "projections.remove", folded),
]
#: These are called before anything else works.
FIRST = [Operation("start", "start", given(), False), Operation("migrate", "migrate", given(), False)]


def shape(result: Any) -> Any:
    """What a result says, without ids and instants."""
    match result:
        case Triggered():
            return result.outcome, result.run.status
        case Delivery():
            return result.outcome, result.reason, None if result.run is None else result.run.status
        case Run():
            return result.status, result.attempt_count, result.failure_count
        case list() | tuple():
            return [shape(one) for one in result]
        case Bulk():
            return shape(result.changed), len(result.refused)
        case Pruned():
            return result.runs > 0, result.events > 0
        case Checkpointed():
            return result.new, result.checkpoint is not None
        case Rebuilt():
            return result.rows, result.swapped
        case TickReport():
            return result.runs_recovered, result.schedules_fired, result.errors
        case Batch():
            return len(result) > 0
        case Mapping() | None | bool() | int():
            return result
    return type(result), getattr(result, "executed", None), getattr(result, "paused", None)


def run_async(work: Callable[[], Any]) -> Any:
    """Await what `work` returns, on a loop of its own."""
    return asyncio.run(work())
