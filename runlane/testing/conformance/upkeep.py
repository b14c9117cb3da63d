"""Storage, upkeep: schedules' occurrences, pruning, operator reads, and that promises are well formed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from runlane import cadence, reading, schedule_decisions
from runlane.capabilities import OF_THE_STORAGE, WHERE_STATE_LIVES, Capability
from runlane.engine import prune, schedule
from runlane.engine.prune import Old, Removed
from runlane.errors import RunlaneError
from runlane.projections.runs import Run
from runlane.registry import Registry
from runlane.schedule_decisions import ScheduleDefinition
from runlane.storage import schedules, streams, tables
from runlane.storage.database import Database
from runlane.tasks import task
from runlane.testing.conformance.cases import (
    ENVIRONMENT,
    QUEUE,
    SECOND,
    TASK,
    StorageCases,
    Store,
    birth,
    needs,
    new,
    together,
)
from runlane.values import APPLICATION, TERMINAL, RunStatus, new_run_id

MINUTE = timedelta(minutes=1)


@task(TASK)
def scheduled_task(payload: object = None) -> None:
    """What the schedule of these cases makes runs of."""


REGISTRY = Registry.of([], [scheduled_task])
EVERY_MINUTE = ScheduleDefinition("minutely", TASK, QUEUE, cadence.Every(MINUTE), None, True)
STREAM = schedule_decisions.schedule_stream(ENVIRONMENT, "minutely")


def deploy(store: Store) -> int:
    """Register the schedule; how many events that took."""
    return store.transact(lambda tx: schedule.deploy(tx, ENVIRONMENT, [EVERY_MINUTE], [TASK]))


def fire(store: Store) -> Run | None:
    """Make the run of the schedule's due occurrence, as a maintainer does."""
    fired = store.transact(lambda tx: schedule.fire(tx, REGISTRY, {STREAM: new_run_id()}))
    return next(iter(fired.runs), None)


@needs(Capability.CLAIMS_SCHEDULE_OCCURRENCES)
class OccurrenceCases(StorageCases):
    """What ``claims_schedule_occurrences`` promises."""

    def test_deployments_at_once_register_a_schedule_once(self, store: Store) -> None:
        together([lambda: deploy(store)] * 4)
        found = store.read(lambda tx: schedules.schedules_of(tx, ENVIRONMENT))
        assert [one.schedule_id for one in found] == ["minutely"], f"registered are {found}"
        assert found[0].sequence == 1, "it was registered more than once"

    def test_an_occurrence_makes_one_run_whoever_is_faster(self, store: Store) -> None:
        deploy(store)
        for n in range(1, 4):
            store.clock.advance(MINUTE)
            made = [run for run in together([lambda: fire(store)] * 4) if run is not None]
            assert len(made) == 1, f"occurrence {n} made {len(made)} runs"
            assert store.run(made[0].id).source.scheduled_for == store.clock()
        assert fire(store) is None, "nothing is due before the next minute"

    def test_due_schedules_are_found_and_others_are_not(self, store: Store) -> None:
        def due() -> list[object]:
            found = store.read(lambda tx: schedules.due_schedules(tx, ENVIRONMENT, [TASK], tx.now(), 10))
            return [one.stream_id for one in found]

        deploy(store)
        assert due() == [], "its first occurrence lies ahead"
        store.clock.advance(MINUTE)
        assert due() == [STREAM]
        store.transact(lambda tx: schedule.pause(tx, ENVIRONMENT, "minutely", APPLICATION, None))
        assert due() == [], "it is paused"

    @needs(Capability.PRUNES_RUNS, Capability.LEASES_RUNS)
    def test_occurrences_outlive_their_runs(self, store: Store) -> None:
        deploy(store)
        store.clock.advance(MINUTE)
        assert fire(store) is not None
        (leased,) = store.claim(store.hold())
        store.finish(leased)
        store.clock.advance(SECOND)
        assert remove(store).runs == 1
        count = store.read(lambda tx: tx.execute(select(func.count()).select_from(tables.occurrences)).scalar_one())
        assert count == 1, "a pruned run took its occurrence along: it could be made again"


def remove(store: Store, limit: int = 100) -> Removed:
    """Prune what has ended before now."""
    old = Old(store.clock(), sorted(TERMINAL), limit)
    return store.transact(lambda tx: prune.remove(tx, ENVIRONMENT, old, APPLICATION))


@needs(Capability.PRUNES_RUNS, Capability.LEASES_RUNS)
class PruneCases(StorageCases):
    """What ``prunes_runs`` promises."""

    def test_ended_runs_go_with_their_histories_and_others_stay(self, store: Store) -> None:
        ended = store.end(new("ended"))
        waiting = store.trigger(new("waiting"))[0].run
        store.clock.advance(SECOND)
        removed = remove(store)
        assert (removed.runs, removed.events) == (1, ended.sequence), f"removed were {removed}"
        assert store.history(ended.id) == [], "a pruned run left events behind"
        assert store.run(waiting.id) == waiting, "an active run was touched"
        assert remove(store).runs == 0

    @needs(Capability.ENFORCES_IDEMPOTENCY)
    def test_a_pruned_run_leaves_no_key(self, store: Store) -> None:
        store.end(new(idempotency_key="k"))
        store.clock.advance(SECOND)
        assert remove(store).keys == 1
        assert store.append(birth(new(idempotency_key="k"))) == set(), "the key of a pruned run is not free"

    def test_pruning_goes_on_where_it_stopped(self, store: Store) -> None:
        for n in range(5):
            store.end(new(n))
        store.clock.advance(SECOND)
        found = [remove(store, 2).runs for _ in range(4)]
        assert found == [2, 2, 1, 0], f"five runs, two at a time, went as {found}"

    def test_prunes_at_once_remove_each_run_once(self, store: Store) -> None:
        for n in range(6):
            store.end(new(n))
        store.clock.advance(SECOND)
        removed = together([lambda: remove(store, 4)] * 3)
        assert sum(one.runs for one in removed) == 6, f"six runs were removed as {[one.runs for one in removed]}"

    def test_nothing_is_removed_that_no_event_tells_of(self, store: Store) -> None:
        ended = store.end(new())
        stream = schedule_decisions.schedule_stream(ENVIRONMENT, "no such stream")
        with pytest.raises(RunlaneError):
            store.transact(lambda tx: tx.dialect.delete_runs(tx.connection, (stream, 1), [ended.id]))
        assert store.run(ended.id) == ended, "a run was removed without an event that tells of it"


@needs(Capability.READS_RUN_HISTORY)
class ReadCases(StorageCases):
    """What ``reads_run_history`` and the reads of operators promise."""

    def test_pages_show_every_run_once(self, store: Store) -> None:
        ids = [change.after.id for change in (birth(new(n, correlation_id=str(n % 2))) for n in range(7))]
        store.append(*(birth(new(n, correlation_id=str(n % 2)), run_id=id) for n, id in enumerate(ids)))
        for order, wanted in (("oldest", ids), ("newest", ids[::-1])):
            seen: list[object] = []
            cursor: str | None = None
            for _ in ids:
                asked = reading.run_filter()
                page = store.read(
                    lambda tx: reading.list_runs(tx, ENVIRONMENT, asked, 2, cursor, order)  # type: ignore[arg-type] # noqa: B023
                )
                seen += [run.id for run in page.data]
                if (cursor := page.next_cursor) is None:
                    break
            assert seen == wanted, f"pages by {order} show {seen}, there are {wanted}"

    def test_filters_hold_together(self, store: Store) -> None:
        wanted = birth(new("wanted", correlation_id="c", queue="q"))
        others = [
            birth(new(correlation_id="c")),
            birth(new(queue="q")),
            birth(new(task_id="other", correlation_id="c")),
        ]
        store.append(wanted, *others)
        asked = reading.run_filter(correlation_id="c", queues=["q"], tasks=[TASK], statuses=[RunStatus.QUEUED])
        page = store.read(lambda tx: reading.list_runs(tx, ENVIRONMENT, asked, 10, None, "oldest"))
        assert [run.payload for run in page.data] == ["wanted"], f"found were {page.data}"

    @needs(Capability.DURABLE_STATE)  # a storage within one process may have one connection
    def test_a_snapshot_does_not_move(self, store: Store) -> None:
        change = birth()
        with store.database.snapshot() as tx:
            assert streams.read_stream(tx, change.after.id) == ()
            together([lambda: store.append(change)])
            assert streams.read_stream(tx, change.after.id) == (), "what others commit shows in a snapshot"
        assert store.history(change.after.id) == list(change.records)


class PromiseCases(StorageCases):
    """That flags are flags, and that state lives where the storage says."""

    def test_the_promises_are_known_ones(self, storage: Database) -> None:
        promised = storage.capabilities
        unknown = {str(flag) for flag in promised} - {flag.value for flag in OF_THE_STORAGE}
        assert not unknown, f"no storage can promise {unknown}"
        assert len(promised & WHERE_STATE_LIVES) == 1, f"exactly one of {sorted(WHERE_STATE_LIVES)} has to be promised"

    @needs(Capability.DURABLE_STATE)
    def test_durable_state_is_there_after_a_restart(self, store: Store) -> None:
        change = birth()
        store.append(change)
        store.database.dispose()
        store.database.check()
        assert store.run(change.after.id) == change.after, "a run did not outlive its connections"
