"""Slots of bounded queues that are set aside for wakeups: counted like leases, given back in time, never leaked."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from runlane import (
    IgnoreReason,
    PublishOutcome,
    PublishStatus,
    Queue,
    QueueCapacityExceeded,
    Runlane,
    SettableClock,
    Wakeup,
    task,
)
from runlane.errors import TransportUnavailable
from runlane.events import RunDispatchReservationExpired, RunDispatchReserved, RunLeased
from tests.engine.post import DONE, Office, office
from tests.engine.sessions import EXPIRY, take
from tests.engine.tasks import HOUR, echo, patient
from tests.support import SECOND, at_once, types_of

__all__ = ["office"]

MINUTE = timedelta(minutes=1)
ONE = Queue("one", default=True, concurrency_limit=1)
REFUSED = PublishOutcome(PublishStatus.REJECTED, "never")
TWO = Queue("two", default=True, concurrency_limit=2, dispatch_timeout="1m")


def occupied_at_most(app: Runlane, limit: int) -> int:
    """The greatest number of slots in use, by leases and reservations, at any position of the log."""
    runs = [run.id for run in app.runs.list(limit=500).data]
    records = sorted((record for run in runs for record in app.runs.events(run)), key=lambda one: one.position)
    holding: set[Any] = set()
    most = 0
    for record in records:
        if isinstance(record.event, (RunLeased, RunDispatchReserved)):
            holding.add(record.stream_id)
        elif type(record.event).__name__ not in ("RunCreated", "RunDeliveryRequested", "RunCancellationRequested"):
            holding.discard(record.stream_id)
        most = max(most, len(holding))
        assert most <= limit
    return most


def test_a_wakeup_is_published_only_once_a_slot_is_reserved(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, queues=[TWO], clock=clock)
    runs = [app.trigger(echo, n).run for n in range(3)]
    assert office.post.calls == 0
    assert types_of(app, runs[0].id) == ["RunCreated"]
    report = app.tick()
    assert (report.slots_reserved, report.deliveries_requested, report.wakeups_published) == (2, 0, 2)
    assert types_of(app, runs[0].id) == ["RunCreated", "RunDispatchReserved", "RunDeliveryRequested"]
    held = app.runs.get(runs[0].id).reservation
    assert (held.reserved_at, held.expires_at) == (clock(), clock() + MINUTE)
    assert app.tick().slots_reserved == 0
    assert [one.run.id for one in office.deliver_all(app)] == [run.id for run in runs[:2]]
    assert app.tick().slots_reserved == 1
    assert [one.run.id for one in office.deliver_all(app)] == [runs[2].id]
    assert occupied_at_most(app, 2) == 2


def test_a_reserved_run_may_be_claimed_by_a_worker_that_looks_by_itself(office: Office) -> None:
    app = office.app(echo, queues=[ONE])
    run, other = (app.trigger(echo, n).run for n in (1, 2))
    app.tick()
    assert app.runs.get(run.id).reservation is not None
    done = app.execute_next()
    assert (done.id, done.status, done.reservation) == (run.id, "succeeded", None)
    assert app.execute_next().id == other.id
    assert office.deliver_all(app)[0].reason is IgnoreReason.TERMINAL


def test_nobody_takes_a_slot_that_is_set_aside(office: Office) -> None:
    app = office.app(echo, queues=[ONE])
    reserved = app.trigger(echo, 1).run
    app.tick()
    urgent = app.trigger(echo, 2, priority=9).run
    with pytest.raises(QueueCapacityExceeded):
        app.run_now(echo, 3)
    late = app.execute_delivery(Wakeup("default", urgent.id, "one", urgent.created_at))
    assert late.reason is IgnoreReason.NO_CAPACITY
    assert app.execute_next().id == reserved.id
    assert app.execute_next().id == urgent.id


def test_an_urgent_run_without_a_slot_does_not_put_its_full_queue_first(office: Office) -> None:
    other = Queue("other", concurrency_limit=1)
    app = office.app(echo, queues=[ONE, other])
    low, middle = app.trigger(echo, 1).run, app.trigger(echo, 2, queue=other, priority=3).run
    assert app.tick().slots_reserved == 2
    urgent = app.trigger(echo, 3, priority=5).run
    assert [app.execute_next().id for _ in range(3)] == [middle.id, low.id, urgent.id]


def test_a_full_queue_reserves_nothing(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, queues=[ONE], clock=clock)
    for n in range(2):
        app.trigger(echo, n)
    take(app, clock)
    assert app.tick().slots_reserved == 0


def test_each_concurrency_key_has_slots_of_its_own(office: Office) -> None:
    app = office.app(echo, queues=[ONE])
    for key in ("a", "a", "b", None):
        app.trigger(echo, 1, concurrency_key=key)
    assert app.tick().slots_reserved == 3


def test_an_unclaimed_slot_is_given_back_and_its_late_wakeup_is_harmless(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, queues=[TWO], clock=clock)
    run = app.trigger(echo, 1).run
    app.tick()
    (late,) = office.post.take()
    clock.advance(MINUTE - SECOND)
    assert app.tick().reservations_expired == 0
    clock.advance(SECOND)
    report = app.tick()
    assert (report.reservations_expired, report.slots_reserved, report.wakeups_published) == (1, 1, 1)
    assert types_of(app, run.id)[-3:] == [
        "RunDispatchReservationExpired",
        "RunDispatchReserved",
        "RunDeliveryRequested",
    ]
    assert app.execute_delivery(late).outcome == "executed"
    assert office.deliver_all(app)[0].reason is IgnoreReason.TERMINAL


def test_the_wakeup_of_a_slot_that_was_given_back_is_not_published_any_more(
    office: Office, clock: SettableClock
) -> None:
    app = office.app(echo, queues=[TWO], clock=clock)
    run = app.trigger(echo, 1).run
    office.post.refuse = TransportUnavailable("the provider is away")
    assert app.tick().wakeups_failed == 1
    app.queues.pause(TWO)
    office.post.refuse = None
    clock.advance(MINUTE)
    report = app.tick()
    assert (report.reservations_expired, report.wakeups_published) == (1, 0)
    app.queues.resume(TWO)
    assert (app.tick().wakeups_published, app.tick().wakeups_published) == (1, 0)
    assert [wakeup.run_id for wakeup in office.post.take()] == [run.id]


def test_without_a_dispatch_timeout_a_slot_is_kept(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, queues=[ONE], clock=clock)
    run = app.trigger(echo, 1).run
    app.tick()
    clock.advance(100 * HOUR)
    assert app.tick().reservations_expired == 0
    assert app.runs.get(run.id).reservation.expires_at is None


def test_the_slot_of_a_wakeup_that_was_refused_for_good_is_given_to_others(
    office: Office, clock: SettableClock
) -> None:
    app = office.app(echo, queues=[ONE], clock=clock)
    runs = [app.trigger(echo, n).run for n in range(3)]
    office.post.answer = lambda wakeup: REFUSED if wakeup.run_id == runs[0].id else DONE
    assert app.tick().wakeups_dead_lettered == 1
    later = app.tick()
    assert (later.reservations_expired, later.slots_reserved, later.wakeups_published) == (1, 1, 1)
    for run in runs[1:]:
        assert [one.run.id for one in office.deliver_all(app)] == [run.id]
        clock.advance(HOUR)
        app.tick()
    assert types_of(app, runs[0].id)[1:] == [
        "RunDispatchReserved",
        "RunDeliveryRequested",
        "RunDispatchReservationExpired",
    ]
    for _ in range(3):  # its history does not grow
        clock.advance(HOUR)
        assert app.tick().slots_reserved == 0
    assert app.execute_next().id == runs[0].id  # whoever looks by himself takes it


def test_the_slot_of_a_wakeup_that_could_not_be_published_is_reserved_anew(
    office: Office, clock: SettableClock
) -> None:
    app = office.app(echo, queues=[ONE], clock=clock)
    runs = [app.trigger(echo, n).run for n in range(2)]
    office.post.refuse = TransportUnavailable("away")
    given_up = 0
    for _ in range(120):
        given_up += app.tick().wakeups_dead_lettered
        clock.advance(MINUTE)
    assert given_up == 1
    office.post.refuse = None
    for run in runs:
        clock.advance(6 * MINUTE)
        app.tick()
        assert [one.run.id for one in office.deliver_all(app)] == [run.id]
    assert occupied_at_most(app, 1) == 1


def test_a_cancelled_run_gives_its_slot_back(office: Office) -> None:
    app = office.app(echo, queues=[ONE])
    first, second = (app.trigger(echo, n).run for n in (1, 2))
    app.tick()
    assert app.runs.cancel(first.id).reservation is None
    assert app.tick().slots_reserved == 1
    assert app.runs.get(second.id).reservation is not None


def test_a_run_that_waited_for_its_time_gets_a_slot_when_it_is_due(office: Office, clock: SettableClock) -> None:
    app = office.app(patient, queues=[ONE], clock=clock)
    run = app.run_now(patient, 1).run
    assert app.tick().slots_reserved == 0
    clock.advance(HOUR)
    report = app.tick()
    assert (report.deliveries_requested, report.slots_reserved, report.wakeups_published) == (0, 1, 1)
    assert types_of(app, run.id)[-2:] == ["RunDeliveryRequested", "RunDispatchReserved"]
    assert [one.run.status for one in office.deliver_all(app)] == ["succeeded"]


def test_a_run_lost_on_a_bounded_queue_gets_a_slot_again(office: Office, clock: SettableClock) -> None:
    app, other = office.app(echo, queues=[ONE], clock=clock), office.app(echo, queues=[ONE], clock=clock)
    run = app.trigger(echo, 1).run
    take(app, clock)
    clock.advance(EXPIRY)
    report = other.tick()
    assert (report.runs_recovered, report.slots_reserved, report.wakeups_published) == (1, 1, 1)
    assert types_of(app, run.id)[-3:] == ["RunLeaseExpired", "RunDispatchReserved", "RunDeliveryRequested"]


def test_a_paused_queue_reserves_nothing(office: Office) -> None:
    app = office.app(echo, queues=[ONE])
    app.trigger(echo, 1)
    app.queues.pause("one")
    assert app.tick().slots_reserved == 0
    app.queues.resume("one")
    assert app.tick().slots_reserved == 1


def test_slots_of_tasks_that_nobody_here_knows_are_left_to_others(office: Office) -> None:
    app, other = office.app(echo, queues=[ONE]), office.app(patient, queues=[ONE])
    app.trigger(echo, 1)
    assert other.tick().slots_reserved == 0
    assert app.tick().slots_reserved == 1


def test_a_lowered_limit_holds_for_slots_that_were_set_aside_before(office: Office, clock: SettableClock) -> None:
    wide, narrow = Queue("one", default=True, concurrency_limit=3), ONE
    app, later = office.app(echo, queues=[wide], clock=clock), office.app(echo, queues=[narrow], clock=clock)
    for n in range(3):
        app.trigger(echo, n)
    assert app.tick().slots_reserved == 3
    assert len(take(later, clock)) == 1
    assert take(later, clock) == []
    wakeups = office.post.take()
    assert [later.execute_delivery(wakeup).reason for wakeup in wakeups].count(IgnoreReason.NO_CAPACITY) == 2


@pytest.mark.parametrize("most", range(10, 14))
def test_a_history_near_its_limit_is_left_to_workers_that_look_by_themselves(
    office: Office, clock: SettableClock, most: int
) -> None:
    app = office.app(echo, queues=[TWO], clock=clock, max_events=most)
    run = app.trigger(echo, 1).run
    while app.tick().slots_reserved:
        clock.advance(MINUTE)
    assert app.runs.get(run.id).sequence in (most - 5, most - 4, most - 3)
    take(app, clock)
    app.runs.cancel(run.id)
    clock.advance(EXPIRY)
    assert app.tick().cancellations_finalized == 1
    assert app.runs.get(run.id).sequence <= most


@pytest.mark.parametrize("makers", [1, 3])
def test_invariant_9_limits_hold_with_ticks_workers_and_deliveries_at_once(shared_url: str, makers: int) -> None:
    office = Office(shared_url)
    lock = threading.Lock()
    inside: list[int] = []
    most = 0

    @task("counts")
    def counts(payload: Any) -> None:
        nonlocal most
        with lock:
            inside.append(payload)
            most = max(most, len(inside))
        with lock:
            inside.remove(payload)

    apps = [office.app(counts, queues=[TWO]) for _ in range(makers + 1)]
    runs = [one.run for one in apps[0].trigger_many(counts, range(30))]

    def deliver(app: Runlane) -> None:
        while any(app.runs.get(run.id).is_active for run in runs):
            app.tick()
            for wakeup in office.post.take():
                app.execute_delivery(wakeup)

    def poll() -> None:
        app = apps[-1]
        while any(app.runs.get(run.id).is_active for run in runs):
            app.execute_next()

    at_once([poll, *[lambda app=app: deliver(app) for app in apps[:-1]]])
    assert most <= 2
    assert occupied_at_most(apps[0], 2) <= 2
    for app in apps:
        assert app.audit.verify().differences == ()
        app.close()


def test_the_events_of_a_reservation_are_told_in_their_order(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, queues=[TWO], clock=clock)
    run = app.trigger(echo, 1).run
    app.tick()
    clock.advance(MINUTE)
    app.tick()
    told = [record.event for record in app.runs.events(run.id)]
    assert told[1] == RunDispatchReserved(clock())
    assert told[3] == RunDispatchReservationExpired()
