"""The commands of workers: claims, outcomes early and late, heartbeats, maintenance; processes that end and begin."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from uuid import UUID

from runlane import TickReport
from runlane.decisions import Failed, Interrupted, Released, Succeeded
from runlane.decisions import Outcome as Decided
from runlane.engine import lease
from runlane.engine.complete import Finished, complete
from runlane.events import ScheduleFired
from runlane.projections.runs import Run
from runlane.values import Failure
from tests.stateful.acting import Acting, outcome_of
from tests.stateful.cast import KNOWN, QUEUE, RELEASES, RETRY
from tests.stateful.machine import command
from tests.stateful.terms import QUEUES, ModelRun, Outcome


def decided(outcome: Outcome, attempt: int) -> Decided:
    """What an executor would have made of it."""
    match outcome.kind:
        case "succeed":
            return Succeeded({"attempt": attempt})
        case "release":
            return Released(outcome.delay)
        case "stop":
            return Interrupted("worker_stopping")
    return Failed(Failure(outcome.code, "late", outcome.kind == "fail"))


#: The events that an outcome may come to, cancellations apart.
SAID = {
    "succeed": ("run.succeeded",),
    "release": ("run.released",),
    "fail": ("run.retry_scheduled",),
    "give_up": (),
    "stop": ("run.interrupted",),
}


class Workers(Acting):
    """Commands of worker processes."""

    @command(6)
    def execute_next(self, rng: Random) -> None:
        process = rng.randrange(2)
        queues = QUEUES if rng.random() < 0.7 else tuple(rng.sample(QUEUES, rng.randint(1, 3)))
        session = self.session(process)
        is_open = session in self.model.sessions
        due = self.model.claimable(queues, KNOWN[process], 1)

        def begin(id: UUID) -> ModelRun:
            assert [run.id for run in due] == [id], f"another run was to be claimed first: {due}, {self.model.runs[id]}"
            (best,) = due
            # A claim finds out that maintenance has ended its session, and opens another.
            self.model.lease(best, session if is_open else self.session(process))
            return best

        asked = None if queues is QUEUES and rng.random() < 0.5 else [QUEUE[name] for name in queues]
        done, executed = self.execute(rng, process, begin, lambda: self.call(process, "execute_next", asked))
        assert (executed is None) == (not due)
        if done is not None:
            self.returned.append(done)
        self.session(process)

    @command(11)
    def claim_and_fall_silent(self, rng: Random) -> None:
        process = rng.randrange(2)
        self.needs(self.model.claimable(QUEUES, KNOWN[process], 1))
        self.claim_some(process, rng.randint(1, 3))

    @command(30)
    def finish_a_claim(self, rng: Random) -> None:
        self.needs(self.claims)
        self.finish(rng, rng.choice(self.claims))

    @command(2)
    def finish_a_claim_twice(self, rng: Random) -> None:
        self.needs(self.claims)
        claim = rng.choice(self.claims)
        self.finish(rng, claim)
        self.then()
        self.finish(rng, claim)

    @command(1)
    def finish_claims_that_were_taken_away(self, rng: Random) -> None:
        process = rng.randrange(2)
        self.needs(self.model.claimable(QUEUES, KNOWN[process], 1))
        stale = self.claim_some(process, 2)
        self.then()
        self.let_sessions_expire(1 - process)
        if rng.random() < 0.5:
            self.then()
            self.claim_some(rng.randrange(2), 1)
        for claim in stale:
            self.then()
            self.finish(rng, claim)

    @command(1)
    def finish_a_claim_that_the_session_has_once_more(self, rng: Random) -> None:
        self.needs(self.claims)
        claim = rng.choice(self.claims)
        assert claim.lease is not None
        process = int(claim.lease.worker_id[-1])
        self.needs(self.sessions[process] == claim.lease.session_id)
        self.finish(rng, claim)
        self.then()
        run = self.model.runs.get(claim.id)
        if run is not None and run.due_at is not None:
            self.advance(max(run.due_at - self.model.now, timedelta(0)))
            self.claim_some(process, 3)
            self.then()
        self.finish(rng, claim)

    def finish(self, rng: Random, claim: Run) -> None:
        """An outcome arrives, in time or not: only the holder of the lease writes."""
        outcome = outcome_of(rng)
        assert claim.lease is not None
        finished = Finished(claim, decided(outcome, claim.lease.attempt), RETRY[claim.task_id])
        database, wakes = self.lanes[rng.randrange(2)].database, self.app(0).registry.wakes
        (after,) = database.transact(lambda tx: complete(tx, [finished], tx.now(), self.max_events, wakes), self.clock)
        held = (claim.lease.session_id, claim.lease.attempt)
        if self.model.finish(claim.id, held, outcome):
            assert after is not None, "the holder of the lease could not write"
        else:  # what was said before, perhaps in a commit that nobody heard of, may be said again
            assert after is None or self.was_said(claim, outcome), "invariant 3: a stale holder has written"
        self.returned += [] if after is None else [after]
        if rng.random() < 0.5 and claim in self.claims:
            self.claims.remove(claim)

    def was_said(self, claim: Run, outcome: Outcome) -> bool:
        """Whether the attempt of a claim ended as it is said to end once more."""
        assert claim.lease is not None
        run = self.model.runs[claim.id]
        since = [event for event in run.history[claim.sequence :] if event[0] != "run.cancellation_requested"]
        ends = {"run.cancelled"} if outcome.kind in ("succeed", "release", "stop") else {"run.failed"}
        ends |= {"run.failed"} if run.code == "history_limit" else set()  # whatever the handler came to
        return bool(since) and since[0] in {
            (type, f"worker:{claim.lease.worker_id}") for type in ends | set(SAID[outcome.kind])
        }

    def claim_some(self, process: int, limit: int) -> list[Run]:
        """A worker claims up to `limit` runs and says no more about them."""
        session, app, due = self.session(process), self.app(process), []
        if session in self.model.sessions:
            due = self.model.claimable(QUEUES, KNOWN[process], limit)
        holder, limits = app._runtime.session().holder, app.registry.limits()
        claimed = app.lane.database.transact(
            lambda tx: lease.claim(tx, self.environment, holder, QUEUES, list(KNOWN[process]), limit, tx.now(), limits),
            self.clock,
        )
        assert [run.id for run in claimed] == [run.id for run in due], "claims come in order"
        for run in due:
            self.model.lease(run, session)
        self.claims = [*self.claims[-8:], *claimed]
        return claimed

    @command(1)
    def drain(self, rng: Random) -> None:
        process = rng.randrange(2)
        session = self.session(process)
        self.needs(session in self.model.sessions and len(self.active()) > 2)
        drawn = [outcome_of(rng) for _ in range(4)]
        outcomes = [Outcome("succeed"), *(Outcome(one.kind, one.delay) for one in drawn if one.kind != "stop")]
        # By its place among all runs, as the order in which threads come by is nobody's to choose.
        places = {id: outcomes[place % len(outcomes)] for place, id in enumerate(self.model.runs)}
        self.plan = lambda context: places[context.run.id]
        due = self.model.claimable(QUEUES, KNOWN[process], 100)
        done = 0
        worker = self.app(process).worker("drain", concurrency=rng.randint(1, 4), maintenance=False)
        worker.run()
        while due:
            for run in due:
                self.model.lease(run, session)
                held = run.lease
                assert held is not None
                is_late = run.wanted.task == "hasty"
                self.model.finish(run.id, held, Outcome("fail", code="attempt_timeout") if is_late else places[run.id])
            done += len(due)
            due = self.model.claimable(QUEUES, KNOWN[process], 100)  # behind those that a limit held back
        assert worker.completed == done

    @command(6)
    def heartbeat(self, rng: Random) -> None:
        self.beat(rng.randrange(2), executing={})

    @command(1)
    def tick(self, rng: Random) -> None:
        self.ticks(rng.randrange(2))

    @command(1)
    def let_every_session_expire(self, rng: Random) -> None:
        self.needs(any(run.lease for run in self.model.runs.values()))
        self.let_sessions_expire(rng.randrange(2))

    def let_sessions_expire(self, process: int) -> None:
        """Their time runs out, and a process notices."""
        self.advance(max([self.model.now, *self.model.sessions.values()]) - self.model.now)
        self.ticks(process)

    def ticks(self, process: int) -> None:
        """A maintenance pass: recover, then deploy if it is the process's first, then fire what is due."""
        report = self.call(process, "tick")
        assert report.errors == (), report.errors
        assert not report.more
        recovered = (report.sessions_expired, report.runs_recovered, report.cancellations_finalized)
        assert recovered == self.model.recover()
        if self.model.outbox is not None:
            assert report.reservations_expired == self.model.expire_reservations()
        self.schedules_fire(process, report)
        if self.model.outbox is None:
            return
        assert report.deliveries_requested == self.model.request_deliveries()
        assert report.slots_reserved == self.model.reserve(KNOWN[process])
        self.model.outbox.look_again(self.model.now)
        counts = self.published(self.model.outbox.take(self.model.now), alone=True)
        flushed = (report.wakeups_published, report.wakeups_failed, report.wakeups_dead_lettered)
        assert flushed == (counts["published"], counts["failed"], counts["dead_lettered"])

    def schedules_fire(self, process: int, report: TickReport) -> None:
        """The first pass of a process deploys its schedules; each fires what is due."""
        release, changed = RELEASES[self.releases[process]], 0
        if not self.deployed[process]:
            changed = self.model.deploy(release, KNOWN[process])
            self.deployed[process] = True
        assert report.schedules_changed == changed
        tasks = {planned.task for planned in release}
        due = {table.planned.id: table for table in self.model.due_schedules() if table.planned.task in tasks}
        assert report.schedules_fired == len(due)
        if not due:
            return
        fired = {
            told.stream[1]: told.record.event.run_id
            for told in self.seen()
            if isinstance(told.record.event, ScheduleFired)
        }
        for id, table in due.items():
            self.model.fire(table, fired[id])

    @command(1)
    def restart(self, rng: Random) -> None:
        process = rng.randrange(2)
        face = self.faces[process]
        face._app.close()
        face._end_threads()
        session, self.sessions[process] = self.sessions[process], None
        if session is not None and not self.model.held_by(session):
            self.model.sessions.pop(session, None)
        self.begin_again(rng, process)

    @command(1)
    def die(self, rng: Random) -> None:
        """A process vanishes without a word; its session stays until it expires."""
        process = rng.randrange(2)
        session = self.faces[process]._app._runtime._session
        if session is not None:
            session._stop.set()
        self.faces[process]._end_threads()
        self.sessions[process] = None
        self.begin_again(rng, process)

    def begin_again(self, rng: Random, process: int) -> None:
        """Another process takes its place, perhaps with another release."""
        self.releases[process] = rng.randrange(len(RELEASES))
        self.deployed[process] = False
        self.eager[process] = rng.random() < 0.7
        self.faces[process] = self.process(process)
