"""Maintainers that find the same occurrence, operators that steer it, and deployments at the same moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from runlane import Runlane, Schedule, task
from runlane.engine.tick import TickReport
from runlane.events import ScheduleFired
from runlane.projections.schedules import ScheduleState
from runlane.schedule_decisions import schedule_stream
from runlane.storage import streams
from tests.races.arena import Arena, Place
from tests.races.interleave import Race
from tests.support import START, database_of

TEN, HOUR = timedelta(minutes=10), timedelta(hours=1)


@task("work", schedules=[Schedule("s", every="10m")])
def work() -> None:
    """Nothing."""


def versions(*schedules: Schedule) -> Any:
    """The same task as another version of the program has it."""

    @task("work", schedules=schedules)
    def work() -> None:
        """Nothing."""

    return work


def minutes(state: ScheduleState) -> int:
    """The interval of a schedule."""
    return int(state.cadence["every_us"] // 60_000_000)


def history(app: Runlane, schedule_id: str = "s") -> list[str]:
    """The events of a schedule."""
    with database_of(app).read() as tx:
        records = streams.read_stream(tx, schedule_stream(app.environment, schedule_id))
    return [type(record.event).__name__.removeprefix("Schedule") for record in records]


def deployed(place: Place) -> tuple[Runlane, Runlane]:
    """Two maintainers that have recorded the schedule."""
    a, b = place.apps(work)
    a.tick()
    b.tick()
    return a, b


@pytest.mark.parametrize("missed", [0, 4])
def test_invariant_10_two_ticks_make_one_run_of_an_occurrence(arena: Arena, missed: int) -> None:
    """After a time without maintenance too: one run, the latest, and the others are told of."""

    def scene(place: Place) -> Race:
        a, b = deployed(place)
        place.clock.set(START + TEN * (missed + 1))

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            assert x.schedules_fired + y.schedules_fired == 1
            (run,) = a.runs.list().data
            assert run.source.scheduled_for == START + TEN * (missed + 1)
            with database_of(a).read() as tx:
                fired = streams.read_stream(tx, schedule_stream(a.environment, "s"))[-1].event
            assert isinstance(fired, ScheduleFired)
            assert (fired.collapsed, fired.run_id) == (missed, run.id)
            return "A" if x.schedules_fired else "B"

        return Race([a.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"A", "B"}


def test_invariant_10_a_tick_between_two_fires_makes_a_run_of_each(arena: Arena) -> None:
    """One maintainer is slow: the next occurrence falls due while it works at this one."""

    def scene(place: Place) -> Race:
        a, b = deployed(place)
        place.clock.set(START + TEN)

        def later() -> int:
            place.wait(TEN)
            return b.tick().schedules_fired

        def check(report: TickReport, fired: int) -> str:
            # One that found the schedule locked by the other leaves what is due by now to the next tick.
            left = b.tick().schedules_fired
            made = sorted(run.source.scheduled_for or START for run in a.runs.list().data)
            assert made in ([START + 2 * TEN], [START + TEN, START + 2 * TEN])
            assert len(made) == report.schedules_fired + fired + left
            return f"{report.schedules_fired}{fired}{left}"

        return Race([a.tick, later], check)

    assert set(arena.race(scene, switches=1)) >= {"010", "100", "110"}


def test_a_pause_and_a_fire_come_one_after_the_other(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = deployed(place)
        place.clock.set(START + TEN)

        def check(paused: ScheduleState, report: TickReport) -> str:
            assert report.errors == ()
            assert paused.paused
            told = history(a)[1:]
            assert told == ["Fired"] * report.schedules_fired + ["Paused"]
            assert len(a.runs.list().data) == report.schedules_fired
            place.clock.set(START + 2 * TEN)
            assert b.tick().schedules_fired == 0
            return "fired" if report.schedules_fired else "held back"

        return Race([lambda: a.schedules.pause("s"), b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"fired", "held back"}


def test_a_resumption_and_a_tick_fire_nothing_of_the_pause(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = deployed(place)
        a.schedules.pause("s")
        place.clock.set(START + TEN)

        def check(resumed: ScheduleState, report: TickReport) -> str:
            assert (report.schedules_fired, report.errors) == (0, ())
            assert (resumed.paused, resumed.next_at) == (False, START + 2 * TEN)
            assert history(a)[1:] == ["Paused", "Resumed"]
            return "skipped"

        return Race([lambda: a.schedules.resume("s"), b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"skipped"}


def test_of_two_deployments_of_one_version_one_is_written(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(versions(Schedule("s", every="10m"), Schedule("t", every="1h")))

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            assert x.schedules_changed + y.schedules_changed == 2
            assert history(a, "s") == history(a, "t") == ["Registered"]
            return f"{x.schedules_changed}{y.schedules_changed}"

        return Race([a.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) >= {"20", "02"}


def test_of_two_versions_deployed_at_once_each_schedule_is_as_one_of_them_has_it(arena: Arena) -> None:
    """They list the common schedules in another order, and one has withdrawn what the other changes."""

    def scene(place: Place) -> Race:
        a = place.app(versions(Schedule("t", every="10m"), Schedule("s", every="10m")))
        b = place.app(versions(Schedule("s", every="20m"), Schedule("z", every="20m")))
        place.app(versions(Schedule("s", every="5m"), Schedule("t", every="5m"))).tick()

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            found = {state.schedule_id: state.removed or minutes(state) for state in a.schedules.list()}
            assert found.pop("s") in (10, 20)
            assert found in (
                {"t": 10},
                {"t": True, "z": 20},
                {"t": 10, "z": 20},
                {"t": True, "z": True},
                {"t": 10, "z": True},
            )
            return " ".join(history(a, "s"))

        return Race([a.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"Registered Changed Changed"}


def test_a_deployment_and_a_fire_leave_both(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        _, b = deployed(place)
        new = place.app(versions(Schedule("s", every="20m")))
        place.clock.set(START + TEN)

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            told = history(b)[1:]
            assert sorted(told) in (["Changed"], ["Changed", "Fired"])
            assert len(b.runs.list().data) == told.count("Fired")
            assert b.schedules.get("s").next_at == START + 2 * TEN
            return " ".join(told)

        return Race([new.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) >= {"Fired Changed", "Changed"}
