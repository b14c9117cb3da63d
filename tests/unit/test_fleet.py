"""Counting all runs as of an instant: what is counted, what is listed, and in which order."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from attrs import evolve

from runlane import events as e
from runlane.projections import queues, runs
from runlane.projections.fleet import Fleet, HeldKey, Holding, KeyKind, Tally
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from tests.unit.lives import ACTIVE, CREATED, HELD, HOUR, LATER, LEASED, SESSION, STATUSES, T0, TERMINAL, record, run_in

AT = LATER + HOUR
KEYED = evolve(CREATED, singleton_key="only", concurrency_key="eu", idempotency_key="once")


def tally(limit: int = 10, kept: bool = True, freed: tuple[UUID, ...] = ()) -> Tally:
    return Tally("prod", AT, lambda run, at: kept and isinstance(run, Run) and at == AT, freed, limit)


def counted(*found: Run, **options) -> Fleet:
    made = tally(**options)
    for run in found:
        made.add_run(run)
    return made.fleet()


def held(n: int, since: datetime = T0) -> Run:
    run = evolve(run_in("running", KEYED), id=UUID(int=n), created_at=since)
    assert run.lease is not None
    return evolve(run, lease=evolve(run.lease, leased_at=since))


def test_nothing_counted_is_an_empty_fleet() -> None:
    none = dict.fromkeys(KeyKind, 0)
    assert tally().fleet() == Fleet("prod", AT, 0, 0, {}, (), 0, (), none, (), 0, (), 0)


def test_runs_and_events_are_counted_by_queue_and_status() -> None:
    other = evolve(run_in("queued"), created=evolve(CREATED, queue="a"))
    fleet = counted(*(run_in(status) for status in STATUSES), run_in("queued"), other)
    assert fleet.runs == 11
    assert fleet.events == sum(run_in(status).sequence for status in STATUSES) + 2
    assert list(fleet.counts) == ["a", "emails"]
    assert fleet.counts == {"a": {"queued": 1}, "emails": {status: 1 + (status == "queued") for status in STATUSES}}


@pytest.mark.parametrize("status", STATUSES)
def test_only_leased_runs_are_running(status: str) -> None:
    run = run_in(status)
    fleet = counted(run)
    holding = Holding(run.id, "emails.welcome", "emails", run.status, "w1", SESSION, 1, T0)
    assert fleet.running == ((holding,) if status in HELD else ())
    assert fleet.running_count == int(status in HELD)


def test_those_that_were_leased_longest_come_first_and_the_rest_is_counted() -> None:
    runs_ = [held(3, T0 + HOUR), held(2), held(4, T0 + 2 * HOUR), held(1)]
    for order in (runs_, runs_[::-1]):
        fleet = counted(*order, limit=3)
        assert [one.run_id.int for one in fleet.running] == [1, 2, 3]
        assert fleet.running_count == 4


@pytest.mark.parametrize("status", ACTIVE)
def test_an_active_run_holds_its_singleton_key_since_its_creation(status: str) -> None:
    run = evolve(run_in(status), created=KEYED, created_at=T0 - HOUR)
    (key,) = (key for key in counted(run).keys if key.kind is KeyKind.SINGLETON)
    assert key == HeldKey(KeyKind.SINGLETON, "only", "emails.welcome", "emails", run.id, run.status, T0 - HOUR)


@pytest.mark.parametrize("status", TERMINAL)
def test_an_ended_run_holds_no_singleton_key(status: str) -> None:
    assert counted(run_in(status, KEYED)).key_counts[KeyKind.SINGLETON] == 0


@pytest.mark.parametrize("status", STATUSES)
def test_a_slot_is_taken_while_leased(status: str) -> None:
    run = evolve(run_in(status), created=KEYED)
    keys = [key for key in counted(run).keys if key.kind is KeyKind.CONCURRENCY]
    taken = HeldKey(KeyKind.CONCURRENCY, "eu", "emails.welcome", "emails", run.id, run.status, T0)
    assert keys == ([taken] if status in HELD else [])


def test_a_slot_is_taken_since_the_lease_or_else_the_reservation() -> None:
    reserved = runs.after(run_in("queued", KEYED), record(2, e.RunDispatchReserved(AT), T0 + HOUR))
    reserved = runs.after(reserved, record(3, e.RunDeliveryRequested(), LATER))
    leased = runs.after(reserved, record(4, LEASED, LATER))
    since = [[key.since for key in counted(run).keys if key.kind is KeyKind.CONCURRENCY] for run in (reserved, leased)]
    assert since == [[T0 + HOUR], [LATER]]


def test_an_idempotency_key_is_held_as_long_as_it_is_kept_and_was_not_freed() -> None:
    run = evolve(run_in("succeeded"), created=KEYED, created_at=T0 - HOUR)
    (key,) = counted(run).keys
    assert key == HeldKey(KeyKind.IDEMPOTENCY, "once", "emails.welcome", "emails", run.id, run.status, T0 - HOUR)
    assert counted(run, kept=False).keys == ()
    assert counted(run, freed=(run.id,)).keys == ()
    assert counted(run, freed=(SESSION,)).keys == (key,)


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_without_keys_holds_none(status: str) -> None:
    fleet = counted(run_in(status))
    assert (fleet.keys, sum(fleet.key_counts.values())) == ((), 0)


def keyed(n: int, key: str, task: str = "t", since: datetime = T0) -> Run:
    created = evolve(CREATED, task_id=task, singleton_key=key)
    return evolve(run_in("queued", created), id=UUID(int=n), created_at=since)


def test_keys_stand_by_kind_key_task_and_age() -> None:
    wanted = [keyed(9, "a"), keyed(8, "b", "s"), keyed(7, "b", "t"), keyed(6, "b", "t", T0 + HOUR)]
    wanted.append(keyed(10, "b", "t", T0 + HOUR))
    fleet = counted(*wanted[::-1])
    assert [key.run_id.int for key in fleet.keys] == [9, 8, 7, 6, 10]
    listed = counted(*wanted[::-1], limit=2)
    assert ([key.run_id.int for key in listed.keys], listed.key_counts[KeyKind.SINGLETON]) == ([9, 8], 5)
    kinds = [key.kind for key in counted(held(1)).keys]
    assert kinds == [KeyKind.SINGLETON, KeyKind.CONCURRENCY, KeyKind.IDEMPOTENCY]


def queue(name: str, paused: bool) -> QueueControl:
    first = evolve(record(1, e.QueuePaused(name)), stream_id=SESSION)
    control = queues.after(None, first)
    return control if paused else queues.after(control, evolve(first, sequence=2, event=e.QueueResumed(name)))


def test_paused_queues_are_told_by_name() -> None:
    made = tally()
    for control in (queue("b", True), queue("c", False), queue("a", True)):
        made.add_queue(control)
    assert made.fleet().paused == (queue("a", True), queue("b", True))


def test_what_was_pruned_since_adds_up() -> None:
    made = tally()
    made.add_pruned(3)
    made.add_pruned(4)
    assert made.fleet().pruned_since == 7


def test_streams_that_cannot_be_folded_are_counted_and_listed() -> None:
    made = tally(limit=2)
    for n in (3, 1, 2):
        made.add_unreadable(UUID(int=n))
    fleet = made.fleet()
    assert (fleet.unreadable, fleet.unreadable_count) == ((UUID(int=1), UUID(int=2)), 3)
    assert (fleet.runs, fleet.events) == (0, 0)


def test_kinds_of_keys_have_names() -> None:
    assert [kind.value for kind in KeyKind] == ["singleton", "concurrency", "idempotency"]


def test_a_list_of_any_length_is_the_beginning_of_the_whole() -> None:
    everyone = [held(n, T0 + timedelta(minutes=n * 7 % 5)) for n in range(1, 9)]
    whole = counted(*everyone, limit=8).running
    assert list(whole) == sorted(whole, key=lambda one: (one.since, one.run_id))
    for limit in range(1, 8):
        assert counted(*everyone, limit=limit).running == whole[:limit]
