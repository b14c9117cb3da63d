"""Tables rebuilt from the log: what strangers have done to the rows is found, told and put right, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from runlane import (
    Actor,
    InvariantViolation,
    Queue,
    Run,
    Runlane,
    Schedule,
    SettableClock,
    task,
)
from runlane.decisions import environment_stream
from runlane.digests import chained
from runlane.events import TablesRebuilt
from runlane.projections.version import PROJECTION_VERSION
from runlane.storage import folding, rebuild, streams
from runlane.storage.database import Database
from runlane.storage.postgres_shadows import PostgresShadows
from runlane.storage.sqlite_shadows import SqliteShadows
from tests.engine.tasks import echo, flaky, patient
from tests.support import count, database_of, execute

ANN = Actor.operator("ann")
TABLES = ("runs", "schedules", "occurrences", "queues", "idempotency_keys")


@task("hourly", schedules=[Schedule("every-hour", every="1h")])
def hourly() -> None:
    """Runs by itself."""


@task("alone", singleton_key="one")
def alone(payload: Any) -> None:
    """One at a time."""


TASKS = [echo, flaky, hourly, patient, alone]


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=TASKS, clock=clock, queues=[Queue("default", default=True), Queue("slow")]) as made:
        lived(made, clock)
        yield made


def lived(app: Runlane, clock: SettableClock) -> None:
    """Something in every table, and every kind of event that has to do with them."""
    app.tick()
    for n in range(5):
        app.trigger(flaky, n, idempotency_key=f"k{n}")
    for _ in range(4):
        app.execute_next()
    app.runs.cancel(app.trigger(echo, 1, run_id=UUID(int=9 << 120)).run.id)
    app.run_now(echo, 1, idempotency_key="freed")
    app.idempotency_keys.reset(echo, "freed", reason="again")
    app.run_now(echo, 2, idempotency_key="freed again")
    app.idempotency_keys.reset(echo, "freed again")
    app.run_now(echo, 3, idempotency_key="freed again")
    app.trigger(alone, 1)
    app.queues.pause("slow", reason="night")
    app.queues.pause("default")
    app.queues.resume("default")
    clock.advance(timedelta(hours=3))
    app.tick()
    clock.advance(timedelta(hours=1))
    app.tick()
    assert app.audit.verify().differences == ()


def contents(app: Runlane) -> dict[str, list[Any]]:
    """All rows of all tables."""
    return {name: sorted(map(str, execute(database_of(app), f"select * from {{{name}}}"))) for name in TABLES}


def told(app: Runlane) -> list[TablesRebuilt]:
    """What the environment's own stream says about rebuilds."""
    with database_of(app).read() as tx:
        records = streams.read_stream(tx, environment_stream(app.environment))
    return [record.event for record in records if isinstance(record.event, TablesRebuilt)]


def shadows_of(app: Runlane) -> list[Any]:
    """What there is of shadows that others can see."""
    if database_of(app).schema is None:
        return []
    found: list[Any] = execute(database_of(app), "select relname from pg_class where relname like 'rebuilt_%%'")
    return found


def test_tables_that_are_as_they_should_be_stay_so(app: Runlane) -> None:
    before, events = contents(app), sum(app.audit.count().values())
    found = app.audit.rebuild()
    assert contents(app) == before
    assert (found.rows, found.differences, found.identical, found.swapped) == (0, (), True, True)
    # Beside a busy server's older transactions, what was just written is folded once more.
    assert found.events == events or (database_of(app).schema is not None and found.events > events)
    assert [getattr(found, name) for name in ("runs", "schedules", "occurrences", "queues", "keys")] == [
        len(before[name]) for name in TABLES
    ]
    assert found.held is not None
    assert shadows_of(app) == []
    assert app.audit.verify().differences == ()


def test_the_log_tells_of_it(app: Runlane) -> None:
    execute(database_of(app), "update {runs} set priority = 7")
    found = app.audit.rebuild(actor=ANN, reason="a restored backup")
    counts = (found.runs, found.schedules, found.occurrences, found.queues, found.keys)
    assert told(app) == [TablesRebuilt(*counts, found.runs, PROJECTION_VERSION, "a restored backup")]
    assert app.audit.count()["environment.rebuilt"] == 1
    with database_of(app).read() as tx:
        (record,) = streams.read_stream(tx, environment_stream(app.environment))
    assert record.actor == ANN


def test_environments_without_rows_are_not_spoken_of_and_others_are(app: Runlane) -> None:
    with Runlane(app.lane, tasks=[echo], environment="other") as other:
        other.trigger(echo, 1)
        execute(database_of(app), "update {runs} set priority = 7 where environment = 'other'")
        app.audit.rebuild()
        assert [(one.runs, one.differences) for one in told(other)] == [(1, 1)]
        assert [one.differences for one in told(app)] == [0]
        assert other.audit.verify().differences == ()
    with Runlane(app.lane, environment="empty") as empty:
        assert told(empty) == []


ORPHAN = str(UUID(int=77))
_OF_RUN = (
    "environment, task_id, queue, status, sequence, priority, due_at, created_at, updated_at, attempt_count, "
    "failure_count, retry_count, release_count, lost_count, digest"
)
_STRAY_RUN = f"""
    insert into {{runs}} (id, {_OF_RUN}) select '{ORPHAN}', {_OF_RUN} from {{runs}}
    where status = 'queued' and singleton_key is null limit 1"""
_STRAY_OCCURRENCE = """
    insert into {occurrences} select environment, 'other', scheduled_for, id, run_id from {occurrences}"""
_STRAY_QUEUE = f"""
    insert into {{queues}} select '{ORPHAN}', environment, 'other', sequence, paused, updated_at, actor, reason
    from {{queues}} where name = 'slow'"""
_STRAY_KEY = """
    insert into {idempotency_keys} select environment, task_id, 'other', run_id, reset_at from {idempotency_keys}
    where key = 'k1'"""
_REOPENED = """
    update {runs} set status = 'queued', due_at = updated_at, finished_at = null where status = 'succeeded'"""
#: What strangers do to the tables in one go, and some fields that have to be told of.
DAMAGES: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "edited": (
        (
            "update {runs} set priority = 3, correlation_id = 'x' where task_id = 'flaky'",
            "update {runs} set failure = '{{}}' where failure is not null",
            "update {schedules} set fired_count = 9, cadence = '{{}}'",
            f"update {{occurrences}} set run_id = '{ORPHAN}'",
            "update {queues} set paused = not paused, actor = 'operator:x'",
            f"update {{idempotency_keys}} set run_id = '{ORPHAN}'",
        ),
        {"priority", "failure", "fired_count", "cadence", "occurrences", "paused", "actor", "idempotency_keys.run_id"},
    ),
    "moved": (
        (
            _REOPENED,
            "update {runs} set environment = 'elsewhere' where task_id = 'flaky'",
            "update {schedules} set environment = 'elsewhere'",
            f"update {{queues}} set stream_id = '{ORPHAN}' where name = 'slow'",
            "update {queues} set name = 'other' where name = 'default'",
            "update {idempotency_keys} set reset_at = null",
        ),
        {"status", "finished_at", "due_at", "environment", "row", "idempotency_keys.reset_at"},
    ),
    "deleted in part": (
        (
            "delete from {runs} where task_id = 'flaky'",
            "delete from {queues} where name = 'slow'",
            "delete from {idempotency_keys} where key = 'k1'",
        ),
        {"row", "idempotency_keys"},
    ),
    "deleted": (tuple(f"delete from {{{name}}}" for name in TABLES), {"row", "occurrences", "idempotency_keys"}),
    "without a history": (
        (_STRAY_RUN, _STRAY_OCCURRENCE, _STRAY_QUEUE, _STRAY_KEY, f"update {{schedules}} set stream_id = '{ORPHAN}'"),
        {"row", "occurrences", "idempotency_keys"},
    ),
}


def test_what_a_stranger_did_is_told_and_put_right(app: Runlane) -> None:
    before = contents(app)
    for damage, (statements, fields) in DAMAGES.items():
        for statement in statements:
            assert execute(database_of(app), statement) >= 1, statement
        damaged, events = contents(app), app.audit.count()
        assert all(damaged[name] != before[name] for name in TABLES if f"{{{name}}}" in str(statements))
        found = app.audit.rebuild(swap=False)
        assert not found.swapped
        assert fields <= {one.field for one in found.differences}, damage
        assert all(one.stored != one.folded for one in found.differences)
        assert (contents(app), app.audit.count()) == (damaged, events), "a dry run changes nothing"
        again = app.audit.rebuild()
        assert again.differences == found.differences
        assert 1 <= again.rows == found.rows
        assert contents(app) == before, damage
        assert app.audit.verify().differences == ()


def test_a_check_and_a_rebuild_tell_the_same_of_a_run(app: Runlane) -> None:
    execute(database_of(app), "update {runs} set priority = 3 where task_id = 'flaky'")
    found = {evolve(one, since=None) for one in app.audit.verify().differences}
    assert found == set(app.audit.rebuild().differences)


def test_a_run_goes_on_from_what_was_rebuilt(app: Runlane) -> None:
    execute(database_of(app), "delete from {runs}")
    app.audit.rebuild()
    waiting = app.runs.count()
    while app.execute_next() is not None:
        pass
    assert app.runs.count() != waiting
    assert app.audit.verify().differences == ()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_may_end_anywhere(app: Runlane, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(folding, "PAGE", size)
    monkeypatch.setattr(rebuild, "_STREAMS", size)
    before, seen = contents(app), []
    for name in TABLES:
        execute(database_of(app), f"delete from {{{name}}}")
    app.audit.rebuild(progress=seen.append)
    assert contents(app) == before
    assert seen == sorted(seen)
    assert len(seen) > sum(app.audit.count().values()) // size - 2


def test_no_more_is_kept_at_once_than_a_page(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    most = []
    drain = folding.Folder.drain

    def watched(self: folding.Folder) -> Any:
        most.append(sum(map(len, self.rows.values())))
        return drain(self)

    monkeypatch.setattr(folding, "PAGE", 10)
    monkeypatch.setattr(rebuild, "_STREAMS", 10)
    monkeypatch.setattr(folding.Folder, "drain", watched)
    app.trigger_many(echo, range(100))
    assert app.audit.rebuild().identical
    assert max(most) <= 10
    assert sum(most) >= 100


# Between the passes.


def between(monkeypatch: pytest.MonkeyPatch, name: str, act: Any) -> None:
    """Call `act` once, before the step of this name."""
    done = []
    for cls in (PostgresShadows, SqliteShadows):
        real = getattr(cls, name)

        def step(self: Any, tx: Any, *rest: Any, real: Any = real) -> Any:
            if not done:
                done.append(True)
                act()
            return real(self, tx, *rest)

        monkeypatch.setattr(cls, name, step)


@pytest.fixture
def shared(shared_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(shared_url, tasks=TASKS, clock=clock, queues=[Queue("default", default=True), Queue("slow")]) as made:
        lived(made, clock)
        yield made


@pytest.mark.parametrize("step", ["add_keys", "add_indexes", "can_wait"])
def test_what_happens_meanwhile_is_in_it(
    shared: Runlane, monkeypatch: pytest.MonkeyPatch, clock: SettableClock, step: str
) -> None:
    app = shared

    def meanwhile() -> None:
        with Runlane(str(app.lane.database.url.render_as_string(False)), tasks=TASKS, clock=clock) as other:
            clock.advance(timedelta(hours=1))
            other.tick()
            other.trigger(flaky, 9, idempotency_key="new", run_id=UUID(int=1))  # before all others
            other.trigger(flaky, 9, idempotency_key="newer")
            for _ in range(5):
                other.execute_next()
            other.run_now(echo, 1, idempotency_key="freed")
            other.idempotency_keys.reset(echo, "freed again")
            other.queues.resume("slow")
            clock.advance(timedelta(days=60))
            assert other.runs.prune("30d", limit=2).runs == 2
            assert other.audit.checkpoint().new
            other.run_now(echo, 1, idempotency_key="k0")

    if step == "can_wait" and database_of(app).schema is None:
        step = "add_indexes"  # the file is locked by then
    between(monkeypatch, step, meanwhile)
    found = app.audit.rebuild()
    assert found.differences == ()
    assert app.audit.verify().differences == ()
    assert app.runs.get(UUID(int=1)).idempotency_key == "new"
    assert app.audit.rebuild(swap=False).identical


@pytest.mark.parametrize("step", ["add_keys", "add_indexes", "exchange"])
def test_who_dies_on_the_way_leaves_the_tables_alone(app: Runlane, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    execute(database_of(app), "update {runs} set priority = 7")
    before, events = contents(app), app.audit.count()

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        between(patch, step, die)
        with pytest.raises(KeyboardInterrupt):
            app.audit.rebuild()
    assert contents(app) == before
    assert app.audit.count() == events
    assert app.audit.rebuild().rows == len(before["runs"])
    assert shadows_of(app) == []
    assert app.audit.verify().differences == ()


# Damaged histories.


def test_a_run_whose_history_is_damaged_stays_as_it_is_and_is_named(app: Runlane) -> None:
    database = database_of(app)
    (broken, *_) = [run.id for run in app.runs.list(tasks=["flaky"], statuses=["retrying"]).data]
    unguard(database)
    execute(database, f"update {{events}} set type = 'run.unheard_of' where stream_id = '{broken}' and sequence = 3")
    execute(database, "update {runs} set priority = 7")
    found = app.audit.rebuild()
    assert [(one.sequence, one.field) for one in found.differences if one.stream_id == broken] == [(3, "digest")]
    assert execute(database, f"select priority from {{runs}} where id = '{broken}'") == [(7,)]
    left = app.audit.verify().differences
    assert [(one.stream_id, one.sequence, one.field) for one in left] == [(broken, 3, "digest"), (broken, 3, "event")]


def test_a_schedule_whose_history_is_damaged_stays_as_it_is(app: Runlane) -> None:
    database, before = database_of(app), contents(app)
    unguard(database)
    execute(database, "update {events} set data = '{{}}' where type = 'schedule.registered'")
    found = app.audit.rebuild()
    assert [(one.sequence, one.field) for one in found.differences] == [(1, "digest")]
    assert contents(app) == before


def test_rows_that_exclude_each_other_are_refused(app: Runlane) -> None:
    """Two active runs with one singleton key: only a damaged log can say so."""
    database, before = database_of(app), contents(app)
    unguard(database)
    other = app.trigger(echo, 1).run.id
    (lone,) = app.runs.list(tasks=["alone"]).data
    data = f"(select data from {{events}} where stream_id = '{lone.id}' and sequence = 1)"
    execute(database, f"update {{events}} set data = {data} where stream_id = '{other}' and sequence = 1")
    digest_again(database, other)
    before = contents(app)
    with pytest.raises(InvariantViolation, match="exclude each other"):
        app.audit.rebuild()
    assert contents(app) == before
    assert shadows_of(app) == []


def digest_again(database: Database, stream_id: UUID) -> None:
    """Give the events of a stream the digests that fit what is stored."""
    columns = "sequence, type, version, occurred_at, environment, actor, cast(data as text)"
    found = execute(database, f"select {columns} from {{events}} where stream_id = '{stream_id}' order by sequence")
    facts = [
        (stream_id, *row[:3], datetime.fromisoformat(row[3]) if isinstance(row[3], str) else row[3], *row[4:])
        for row in found
    ]
    digests, _ = chained(facts, {})
    for (_, sequence, *_), digest in zip(facts, digests, strict=True):
        told = f"x'{digest.hex()}'" if database.schema is None else f"decode('{digest.hex()}', 'hex')"
        place = f"stream_id = '{stream_id}' and sequence = {sequence}"
        execute(database, f"update {{events}} set digest = {told} where {place}")


def unguard(database: Database) -> None:
    if database.schema is None:
        execute(database, "drop trigger events_refuse_update")
    else:
        execute(database, "alter table {events} disable trigger user")


# Keys and prunes.


def test_a_run_that_lost_its_key_to_a_pruned_one_does_not_get_it_back(app: Runlane, clock: SettableClock) -> None:
    older = lose_key(app, clock)
    before = contents(app)
    found = app.audit.rebuild()
    assert (found.differences, contents(app)) == ((), before)
    assert app.runs.get(older.id).idempotency_key == "k"


def test_it_does_not_either_on_a_busy_server(postgres_url: str, clock: SettableClock) -> None:
    with Runlane(postgres_url, tasks=[echo], clock=clock) as app:
        with database_of(app).engine.connect() as connection, connection.begin():
            # Up to its end, whatever is written behind this may still be news.
            connection.exec_driver_sql("select pg_current_xact_id()")
            lose_key(app, clock)
            before = contents(app)
            found = app.audit.rebuild()
        assert (found.differences, contents(app)) == ((), before)


def lose_key(app: Runlane, clock: SettableClock) -> Run:
    """A run that has ended, whose key went to another one, with which it was pruned."""
    older = app.run_now(echo, 1, idempotency_key="k").run
    clock.advance(timedelta(days=60))
    app.runs.cancel(app.trigger(echo, 2, idempotency_key="k").run.id)
    clock.advance(timedelta(days=60))
    assert app.runs.prune("1d", statuses=["cancelled"]).keys == 1
    return older


def test_a_key_lost_while_the_tables_are_rebuilt_does_not_come_back(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[echo], clock=clock) as app:
        app.run_now(echo, 1, idempotency_key="k")
        clock.advance(timedelta(days=60))
        app.runs.cancel(app.trigger(echo, 2, idempotency_key="k").run.id)
        clock.advance(timedelta(days=60))
        lost: list[int] = []

        def meanwhile(_: int) -> None:
            if not lost:
                lost.append(app.runs.prune("1d", statuses=["cancelled"]).keys)

        found = app.audit.rebuild(progress=meanwhile)
        assert (lost, found.differences) == ([1], ())
        assert count(database_of(app), "idempotency_keys") == 0
