"""Whether the work goes on: each check brought about on every lane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from runlane import Health, Lane, Queue, Runlane, Schedule, SettableClock, Trigger, task
from runlane.engine import lease
from runlane.engine.lease import Holder
from runlane.health import Bound
from runlane.storage import health, health_work, sessions
from runlane.storage.database import Database
from runlane.wakeup import PublishOutcome, PublishStatus
from tests.engine.post import Post
from tests.health.conftest import looked_at
from tests.support import database_of, raw

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MAIN, OTHER, NARROW = (
    Queue("main", default=True),
    Queue("other"),
    Queue("narrow", concurrency_limit=1, dispatch_timeout="1m"),
)


@task("work")
def work(payload: int) -> int:
    return payload


@task("hourly", schedules=[Schedule("each-hour", every="1h"), Schedule("each-day", every="1d")])
def hourly() -> None:
    pass


@task("narrow", queue=NARROW)
def narrow(payload: int) -> int:
    return payload


Make = Callable[..., Runlane]


@pytest.fixture
def make(lane_url: str, clock: SettableClock) -> Iterator[Make]:
    made: list[Runlane] = []

    def application(*, environment: str = "default", lane: Lane | None = None) -> Runlane:
        queues = [MAIN, OTHER, NARROW]
        app = Runlane(
            lane or lane_url, queues=queues, tasks=[work, hourly, narrow], clock=clock, environment=environment
        )
        made.append(app.start())
        return app

    yield application
    for app in made:
        app.close()


@pytest.fixture
def app(make: Make) -> Runlane:
    return make()


def leased(app: Runlane, clock: SettableClock, worker: str = "another", runs: int = 1) -> UUID:
    """A session of another process, alive for 30 seconds, that holds some runs."""
    holder = Holder(uuid4(), worker)
    app.trigger_many(work, range(runs))

    def take(tx: object) -> None:
        sessions.open_session(tx, holder.session_id, app.environment, worker, clock(), clock() + timedelta(seconds=30))
        assert len(lease.claim(tx, app.environment, holder, ["main"], ["work"], runs, clock())) == runs

    database_of(app).transact(take, clock)
    return holder.session_id


def test_all_is_well_where_nothing_is(app: Runlane) -> None:
    for name in ("environment", "workers", "schedules", "outbox", "reservations", "waiting"):
        assert looked_at(app, name).status is Health.OK


def test_all_is_well_with_work_going_on(app: Runlane, clock: SettableClock) -> None:
    app.tick()
    leased(app, clock, runs=2)
    app.trigger(work, 1)
    app.trigger(work, 1, delay="2d")
    found = app.doctor()
    assert {check.name for check in found.of(Health.WARNING, Health.CRITICAL)} <= {"settings", "epoch"}
    assert looked_at(app, "workers").values["alive"] == 1


def test_a_worker_that_vanished_is_taken_back_by_nobody(app: Runlane, clock: SettableClock) -> None:
    leased(app, clock, "first", runs=3)
    clock.advance(timedelta(seconds=30))
    leased(app, clock, "second", runs=2)
    for later, status, expired in (
        (timedelta(seconds=59), Health.OK, 0),
        (timedelta(seconds=1), Health.WARNING, 1),
        (timedelta(minutes=4), Health.CRITICAL, 2),
    ):
        clock.advance(later)
        check = looked_at(app, "workers")
        assert (check.status, check.values["expired"]) == (status, expired)
    assert check.found.startswith("2 worker processes vanished, the first (first) 5 min ago")
    assert "the 5 runs held there" in check.found
    assert "runlane tick" in str(check.advice)
    app.tick()
    assert looked_at(app, "workers").status is Health.OK


def test_a_vanished_worker_without_runs_is_no_disaster(app: Runlane, clock: SettableClock) -> None:
    database_of(app).transact(lambda tx: sessions.open_session(tx, uuid4(), "default", "idle", clock(), clock()), clock)
    clock.advance(HOUR)
    assert looked_at(app, "workers").status is Health.WARNING


def test_leases_of_a_session_without_a_row(app: Runlane, clock: SettableClock) -> None:
    session_id = leased(app, clock)
    database_of(app).transact(lambda tx: sessions.close_session(tx, session_id), clock)
    check = looked_at(app, "workers")
    assert (check.status, check.values["orphans"]) == (Health.WARNING, 1)


def test_an_overdue_schedule(app: Runlane, clock: SettableClock) -> None:
    app.tick()
    clock.advance(HOUR + timedelta(seconds=59))
    assert looked_at(app, "schedules").status is Health.OK
    clock.advance(timedelta(seconds=1))
    check = looked_at(app, "schedules")
    assert (check.status, check.values["schedules"], check.values["oldest"]) == (Health.WARNING, ["each-hour"], 60.0)
    assert "runlane schedules pause each-hour" in str(check.advice)
    clock.advance(HOUR)
    assert looked_at(app, "schedules").status is Health.CRITICAL
    app.schedules.pause("each-hour")
    assert looked_at(app, "schedules").status is Health.OK
    app.schedules.resume("each-hour")
    app.tick()
    assert looked_at(app, "schedules").status is Health.OK


def test_a_run_that_nobody_takes(app: Runlane, clock: SettableClock) -> None:
    first = app.trigger(work, 1, priority=-5).run
    app.trigger(work, 2, queue=OTHER)
    clock.advance(14 * MINUTE)
    app.trigger(work, 3, priority=5)
    assert looked_at(app, "waiting").status is Health.OK
    clock.advance(MINUTE)
    check = looked_at(app, "waiting")
    assert check.status is Health.WARNING
    assert f"run {first.id} (task work) on queue main, which has been due for 15 min; so it is on 1 more" in check.found
    assert check.found.endswith("no worker is alive")
    assert f"runlane why {first.id}" in str(check.advice)
    assert {name: one["due_for"] for name, one in check.values["queues"].items()} == {"main": 900.0, "other": 900.0}
    assert looked_at(app, "waiting", waiting=Bound(HOUR)).status is Health.OK
    app.queues.pause(MAIN)
    app.queues.pause(OTHER)
    check = looked_at(app, "waiting")
    assert (check.status, check.values["paused"]) == (Health.OK, ["main", "other"])


def test_a_run_whose_time_has_come_and_nobody_takes_it(app: Runlane, clock: SettableClock) -> None:
    app.trigger(work, 1, delay="1h")
    clock.advance(HOUR + 15 * MINUTE)
    assert looked_at(app, "waiting").values["queues"]["main"]["due_for"] == 900.0
    assert looked_at(app, "waiting").status is Health.WARNING


def test_the_lowest_of_many_levels_is_looked_at(app: Runlane, clock: SettableClock) -> None:
    starving = app.trigger(work, 0, priority=-1000).run
    clock.advance(HOUR)
    app.trigger_many([Trigger(work, n, priority=n) for n in range(2 * health_work._LEVELS)])
    assert str(starving.id) in looked_at(app, "waiting").found


def test_another_environment_is_meant(make: Make, clock: SettableClock) -> None:
    production = make(environment="production")
    production.trigger(work, 1)
    here = make(lane=production.lane)
    check = looked_at(here, "environment")
    assert (check.status, check.values["others"]) == (Health.WARNING, ["production"])
    assert "runlane --environment production doctor" in str(check.advice)
    here.trigger(work, 1)
    assert looked_at(here, "environment").status is Health.OK


def test_other_environments_are_not_looked_at(make: Make, clock: SettableClock) -> None:
    other = make(environment="other")
    other.tick()
    leased(other, clock)
    other.trigger(work, 1)
    clock.advance(timedelta(days=2))
    here = make(lane=other.lane)
    here.trigger(work, 1, delay="1h")
    for name in ("workers", "schedules", "waiting"):
        assert looked_at(here, name).status is Health.OK
        assert looked_at(other, name).status is not Health.OK


class TestWakeups:
    """On a lane whose transport carries them."""

    @pytest.fixture
    def app(self, make: Make, lane_url: str) -> Runlane:
        return make(lane=Lane(Database(lane_url), Post()))

    def refuse(self, app: Runlane, monkeypatch: pytest.MonkeyPatch, status: PublishStatus) -> None:
        refused = lambda wakeups: [PublishOutcome(status, "no route") for _ in wakeups]  # noqa: E731
        monkeypatch.setattr(app.lane.transport, "publish", refused)

    def test_one_that_waits_to_be_published(
        self, app: Runlane, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.refuse(app, monkeypatch, PublishStatus.FAILED)
        run = app.trigger(work, 1).run
        assert looked_at(app, "outbox").status is Health.OK
        clock.advance(MINUTE)
        check = looked_at(app, "outbox")
        assert check.status is Health.WARNING
        assert f"the oldest for 60 s, of run {run.id} (tried 1 times: no route)" in check.found
        clock.advance(14 * MINUTE)
        assert looked_at(app, "outbox").status is Health.CRITICAL
        monkeypatch.undo()
        app.tick()
        assert looked_at(app, "outbox").status is Health.OK

    def test_one_that_was_given_up(self, app: Runlane, clock: SettableClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuse(app, monkeypatch, PublishStatus.REJECTED)
        run = app.trigger(work, 1).run
        check = looked_at(app, "outbox")
        assert (check.status, check.values["dead_lettered"]) == (Health.WARNING, 1)
        assert f"given up, the last of run {run.id} (no route)" in check.found
        clock.advance(timedelta(days=1, seconds=1))
        assert looked_at(app, "outbox").status is Health.OK

    def test_a_slot_that_is_set_aside_for_too_long(self, app: Runlane, clock: SettableClock) -> None:
        run = app.trigger(narrow, 1).run
        app.tick()
        held = app.runs.get(run.id).reservation
        assert held is not None
        assert held.expires_at is not None
        clock.set(held.expires_at + timedelta(seconds=59))
        assert looked_at(app, "reservations").status is Health.OK
        clock.advance(timedelta(seconds=1))
        check = looked_at(app, "reservations")
        assert (check.status, check.values["oldest"]) == (Health.WARNING, 60.0)
        assert f"(queue narrow, run {run.id})" in check.found
        clock.advance(14 * MINUTE)
        assert looked_at(app, "reservations").status is Health.CRITICAL
        app.tick()
        assert looked_at(app, "reservations").status is Health.OK


def test_a_database_that_takes_its_time(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.0)
    found = app.doctor()
    assert {check.status for check in found.checks} == {Health.WARNING}
    assert {check.found for check in found.checks} == {"could not be looked at: the checks before it took 0 s"}


def test_what_cannot_be_looked_at_hides_nothing(app: Runlane, clock: SettableClock) -> None:
    of = "" if database_of(app).schema is None else "runlane."
    leased(app, clock)
    clock.advance(HOUR)
    with raw(database_of(app)) as connection:
        connection.exec_driver_sql(f"drop table {of}outbox")
    found = app.doctor()
    outbox, schema, workers = (found.check(name) for name in ("outbox", "schema", "workers"))
    assert outbox is not None
    assert schema is not None
    assert workers is not None
    assert (outbox.status, schema.status, workers.status) == (Health.WARNING, Health.CRITICAL, Health.CRITICAL)
    assert outbox.found.startswith("could not be looked at: ")
    assert outbox.values == {"error": "configuration_invalid"}
    assert schema.values["missing"] == ["table outbox"]
