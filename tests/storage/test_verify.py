"""Replaying the log finds and names what somebody changed behind Runlane's back."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from runlane import ConfigurationInvalid, Difference, Runlane, RunlaneError, Schedule, SettableClock, Trigger, task
from runlane.storage import streams
from tests.engine.tasks import echo, flaky, patient
from tests.support import database_of, execute, types_of


@task("hourly", schedules=[Schedule("every-hour", every="1h")])
def hourly() -> None:
    """Runs by itself."""


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo, flaky, hourly, patient], clock=clock) as made:
        yield made


@pytest.fixture
def run(app: Runlane) -> UUID:
    """A run that has succeeded in its second attempt, between two others that wait."""
    ids = [UUID(int=n << 120) for n in (1, 2, 3)]
    app.trigger_many([Trigger(flaky, n, run_id=id, idempotency_key=f"k{n}") for n, id in enumerate(ids)])
    app.execute_next()
    app.execute_next()
    assert app.audit.verify().differences == ()
    return ids[1]


def unguard(app: Runlane) -> None:
    """What somebody who owns the database can do: take the guard of the log away."""
    if database_of(app).schema is None:
        execute(database_of(app), "drop trigger events_refuse_update")
        execute(database_of(app), "drop trigger events_refuse_delete")
    else:
        execute(database_of(app), "alter table {events} disable trigger user")


def tamper(app: Runlane, statement: str, run: UUID) -> tuple[Difference, ...]:
    """The differences after `statement`, in which ``ID`` stands for the run's id."""
    assert execute(database_of(app), statement.replace("ID", f"'{run}'")) >= 1
    found = app.audit.verify()
    assert found.identical is (not found.differences)
    return found.differences


#: A value for each stored column of a run that the row constraints allow and that is not what the log says.
COLUMNS = {
    "task_id": "'other'",
    "queue": "'other'",
    "sequence": "sequence + 1",
    "priority": "priority + 1",
    "due_at": "'2031-01-01T00:00:00.000000Z'",
    "run_at": "null",
    "created_at": "'2025-01-01T00:00:00.000000Z'",
    "updated_at": "'2025-01-01T00:00:00.000000Z'",
    "started_at": "null",
    "status": "'released'",
    "attempt_count": "attempt_count + 1",
    "failure_count": "0",
    "retry_count": "7",
    "release_count": "1",
    "lost_count": "1",
    "lease_worker_id": "'mallory'",
    "leased_at": "'2025-01-01T00:00:00.000000Z'",
    "failure": "null",
    "reservation": "'{{}}'",
    "cancellation": "'{{\"reason\": null}}'",
    "source_run_id": "ID",
    "parent_run_id": "ID",
    "schedule_id": "'other'",
    "singleton_key": "'other'",
    "concurrency_key": "'other'",
    "correlation_id": "'other'",
}


def test_every_changed_column_of_a_run_is_named(app: Runlane, run: UUID) -> None:
    sequence = app.runs.get(run).sequence
    execute(database_of(app), "create table kept as select * from {runs}")
    for column, value in COLUMNS.items():
        found = tamper(app, f"update {{runs}} set {column} = {value} where id = ID", run)
        fields = [one for one in found if not one.field.startswith("idempotency_keys")]  # the task is part of a key
        assert [(one.stream_id, one.sequence, one.field) for one in fields] == [(run, sequence, column)]
        assert fields[0].stored != fields[0].folded
        assert app.audit.verify(run).differences == tuple(fields)
        restore = f"update {{runs}} set {column} = (select {column} from kept where kept.id = ID) where id = ID"
        assert tamper(app, restore, run) == ()


def test_the_same_for_the_columns_of_an_ended_run(app: Runlane, clock: SettableClock) -> None:
    run = app.trigger(echo, 1, idempotency_key="k").run.id
    app.execute_next()
    for change, field in {
        "finished_at = '2025-01-01T00:00:00.000000Z'": "finished_at",
        "status = 'cancelled'": "status",
    }.items():
        found = tamper(app, f"update {{runs}} set {change} where id = ID", run)
        assert (run, field) in [(one.stream_id, one.field) for one in found]


def test_a_changed_lease_is_named(app: Runlane) -> None:
    seen = []

    @task("inside")
    def inside(payload: Any, context: Any) -> None:
        change = f"update {{runs}} set lease_session_id = '{uuid4()}' where id = ID"
        seen.extend(tamper(other, change, context.run.id))

    with Runlane(app.lane, tasks=[inside], environment="inside") as other:
        run = other.trigger(inside, 1).run.id
        other.execute_next()
    assert [(one.stream_id, one.field) for one in seen] == [(run, "lease_session_id")]


def test_a_deleted_run_is_named(app: Runlane, run: UUID) -> None:
    sequence = app.runs.get(run).sequence
    expected = Difference(run, sequence, "row", "absent", "present")
    assert expected in tamper(app, "delete from {runs} where id = ID", run)
    assert app.audit.verify(run).differences == (expected,)


def test_a_run_without_a_history_is_named(app: Runlane, run: UUID) -> None:
    stray = UUID(int=run.int + 1)
    columns = "environment, task_id, queue, status, sequence, priority, due_at, run_at, created_at, updated_at"
    columns += ", attempt_count, failure_count, retry_count, release_count, lost_count, digest"
    found = tamper(
        app, f"insert into {{runs}} (id, {columns}) select '{stray}', {columns} from {{runs}} where id = ID", run
    )
    assert found == (Difference(stray, 0, "row", "present", "absent"),)
    assert app.audit.verify(stray).differences == found


def test_a_run_moved_to_another_environment_is_missed_in_its_own(app: Runlane, run: UUID) -> None:
    found = tamper(app, "update {runs} set environment = 'elsewhere' where id = ID", run)
    assert (run, "row", "absent") in [(one.stream_id, one.field, one.stored) for one in found]


@pytest.mark.parametrize("sequence", [1, 2, 3, 4])
def test_a_deleted_event_is_named_by_its_run(app: Runlane, run: UUID, sequence: int) -> None:
    assert len(types_of(app, run)) == 4
    unguard(app)
    found = tamper(app, f"delete from {{events}} where stream_id = ID and sequence = {sequence}", run)
    assert {one.stream_id for one in found} == {run}
    fields = {one.field for one in found}
    if sequence < 4:
        assert fields == {"digest", "log"}
        assert [one.sequence for one in found if one.field == "digest"] == [sequence + 1], "the first that does not fit"
    else:
        assert {"sequence", "status", "lease_session_id", "digest"} <= fields
    assert app.audit.verify(run).differences == found


def test_a_deleted_history_leaves_a_row_that_is_named(app: Runlane, run: UUID) -> None:
    unguard(app)
    found = tamper(app, "delete from {events} where stream_id = ID", run)
    assert Difference(run, 0, "row", "present", "absent") in found


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("occurred_at = '2026-01-01T00:00:00.500000Z' where sequence = 4", "updated_at"),
        ("occurred_at = '2025-01-01T00:00:00.000000Z' where sequence = 4", "log"),
        ("sequence = 9 where sequence = 4", "log"),
        ("data = '{{}}', type = 'run.delivery_requested' where sequence = 3", "log"),
    ],
)
def test_an_altered_event_is_named_by_its_run(app: Runlane, run: UUID, change: str, field: str) -> None:
    unguard(app)
    found = tamper(app, f"update {{events}} set {change} and stream_id = ID", run)
    assert (run, field) in [(one.stream_id, one.field) for one in found]


def test_an_instant_beyond_the_calendar_is_named(postgres_url: str, clock: SettableClock) -> None:
    with Runlane(postgres_url, tasks=[echo], clock=clock) as app:
        ids = [one.run.id for one in app.trigger_many(echo, range(2))]
        unguard(app)
        execute(database_of(app), f"update {{runs}} set updated_at = 'infinity' where id = '{ids[0]}'")
        execute(database_of(app), f"update {{events}} set occurred_at = '-infinity' where stream_id = '{ids[1]}'")
        found = {(one.stream_id, one.field): one.stored for one in app.audit.verify().differences}
    assert found[ids[0], "updated_at"] == found[ids[1], "event"] == "an instant beyond the calendar"
    assert (ids[1], "digest") in found


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("replace(cast(data as text), '\"flaky\"', '\"other\"')", "task_id"),
        ("replace(cast(data as text), '\"k1\"', '\"k9\"')", "idempotency_key"),
    ],
)
def test_altered_data_of_an_event_is_named_where_the_row_holds_it(
    app: Runlane, run: UUID, change: str, field: str
) -> None:
    unguard(app)
    kind = "" if database_of(app).schema is None else "::json"
    found = tamper(app, f"update {{events}} set data = ({change}){kind} where stream_id = ID and sequence = 1", run)
    assert (run, field) in [(one.stream_id, one.field) for one in found]


@pytest.mark.parametrize("change", ["type = 'run.unheard_of'", "data = '{{}}'"])
def test_an_event_that_cannot_be_read_is_named_and_the_rest_is_checked(app: Runlane, run: UUID, change: str) -> None:
    unguard(app)
    execute(database_of(app), f"update {{events}} set {change} where stream_id = '{run}' and sequence = 3")
    found: set[UUID] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a cursor that the failed check leaves behind
        with suppress(RunlaneError):
            found = {one.stream_id for one in app.audit.verify().differences}
        gc.collect()
    assert found == {run}


def test_a_lost_key_is_named_by_its_run(app: Runlane, run: UUID) -> None:
    found = tamper(app, "delete from {idempotency_keys} where run_id = ID", run)
    assert [(one.stream_id, one.field) for one in found] == [(run, "idempotency_keys")]


def test_a_key_given_to_another_run_is_named(app: Runlane, run: UUID) -> None:
    other = app.trigger(flaky, 9).run.id
    found = tamper(app, f"update {{idempotency_keys}} set run_id = '{other}' where run_id = ID", run)
    assert [(one.stream_id, one.field) for one in found] == [(other, "idempotency_keys.run_id")]


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ("update {schedules} set next_at = null", "next_at"),
        ("update {schedules} set fired_count = 9", "fired_count"),
        ("delete from {schedules}", "row"),
        ("delete from {occurrences}", "occurrences"),
        ("update {occurrences} set run_id = '00000000-0000-0000-0000-000000000001'", "occurrences"),
    ],
)
def test_a_changed_schedule_is_named(app: Runlane, clock: SettableClock, statement: str, field: str) -> None:
    app.tick()
    clock.advance(timedelta(hours=1))
    assert app.tick().schedules_fired == 1
    stream = app.schedules.list()[0].stream_id
    assert app.audit.verify().differences == ()
    found = tamper(app, statement, stream)
    assert [(one.stream_id, one.field) for one in found] == [(stream, field)]


def test_a_check_counts_what_it_folded_and_tells_its_progress(app: Runlane, run: UUID) -> None:
    told: list[int] = []
    found = app.audit.verify(progress=told.append)
    lengths = [len(app.runs.events(run.id)) for run in app.runs.list().data]
    assert (found.runs, found.events) == (3, sum(lengths))
    assert told == sorted(told)
    assert told[-1] == found.events
    one = app.audit.verify(run)
    assert (one.runs, one.events, one.identical) == (1, 4, True)


def test_ids_of_any_kind_are_compared_in_one_order(app: Runlane) -> None:
    """The log and the rows are read side by side, so both have to come in the same order on every database."""
    app.trigger_many([Trigger(echo, n, run_id=uuid4()) for n in range(200)])
    assert app.audit.verify().differences == ()


def test_one_broken_run_does_not_hide_another(app: Runlane) -> None:
    ids = [one.run.id for one in app.trigger_many(echo, range(10))]
    for broken in (ids[2], ids[7]):
        execute(database_of(app), f"update {{runs}} set priority = 5 where id = '{broken}'")
    assert [one.stream_id for one in app.audit.verify().differences] == [ids[2], ids[7]]


def test_a_difference_names_the_event_from_which_on_it_holds(app: Runlane, run: UUID) -> None:
    """As after an old backup of a table was put back: the row is as the log says, but for the latest events."""
    execute(database_of(app), "create table kept as select * from {runs}")
    before = {one.id: one.sequence for one in app.runs.list().data}
    third = app.execute_next().id
    assert third != run
    columns = "status, sequence, due_at, updated_at, started_at, finished_at, attempt_count, failure_count, failure"
    columns += ", retry_count, lease_session_id, lease_worker_id, leased_at, digest"
    back = ", ".join(f"{one} = (select {one} from kept where kept.id = ID)" for one in columns.split(", "))
    found = tamper(app, f"update {{runs}} set {back} where id = ID", third)
    since = {one.field: one.since for one in found}
    assert {"status", "sequence", "digest"} <= set(since)
    assert (since["sequence"], since["digest"]) == (before[third] + 1, before[third] + 1)
    made_up = tamper(app, "update {runs} set task_id = 'never' where id = ID", run)
    assert [one.since for one in made_up if one.field == "task_id"] == [1], "it never was so"


def test_a_check_keeps_no_large_results_in_memory(app: Runlane) -> None:
    app.run_now(echo, "x" * 100_000)
    streams._alike.cache_clear()
    assert app.audit.verify().events > 0
    assert all(len(key) < 1000 for key in map(repr, _kept_by(streams._alike)))


def _kept_by(cached: Any) -> list[Any]:
    """What the garbage collector knows a cache to hold on to."""
    return [one for one in gc.get_referents(cached) if not callable(one) and not isinstance(one, type)]


def test_what_moved_since_an_instant_is_checked_by_itself(app: Runlane, clock: SettableClock) -> None:
    old = app.trigger(echo, 1).run.id
    app.queues.pause("default")
    app.queues.resume("default")
    clock.advance(timedelta(days=1))
    then = clock()
    new = app.trigger(echo, 2).run.id
    recent = app.audit.verify(since=then)
    assert (recent.runs, recent.queues, recent.differences) == (1, 0, ())
    assert app.audit.verify(since=then - timedelta(days=2)).events == app.audit.verify().events
    execute(database_of(app), f"update {{runs}} set priority = 9 where id in ('{old}', '{new}')")
    assert [one.stream_id for one in app.audit.verify(since=then).differences] == [new]
    assert {one.stream_id for one in app.audit.verify().differences} == {old, new}
    with pytest.raises(ConfigurationInvalid, match="not both"):
        app.audit.verify(new, since=then)
