"""Of many workers one keeps house; the others look on, and take over when it vanishes.  Nothing depends on it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from runlane import Queue, Runlane, SettableClock
from runlane.engine.tick import TickReport
from runlane.housekeeping import Housekeeper
from runlane.storage import maintainers
from runlane.storage.maintainers import Maintainer
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import echo, flaky
from tests.support import PATIENCE, at_once, database_of, eventually

INTERVAL = 1.0
HOUSE = timedelta(seconds=5)


def keeps(app: Runlane) -> bool:
    """Whether a pass of this process does the work."""
    return app._runtime.keep_house(INTERVAL) is not None


def keeper(app: Runlane, definitions: str) -> Maintainer | None:
    """Who keeps house, as the database says."""
    with database_of(app).read() as tx:
        return maintainers.find(tx, app.environment, definitions)


def pair(url: str, clock: SettableClock, **options: Any) -> tuple[Runlane, Runlane]:
    apps = [Runlane(url, tasks=[echo], clock=clock, **options).start() for _ in range(2)]
    return apps[0], apps[1]


def test_one_of_two_keeps_house_and_goes_on(shared_url: str, clock: SettableClock) -> None:
    one, two = pair(shared_url, clock)
    for _ in range(8):
        assert (keeps(one), keeps(two)) == (True, False)
        clock.advance(timedelta(seconds=INTERVAL))
    one.close()
    two.close()


def test_the_other_takes_over_when_it_vanishes(shared_url: str, clock: SettableClock) -> None:
    one, two = pair(shared_url, clock)
    assert keeps(one)
    clock.advance(HOUSE - timedelta(milliseconds=1))
    assert not keeps(two)
    clock.advance(timedelta(milliseconds=1))
    assert keeps(two)
    assert not keeps(one)
    one.close()
    two.close()


def test_it_looks_once_and_writes_seldom(shared_url: str, clock: SettableClock) -> None:
    one, two = pair(shared_url, clock)
    keeps(one)
    before = keeper(two, two._runtime.house(INTERVAL))
    clock.advance(timedelta(seconds=1))
    keeps(one)
    keeps(two)
    assert keeper(two, two._runtime.house(INTERVAL)) == before
    one.close()
    two.close()


def test_who_stops_leaves_the_house_at_once(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as one, Runlane(shared_url, tasks=[echo]) as two:
        worker = one.worker(maintenance_interval=0.01)
        worker.start()
        of = one._runtime.house(0.01)
        eventually(lambda: keeper(one, of) is not None, "the first worker keeping house")
        assert two._runtime.keep_house(0.01) is None
        worker.stop()
        assert two._runtime.keep_house(0.01) is not None


def test_other_definitions_are_kept_by_somebody_who_has_them(shared_url: str, clock: SettableClock) -> None:
    """Whoever does not know a task cannot fire its schedules, nor a queue's limit reserve its slots."""
    one = Runlane(shared_url, tasks=[echo], clock=clock).start()
    others = [
        Runlane(shared_url, tasks=[echo, flaky], clock=clock).start(),
        Runlane(shared_url, tasks=[echo], queues=[Queue("default", default=True, concurrency_limit=2)], clock=clock),
        Runlane(shared_url, tasks=[echo], clock=clock, environment="other").start(),
    ]
    assert keeps(one)
    for app in others:
        assert keeps(app)
        app.close()
    one.close()


def test_a_clock_that_is_set_back_keeps_nobody_in_the_house_for_long(shared_url: str, clock: SettableClock) -> None:
    one, two = pair(shared_url, clock)
    assert keeps(one)
    clock.advance(-timedelta(hours=1))
    assert keeps(two)
    one.close()
    two.close()


def test_those_that_look_less_often_keep_a_house_of_their_own(shared_url: str, clock: SettableClock) -> None:
    one, two = pair(shared_url, clock)
    assert one._runtime.keep_house(60.0) is not None
    assert keeps(two)
    one.close()
    two.close()


def test_an_explicit_tick_always_does_the_work(shared_url: str, clock: SettableClock) -> None:
    one, two = pair(shared_url, clock)
    assert keeps(one)
    run = two.trigger(echo, 1).run
    holder = session_of(one).holder
    assert [taken.id for taken in take(one, clock)] == [run.id]
    clock.advance(EXPIRY)
    assert two.tick().runs_recovered == 1
    assert holder.session_id != session_of(two).holder.session_id
    one.close()
    two.close()


def test_many_that_begin_at_once_find_one(shared_url: str, clock: SettableClock) -> None:
    apps = [Runlane(shared_url, tasks=[echo], clock=clock).start() for _ in range(6)]
    for app in apps:
        app._runtime.session()
    assert sum(at_once([lambda app=app: keeps(app) for app in apps])) == 1
    for app in apps:
        app.close()


def test_a_slower_one_does_not_take_what_was_taken_meanwhile(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[echo], clock=clock) as app:
        database, of = database_of(app), app._runtime.house(INTERVAL)
        first, second, late = (Maintainer(uuid4(), clock() + HOUSE) for _ in range(3))

        def take(seen: Maintainer | None, wanted: Maintainer) -> bool:
            return database.transact(lambda tx: maintainers.take(tx, "default", of, seen, wanted))

        assert take(None, first)
        assert not take(None, late)
        assert take(first, second)
        assert not take(first, late)


def test_who_can_publish_nothing_leaves_the_house_however_few_wakeups_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wakeup that has failed rests: most passes have none to publish."""
    with Runlane("memory:", tasks=[echo]) as app:
        failed, nothing = TickReport(wakeups_failed=1), TickReport()
        passes = iter([failed, nothing, failed, nothing, nothing, failed])
        left = threading.Event()
        monkeypatch.setattr(app._runtime, "keep_house", lambda _: next(passes, TickReport()))
        monkeypatch.setattr(app._runtime, "leave_house", lambda _: left.set())
        keeper = Housekeeper(app._runtime, 0.001)
        keeper.start()
        has_left = left.wait(PATIENCE / 4)
        keeper.close()
        assert has_left


def test_who_publishes_now_and_then_keeps_the_house(monkeypatch: pytest.MonkeyPatch) -> None:
    with Runlane("memory:", tasks=[echo]) as app:
        failed, published = TickReport(wakeups_failed=1), TickReport(wakeups_failed=1, wakeups_published=1)
        passes, over = iter([failed, failed, published, failed, failed]), threading.Event()
        left: list[bool] = []

        def keep(_: float) -> TickReport:
            report = next(passes, None)
            if report is None:
                over.set()
            return report or TickReport()

        monkeypatch.setattr(app._runtime, "keep_house", keep)
        monkeypatch.setattr(app._runtime, "leave_house", lambda _: left.append(over.is_set()))
        keeper = Housekeeper(app._runtime, 0.001)
        keeper.start()
        assert over.wait(PATIENCE)
        keeper.close()
        assert left == [True], "only at its end"
