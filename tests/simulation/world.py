"""An episode: processes that work, die and come back, clients that ask, and what strikes them, all from one plan."""

from __future__ import annotations

import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

from attrs import frozen

from runlane import Context, NonRetryable, Runlane, SettableClock
from runlane.engine.complete import Finished
from runlane.engine.tick import TickReport
from runlane.errors import ErrorCode, RunlaneError, StorageUnavailable
from runlane.events import RunCreated, RunLeased, RunsPruned
from runlane.storage.transaction import Transaction
from tests.simulation.cast import ENVIRONMENT, LIMITS, PLAYED, QUEUES, TASKS
from tests.simulation.clients import Client, Record
from tests.simulation.kernel import Crash, Kernel, Process, activate
from tests.simulation.patching import Ids
from tests.simulation.plans import Operation, Plan
from tests.simulation.pulses import Pulses
from tests.simulation.rules import Rules
from tests.simulation.stage import Bells, Office, StagedDatabase, StagedLane, transport
from tests.simulation.strikes import Strikes
from tests.stateful.follower import Follower
from tests.stateful.reader import OfSqlite


class Told(logging.Handler):
    """What the product has to say of its errors: in no history, however bad, is there anything to be said."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Hear it, unless it is of a dead process, or about a wakeup that the post office gives back."""
        if not self._world.kernel.is_dead and record.name != "runlane.dispatch":
            raised = record.exc_info[1] if record.exc_info else None
            text = f"{record.name} says: {record.getMessage()}"
            if raised is not None:
                text += f" ({type(raised).__name__}: {raised})"
            error = AssertionError(text)
            error.__cause__ = raised
            self._world.kernel.fail(error)


@frozen
class Effect:
    """A handler was called: independent of the database, as an effect in the world is."""

    run_id: UUID
    attempt: int
    session_id: UUID
    process: str


class World:
    """All that there is in an episode."""

    def __init__(self, plan: Plan, database: StagedDatabase, ids: Ids) -> None:
        self.plan = plan
        self.database = database
        self.clock = SettableClock()
        self.kernel = Kernel(Random(plan.seed + 1), lambda seconds: self.clock.advance(timedelta(seconds=seconds)))
        activate(self.kernel)
        ids.rng = Random(plan.seed + 2)
        random.seed(plan.seed + 3)
        PLAYED[:] = [self]
        self.reader = OfSqlite(database)
        self.follower = Follower(self.reader, ENVIRONMENT, LIMITS, plan.max_events)
        self.rules = Rules(plan.max_events)
        self.pulses = Pulses(self)
        self.strikes = Strikes(self)
        self.bells = Bells(self.kernel)
        self.office = Office(self.kernel) if plan.delivers else None
        self.steps = 0
        self.tally = Counter[str]()
        self.is_kind = False
        self.processes: list[Process] = []
        self.effects: list[Effect] = []
        self.executed: set[tuple[UUID, int]] = set()
        self.records: list[Record] = []
        self.lines: dict[int, deque[tuple[Operation, Record]]] = {n: deque() for n in range(plan.clients)}
        #: The runs that clients were told of, in that order; those whose cancellation was acknowledged.
        self.known: list[UUID] = []
        self.cancelled: set[UUID] = set()
        self.pruned: set[UUID] = set()
        #: The runs that were ever made, by the token in their payload.
        self.made: dict[str, list[UUID]] = {}
        self._replaced: set[Process] = set()
        self._roles: dict[Process, Callable[[], object]] = {}
        self._told = Told(self)
        for operation in plan.operations:
            record = Record(operation.name)
            self.records.append(record)
            self.lines[operation.client].append((operation, record))

    # -- the course of an episode

    def begin(self) -> None:
        """Everybody enters."""
        logger = logging.getLogger("runlane")
        logger.addHandler(self._told)
        self.database.director = self.strikes
        for number in range(self.plan.workers):
            self._enter(partial(self._worker, number), f"w{number}")
        for number in range(self.plan.clients):
            self._enter(partial(self._client, number), f"c{number}")
        for number in range(self.plan.tickers):
            self._enter(self._ticker, f"t{number}")

    def end(self) -> None:
        """Everybody is gone."""
        self.kernel.end(self.processes)
        logging.getLogger("runlane").removeHandler(self._told)
        self.database.director = None
        PLAYED.clear()

    def heal(self) -> None:
        """No more faults, no more requests; whoever is stopped or cut off is so no longer."""
        self.is_kind = self.bells.are_kind = True
        if self.office is not None:
            self.office.is_kind = True
        self.strikes.clear()
        for line in self.lines.values():
            while len(line) > 1:
                line.pop()
        for process in self.processes:
            process.frozen_until = process.away_until = 0.0
            for fiber in process.fibers:
                fiber.away_until = 0.0
        self._enter(self._operator, "o0")

    def _enter(self, role: Callable[[Process], None], name: str) -> Process:
        process = Process(name)
        self.processes.append(process)
        self._roles[process] = partial(self._enter, role, name)
        self.kernel.spawn(process, partial(role, process), name)
        return process

    def replace(self, process: Process, seconds: float) -> None:
        """Another process takes its place after so many seconds."""
        if process not in self._replaced:
            self._replaced.add(process)
            self.kernel.kill(process)
            self.kernel.later(seconds, self._roles[process])

    # -- processes

    def _app(self, process: Process) -> Runlane:
        process.app = Runlane(
            StagedLane(self.database, transport(self.bells, process, self.office), "staged"),
            queues=QUEUES,
            tasks=TASKS,
            environment=ENVIRONMENT,
            dispatch="eager" if self.plan.eager else "deferred",
            clock=self.clock,
            worker_id=process.name,
            max_events=self.plan.max_events,
            heartbeat=timedelta(seconds=self.plan.heartbeat),
            lease_duration=timedelta(seconds=3 * self.plan.heartbeat),
        )
        return process.app

    def _worker(self, number: int, process: Process) -> None:
        app = self._app(process)
        try:
            worker = app.worker(
                concurrency=self.plan.concurrency,
                poll_interval=self.plan.interval,
                # A plan without a process for it leaves it to all workers.
                maintenance=self.plan.tickers == 0 or number == 0,
                maintenance_interval=self.plan.interval,
            )
            process.worker = worker
            worker.start()
        except StorageUnavailable:  # it ends with an error, and whoever looks after it starts it again
            self.replace(process, 1.0)
            raise Crash from None
        if self.office is not None:
            self.kernel.spawn(process, partial(self._consume, process), "consumer")
        if self.plan.helps:
            self.kernel.spawn(process, partial(self._help, process), "helper")

    def _consume(self, process: Process) -> None:
        office, rng = self.office, self.kernel.rng
        assert office is not None
        while True:
            self.kernel.sleep(0.2 + rng.random())
            while office.box:
                wakeup = office.box.pop(rng.randrange(len(office.box)))
                try:
                    process.app.execute_delivery(wakeup)
                except StorageUnavailable:  # it is delivered again
                    office.box.append(wakeup)
                    self.kernel.sleep(1.0)

    def _help(self, process: Process) -> None:
        """Another thread under the worker's session, so that one session may have several attempts of one run."""
        while True:
            self.kernel.sleep(0.2 + 2.0 * self.kernel.rng.random())
            try:
                process.app.execute_next()
            except RunlaneError as error:
                if not error.retryable and error.code is not ErrorCode.LEASE_LOST:
                    raise

    def _client(self, number: int, process: Process) -> None:
        self._app(process)
        Client(self, process, number).run()

    def _ticker(self, process: Process) -> None:
        self._app(process)
        while True:
            self.kernel.sleep(self.plan.interval * (0.5 + self.kernel.rng.random()))
            try:
                self.tick(process)
            except StorageUnavailable:
                self.tally["passes broken off"] += 1

    def tick(self, process: Process) -> TickReport:
        """One maintenance pass, in which no item is bad."""
        report: TickReport = process.app.tick()
        assert report.errors == (), report.errors
        return report

    def _operator(self, process: Process) -> None:
        """After the faults: what was paused goes on, and schedules make no more runs."""
        app = self._app(process)
        while any(self.lines.values()):  # the last thing that a client does may be to pause
            self.kernel.sleep(1.0)
        for queue in QUEUES:
            app.queues.resume(queue)
        for schedule in app.schedules.list():
            app.schedules.pause(schedule.schedule_id)

    # -- handlers

    def handle(self, context: Context) -> Any:
        """What every handler does: anything."""
        kernel, run = self.kernel, context.run
        rng = kernel.rng
        assert kernel.current is not None
        assert run.lease is not None
        place, token = (run.id, context.attempt), len(self.effects)
        self.effects.append(Effect(run.id, context.attempt, run.lease.session_id, kernel.current.process.name))
        if place in self.executed:
            kernel.fail(AssertionError(f"attempt {context.attempt} of run {run.id} was executed twice"))
        self.executed.add(place)
        draw, result = rng.random(), {"token": token}
        if self.is_kind:
            context.signal.wait(draw)
            return result
        seconds = 0.0 if draw < 0.4 else draw * 3 if draw < 0.8 else draw * 15 if draw < 0.97 else draw * 70
        if seconds and context.signal.wait(seconds) and rng.random() < 0.7:
            context.signal.raise_if_set()
        ends = rng.random()
        if ends < 0.05:
            child = f"{rng.getrandbits(64):016x}|g{rng.randrange(3)}"
            kernel.current.process.app.trigger(rng.choice(("plain", "stubborn")), child)
        if ends < 0.65:
            return result
        if ends < 0.8:
            raise RuntimeError("try again")
        if ends < 0.95:
            return context.release(timedelta(seconds=rng.choice((0.5, 3, 30))))
        raise NonRetryable("never")

    # -- what is seen

    def look(self, wrote: bool = True) -> None:
        """Follow the log: each event, and each row that it has changed, is as it must be.

        What a transaction has written that says it wrote nothing, or a caller in one of its own, is seen with the next.
        """
        try:
            self.pulses.committed()
            if not wrote:
                return
            for told in self.follower.follow():
                event = told.record.event
                self.tally["events"] += 1
                self.rules.see(told.record)
                if isinstance(event, RunCreated):
                    self.known.append(told.record.stream_id)
                    if isinstance(event.payload, str) and event.source.type in ("trigger", "run_now"):
                        self.made.setdefault(event.payload.partition("|")[0], []).append(told.record.stream_id)
                elif isinstance(event, RunLeased):
                    self.strikes.come_back(told.record.stream_id, event)
                elif isinstance(event, RunsPruned):
                    self._forget()
            if self.rules.expired:
                self.pulses.taken(self.rules.expired)
                self.rules.expired.clear()
        except Exception as error:
            self.kernel.fail(error)

    def _forget(self) -> None:
        ended = [id for id, run in self.follower.folds.items() if run.is_terminal]
        left = self.reader.rows(ended)
        gone = [id for id in ended if id not in left]
        self.pruned.update(gone)
        self.follower.forget(gone)
        self.rules.forget(gone)
        # A trigger whose answer was lost may make such a run again: its attempts are other ones.
        self.executed = {place for place in self.executed if place[0] not in self.pruned}

    def watch(self, real: Callable[..., Any], tx: Transaction, finished: Sequence[Finished], *rest: Any) -> Any:
        """``complete``, with a look at whose the lease is before, and at whether a row has changed that is not ours."""
        before = [self._lease(one) for one in finished]
        result = real(tx, finished, *rest)
        for one, (sequence, is_ours) in zip(finished, before, strict=True):
            if is_ours:
                continue
            self.tally["stale writes attempted"] += 1
            others = {other.run.id for other, (_, theirs) in zip(finished, before, strict=True) if theirs}
            if self._lease(one)[0] != sequence and one.run.id not in others:
                self.tally["stale writes accepted"] += 1
                self.kernel.fail(AssertionError(f"invariant 3: a stale write on run {one.run.id} was accepted"))
        return result

    def _lease(self, one: Finished) -> tuple[int | None, bool]:
        found = self.reader._execute(
            "select sequence, lease_session_id, attempt_count from runs where id = ?", (str(one.run.id),)
        ).fetchone()
        if found is None:
            return None, False
        lease = one.run.lease
        assert lease is not None
        return found[0], (found[1], found[2]) == (str(lease.session_id), lease.attempt)
