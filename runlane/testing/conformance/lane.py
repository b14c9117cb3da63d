"""The suite for a lane: the whole life of runs through ``Runlane`` and ``AsyncRunlane``, as its users see it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from runlane.aio import AsyncRunlane
from runlane.app import Runlane
from runlane.capabilities import Capability
from runlane.clock import SettableClock
from runlane.engine.deliver import DeliveryOutcome, IgnoreReason
from runlane.errors import CapabilityUnsupported, PayloadInvalid, QueueCapacityExceeded, RunStateInvalid
from runlane.lanes import Lane
from runlane.projections.runs import Run
from runlane.storage import tables
from runlane.tasks import Queue, Task, task
from runlane.testing.assertions import drain
from runlane.testing.conformance import jobs
from runlane.testing.conformance.cases import PATIENCE, START, needs, skip_unpromised
from runlane.testing.conformance.refusals import CALLS, DEFINITIONS
from runlane.testing.waits import wait_for_status
from runlane.values import RunStatus, TriggerOutcome
from runlane.wakeup import OutboxStatus, Wakeup

NEVER = 3600.0  # seconds: who depends on polling does not see the end of the case
PLAIN: Sequence[Task[..., Any]] = (
    jobs.echo,
    jobs.asynchronous,
    jobs.second_time,
    jobs.polling,
    jobs.stopping,
)


class LaneConformance:
    """What every lane has to do; give it a fixture `lane` that returns one on an empty place, not started.

    A second runtime works on `another_lane`, the same object unless you override that fixture with one that has
    connections of its own to the same place.
    """

    @pytest.fixture
    def lane(self) -> Lane:
        """The lane, not started: yours to provide."""
        pytest.fail("a subclass of LaneConformance needs a fixture `lane` that returns a Lane", pytrace=False)

    @pytest.fixture
    def another_lane(self, lane: Lane) -> Lane:
        """The lane of a second runtime."""
        return lane

    @pytest.fixture
    def clock(self) -> SettableClock:
        """A clock that stands still."""
        return SettableClock(START)

    @pytest.fixture
    def make(
        self, request: pytest.FixtureRequest, lane: Lane, clock: SettableClock
    ) -> Iterator[Callable[..., Runlane]]:
        """Makes started runtimes; at the end every history has to fold to what is stored."""
        skip_unpromised(request, lane.capabilities)
        made: list[Runlane] = []

        def runtime(*tasks: Task[..., Any], on: Lane = lane, **options: Any) -> Runlane:
            queues: list[Queue] = [jobs.QUEUE, *([jobs.FEW] if jobs.few in tasks else [])]
            app = Runlane(on, queues=queues, tasks=tasks or PLAIN, **{"clock": clock, **options})
            if not lane.migrates_itself:
                app.migrate()
            made.append(app)
            return app.start()

        yield runtime
        for app in made:
            if Capability.READS_RUN_HISTORY in lane.capabilities:
                found = app.audit.verify()
                assert found.differences == (), f"what is stored is not what the log folds to: {found.differences}"
            app.close()

    @needs(Capability.LEASES_RUNS)
    def test_a_run_is_made_executed_and_kept(self, make: Callable[..., Runlane]) -> None:
        app = make()
        triggered = app.trigger(jobs.echo, {"a": [1, None, "ä"]}, correlation_id="c", priority=3, meta={"m": 1})
        assert triggered.outcome is TriggerOutcome.CREATED
        assert app.runs.get(triggered.run.id) == triggered.run, "a run that was triggered is not read back as returned"
        (done,) = self.work_off(app)
        assert (done.status, done.result) == (RunStatus.SUCCEEDED, {"a": [1, None, "ä"]})
        assert app.runs.get(done.id) == done, "a run that was executed is not read back as returned"

    @needs(Capability.READS_RUN_HISTORY, Capability.LEASES_RUNS)
    def test_a_history_tells_the_whole_life(self, make: Callable[..., Runlane]) -> None:
        app = make()
        run = app.trigger(jobs.echo, 1).run
        self.work_off(app)
        events = app.runs.events(run.id)
        assert [record.sequence for record in events] == list(range(1, len(events) + 1)), "sequences have no gaps"
        assert len(app.runs.attempts(run.id)) == 1
        assert app.runs.get(run.id).sequence == len(events)

    def test_an_invalid_payload_writes_nothing(self, make: Callable[..., Runlane]) -> None:
        app = make(jobs.echo)
        with pytest.raises(PayloadInvalid):
            app.trigger(jobs.echo, object())
        if Capability.OPERATOR_READS in app.lane.capabilities:
            assert app.runs.count() == {}, "a trigger that was refused left a run"

    @needs(Capability.LEASES_RUNS)
    def test_a_failure_is_retried_when_its_time_has_come(
        self, make: Callable[..., Runlane], clock: SettableClock
    ) -> None:
        app = make()
        run = app.trigger(jobs.second_time).run
        assert [one.status for one in self.work_off(app)] == [RunStatus.RETRYING]
        assert self.work_off(app) == [], "a retry was executed before its time"
        clock.advance(timedelta(hours=1))
        self.work_off(app)
        done = app.runs.get(run.id)
        assert (done.status, done.result, done.counters.failures) == (RunStatus.SUCCEEDED, "second", 1)

    @needs(Capability.LEASES_RUNS)
    def test_a_released_run_goes_on_and_has_not_failed(
        self, make: Callable[..., Runlane], clock: SettableClock
    ) -> None:
        app = make()
        run = app.trigger(jobs.polling).run
        assert [one.status for one in self.work_off(app)] == [RunStatus.RELEASED]
        assert self.work_off(app) == [], "a released run was executed before its time"
        clock.advance(timedelta(hours=1))
        self.work_off(app)
        done = app.runs.get(run.id)
        assert (done.result, done.counters.releases, done.counters.failures) == ("there", 1, 0)

    @needs(Capability.LEASES_RUNS)
    def test_a_delayed_run_waits(self, make: Callable[..., Runlane], clock: SettableClock) -> None:
        app = make()
        run = app.trigger(jobs.echo, 1, delay="1h").run
        assert run.status is RunStatus.SCHEDULED
        assert self.work_off(app) == [], "a run was executed before its time"
        clock.advance(timedelta(hours=1))
        assert [one.id for one in self.work_off(app)] == [run.id]

    def test_a_waiting_run_is_cancelled_at_once(self, make: Callable[..., Runlane]) -> None:
        app = make()
        run = app.trigger(jobs.echo).run
        assert app.runs.cancel(run.id, reason="enough").status is RunStatus.CANCELLED
        with pytest.raises(RunStateInvalid):
            app.runs.cancel(run.id)

    @needs(Capability.LEASES_RUNS)
    def test_a_running_handler_hears_that_it_is_to_stop(self, make: Callable[..., Runlane]) -> None:
        app = make()
        worker = app.worker(maintenance=False, poll_interval=0.05)
        worker.start()
        run = app.trigger(jobs.stopping, PATIENCE).run
        wait_for_status(app, run, RunStatus.RUNNING, PATIENCE)
        app.runs.cancel(run.id, reason="enough")
        wait_for_status(app, run, RunStatus.CANCELLED, PATIENCE)
        worker.stop()

    @needs(Capability.LEASES_RUNS)
    def test_an_ended_run_is_run_again_as_another_one(self, make: Callable[..., Runlane]) -> None:
        app = make()
        first = app.trigger(jobs.echo, 7).run
        self.work_off(app)
        again = app.runs.rerun(first.id)
        assert again.source.source_run_id == first.id
        self.work_off(app)
        assert app.runs.get(again.id).result == 7

    @needs(Capability.LEASES_RUNS)
    def test_run_now_executes_its_run_and_no_other(self, make: Callable[..., Runlane]) -> None:
        app = make()
        other = app.trigger(jobs.echo, 1).run
        done = app.run_now(jobs.asynchronous, 2)
        assert (done.executed, done.run.result) == (True, 2)
        assert app.runs.get(other.id).status is RunStatus.QUEUED

    @needs(Capability.LEASES_RUNS)
    def test_a_worker_executes_everything_once(self, make: Callable[..., Runlane]) -> None:
        app = make()
        runs = [one.run for one in app.trigger_many(jobs.echo, list(range(100)))]
        runs += [one.run for one in app.trigger_many(jobs.asynchronous, list(range(20)))]
        app.worker("drain", concurrency=8, poll_interval=0.05).run()
        done = [app.runs.get(run.id) for run in runs]
        assert {run.status for run in done} == {RunStatus.SUCCEEDED}, "drain left runs that were due"
        assert {run.counters.attempts for run in done} == {1}, "a run was executed more than once"
        assert [run.result for run in done] == [*range(100), *range(20)]

    @needs(Capability.LEASES_RUNS)
    def test_a_trigger_wakes_an_idle_worker(self, make: Callable[..., Runlane]) -> None:
        """The doorbell: the worker would not look into the database before the end of the case."""
        app = make()
        worker = app.worker(maintenance=False, poll_interval=NEVER)
        worker.start()
        run = app.trigger(jobs.echo, 1).run
        wait_for_status(app, run, RunStatus.SUCCEEDED, PATIENCE)
        worker.stop()

    def test_what_is_triggered_is_published_if_the_lane_delivers(self, make: Callable[..., Runlane]) -> None:
        app = make()
        app.trigger(jobs.echo, 1)
        with app.lane.database.read() as tx:
            found = list(tx.execute(select(tables.outbox.c.status)).scalars())
        wanted = [OutboxStatus.PUBLISHED] if app.lane.delivers else []
        assert found == wanted, f"the outbox should hold {wanted} after a trigger, it holds {found}"

    @needs(Capability.LEASES_RUNS)
    def test_a_wakeup_executes_its_run_once(self, make: Callable[..., Runlane], clock: SettableClock) -> None:
        app = make()
        run = app.trigger(jobs.echo, 1).run
        wakeup = Wakeup(app.environment, run.id, run.queue, clock())
        first, second = app.execute_delivery(wakeup), app.execute_delivery(wakeup)
        assert (first.outcome, first.reason) == (DeliveryOutcome.EXECUTED, None), f"the wakeup led to {first}"
        assert (second.outcome, second.reason) == (DeliveryOutcome.IGNORED, IgnoreReason.TERMINAL)
        assert app.runs.get(run.id).counters.attempts == 1, "a doubled wakeup executed the run twice"

    @needs(Capability.LEASES_RUNS, Capability.ENFORCES_IDEMPOTENCY)
    def test_a_repeated_trigger_finds_its_run(self, make: Callable[..., Runlane]) -> None:
        app = make(jobs.idempotent)
        first = app.trigger(jobs.idempotent, "order-1")
        second = app.trigger(jobs.idempotent, "order-1")
        assert (second.outcome, second.run.id) == (TriggerOutcome.REUSED_IDEMPOTENT, first.run.id)
        assert app.runs.find_active(jobs.idempotent, idempotency_key="order-1") == first.run
        assert len(self.work_off(app)) == 1, "two triggers with one key made two runs"

    @needs(Capability.LEASES_RUNS, Capability.ENFORCES_SINGLETON)
    def test_a_singleton_is_free_when_it_has_ended(self, make: Callable[..., Runlane]) -> None:
        app = make(jobs.single)
        outcomes = [app.trigger(jobs.single).outcome, app.trigger(jobs.single).outcome]
        self.work_off(app)
        outcomes.append(app.trigger(jobs.single).outcome)
        created = TriggerOutcome.CREATED
        assert outcomes == [created, TriggerOutcome.REUSED_SINGLETON, created], f"outcomes were {outcomes}"

    @needs(Capability.LEASES_RUNS, Capability.ENFORCES_QUEUE_CONCURRENCY)
    def test_a_bounded_queue_refuses_more_than_its_limit(self, make: Callable[..., Runlane]) -> None:
        app = make(jobs.few)
        inside: list[str] = []

        @task("conformance.holding", queue=jobs.FEW)
        def holding() -> str:
            with pytest.raises(QueueCapacityExceeded):
                holder.run_now(jobs.few)
            inside.append("refused")
            return "held"

        holder = make(jobs.few, holding)
        assert holder.run_now(holding).run.result == "held"
        assert inside == ["refused"], "a second run took the only slot"
        assert app.run_now(jobs.few).run.status is RunStatus.SUCCEEDED, "the slot was not given back"

    @needs(Capability.LEASES_RUNS, Capability.CLAIMS_SCHEDULE_OCCURRENCES)
    def test_a_schedule_makes_a_run_of_each_occurrence(
        self, make: Callable[..., Runlane], another_lane: Lane, clock: SettableClock
    ) -> None:
        one, two = make(jobs.minutely), make(jobs.minutely, on=another_lane)
        fired = [one.tick().schedules_fired, two.tick().schedules_fired]
        for _ in range(3):
            clock.advance(timedelta(minutes=1))
            fired += [one.tick().schedules_fired, two.tick().schedules_fired]
        assert sum(fired) == 3, f"three occurrences, with two runtimes ticking, fired {fired}"
        assert [run.result for run in self.work_off(one)] == ["tick"] * 3

    @needs(Capability.LEASES_RUNS, Capability.PRUNES_RUNS)
    def test_pruned_runs_are_gone(self, make: Callable[..., Runlane], clock: SettableClock) -> None:
        app = make()
        app.trigger_many(jobs.echo, [1, 2, 3])
        self.work_off(app)
        waiting = app.trigger(jobs.echo, 4).run
        clock.advance(timedelta(days=31))
        assert app.runs.prune("30d").runs == 3
        assert app.runs.get(waiting.id) == waiting

    @needs(Capability.OPERATOR_READS)
    def test_operators_see_every_run_once(self, make: Callable[..., Runlane]) -> None:
        app = make()
        ids = [one.run.id for one in app.trigger_many(jobs.echo, list(range(7)))]
        seen, cursor = [], None
        while True:
            page = app.runs.list(limit=3, cursor=cursor, order="oldest")
            seen += [run.id for run in page.data]
            if (cursor := page.next_cursor) is None:
                break
        assert seen == ids, f"pages show {len(seen)} runs, there are {len(ids)}"
        assert app.runs.count() == {RunStatus.QUEUED: 7}

    @needs(Capability.LEASES_RUNS)
    def test_two_runtimes_share_the_runs(self, make: Callable[..., Runlane], another_lane: Lane) -> None:
        one, two = make(), make(on=another_lane)
        run = one.trigger(jobs.echo, 1).run
        assert [done.id for done in self.work_off(two)] == [run.id]
        assert one.runs.get(run.id).result == 1

    @needs(Capability.LEASES_RUNS)
    def test_another_runtime_recovers_what_a_lost_one_held(
        self, make: Callable[..., Runlane], another_lane: Lane, clock: SettableClock
    ) -> None:
        other, held = make(on=another_lane), threading.Event()

        @task("conformance.vanishing")
        def vanishing() -> str:
            if not held.is_set():
                held.set()
                clock.advance(timedelta(hours=1))  # no heartbeat is heard for longer than the lease
                assert other.tick().runs_recovered == 1, "an expired session was not recovered"
            return "done"

        app = make(vanishing)
        run = app.trigger(vanishing).run
        app.worker("drain", maintenance=False).run()
        app.worker("drain", maintenance=False).run()
        found = app.runs.get(run.id)
        assert found.counters.losses == 1, f"its worker was lost once; the run says {found.counters}"
        assert (found.status, found.counters.attempts) == (RunStatus.SUCCEEDED, 2)

    @needs(Capability.LEASES_RUNS)
    def test_a_lane_is_started_and_closed_as_often_as_wanted(self, make: Callable[..., Runlane]) -> None:
        app = make()
        run = app.trigger(jobs.echo, 1).run
        for _ in range(2):
            app.close()
        app.start()
        assert app.runs.get(run.id) == run, "a run did not outlive a restart of its runtime"
        assert [done.id for done in self.work_off(app)] == [run.id]

    def test_the_async_face_does_the_same(self, make: Callable[..., Runlane], clock: SettableClock) -> None:
        lane = make().lane

        async def life() -> Run:
            async with AsyncRunlane(lane, queues=[jobs.QUEUE], tasks=PLAIN, clock=clock) as app:
                run = (await app.trigger(jobs.asynchronous, 5)).run
                if Capability.LEASES_RUNS in lane.capabilities:
                    await app.execute_next()
                return await app.runs.get(run.id)

        found = asyncio.run(life())
        if Capability.LEASES_RUNS in lane.capabilities:
            assert found.result == 5

    def test_what_is_not_promised_is_refused(self, make: Callable[..., Runlane], lane: Lane) -> None:
        app = make(jobs.echo)
        missing = frozenset(Capability) - lane.capabilities
        for capability, definitions in DEFINITIONS:
            if capability in missing:
                with pytest.raises(CapabilityUnsupported):
                    Runlane(lane, **definitions)
        for capability, call in CALLS:
            if capability in missing:
                with pytest.raises(CapabilityUnsupported):
                    call(app, jobs.echo)

    def work_off(self, app: Runlane) -> list[Run]:
        """Execute everything that is due now; the runs in the order of their attempts."""
        return drain(app, 1000)
