"""The fold of a run against the lifecycle table: each event in each status is taken or refused exactly as it says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve

from runlane import events as e
from runlane.errors import InvariantViolation
from runlane.projections import runs
from runlane.values import SYSTEM, Actor, Cancellation, Failure
from tests.strategies import LIFECYCLE
from tests.unit.lives import (
    ACTIVE,
    BROKEN,
    CREATED,
    HELD,
    HOUR,
    LATER,
    LEASED,
    OTHER_SESSION,
    RUN_ID,
    SESSION,
    STATUSES,
    T0,
    TERMINAL,
    history,
    record,
    run_in,
)

ANN = Actor.operator("ann")
STEPS: dict[str, e.RunStep] = {
    "run.delivery_requested": e.RunDeliveryRequested(),
    "run.dispatch_reserved": e.RunDispatchReserved(LATER + HOUR),
    "run.dispatch_reservation_expired": e.RunDispatchReservationExpired(),
    "run.leased": LEASED,
    "run.succeeded": e.RunSucceeded(SESSION, 1, {"sent": 1}),
    "run.retry_scheduled": e.RunRetryScheduled(SESSION, 1, BROKEN, LATER + HOUR, 3_600_000, 0),
    "run.released": e.RunReleased(SESSION, 1, LATER + HOUR, "not yet"),
    "run.interrupted": e.RunInterrupted(SESSION, 1, "worker_stopping"),
    "run.lease_expired": e.RunLeaseExpired(SESSION, 1),
    "run.failed": e.RunFailed(SESSION, 1, BROKEN),
    "run.cancellation_requested": e.RunCancellationRequested("enough"),
    "run.cancelled": e.RunCancelled("enough"),
}


def applied(status: str, step: e.RunStep, at=LATER) -> runs.Run:
    run = run_in(status)
    if isinstance(step, e.RunLeased):
        step = evolve(step, attempt=run.counters.attempts + 1)
    return runs.after(run, record(run.sequence + 1, step, at))


@pytest.mark.parametrize("status", STATUSES)
def test_the_shortest_path_leads_to_each_status(status: str) -> None:
    assert run_in(status).status == status


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("status", STATUSES)
def test_every_pair_of_status_and_event_is_decided_by_the_table(status: str, name: str) -> None:
    before, to = LIFECYCLE[name]
    if status not in before.split():
        with pytest.raises(InvariantViolation):
            applied(status, STEPS[name])
    else:
        assert applied(status, STEPS[name]).status == to.split(" if due")[0]


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_is_created_only_once(status: str) -> None:
    run = run_in(status)
    with pytest.raises(InvariantViolation):
        runs.after(run, record(run.sequence + 1, CREATED, LATER))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", STATUSES)
def test_events_of_other_streams_are_refused(status: str) -> None:
    run = run_in(status)
    with pytest.raises(InvariantViolation):
        runs.after(run, record(run.sequence + 1, e.SchedulePaused(), LATER))


@pytest.mark.parametrize("name", [name for name in STEPS if name != "run.leased"])
def test_a_stream_begins_with_its_creation(name: str) -> None:
    with pytest.raises(InvariantViolation, match="begins with"):
        runs.replay([record(1, STEPS[name])])


def test_creation_is_event_one() -> None:
    with pytest.raises(InvariantViolation):
        runs.born(record(2, CREATED))


def test_an_empty_stream_is_no_run() -> None:
    with pytest.raises(InvariantViolation):
        runs.replay([])


@pytest.mark.parametrize(
    ("ahead", "status"), [(None, "queued"), (-HOUR, "queued"), (timedelta(0), "queued"), (HOUR, "scheduled")]
)
def test_a_run_is_born_scheduled_only_if_its_time_lies_ahead(ahead: timedelta | None, status: str) -> None:
    run_at = None if ahead is None else T0 + ahead
    run = runs.born(record(1, evolve(CREATED, run_at=run_at)))
    assert run.status == status
    assert run.due_at == (run_at if status == "scheduled" else T0)
    assert run.run_at == run_at
    assert (run.created_at, run.updated_at, run.started_at, run.finished_at) == (T0, T0, None, None)


@pytest.mark.parametrize("status", ["scheduled", "released", "retrying"])
def test_delivery_asked_for_before_the_time_leaves_the_status(status: str) -> None:
    run = applied(status, e.RunDeliveryRequested(), at=T0 + HOUR - timedelta(microseconds=1))
    assert (run.status, run.due_at) == (status, T0 + HOUR)


@pytest.mark.parametrize("status", ["scheduled", "released", "retrying"])
def test_delivery_at_the_time_itself_makes_the_run_queued(status: str) -> None:
    run = applied(status, e.RunDeliveryRequested(), at=T0 + HOUR)
    assert (run.status, run.due_at) == ("queued", T0 + HOUR)
    assert run.run_at == T0 + HOUR


@pytest.mark.parametrize("status", ["scheduled", "released", "retrying"])
def test_a_waiting_run_is_not_leased_before_it_is_due(status: str) -> None:
    with pytest.raises(InvariantViolation, match="not due"):
        applied(status, LEASED, at=T0 + HOUR - timedelta(microseconds=1))
    assert applied(status, LEASED, at=T0 + HOUR).status == "running"


@pytest.mark.parametrize("step", [-1, 0, 2, 3])
@pytest.mark.parametrize("status", ACTIVE)
def test_sequences_have_no_gap_and_no_repeat(status: str, step: int) -> None:
    run = run_in(status)
    with pytest.raises(InvariantViolation):
        runs.after(run, record(run.sequence + step, e.RunCancelled(), LATER))


def test_a_refusal_names_the_event_and_what_it_cannot_follow() -> None:
    with pytest.raises(InvariantViolation, match=r"^RunCancelled \(event 5\) cannot follow event 2 of running run"):
        runs.after(run_in("running"), record(5, e.RunCancelled(), LATER))
    with pytest.raises(InvariantViolation, match=r"begins with RunCancelled \(event 1\), not with RunCreated"):
        runs.replay([record(1, e.RunCancelled())])


@pytest.mark.parametrize("status", ACTIVE)
def test_time_never_runs_backwards(status: str) -> None:
    run = run_in(status)
    with pytest.raises(InvariantViolation):
        runs.after(run, record(run.sequence + 1, e.RunCancelled(), run.updated_at - timedelta(microseconds=1)))
    assert runs.after(run, record(run.sequence + 1, e.RunCancelled(), run.updated_at)).status == "cancelled"


@pytest.mark.parametrize("place", [{"stream": OTHER_SESSION}, {"environment": "other"}])
def test_an_event_of_another_run_or_environment_is_refused(place: dict) -> None:
    run = run_in("running")
    with pytest.raises(InvariantViolation):
        runs.after(run, record(3, e.RunCancelled(), **place))


FENCED = ["run.succeeded", "run.retry_scheduled", "run.released", "run.interrupted", "run.lease_expired", "run.failed"]


@pytest.mark.parametrize("change", [{"session_id": OTHER_SESSION}, {"attempt": 2}, {"attempt": 0}])
@pytest.mark.parametrize("name", FENCED)
def test_who_does_not_hold_the_lease_can_end_nothing(name: str, change: dict) -> None:
    with pytest.raises(InvariantViolation, match="does not hold the lease"):
        applied("running", evolve(STEPS[name], **change))


@pytest.mark.parametrize("attempt", [0, 2, 7])
def test_attempts_are_numbered_without_a_gap(attempt: int) -> None:
    run = run_in("queued")
    with pytest.raises(InvariantViolation):
        runs.after(run, record(2, evolve(LEASED, attempt=attempt)))


@pytest.mark.parametrize("status", STATUSES)
def test_only_held_statuses_have_a_lease(status: str) -> None:
    assert (run_in(status).lease is not None) == (status in HELD)


@pytest.mark.parametrize("status", STATUSES)
def test_only_ended_runs_have_an_end(status: str) -> None:
    run = run_in(status)
    assert (run.finished_at is not None) == (status in TERMINAL) == run.is_terminal
    assert run.is_active != run.is_terminal
    assert run.status.is_terminal == run.is_terminal
    assert run.status.is_active == run.is_active


@pytest.mark.parametrize("status", STATUSES)
def test_only_claimable_runs_have_a_due_time(status: str) -> None:
    assert (run_in(status).due_at is not None) == (status in ("queued", "scheduled", "released", "retrying"))


def test_the_lease_names_who_holds_it_and_since_when() -> None:
    lease = run_in("running").lease
    assert lease is not None
    assert (lease.session_id, lease.worker_id, lease.attempt, lease.leased_at) == (SESSION, "w1", 1, T0)


def test_the_result_of_a_success_is_kept() -> None:
    assert applied("running", e.RunSucceeded(SESSION, 1, [1, None])).result == [1, None]


def test_the_last_failure_is_kept_through_later_attempts() -> None:
    retried = applied("retrying", LEASED)
    assert retried.failure == BROKEN
    worse = Failure("task_failed", "worse", False)
    assert runs.after(retried, record(5, e.RunFailed(SESSION, 2, worse), LATER)).failure == worse


@pytest.mark.parametrize(
    ("step", "failure"),
    [
        (e.RunSucceeded(SESSION, 2), None),
        (e.RunReleased(SESSION, 2, LATER), None),
        (e.RunInterrupted(SESSION, 2, "worker_stopping"), BROKEN),
        (e.RunLeaseExpired(SESSION, 2), BROKEN),
        (e.RunCancelled(), BROKEN),
    ],
)
def test_a_failure_stands_until_an_attempt_comes_to_something_better(step: e.RunStep, failure: Failure | None) -> None:
    retried = applied("retrying", LEASED)
    assert runs.after(retried, record(5, step, LATER)).failure == failure


def test_started_at_is_the_first_lease() -> None:
    assert applied("retrying", LEASED).started_at == T0


def test_cancelling_keeps_who_asked_first_and_why() -> None:
    run = applied("cancellation_requested", e.RunCancelled("the worker's words"))
    assert run.cancellation is not None
    assert (run.cancellation.reason, run.cancellation.requested_at) == ("enough", T0)


def test_cancelling_a_waiting_run_records_the_request_itself() -> None:
    run = applied("queued", e.RunCancelled("no need"))
    assert run.cancellation is not None
    assert (run.cancellation.reason, run.cancellation.requested_at) == ("no need", LATER)


def test_a_reservation_lasts_until_it_is_given_back_leased_or_cancelled() -> None:
    reserved = applied("queued", e.RunDispatchReserved(LATER + HOUR))
    assert reserved.reservation is not None
    assert (reserved.reservation.reserved_at, reserved.reservation.expires_at) == (LATER, LATER + HOUR)
    for step in (e.RunDispatchReservationExpired(), LEASED, e.RunCancelled()):
        assert runs.after(reserved, record(3, step, LATER)).reservation is None


LEGAL = [(status, name) for name, (before, _) in LIFECYCLE.items() for status in before.split()]


@pytest.mark.parametrize(("status", "name"), LEGAL)
def test_no_event_changes_what_the_run_is(status: str, name: str) -> None:
    was, now = run_in(status), applied(status, STEPS[name])
    assert (now.id, now.environment, now.created, now.created_at) == (was.id, was.environment, was.created, T0)
    assert (now.sequence, now.updated_at) == (was.sequence + 1, LATER)
    assert now.started_at == (was.started_at or (LATER if name == "run.leased" else None))
    assert now.finished_at == (LATER if now.is_terminal else None)


def test_asking_for_the_delivery_keeps_the_reserved_slot_and_the_last_failure() -> None:
    reserved = applied("queued", e.RunDispatchReserved(LATER + HOUR))
    asked = runs.after(reserved, record(3, e.RunDeliveryRequested(), LATER))
    assert asked.reservation == reserved.reservation
    assert applied("retrying", e.RunDeliveryRequested()).failure == BROKEN


@pytest.mark.parametrize("step", [e.RunFailed(SESSION, 1, BROKEN), e.RunCancelled("other words")])
def test_who_asked_to_stop_is_known_after_the_end(step: e.RunStep) -> None:
    asked = run_in("cancellation_requested")
    ended = applied("cancellation_requested", step)
    assert ended.cancellation == asked.cancellation
    assert asked.cancellation is not None
    assert (asked.cancellation.actor, asked.cancellation.reason) == (SYSTEM, "enough")


def test_a_cancellation_names_who_asked() -> None:
    run = run_in("queued")
    cancelled = runs.after(run, evolve(record(2, e.RunCancelled("no need"), LATER), actor=ANN))
    assert cancelled.cancellation == Cancellation(LATER, ANN, "no need")
    leased = run_in("running")
    asked = runs.after(leased, evolve(record(3, e.RunCancellationRequested("enough"), LATER), actor=ANN))
    assert asked.cancellation == Cancellation(LATER, ANN, "enough")
    assert asked.lease == leased.lease


COUNTED = {
    "run.leased": "attempts",
    "run.released": "releases",
    "run.lease_expired": "losses",
    "run.failed": "failures",
    "run.retry_scheduled": "failures retries",
}


@pytest.mark.parametrize("name", STEPS)
def test_each_event_moves_its_own_counters_only(name: str) -> None:
    status = LIFECYCLE[name][0].split()[0]
    was, now = run_in(status).counters, applied(status, STEPS[name]).counters
    moved = {
        field: getattr(now, field) - getattr(was, field)
        for field in ("attempts", "failures", "retries", "releases", "losses")
    }
    assert moved == {field: int(field in COUNTED.get(name, "").split()) for field in moved}


@pytest.mark.parametrize("name", ["run.released", "run.retry_scheduled"])
def test_a_run_that_waits_knows_the_time_that_was_asked_for_until_it_is_leased(name: str) -> None:
    run = applied("running", STEPS[name])
    assert (run.run_at, run.due_at) == (LATER + HOUR, LATER + HOUR)
    leased = runs.after(run, record(4, evolve(LEASED, attempt=2), LATER + HOUR))
    assert (leased.run_at, leased.due_at) == (None, None)


def test_counters_start_at_zero() -> None:
    counters = run_in("queued").counters
    assert (counters.attempts, counters.failures, counters.retries, counters.releases, counters.losses) == (0,) * 5


def test_the_run_reads_its_identity_from_its_creation() -> None:
    created = e.RunCreated(
        "t", "q", [1], priority=7, idempotency_key="k", idempotency_ttl="30d", singleton_key="s",
        concurrency_key="c", correlation_id="r", trace_carrier={"traceparent": "00"}, meta={"a": 1},
    )  # fmt: skip
    run = runs.replay(history(created, LEASED))
    assert (run.id, run.environment, run.task_id, run.queue, run.payload) == (RUN_ID, "default", "t", "q", [1])
    assert (run.priority, run.idempotency_key, run.idempotency_ttl) == (7, "k", "30d")
    assert (run.singleton_key, run.concurrency_key, run.correlation_id) == ("s", "c", "r")
    assert (run.trace_carrier, run.meta) == ({"traceparent": "00"}, {"a": 1})
    assert (run.attempt_count, run.failure_count, run.retry_count, run.release_count, run.lost_count) == (1, 0, 0, 0, 0)


def test_no_meta_reads_as_an_empty_mapping() -> None:
    assert run_in("queued").meta == {}
