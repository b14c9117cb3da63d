"""What handlers do, and what happens to their runs meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from runlane import Actor, Context
from runlane.errors import LeaseLost
from tests.stateful.machine import Machine
from tests.stateful.terms import LEASE, ModelRun, Outcome, Source, Wanted

KINDS = ("succeed", "release", "fail", "succeed", "release", "fail", "give_up", "stop")
ANN = Actor.operator("ann")


def outcome_of(rng: Random) -> Outcome:
    """Any way in which an attempt may end."""
    kind = rng.choice(KINDS)
    delay = timedelta(seconds=rng.choice((1, 60, 600, 3600))) if kind == "release" else timedelta(0)
    return Outcome(kind, delay, "attempt_timeout" if kind == "fail" and rng.random() < 0.1 else "task_failed")


class Acting(Machine):
    """Attempts that a public call executes."""

    def execute(
        self, rng: Random, process: int, begin: Callable[[UUID], ModelRun], call: Callable[[], Any]
    ) -> tuple[Any, UUID | None]:
        """Make `call`, in which at most one handler runs; what it returned, and which run was executed.

        Args:
            begin: tells the model which run was leased to the process.
        """
        outcome, during, ended = outcome_of(rng), rng.random(), []

        def act(context: Context) -> Outcome:
            run, does = begin(context.run.id), Outcome(outcome.kind, outcome.delay)
            lease = run.lease
            if run.wanted.task == "hasty":
                does = Outcome("fail", code="attempt_timeout")
            elif during < 0.4:
                self.meanwhile(rng, process, context, run)
            if does.kind == "stop" and not context.signal.is_set():
                does = Outcome("succeed")
            ended.append((run.id, lease, does))
            return does

        self.plan = act
        try:
            done, lost = call(), False
        except LeaseLost:
            done, lost = None, True
        if self.escaped is not None:
            raise self.escaped
        if not ended:
            return done, None
        ((run_id, lease, does),) = ended
        assert self.model.finish(run_id, lease, does) is not lost, "the attempt's outcome was dropped, or was not"
        return done, run_id

    def meanwhile(self, rng: Random, process: int, context: Context, run: ModelRun) -> None:
        """Something happens while a handler runs."""
        draw = rng.random()
        if draw < 0.45:
            self.cancelled_meanwhile(rng, process, context, run)
        elif draw < 0.7:
            self.triggers_a_child(rng, process, run)
        else:
            self.outlives_its_lease(rng, process)

    def cancelled_meanwhile(self, rng: Random, process: int, context: Context, run: ModelRun) -> None:
        """Somebody cancels the run, here or elsewhere; its handler hears of it at once, or at the next heartbeat."""
        by = rng.randrange(2)
        reason = rng.choice((None, "enough"))
        cancelled = self.app(by).runs.cancel(run.id, actor=ANN, reason=reason)
        self.model.cancel(run.id, "operator:ann", reason)
        assert cancelled.status == "cancellation_requested"
        self.then()
        assert context.is_cancellation_requested() == (by == process)
        if rng.random() < 0.5:
            lives = self.beat(process, executing={run.id: context.attempt})
            assert context.is_cancellation_requested() or not lives
            self.then()

    def triggers_a_child(self, rng: Random, process: int, run: ModelRun) -> None:
        """A handler triggers a run, which records its parent and inherits its correlation id."""
        asked = Wanted("brief", rng.choice(("red", "blue")), correlation=rng.choice((None, None, "own")))
        found = self.app(process).trigger(asked.task, asked.payload, correlation_id=asked.correlation)
        correlation = asked.correlation or run.wanted.correlation
        wanted = Wanted(asked.task, asked.payload, correlation=correlation).settled()
        self.model.create(found.run.id, wanted, Source(parent=run.id), "application:app")
        self.announced(process, [found.run.id])
        self.then()

    def outlives_its_lease(self, rng: Random, process: int) -> None:
        """The process is held up until its session has expired, and the other one takes the run."""
        session, other = self.sessions[process], 1 - process
        assert session is not None
        end = self.model.sessions.get(session, self.model.now)
        self.advance(max(end - self.model.now, timedelta(0)) + rng.choice((timedelta(0), timedelta(seconds=1))))
        self.ticks(other)
        self.then()
        if rng.random() < 0.5:
            self.claim_some(other, 1)
            self.then()

    def beat(self, process: int, executing: dict[UUID, int]) -> bool:
        """A heartbeat: the session is extended, and leases that the process does not know twice are given back."""
        session = self.session(process)
        lives = self.app(process)._runtime.session().beat()
        assert lives == (session in self.model.sessions)
        if not lives:
            self.sessions[process] = None  # it distrusts itself; the next need opens another
            return False
        self.model.sessions[session] = self.model.now + LEASE
        held, before = self.model.held_by(session), self.suspects.get(session, {})
        unknown = {id: attempt for id, attempt in held.items() if executing.get(id) != attempt}
        for run_id, attempt in unknown.items():
            if before.get(run_id) == attempt:
                self.model.finish(run_id, (session, attempt), Outcome("stop"))
        self.suspects[session] = unknown
        return True

    def claim_some(self, process: int, limit: int) -> None:
        raise NotImplementedError
