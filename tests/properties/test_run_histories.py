"""Every legal history of a run folds to what its events say, step by step and at once."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runlane import codec
from runlane import events as e
from runlane.errors import InvariantViolation
from runlane.projections import runs
from tests.strategies import LIFECYCLE, TERMINAL, History, histories

STEPS = {
    "run.delivery_requested": e.RunDeliveryRequested,
    "run.dispatch_reserved": e.RunDispatchReserved,
    "run.dispatch_reservation_expired": e.RunDispatchReservationExpired,
    "run.leased": e.RunLeased,
    "run.succeeded": e.RunSucceeded,
    "run.retry_scheduled": e.RunRetryScheduled,
    "run.released": e.RunReleased,
    "run.interrupted": e.RunInterrupted,
    "run.lease_expired": e.RunLeaseExpired,
    "run.failed": e.RunFailed,
    "run.cancellation_requested": e.RunCancellationRequested,
    "run.cancelled": e.RunCancelled,
}


def folded(history: History) -> list[runs.Run]:
    """The run after each of its events."""
    first, *rest = history.records
    states = [runs.born(first)]
    for record in rest:
        states.append(runs.after(states[-1], record))
    return states


@given(histories())
@settings(max_examples=60)
def test_replaying_at_once_equals_stepping(history: History) -> None:
    states = folded(history)
    for length, state in enumerate(states, 1):
        assert runs.replay(history.records[:length]) == state


@given(histories())
@settings(max_examples=60)
def test_each_step_leads_to_the_status_of_the_table(history: History) -> None:
    assert tuple(state.status.value for state in folded(history)) == history.statuses


@given(histories())
@settings(max_examples=60)
def test_the_state_carries_the_sequence_and_time_of_its_last_event(history: History) -> None:
    for number, (record, state) in enumerate(zip(history.records, folded(history), strict=True), 1):
        assert state.sequence == record.sequence == number
        assert state.updated_at == record.occurred_at
        assert state.created == history.records[0].event


@given(histories())
@settings(max_examples=60)
def test_counters_are_the_counts_of_events(history: History) -> None:
    counted = Counter(type(record.event) for record in history.records)
    counters = runs.replay(history.records).counters
    assert counters.attempts == counted[e.RunLeased]
    assert counters.retries == counted[e.RunRetryScheduled]
    assert counters.failures == counted[e.RunRetryScheduled] + counted[e.RunFailed]
    assert counters.releases == counted[e.RunReleased]
    assert counters.losses == counted[e.RunLeaseExpired]


@given(histories())
@settings(max_examples=60)
def test_the_fold_survives_the_stored_form(history: History) -> None:
    read_back = []
    for record in history.records:
        stored = codec.encode(record.event)
        read_back.append(evolve(record, event=codec.decode(stored.type, stored.version, stored.data)))
    assert runs.replay(read_back) == runs.replay(history.records)


@given(histories())
@settings(max_examples=60)
def test_what_a_state_holds_fits_its_status(history: History) -> None:
    for state in folded(history):
        status = state.status.value
        assert (state.lease is not None) == (status in ("running", "cancellation_requested"))
        assert (state.finished_at is not None) == (status in TERMINAL)
        assert (state.due_at is not None) == (status in ("queued", "scheduled", "released", "retrying"))
        assert state.reservation is None or status == "queued"
        assert state.result is None or status == "succeeded"
        assert (state.cancellation is not None) or status not in ("cancellation_requested", "cancelled")
        assert status != "queued" or (state.due_at is not None and state.due_at <= state.updated_at)


@given(histories(ended=True), st.sampled_from(sorted(LIFECYCLE)))
def test_nothing_follows_the_end(history: History, name: str) -> None:
    run = runs.replay(history.records)
    assert history.statuses[-1] in TERMINAL
    assert not set(history.statuses[:-1]) & set(TERMINAL)
    event = next((r.event for r in history.records if type(r.event) is STEPS[name]), e.RunCancelled())
    with pytest.raises(InvariantViolation):
        runs.after(
            run, e.Recorded(run.id, run.sequence + 1, event, run.updated_at, run.environment, history.records[0].actor)
        )


def without(records: list, place: int) -> list:
    return records[:place] + records[place + 1 :]


def repeated(records: list, place: int) -> list:
    return records[: place + 1] + records[place:]


def swapped(records: list, place: int) -> list:
    return [*records[:place], records[place + 1], records[place], *records[place + 2 :]]


def backdated(records: list, place: int) -> list:
    late = evolve(records[place + 1], occurred_at=records[place].occurred_at - timedelta(microseconds=1))
    return [*records[: place + 1], late, *records[place + 2 :]]


def renumbered(records: list, place: int) -> list:
    return [*records[: place + 1], evolve(records[place + 1], sequence=records[place].sequence), *records[place + 2 :]]


@pytest.mark.parametrize("damage", [without, repeated, swapped, backdated, renumbered])
@given(history=histories(min_steps=2), data=st.data())
@settings(max_examples=40)
def test_a_damaged_stream_is_refused(damage, history: History, data: st.DataObject) -> None:
    assume(len(history.records) > 2)
    place = data.draw(st.integers(0, len(history.records) - 2))
    with pytest.raises(InvariantViolation):
        runs.replay(damage(list(history.records), place))


@given(histories(), st.data())
def test_whatever_comes_next_is_taken_or_refused_as_the_table_says(history: History, data: st.DataObject) -> None:
    run = runs.replay(history.records)
    name = data.draw(st.sampled_from(sorted(LIFECYCLE)))
    at = max(run.updated_at, run.due_at or run.updated_at)
    attempt = run.counters.attempts + (name == "run.leased")
    session = run.lease.session_id if run.lease else run.id
    event = fitting(name, session, attempt, at)
    record = e.Recorded(run.id, run.sequence + 1, event, at, run.environment, history.records[0].actor)
    before, to = LIFECYCLE[name]
    if run.status.value in before.split():
        assert runs.after(run, record).status.value == to.split(" if due")[0]
    else:
        with pytest.raises(InvariantViolation):
            runs.after(run, record)


def fitting(name, session, attempt, at) -> e.RunStep:
    """An event that is beyond reproach but for the status it happens in."""
    failure = e.Failure("task_failed", "it broke", True)
    own = {
        "run.leased": (session, "w1", attempt),
        "run.succeeded": (session, attempt, 1),
        "run.retry_scheduled": (session, attempt, failure, at, 0, 0),
        "run.released": (session, attempt, at),
        "run.interrupted": (session, attempt, "worker_stopping"),
        "run.lease_expired": (session, attempt),
        "run.failed": (session, attempt, failure),
    }
    return STEPS[name](*own.get(name, ()))
