"""Two processes on one database, driven command by command beside the model, and checked after each.

A step is a command's name and the seed of everything it draws, so that a failing history can be made smaller by
leaving steps out, and be replayed from what is printed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from operator import attrgetter
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from runlane import AsyncRunlane, Context, NonRetryable, Runlane, RunlaneError, SettableClock
from runlane.projections.runs import Run
from tests.stateful.cast import QUEUE, RELEASES, STAGES, tasks_of
from tests.stateful.follower import Follower, Told
from tests.stateful.lanes import Stage
from tests.stateful.model import Refused
from tests.stateful.model_with_schedules import Model
from tests.stateful.outbox import Outbox, Row
from tests.stateful.post import NONSENSE
from tests.stateful.terms import LEASE, LIMITS, ModelRun, Outcome

#: Few active runs with long histories find more than many that never move.
MOST_ACTIVE = 12
#: One call in so many of the second process goes through the asynchronous face.
ASYNC = 25

Step = tuple[str, int]
Command = Callable[[Any, Random], None]
COMMANDS: dict[str, tuple[int, Command]] = {}


class Skip(Exception):
    """The command cannot be given as things are: no step was taken."""


def command(weight: int) -> Callable[[Command], Command]:
    """Make a method one of the commands, drawn as often as `weight` says."""

    def register(method: Command) -> Command:
        COMMANDS[method.__name__] = (weight, method)
        return method

    return register


class Machine:
    """What the commands share; one machine lives for one episode, in an environment of its own."""

    def __init__(self, stage: Stage, seed: int) -> None:
        rng = Random(seed)
        self.lanes = stage.lanes
        self.post = stage.post
        self.clock = SettableClock()
        self.environment = f"episode-{uuid4().hex}"
        self.max_events = rng.choice((10, 12, 14)) if rng.random() < 0.25 else 10_000
        self.model = Model(self.clock(), self.max_events, None if stage.post is None else Outbox())
        if stage.post is not None:
            stage.post.open(self.environment, rng)
        self.publishers: list[Any] = []
        self.eager = [rng.random() < 0.7, rng.random() < 0.7]
        self.reader = stage.reader
        self.follower = Follower(stage.reader, self.environment, LIMITS, self.max_events)
        self.claims: list[Run] = []
        self.returned: list[Run] = []
        self.unchecked: list[Told] = []
        self.sessions: list[UUID | None] = [None, None]
        self.suspects: dict[UUID, dict[UUID, int]] = {}
        self.plan: Callable[[Context], Outcome] = lambda _: Outcome("succeed")
        self.inside = False  # a handler
        self.escaped: BaseException | None = None
        STAGES[self.environment] = self._handle
        self.loop: asyncio.AbstractEventLoop | None = None
        self.deployed = [False, False]
        self.releases = [rng.randrange(len(RELEASES)), rng.randrange(len(RELEASES))]
        self.faces = [self.process(0), self.process(1)]

    # -- running steps

    def step(self, name: str, seed: int) -> int:
        """Give one command and check everything; how many steps that were, 0 if it could not be given.

        A command that consists of several is as many steps: everything is checked after each of them.
        """
        rng = Random(seed)
        self.rng = rng
        if self.post is not None:
            self.post.rng = Random(seed + 1)
        self.parts = 0
        self.move_time(rng)
        try:
            COMMANDS[name][1](self, rng)
        except Skip:
            assert not self.model.told, "a command that was not given changed something"
            return 0
        self.check()
        return self.parts + 1

    def then(self) -> None:
        """One part of a command is done, and another follows."""
        self.check()
        self.parts += 1

    def check(self) -> None:
        """What was appended is what the model expects, and what it changed is stored as it is folded."""
        if self.escaped is not None:
            raise self.escaped
        told, self.unchecked = self.seen(), []
        actual: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for one in told:
            actual[one.stream].append((one.type, one.actor))
        expected: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for stream, type, actor in self.model.told:
            expected[stream].append((type, actor))
        assert actual == expected, f"events: {_differing(actual, expected)} (actual, expected)"
        self.model.told.clear()
        for stream in actual:
            if stream in self.model.runs:
                self.compare(self.model.runs[stream])
        for run in self.returned:
            stored = self.follower.folds.get(run.id)
            is_past = stored is None or run.sequence < stored.sequence  # it was pruned, or has gone on since
            assert is_past or run == stored, "what was returned is not what is stored"
        self.returned.clear()
        if self.model.outbox is not None and self.post is not None:
            assert not self.post.calls, "something was published that was not to be"
            rows = {key: (row.status, row.due_at, row.attempts) for key, row in self.model.outbox.rows.items()}
            stored = self.reader.outbox(self.environment)
            assert stored == rows, f"outbox: {_differing(stored, rows)} (stored, model)"

    def announced(self, process: int, ids: Sequence[UUID]) -> None:
        """What a process does after the commit that made these runs: it publishes their wakeups, if it is eager."""
        if self.model.outbox is not None and self.eager[process]:
            self.published(self.model.outbox.take(self.model.now, ids))

    def published(self, rows: Sequence[Row], *, alone: bool = False) -> Counter[str]:
        """The transport was given the wakeups of these rows, and no others; how many rows got which status.

        Where one may be to blame for an answer that is none, maintenance gives it each `alone`.
        """
        counts = Counter[str]()
        if not rows:
            return counts
        assert self.post is not None
        assert self.model.outbox is not None
        call = {wakeup.run_id: (wakeup, status) for wakeup, status in self.post.calls.pop(0)}
        wanted = {row.run.id for row in rows}
        assert set(call) == wanted, f"published {set(call) - wanted} that were not to be, and not {wanted - set(call)}"
        if alone and len(rows) > 1 and NONSENSE in {status for _, status in call.values()}:
            each = [self.post.calls.pop(0) for _ in rows]
            assert all(len(one) == 1 for one in each)
            call = {wakeup.run_id: (wakeup, status) for ((wakeup, status),) in each}
            assert set(call) == wanted
        for row in rows:
            wakeup, status = call[row.run.id]
            assert (wakeup.environment, wakeup.queue) == (self.environment, row.run.wanted.queue)
            counts[self.model.outbox.settle(row, status, self.model.now)] += 1
        return counts

    def seen(self) -> list[Told]:
        """The events since the last check."""
        self.unchecked += self.follower.follow()
        return self.unchecked

    def compare(self, expected: ModelRun) -> None:
        """A run is as the model says."""
        run, wanted, source = self.follower.folds[expected.id], expected.wanted, expected.source
        created = run.created
        seen = (
            (run.status, run.due_at, run.created_at, run.updated_at, run.started_at, run.finished_at),
            (run.attempt_count, run.failure_count, run.retry_count, run.release_count, run.lost_count),
            None if run.lease is None else (run.lease.session_id, run.lease.attempt),
            (created.task_id, created.payload, created.queue, created.idempotency_key, created.singleton_key),
            (created.concurrency_key, created.priority, created.correlation_id),
            (run.source.type, run.source.source_run_id, run.source.parent_run_id, run.source.schedule_id),
            run.source.scheduled_for,
            None if run.cancellation is None else (run.cancellation.reason,),
            None if run.reservation is None else (run.reservation.expires_at,),
            run.failure.code if run.status == "failed" and run.failure is not None else None,
            run.result,
        )
        model = (
            (
                expected.status,
                expected.due_at,
                expected.created_at,
                expected.updated_at,
                expected.started_at,
                expected.finished_at,
            ),
            (expected.attempts, expected.failures, expected.retries, expected.releases, expected.losses),
            expected.lease,
            (wanted.task, wanted.payload, wanted.queue, wanted.key, wanted.singleton),
            (wanted.concurrency, wanted.priority, wanted.correlation),
            (source.type, source.run, source.parent, source.schedule),
            source.scheduled_for,
            expected.asked,
            expected.reserved,
            expected.code if expected.status == "failed" else None,
            {"attempt": expected.attempts} if expected.status == "succeeded" else None,
        )
        assert seen == model, (
            f"run {expected.id}: {_differing(dict(enumerate(seen)), dict(enumerate(model)))} (seen, model)"
        )

    # -- time

    def move_time(self, rng: Random) -> None:
        """Time passes before some steps: a little, far, or to an instant at which something becomes due."""
        draw = rng.random()
        if draw < 0.55:
            return
        if draw < 0.75:
            self.advance(timedelta(seconds=rng.choice((1, 60, 600, 3600))))
        elif draw < 0.77:
            self.advance(timedelta(seconds=-30))
        elif instants := self.instants():
            edge = rng.choice((timedelta(0), timedelta(0), timedelta(microseconds=-1)))
            self.advance(rng.choice(instants) + edge - self.model.now)

    def instants(self) -> list[Any]:
        """Instants to come that matter."""
        model, found = self.model, set()
        found.update(run.due_at for run in model.runs.values() if run.due_at is not None)
        found.update(table.next_at for table in model.schedules.values() if table.next_at is not None)
        found.update(model.sessions.values())
        return sorted(at for at in found if at > model.now)[:6]

    def advance(self, by: timedelta) -> None:
        """Move the clock of both processes."""
        self.model.now = self.clock.advance(by)

    # -- processes

    def process(self, number: int) -> AsyncRunlane:
        """A process starts, with the release that is deployed on it."""
        face = AsyncRunlane(
            self.lanes[number],
            queues=list(QUEUE.values()),
            tasks=tasks_of(self.releases[number], number),
            environment=self.environment,
            clock=self.clock,
            worker_id=f"process-{number}",
            # Real time never gets so far: sessions move when a command moves them.
            heartbeat=LEASE / 2,
            lease_duration=LEASE,
            max_events=self.max_events,
            dispatch="eager" if self.eager[number] else "deferred",
        )
        face._app.start()
        return face

    def app(self, process: int) -> Runlane:
        """The synchronous face of a process."""
        return self.faces[process]._app

    def call(self, process: int, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a public method of a process, now and then through the asynchronous face."""
        if process and not self.inside and self.rng.randrange(ASYNC) == 0:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
            return self.loop.run_until_complete(attrgetter(name)(self.faces[process])(*arguments, **options))
        return attrgetter(name)(self.app(process))(*arguments, **options)

    def refused(self, expected: Callable[[], Any], call: Callable[[], Any]) -> tuple[bool, Any, Any]:
        """Whether model and product both refuse, with one code; else what each of them came to."""
        try:
            result = expected()
        except Refused as refusal:
            code = refusal.args[0]
        else:
            return False, result, call()
        with pytest.raises(RunlaneError) as error:
            call()
        assert error.value.code == code
        return True, None, None

    def session(self, process: int) -> UUID:
        """The session of a process, which opens at its first need of one."""
        session = self.app(process)._runtime.session().holder.session_id
        if session != self.sessions[process]:
            # Its first one, or the one before was ended by maintenance, as a claim that comes to nothing finds out.
            assert self.sessions[process] not in self.model.sessions
            self.sessions[process] = session
            self.model.sessions[session] = self.model.now + LEASE
            self.model.workers[session] = f"worker:process-{process}"
        return session

    def close(self) -> None:
        """Both processes end."""
        for process in (0, 1):
            self.app(process).close()
            self.faces[process]._end_threads()
        if self.loop is not None:
            self.loop.close()
        del STAGES[self.environment]

    # -- drawing

    def needs(self, holds: Any) -> None:
        """A precondition of a command."""
        if not holds:
            raise Skip

    def active(self) -> list[ModelRun]:
        """The runs that have not ended, in the order of their creation."""
        return [run for run in self.model.runs.values() if run.finished_at is None]

    def one_of(self, rng: Random, runs: Sequence[ModelRun]) -> ModelRun:
        """Any of them."""
        self.needs(runs)
        return rng.choice(runs)

    # -- handlers

    def _handle(self, context: Context) -> Any:
        self.inside = True
        try:
            outcome = self.plan(context)
        except BaseException as error:
            self.escaped = error
            raise
        finally:
            self.inside = False
        if context.run.task_id == "hasty":
            return None
        match outcome.kind:
            case "fail":
                raise RuntimeError("try again")
            case "give_up":
                raise NonRetryable("never")
            case "release":
                return context.release(outcome.delay)
            case "stop":
                context.signal.raise_if_set()
        return {"attempt": context.attempt}

    # -- the end

    def ticks(self, process: int) -> None:
        """A maintenance pass; what it does is said where workers are."""
        raise NotImplementedError

    def look_at_everything(self) -> None:
        """The whole environment, read by every road there is, is as the model and the log say."""
        if self.post is not None and self.model.outbox is not None:
            self.post.kind = True
            self.advance(timedelta(minutes=6))
            self.ticks(0)
            self.check()
            states = {row.status for row in self.model.outbox.rows.values()}
            assert states <= {"published", "dead_lettered"}, "invariant 11: a wakeup was left behind"
        app, follower, model = self.app(0), self.follower, self.model
        verification = app.audit.verify()
        assert verification.differences == ()
        assert verification.runs == len(model.runs)
        assert app.audit.count() == {name: count for name, count in follower.counts.items() if count}
        rows: list[Run] = []
        cursor = None
        while not rows or cursor is not None:
            page = app.runs.list(limit=40, cursor=cursor, order="oldest")
            rows.extend(page.data)
            if (cursor := page.next_cursor) is None:
                break
        assert [run.id for run in rows] == sorted(model.runs), "invariant 1: no accepted run is lost"
        for run in rows:
            assert run == follower.folds[run.id]
            self.compare(model.runs[run.id])


def _differing(left: dict[Any, Any], right: dict[Any, Any]) -> dict[Any, tuple[Any, Any]]:
    """What differs, key by key."""
    keys = {**left, **right}
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}
