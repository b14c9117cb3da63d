"""Commands against two runtimes on one database, as two processes would give them, beside the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule
from sqlalchemy import orm

import runlane
from runlane import Context, Fixed, NonRetryable, Queue, Retry, Runlane, SettableClock, StorageConflict, Trigger, task
from runlane.decisions import MAX_EVENTS, Failed, Interrupted, Released, Succeeded
from runlane.engine import lease
from runlane.engine.complete import Finished, complete
from runlane.errors import ConflictKind, LeaseLost
from runlane.lanes import Lane, lane_of
from runlane.projections.runs import Run
from runlane.values import Failure
from tests.stateful import invariants
from tests.stateful.model import LEASE, POLICIES, Model, ModelRun, Outcome, Wanted, retention

QUEUES = {"main": Queue("main", default=True), "aside": Queue("aside")}
RETRY = {
    name: Retry(policy.max_attempts, Fixed(policy.retry_delay or "1s"), jitter=0, max_lost=policy.max_lost)
    for name, policy in POLICIES.items()
}
MOST_RUNS = 12  # few runs with long histories find more than many that never move

seconds = st.sampled_from([1, 60, 600, 3600, 7200]).map(lambda n: timedelta(seconds=n))
outcomes = st.sampled_from(["succeed", "release", "fail", "succeed", "release", "fail", "give_up"]).flatmap(
    lambda kind: seconds.map(lambda by: Outcome(kind, by)) if kind == "release" else st.just(Outcome(kind))
)
delays = st.none() | st.none() | seconds
processes = st.sampled_from([0, 1])
keys = st.sampled_from(["red", "blue"])
ttls = st.sampled_from([None, "active", "1h", "3h"])
plain = st.builds(
    Wanted,
    task=st.sampled_from(list(POLICIES)),
    queue=st.sampled_from(list(QUEUES)),
    delay=delays,
    priority=st.sampled_from([0, 0, 5, -5]),
)
keyed = st.builds(
    Wanted,
    task=st.sampled_from(list(POLICIES)),
    key=keys,
    ttl=ttls,
    delay=delays,
)
wanted = plain | keyed


class Commands(RuleBasedStateMachine):
    """The rules; a lane's subclass says which databases the two processes have."""

    #: One lane per process; the same one for both where a database cannot be shared.
    lanes: ClassVar[tuple[Lane | str, Lane | str]]
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.clock = SettableClock()
        self.model = Model(self.clock())
        self.environment = f"example-{uuid4().hex}"  # what isolates one example from the next
        self.plan: Callable[[UUID], Outcome] = lambda _: Outcome("succeed")
        self.meanwhile: Callable[[UUID], None] | None = None
        self.apps = [self._process(0), self._process(1)]
        self.sessions: list[UUID | None] = [None, None]
        self.suspects: dict[UUID, dict[UUID, int]] = {}

    def teardown(self) -> None:
        for app in self.apps:
            app.close()

    # -- commands of applications

    @precondition(lambda self: len(self.model.runs) < MOST_RUNS)
    @rule(process=processes, wanted=wanted)
    def trigger(self, process: int, wanted: Wanted) -> None:
        found = self.apps[process].trigger(wanted.task, **options(wanted))
        self._triggered(self.model, [wanted], [found])

    @precondition(lambda self: self.model.owners and len(self.model.runs) < 2 * MOST_RUNS)
    @rule(process=processes, ttl=ttls, data=st.data())
    def trigger_a_key_again(self, process: int, ttl: str | None, data: st.DataObject) -> None:
        task, key = data.draw(st.sampled_from(sorted(self.model.owners)), "key")
        self.trigger(process, Wanted(task, key=key, ttl=ttl))

    @precondition(lambda self: self.model.retained() and len(self.model.runs) < 2 * MOST_RUNS)
    @rule(process=processes, ttl=ttls, lapsed=st.booleans(), data=st.data())
    def trigger_at_the_end_of_a_keys_retention(
        self, process: int, ttl: str | None, lapsed: bool, data: st.DataObject
    ) -> None:
        owner = data.draw(st.sampled_from(self.model.retained()), "owner")
        end = owner.created_at + retention(owner.wanted) - (timedelta(0) if lapsed else timedelta(microseconds=1))
        self.advance(max(end - self.model.now, timedelta(0)))
        self.trigger(process, Wanted(owner.wanted.task, key=owner.wanted.key, ttl=ttl))

    @precondition(lambda self: len(self.model.runs) < MOST_RUNS)
    @rule(process=processes, batch=st.lists(wanted, min_size=2, max_size=4))
    def trigger_many(self, process: int, batch: list[Wanted]) -> None:
        found = self.apps[process].trigger_many([Trigger(one.task, **options(one)) for one in batch])
        self._triggered(self.model, batch, found)

    @precondition(lambda self: self.model.runs)
    @rule(process=processes, batch=st.lists(wanted, min_size=1, max_size=3), data=st.data())
    def trigger_many_with_an_id_that_exists_writes_nothing(
        self, process: int, batch: list[Wanted], data: st.DataObject
    ) -> None:
        taken = data.draw(st.sampled_from(sorted(self.model.runs)), "taken")
        entries = [Trigger(one.task, **options(one)) for one in batch] + [Trigger("brief", run_id=taken)]
        with pytest.raises(StorageConflict) as refused:
            self.apps[process].trigger_many(entries)
        assert refused.value.kind is ConflictKind.RUN_EXISTS

    @precondition(lambda self: len(self.model.runs) < MOST_RUNS)
    @rule(
        process=processes,
        batches=st.lists(st.lists(wanted, min_size=1, max_size=2), min_size=1, max_size=3),
        commits=st.booleans(),
        by_session=st.booleans(),
    )
    def trigger_in_the_callers_transaction(
        self, process: int, batches: list[list[Wanted]], commits: bool, by_session: bool
    ) -> None:
        app, trial = self.apps[process], copy.deepcopy(self.model)
        with app.lane.database.engine.connect() as connection:
            caller = orm.Session(connection) if by_session else connection
            for batch in batches:
                found = app.trigger_many([Trigger(one.task, **options(one)) for one in batch], connection=caller)
                self._triggered(trial, batch, found)
            caller.commit() if commits else caller.rollback()
        if commits:
            self.model = trial

    @precondition(lambda self: len(self.model.runs) < MOST_RUNS)
    @rule(process=processes, task=st.sampled_from(list(POLICIES)), key=st.none() | keys, outcome=outcomes)
    def run_now(self, process: int, task: str, key: str | None, outcome: Outcome) -> None:
        owner = self.model.owner_of(task, key)
        self._executing(lambda _: outcome)
        done = self.apps[process].run_now(task, idempotency_key=key)
        session = self._session(process)
        assert done.executed == (owner is None)
        if owner is not None:
            assert done.run.id == owner
            return
        self.model.create(done.run.id, Wanted(task, key=key))
        self._finish(self.model.lease(done.run.id, session), outcome)

    # -- commands of workers

    @rule(process=processes, queues=st.none() | st.sampled_from(list(QUEUES)), outcome=outcomes)
    def execute_next(self, process: int, queues: str | None, outcome: Outcome) -> None:
        names = list(QUEUES) if queues is None else [queues]
        self._executing(lambda _: outcome)
        done = self.apps[process].execute_next([QUEUES[name] for name in names])
        for run in self.model.claimed(self._session(process), [done.id] if done else [], names, 1):
            self._finish(run, outcome)

    @precondition(lambda self: self.model.due(list(QUEUES)))
    @rule(target=claims, process=processes, outcome=outcomes, reclaim=st.booleans())
    def execute_next_for_longer_than_the_lease(self, process: int, outcome: Outcome, reclaim: bool) -> Any:
        taken: list[Run] = []

        def meanwhile(run_id: UUID) -> None:
            session = self._session(process)
            self.model.claimed(session, [run_id], list(QUEUES), 1)
            until = self.model.sessions.get(session, self.model.now)
            self.advance(until - self.model.now + timedelta(seconds=1))
            self.tick(1 - process)
            if reclaim:
                taken.extend(self._claim(1 - process, 1))

        self._executing(lambda _: outcome, meanwhile)
        with pytest.raises(LeaseLost):
            self.apps[process].execute_next()
        return multiple(*taken)

    @rule(target=claims, process=processes, limit=st.integers(1, 3))
    def claim_and_fall_silent(self, process: int, limit: int) -> Any:
        return multiple(*self._claim(process, limit))

    @rule(claim=claims, twice=st.tuples(outcomes, outcomes), process=processes)
    def complete_a_claim_late_and_twice(self, claim: Run, twice: tuple[Outcome, Outcome], process: int) -> None:
        assert claim.lease is not None
        held = (claim.lease.session_id, claim.lease.attempt)
        for outcome in twice:
            after = self._complete(process, Finished(claim, decided(outcome), RETRY[claim.task_id]))
            current = self.model.finish(claim.id, held, outcome)
            assert (after is not None) == current, "invariant 3: only the holder of the lease writes"

    @precondition(lambda self: self.model.due(list(QUEUES)))
    @rule(target=claims, process=processes, outcomes=st.tuples(outcomes, outcomes), reclaim=st.booleans())
    def complete_a_claim_that_was_taken_away(
        self, process: int, outcomes: tuple[Outcome, Outcome], reclaim: bool
    ) -> Any:
        stale = self._claim(process, 2)
        self.let_every_session_expire(1 - process)
        taken = self._claim(1 - process, 1) if reclaim else []
        for claim in stale:
            self.complete_a_claim_late_and_twice(claim, outcomes, process)
        return multiple(*stale, *taken)

    @rule(claim=claims)
    def interrupt_a_claim(self, claim: Run) -> None:
        finished = Finished(claim, Interrupted("worker_stopping"), RETRY[claim.task_id])
        after = self._complete(0, finished)
        assert claim.lease is not None
        held = (claim.lease.session_id, claim.lease.attempt)
        assert (after is not None) == (self.model.runs[claim.id].lease == held)
        if after is not None:
            self.model.give_back(claim.id, held)

    @rule(process=processes, chosen=st.lists(outcomes, min_size=1, max_size=4), concurrency=st.integers(1, 4))
    def drain(self, process: int, chosen: list[Outcome], concurrency: int) -> None:
        due = self.model.due(list(QUEUES))
        # By its place among all runs, as the order in which threads come by is nobody's to choose.
        places = {run_id: chosen[place % len(chosen)] for place, run_id in enumerate(self.model.runs)}
        self._executing(places.__getitem__)
        worker = self.apps[process].worker("drain", concurrency=concurrency, maintenance=False)
        worker.run()
        session = self._session(process)
        assert worker.completed == len(due)
        for run in due:
            self._finish(self.model.lease(run.id, session), places[run.id])

    @precondition(lambda self: any(run.due_at for run in self.model.runs.values()))
    @rule(process=processes, chosen=st.lists(outcomes, min_size=1, max_size=4))
    def drain_once_something_is_due(self, process: int, chosen: list[Outcome]) -> None:
        soonest = min(run.due_at for run in self.model.runs.values() if run.due_at is not None)
        self.advance(max(soonest - self.model.now, timedelta(0)))
        self.drain(process, chosen, 2)

    @rule(process=processes)
    def heartbeat(self, process: int) -> None:
        session = self._session(process)
        lives = self.apps[process]._runtime.session().beat()
        assert lives == (session in self.model.sessions)
        if not lives:
            self.sessions[process] = None  # it distrusts itself; the next need opens another
            return
        self.model.sessions[session] = self.model.now + LEASE
        # Nothing is under way between two steps: every lease is a stray once two beats have seen it.
        unknown, before = self.model.held_by(session), self.suspects.get(session, {})
        for run_id, attempt in unknown.items():
            if before.get(run_id) == attempt:
                self.model.give_back(run_id, (session, attempt))
        self.suspects[session] = unknown

    @rule(process=processes)
    def tick(self, process: int) -> None:
        report = self.apps[process].tick()
        assert report.errors == ()
        assert report.runs_recovered == self.model.recover()

    @rule(process=processes)
    def restart(self, process: int) -> None:
        self.apps[process].close()
        self.apps[process] = self._process(process)
        session, self.sessions[process] = self.sessions[process], None
        if session is not None and not self.model.held_by(session):
            self.model.sessions.pop(session, None)

    # -- time

    @rule(by=seconds)
    def advance(self, by: timedelta) -> None:
        self.model.now = self.clock.advance(by)

    @rule()
    def set_the_clock_back(self) -> None:
        self.model.now = self.clock.advance(timedelta(seconds=-30))

    @precondition(lambda self: any(run.lease for run in self.model.runs.values()))
    @rule(process=processes)
    def let_every_session_expire(self, process: int) -> None:
        self.advance(max(self.model.sessions.values(), default=self.model.now) - self.model.now)
        self.tick(process)

    # -- what holds after every step

    @invariant()
    def the_invariants_of_section_17_hold(self) -> None:
        stored = invariants.Stored.of(self.apps[0])
        for holds in invariants.HISTORIES:
            holds(stored)
        invariants.invariant_1_no_accepted_run_is_lost(stored, self.model)
        invariants.every_run_is_as_the_model_says(stored, self.model)

    # -- how it is done

    def _process(self, number: int) -> Runlane:
        def handle(payload: None, context: Context) -> Any:
            outcome = self.plan(context.run.id)
            if self.meanwhile is not None:
                self.meanwhile(context.run.id)
            match outcome.kind:
                case "fail":
                    raise RuntimeError("try again")
                case "give_up":
                    raise NonRetryable("never")
                case "release":
                    return context.release(outcome.delay)
            return {"attempt": context.attempt}

        return Runlane(
            lane_of(self.lanes[number]),
            queues=list(QUEUES.values()),
            tasks=[task(name, retry=retry)(handle) for name, retry in RETRY.items()],
            environment=self.environment,
            clock=self.clock,
            worker_id=f"process-{number}",
            # Real time never gets so far: sessions move when a rule moves them.
            heartbeat=LEASE / 2,
            lease_duration=LEASE,
        ).start()

    def _executing(self, plan: Callable[[UUID], Outcome], meanwhile: Callable[[UUID], None] | None = None) -> None:
        self.plan, self.meanwhile = plan, meanwhile

    def _session(self, process: int) -> UUID:
        """The session of a process, which opens at its first need of one."""
        session = self.apps[process]._runtime.session().holder.session_id
        if session != self.sessions[process]:
            # Its first one, or the one before was ended by maintenance, as a claim that comes to nothing finds out.
            assert self.sessions[process] not in self.model.sessions
            self.sessions[process] = session
            self.model.sessions[session] = self.model.now + LEASE
        return session

    def _claim(self, process: int, limit: int) -> list[Run]:
        app, session = self.apps[process], self._session(process)
        holder, queues = app._runtime.session().holder, list(QUEUES)
        claimed = app.lane.database.transact(
            lambda tx: lease.claim(tx, self.environment, holder, queues, list(POLICIES), limit, tx.now()), self.clock
        )
        self.model.claimed(session, [run.id for run in claimed], queues, limit)
        return claimed

    def _finish(self, run: ModelRun, outcome: Outcome) -> None:
        assert run.lease is not None
        assert self.model.finish(run.id, run.lease, outcome)

    def _complete(self, process: int, finished: Finished) -> Run | None:
        database = self.apps[process].lane.database
        return database.transact(lambda tx: complete(tx, [finished], tx.now(), MAX_EVENTS)[0], self.clock)

    @staticmethod
    def _triggered(model: Model, asked: list[Wanted], found: list[runlane.Triggered]) -> None:
        assert len(asked) == len(found)
        pairs = list(zip(asked, found, strict=True))
        for one, triggered in pairs:
            if triggered.outcome is runlane.TriggerOutcome.CREATED:
                model.create(triggered.run.id, one)
        for one, triggered in pairs:
            if triggered.outcome is not runlane.TriggerOutcome.CREATED:
                assert triggered.run.id == model.owner_of(one.task, one.key)
                assert triggered.run.status == model.runs[triggered.run.id].status


def options(wanted: Wanted) -> dict[str, Any]:
    """How a caller says what is wanted."""
    return {
        "queue": QUEUES[wanted.queue],
        "idempotency_key": wanted.key,
        "idempotency_ttl": wanted.ttl,
        "delay": wanted.delay,
        "priority": wanted.priority,
    }


def decided(outcome: Outcome) -> Succeeded | Failed | Released:
    """What an executor would have made of it."""
    match outcome.kind:
        case "succeed":
            return Succeeded()
        case "release":
            return Released(outcome.delay)
    return Failed(Failure("task_failed", "late", outcome.kind == "fail"))
