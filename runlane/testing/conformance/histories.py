"""Storage, the log: births, guarded steps, transactions, and that history stays as it is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from runlane import decisions
from runlane.errors import ConflictKind, InternalError, RunlaneError, StorageConflict
from runlane.events import RunCancelled
from runlane.storage import log, queries, streams, tables
from runlane.storage.transaction import Transaction
from runlane.testing.conformance.cases import ENVIRONMENT, SECOND, START, StorageCases, Store, birth, new, together
from runlane.values import SYSTEM, RunStatus

#: Values that a database may change on their way: each comes back as it was.
VALUES = [
    None, True, "", "\u00e4\U0001f600 \\ \" '", 0, -1, 2**63 - 1, -(2**63), 1.5, 1e-300, [], {}, [None, [1]],
    {"a": {"b": [1, 2.5, "c", None]}}, "x" * 100_000,
]  # fmt: skip


class HistoryCases(StorageCases):
    """What ``log.append_runs`` promises."""

    def test_a_birth_is_read_back_as_it_was_folded(self, store: Store) -> None:
        wanted = new(
            {"a": 1},
            priority=7,
            idempotency_key="key",
            singleton_key="single",
            concurrency_key="part",
            correlation_id="order 7",
            trace_carrier={"traceparent": "00-1"},
            meta={"why": "\u00e4"},
        )
        change = birth(wanted)
        store.trigger(wanted)
        assert store.run(change.after.id) == change.after, "a run that was born is not read back as it was folded"
        assert store.history(change.after.id) == list(change.records), "its events are not read back as written"

    def test_values_come_back_exactly(self, store: Store) -> None:
        changes = [birth(new(value, meta={"value": value})) for value in VALUES]
        assert store.append(*changes) == set(), "births without keys never lose"
        for change, value in zip(changes, VALUES, strict=True):
            found = store.run(change.after.id)
            assert found.payload == value, f"payload {value!r} came back as {found.payload!r}"
            assert type(found.payload) is type(value), f"payload {value!r} came back as {found.payload!r}"
            assert found.created.meta == {"value": value}, f"meta {value!r} came back as {found.created.meta!r}"

    def test_instants_keep_their_microseconds_and_are_utc(self, store: Store) -> None:
        at = START + timedelta(days=200, microseconds=123_457)
        change = birth(new(run_at=at + timedelta(microseconds=1)), at=at)
        store.append(change)
        found = store.run(change.after.id)
        assert found == change.after, "instants came back changed"
        assert found.created_at.utcoffset() == timedelta(0), "instants have to come back in UTC"
        assert found.due_at == at + timedelta(microseconds=1), "a microsecond was lost"

    def test_a_stale_sequence_writes_nothing(self, store: Store) -> None:
        change = birth()
        store.append(change)
        first = decisions.advance(change.after, [RunCancelled("first")], START, SYSTEM)
        second = decisions.advance(change.after, [RunCancelled("second")], START, SYSTEM)
        assert store.append(first) == set(), "a step decided on the stored sequence must win"
        assert store.append(second) == {change.after.id}, "a step decided on a sequence that has passed must lose"
        assert store.run(change.after.id) == first.after, "the row was changed by a step that lost"
        assert store.history(change.after.id) == [*change.records, *first.records], "a step that lost left events"

    def test_only_the_losers_of_a_batch_are_left_out(self, store: Store) -> None:
        births = [birth() for _ in range(6)]
        store.append(*births)
        moved = [decisions.advance(one.after, [RunCancelled("before")], START, SYSTEM) for one in births[::2]]
        store.append(*moved)
        batch = [decisions.advance(one.after, [RunCancelled("batch")], START, SYSTEM) for one in births]
        lost = store.append(*batch, birth())
        assert lost == {one.after.id for one in births[::2]}, "exactly the runs that had moved lose"
        for n, (one, change) in enumerate(zip(births, batch, strict=True)):
            wanted = "batch" if n % 2 else "before"
            found = store.run(one.after.id)
            assert found.cancellation is not None, f"run {n} of the batch was not written: {found}"
            assert found.cancellation.reason == wanted, f"run {n} of the batch: {found}"
            assert found.sequence == change.after.sequence == len(store.history(found.id))

    def test_two_at_once_advance_a_run_once(self, store: Store) -> None:
        for _ in range(5):
            change = birth()
            store.append(change)
            steps = [decisions.advance(change.after, [RunCancelled(str(n))], START, SYSTEM) for n in range(4)]
            lost = together([lambda step=step: store.append(step) for step in steps])  # type: ignore[misc]
            assert lost.count(set()) == 1, f"of four steps decided on one sequence, {lost.count(set())} won"
            assert len(store.history(change.after.id)) == len(change.records) + 1

    def test_a_run_id_is_never_reused(self, store: Store) -> None:
        change, other = birth(), birth()
        store.append(change)
        with pytest.raises(StorageConflict) as caught:
            store.append(birth(run_id=change.after.id), other)
        assert caught.value.kind is ConflictKind.RUN_EXISTS, f"the kind must be run_exists, not {caught.value.kind}"
        assert store.history(change.after.id) == list(change.records)
        assert store.history(other.after.id) == [], "a transaction that failed left something"

    def test_a_transaction_that_raises_writes_nothing(self, store: Store) -> None:
        change = birth(new(idempotency_key="key"))

        def work(tx: Transaction) -> None:
            log.append_runs(tx, [change])
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.transact(work)
        assert store.history(change.after.id) == [], "a transaction that raised left events"
        assert store.append(birth(new(idempotency_key="key"))) == set(), "a transaction that raised kept its key"

    def test_a_callers_transaction_decides(self, store: Store) -> None:
        """Runs written inside a caller's own transaction exist if that commits, and only then."""
        database, changes = store.database, [birth(), birth()]
        for change, commits in zip(changes, (False, True), strict=True):
            with database.engine.connect() as connection, connection.begin() as own:
                log.append_runs(database.join(connection, store.clock), [change])
                if not commits:
                    own.rollback()
        assert store.history(changes[0].after.id) == [], "the caller rolled back, and the run is there"
        assert store.run(changes[1].after.id) == changes[1].after

    @pytest.mark.parametrize("how", ["update", "delete"])
    def test_history_cannot_be_changed(self, store: Store, how: str) -> None:
        change = birth()
        store.append(change)
        statement = update(tables.events).values(actor="operator:mallory") if how == "update" else delete(tables.events)
        with pytest.raises(RunlaneError):
            store.transact(lambda tx: tx.execute(statement))
        assert store.history(change.after.id) == list(change.records), f"{how} of events has to be refused"

    def test_positions_grow_in_the_order_of_commits(self, store: Store) -> None:
        for _ in range(3):
            store.append(birth(), birth())
        position = tables.events.c.position
        found = store.read(lambda tx: list(tx.execute(select(position).order_by(position)).scalars()))
        assert len(set(found)) == len(found) == 12, f"every event has a position of its own; found {found}"
        last = birth()
        store.append(last)
        newest = [record.position for record in store.read(lambda tx: streams.read_stream(tx, last.after.id))]
        assert all(n is not None and n > found[-1] for n in newest), "what is written later has a later position"

    def test_environments_are_apart(self, store: Store) -> None:
        change = birth()
        store.append(change)
        assert store.read(lambda tx: queries.get_run(tx, "elsewhere", change.after.id)) is None
        everything = queries.RunFilter()
        assert store.read(lambda tx: queries.count_by_status(tx, "elsewhere", everything)) == {}
        counted = store.read(lambda tx: queries.count_by_status(tx, ENVIRONMENT, everything))
        assert counted == {RunStatus.QUEUED: 1}, f"one run was queued; counted: {counted}"

    def test_faults_are_runlanes_own(self, store: Store) -> None:
        with pytest.raises(RunlaneError) as caught:
            store.read(lambda tx: tx.connection.exec_driver_sql("select no such thing"))
        assert isinstance(caught.value, InternalError), f"nonsense is an internal error, not {caught.value!r}"
        store.append(birth())  # and the storage goes on

    def test_time_goes_forward_and_is_utc(self, store: Store) -> None:
        with store.database.read() as tx:
            seen = [tx.now() for _ in range(3)]
        with store.database.write() as tx:
            seen.append(tx.now())
        assert seen == sorted(seen), f"the clock ran backwards: {seen}"
        assert all(now.utcoffset() == timedelta(0) for now in seen), f"the clock must be in UTC: {seen}"

    def test_an_injected_clock_replaces_the_storages(self, store: Store) -> None:
        assert store.transact(lambda tx: tx.now()) == START
        store.clock.advance(SECOND)
        assert store.read(lambda tx: tx.now()) == START + SECOND

    def test_migrating_twice_changes_nothing(self, store: Store) -> None:
        change = birth()
        store.append(change)
        versions = together([store.database.migrate] * 3)
        assert len(set(versions)) == 1, f"migrating again gave other versions: {versions}"
        store.database.check()
        assert store.run(change.after.id) == change.after, "migrating again lost a run"
