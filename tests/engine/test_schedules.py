"""Schedules: what fires when, what collapses, and exactly one run per occurrence."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from runlane import Queue, Runlane, RunStatus, Schedule, SettableClock, Task, task
from runlane.engine import schedule
from runlane.engine.tick import BATCH, TickReport
from runlane.schedule_decisions import schedule_stream
from runlane.storage import schedules
from runlane.storage.database import Database
from runlane.values import SourceType
from tests.engine.tasks import HOUR
from tests.support import PATIENCE, SECOND, START, at_once, database_of, eventually, execute

Make = Callable[..., Runlane]
MINUTE = timedelta(minutes=1)
MAIN, SIDE = Queue("main", default=True), Queue("side")


def scheduled(*schedules: Schedule, id: str = "scheduled", **options: Any) -> Task:
    @task(id, schedules=schedules, **options)
    def work(payload: Any) -> Any:
        return payload

    return work


def due_times(app: Runlane) -> list[timedelta]:
    """For which instants runs were made, since the start."""
    return [run.source.scheduled_for - START for run in app.runs.list(order="oldest", limit=500).data]


def history(app: Runlane) -> list[str]:
    """The events of all schedules, in order."""
    statement = "select type from {events} where substr(type, 1, 9) = 'schedule.' order by position"
    return [row[0] for row in execute(database_of(app), statement)]


def test_an_interval_fires_only_after_it_was_first_seen(make_app: Make, clock: SettableClock) -> None:
    clock.set(START + 3 * MINUTE)
    app = make_app(scheduled(Schedule("s", every="10m", payload={"n": 1})), clock=clock)
    report = app.tick()
    assert (report.schedules_changed, report.schedules_fired) == (1, 0)
    clock.set(START + 10 * MINUTE - SECOND)
    assert app.tick().schedules_fired == 0
    clock.set(START + 10 * MINUTE)
    assert app.tick().schedules_fired == 1
    assert app.tick().schedules_fired == 0
    assert due_times(app) == [10 * MINUTE]
    (run,) = app.runs.list().data
    assert (run.payload, run.status, run.created_at) == ({"n": 1}, RunStatus.QUEUED, clock())
    assert (run.source.type, run.source.schedule_id) == (SourceType.SCHEDULE, "s")
    assert str(app.runs.events(run.id)[0].actor) == "schedule:s"


def test_an_interval_seen_at_its_very_instant_begins_with_the_next(make_app: Make, clock: SettableClock) -> None:
    app = make_app(scheduled(Schedule("s", every="10m")), clock=clock)
    app.tick()
    assert app.tick().schedules_fired == 0
    clock.advance(10 * MINUTE)
    app.tick()
    assert due_times(app) == [10 * MINUTE]


def test_the_phase_of_an_interval_is_the_epoch(make_app: Make, clock: SettableClock) -> None:
    clock.set(START + 61 * SECOND)
    app = make_app(scheduled(Schedule("s", every="7m")), clock=clock)
    app.tick()
    (state,) = app.schedules.list()
    assert state.next_at.timestamp() % 420 == 0
    assert timedelta(0) < state.next_at - clock() <= 7 * MINUTE


def test_missed_occurrences_collapse_to_the_latest_due(make_app: Make, clock: SettableClock) -> None:
    app = make_app(scheduled(Schedule("s", every="10m")), clock=clock)
    app.tick()
    clock.advance(65 * MINUTE)
    assert app.tick().schedules_fired == 1
    assert due_times(app) == [HOUR]
    stored = execute(database_of(app), "select cast(data as text) from {events} where type = 'schedule.fired'")[0][0]
    assert '"collapsed":5' in stored.replace(" ", "")
    clock.advance(5 * MINUTE)
    app.tick()
    assert due_times(app) == [HOUR, 70 * MINUTE]
    (state,) = app.schedules.list()
    assert (state.fired_count, state.last_at, state.next_at) == (2, START + 70 * MINUTE, START + 80 * MINUTE)


@pytest.mark.parametrize("ahead", [-HOUR, timedelta(0), HOUR], ids=["passed", "now", "to come"])
def test_a_single_occurrence_fires_once_even_if_its_time_has_passed(
    make_app: Make, clock: SettableClock, ahead: timedelta
) -> None:
    app = make_app(scheduled(Schedule("s", run_at=START + ahead)), clock=clock)
    app.tick()
    assert due_times(app) == ([] if ahead > timedelta(0) else [ahead])
    for _ in range(3):
        clock.advance(HOUR)
        app.tick()
    assert due_times(app) == [ahead]
    assert app.schedules.list()[0].next_at is None


def test_another_process_knows_a_single_occurrence_has_fired(make_app: Make, clock: SettableClock) -> None:
    used = scheduled(Schedule("s", run_at=START))
    app = make_app(used, clock=clock)
    app.tick()
    again = Runlane(app.lane, tasks=[used], clock=clock)
    report = again.tick()
    assert (report.schedules_changed, report.schedules_fired) == (0, 0)
    again.close()
    assert due_times(app) == [timedelta(0)]


def test_a_moved_single_occurrence_fires_at_its_new_time(make_app: Make, clock: SettableClock) -> None:
    app = make_app(scheduled(Schedule("s", run_at=START)), clock=clock)
    app.tick()
    moved = Runlane(app.lane, tasks=[scheduled(Schedule("s", run_at=START + HOUR))], clock=clock)
    assert moved.tick().schedules_changed == 1
    clock.advance(HOUR)
    assert moved.tick().schedules_fired == 1
    assert due_times(app) == [timedelta(0), HOUR]
    moved.close()


def test_a_single_occurrence_that_is_moved_back_to_where_it_fired_does_not_fire_again(
    make_app: Make, clock: SettableClock
) -> None:
    app = make_app(clock=clock)
    first, second = (Schedule("s", run_at=START + n * HOUR) for n in (1, 2))
    for deployed, fires in ((first, 1), (second, 1), (first, 0), (second, 0)):
        clock.advance(HOUR)
        report = Runlane(app.lane, tasks=[scheduled(deployed)], clock=clock).tick()
        assert (report.schedules_changed, report.schedules_fired, report.errors) == (1, fires, ())
        assert app.schedules.get("s").next_at is None
    assert due_times(app) == [HOUR, 2 * HOUR]


def test_a_rule_that_changes_while_the_clock_is_set_back_fires_no_occurrence_twice(
    make_app: Make, clock: SettableClock
) -> None:
    app = make_app(clock=clock)
    for every, passes in (("1h", HOUR), ("1h", -SECOND), ("30m", SECOND)):
        process = Runlane(app.lane, tasks=[scheduled(Schedule("s", every=every))], clock=clock)
        process.tick()
        clock.advance(passes)
    assert process.tick().errors == ()
    assert app.schedules.get("s").next_at == START + HOUR + 30 * MINUTE
    assert due_times(app) == [HOUR]


def test_four_maintainers_at_once_make_one_run_per_occurrence(shared_url: str, clock: SettableClock) -> None:
    """Invariant 10."""
    used = scheduled(Schedule("a", every="10m"), Schedule("b", every="20m"), Schedule("c", run_at=START + HOUR))
    apps = [Runlane(shared_url, tasks=[used], clock=clock).start() for _ in range(4)]
    for app in apps:  # the first one registers, each of the others sees that nothing has changed
        app.tick()
    for _ in range(6):
        clock.advance(10 * MINUTE)
        reports = at_once([app.tick for app in apps])
        assert all(report.errors == () for report in reports)
    fired = [(run.source.schedule_id, run.source.scheduled_for) for run in apps[0].runs.list(limit=500).data]
    expected = [("a", START + n * 10 * MINUTE) for n in range(1, 7)]
    expected += [("b", START + n * 20 * MINUTE) for n in range(1, 4)] + [("c", START + HOUR)]
    assert sorted(fired) == sorted(expected)
    assert history(apps[0]).count("schedule.registered") == 3
    assert apps[0].audit.verify().differences == ()
    for app in apps:
        app.close()


def test_two_processes_may_register_the_same_schedule_at_the_same_moment(
    postgres_url: str, clock: SettableClock
) -> None:
    used = scheduled(Schedule("s", every="10m"))
    with (
        Runlane(postgres_url, tasks=[used], clock=clock) as one,
        Runlane(postgres_url, tasks=[used], clock=clock) as two,
        ThreadPoolExecutor(1) as threads,
    ):
        with database_of(one).write(clock) as tx:
            assert schedule.deploy(tx, "default", schedule.definitions(one.registry), ["scheduled"]) == 1
            ticking = threads.submit(two.tick)
            eventually(lambda: waiting_for_locks(postgres_url), "the other process waiting for the first")
        assert ticking.result(PATIENCE).errors == ()
        assert history(one) == ["schedule.registered"]


def waiting_for_locks(url: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as admin:
        asked = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        return admin.execute(asked).fetchall()


def test_a_schedule_that_is_not_deployed_any_more_stops(make_app: Make, clock: SettableClock) -> None:
    first = make_app(scheduled(Schedule("s", every="10m")), clock=clock)
    first.tick()
    clock.advance(10 * MINUTE)
    first.tick()
    second = Runlane(first.lane, tasks=[scheduled()], clock=clock)
    assert second.tick().schedules_changed == 1
    clock.advance(10 * MINUTE)
    assert second.tick().schedules_fired == first.tick().schedules_fired == 0
    assert due_times(first) == [10 * MINUTE]
    assert first.runs.list().data[0].status is RunStatus.QUEUED
    third = Runlane(first.lane, tasks=[scheduled(Schedule("s", every="10m"))], clock=clock)
    third.tick()
    assert due_times(first) == [10 * MINUTE]
    clock.advance(10 * MINUTE)
    third.tick()
    assert due_times(first) == [10 * MINUTE, 30 * MINUTE]
    assert history(first) == [f"schedule.{what}" for what in ("registered", "fired", "removed", "changed", "fired")]
    second.close()
    third.close()


def test_a_process_that_does_not_know_the_task_leaves_its_schedule_alone(make_app: Make, clock: SettableClock) -> None:
    app = make_app(scheduled(Schedule("s", every="10m")), clock=clock)
    app.tick()
    other = Runlane(app.lane, tasks=[scheduled(Schedule("own", every="1h"), id="other")], clock=clock)
    clock.advance(10 * MINUTE)
    report = other.tick()
    assert (report.schedules_changed, report.schedules_fired) == (1, 0)
    assert app.tick().schedules_fired == 1
    other.close()


def test_a_disabled_schedule_is_known_and_does_not_fire_until_enabled(make_app: Make, clock: SettableClock) -> None:
    off = make_app(scheduled(Schedule("s", every="10m", enabled=False)), clock=clock)
    off.tick()
    clock.advance(HOUR)
    assert off.tick().schedules_fired == 0
    (state,) = off.schedules.list()
    assert (state.enabled, state.next_at) == (False, None)
    on = Runlane(off.lane, tasks=[scheduled(Schedule("s", every="10m"))], clock=clock)
    assert on.tick().schedules_fired == 0
    clock.advance(10 * MINUTE)
    assert on.tick().schedules_fired == 1
    again = Runlane(off.lane, tasks=[scheduled(Schedule("s", every="10m", enabled=False))], clock=clock)
    again.tick()
    clock.advance(HOUR)
    assert again.tick().schedules_fired == on.tick().schedules_fired == 0
    assert due_times(off) == [70 * MINUTE]
    on.close()
    again.close()


def test_a_changed_interval_starts_afresh_and_other_changes_do_not(make_app: Make, clock: SettableClock) -> None:
    app = make_app(scheduled(Schedule("s", every="1h", payload=1)), clock=clock)
    app.tick()
    clock.advance(30 * MINUTE)
    other_payload = Runlane(app.lane, tasks=[scheduled(Schedule("s", every="1h", payload=2))], clock=clock)
    other_payload.tick()
    assert app.schedules.list()[0].next_at == START + HOUR
    faster = Runlane(app.lane, tasks=[scheduled(Schedule("s", every="20m", payload=3))], clock=clock)
    faster.tick()
    assert app.schedules.list()[0].next_at == START + 40 * MINUTE
    clock.advance(10 * MINUTE)
    faster.tick()
    assert [(run.payload, run.source.scheduled_for) for run in app.runs.list().data] == [(3, START + 40 * MINUTE)]
    other_payload.close()
    faster.close()


def test_a_schedule_has_its_own_queue_and_its_tasks_priority(make_app: Make, clock: SettableClock) -> None:
    used = scheduled(Schedule("s", run_at=START, queue=SIDE), Schedule("t", run_at=START), priority=7)
    app = make_app(used, queues=[MAIN, SIDE], clock=clock)
    app.tick()
    runs = {run.source.schedule_id: run for run in app.runs.list().data}
    assert {id: (run.queue, run.priority) for id, run in runs.items()} == {"s": ("side", 7), "t": ("main", 7)}


def test_an_occurrence_has_the_same_id_in_every_database(clock: SettableClock, postgres_url: str) -> None:
    ids = set()
    for url in ("memory:", postgres_url):
        with Runlane(url, tasks=[scheduled(Schedule("s", run_at=START))], clock=clock) as app:
            app.tick()
            ids.add(app.runs.list().data[0].source.occurrence_id)
    assert len(ids) == 1


def test_environments_have_schedules_of_their_own(lane_url: str, clock: SettableClock) -> None:
    used = scheduled(Schedule("s", every="10m"))
    one = Runlane(lane_url, tasks=[used], clock=clock, environment="one").start()
    two = Runlane(one.lane, tasks=[used], clock=clock, environment="two").start()
    one.tick()
    assert two.schedules.list() == ()
    two.tick()
    clock.advance(10 * MINUTE)
    assert (one.tick().schedules_fired, two.tick().schedules_fired) == (1, 1)
    ids = {app.runs.list().data[0].source.occurrence_id for app in (one, two)}
    assert len(ids) == 2
    one.close()
    two.close()


def test_a_key_of_the_task_holds_for_scheduled_runs_too(make_app: Make, clock: SettableClock) -> None:
    used = scheduled(Schedule("s", every="10m"), idempotency_key="only-one")
    app = make_app(used, clock=clock)
    app.tick()
    for _ in range(3):
        clock.advance(10 * MINUTE)
        app.tick()
    assert due_times(app) == [10 * MINUTE]
    app.execute_next()
    assert app.schedules.list()[0].fired_count == 3


def test_one_schedule_that_cannot_fire_does_not_stop_the_others(make_app: Make, clock: SettableClock) -> None:
    broken: list[str] = []

    def key(payload: Any) -> str:
        if broken:
            raise RuntimeError("no key today")
        return "key"

    bad = scheduled(Schedule("bad", run_at=START), id="bad", idempotency_key=key)
    good = scheduled(Schedule("good", run_at=START), id="good")
    app = make_app(bad, good, clock=clock)
    broken.append("today")
    report = app.tick()
    assert report.schedules_fired == 1
    assert len(report.errors) == 1
    assert [run.source.schedule_id for run in app.runs.list().data] == ["good"]


def test_schedules_that_are_due_at_once_fire_in_one_transaction(
    make_app: Make, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def several(id: str, count: int, **options: Any) -> Task:
        return scheduled(*(Schedule(f"{id}-{n}", every="10m", payload=n) for n in range(count)), id=id, **options)

    tasks = several("plain", 60), several("keyed", 20, singleton_key=lambda n: f"key-{n % 3}"), several("last", 30)
    app = make_app(*tasks, clock=clock)
    app.tick()
    clock.advance(10 * MINUTE)
    transactions: list[object] = []
    transact = Database.transact
    monkeypatch.setattr(Database, "transact", lambda self, *rest: transactions.append(1) or transact(self, *rest))
    reports = [app.tick() for _ in range(3)]
    assert [(report.schedules_fired, report.more, report.errors) for report in reports] == [
        (100, True, ()),
        (10, False, ()),
        (0, False, ()),
    ]
    assert len(transactions) < 10 + 20  # those with keys go by themselves
    runs = app.runs.list(limit=500).data
    assert (
        sorted(run.source.schedule_id.partition("-")[0] for run in runs)
        == ["keyed"] * 3 + ["last"] * 30 + ["plain"] * 60
    )
    assert all(run.payload == int(run.source.schedule_id.partition("-")[2]) for run in runs)
    states = app.schedules.list()
    assert [(state.fired_count, state.next_at) for state in states] == [(1, clock() + 10 * MINUTE)] * 110
    assert {app.schedules.occurrences(state.schedule_id)[0].scheduled_for for state in states} == {clock()}
    assert app.audit.verify().differences == ()


def test_among_many_that_are_due_one_that_cannot_fire_is_left_out(
    make_app: Make, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: set[int] = set()

    def key(payload: Any) -> str:
        if payload in broken:
            raise RuntimeError("no key today")
        return str(payload)

    app = make_app(
        scheduled(*(Schedule(f"s-{n}", run_at=START, payload=n) for n in range(20)), concurrency_key=key), clock=clock
    )
    broken.add(7)
    transactions: list[object] = []
    transact = Database.transact
    monkeypatch.setattr(Database, "transact", lambda self, *rest: transactions.append(1) or transact(self, *rest))
    report = app.tick()
    assert len(transactions) < 10
    assert (report.schedules_fired, len(report.errors)) == (19, 1)
    assert sorted(run.payload for run in app.runs.list(limit=500).data) == [n for n in range(20) if n != 7]
    assert app.audit.verify().differences == ()


def test_more_than_a_batch_that_cannot_fire_stop_none_behind_them(make_app: Make, clock: SettableClock) -> None:
    broken: list[str] = []

    def key(payload: Any) -> str | None:
        if broken:
            raise RuntimeError("no key today")
        return None

    bad = scheduled(*(Schedule(f"bad-{n}", every="1m") for n in range(BATCH + 1)), id="bad", idempotency_key=key)
    good = scheduled(*(Schedule(f"good-{n}", every="2m") for n in range(2 * BATCH)), id="good")
    app = make_app(bad, good, clock=clock)
    app.tick()
    broken.append("today")
    clock.advance(2 * MINUTE)
    reports = [app.tick() for _ in range(3)]
    assert [(report.schedules_fired, report.more, len(report.errors)) for report in reports] == [
        (2 * BATCH - 1, True, BATCH + 1),
        (1, False, BATCH + 1),
        (0, False, BATCH + 1),
    ]
    assert due_times(app) == [2 * MINUTE] * 2 * BATCH
    broken.clear()
    assert app.tick().schedules_fired == BATCH
    assert app.tick().schedules_fired == 1


def test_a_schedule_that_somebody_holds_keeps_nobody_waiting(postgres_url: str, clock: SettableClock) -> None:
    used = scheduled(*(Schedule(name, every="10m") for name in ("a", "b", "c")))
    with Runlane(postgres_url, tasks=[used], clock=clock) as app:
        app.tick()
        clock.advance(10 * MINUTE)
        with database_of(app).write() as tx:
            assert schedules.lock_schedule(tx, schedule_stream(app.environment, "b")) is not None
            report = app.tick()
            assert (report.schedules_fired, report.errors) == (2, ())
        assert app.tick().schedules_fired == 1
        assert due_times(app) == [10 * MINUTE] * 3


def test_a_key_that_somebody_holds_keeps_only_its_own_schedule_waiting(postgres_url: str, clock: SettableClock) -> None:
    plain = scheduled(*(Schedule(name, every="10m") for name in ("a", "b")), id="plain")
    keyed = scheduled(Schedule("c", every="10m"), id="keyed", idempotency_key="one")
    with Runlane(postgres_url, tasks=[plain, keyed], clock=clock) as app, ThreadPoolExecutor() as pool:
        app.tick()
        clock.advance(10 * MINUTE)
        with psycopg.connect(postgres_url) as caller:
            app.trigger(keyed, 1, connection=caller)
            ticking = pool.submit(app.tick)
            eventually(lambda: len(app.runs.list().data) == 2, "the schedules without a key having fired")
            caller.commit()
        assert ticking.result(PATIENCE).schedules_fired == 3
        assert len(app.runs.list().data) == 3


def test_a_drained_schedule_runs_like_any_other(make_app: Make, clock: SettableClock) -> None:
    app = make_app(scheduled(Schedule("s", every="10m", payload="p")), clock=clock)
    app.tick()
    clock.advance(10 * MINUTE)
    app.worker("drain").run()
    (run,) = app.runs.list().data
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, "p")


def test_a_drain_makes_the_runs_of_all_that_are_due(make_app: Make, clock: SettableClock) -> None:
    count = 2 * BATCH + 50
    app = make_app(scheduled(*(Schedule(f"s-{n}", every="10m") for n in range(count))), clock=clock)
    app.tick()
    clock.advance(10 * MINUTE)
    worker = app.worker("drain", maintenance_interval=3600)
    worker.run()
    assert worker.completed == count
    assert app.runs.count() == {RunStatus.SUCCEEDED: count}


def test_a_drain_that_is_told_to_stop_makes_no_more_passes(
    make_app: Make, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(scheduled(), clock=clock)
    worker, passes = app.worker("drain", maintenance_interval=3600), []

    def tick() -> TickReport:
        passes.append(1)
        if len(passes) == 3:
            worker._stop.set()
        return TickReport(schedules_fired=100, more=True)

    monkeypatch.setattr(app._runtime, "tick", tick)
    worker.start()
    assert worker.wait(PATIENCE)
    assert len(passes) == 3


def test_a_drain_does_not_wait_for_what_does_not_get_on(
    make_app: Make, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(scheduled(), clock=clock)
    passes: list[int] = []
    monkeypatch.setattr(
        app._runtime, "tick", lambda: passes.append(1) or TickReport(wakeups_failed=100, errors=("x",), more=True)
    )
    app.worker("drain", maintenance_interval=3600).run()
    assert len(passes) == 1
