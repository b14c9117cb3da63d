"""Bounded queues as the storage sees them: partitions are found, locked, counted, and none hides another."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from runlane.engine import lease
from runlane.engine.lease import Holder
from runlane.errors import StorageUnavailable
from runlane.events import RunCancellationRequested, RunLeased, RunReleased, RunSucceeded
from runlane.projections.runs import Run
from runlane.session import LEASE_DURATION
from runlane.storage import engines, log, partitions, sessions, streams
from runlane.storage.database import Database
from runlane.storage.partitions import Partition, Slots
from tests.support import PATIENCE, SECOND, START, at_once, birth, database_at, raw, step

LATER = START + timedelta(hours=1)
ONE: Mapping[str, int] = {"default": 1}


def born(database: Database, **options: object) -> Run:
    change = birth(**options)
    with database.write() as tx:
        assert log.append_runs(tx, [change]) == set()
    return change.after


def moved(database: Database, run: Run, *events: object, at: datetime = START) -> Run:
    change = step(run, *events, at=at)
    with database.write() as tx:
        assert log.append_runs(tx, [change]) == set()
    return change.after


def leased(database: Database, **options: object) -> Run:
    return moved(database, born(database, **options), RunLeased(uuid4(), "w", 1))


def released(database: Database, until: datetime, **options: object) -> Run:
    session = uuid4()
    return moved(database, born(database, **options), RunLeased(session, "w", 1), RunReleased(session, 1, until))


def holder_in(database: Database) -> Holder:
    holder = Holder(uuid4(), "w")
    with database.write() as tx:
        sessions.open_session(tx, holder.session_id, "default", "w", START, LATER)
    return holder


def claim(
    database: Database,
    limit: int = 100,
    limits: Mapping[str, int] = ONE,
    *,
    queues: Sequence[str] = ("default",),
    now: datetime = LATER,
    environment: str = "default",
) -> list[Run]:
    holder = holder_in(database)
    return database.transact(
        lambda tx: lease.claim(tx, environment, holder, queues, ["work"], limit, now, limits), lambda: now
    )


def ids(runs: Sequence[Run]) -> list[UUID]:
    return [run.id for run in runs]


def test_no_more_than_the_limit_is_claimed(database: Database) -> None:
    runs = [born(database) for _ in range(5)]
    assert ids(claim(database, limits={"default": 3})) == ids(runs[:3])
    assert claim(database, limits={"default": 3}) == []
    assert ids(claim(database, limits={"default": 4})) == ids(runs[3:4])  # each claim keeps to its own limit
    assert claim(database, limits={"default": 2}) == []


def test_a_lease_records_the_limit_it_kept_to(database: Database) -> None:
    bounded, free = born(database), born(database, queue="free")
    claim(database, limits={"default": 7}, queues=["default", "free"])
    with database.read() as tx:
        found = {run.id: streams.read_stream(tx, run.id)[-1].event.concurrency_limit for run in (bounded, free)}
    assert found == {bounded.id: 7, free.id: None}


def test_each_key_has_the_limit_for_itself_and_runs_without_a_key_too(database: Database) -> None:
    runs = {key: [born(database, concurrency_key=key) for _ in range(2)] for key in ("a", "b", "c", None)}
    assert ids(claim(database)) == [first.id for first, _ in runs.values()]
    assert claim(database) == []
    assert ids(claim(database, limits={"default": 2})) == [second.id for _, second in runs.values()]


def test_the_same_key_on_another_queue_or_environment_is_another_partition(database: Database) -> None:
    for options in ({}, {"queue": "other"}, {"environment": "other"}):
        born(database, concurrency_key="k", **options)
    limits = {"default": 1, "other": 1}
    assert len(claim(database, limits=limits, queues=["default", "other"])) == 2
    assert len(claim(database, limits=limits, environment="other")) == 1


def test_leased_runs_count_whatever_their_status_or_who_leased_them(database: Database) -> None:
    running = leased(database)  # by a process in which the queue has no limit
    moved(database, leased(database), RunCancellationRequested())
    born(database)
    assert claim(database, limits={"default": 2}) == []
    assert running.lease is not None
    moved(database, running, RunSucceeded(running.lease.session_id, 1))
    assert len(claim(database, limits={"default": 2})) == 1


def test_the_order_over_partitions_and_queues_is_priority_then_due_time_then_id(database: Database) -> None:
    runs = [
        born(database, priority=priority, at=START + n * SECOND, queue=queue, concurrency_key=key)
        for n, key in enumerate(("a", None, "b"))
        for priority in (1, 5, 3)
        for queue in ("default", "free", "wide")
    ]
    runs += [
        released(database, START + 5 * SECOND, priority=4, queue=queue, concurrency_key=key)
        for key in ("a", None)
        for queue in ("default", "free", "wide")
    ]
    best = sorted(runs, key=lambda run: (-run.priority, run.due_at, run.id))
    limits = {"default": 100, "wide": 100}
    for size in (1, 2, 5, 10):
        mine, best = best[:size], best[size:]
        assert ids(claim(database, size, limits, queues=["default", "free", "wide"])) == ids(mine)
    assert ids(claim(database, 100, limits, queues=["default", "free", "wide"])) == ids(best)


def test_a_full_partition_hides_no_other_behind_it(database: Database) -> None:
    with database.write() as tx:
        log.append_runs(tx, [birth(priority=9, concurrency_key="full") for _ in range(300)])
        log.append_runs(tx, [birth(priority=9) for _ in range(300)])
    assert len(claim(database)) == 2
    behind = [born(database, priority=-5, concurrency_key="open"), born(database, priority=-5, queue="free")]
    assert ids(claim(database, queues=["default", "free"])) == ids(behind)


def test_future_runs_do_not_lie_in_the_way(database: Database) -> None:
    for key in ("k", None):
        with database.write() as tx:
            log.append_runs(
                tx, [birth(run_at=START + timedelta(days=9), priority=9, concurrency_key=key) for _ in range(50)]
            )
        due = released(database, START + SECOND, priority=-9, concurrency_key=key)
        assert ids(claim(database, 1)) == [due.id]


def test_only_known_tasks_count_for_what_is_open(database: Database) -> None:
    born(database, task_id="unknown", priority=9, concurrency_key="k")
    wanted = born(database, concurrency_key="k")
    assert ids(claim(database)) == [wanted.id]


def test_a_session_that_has_ended_claims_nothing(database: Database) -> None:
    born(database)
    with database.write() as tx:
        assert lease.claim(tx, "default", Holder(uuid4(), "w"), ["default"], ["work"], 5, LATER, ONE) == []


@pytest.mark.parametrize("name", ["it's", 'say "so"', "100%", "a,b", "{curly}", "back\\slash", "null", "ü—漢🙂", ":x"])
def test_names_are_values_and_never_statement_text(database: Database, name: str) -> None:
    run = born(database, queue=name, environment=name, concurrency_key=name)
    assert ids(claim(database, limits={name: 1}, queues=[name], environment=name)) == [run.id]


def test_more_partitions_than_one_transaction_locks_are_claimed_by_the_next(database: Database) -> None:
    with database.write() as tx:
        log.append_runs(tx, [birth(concurrency_key=f"k{n}") for n in range(partitions.MOST_PARTITIONS + 20)])
    assert len(claim(database, 500)) == partitions.MOST_PARTITIONS
    assert len(claim(database, 500)) == 20


def test_the_number_of_a_lock_is_the_same_everywhere_and_fits() -> None:
    numbers = {
        Partition(queue, key, 1).number(schema, environment)
        for queue in ("a", "b")
        for key in (None, "a", "")
        for schema in ("runlane", "other")
        for environment in ("default", "x")
    }
    assert len(numbers) == 24
    assert all(-(2**63) <= number < 2**63 for number in numbers)
    assert Partition("q", "k", 1).number("s", "e") == Partition("q", "k", 2).number("s", "e") == 6963217049101599853


def test_two_claims_step_by_step_the_second_waits_and_then_sees_the_firsts_lease(postgres_url: str) -> None:
    """Count-then-claim without the lock, or a count in the statement that waits for it, would give 2."""
    partition = Partition("default", None, 1)
    with database_at(postgres_url) as database:
        first_run, _ = born(database), born(database)
        first, second = holder_in(database), holder_in(database)
        waited = threading.Event()
        rooms: dict[str, int] = {}

        def late() -> list[Run]:
            with database.write() as tx:
                rooms["before"] = len(
                    partitions._open(tx, "default", second.session_id, ONE, ["work"], LATER, 5)
                )  # seen open
                waited.set()
                rooms["after"] = partitions.lock(tx, "default", [partition])[partition].free
                return lease.claim(tx, "default", second, ["default"], ["work"], 5, LATER, ONE)

        with database.write() as tx:
            assert partitions.lock(tx, "default", [partition]) == {partition: Slots(1, 0)}
            thread = threading.Thread(target=lambda: rooms.setdefault("claimed", len(late())))
            thread.start()
            assert waited.wait(PATIENCE)
            assert _somebody_waits(database)
            assert ids(lease.claim(tx, "default", first, ["default"], ["work"], 5, LATER, ONE)) == [first_run.id]
            assert "after" not in rooms
        thread.join(PATIENCE)
        assert rooms == {"before": 1, "after": 0, "claimed": 0}


def test_a_claim_that_came_too_late_gives_the_lock_back_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The savepoint does: locks are taken in the order of numbers, and never while some are held."""
    lock = partitions.lock
    with database_at(postgres_url) as database:
        born(database), born(database)

        def late(*of: Any) -> Any:
            monkeypatch.setattr(partitions, "lock", lock)
            assert len(claim(database)) == 1  # another one, between the look and the lock
            return lock(*of)

        monkeypatch.setattr(partitions, "lock", late)
        holder = holder_in(database)
        with database.write() as tx:
            assert lease.claim(tx, "default", holder, ["default"], ["work"], 5, LATER, ONE) == []
            held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
            assert tx.connection.exec_driver_sql(held).scalar_one() == 0


def test_a_claim_that_came_too_late_for_one_partition_takes_from_another(postgres_url: str) -> None:
    """The one that it chose is full once it has the lock: what lies behind is looked for again."""
    partition = Partition("default", "best", 1)
    with database_at(postgres_url) as database:
        born(database, concurrency_key="best", priority=5)
        born(database, concurrency_key="best", priority=5)
        other = born(database, concurrency_key="other")
        first, second = holder_in(database), holder_in(database)
        found: list[UUID] = []

        def late() -> None:
            with database.write() as tx:
                found.extend(ids(lease.claim(tx, "default", second, ["default"], ["work"], 1, LATER, ONE)))

        with database.write() as tx:
            partitions.lock(tx, "default", [partition])
            thread = threading.Thread(target=late)
            thread.start()
            assert _somebody_waits(database)
            assert len(lease.claim(tx, "default", first, ["default"], ["work"], 1, LATER, ONE)) == 1
        thread.join(PATIENCE)
        assert found == [other.id]


def test_the_default_isolation_of_the_server_does_not_matter(postgres: Any) -> None:
    """Under REPEATABLE READ the count would be as old as the transaction."""
    url = postgres.migrated()
    with database_at(url) as database, raw(database) as connection:
        name = connection.exec_driver_sql("select current_database()").scalar_one()
        connection.exec_driver_sql(f"alter database {name} set default_transaction_isolation = 'serializable'")
    with database_at(url) as database:
        with database.write() as tx:
            level = tx.connection.exec_driver_sql("show transaction_isolation").scalar_one()
        assert level == "read committed"
    postgres.drop(url)


def _somebody_waits(database: Database) -> bool:
    statement = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    deadline = threading.Event()
    for _ in range(2000):
        with database.engine.begin() as connection:
            if connection.exec_driver_sql(statement).scalar_one():
                return True
        deadline.wait(0.005)
    return False


def test_claims_over_many_partitions_in_opposite_orders_never_deadlock(shared: Database) -> None:
    """A deadlock would surface as a StorageConflict: nothing here retries."""
    keys = [f"k{n}" for n in range(12)]
    with shared.write() as tx:
        log.append_runs(
            tx, [birth(queue=queue, concurrency_key=key) for _ in range(8) for key in keys for queue in ("a", "b")]
        )

    def work(n: int) -> list[UUID]:
        holder = holder_in(shared)
        queues = ["a", "b"] if n % 2 else ["b", "a"]
        limits = dict.fromkeys(queues, 8)
        mine: list[UUID] = []
        while True:
            with shared.write() as tx:
                found = lease.claim(tx, "default", holder, queues, ["work"], 5, LATER, limits)
            if not found:
                return mine
            mine += ids(found)

    claimed = at_once([lambda n=n: work(n) for n in range(8)])
    together = [run_id for one in claimed for run_id in one]
    assert len(together) == len(set(together)) == 192


def test_runs_without_a_key_pay_for_no_index_of_keys(database: Database) -> None:
    """What the tables promise: only the partial index of keys holds queued runs with a key."""
    index = next(i for i in log.tables.runs.indexes if i.name == "runs_keyed")
    dialect = "sqlite" if database.schema is None else "postgresql"
    assert "concurrency_key is not null" in str(index.dialect_options[dialect]["where"])


def test_who_stands_still_in_the_middle_of_a_claim_does_not_hold_the_others_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was stopped, or whose machine is gone without a word, has the partition locked."""
    assert timedelta(milliseconds=engines.IDLE) <= LEASE_DURATION / 2
    monkeypatch.setattr(engines, "IDLE", 300)
    with database_at(postgres_url) as still, database_at(postgres_url) as other:
        run, holder = born(other), holder_in(other)

        def stand_still() -> None:
            with still.write() as tx:
                assert ids(lease.claim(tx, "default", holder, ["default"], ["work"], 1, LATER, ONE)) == [run.id]
                assert ids(claim(other)) == [run.id], "as if the first one had never been"

        with pytest.raises(StorageUnavailable):
            stand_still()
        with other.read() as tx:
            assert [record.sequence for record in streams.read_stream(tx, run.id)] == [1, 2, 3]
