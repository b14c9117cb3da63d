"""Creating, leasing and recovering runs, and who keeps an idempotency key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from runlane import decisions
from runlane import events as e
from runlane.errors import ConfigurationInvalid, InvariantViolation
from runlane.projections import runs
from runlane.projections.runs import Run
from runlane.values import APPLICATION, SYSTEM
from tests.unit.lives import (
    ACTIVE,
    CREATED,
    HELD,
    HOUR,
    LATER,
    OTHER_SESSION,
    RUN_ID,
    SESSION,
    STATUSES,
    T0,
    run_in,
)

TICK = timedelta(microseconds=1)


@pytest.mark.parametrize("run_at", [None, T0 - HOUR, T0])
def test_a_run_that_is_due_asks_for_its_delivery_at_once(run_at: datetime | None) -> None:
    created = evolve(CREATED, run_at=run_at)
    assert decisions.create(created, None, T0) == (created, e.RunDeliveryRequested())


def test_a_run_of_the_future_waits_without_a_delivery() -> None:
    created = evolve(CREATED, run_at=T0 + TICK)
    assert decisions.create(created, None, T0) == (created,)


def test_a_delay_counts_from_now() -> None:
    assert decisions.create(CREATED, HOUR, T0) == (evolve(CREATED, run_at=T0 + HOUR),)


def test_a_delay_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="9999"):
        decisions.create(CREATED, timedelta(days=9_999_999), T0)


def test_beginning_a_run_records_its_events_from_one_on() -> None:
    change = decisions.begin(RUN_ID, "prod", (CREATED, e.RunDeliveryRequested()), T0, APPLICATION)
    assert change.before is None
    assert [(r.sequence, r.event) for r in change.records] == [(1, CREATED), (2, e.RunDeliveryRequested())]
    assert {(r.stream_id, r.occurred_at, r.environment, r.actor) for r in change.records} == {
        (RUN_ID, T0, "prod", APPLICATION)
    }
    assert change.after == runs.replay(change.records)


@pytest.mark.parametrize("status", ACTIVE)
def test_advancing_folds_what_it_records(status: str) -> None:
    run = run_in(status)
    change = decisions.advance(run, (e.RunCancelled("enough"),), LATER, SYSTEM)
    assert change.before is run
    (record,) = change.records
    assert (record.stream_id, record.sequence, record.environment) == (run.id, run.sequence + 1, run.environment)
    assert change.after == runs.after(run, record)


@pytest.mark.parametrize("status", ACTIVE)
def test_advancing_by_nothing_changes_nothing(status: str) -> None:
    run = run_in(status)
    change = decisions.advance(run, (), LATER, SYSTEM)
    assert (change.records, change.after) == ((), run)


def leased(run: Run, at: datetime) -> Run:
    return decisions.advance(run, decisions.lease(run, OTHER_SESSION, "w2"), at, SYSTEM).after


@pytest.mark.parametrize("status", ["queued", "scheduled", "released", "retrying"])
def test_a_claim_takes_a_due_run_for_its_next_attempt(status: str) -> None:
    run = run_in(status)
    after = leased(run, LATER)
    assert after.status == "running"
    assert after.lease is not None
    assert after.lease.attempt == run.counters.attempts + 1
    assert (after.lease.session_id, after.lease.worker_id) == (OTHER_SESSION, "w2")


@pytest.mark.parametrize("status", ["scheduled", "released", "retrying"])
def test_a_claim_before_the_time_is_refused(status: str) -> None:
    with pytest.raises(InvariantViolation):
        leased(run_in(status), T0 + HOUR - TICK)


@pytest.mark.parametrize("status", [*HELD, "succeeded", "failed", "cancelled"])
def test_a_claim_of_a_held_or_ended_run_is_refused(status: str) -> None:
    with pytest.raises(InvariantViolation):
        leased(run_in(status), LATER)


@pytest.mark.parametrize("status", [status for status in STATUSES if status not in HELD])
def test_nothing_is_recovered_from_a_run_that_nobody_holds(status: str) -> None:
    assert decisions.recover(run_in(status), max_lost=3) == ()


@pytest.mark.parametrize(("losses", "max_lost"), [(0, 3), (1, 3), (0, 2)])
def test_a_lost_run_goes_back_to_the_queue(losses: int, max_lost: int) -> None:
    run = run_in("running")
    run = evolve(run, counters=evolve(run.counters, losses=losses, failures=99))
    assert decisions.recover(run, max_lost) == (e.RunLeaseExpired(SESSION, 1),)


@pytest.mark.parametrize(("losses", "max_lost"), [(2, 3), (0, 1), (5, 3)])
def test_a_run_that_was_lost_too_often_fails(losses: int, max_lost: int) -> None:
    run = run_in("running")
    run = evolve(run, counters=evolve(run.counters, losses=losses))
    (event,) = decisions.recover(run, max_lost)
    assert isinstance(event, e.RunFailed)
    assert (event.session_id, event.attempt) == (SESSION, 1)
    assert (event.failure.code, event.failure.retryable) == ("lease_lost", False)
    assert "w1" in event.failure.message
    assert decisions.advance(run, (event,), LATER, SYSTEM).after.status == "failed"


def test_the_last_loss_is_counted_like_the_others() -> None:
    run = run_in("queued")
    for _ in range(3):
        run = leased(run, LATER)
        run = decisions.advance(run, decisions.recover(run, max_lost=3), LATER, SYSTEM).after
    assert (run.status, run.lost_count, run.attempt_count) == ("failed", 3, 3)


@pytest.mark.parametrize("max_lost", [1, 3])
def test_an_abandoned_cancellation_is_finished_whatever_was_lost(max_lost: int) -> None:
    run = run_in("cancellation_requested")
    assert decisions.recover(run, max_lost) == (e.RunCancelled("enough"),)


@pytest.mark.parametrize(("sequence", "code"), [(5, None), (6, "history_limit"), (10, "history_limit")])
def test_a_run_lost_again_and_again_stays_within_its_limit_of_history(sequence: int, code: str | None) -> None:
    run = evolve(run_in("running"), sequence=sequence)
    (event,) = decisions.recover(run, max_lost=1_000_000, max_events=10)
    assert isinstance(event, e.RunLeaseExpired if code is None else e.RunFailed)
    assert code is None or event.failure.code == code


def test_the_limit_of_history_is_ten_thousand_unless_told_otherwise() -> None:
    run = evolve(run_in("running"), sequence=9_996)
    (lost,) = decisions.recover(run, max_lost=1_000_000)
    assert lost.failure.code == "history_limit"
    assert isinstance(decisions.recover(evolve(run, sequence=9_995), max_lost=1_000_000)[0], e.RunLeaseExpired)


def owner(status: str, ttl: str | None = "30d") -> Run:
    run = run_in(status)
    return evolve(run, created=evolve(run.created, idempotency_key="k", idempotency_ttl=ttl))


FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("ttl", ["1ms", "30d", "active"])
@pytest.mark.parametrize("status", ACTIVE)
def test_an_active_run_owns_its_key_even_past_its_time(status: str, ttl: str) -> None:
    assert decisions.keeps_key(owner(status, ttl), FOR_EVER)


@pytest.mark.parametrize("ttl", ["30d", "active"])
def test_a_failed_run_frees_its_key_at_once(ttl: str) -> None:
    assert decisions.keeps_key(owner("failed", ttl), T0) is False


@pytest.mark.parametrize("status", ["succeeded", "cancelled"])
@pytest.mark.parametrize(("ttl", "kept"), [("30d", timedelta(days=30)), ("500ms", timedelta(milliseconds=500))])
def test_an_ended_run_keeps_its_key_for_its_time_since_creation(status: str, ttl: str, kept: timedelta) -> None:
    assert decisions.keeps_key(owner(status, ttl), T0)
    assert decisions.keeps_key(owner(status, ttl), T0 + kept - TICK)
    assert not decisions.keeps_key(owner(status, ttl), T0 + kept)
    assert not decisions.keeps_key(owner(status, ttl), FOR_EVER)


@pytest.mark.parametrize("status", ["succeeded", "cancelled"])
def test_a_key_kept_while_active_is_freed_at_the_end(status: str) -> None:
    assert not decisions.keeps_key(owner(status, "active"), T0)


def test_a_retention_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigurationInvalid, match="idempotency_ttl"):
        decisions.keeps_key(owner("succeeded", "soon"), T0)


def test_a_key_kept_for_longer_than_the_calendar_is_kept() -> None:
    assert decisions.keeps_key(owner("succeeded", "9999999d"), LATER)
