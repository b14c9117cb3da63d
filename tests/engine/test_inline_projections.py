"""Projections that the transactions which append the events fold: never behind the log, nor ahead of it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Connection, bindparam, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from runlane import (
    AsyncRunlane,
    ConfigurationInvalid,
    Lane,
    ProjectionFailed,
    Queue,
    Runlane,
    RunlaneError,
    Schedule,
    SettableClock,
    StorageConflict,
    task,
)
from runlane.cli import main
from runlane.events import Recorded, RunCreated, RunSucceeded
from runlane.readmodels import TaskHours
from runlane.storage import inlining
from runlane.storage.database import Database
from runlane.storage.outbox import REDELIVERY
from tests.engine.post import Office
from tests.engine.sessions import EXPIRY, take
from tests.engine.tasks import HOUR, echo, flaky, hopeless
from tests.faults.driver import Moment, Nth, engines_of, struck
from tests.faults.test_commits import lose_commit
from tests.storage.cast import cast
from tests.support import SECOND, at_once, count, database_of, execute, written

TIGHT = Queue("tight", concurrency_limit=2)


@task("tight", queue=TIGHT)
def tight(payload: Any) -> Any:
    return payload


@task("ticking", schedules=[Schedule("often", every="1s")])
def ticking(payload: Any) -> Any:
    return payload


@task("also.ticking", schedules=[Schedule("too", every="1s")])
def also_ticking(payload: Any) -> Any:
    return payload


TASKS = [echo, flaky, hopeless, tight, ticking]
QUEUES = [Queue("main", default=True), TIGHT]


class Seen:
    """Every event that was folded: one that comes twice breaks the key, and one out of order in its stream the fold."""

    name = "seen"

    def __init__(self, version: int = 1, refuses: Callable[[Recorded], bool] = lambda _: False) -> None:
        self.version = version
        self.refuses = refuses

    def setup(self, connection: Connection) -> None:
        columns = "position bigint primary key, stream text not null, sequence int not null, n int not null"
        connection.execute(text(f"create table if not exists seen ({columns})"))
        for column in ("stream", "n"):
            connection.execute(text(f"create index if not exists seen_{column} on seen ({column})"))

    def clear(self, connection: Connection, environment: str) -> None:
        connection.execute(text("drop table if exists seen"))

    def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
        positions = [record.position or 0 for record in records]
        assert positions == sorted(positions)
        # Read and then written, as a projection does: it is right only if folds come one after the other.
        n = connection.execute(text("select coalesce(max(n), 0) from seen")).scalar_one()
        known = text("select stream, max(sequence) from seen where stream in :streams group by stream")
        streams = {"streams": list({str(record.stream_id) for record in records})}
        found = connection.execute(known.bindparams(bindparam("streams", expanding=True)), streams)
        last = {row[0]: row[1] for row in found}
        rows = []
        for record in records:
            stream = str(record.stream_id)
            last[stream] = last.get(stream, 0) + 1
            assert record.sequence == last[stream]
            rows.append({"position": record.position, "stream": stream, "sequence": record.sequence, "n": n + 1})
            n += 1
        connection.execute(text("insert into seen values (:position, :stream, :sequence, :n)"), rows)
        if any(self.refuses(record) for record in records):
            raise ZeroDivisionError("by design")


def seen(app: Runlane) -> list[int]:
    """The positions that were folded."""
    rows = app.projections.read(lambda c: c.execute(text("select position, n from seen order by position")).all())
    assert sorted(row[1] for row in rows) == list(range(1, len(rows) + 1))
    return [row[0] for row in rows]


def stored(app: Runlane, environment: str = "default") -> list[int]:
    """The positions in the log."""
    of = f"select position from {{events}} where environment = '{environment}' order by position"
    return [row[0] for row in execute(database_of(app), of)]


def made(url: str | Lane, *projections: Any, **options: Any) -> Runlane:
    return Runlane(url, tasks=TASKS, queues=QUEUES, inline_projections=projections, **options)


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with made(lane_url, Seen(), clock=clock) as app:
        assert app.project("seen") == 0
        yield app
        assert seen(app) == stored(app)
        assert app.audit.verify().identical


def test_whatever_appends_folds(app: Runlane, clock: SettableClock) -> None:
    def check() -> None:
        assert seen(app) == stored(app)

    app.trigger(echo, 1)
    check()
    app.trigger(echo, 2, idempotency_key="k", singleton_key="k")
    app.trigger_many(echo, range(60))
    check()
    app.run_now(hopeless, 1)
    app.run_now(tight, 1)
    check()
    app.trigger(flaky, 1)
    app.trigger_many(tight, range(5))
    assert app.execute_next() is not None
    check()
    app.worker("drain", maintenance=False).run()
    check()
    app.runs.cancel(app.trigger(echo, 3).run.id)
    app.queues.pause("main")
    app.tick()
    check()
    clock.advance(2 * SECOND)
    assert app.tick().schedules_fired
    app.schedules.trigger("often")
    app.idempotency_keys.reset(echo, "k")
    app.audit.checkpoint()
    check()
    clock.advance(HOUR)
    assert app.runs.prune("1s").runs > 60
    app.audit.rebuild()
    assert len(seen(app)) > len(stored(app))
    app.projections.rebuild("seen")
    assert [(s.is_inline, s.behind, s.stored_version) for s in app.projections.list()] == [(True, 0, 1)]


def test_runs_of_one_clock_and_statement(shared_url: str) -> None:
    """Without a clock of its own a program on PostgreSQL would make and claim runs by statements that commit."""
    with made(shared_url, Seen()) as app:
        app.project("seen")
        app.trigger(echo, 1)
        app.trigger_many(echo, range(300))
        app.worker("drain").run()
        assert seen(app) == stored(app)
        assert len(seen(app)) >= 4 * 301


def test_only_the_wanted_types(lane_url: str) -> None:
    class Ends(Seen):
        types = (RunSucceeded, "run.failed")

        def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
            for record in records:
                row = {"p": record.position, "s": str(record.stream_id), "n": record.sequence}
                connection.execute(text("insert into seen values (:p, :s, :n, 0)"), row)

    with made(lane_url, Ends()) as app:
        app.run_now(echo, 1)
        assert app.project("seen") == 1
        app.run_now(hopeless, 1)
        app.run_now(echo, 1)
        of = "select count(*) from {events} where type in ('run.succeeded', 'run.failed')"
        assert execute(database_of(app), "select count(*) from seen") == execute(database_of(app), of) == [(3,)]


# The caller's transaction.


@contextmanager
def callers(url: str, kind: str, **options: Any) -> Iterator[Any]:
    """A connection of the caller's in a transaction, committed at the end."""
    if kind == "psycopg":
        with psycopg.connect(url) as connection:
            yield connection
        return
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), **options)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlalchemy", "psycopg"])
def test_a_callers_transaction_folds_or_leaves_nothing(shared_url: str, kind: str) -> None:
    if kind == "psycopg" and shared_url.startswith("sqlite"):
        return
    with made(shared_url, Seen()) as app:
        app.project("seen")
        with callers(shared_url, kind) as connection:
            app.trigger(echo, 1, connection=connection)
            connection.rollback()
        assert seen(app) == stored(app) == []
        with callers(shared_url, kind) as connection:
            app.trigger(echo, 1, connection=connection)
            app.trigger_many(echo, [2, 3], connection=connection)
        assert seen(app) == stored(app)
        assert len(seen(app)) == 6


@pytest.mark.parametrize("kind", ["sqlalchemy", "psycopg"])
def test_a_caller_who_commits_after_a_failed_fold_has_written_nothing_of_it(shared_url: str, kind: str) -> None:
    if kind == "psycopg" and shared_url.startswith("sqlite"):
        return
    with made(shared_url, Seen(refuses=lambda r: getattr(r.event, "payload", None) == "bad")) as app:
        app.project("seen")
        with callers(shared_url, kind) as connection:
            app.trigger(echo, "good", connection=connection)
            with pytest.raises(ProjectionFailed):
                app.trigger_many(echo, ["good", "bad"], connection=connection)
            app.trigger(echo, "good", connection=connection)
        assert count(database_of(app), "runs") == 2
        assert seen(app) == stored(app)


def test_asyncio_connections_fold_too(shared_url: str) -> None:
    class Many(Seen):
        """Writes all rows with one call."""

        def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
            rows = [{"p": r.position, "s": str(r.stream_id), "n": r.sequence} for r in records]
            connection.execute(text("insert into seen select :p, :s, :n, 1 + count(*) from seen"), rows)

    async def main() -> None:
        async with AsyncRunlane(shared_url, tasks=[echo], inline_projections=[Many()]) as app:
            await app.project("seen")
            await asyncio.gather(*(app.trigger(echo, n) for n in range(20)))
            url = make_url(shared_url)
            names = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
            engine = create_async_engine(url.set(drivername=names[url.get_backend_name()]))
            async with engine.begin() as connection:
                await app.trigger_many(echo, [1, 2], connection=connection)
            await engine.dispose()
            if url.get_backend_name() == "postgresql":
                async with await psycopg.AsyncConnection.connect(shared_url) as raw:
                    await app.trigger_many(echo, [1, 2], connection=raw)
            assert seen(app._app) == stored(app._app)
            with pytest.raises(ConfigurationInvalid, match="nothing is stored"):
                await app.projections.remove("unseen")

    asyncio.run(main())


def test_what_a_callers_transaction_must_be(postgres_url: str) -> None:
    with made(postgres_url, Seen()) as app, made(postgres_url) as foreign:
        app.project("seen")
        with callers(postgres_url, "sqlalchemy", isolation_level="REPEATABLE READ") as connection:
            with pytest.raises(ConfigurationInvalid, match="must be READ COMMITTED"):
                app.trigger(echo, 1, connection=connection)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            with pytest.raises(ConfigurationInvalid, match="no transaction is open"):
                app.trigger(echo, 1, connection=connection)
        with callers(postgres_url, "psycopg") as connection:
            app.trigger(echo, 1, connection=connection)
            with pytest.raises(ConfigurationInvalid, match=r"'seen' .version 1. is inline"):
                foreign.trigger(echo, 1, connection=connection)
        assert written(app) == (0, 0, 0), "PostgreSQL rolls the whole transaction back"


# Folds that fail.


def test_a_fold_that_raises_fails_its_transaction_and_no_other(lane_url: str) -> None:
    bad = Seen(refuses=lambda r: getattr(r.event, "payload", None) == "bad")
    with made(lane_url, bad) as app:
        app.project("seen")
        with pytest.raises(ProjectionFailed, match=r"'seen' could not fold .*: ZeroDivisionError: by design") as caught:
            app.trigger(echo, "bad")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert (caught.value.code, caught.value.meta) == ("projection_failed", {"projection": "seen"})
        with pytest.raises(ProjectionFailed):
            app.trigger_many(echo, ["good", "bad"])
        assert written(app) == (0, 0, 0)

        def ask(payload: str) -> bool:
            try:
                app.trigger(echo, payload)
            except ProjectionFailed:
                return False
            return True

        works = [lambda n=n: ask("bad" if n % 3 == 0 else "good") for n in range(12)]
        assert at_once(works) == [n % 3 != 0 for n in range(12)], "to each its own outcome"
        assert seen(app) == stored(app)


def test_a_statement_that_fails_is_the_projections_fault(lane_url: str) -> None:
    class Broken(Seen):
        def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
            connection.execute(text("insert into no_such_table values (1)"))

    with made(lane_url, Broken()) as app:
        app.project("seen")
        with pytest.raises(ProjectionFailed, match="no_such_table"):
            app.trigger(echo, 1)
        assert written(app) == (0, 0, 0)


@pytest.mark.parametrize("in_savepoint", [False, True])
@pytest.mark.parametrize("joins", [False, True])
def test_a_fold_that_catches_an_error_of_the_database(shared_url: str, in_savepoint: bool, joins: bool) -> None:
    """PostgreSQL rolls everything back then, and says so to nobody: not even to whoever commits."""

    class Careless(Seen):
        def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
            super().fold(connection, records)
            with suppress(SQLAlchemyError), connection.begin_nested() if in_savepoint else nullcontext():
                connection.execute(text("insert into no_such_table values (1)"))

    with made(shared_url, Careless()) as app:
        app.project("seen")
        is_over = shared_url.startswith("postgresql") and not in_savepoint
        with callers(shared_url, "sqlalchemy") if joins else nullcontext() as connection:
            if is_over:
                with pytest.raises(ProjectionFailed, match=r"'seen' could not fold .* savepoint"):
                    app.trigger(echo, 1, connection=connection)
            else:
                app.trigger(echo, 1, connection=connection)
        assert written(app)[1] == (0 if is_over else 1)
        assert seen(app) == stored(app)


def test_a_run_that_cannot_be_folded_holds_up_no_other_of_a_vanished_session(
    lane_url: str, clock: SettableClock
) -> None:
    broken: set[UUID] = set()
    with made(lane_url, Seen(refuses=lambda r: r.stream_id in broken), clock=clock) as app:
        app.project("seen")
        runs = [one.run.id for one in app.trigger_many(echo, range(600))]
        assert len(take(app, clock, 600)) == 600
        app.runs.cancel(runs[0])
        broken |= {runs[2], runs[599]}
        clock.advance(EXPIRY)
        reports = [app.tick() for _ in range(2)]
        assert [(one.runs_recovered, one.cancellations_finalized) for one in reports] == [(597, 1), (0, 0)]
        assert [(len(one.errors), one.sessions_expired, one.more) for one in reports] == [(2, 0, False)] * 2
        assert all(any(str(run) in error for error in reports[0].errors) for run in broken)
        assert app.runs.count() == {"queued": 597, "cancelled": 1, "running": 2}
        broken.clear()
        last = app.tick()
        assert (last.runs_recovered, last.sessions_expired, last.errors) == (2, 1, ())
        assert seen(app) == stored(app)


@pytest.mark.parametrize("swept", [False, True], ids=["that was due later", "that nobody asked for"])
def test_a_run_that_cannot_be_folded_holds_up_no_other_delivery(
    shared_url: str, clock: SettableClock, swept: bool
) -> None:
    broken: set[UUID] = set()
    office = Office(shared_url)
    projection = Seen(refuses=lambda r: r.stream_id in broken)
    with made(shared_url, Seen(), clock=clock) as plain, made(office.lane, projection, clock=clock) as app:
        plain.project("seen")
        if swept:
            runs = [one.run.id for one in plain.trigger_many(echo, range(150))]
        else:
            runs = [app.trigger(echo, n, delay="1m").run.id for n in range(150)]
        broken |= {runs[7]}
        clock.advance(REDELIVERY)
        reports = [app.tick() for _ in range(1 if swept else 3)]
        assert sum(one.deliveries_requested for one in reports) == 149
        assert all(len(one.errors) == 1 and str(runs[7]) in one.errors[0] for one in reports)
        assert swept or not reports[-1].more
        app.tick()  # publishes what the one before has left
        assert {wakeup.run_id for wakeup in office.post.take()} == set(runs) - broken
        broken.clear()
        assert swept or app.tick().deliveries_requested == 1
        assert seen(app) == stored(app)


def test_a_worker_keeps_an_outcome_that_cannot_be_folded_and_stores_the_others(shared_url: str) -> None:
    broken, tries = threading.Event(), []

    def refuses(record: Recorded) -> bool:
        if isinstance(record.event, RunSucceeded) and record.event.result == 3:
            tries.append(record)
            return broken.is_set()
        return False

    broken.set()
    with made(shared_url, Seen(refuses=refuses)) as app:
        app.project("seen")
        runs = [one.run.id for one in app.trigger_many(echo, range(6))]
        worker = app.worker(concurrency=6, maintenance=False)
        worker.start()
        for number, run in enumerate(runs):
            if number != 3:
                app.runs.wait(run, timeout=20)
        assert app.runs.get(runs[3]).status == "running"
        assert seen(app) == stored(app)
        assert len(tries) < 12, "it does not spin"
        broken.clear()
        assert app.runs.wait(runs[3], timeout=20).status == "succeeded"
        worker.stop()
        assert seen(app) == stored(app)


def test_a_worker_that_stops_waits_for_no_projection(shared_url: str, caplog: Any) -> None:
    with made(shared_url, Seen(refuses=lambda r: isinstance(r.event, RunSucceeded))) as app:
        app.project("seen")
        run = app.trigger(echo, 1).run
        worker = app.worker(maintenance=False)
        worker.start()
        while "its outcome cannot be stored" not in caplog.text:
            threading.Event().wait(0.01)
        worker.stop()
        assert app.runs.get(run.id).status == "running", "until its lease has expired"
        assert seen(app) == stored(app)


def test_a_tick_goes_on_behind_what_cannot_be_folded(lane_url: str, clock: SettableClock) -> None:
    bad = Seen(refuses=lambda r: isinstance(r.event, RunCreated) and r.event.task_id == "ticking")
    with Runlane(lane_url, tasks=[ticking, also_ticking], inline_projections=[bad], clock=clock) as app:
        app.project("seen")
        app.tick()
        clock.advance(2 * SECOND)
        report = app.tick()
        assert report.schedules_fired == 1
        assert [error.partition("could not fold")[1] for error in report.errors] == ["could not fold"]
        assert seen(app) == stored(app)


# Processes that do not know it.

REFUSED = r"projection 'seen' \(version 1\) is inline in environment 'default', and this process does not fold it"


def foreign_calls(app: Runlane, connection: Any) -> dict[str, Callable[[], Any]]:
    return {
        "trigger": lambda: app.trigger(echo, 1),
        "trigger with a key": lambda: app.trigger(echo, 1, idempotency_key="k"),
        "trigger_many": lambda: app.trigger_many(echo, range(600)),
        "run_now": lambda: app.run_now(echo, 1),
        "execute_next": lambda: app.execute_next(),
        "worker": lambda: app.worker("drain", maintenance=False).run(),
        "cancel": lambda: app.runs.cancel(app.runs.list().data[0].id),
        "pause": lambda: app.queues.pause("main"),
        "prune": lambda: app.runs.prune("1ms"),
        "rebuild": lambda: app.audit.rebuild(),
        "a caller's": lambda: app.trigger(echo, 1, connection=connection),
    }


@pytest.mark.parametrize("knows_another", [False, True])
def test_a_process_that_does_not_know_it_appends_nothing(shared_url: str, knows_another: bool) -> None:
    with made(shared_url, Seen()) as app:
        app.run_now(echo, 1)
        app.trigger(echo, 2)
        app.project("seen")
        before = written(app)
        known = [TaskHours()] if knows_another else []
        with made(shared_url, *known) as foreign, callers(shared_url, "sqlalchemy") as connection:
            for name, call in reversed(foreign_calls(foreign, connection).items()):
                if name == "a caller's":
                    with pytest.raises(ConfigurationInvalid, match=REFUSED):
                        call()
                    connection.rollback()
                    continue
                with pytest.raises(RunlaneError, match=REFUSED):
                    call()
                assert written(app) == before, name
        with made(shared_url, environment="other") as other:
            other.trigger(echo, 1)
        with made(shared_url) as foreign:
            assert foreign.runs.list().data, "it may read"
            assert [(s.name, s.is_inline, s.becomes_inline) for s in foreign.projections.list()] == [
                ("seen", True, False)
            ]
            foreign.projections.remove("seen")
            foreign.trigger(echo, 1)
        assert len(seen(app)) == before[0]
        if database_of(app).schema:
            there = "select count(*) from pg_trigger where tgname = 'events_inline'"
            assert execute(database_of(app), there) == [(0,)], "nobody pays for what is not there"
        app.trigger(echo, 1)
        assert app.project("seen") == len(stored(app))
        assert seen(app) == stored(app)


def test_a_caller_on_a_file_who_commits_after_a_refusal_has_written_nothing_of_it(sqlite_url: str) -> None:
    with made(sqlite_url, Seen()) as app, made(sqlite_url) as foreign:
        app.project("seen")
        with callers(sqlite_url, "sqlalchemy") as connection:
            with pytest.raises(ConfigurationInvalid, match=REFUSED):
                foreign.trigger(echo, 1, connection=connection)
            connection.execute(text("create table mine (id int)"))
        assert written(app) == (0, 0, 0)
        assert execute(database_of(app), "select count(*) from mine") == [(0,)]


def test_one_lane_two_applications(lane_url: str) -> None:
    lane = Lane(Database(lane_url))
    with Runlane(lane, tasks=[echo], inline_projections=[Seen()]) as app:
        app.project("seen")
        Runlane(lane, tasks=[echo]).trigger(echo, 1)
        with pytest.raises(ConfigurationInvalid, match="known in version 1 on this lane, and in 2"):
            Runlane(lane, inline_projections=[Seen(2)])
        assert seen(app) == stored(app)


# Its life.


def test_versions(shared_url: str) -> None:
    with made(shared_url, Seen()) as old, made(shared_url, Seen(2)) as new:
        old.project("seen")
        old.trigger(echo, 1)
        with pytest.raises(ConfigurationInvalid, match=r"'seen' .version 1. is inline .* in this version"):
            new.trigger(echo, 1)
        with pytest.raises(ConfigurationInvalid, match=r"stored in version 1, .* has 2: `runlane projections rebuild"):
            new.project("seen")
        assert [s.is_outdated for s in new.projections.list()] == [True]
        assert new.projections.rebuild("seen") == 2
        with pytest.raises(ConfigurationInvalid, match=r"'seen' .version 2. is inline"):
            old.trigger(echo, 1)
        new.trigger(echo, 1)
        assert seen(new) == stored(new)


def test_a_program_that_has_it_as_a_follower_does_not_touch_it(shared_url: str) -> None:
    with made(shared_url, Seen()) as app:
        with Runlane(shared_url, tasks=TASKS, queues=QUEUES, projections=[Seen()]) as other:
            other.trigger(echo, 1)
            assert other.project("seen", poll=None) == 2
            app.trigger(echo, 1)
            assert app.project("seen") == 2, "it goes on where the follower was"
            for call in (other.project, other.projections.rebuild):
                with pytest.raises(ConfigurationInvalid, match="is inline here, and this program has it as a follower"):
                    call("seen")
            assert app.project("seen") == 0
            assert seen(app) == stored(app)
    with pytest.raises(ConfigurationInvalid, match="two projections have the name 'seen'"):
        Runlane(shared_url, projections=[Seen()], inline_projections=[Seen()])


def test_a_follower_under_way_ends_when_it_becomes_inline(shared_url: str) -> None:
    with made(shared_url, Seen()) as app, Runlane(shared_url, tasks=TASKS, queues=QUEUES) as other:
        other.trigger_many(echo, range(4))
        looks = iter([False, True])

        def meanwhile() -> bool:
            if next(looks):
                app.project("seen")
            return False

        with pytest.raises(StorageConflict):
            other.project(Seen(), stop=meanwhile, batch=3)
        assert seen(app) == stored(app)


def test_a_build_that_is_stopped_goes_on_later(lane_url: str) -> None:
    with made(lane_url, Seen()) as app:
        app.trigger_many(echo, range(4))
        # Not at a given look: on PostgreSQL nothing is folded as long as any transaction of the server is older.
        assert app.project("seen", stop=lambda: bool(seen(app)), batch=3) == 3
        app.trigger(echo, 1)
        assert [(s.is_inline, s.becomes_inline) for s in app.projections.list()] == [(False, True)]
        assert app.project("seen") == 7
        assert seen(app) == stored(app)


def test_who_appends_for_too_long_is_not_waited_for_for_ever(postgres_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("runlane.projecting._PATIENCE", 0.0)
    monkeypatch.setattr("runlane.projecting._TRIES", (1,))
    with made(postgres_url, Seen()) as app:
        with callers(postgres_url, "psycopg") as connection:
            connection.execute("lock table runlane.events in row exclusive mode")  # as who appends has it
            with pytest.raises(StorageConflict):
                app.project("seen")
        app.trigger(echo, 1)
        assert app.project("seen") == 2
        assert seen(app) == stored(app)


def test_on_the_command_line(sqlite_url: str, monkeypatch: Any, tmp_path: Any, capsys: Any) -> None:
    module = f"program_{uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(
        "from runlane import Runlane\nfrom tests.engine.test_inline_projections import Seen\n"
        f"app = Runlane({sqlite_url!r}, inline_projections=[Seen()])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def said(*words: str, code: int = 0) -> str:
        try:
            ended: object = main(list(words))
        except SystemExit as end:
            ended = end.code
        assert (ended or 0) == code
        out = capsys.readouterr()
        return str(out.out if code == 0 else out.err)

    program = ("--app", f"{module}:app")
    assert "not inline yet: run it" in said(*program, "projections", "list")
    assert "0 events folded" in said(*program, "projections", "run", "seen")
    assert '"inline":true' in said(*program, "--json", "projections", "list").replace(" ", "")
    assert "inline, but not in this program" in said("--database", sqlite_url, "projections", "list")
    assert "forgotten" in said("--database", sqlite_url, "projections", "remove", "seen")
    again = said("--database", sqlite_url, "projections", "remove", "seen", code=2)
    assert "nothing is stored of a projection 'seen'" in again


@pytest.mark.parametrize("moment", list(Moment))
def test_a_commit_that_gets_lost_folds_once(shared_url: str, moment: Moment) -> None:
    calls: dict[str, Callable[[Runlane], Any]] = {
        "project": lambda app: app.project("seen"),
        "trigger": lambda app: app.trigger(echo, 1),
        "trigger_many": lambda app: app.trigger_many(echo, range(3)),
        "run_now": lambda app: app.run_now(echo, 1),
        "rebuild": lambda app: app.projections.rebuild("seen"),
    }
    with made(shared_url, Seen()) as app:
        app.run_now(echo, 0)
        for name, call in calls.items():
            for n in range(1, 20):
                strike = Nth("commit", n, moment, lose_commit)
                if name == "project" and n > 1:
                    app.projections.remove("seen")
                with struck(strike, *engines_of(database_of(app))):
                    call(app)
                assert seen(app) == stored(app), name
                if not strike.happened:
                    break
            assert n > 1, name


def test_the_switch_waits_for_a_follower_in_the_middle_of_a_batch(postgres_url: str, monkeypatch: Any) -> None:
    inside, goes_on = threading.Event(), threading.Event()

    class Slow(Seen):
        def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
            super().fold(connection, records)
            inside.set()
            assert goes_on.wait(20)

    with made(postgres_url, Seen()) as app, made(postgres_url) as other:
        app.trigger(echo, 1)
        hold = inlining.hold_writers
        refused: list[BaseException] = []

        def follow() -> None:
            try:
                other.project(Slow(), poll=0.01)
            except StorageConflict as error:
                refused.append(error)

        follower = threading.Thread(target=follow)

        def first(tx: Any, patience_ms: int) -> None:
            if not inside.is_set():
                other.trigger(echo, 2)
                follower.start()
                assert inside.wait(20)
                threading.Timer(0.2, goes_on.set).start()
            hold(tx, patience_ms)

        monkeypatch.setattr(inlining, "hold_writers", first)
        assert app.project("seen") == 2
        app.trigger(echo, 3)
        follower.join(20)
        assert len(refused) == 1
        assert seen(app) == stored(app)


def test_roles_need_what_the_fold_needs(postgres: Any) -> None:
    with cast(postgres) as there:
        owner = there.app(there.url, inline_projections=[Seen()])
        owner.project("seen")
        producer = there.app(there.logins["producer"], inline_projections=[Seen()])
        with pytest.raises(ProjectionFailed, match=r"permission denied for .*seen"):
            producer.trigger(echo, 1)
        there.execute(f"grant select, insert on seen to {there.role('producer')}")
        producer.trigger(echo, 1)
        assert seen(owner) == stored(owner)
        assert len(seen(owner)) == 2
        for call in (producer.projections.rebuild, producer.projections.remove):
            with pytest.raises(ConfigurationInvalid, match="denies this role"):
                call("seen")
        with pytest.raises(ConfigurationInvalid, match=REFUSED):
            there.app(there.logins["producer"]).trigger(echo, 1)


# Many at once.


def write_some(app: Runlane, seed: int, times: int) -> Callable[[], None]:
    rng = random.Random(seed)

    def write() -> None:
        for n in range(times):
            match rng.randrange(5):
                case 0:
                    app.trigger(echo, n)
                case 1:
                    app.trigger_many(echo, range(rng.randrange(1, 8)))
                case 2:
                    app.run_now(echo, n)
                case 3:
                    app.trigger(echo, n, idempotency_key=str(rng.randrange(3)))
                case _:
                    app.worker("drain", maintenance=False, concurrency=3).run()

    return write


def test_eight_writers_at_once(shared_url: str) -> None:
    hours = TaskHours()
    with made(shared_url, Seen(), hours) as one, made(shared_url, Seen(), TaskHours()) as other:
        one.project("seen")
        one.project("task_hours")
        at_once([write_some((one, other)[n % 2], n, 6) for n in range(8)])
        assert seen(one) == stored(one)
        before = one.projections.read(lambda c: hours.hours(c))
        one.projections.rebuild("task_hours")
        assert one.projections.read(lambda c: hours.hours(c)) == before
        assert one.audit.verify().identical


@pytest.mark.parametrize("again", [False, True])
def test_it_becomes_inline_under_load(shared_url: str, again: bool) -> None:
    """Some of the writers know it and some do not: these go on until they are refused."""
    with made(shared_url, Seen()) as app, made(shared_url, Seen()) as other, made(shared_url) as foreign:
        app.trigger_many(echo, range(20))
        if again:
            app.project("seen")
        ended = threading.Event()

        def write(mine: Runlane) -> Callable[[], int]:
            def goes_on() -> int:
                times = 0
                while not ended.is_set():
                    try:
                        mine.trigger(echo, times)
                        mine.trigger_many(echo, [1, 2], connection=None)
                    except ConfigurationInvalid:
                        assert mine is foreign
                        return times
                    times += 1
                assert mine is not foreign
                return times

            return goes_on

        def switch() -> int:
            folded = app.projections.rebuild("seen") if again else app.project("seen")
            other.run_now(echo, "after")
            ended.wait(0.1)
            ended.set()
            return folded

        # At least those that were there, and exactly what came before the switch.
        writers = [write(app), write(other)] + ([] if again else [write(foreign), write(foreign)])
        *_, folded = at_once([*writers, switch])
        assert folded >= 40
        assert seen(app) == stored(app)
        assert any(isinstance(r.event, RunCreated) for b in app.follow("start", poll=None) for r in b)
