"""The connection breaks during a commit: whether that happened or not, the call has its effect once, and says so."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import PipelineStatus
from sqlalchemy import create_engine

from runlane import (
    Failure,
    Fixed,
    InternalError,
    Lane,
    Retry,
    Runlane,
    SettableClock,
    StorageConflict,
    StorageUnavailable,
    Trigger,
    task,
)
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.engine.complete import Finished, complete
from runlane.storage.database import Database
from tests.engine.post import Post
from tests.engine.sessions import take
from tests.engine.tasks import echo
from tests.faults.driver import Call, Moment, Nth, engines_of, sqlite_error, struck
from tests.faults.operations import OPERATIONS, OPTIONS, Operation, shape
from tests.support import PATIENCE, SECOND, at_once, database_of, eventually, execute, named, types_of

OUTCOMES = [
    Succeeded({"n": 1}),
    Failed(Failure("broken", "not now", True)),
    Released(delay=SECOND, reason="later"),
    Interrupted("worker_stopping"),
]
WRITING = [operation for operation in OPERATIONS if operation.writes]
both_moments = pytest.mark.parametrize("moment", list(Moment))


def lose_commit(call: Call) -> Exception:
    """The connection is gone during a commit; SQLite's own way is a disk that fails, and a rollback by itself."""
    if not isinstance(call.connection, psycopg.Connection):
        call.connection.rollback()  # nothing is left to roll back if it was committed
    return call.lost()


def appended(app: Runlane, since: int = 0) -> Counter[str]:
    """The types of the events behind a position."""
    rows = execute(database_of(app), f"select type from {{events}} where position > {since}")
    return Counter(row[0] for row in rows)


def position(app: Runlane) -> int:
    """The last position in the log."""
    return int(execute(database_of(app), "select coalesce(max(position), 0) from {events}")[0][0])


@pytest.fixture
def app(shared_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(shared_url, clock=clock, **OPTIONS) as made:
        yield made
        assert made.audit.verify().differences == ()


@both_moments
@pytest.mark.parametrize("operation", WRITING, ids=lambda operation: operation.name)
def test_each_commit_of_each_operation_may_get_lost(
    app: Runlane, clock: SettableClock, operation: Operation, moment: Moment
) -> None:
    arguments = operation.prepare(app, clock)
    before = position(app)
    expected = shape(operation.call(app, arguments))
    events = appended(app, before)
    n = 0
    while True:
        n += 1
        arguments = operation.prepare(app, clock)
        before, strike = position(app), Nth("commit", n, moment, lose_commit)
        with struck(strike, *engines_of(database_of(app))):
            result = operation.call(app, arguments)
        assert (shape(result), appended(app, before)) == (expected, events), f"commit {n}"
        if not strike.happened:
            break
    assert n > 1, "no commit was lost"


@both_moments
@pytest.mark.parametrize("name", ["start", "migrate", "run_now", "execute_next", "worker", "tick"])
def test_the_first_calls_of_a_process_may_lose_commits_too(
    shared_url: str, clock: SettableClock, name: str, moment: Moment
) -> None:
    """Those that make tables, open the session and record schedules."""
    calls: dict[str, Callable[[Runlane], Any]] = {
        "run_now": lambda app: app.run_now(echo, 1),
        "worker": lambda app: app.worker("drain").run(),
    }
    n = 0
    while True:
        n += 1
        strike = Nth("commit", n, moment, lose_commit)
        app = Runlane(shared_url, clock=clock, **OPTIONS)
        with closing(app):
            with struck(strike, *engines_of(database_of(app))):
                calls.get(name, lambda app: getattr(app, name)())(app)
            assert app.audit.verify().differences == ()
            assert appended(app)["run.created"] == (n if name == "run_now" else 0)
            assert appended(app)["schedule.registered"] == (name in ("worker", "tick"))
        if not strike.happened:
            break


def test_a_lease_of_another_thread_does_not_prove_that_a_lost_claim_happened(
    shared_url: str, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are the session's, and at one instant, as after a clock was set back: their events say the very same."""
    executed: list[int] = []

    @task("counts")
    def counts(payload: int) -> None:
        executed.append(payload)

    real = Database._is_stored

    def is_stored(self: Database, *asked: Any) -> bool:
        if executed == [1]:
            app.execute_next()  # by another thread, before the first one can ask
        return real(self, *asked)

    with Runlane(shared_url, tasks=[counts], clock=clock) as app:
        app.trigger(counts, 1)
        app.execute_next()
        app.trigger(counts, 2)
        monkeypatch.setattr(Database, "_is_stored", is_stored)
        with struck(Nth("commit", 1, Moment.BEFORE, lose_commit), *engines_of(database_of(app))):
            with pytest.raises(StorageUnavailable) as lost:
                app.execute_next()
        assert lost.value.meta["outcome"] == "unknown"
        assert executed == [1, 2]
        assert app.audit.verify().identical


@both_moments
def test_a_run_is_executed_once_whichever_commit_is_lost(shared_url: str, moment: Moment) -> None:
    executed: list[Any] = []

    @task("counts")
    def counts(payload: Any) -> None:
        executed.append(payload)

    with Runlane(shared_url, tasks=[counts]) as app:
        for n in (1, 2, 3):
            strike = Nth("commit", n, moment, lose_commit)
            with struck(strike, database_of(app).engine):
                done = app.run_now(counts, n)
            assert done.executed
            assert strike.happened == (n < 3)
            assert [name for name in types_of(app, done.run.id) if name != "RunDeliveryRequested"] == [
                "RunCreated",
                "RunLeased",
                "RunSucceeded",
            ]
        assert executed == [1, 2, 3]


@both_moments
def test_a_wakeup_is_asked_for_once_and_published(shared_url: str, moment: Moment) -> None:
    post = Post()
    with Runlane(Lane(Database(shared_url), post), tasks=[echo]) as app:
        with struck(Nth("commit", 1, moment, lose_commit), database_of(app).engine):
            run = app.trigger(echo, 1).run
        assert [one.run_id for one in post.wakeups] == [run.id]
        outbox = named(database_of(app), "outbox")
        assert len(execute(database_of(app), f"select run_id from {outbox}")) == 1


def test_an_id_that_somebody_else_took_is_a_conflict_still(app: Runlane) -> None:
    """The commit was lost and has not happened; before the second try another process takes the id."""
    run_id, other = uuid4(), Runlane(app.lane.database.url.render_as_string(False), **OPTIONS)

    def lose(call: Call) -> Exception:
        error = lose_commit(call)
        other.trigger(echo, "theirs", run_id=run_id)
        return error

    with struck(Nth("commit", 1, Moment.BEFORE, lose), database_of(app).engine):
        with ThreadPoolExecutor(1) as threads:  # SQLite's writers of one process wait for each other
            with pytest.raises(StorageConflict) as caught:
                threads.submit(app.trigger, echo, "ours", run_id=run_id).result(PATIENCE)
    other.close()
    assert caught.value.kind == "run_exists"
    assert app.runs.get(run_id).payload == "theirs"


class Away:
    """A database that loses one commit after it happened, and then is away until it is let back.

    `kind` is "execute" where a statement commits itself.
    """

    def __init__(self, commit: int = 1, kind: str = "commit") -> None:
        self.back, self.gone = threading.Event(), threading.Event()
        self._left, self._kind = commit, kind

    def __call__(self, call: Call, real: Callable[[], None]) -> None:
        if self.back.is_set():
            real()
        elif self.gone.is_set():
            raise call.lost()
        else:
            real()
            self._left -= call.kind == self._kind and not call.reads
            if not self._left:
                self.gone.set()
                raise lose_commit(call)


#: Runs whose births take more than one statement.
UNLIKE = [Trigger(echo, 1), Trigger(echo, 2, priority=1)]


@contextmanager
def impatient(url: str, *tasks: Any) -> Iterator[Runlane]:
    """A runtime that asks only for a moment whether a commit happened."""
    with Runlane(Lane(Database(url, patience=0.05)), tasks=tasks) as app:
        yield app


def test_a_database_that_stays_away_leaves_the_outcome_unknown_and_the_error_says_so(shared_url: str) -> None:
    with impatient(shared_url, echo) as app:
        away = Away()
        with struck(away, database_of(app).engine), pytest.raises(StorageUnavailable, match="it is unknown") as caught:
            app.trigger_many(UNLIKE)
        there = sorted(str(run.id) for run in app.runs.list().data)
        assert len(there) == 2
        assert caught.value.meta["outcome"] == "unknown"
        assert sorted(caught.value.meta["ids"]) == there
        assert caught.value.retryable


@both_moments
def test_a_bulk_trigger_whose_one_statement_was_lost_happens_once(postgres_url: str, moment: Moment) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.start()
        with struck(Nth("execute", 1, moment), database_of(app).engine):
            done = app.trigger_many(echo, range(3))
        assert [one.run.payload for one in done] == [0, 1, 2]
        assert {run.id: run for run in app.runs.list().data} == {one.run.id: one.run for one in done}
        assert appended(app) == {"run.created": 3, "run.delivery_requested": 3}
        assert app.audit.verify().identical


@both_moments
@pytest.mark.parametrize("n", range(1, 4))
def test_each_statement_of_a_large_bulk_trigger_may_get_lost(postgres_url: str, n: int, moment: Moment) -> None:
    """The clock's, and two that go out without a wait for the answers: nothing is written, and that is said."""
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.start()
        with struck(Nth("execute", n, moment), database_of(app).engine), pytest.raises(StorageUnavailable) as lost:
            app.trigger_many(echo, range(500))
        assert "outcome" not in lost.value.meta
        assert appended(app) == {}
        done = app.trigger_many(echo, range(500))
        assert [one.run.payload for one in done] == list(range(500))
        assert app.audit.verify().identical


@pytest.mark.parametrize("part", [1, 2])
def test_a_large_bulk_trigger_whose_server_process_is_killed_on_the_way_writes_nothing(
    postgres_url: str, part: int
) -> None:
    """The parts go out without a wait: that the last one is not answered is seen at the end only."""
    sent: list[int] = []

    def strike(call: Call, real: Callable[[], None]) -> None:
        real()
        if call.kind == "execute" and call.connection.pgconn.pipeline_status == PipelineStatus.ON:
            sent.append(call.connection.info.backend_pid)
            if len(sent) == part:
                with psycopg.connect(postgres_url, autocommit=True) as other:
                    other.execute("select pg_terminate_backend(%s, 5000)", (sent[0],))

    with Runlane(postgres_url, tasks=[echo]) as app:
        app.start()
        with struck(strike, database_of(app).engine), pytest.raises(StorageUnavailable) as lost:
            app.trigger_many(echo, range(500))
        assert len(sent) >= part
        assert "outcome" not in lost.value.meta
        assert appended(app) == {}
        assert len(app.trigger_many(echo, range(500))) == 500
        assert app.audit.verify().identical


def test_a_large_bulk_trigger_that_the_server_refuses_writes_nothing(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.start()
        execute(database_of(app), "alter table {runs} add constraint nobody check (task_id <> 'echo')")
        with pytest.raises(InternalError, match="23514"):
            app.trigger_many(echo, range(500))
        assert appended(app) == {}
        execute(database_of(app), "alter table {runs} drop constraint nobody")
        assert len(app.trigger_many(echo, range(500))) == 500


@both_moments
def test_a_large_bulk_trigger_whose_commit_was_lost_happens_once(postgres_url: str, moment: Moment) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.start()
        with struck(Nth("commit", 1, moment, lose_commit), database_of(app).engine):
            done = app.trigger_many(echo, range(500))
        assert {run.id: run for run in app.runs.list(limit=500).data} == {one.run.id: one.run for one in done}
        assert appended(app) == {"run.created": 500, "run.delivery_requested": 500}


@both_moments
@pytest.mark.parametrize("callers", [1, 3])
def test_a_trigger_whose_one_statement_was_lost_happens_once(postgres_url: str, moment: Moment, callers: int) -> None:
    """On PostgreSQL it commits itself, so that its answer is the commit's."""
    with Runlane(postgres_url, tasks=[echo]) as app:
        with struck(Nth("execute", 1, moment), database_of(app).engine):
            done = at_once([lambda n=n: app.trigger(echo, n) for n in range(callers)])
        assert {one.outcome for one in done} == {"created"}
        assert {run.id: run for run in app.runs.list().data} == {one.run.id: one.run for one in done}
        assert appended(app) == {"run.created": callers, "run.delivery_requested": callers}
        assert app.audit.verify().identical


@both_moments
@pytest.mark.parametrize("kind", ["execute", "commit"])
def test_an_answer_that_is_not_understood_is_asked_about_on_another_connection(
    postgres_url: str, moment: Moment, kind: str
) -> None:
    """The connection lives on, and the answer may come when something else is asked."""
    spoilt: list[Any] = []

    def lose(call: Call) -> Exception:
        spoilt.append(call.connection)
        return psycopg.DatabaseError("unexpected response from server; first received character was 'y'")

    with Runlane(postgres_url, tasks=[echo]) as app:
        app.start()
        key = None if kind == "execute" else "key"  # without one, a statement that commits itself
        with struck(Nth(kind, 1, moment, lose), database_of(app).engine):
            done = app.trigger(echo, 1, idempotency_key=key)
        assert done.outcome == "created"
        assert app.runs.list().data == (done.run,)
        assert appended(app) == {"run.created": 1, "run.delivery_requested": 1}
        assert [connection.closed for connection in spoilt] == [True]


def test_a_trigger_whose_one_statement_stays_lost_says_so_to_each_caller(postgres_url: str) -> None:
    away = threading.Event()

    def strike(call: Call, real: Callable[[], None]) -> None:
        if not away.is_set():
            real()
            away.set()
        raise call.lost()

    with impatient(postgres_url, echo) as app:
        app.start()
        with (
            struck(strike, database_of(app).engine),
            pytest.raises(StorageUnavailable, match="it is unknown") as caught,
        ):
            app.trigger(echo, 1)
        (there,) = app.runs.list().data
        assert caught.value.meta == {"outcome": "unknown", "ids": [str(there.id)]}


def test_a_database_that_is_away_before_the_commit_has_written_nothing_and_the_error_does_not_say_unknown(
    shared_url: str,
) -> None:
    with impatient(shared_url, echo) as app:
        with struck(Nth("execute", 2, Moment.BEFORE), database_of(app).engine), pytest.raises(StorageUnavailable) as e:
            app.trigger_many(UNLIKE)
        assert "outcome" not in e.value.meta
        assert app.runs.list().data == ()


def test_outcomes_stored_by_a_lost_commit_are_no_lost_leases(shared_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with impatient(shared_url, held_back) as app:
        runs = [one.run for one in app.trigger_many(held_back, [1, 2, 3])]
        worker = app.worker(maintenance=False, poll_interval=3600, concurrency=3)
        GATE.clear()
        worker.start()
        eventually(lambda: appended(app)["run.leased"] == 3, "the runs being executed")
        away = Away(kind="commit" if shared_url.startswith("sqlite") else "execute")
        with struck(away, database_of(app).engine), caplog.at_level(logging.INFO, "runlane.worker"):
            GATE.set()
            eventually(lambda: "outcomes and claims have to wait" in caplog.text, "the worker noticing")
            away.back.set()
            eventually(lambda: worker.completed == 3, "the outcomes being known to be stored")
        worker.stop()
        assert "lease was lost" not in caplog.text
        assert [app.runs.get(run.id).status for run in runs] == ["succeeded"] * 3
        assert appended(app) == {"run.created": 3, "run.delivery_requested": 3, "run.leased": 3, "run.succeeded": 3}


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda one: type(one).__name__)
def test_an_outcome_said_again_is_known_and_another_is_not(
    app: Runlane, clock: SettableClock, outcome: Outcome, cancelled: bool
) -> None:
    app.trigger(echo, 1)
    (leased,) = take(app, clock)
    if cancelled:
        app.runs.cancel(leased.id)

    def finish(said: Outcome) -> Any:
        finished = Finished(leased, said, Retry(9, Fixed("1s"), jitter=1.0))
        return database_of(app).transact(lambda tx: complete(tx, [finished], clock(), 1000)[0], clock)

    after = finish(outcome)
    before = position(app)
    clock.advance(SECOND)
    assert finish(outcome) == after
    assert finish(Failed(Failure("other", "another", True))) is None
    assert position(app) == before


GATE = threading.Event()


@task("held.back")
def held_back(payload: Any) -> Any:
    assert GATE.wait(PATIENCE)
    return payload


def test_a_commit_still_under_way_when_the_connection_breaks_is_waited_for(postgres_url: str) -> None:
    """Nothing is simulated: the server is held in the commit, the socket is cut, then the server goes on."""
    with Runlane(postgres_url, tasks=[echo]) as app, psycopg.connect(postgres_url, autocommit=True) as holder:
        execute(
            database_of(app),
            "create function public.hold_commit() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock(4711); return null; end $$",
        )
        execute(
            database_of(app),
            "create constraint trigger held after insert on {events} deferrable initially deferred"
            " for each row execute function public.hold_commit()",
        )
        holder.execute("select pg_advisory_lock(4711)")
        committing: list[Call] = []

        def remember(call: Call, real: Callable[[], None]) -> None:
            if call.kind == "commit":
                committing.append(call)
            real()

        with struck(remember, database_of(app).engine), ThreadPoolExecutor(1) as threads:
            triggered = threads.submit(app.trigger, echo, 1, idempotency_key="k")
            eventually(lambda: waiting(holder, "advisory"), "the commit being held")
            with socket.socket(fileno=os.dup(committing[0].connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
            eventually(lambda: waiting(holder, "transactionid"), "the question whether it was committed")
            holder.execute("select pg_advisory_unlock(4711)")
            assert triggered.result(PATIENCE).outcome == "created"
        assert len(app.runs.list().data) == 1
        assert app.audit.verify().differences == ()


def waiting(connection: psycopg.Connection[Any], for_what: str) -> list[Any]:
    """Runlane's sessions that wait for a lock of this kind."""
    return connection.execute(
        "select pid from pg_stat_activity where application_name = 'runlane' and wait_event = %s"
        " and datname = current_database()",
        (for_what,),
    ).fetchall()


def test_a_refused_commit_is_no_unknown_one(postgres_url: str) -> None:
    """A deferred constraint says no during the commit: an answer, and nothing was written."""
    with Runlane(postgres_url, tasks=[echo]) as app:
        execute(
            database_of(app),
            "create function public.refuse_commit() returns trigger language plpgsql as"
            " $$ begin raise exception 'refused' using errcode = '53100'; end $$",
        )
        execute(
            database_of(app),
            "create constraint trigger refused after insert on {events} deferrable initially deferred"
            " for each row execute function public.refuse_commit()",
        )
        with pytest.raises(StorageUnavailable, match="refused") as caught:
            app.trigger(echo, 1)
        assert "outcome" not in caught.value.meta
        assert app.runs.list().data == ()


@pytest.mark.parametrize("rolled_back", [False, True])
def test_a_full_disk_during_sqlites_commit_is_no_unknown_one(sqlite_url: str, rolled_back: bool) -> None:
    def full(call: Call) -> Exception:
        if rolled_back:  # as SQLite does by itself in some cases
            call.connection.rollback()
        return sqlite_error("database or disk is full", 13)

    with Runlane(sqlite_url, tasks=[echo]) as app:
        with struck(Nth("commit", 1, Moment.BEFORE, full), database_of(app).engine):
            with pytest.raises(StorageUnavailable, match="is full") as caught:
                app.trigger(echo, 1)
        assert "outcome" not in caught.value.meta
        assert app.runs.list().data == ()


def test_a_callers_own_commit_is_the_callers(shared_url: str) -> None:
    engine = create_engine(shared_url.replace("postgresql://", "postgresql+psycopg://"))
    with Runlane(shared_url, tasks=[echo]) as app:
        with engine.begin() as connection:
            run = app.trigger(echo, 1, connection=connection).run
        assert app.runs.get(run.id) == run
    engine.dispose()


def test_runs_of_a_claim_that_nobody_heard_of_are_given_back_and_executed(postgres_url: str) -> None:
    """An idle worker's claim commits itself; where its answer is lost, the heartbeat finds runs that nobody knows."""
    lost = threading.Event()

    def strike(call: Call, real: Callable[[], None]) -> None:
        real()
        if threading.current_thread().name.startswith("runlane-exchange") and not lost.is_set():
            lost.set()
            raise call.lost()

    with Runlane(postgres_url, tasks=[echo], heartbeat="100ms", lease_duration="5s") as app:
        run = app.trigger(echo, 1).run
        worker = app.worker(maintenance=False, poll_interval=0.1, concurrency=1)
        with struck(strike, database_of(app).engine):
            worker.start()
            eventually(lambda: app.runs.get(run.id).status == "succeeded", "the run being executed")
        worker.stop()
        assert lost.is_set()
        steps = ["RunLeased", "RunInterrupted", "RunLeased", "RunSucceeded"]
        assert types_of(app, run.id) == ["RunCreated", "RunDeliveryRequested", *steps]
        assert app.audit.verify().identical
