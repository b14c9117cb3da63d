"""The append contract: guarded by the sequence, whole batches at once, losers reported and nothing of them written."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from runlane.decisions import Change
from runlane.errors import ConflictKind, InternalError, StorageConflict
from runlane.events import RunCancelled, RunDeliveryRequested, RunLeased
from runlane.projections import runs as fold
from runlane.storage import claims, log, queries, replay, streams
from runlane.storage.database import Database
from runlane.values import new_run_id
from tests.support import START, at_once, birth, count, execute, step


def append(database: Database, *changes: Change) -> set[UUID]:
    with database.write() as tx:
        return log.append_runs(tx, changes)


def sequences(database: Database, run_id: UUID) -> list[int]:
    with database.read() as tx:
        return [record.sequence for record in streams.read_stream(tx, run_id)]


def assert_replays(database: Database) -> None:
    with database.snapshot() as tx:
        assert replay.verify(tx, None, None).differences == ()


def test_a_birth_stores_its_events_and_the_folded_run(database: Database) -> None:
    change = birth(priority=7)
    assert append(database, change) == set()
    with database.read() as tx:
        assert queries.get_run(tx, "default", change.after.id) == change.after
        read = streams.read_stream(tx, change.after.id)
    assert fold.replay(read) == change.after
    assert [record.event for record in read] == [record.event for record in change.records]
    assert all(record.position is not None for record in read)


def test_a_step_moves_the_stored_run_to_what_the_fold_says(database: Database) -> None:
    born = birth()
    append(database, born)
    moved = step(born.after, RunLeased(uuid4(), "w", 1))
    assert append(database, moved) == set()
    with database.read() as tx:
        assert queries.get_run(tx, "default", born.after.id) == moved.after
    assert sequences(database, born.after.id) == [1, 2, 3]


def test_a_stale_sequence_is_reported_and_writes_nothing(database: Database) -> None:
    born = birth()
    append(database, born)
    winner = step(born.after, RunLeased(uuid4(), "winner", 1))
    loser = step(born.after, RunLeased(uuid4(), "loser", 1))
    append(database, winner)
    before = count(database, "events")
    assert append(database, loser) == {born.after.id}
    assert count(database, "events") == before
    with database.read() as tx:
        assert queries.get_run(tx, "default", born.after.id) == winner.after


def test_the_others_of_a_batch_commit_when_some_are_stale(database: Database) -> None:
    born = [birth() for _ in range(6)]
    append(database, *born)
    stale = born[::2]
    append(database, *(step(change.after, RunDeliveryRequested()) for change in stale))
    lost = append(database, *(step(change.after, RunCancelled("batch")) for change in born))
    assert lost == {change.after.id for change in stale}
    for change in born:
        length = 3
        assert sequences(database, change.after.id) == list(range(1, length + 1))
        with database.read() as tx:
            run = queries.get_run(tx, "default", change.after.id)
        assert run is not None
        assert run.is_terminal is (change.after.id not in lost)
    assert_replays(database)


def test_a_step_of_a_run_that_is_not_stored_loses(database: Database) -> None:
    ghost = birth().after
    assert append(database, step(ghost, RunCancelled(None))) == {ghost.id}
    assert count(database, "events") == 0


def test_a_run_id_is_never_reused(database: Database) -> None:
    first = birth("first")
    append(database, first)
    with pytest.raises(StorageConflict) as caught:
        append(database, birth("second", run_id=first.after.id))
    assert caught.value.kind is ConflictKind.RUN_EXISTS
    assert not caught.value.retryable
    with database.read() as tx:
        assert queries.get_run(tx, "default", first.after.id) == first.after


def test_a_run_id_of_another_environment_is_not_reused_either(database: Database) -> None:
    first = birth(environment="one")
    append(database, first)
    with pytest.raises(StorageConflict) as caught:
        append(database, birth(environment="two", run_id=first.after.id))
    assert caught.value.kind is ConflictKind.RUN_EXISTS


def test_one_existing_id_takes_back_the_whole_transaction_and_nothing_of_it_stays(database: Database) -> None:
    taken = birth()
    append(database, taken)
    before = count(database, "events"), count(database, "runs"), count(database, "idempotency_keys")
    with pytest.raises(StorageConflict):
        append(database, birth(key="k"), birth(run_id=taken.after.id), birth())
    assert (count(database, "events"), count(database, "runs"), count(database, "idempotency_keys")) == before
    assert append(database, birth(key="k")) == set()


def test_one_id_twice_in_a_batch_is_refused(database: Database) -> None:
    twice = new_run_id()
    with pytest.raises(StorageConflict) as caught:
        append(database, birth(run_id=twice), birth(run_id=twice))
    assert caught.value.kind is ConflictKind.RUN_EXISTS
    assert count(database, "events") == 0


def test_a_batch_of_many_independent_runs_is_one_step(database: Database) -> None:
    born = [birth(queue=f"q{n % 3}", priority=n % 5, key=f"k{n}" if n % 2 else None) for n in range(1000)]
    assert append(database, *born) == set()
    session = uuid4()
    assert append(database, *(step(change.after, RunLeased(session, "w", 1)) for change in born)) == set()
    assert (count(database, "runs"), count(database, "events")) == (1000, 3000)
    assert_replays(database)


def test_an_empty_batch_writes_nothing(database: Database) -> None:
    assert append(database) == set()
    assert count(database, "events") == 0


def test_a_birth_with_an_owned_key_loses_and_the_rest_of_its_batch_does_not(database: Database) -> None:
    owner = birth(key="k")
    append(database, owner)
    late, free = birth(key="k"), birth(key="free")
    assert append(database, late, free) == {late.after.id}
    assert sequences(database, late.after.id) == []
    assert sequences(database, free.after.id) == [1, 2]


def test_the_same_key_is_free_for_another_task_and_another_environment(database: Database) -> None:
    assert append(database, birth("a", key="k"), birth("b", key="k"), birth("a", key="k", environment="e")) == set()


def test_a_key_is_taken_over_only_from_the_owner_that_was_seen(database: Database) -> None:
    owner, heir, late = birth(key="k"), birth(key="k"), birth(key="k")
    append(database, owner)
    with database.write() as tx:
        assert log.take_over_key(tx, heir, owner.after.id)
    with database.write() as tx:
        assert not log.take_over_key(tx, late, owner.after.id)
    assert sequences(database, heir.after.id) == [1, 2]
    assert sequences(database, late.after.id) == []


def test_an_exception_within_the_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as tx:
            log.append_runs(tx, [birth(key="k")])
            raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        fail()
    assert (count(database, "events"), count(database, "runs"), count(database, "idempotency_keys")) == (0, 0, 0)


def test_of_many_writers_on_one_sequence_exactly_one_wins(shared: Database) -> None:
    born = birth()
    append(shared, born)
    rivals = [step(born.after, RunLeased(uuid4(), f"w{n}", 1)) for n in range(8)]
    lost = at_once([lambda rival=rival: append(shared, rival) for rival in rivals])
    assert sorted(len(one) for one in lost) == [0] + [1] * 7
    winner = rivals[next(n for n, one in enumerate(lost) if not one)]
    with shared.read() as tx:
        assert queries.get_run(tx, "default", born.after.id) == winner.after
    assert sequences(shared, born.after.id) == [1, 2, 3]


def test_writers_of_crossing_batches_do_not_deadlock_and_every_run_has_one_winner(shared: Database) -> None:
    born = [birth() for _ in range(40)]
    append(shared, *born)

    def rival(n: int) -> set[UUID]:
        ordered = born[n * 5 :] + born[: n * 5]
        changes = [step(change.after, RunLeased(uuid4(), f"w{n}", 1)) for change in ordered]
        return shared.transact(lambda tx: log.append_runs(tx, changes))

    lost = at_once([lambda n=n: rival(n) for n in range(6)])
    for change in born:
        assert sum(change.after.id not in one for one in lost) == 1
    assert_replays(shared)


def test_the_database_itself_refuses_a_second_event_of_one_sequence(database: Database) -> None:
    born = birth()
    append(database, born)
    again = (
        "insert into {events} (stream_id, sequence, type, version, occurred_at, environment, actor, data, digest)"
        " select stream_id, sequence, type, version, occurred_at, environment, actor, data, digest from {events}"
    )
    with pytest.raises(Exception, match=r"(?i)unique|append-only"):
        execute(database, again)
    assert sequences(database, born.after.id) == [1, 2]


@pytest.mark.parametrize(
    "change",
    ["status = 'running'", "status = 'succeeded'", "due_at = null"],
)
def test_the_database_refuses_rows_that_no_run_can_be(database: Database, change: str) -> None:
    append(database, birth())
    with pytest.raises(Exception, match=r"(?i)check constraint"):
        execute(database, f"update {{runs}} set {change}")


def test_locked_runs_come_with_their_result_and_payload(database: Database) -> None:
    first, second = birth(), birth(at=START)
    append(database, first, second)
    with database.write() as tx:
        locked = claims.lock_runs(tx, [second.after.id, uuid4(), first.after.id])
    assert locked == sorted([first.after, second.after], key=lambda run: run.id)


def test_a_non_unique_integrity_error_is_not_called_an_existing_run(database: Database) -> None:
    """A refused check constraint is a bug, and must not be reported as somebody's reused id."""
    execute(
        database,
        "alter table {runs} add constraint no_such_task check (task_id <> 'refused')"
        if database.schema is not None
        else "create trigger no_such_task before insert on runs when new.task_id = 'refused'"
        " begin select raise(abort, 'refused'); end",
    )
    with pytest.raises(InternalError):
        append(database, birth("refused"))
