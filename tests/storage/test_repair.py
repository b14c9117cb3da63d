"""One run's row is made again from its events, and its keys are given to whom the log names."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from runlane import (
    Actor,
    ConfigurationInvalid,
    ConflictKind,
    InvariantViolation,
    Runlane,
    RunNotFound,
    SettableClock,
    StorageConflict,
)
from runlane.decisions import environment_stream
from runlane.events import Recorded, RowRepaired
from runlane.storage import streams
from tests.engine.tasks import echo, flaky
from tests.storage.test_rebuild import contents, unguard
from tests.support import PATIENCE, at_once, database_of, eventually, execute, types_of

ANN = Actor.operator("ann")
DAY = timedelta(days=1)


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo, flaky], clock=clock) as made:
        yield made


@pytest.fixture
def run(app: Runlane) -> UUID:
    """A run that waits for its second attempt, beside others."""
    app.trigger(echo, 1, idempotency_key="other")
    run = app.trigger(flaky, 1, idempotency_key="k", singleton_key="s").run.id
    app.execute_next()
    app.execute_next()
    assert app.audit.verify().differences == ()
    return run


def told(app: Runlane) -> list[Recorded]:
    """What the environment's own stream says."""
    with database_of(app).read() as tx:
        return list(streams.read_stream(tx, environment_stream(app.environment)))


EDITS = {
    "task_id": "'other'",
    "environment": "'elsewhere'",
    "status": "'released'",
    "sequence": "9",
    "priority": "3",
    "due_at": "'2031-01-01T00:00:00.000000Z'",
    "run_at": "null",
    "created_at": "'2025-01-01T00:00:00.000000Z'",
    "attempt_count": "7",
    "failure": "null",
    "reservation": "'{{}}'",
    "idempotency_key": "'changed'",
    "singleton_key": "null",
    "parent_run_id": f"'{UUID(int=5)}'",
}


def test_a_row_that_was_edited_is_as_its_events_say(app: Runlane, run: UUID) -> None:
    before, history = contents(app), types_of(app, run)
    for column, value in EDITS.items():
        execute(database_of(app), f"update {{runs}} set {column} = {value} where id = '{run}'")
        assert contents(app) != before
        (found,) = app.audit.repair(run)
        assert (found.stream_id, found.field, found.sequence) == (run, column, 4)
        assert found.stored != found.folded
        assert contents(app) == before
        assert app.audit.verify().differences == ()
    assert types_of(app, run) == history


def test_the_log_tells_who_repaired_what_and_why(app: Runlane, run: UUID) -> None:
    execute(database_of(app), f"update {{runs}} set priority = 3, correlation_id = 'x' where id = '{run}'")
    app.audit.repair(str(run), actor=ANN, reason="edited by hand")
    (record,) = told(app)
    assert record.event == RowRepaired(run, ("priority", "correlation_id"), "edited by hand")
    assert record.actor == ANN
    assert app.audit.count()["environment.repaired"] == 1


def test_a_row_that_is_right_is_left_alone_and_nothing_is_told(app: Runlane, run: UUID) -> None:
    before = contents(app)
    assert app.audit.repair(run) == ()
    assert contents(app) == before
    assert told(app) == []


def test_a_missing_row_is_made_with_its_key(app: Runlane, run: UUID) -> None:
    before, seen = contents(app), app.runs.get(run)
    execute(database_of(app), f"delete from {{runs}} where id = '{run}'")
    execute(database_of(app), f"delete from {{idempotency_keys}} where run_id = '{run}'")
    found = app.audit.repair(run)
    assert [(one.field, one.stored, one.folded) for one in found] == [
        ("row", "absent", "present"),
        ("idempotency_keys", "absent", "present"),
    ]
    assert contents(app) == before
    assert app.runs.get(run) == seen


def test_a_run_goes_on_once_it_is_repaired(app: Runlane, run: UUID, clock: SettableClock) -> None:
    execute(database_of(app), f"update {{runs}} set sequence = 9 where id = '{run}'")
    app.audit.repair(run)
    clock.advance(DAY)
    assert app.execute_next().attempt_count == 2
    assert app.audit.verify().differences == ()


def test_a_row_without_a_history_goes(app: Runlane, run: UUID) -> None:
    before, stray = contents(app), uuid4()
    columns = "environment, task_id, queue, status, sequence, priority, due_at, created_at, updated_at, attempt_count"
    columns += ", failure_count, retry_count, release_count, lost_count, digest"
    insert = f"insert into {{runs}} (id, {columns}) select '{stray}', {columns} from {{runs}} where id = '{run}'"
    execute(database_of(app), insert)
    execute(database_of(app), f"update {{idempotency_keys}} set run_id = '{stray}' where key = 'other'")
    fields = [(one.field, one.folded) for one in app.audit.repair(stray)]
    assert fields[0] == ("row", "absent")
    assert [field for field, _ in fields[1:]] == ["idempotency_keys.run_id"]
    assert contents(app) == before
    with pytest.raises(RunNotFound):
        app.audit.repair(stray)


def test_a_run_that_nobody_knows_is_not_found(app: Runlane, run: UUID) -> None:
    with pytest.raises(RunNotFound, match="no run has the id"):
        app.audit.repair(uuid4())
    with pytest.raises(ConfigurationInvalid):
        app.audit.repair("no id")
    with Runlane(app.lane, environment="other") as other:
        with pytest.raises(RunNotFound, match="'other'"):
            other.audit.repair(run)
    assert told(app) == []


@pytest.mark.parametrize(
    ("change", "event"),
    [
        ("data = '{{}}' where sequence = 3", 3),
        ("type = 'run.unheard_of' where sequence = 4", 4),
        ("sequence = 9 where sequence = 4", 9),
        ("occurred_at = '2025-01-01T00:00:00.000000Z' where sequence = 3", 3),
    ],
)
def test_a_run_whose_history_is_damaged_is_refused(app: Runlane, run: UUID, change: str, event: int) -> None:
    unguard(database_of(app))
    execute(database_of(app), f"update {{events}} set {change} and stream_id = '{run}'")
    execute(database_of(app), f"update {{runs}} set priority = 3 where id = '{run}'")
    before = contents(app)
    with pytest.raises(InvariantViolation, match=rf"run {run} is not repaired, as event {event}"):
        app.audit.repair(run)
    assert contents(app) == before
    assert told(app) == []


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ("update {idempotency_keys} set run_id = 'RUN' where key = 'other'", ""),
        ("update {idempotency_keys} set run_id = 'OTHER' where key = 'k'", ".run_id"),
        ("update {idempotency_keys} set reset_at = '2026-01-01T00:00:00.000000Z' where key = 'k'", ".reset_at"),
        ("delete from {idempotency_keys} where key = 'k'", ""),
        ("insert into {idempotency_keys} values ('default', 'flaky', 'stray', 'RUN', null)", ""),
    ],
)
def test_keys_are_given_to_whom_the_log_names(app: Runlane, run: UUID, statement: str, field: str) -> None:
    before = contents(app)
    (other,) = app.runs.list(tasks=["echo"]).data
    execute(database_of(app), statement.replace("OTHER", str(other.id)).replace("RUN", str(run)))
    assert contents(app) != before
    (found,) = app.audit.repair(run)
    assert found.field.removeprefix("idempotency_keys") in (field, ".run_id")
    assert contents(app) == before
    assert app.audit.verify().differences == ()


def test_a_key_that_was_freed_stays_free(app: Runlane) -> None:
    run = app.run_now(echo, 1, idempotency_key="k").run.id
    app.idempotency_keys.reset(echo, "k")
    before = contents(app)
    execute(database_of(app), "update {idempotency_keys} set reset_at = null")
    assert [one.field for one in app.audit.repair(run)] == ["idempotency_keys.reset_at"]
    assert contents(app) == before


def test_a_key_that_has_passed_on_stays_with_the_younger_run(app: Runlane, clock: SettableClock) -> None:
    older = app.run_now(echo, 1, idempotency_key="k").run.id
    clock.advance(60 * DAY)
    younger = app.run_now(echo, 2, idempotency_key="k").run.id
    assert app.audit.repair(older) == ()
    before = contents(app)
    execute(database_of(app), f"update {{idempotency_keys}} set run_id = '{older}'")
    (found,) = app.audit.repair(older)
    assert (found.stored, found.folded) == (older, younger)
    assert contents(app) == before


def test_a_key_whose_owner_was_pruned_stays_away(app: Runlane, clock: SettableClock) -> None:
    older = app.run_now(echo, 1, idempotency_key="k").run.id
    clock.advance(60 * DAY)
    app.runs.cancel(app.trigger(echo, 2, idempotency_key="k").run.id)
    clock.advance(60 * DAY)
    assert app.runs.prune("1d", statuses=["cancelled"]).keys == 1
    assert app.audit.repair(older) == ()
    execute(database_of(app), f"update {{runs}} set priority = 3 where id = '{older}'")
    assert [one.field for one in app.audit.repair(older)] == ["priority"]
    assert app.audit.verify().differences == ()


def test_a_repair_does_not_hide_that_a_key_is_missing(app: Runlane, run: UUID) -> None:
    """What stands in the environment's own stream is not always a prune."""
    (other,) = app.runs.list(tasks=["echo"]).data
    execute(database_of(app), "update {runs} set priority = 3")
    app.audit.repair(run)
    app.audit.repair(other.id)
    app.audit.rebuild()
    execute(database_of(app), f"delete from {{idempotency_keys}} where run_id = '{other.id}'")
    assert [one.field for one in app.audit.verify().differences] == ["idempotency_keys"]
    assert [one.field for one in app.audit.repair(other.id)] == ["idempotency_keys"]


def test_a_row_that_holds_the_singleton_key_is_in_the_way(app: Runlane, run: UUID) -> None:
    database = database_of(app)
    other = app.trigger(flaky, 2).run.id
    execute(database, f"update {{runs}} set singleton_key = null where id = '{run}'")
    execute(database, f"update {{runs}} set singleton_key = 's' where id = '{other}'")
    before = contents(app)
    with pytest.raises(StorageConflict, match="singleton key") as caught:
        app.audit.repair(run)
    assert (caught.value.kind, caught.value.retryable) == (ConflictKind.SINGLETON_OWNER, False)
    assert contents(app) == before
    assert [one.field for one in app.audit.repair(other)] == ["singleton_key"]
    assert [one.field for one in app.audit.repair(run)] == ["singleton_key"]
    assert app.audit.verify().differences == ()


def test_two_repairs_of_a_missing_row_make_it_once(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as app, Runlane(shared_url) as other:
        run = app.trigger(echo, 1).run.id
        execute(database_of(app), "delete from {runs}")
        found = at_once([lambda: app.audit.repair(run), lambda: other.audit.repair(run)])
        assert sorted(map(len, found)) == [0, 1]
        assert app.audit.verify().differences == ()


def test_a_repair_waits_for_the_step_that_is_under_way(postgres_url: str) -> None:
    """It folds what that step has written, and the next step is guarded by what it has made."""
    with Runlane(postgres_url, tasks=[echo]) as app, Runlane(postgres_url, tasks=[echo]) as other:
        run = app.trigger(echo, 1).run.id
        execute(database_of(app), "update {runs} set priority = 3")
        with database_of(app).engine.begin() as holding:
            holding.exec_driver_sql("select from runlane.runs for update")
            waits = (
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%%FOR UPDATE%%'"
            )
            with ThreadPoolExecutor(1) as threads:
                repairing = threads.submit(other.audit.repair, run)
                eventually(lambda: execute(database_of(other), waits)[0][0] == 1, "the wait for the row")
                holding.exec_driver_sql("update runlane.runs set priority = 4")
                holding.commit()
                found = repairing.result(PATIENCE)
        assert [(one.field, one.stored) for one in found] == [("priority", 4)]


@pytest.mark.parametrize("bad", [{"actor": "ann"}, {"reason": 7}, {"reason": "a\0b"}])
def test_bad_arguments_are_named(app: Runlane, run: UUID, bad: dict[str, Any]) -> None:
    for call in (lambda: app.audit.repair(run, **bad), lambda: app.audit.rebuild(**bad)):
        with pytest.raises(ConfigurationInvalid, match=next(iter(bad))):
            call()
