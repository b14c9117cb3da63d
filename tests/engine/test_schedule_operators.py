"""What operators do with schedules: look, pause, resume, trigger out of turn, preview, and read what became of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from runlane import (
    Actor,
    AsyncRunlane,
    ConfigurationInvalid,
    PayloadInvalid,
    Runlane,
    RunStateInvalid,
    Schedule,
    ScheduleNotFound,
    SettableClock,
    Task,
    TaskNotFound,
    TriggerOutcome,
    task,
)
from runlane.engine import schedule
from runlane.events import ScheduleFired, SchedulePaused, ScheduleResumed
from runlane.storage import schedules, streams
from runlane.values import SourceType
from tests.engine.tasks import HOUR
from tests.support import SECOND, START, at_once, database_of

Make = Callable[..., Runlane]
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ANN = Actor.operator("ann")
OPERATIONS = {
    "get": lambda app, id: app.schedules.get(id),
    "pause": lambda app, id: app.schedules.pause(id),
    "resume": lambda app, id: app.schedules.resume(id),
    "trigger": lambda app, id: app.schedules.trigger(id),
    "preview": lambda app, id: app.schedules.preview(id, 3),
    "occurrences": lambda app, id: app.schedules.occurrences(id),
}


def scheduled(*schedules: Schedule, id: str = "scheduled", **options: Any) -> Task:
    @task(id, schedules=schedules, **options)
    def work(payload: Any) -> Any:
        return payload

    return work


def ticked(make_app: Make, clock: SettableClock, *schedules: Schedule, **options: Any) -> Runlane:
    app = make_app(scheduled(*schedules, **options), clock=clock)
    app.tick()
    return app


def history(app: Runlane, id: str = "s") -> list[Any]:
    stream = app.schedules.get(id).stream_id
    with database_of(app).read(None) as tx:
        return list(streams.read_stream(tx, stream))


def due_times(app: Runlane) -> list[timedelta | None]:
    runs = app.runs.list(order="oldest", limit=500).data
    return [run.source.scheduled_for and run.source.scheduled_for - START for run in runs]


def test_a_cron_schedule_fires_by_the_clocks_of_its_zone(make_app: Make, clock: SettableClock) -> None:
    clock.set(datetime(2026, 3, 28, 12, tzinfo=UTC))
    app = ticked(make_app, clock, Schedule("s", cron="30 2 * * *", time_zone="Europe/Berlin"))
    for _ in range(30):
        clock.advance(2 * HOUR)
        app.tick()
    fired = [run.source.scheduled_for for run in app.runs.list(order="oldest").data]
    assert fired == [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 30, 0, 30, tzinfo=UTC)]
    state = app.schedules.get("s")
    assert state.cadence == {"cron": "30 2 * * *", "time_zone": "Europe/Berlin"}
    assert state.next_at == datetime(2026, 3, 31, 0, 30, tzinfo=UTC)


def test_a_year_of_missed_minutes_is_one_run(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", cron="* * * * *"))
    clock.advance(365 * DAY)
    assert app.tick().schedules_fired == 1
    assert due_times(app) == [365 * DAY]
    (told,) = app.schedules.occurrences("s")
    assert (told.outcome, told.collapsed, told.collapsed_from) == ("fired", 365 * 1440 - 1, START + MINUTE)


def test_a_changed_zone_is_a_changed_rule(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", cron="0 12 * * *"))
    moved = Runlane(app.lane, tasks=[scheduled(Schedule("s", cron="0 12 * * *", time_zone="Asia/Tokyo"))], clock=clock)
    assert moved.tick().schedules_changed == 1
    assert app.schedules.get("s").next_at == START + 3 * HOUR
    moved.close()


def test_a_paused_schedule_does_not_fire_and_goes_on_after_now(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    clock.advance(10 * MINUTE)
    app.tick()
    paused = app.schedules.pause("s", actor=ANN, reason="night")
    assert paused.paused
    assert paused == app.schedules.get("s")
    clock.advance(35 * MINUTE)
    assert app.tick().schedules_fired == 0
    resumed = app.schedules.resume("s", actor=ANN, reason="morning")
    assert (resumed.paused, resumed.next_at) == (False, START + 50 * MINUTE)
    assert app.tick().schedules_fired == 0
    clock.advance(5 * MINUTE)
    assert app.tick().schedules_fired == 1
    assert due_times(app) == [10 * MINUTE, 50 * MINUTE]
    records = history(app)
    assert [(r.event, str(r.actor)) for r in records[2:4]] == [
        (SchedulePaused("night"), "operator:ann"),
        (
            ScheduleResumed(START + 50 * MINUTE, "morning", 3, START + 20 * MINUTE, START + 40 * MINUTE),
            "operator:ann",
        ),
    ]


def test_asking_twice_changes_nothing(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    assert app.schedules.resume("s") == app.schedules.get("s")
    first = app.schedules.pause("s")
    clock.advance(SECOND)
    assert app.schedules.pause("s", reason="again") == first
    resumed = app.schedules.resume("s")
    clock.advance(SECOND)
    assert app.schedules.resume("s") == resumed
    assert [type(r.event) for r in history(app)[1:]] == [SchedulePaused, ScheduleResumed]
    assert str(history(app)[1].actor) == "application:app"


def test_a_pause_in_which_nothing_fell_due_skips_nothing(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    app.schedules.pause("s")
    clock.advance(9 * MINUTE)
    app.schedules.resume("s")
    assert history(app)[-1].event == ScheduleResumed(START + 10 * MINUTE)
    assert app.schedules.occurrences("s") == ()
    clock.advance(MINUTE)
    assert app.tick().schedules_fired == 1


def test_a_pause_that_ends_at_an_occurrence_skips_it(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    app.schedules.pause("s")
    clock.advance(10 * MINUTE)
    assert app.schedules.resume("s").next_at == START + 20 * MINUTE
    (told,) = app.schedules.occurrences("s")
    assert (told.outcome, told.scheduled_for, told.collapsed) == ("skipped", START + 10 * MINUTE, 0)


def test_a_long_pause_of_a_frequent_cron_rule_is_counted(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", cron="* * * * *"))
    app.schedules.pause("s")
    clock.advance(1000 * DAY)
    app.schedules.resume("s")
    (told,) = app.schedules.occurrences("s")
    assert (told.collapsed + 1, told.collapsed_from) == (1000 * 1440, START + MINUTE)


def test_a_single_occurrence_that_falls_into_a_pause_is_skipped(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", run_at=START + HOUR))
    app.schedules.pause("s")
    clock.advance(2 * HOUR)
    assert app.schedules.resume("s", reason="too late").next_at is None
    assert app.tick().schedules_fired == 0
    (told,) = app.schedules.occurrences("s")
    assert (told.outcome, told.scheduled_for, told.reason) == ("skipped", START + HOUR, "too late")


@pytest.mark.parametrize(
    "between", [(), (Schedule("s", run_at=START + HOUR, enabled=False),)], ids=["gone", "disabled"]
)
def test_a_single_occurrence_that_was_skipped_does_not_come_back(
    make_app: Make, clock: SettableClock, between: tuple[Schedule, ...]
) -> None:
    once = Schedule("s", run_at=START + HOUR)
    app = ticked(make_app, clock, once)
    app.schedules.pause("s")
    clock.advance(2 * HOUR)
    app.schedules.resume("s")
    for deployed in (between, (once,), (Schedule("s", run_at=START + 9 * HOUR),), (once,)):
        report = Runlane(app.lane, tasks=[scheduled(*deployed)], clock=clock).tick()
        assert (report.schedules_changed, report.schedules_fired, report.errors) == (1, 0, ())
    assert app.schedules.get("s").next_at is None
    assert [told.outcome for told in app.schedules.occurrences("s")] == ["skipped"]


def test_a_deployment_leaves_a_schedule_paused(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    app.schedules.pause("s")
    again = Runlane(app.lane, tasks=[scheduled(Schedule("s", every="5m"))], clock=clock)
    assert again.tick().schedules_changed == 1
    clock.advance(HOUR)
    assert again.tick().schedules_fired == 0
    assert again.schedules.get("s").paused
    again.close()


def test_a_definition_that_changes_while_somebody_moves_the_schedule_is_not_lost(
    make_app: Make, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"), Schedule("t", every="10m"))
    read = schedules.schedules_of

    def stale(tx: Any, environment: str) -> Any:
        found = read(tx, environment)
        for id in ("s", "t"):
            schedule.pause(tx, environment, id, ANN, None)
        return found

    monkeypatch.setattr(schedules, "schedules_of", stale)
    changed = Runlane(app.lane, tasks=[scheduled(Schedule("s", every="5m"))], clock=clock)
    assert changed.tick().schedules_changed == 2
    state = changed.schedules.get("s")
    assert (state.paused, state.cadence) == (True, {"every_us": 300_000_000})
    assert changed.schedules.get("t").removed
    changed.close()


def test_a_run_out_of_turn_uses_up_no_occurrence(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m", payload={"n": 1}), priority=3)
    before = app.schedules.get("s")
    clock.advance(MINUTE)
    made = app.schedules.trigger("s", actor=ANN)
    assert made.outcome is TriggerOutcome.CREATED
    run = app.runs.get(made.run.id)
    assert (run.payload, run.priority, run.task_id, run.created_at) == ({"n": 1}, 3, "scheduled", clock())
    source = run.source
    assert (source.type, source.schedule_id) == (SourceType.SCHEDULE, "s")
    assert (source.occurrence_id, source.scheduled_for) == (None, None)
    assert str(app.runs.events(run.id)[0].actor) == "operator:ann"
    assert app.schedules.get("s") == before
    assert app.schedules.occurrences("s") == ()
    clock.advance(9 * MINUTE)
    app.tick()
    assert due_times(app) == [None, 10 * MINUTE]
    assert next(run.id for run in app.runs.list(schedule_id="s", order="oldest").data) == made.run.id


def test_a_paused_schedule_runs_when_told_to(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    app.schedules.pause("s")
    assert app.schedules.trigger("s").outcome is TriggerOutcome.CREATED
    assert app.schedules.get("s").paused


def test_a_key_of_the_task_holds_out_of_turn_too(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m", payload="k"), idempotency_key=lambda payload: payload)
    first, second = app.schedules.trigger("s"), app.schedules.trigger("s")
    assert (second.run.id, second.outcome) == (first.run.id, TriggerOutcome.REUSED_IDEMPOTENT)


def test_a_handler_that_triggers_a_schedule_is_its_parent(make_app: Make, clock: SettableClock) -> None:
    app: Runlane

    @task("asks")
    def asks() -> str:
        return str(app.schedules.trigger("s").run.id)

    app = make_app(scheduled(Schedule("s", every="10m")), asks, clock=clock)
    app.tick()
    parent = app.run_now(asks, correlation_id="c-7").run
    child = app.runs.get(parent.result)
    assert (child.source.parent_run_id, child.source.schedule_id, child.correlation_id) == (parent.id, "s", "c-7")


def test_a_stored_payload_that_fits_no_more_is_refused(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m", payload="five"))

    @task("scheduled")
    def stricter(payload: int) -> None:
        pass

    other = Runlane(app.lane, tasks=[stricter], clock=clock)
    with pytest.raises(PayloadInvalid, match="payload of schedule s"):
        other.schedules.trigger("s")
    assert app.runs.list().data == ()
    other.close()


def test_a_schedule_whose_task_is_unknown_here_can_be_paused_but_not_triggered(
    make_app: Make, clock: SettableClock
) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    stranger = Runlane(app.lane, clock=clock)
    with pytest.raises(TaskNotFound):
        stranger.schedules.trigger("s")
    assert stranger.schedules.pause("s").paused
    stranger.close()


def test_a_preview_tells_what_then_happens(make_app: Make, clock: SettableClock) -> None:
    clock.set(datetime(2026, 10, 24, 12, tzinfo=UTC))
    app = ticked(make_app, clock, Schedule("s", cron="*/30 1-2 * * *", time_zone="Europe/Berlin"))
    before = history(app)
    told = app.schedules.preview("s", 8)
    assert app.schedules.preview("s") == told[:5]
    assert app.schedules.preview("s", 1) == told[:1]
    assert history(app) == before
    while len(app.runs.list().data) < 8:
        clock.advance(5 * MINUTE)
        app.tick()
    assert tuple(run.source.scheduled_for for run in app.runs.list(order="oldest").data) == told


def test_a_preview_of_a_single_occurrence_is_short(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", run_at=START + HOUR))
    assert app.schedules.preview("s", 3) == (START + HOUR,)
    app.schedules.pause("s")
    assert app.schedules.preview("s", 3) == (START + HOUR,)
    clock.advance(HOUR)
    assert app.schedules.preview("s", 3) == ()


def test_a_preview_tells_of_a_single_occurrence_until_it_has_fired(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", run_at=START + HOUR))
    clock.advance(2 * HOUR)  # and nobody has ticked
    assert app.schedules.preview("s") == (START + HOUR,)
    assert app.tick().schedules_fired == 1
    assert app.schedules.preview("s") == ()
    clock.set(START)
    assert app.schedules.preview("s") == ()


def test_the_ledger_tells_the_newest_first(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    clock.advance(10 * MINUTE)
    app.tick()
    clock.advance(31 * MINUTE)
    app.tick()
    app.schedules.pause("s")
    clock.advance(20 * MINUTE)
    app.schedules.resume("s", actor=ANN, reason="done")
    third, second, first = app.schedules.occurrences("s")
    newest, oldest = app.runs.list().data
    assert (first.outcome, first.run_id, first.scheduled_for) == ("fired", oldest.id, START + 10 * MINUTE)
    assert (first.collapsed, first.collapsed_from, first.occurrence_id) == (0, None, oldest.source.occurrence_id)
    assert (second.run_id, second.scheduled_for) == (newest.id, START + 40 * MINUTE)
    assert (second.collapsed, second.collapsed_from) == (2, START + 20 * MINUTE)
    assert (second.decided_at, str(second.actor)) == (START + 41 * MINUTE, "schedule:s")
    assert (third.outcome, third.run_id, third.occurrence_id) == ("skipped", None, None)
    assert (third.scheduled_for, third.collapsed, third.collapsed_from) == (START + HOUR, 1, START + 50 * MINUTE)
    assert (third.reason, third.actor, third.decided_at) == ("done", ANN, START + 61 * MINUTE)
    assert app.schedules.occurrences("s", limit=2) == (third, second)


def test_the_ledger_passes_over_pauses_that_skipped_nothing(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    clock.advance(10 * MINUTE)
    app.tick()
    for _ in range(3):
        app.schedules.pause("s")
        app.schedules.resume("s")
    (told,) = app.schedules.occurrences("s", limit=1)
    assert told.outcome == "fired"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_schedule_that_nobody_registered_is_not_found(make_app: Make, clock: SettableClock, operation: str) -> None:
    app = make_app(scheduled(Schedule("s", every="10m")), clock=clock)
    with pytest.raises(ScheduleNotFound, match="'s'"):
        OPERATIONS[operation](app, "s")
    app.tick()
    OPERATIONS[operation](app, "s")
    elsewhere = Runlane(app.lane, environment="elsewhere", clock=clock)
    with pytest.raises(ScheduleNotFound, match="'elsewhere'"):
        OPERATIONS[operation](elsewhere, "s")
    elsewhere.close()


def test_a_removed_schedule_can_be_looked_at_and_nothing_else(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    without = Runlane(app.lane, tasks=[scheduled()], clock=clock)
    without.tick()
    before = history(app)
    for name, operation in OPERATIONS.items():
        if name in ("get", "occurrences"):
            operation(app, "s")
        else:
            with pytest.raises(RunStateInvalid, match="schedule s is removed"):
                operation(app, "s")
    assert history(app) == before
    without.close()


def test_a_disabled_schedule_has_no_next_time_and_can_be_paused(make_app: Make, clock: SettableClock) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m", enabled=False))
    for name in ("trigger", "preview"):
        with pytest.raises(RunStateInvalid, match="schedule s is disabled"):
            OPERATIONS[name](app, "s")
    assert app.schedules.pause("s").paused
    clock.advance(HOUR)
    assert app.schedules.resume("s").next_at is None
    assert app.schedules.occurrences("s") == ()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda app: app.schedules.get("a:b"),
        lambda app: app.schedules.get(5),
        lambda app: app.schedules.pause("s", actor="ann"),
        lambda app: app.schedules.pause("s", reason="\0"),
        lambda app: app.schedules.resume("s", reason=5),
        lambda app: app.schedules.trigger("s", actor="ann"),
        lambda app: app.schedules.preview("s", 0),
        lambda app: app.schedules.preview("s", 1001),
        lambda app: app.schedules.preview("s", True),
        lambda app: app.schedules.occurrences("s", limit=501),
        lambda app: app.schedules.occurrences("s", limit="5"),
    ],
)
def test_wrong_arguments_are_refused(make_app: Make, clock: SettableClock, wrong: Callable[[Runlane], Any]) -> None:
    app = ticked(make_app, clock, Schedule("s", every="10m"))
    before = history(app)
    with pytest.raises(ConfigurationInvalid):
        wrong(app)
    assert history(app) == before


def test_pauses_and_maintainers_at_once_leave_one_history(shared_url: str, clock: SettableClock) -> None:
    used = scheduled(Schedule("s", every="1m"))
    apps = [Runlane(shared_url, tasks=[used], clock=clock).start() for _ in range(4)]
    for app in apps:
        app.tick()
    for _ in range(8):
        clock.advance(MINUTE)
        at_once(
            [
                apps[0].tick,
                apps[1].tick,
                lambda: apps[2].schedules.pause("s"),
                lambda: apps[3].schedules.resume("s"),
            ]
        )
    apps[0].schedules.resume("s")
    clock.advance(MINUTE)
    apps[0].tick()
    told = [event.event for event in history(apps[0])]
    covered = []
    for event in told:
        if isinstance(event, ScheduleFired):
            first, count = event.collapsed_from or event.scheduled_for, event.collapsed + 1
        elif isinstance(event, ScheduleResumed) and event.skipped:
            first, count = event.skipped_from, event.skipped
        else:
            continue
        covered += [first + n * MINUTE - START for n in range(count)]
    assert covered == [n * MINUTE for n in range(1, 10)], "each occurrence is told of exactly once"
    kinds = [type(event) for event in told if isinstance(event, SchedulePaused | ScheduleResumed)]
    assert all(one is not other for one, other in itertools.pairwise(kinds))
    assert apps[0].audit.verify().differences == ()
    for app in apps:
        app.close()


def test_the_asyncio_face_does_the_same(lane_url: str, clock: SettableClock) -> None:
    async def talk() -> None:
        async with AsyncRunlane(lane_url, tasks=[scheduled(Schedule("s", every="10m"))], clock=clock) as app:
            await app.tick()
            assert (await app.schedules.pause("s", actor=ANN, reason="why")).paused
            clock.advance(15 * MINUTE)
            assert (await app.schedules.resume("s")).next_at == START + 20 * MINUTE
            assert (await app.schedules.trigger("s")).run.source.schedule_id == "s"
            assert await app.schedules.preview("s", 2) == (START + 20 * MINUTE, START + 30 * MINUTE)
            (told,) = await app.schedules.occurrences("s", limit=1)
            assert told.outcome == "skipped"
            assert await app.schedules.get("s") == (await app.schedules.list())[0]
            with pytest.raises(ScheduleNotFound):
                await app.schedules.get(f"no-{uuid4()}")
            assert (await app.audit.verify()).identical

    asyncio.run(talk())
