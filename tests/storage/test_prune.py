"""Pruning: what goes, what stays, what the log tells of it, and that nothing else can delete history."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from runlane import (
    Actor,
    AsyncRunlane,
    ConfigurationInvalid,
    NonRetryable,
    Pruned,
    Retry,
    Runlane,
    RunNotFound,
    RunStatus,
    Schedule,
    SettableClock,
    Task,
    Trigger,
    TriggerOutcome,
    codec,
    postgres_lane,
    task,
)
from runlane.decisions import environment_stream
from runlane.digests import chained
from runlane.engine import prune as engine_prune
from runlane.engine.prune import Old
from runlane.errors import InvariantViolation
from runlane.events import Head, Recorded, RunsPruned
from runlane.projections.runs import Run
from runlane.storage import epochs, log, streams
from runlane.storage import prune as storage_prune
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction
from tests.support import PATIENCE, at_once, count, database_of, eventually, execute, raw

Make = Callable[..., Runlane]
DAY = timedelta(days=1)


@task("work", retry=Retry(1))
def work(payload: Any) -> Any:
    if payload == "bad":
        raise NonRetryable("bad")
    return payload


@task("hourly", schedules=[Schedule("every-hour", every="1h")])
def hourly() -> None:
    """Runs by itself."""


def ended(app: Runlane, n: int = 1, payload: Any = 1, used: Task[..., Any] = work, **options: Any) -> list[Run]:
    """Runs that have ended."""
    runs = [app.trigger(used, payload, **options).run for _ in range(n)]
    for _ in runs:
        assert app.execute_next() is not None
    return [app.runs.get(run.id) for run in runs]


def told(app: Runlane) -> list[Any]:
    """What the environment's own stream says."""
    with database_of(app).read() as tx:
        return list(streams.read_stream(tx, environment_stream(app.environment)))


def rows_of(app: Runlane, run_id: UUID) -> int:
    """How many rows anywhere know this run as their own."""
    columns = {"events": "stream_id", "runs": "id", "idempotency_keys": "run_id"}
    return sum(
        execute(database_of(app), f"select count(*) from {{{name}}} where {column} = '{run_id}'")[0][0]
        for name, column in columns.items()
    )


def digest(runs: Sequence[Run]) -> str:
    lines = sorted(f"{run.id}:{run.sequence}" for run in runs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def heads_of(app: Runlane, ids: Sequence[UUID]) -> tuple[Head, ...]:
    """What is left of these runs in the event that tells of their end."""
    found = [
        execute(
            database_of(app),
            f"select sequence, position, digest from {{events}} where stream_id = '{id}' order by sequence desc",
        )[0]
        for id in sorted(ids)
    ]
    return tuple(Head(id, row[0], row[1], bytes(row[2]).hex()) for id, row in zip(sorted(ids), found, strict=True))


def test_invariant_14_a_pruned_run_leaves_no_orphan_row(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    old = ended(app, 2) + ended(app, payload="bad") + ended(app, idempotency_key="k")
    waiting = app.trigger(work, 1, delay="90d").run
    clock.advance(2 * DAY)
    young = ended(app)
    expected = heads_of(app, [run.id for run in old])
    pruned = app.runs.prune("1d", actor=Actor.operator("ann"), reason="older than a day")
    assert pruned == Pruned(4, 16, 1, clock() - DAY)
    assert not pruned.more
    assert [rows_of(app, run.id) for run in old] == [0, 0, 0, 0]
    assert {run.id for run in app.runs.list().data} == {waiting.id, young[0].id}
    (record,) = told(app)
    assert (record.sequence, record.actor, record.occurred_at) == (1, Actor.operator("ann"), clock())
    statuses = ("cancelled", "failed", "succeeded")
    with database_of(app).read() as tx:
        epoch = epochs.token(tx)
    assert record.event == RunsPruned(
        4, 16, clock() - DAY, statuses, digest(old), expected, "older than a day", None, epoch
    )
    for read in (app.runs.get, app.runs.events, app.audit.verify):
        with pytest.raises(RunNotFound):
            read(old[0].id)
    found = app.audit.verify()
    assert (found.differences, found.runs, found.events) == ((), 2, 1 + 4 + 1)
    assert app.audit.count()["environment.pruned"] == 1


def test_where_nothing_is_old_enough_nothing_is_written(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    ended(app)
    clock.advance(DAY)
    for older_than in ("1d", DAY, clock() - DAY, "10000000d"):
        assert app.runs.prune(older_than).runs == 0, "updated at the cutoff is not before it"
    assert told(app) == []
    assert app.runs.prune(DAY - timedelta(microseconds=1)).runs == 1


def test_only_the_wanted_statuses_go(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    good, bad = ended(app, 2), ended(app, 3, "bad")
    clock.advance(DAY)
    assert app.runs.prune("1h", statuses=["failed"]).runs == 3
    assert [rows_of(app, run.id) for run in good + bad] == [5, 5, 0, 0, 0]
    assert told(app)[0].event.statuses == ("failed",)
    assert app.runs.prune("1h", statuses=[RunStatus.SUCCEEDED, RunStatus.CANCELLED]).runs == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statuses": ["running"]}, "only ended runs are pruned"),
        ({"statuses": ["failed", "queued"]}, "only ended runs are pruned"),
        ({"statuses": []}, "only ended runs are pruned"),
        ({"statuses": "failed"}, "statuses must be a list"),
        ({"statuses": ["done"]}, "unknown status"),
        ({"limit": 0}, "limit must be an integer from 1 to 10000"),
        ({"limit": 10_001}, "limit must be"),
        ({"limit": True}, "limit must be"),
        ({"cursor": "x"}, "the cursor is not one that runs.prune returned"),
        ({"actor": "ann"}, "actor must be an Actor"),
        ({"older_than": "old"}, "older_than must be a timedelta"),
        ({"older_than": timedelta(0)}, "older_than must be positive"),
        ({"older_than": datetime(2020, 1, 1)}, "older_than must be timezone-aware"),
    ],
    ids=repr,
)
def test_what_is_not_valid_is_refused_before_storage_is_touched(options: dict[str, Any], message: str) -> None:
    app = Runlane("sqlite:////nowhere/at/all.db", tasks=[work])
    with pytest.raises(ConfigurationInvalid, match=message):
        app.runs.prune(**{"older_than": "1d"} | options)


def test_a_cutoff_in_the_future_is_refused(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    ended(app)
    with pytest.raises(ConfigurationInvalid, match="older_than must not lie in the future"):
        app.runs.prune(clock() + timedelta(seconds=1))
    assert app.runs.prune(datetime.min.replace(tzinfo=UTC) + DAY).runs == 0


def test_a_prune_is_bounded_and_goes_on_where_it_ended(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    runs = sorted(ended(app, 5), key=lambda run: run.id)
    clock.advance(DAY)
    cursor, sizes = None, []
    while cursor is not None or not sizes:
        counted = app.runs.prune("1h", limit=2, cursor=cursor, dry_run=True)
        pruned = app.runs.prune("1h", limit=2, cursor=cursor)
        assert pruned == counted
        sizes.append(pruned.runs)
        cursor = pruned.next_cursor
        gone = sum(sizes)
        assert [rows_of(app, run.id) > 0 for run in runs] == [False] * gone + [True] * (5 - gone)
    assert sizes == [2, 2, 1]
    assert [record.sequence for record in told(app)] == [1, 2, 3]
    assert app.runs.prune("1h") == Pruned(0, 0, 0, clock() - timedelta(hours=1))


def test_without_its_cursor_it_finds_the_next_ones_too(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    ended(app, 3)
    clock.advance(DAY)
    assert [app.runs.prune("1h", limit=2).more for _ in range(2)] == [True, False]


def test_a_cursor_belongs_to_its_environment_and_statuses(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    ended(app, 2)
    clock.advance(DAY)
    cursor = app.runs.prune("1h", limit=1).next_cursor
    other = Runlane(app.lane, tasks=[work], clock=clock, environment="other")
    for prune, statuses in ((app.runs.prune, ["failed"]), (other.runs.prune, None)):
        with pytest.raises(ConfigurationInvalid, match="the cursor belongs to another"):
            prune("1h", statuses=statuses, cursor=cursor)
    other.close()


def test_a_dry_run_changes_nothing(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    runs = ended(app, 2, idempotency_key=None) + ended(app, idempotency_key="k")
    clock.advance(DAY)
    assert app.runs.prune("1h", dry_run=True) == Pruned(3, 12, 1, clock() - timedelta(hours=1))
    assert [rows_of(app, run.id) for run in runs] == [5, 5, 6]
    assert told(app) == []


def test_other_environments_are_not_touched(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    other = Runlane(app.lane, tasks=[work], clock=clock, environment="other")
    mine, theirs = ended(app, idempotency_key="k"), ended(other, idempotency_key="k")
    clock.advance(DAY)
    assert app.runs.prune("1h") == Pruned(1, 4, 1, clock() - timedelta(hours=1))
    assert [rows_of(app, run.id) for run in mine + theirs] == [0, 6]
    assert told(other) == []
    assert other.audit.verify().identical
    assert other.runs.prune("1h").runs == 1
    assert app.audit.verify().identical
    other.close()


def test_one_event_tells_of_a_hundred_runs_at_most(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    runs = [result.run.id for result in app.trigger_many(work, range(205))]
    for run in runs:
        app.runs.cancel(run)
    clock.advance(DAY)
    assert app.runs.prune("1h") == Pruned(205, 615, 0, clock() - timedelta(hours=1))
    events = [record.event for record in told(app)]
    assert [event.runs for event in events] == [100, 100, 5]
    assert {head.stream_id for event in events for head in event.heads} == set(runs)
    assert app.audit.verify().identical


def test_a_prune_of_before_there_were_heads_is_read(lane_url: str, clock: SettableClock) -> None:
    with Runlane(lane_url, tasks=[work], clock=clock) as app:
        database, event = database_of(app), RunsPruned(1, 4, clock(), ("failed",), "5e0f")
        with database.write() as tx:
            append_told(app, tx, event)
        guard = (
            "drop trigger events_refuse_update"
            if database.schema is None
            else "alter table {events} disable trigger user"
        )
        execute(database, guard)
        execute(database, "update {events} set version = 1")
        assert [record.event for record in told(app)] == [event]


def test_the_key_of_a_pruned_owner_is_free(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    first = ended(app, idempotency_key="k")[0]
    clock.advance(DAY)
    assert app.trigger(work, 1, idempotency_key="k").outcome is TriggerOutcome.REUSED_IDEMPOTENT
    assert app.runs.prune("1h").keys == 1
    again = app.trigger(work, 1, idempotency_key="k")
    assert (again.outcome, again.run.id != first.id) == (TriggerOutcome.CREATED, True)


def test_a_key_that_has_passed_to_another_run_stays_with_it(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    first = ended(app, payload="bad", idempotency_key="k")[0]
    clock.advance(DAY)
    second = app.trigger(work, 1, idempotency_key="k").run
    assert app.runs.prune("1h") == Pruned(1, 4, 0, clock() - timedelta(hours=1))
    assert (rows_of(app, first.id), rows_of(app, second.id)) == (0, 4)
    assert app.trigger(work, 1, idempotency_key="k").run.id == second.id


def test_an_earlier_owner_may_outlive_the_later_one(make_app: Make, clock: SettableClock) -> None:
    """The key goes with the later one, and is not given back: the earlier one had lost it."""
    app = make_app(work, clock=clock)
    first = ended(app, idempotency_key="k", idempotency_ttl="active")[0]
    ended(app, payload="bad", idempotency_key="k")
    clock.advance(DAY)
    assert app.runs.prune("1h", statuses=["failed"]).keys == 1
    assert app.audit.verify().differences == ()
    assert app.trigger(work, 1, idempotency_key="k").outcome is TriggerOutcome.CREATED
    assert app.runs.get(first.id) == first


def test_a_key_that_somebody_deleted_is_found_after_a_prune_too(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    ended(app)
    clock.advance(DAY)
    app.runs.prune("1h")
    run = ended(app, idempotency_key="k")[0]
    execute(database_of(app), "delete from {idempotency_keys}")
    (difference,) = app.audit.verify().differences
    assert (difference.stream_id, difference.field) == (run.id, "idempotency_keys")
    columns = "environment, task_id, key, run_id"
    execute(
        database_of(app), f"insert into {{idempotency_keys}} ({columns}) values ('default', 'work', 'k', '{run.id}')"
    )


def test_occurrences_outlive_the_runs_they_made(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, hourly, clock=clock)
    app.tick()
    clock.advance(timedelta(hours=1))
    assert app.tick().schedules_fired == 1
    run = app.execute_next()
    assert run is not None
    clock.advance(DAY)
    assert app.runs.prune("2h").runs == 1
    assert count(database_of(app), "occurrences") == 1
    assert rows_of(app, run.id) == 0
    found = app.audit.verify()
    assert (found.differences, found.schedules) == ((), 1)
    assert app.tick().schedules_fired == 1


def test_time_does_not_run_backwards_in_the_environments_stream(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    ended(app)
    clock.advance(2 * DAY)
    app.runs.prune("1h")
    ended(app)
    clock.advance(-DAY / 2)
    execute(database_of(app), "select 1")
    clock.advance(DAY / 2 + timedelta(hours=2))
    app.runs.prune("1h")
    times = [record.occurred_at for record in told(app)]
    assert times == sorted(times)
    with database_of(app).write() as tx:
        log.lock_environment(tx, "default")
        past = log.append_environment(tx, "default", told_event(), times[0] - DAY, Actor.operator("ann"))
    assert past.occurred_at == times[-1]


def told_event(runs: Sequence[Run] = ()) -> RunsPruned:
    """What a prune of exactly these runs tells."""
    events = sum(run.sequence for run in runs)
    return RunsPruned(len(runs), events, datetime(2026, 1, 1, tzinfo=UTC), ("failed",), digest(runs))


def test_a_run_whose_history_is_damaged_stays(make_app: Make, clock: SettableClock) -> None:
    app = make_app(work, clock=clock)
    runs = ended(app, 2)
    clock.advance(DAY)
    execute(database_of(app), f"update {{runs}} set sequence = sequence + 1 where id = '{runs[1].id}'")
    with pytest.raises(InvariantViolation, match=f"run {runs[1].id} is not pruned"):
        app.runs.prune("1h")
    assert rows_of(app, runs[0].id) == 5
    assert told(app) == []
    execute(database_of(app), f"update {{runs}} set sequence = sequence - 1 where id = '{runs[1].id}'")


def test_the_async_face_prunes_as_well(lane_url: str, clock: SettableClock) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[work], clock=clock) as app:
            await app.run_now(work, 1)
            clock.advance(DAY)
            assert (await app.runs.prune("1h", dry_run=True)).runs == 1
            assert (await app.runs.prune("1h", limit=5, statuses=["succeeded"])).events == 3

    asyncio.run(main())


# Two at once, and against everything else.


def test_two_prunes_at_once_share_the_work(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[work], clock=clock) as one, Runlane(shared_url, tasks=[work], clock=clock) as two:
        ended(one, 40, idempotency_key=None)
        clock.advance(DAY)

        def prune_all(app: Runlane) -> int:
            total, more = 0, True
            while more:
                pruned = app.runs.prune("1h", limit=7)
                total, more = total + pruned.runs, pruned.more
            return total

        assert sum(at_once([lambda app=app: prune_all(app) for app in (one, two, one, two)])) == 40
        assert count(database_of(one), "runs") == 0
        records = told(one)
        assert [record.sequence for record in records] == list(range(1, len(records) + 1))
        assert sum(record.event.runs for record in records) == 40
        assert one.audit.verify().differences == ()


def test_a_second_prune_waits_for_the_first_and_does_not_fail(shared_url: str, clock: SettableClock) -> None:
    """Also where they have no run in common that could make one wait for the other."""
    with Runlane(shared_url, tasks=[work], clock=clock) as app:
        ended(app, 3)
        ended(app, 2, "bad")
        clock.advance(DAY)
        database = database_of(app)
        appended, second_begun = threading.Event(), threading.Event()

        def prune(status: RunStatus) -> int:
            with database.write(clock) as tx:
                removed = engine_prune.remove(tx, "default", Old(DAY / 2, [status], 10), Actor.operator("ann"))
                if status is RunStatus.FAILED:
                    appended.set()
                    assert second_begun.wait(PATIENCE)
                    if database.schema is not None:  # SQLite lets only one begin at a time
                        eventually(lambda: waits_for_a_lock(database), "the second one waiting")
                return removed.runs

        def second() -> int:
            assert appended.wait(PATIENCE)
            second_begun.set()
            return prune(RunStatus.SUCCEEDED)

        assert at_once([lambda: prune(RunStatus.FAILED), second]) == [2, 3]
        assert [record.event.runs for record in told(app)] == [2, 3]


def test_a_prune_against_triggers_with_the_same_keys(shared_url: str, clock: SettableClock) -> None:
    """Each trigger finds the owner, or is the next one; never is a key left behind or a run without its key."""
    with Runlane(shared_url, tasks=[work], clock=clock) as one, Runlane(shared_url, tasks=[work], clock=clock) as two:
        for _ in range(5):
            keys = [str(uuid4()) for _ in range(8)]
            for key in keys:
                ended(one, payload="bad" if int(key[0], 16) % 2 else 1, idempotency_key=key)
            clock.advance(DAY)
            entries = [Trigger(work, 1, idempotency_key=key) for key in keys]
            works: list[Callable[[], Any]] = [
                lambda: one.runs.prune("1h"),
                lambda entries=entries: two.trigger_many(entries),
                lambda entries=entries: one.trigger_many(list(reversed(entries))),
            ]
            _, forward, backward = at_once(works)
            owners = {found.run.idempotency_key: found.run.id for found in forward}
            assert set(owners) == set(keys)
            assert len(backward) == len(keys)
            found = one.audit.verify()
            assert found.differences == ()
            stored = dict(execute(database_of(one), "select key, cast(run_id as text) from {idempotency_keys}"))
            for key in keys:
                if key in stored:
                    assert one.runs.get(stored[key]).idempotency_key == key
            while two.execute_next() is not None:
                pass


def test_a_prune_against_verify(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[work], clock=clock) as one, Runlane(shared_url, tasks=[work], clock=clock) as two:
        ended(one, 60)
        clock.advance(DAY)

        def check() -> int:
            seen = 0
            for _ in range(10):
                found = two.audit.verify()
                assert found.differences == ()
                seen += found.runs
            return seen

        def prune() -> int:
            return sum(one.runs.prune("1h", limit=5).runs for _ in range(12))

        assert at_once([check, prune])[1] == 60


def waits_for_a_lock(database: Database) -> bool:
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return bool(execute(database, query)[0][0])


# What the database itself refuses.


def append_told(app: Runlane, tx: Transaction, event: RunsPruned, environment: str = "default") -> Recorded:
    log.lock_environment(tx, environment)
    return log.append_environment(tx, environment, event, datetime(2026, 1, 2, tzinfo=UTC), Actor.operator("mallory"))


def refused(app: Runlane, attack: Callable[[Transaction], object]) -> None:
    """Whatever `attack` does in one transaction, the database refuses it, and every history is as it was."""

    def run() -> None:
        with raw(database_of(app)) as connection:
            attack(database_of(app).join(connection))

    query = "select stream_id, sequence from {events} order by stream_id, sequence"
    before = execute(database_of(app), query)
    with pytest.raises(DBAPIError, match="append-only"):
        run()
    assert execute(database_of(app), query) == before


def heads(runs: Sequence[Run]) -> dict[UUID, int]:
    return {run.id: run.sequence for run in runs}


WRONG: dict[str, dict[str, Any]] = {
    "another number of runs": {"runs": 3},
    "another number of events": {"events": 9},
    "another digest": {"digest": "0" * 64},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_postgres_refuses_to_delete_what_the_log_tells_otherwise(
    postgres_url: str, clock: SettableClock, wrong: str
) -> None:
    with Runlane(postgres_url, tasks=[work], clock=clock) as app:
        runs = ended(app, 2)
        event = evolve(told_event(runs), **WRONG[wrong])
        refused(app, lambda tx: storage_prune.remove(tx, append_told(app, tx, event), heads(runs)))


def test_postgres_refuses_a_deletion_told_elsewhere(postgres_url: str, clock: SettableClock) -> None:
    """By another transaction, in another environment's stream, or by an event of another kind."""
    with Runlane(postgres_url, tasks=[work], clock=clock) as app:
        runs = ended(app, 2)
        with database_of(app).write() as tx:
            earlier = append_told(app, tx, told_event(runs))
        refused(app, lambda tx: storage_prune.remove(tx, earlier, heads(runs)))
        event = told_event(runs)
        refused(app, lambda tx: storage_prune.remove(tx, append_told(app, tx, event, "other"), heads(runs)))

        def another_kind(tx: Transaction) -> None:
            told = append_told(app, tx, event)
            tx.connection.exec_driver_sql(
                "insert into runlane.events (stream_id, sequence, type, version, occurred_at, environment, actor, data,"
                " digest) select stream_id, sequence + 1, 'environment.noted', version, occurred_at, environment,"
                " actor, data, digest"
                f" from runlane.events where stream_id = '{told.stream_id}' and sequence = {told.sequence}"
            )
            storage_prune.remove(tx, evolve(told, sequence=told.sequence + 1), heads(runs))

        refused(app, another_kind)


DELETIONS = {
    "not all of a history": (
        "delete from runlane.runs where id = 'ID'",
        "delete from runlane.events where stream_id = 'ID' and sequence < 4",
    ),
    "the row left behind": ("delete from runlane.events where stream_id = 'ID'",),
    "more than was told": ("delete from runlane.runs", "delete from runlane.events where starts_with(type, 'run.')"),
    "the telling itself": ("delete from runlane.events where type = 'environment.pruned'",),
    "with a temporary table in the way": (
        "create temporary table runs (id uuid) on commit drop",
        "delete from runlane.events where stream_id = 'ID'",
    ),
}


@pytest.mark.parametrize("deletion", DELETIONS)
def test_postgres_refuses_to_delete_anything_but_whole_histories(
    postgres_url: str, clock: SettableClock, deletion: str
) -> None:
    with Runlane(postgres_url, tasks=[work], clock=clock) as app:
        run, _ = ended(app, 2)

        def attack(tx: Transaction) -> None:
            told = append_told(app, tx, told_event([run]))
            place = f"{told.stream_id}:{told.sequence}"
            tx.connection.exec_driver_sql(f"select set_config('runlane.pruned', '{place}', true)")
            for statement in DELETIONS[deletion]:
                tx.connection.exec_driver_sql(statement.replace("ID", str(run.id)))

        refused(app, attack)


def test_postgres_refuses_a_shortened_history_that_was_told(postgres_url: str, clock: SettableClock) -> None:
    """The end of a history alone: its number of events and its last sequence do not fit together."""
    with Runlane(postgres_url, tasks=[work], clock=clock) as app:
        run = ended(app)[0]

        def attack(tx: Transaction) -> None:
            told = append_told(app, tx, evolve(told_event([run]), events=1))
            place = f"{told.stream_id}:{told.sequence}"
            tx.connection.exec_driver_sql(f"select set_config('runlane.pruned', '{place}', true)")
            tx.connection.exec_driver_sql(f"delete from runlane.runs where id = '{run.id}'")
            tx.connection.exec_driver_sql(f"delete from runlane.events where stream_id = '{run.id}' and sequence = 4")

        refused(app, attack)


def test_postgres_refuses_an_active_run_whatever_the_log_tells(postgres_url: str, clock: SettableClock) -> None:
    with Runlane(postgres_url, tasks=[work], clock=clock) as app:
        run = app.trigger(work, 1).run
        refused(app, lambda tx: storage_prune.remove(tx, append_told(app, tx, told_event([run])), heads([run])))


def test_postgres_allows_what_was_told_exactly_under_any_schema_name(postgres: Any, clock: SettableClock) -> None:
    url = postgres.empty()
    lane = postgres_lane(url, schema="Mixed_Case")
    app = Runlane(lane, tasks=[work], clock=clock)
    app.migrate()
    with app:
        ended(app, 2)
        clock.advance(DAY)
        assert app.runs.prune("1h").runs == 2
        assert app.audit.verify().identical
    postgres.drop(url)


@pytest.mark.parametrize("lane", ["memory", "sqlite"])
def test_sqlite_refuses_a_deletion_that_the_log_does_not_tell_of(
    lane: str, sqlite_url: str, clock: SettableClock
) -> None:
    with Runlane("memory:" if lane == "memory" else sqlite_url, tasks=[work], clock=clock) as app:
        run, active = ended(app)[0], app.trigger(work, 1, delay="1d").run
        database = database_of(app)
        name = f"insert into pruning values ('{run.id}')"
        with pytest.raises(DBAPIError, match="append-only"):
            execute(database, name)
        with database.write() as tx:
            append_told(app, tx, told_event([run]))
        for statement in (
            f"insert into pruning values ('{active.id}')",
            f"insert into pruning values ('{environment_stream('default')}')",
            "delete from events",
        ):
            with pytest.raises(DBAPIError, match="append-only"):
                execute(database, statement)
        # A name left behind by a stranger cannot be changed, and is worth nothing after the next append.
        execute(database, name)
        with pytest.raises(DBAPIError, match="append-only"):
            execute(database, f"update pruning set run_id = '{active.id}'")
        app.trigger(work, 2)
        with pytest.raises(DBAPIError, match="append-only"):
            execute(database, f"delete from events where stream_id = '{run.id}'")
        assert rows_of(app, run.id) == 5


def test_sqlite_leaves_no_name_behind(sqlite_url: str, clock: SettableClock) -> None:
    with Runlane(sqlite_url, tasks=[work], clock=clock) as app:
        ended(app, 3)
        clock.advance(DAY)
        app.runs.prune("1h")
        assert execute(database_of(app), "select * from pruning") == []


# Random histories.


@settings(max_examples=40)
@given(
    lives=st.lists(
        st.tuples(
            st.sampled_from(["good", "bad", "waiting", "later"]),
            st.sampled_from([None, "a", "b"]),
            st.integers(0, 3),
        ),
        max_size=12,
    ),
    age=st.integers(1, 60),
    statuses=st.sets(st.sampled_from(["succeeded", "failed", "cancelled"]), min_size=1),
    limit=st.integers(1, 4),
)
def test_invariant_14_over_random_histories(
    lives: list[tuple[str, str | None, int]], age: int, statuses: set[str], limit: int
) -> None:
    clock = SettableClock()
    with Runlane("memory:", tasks=[work], clock=clock) as app:
        for kind, key, pause in lives:
            app.trigger(
                work,
                "bad" if kind == "bad" else 1,
                idempotency_key=key,
                idempotency_ttl=None if key is None else "3h",
                delay="90d" if kind == "later" else None,
            )
            if kind != "waiting":
                while app.execute_next() is not None:
                    pass
            clock.advance(timedelta(hours=pause))
        before = {run.id: run for run in app.runs.list(limit=500).data}
        cutoff = clock() - timedelta(minutes=age * 7)
        doomed = {id for id, run in before.items() if run.status in statuses and run.updated_at < cutoff}
        pruned: list[Pruned] = []
        while not pruned or pruned[-1].more:
            cursor = pruned[-1].next_cursor if pruned else None
            pruned.append(app.runs.prune(cutoff, statuses=sorted(statuses), limit=limit, cursor=cursor))
        assert sum(one.runs for one in pruned) == len(doomed)
        assert sum(one.events for one in pruned) == sum(before[id].sequence for id in doomed)
        after = {run.id: run for run in app.runs.list(limit=500).data}
        assert after == {id: run for id, run in before.items() if id not in doomed}
        database = database_of(app)
        streams = {UUID(row[0]) for row in execute(database, "select stream_id from {events} where type like 'run.%'")}
        owners = {UUID(row[0]) for row in execute(database, "select run_id from {idempotency_keys}")}
        assert streams == set(after)
        assert owners <= set(after)
        assert app.audit.verify().differences == ()


JANUARY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stream", "sequence", "field"),
    [("stranger", 2, "sequence"), ("another", 1, "environment")],
    ids=["a gap", "not its own stream"],
)
def test_the_stream_of_the_environment_is_checked(
    lane_url: str, clock: SettableClock, stream: str, sequence: int, field: str
) -> None:
    with Runlane(lane_url, tasks=[work], clock=clock, environment="stranger") as app:
        stored = codec.encode(told_event())
        columns = "stream_id, sequence, type, version, occurred_at, environment, actor, digest, data"
        facts = (environment_stream(stream), sequence, "environment.pruned", 1, JANUARY, "stranger", "operator:mallory")
        told = chained([(*facts, stored.data)], {})[0][0].hex()
        told = f"'\\x{told}'" if database_of(app).schema else f"x'{told}'"
        execute(
            database_of(app),
            f"insert into {{events}} ({columns}) values ('{environment_stream(stream)}', {sequence},"
            " 'environment.pruned', 1, '2026-01-01T00:00:00.000000Z', 'stranger', 'operator:mallory',"
            f" {told}, 'DATA')".replace("DATA", stored.data.replace("{", "{{").replace("}", "}}")),
        )
        found = app.audit.verify()
        assert [difference.field for difference in found.differences] == [field]
        assert found.events == 1
