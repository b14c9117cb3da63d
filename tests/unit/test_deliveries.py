"""When a run asks for its delivery, and when a slot of a bounded queue is set aside for it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from attrs import evolve

from runlane import decisions
from runlane import events as e
from runlane.decisions import Failed, Interrupted, Released
from runlane.errors import ConfigurationInvalid
from runlane.policy import Fixed, Retry
from runlane.projections.runs import Run
from runlane.values import SYSTEM, Reservation
from tests.unit.lives import BROKEN, CREATED, HOUR, LATER, SESSION, STATUSES, T0, run_in

TICK = timedelta(microseconds=1)
DELIVERY = e.RunDeliveryRequested()
WAITING = ("scheduled", "released", "retrying")


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_that_waited_for_its_time_asks_once_it_has_come(status: str) -> None:
    run = run_in(status)
    asked = (DELIVERY,) if status in WAITING else ()
    assert decisions.request_delivery(run, T0 + HOUR) == asked
    assert decisions.request_delivery(run, LATER) == asked
    assert decisions.request_delivery(run, T0 + HOUR - TICK) == ()


@pytest.mark.parametrize("status", STATUSES)
def test_a_queued_run_may_ask_once_more(status: str) -> None:
    asked = (DELIVERY,) if status == "queued" else ()
    assert decisions.request_again(run_in(status), T0) == asked
    assert decisions.request_again(run_in(status), LATER) == asked
    assert decisions.request_again(run_in(status), T0 - TICK) == ()


@pytest.mark.parametrize(("sequence", "asks"), [(5, True), (6, True), (7, False), (9, False)])
def test_it_does_not_ask_where_its_end_would_not_fit_any_more(sequence: int, asks: bool) -> None:
    run = evolve(run_in("queued"), sequence=sequence)
    assert decisions.request_again(run, LATER, max_events=10) == ((DELIVERY,) if asks else ())


def test_no_limit_given_is_that_of_ten_thousand() -> None:
    for sequence, asks in ((9_996, True), (9_997, False)):
        assert bool(decisions.request_again(evolve(run_in("queued"), sequence=sequence), LATER)) is asks
    for sequence, reserves in ((9_994, True), (9_995, False)):
        assert bool(decisions.reserve(evolve(run_in("queued"), sequence=sequence), LATER, None)) is reserves
    for sequence, goes_on in ((9_995, True), (9_996, False)):
        run = evolve(run_in("running"), sequence=sequence)
        (event,) = decisions.complete(run, SESSION, 1, Released(HOUR), Retry(1), LATER, 0.0)
        assert isinstance(event, e.RunReleased) is goes_on


def test_a_slot_is_set_aside_and_the_delivery_asked_for() -> None:
    events = decisions.reserve(run_in("queued"), LATER, HOUR)
    assert events == (e.RunDispatchReserved(LATER + HOUR), DELIVERY)
    assert decisions.reserve(run_in("queued"), LATER, None) == (e.RunDispatchReserved(None), DELIVERY)


@pytest.mark.parametrize("status", WAITING)
def test_a_run_that_waited_is_queued_first(status: str) -> None:
    run = run_in(status)
    events = decisions.reserve(run, LATER, HOUR)
    assert events == (DELIVERY, e.RunDispatchReserved(LATER + HOUR))
    after = decisions.advance(run, events, LATER, SYSTEM).after
    assert (after.status, after.reservation) == ("queued", Reservation(LATER, LATER + HOUR))


@pytest.mark.parametrize(("sequence", "reserves"), [(3, True), (4, True), (5, False), (8, False)])
def test_no_slot_where_its_end_would_not_fit_any_more(sequence: int, reserves: bool) -> None:
    run = evolve(run_in("queued"), sequence=sequence)
    events = (e.RunDispatchReserved(LATER + HOUR), DELIVERY) if reserves else ()
    assert decisions.reserve(run, LATER, HOUR, max_events=10) == events


def test_a_timeout_beyond_the_calendar_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationInvalid, match="dispatch_timeout"):
        decisions.reserve(run_in("queued"), LATER, timedelta(days=9_999_999))


def reserved(expires_at: datetime | None) -> Run:
    return evolve(run_in("queued"), reservation=Reservation(T0, expires_at))


def test_a_slot_that_nobody_claimed_in_time_is_given_back() -> None:
    assert decisions.expire_reservation(reserved(LATER), LATER) == (e.RunDispatchReservationExpired(),)
    assert decisions.expire_reservation(reserved(LATER), LATER + TICK) == (e.RunDispatchReservationExpired(),)


def test_nothing_is_given_back_before_the_time_or_where_nothing_is_reserved() -> None:
    assert decisions.expire_reservation(reserved(LATER), LATER - TICK) == ()
    assert decisions.expire_reservation(reserved(None), LATER) == ()
    assert decisions.expire_reservation(run_in("queued"), LATER) == ()


@pytest.mark.parametrize("until", [None, LATER])
def test_a_slot_is_given_back_early_where_its_wakeup_was_given_up(until: datetime | None) -> None:
    assert decisions.expire_reservation(reserved(until), LATER - TICK, True) == (e.RunDispatchReservationExpired(),)
    assert decisions.expire_reservation(run_in("queued"), LATER, True) == ()


def test_a_run_that_is_queued_again_asks_for_its_delivery_if_it_is_to() -> None:
    run = run_in("running")
    lost, interrupted = e.RunLeaseExpired(SESSION, 1), e.RunInterrupted(SESSION, 1, "worker_stopping")
    stopped = Interrupted("worker_stopping")
    assert decisions.recover(run, 3, wake=True) == (lost, DELIVERY)
    assert decisions.recover(run, 3) == (lost,)
    assert decisions.complete(run, SESSION, 1, stopped, Retry(1), LATER, 0.0, wake=True) == (interrupted, DELIVERY)
    assert decisions.complete(run, SESSION, 1, stopped, Retry(1), LATER, 0.0) == (interrupted,)


@pytest.mark.parametrize("outcome", [Released(HOUR), Failed(BROKEN)])
def test_one_that_waits_or_has_ended_does_not_ask(outcome: decisions.Outcome) -> None:
    run = run_in("running")
    (event,) = decisions.complete(run, SESSION, 1, outcome, Retry(5, Fixed("1s")), LATER, 0.0, wake=True)
    assert isinstance(event, e.RunReleased | e.RunRetryScheduled)
    (ended,) = decisions.complete(run, SESSION, 1, decisions.Succeeded(), Retry(1), LATER, 0.0, wake=True)
    assert ended == e.RunSucceeded(SESSION, 1)


def test_a_trigger_that_delivers_later_asks_for_nothing() -> None:
    assert decisions.create(CREATED, None, T0, deliver=False) == (CREATED,)
    assert decisions.create(CREATED, None, T0, deliver=True) == (CREATED, DELIVERY)


def test_a_lease_carries_the_limit_under_which_it_was_taken() -> None:
    assert decisions.lease(run_in("queued"), SESSION, "w1", 5) == (e.RunLeased(SESSION, "w1", 1, 5),)
    assert decisions.lease(run_in("retrying"), SESSION, "w1") == (e.RunLeased(SESSION, "w1", 2, None),)


def test_a_history_that_is_full_says_how_long_it_is_and_may_be() -> None:
    run = evolve(run_in("running"), sequence=8)
    for events in (
        decisions.recover(run, 3, max_events=10),
        decisions.complete(run, SESSION, 1, Released(HOUR), Retry(1), LATER, 0.0, max_events=10),
    ):
        (failed,) = events
        assert isinstance(failed, e.RunFailed)
        assert (failed.session_id, failed.attempt) == (SESSION, 1)
        assert failed.failure.message == "the run has 8 events and at most 10 are allowed"


def test_a_lost_run_says_how_often_and_whose_it_was() -> None:
    (failed,) = decisions.recover(evolve(run_in("running"), sequence=9), 1, max_events=10)
    assert isinstance(failed, e.RunFailed)
    assert failed.failure.message == "its worker vanished 1 times; the last one was w1"


def test_a_cancelled_run_whose_request_is_not_known_has_no_reason() -> None:
    run = evolve(run_in("cancellation_requested"), cancellation=None)
    assert decisions.recover(run, 3) == (e.RunCancelled(None),)
    assert decisions.complete(run, SESSION, 1, Released(HOUR), Retry(1), LATER, 0.0) == (e.RunCancelled(None),)


def test_a_release_that_names_no_time_is_due_at_once() -> None:
    (event,) = decisions.complete(run_in("running"), SESSION, 1, Released(), Retry(1), LATER, 0.0)
    assert event == e.RunReleased(SESSION, 1, LATER, None, None)
