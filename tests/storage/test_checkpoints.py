"""Checkpoints: one chain of them seals the log, and what is changed behind them is found, however well it was done."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from runlane import (
    Actor,
    AsyncRunlane,
    ConfigurationInvalid,
    Difference,
    Runlane,
    SettableClock,
    StorageUnavailable,
    sealing,
)
from runlane.checkpoints import Checkpoint
from runlane.decisions import environment_stream
from runlane.events import LogCheckpointed, RunsPruned
from runlane.export.importing import import_events
from runlane.storage import checkpoints as stored_checkpoints
from runlane.storage import streams
from tests.engine.tasks import echo
from tests.keys import make_keys
from tests.storage.forging import Forged, rewrite, stream_of, unguard, write
from tests.support import at_once, database_of, execute

DAY = timedelta(days=1)
OWN = environment_stream("default")


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo], clock=clock) as made:
        yield made


@pytest.fixture
def shared(shared_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(shared_url, tasks=[echo], clock=clock) as made:
        yield made


def ended(app: Runlane, number: int = 1) -> list[UUID]:
    return [app.run_now(echo, n).run.id for n in range(number)]


def sealed(app: Runlane, **options: Any) -> Checkpoint:
    """A new checkpoint."""
    made = app.audit.checkpoint(**options)
    assert made.new
    assert made.checkpoint is not None
    return made.checkpoint


def keep(checkpoint: Checkpoint, folder: Path) -> Path:
    """A checkpoint where nobody can change it."""
    file = folder / f"{checkpoint.number}.json"
    file.write_bytes(checkpoint.dumps())
    return file


def own(app: Runlane) -> list[Any]:
    """The events of the environment's own stream."""
    with database_of(app).read() as tx:
        return [record.event for record in streams.read_stream(tx, OWN)]


def test_checkpoints_are_one_chain(app: Runlane, clock: SettableClock) -> None:
    ended(app, 3)
    one = sealed(app, actor=Actor.operator("ann"))
    assert (one.number, one.from_position, one.leaves, one.previous, one.key) == (1, 0, 3, None, None)
    (first,) = ended(app)
    two = sealed(app)
    assert (two.number, two.from_position, two.leaves, two.previous) == (2, one.to_position, 2, one.digest)
    assert two.to_position > one.to_position
    events = own(app)
    assert [event.root for event in events] == [one.root, two.root]
    assert [part.stream_id for part in events[1].parts] == [OWN, first]
    with database_of(app).read() as tx:
        records = streams.read_stream(tx, OWN)
    assert [str(record.actor) for record in records] == ["operator:ann", "application:app"]
    found = app.audit.verify()
    assert (found.differences, found.checkpoints, found.foreign_checkpoints) == ((), 2, 0)


def test_where_nothing_has_happened_no_checkpoint_is_made(app: Runlane) -> None:
    assert app.audit.checkpoint() == sealing.Checkpointed(None, False)
    ended(app)
    one = sealed(app)
    for _ in range(2):
        assert app.audit.checkpoint() == sealing.Checkpointed(one, False)
    assert len(own(app)) == 1


def test_each_environment_has_checkpoints_of_its_own(lane_url: str, app: Runlane, clock: SettableClock) -> None:
    ended(app)
    sealed(app)
    if lane_url == "memory:":
        return
    with Runlane(lane_url, tasks=[echo], environment="other", clock=clock) as other:
        assert not other.audit.checkpoint().new
        ended(other, 2)
        one = sealed(other)
        assert (one.environment, one.number, one.from_position, one.leaves) == ("other", 1, 0, 2)
        assert not app.audit.checkpoint().new
        assert other.audit.verify().identical
        assert app.audit.verify().identical


def test_a_prune_leaves_what_checkpoints_need(app: Runlane, clock: SettableClock) -> None:
    """Of runs within one stretch, of runs that lie in several, and of those that were never sealed."""
    (whole,) = ended(app)
    through = app.trigger(echo, 1).run.id
    sealed(app)
    app.execute_next()
    sealed(app)
    (behind,) = ended(app)
    clock.advance(DAY)
    assert app.runs.prune("1h", reason="old").runs == 3
    event = own(app)[-1]
    assert isinstance(event, RunsPruned)
    assert sorted((head.stream_id, head.sequence) for head in event.heads) == sorted(
        [(whole, 3), (through, 2), (through, 4), (behind, 3)]
    )
    assert app.audit.verify().differences == ()
    three = sealed(app)
    assert three.leaves == 2
    assert app.audit.verify().checkpoints == 3


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from(["trigger", "execute", "checkpoint", "checkpoint", "prune", "day"]), min_size=5, max_size=40
    ),
    st.integers(1, 3),
)
def test_whatever_happens_between_them_checkpoints_hold(does: list[str], limit: int) -> None:
    clock = SettableClock()
    acts: dict[str, Callable[[Runlane], object]] = {
        "trigger": lambda app: app.trigger(echo, 1),
        "execute": lambda app: app.execute_next(),
        "checkpoint": lambda app: app.audit.checkpoint(),
        "prune": lambda app: app.runs.prune("1h", limit=limit),
        "day": lambda app: clock.advance(DAY),
    }
    with Runlane("memory:", tasks=[echo], clock=clock) as app:
        for one in does:
            acts[one](app)
        found = app.audit.verify()
        assert found.differences == ()
        assert found.checkpoints == sum(isinstance(event, LogCheckpointed) for event in own(app))


def test_two_at_once_make_no_fork(shared_url: str, shared: Runlane, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[echo], clock=clock) as another:
        for number in range(1, 6):
            ended(shared, 2)
            made = at_once([app.audit.checkpoint for app in (shared, another, shared)])
            assert sum(one.new for one in made) >= 1
            assert len({one.checkpoint.number for one in made if one.checkpoint is not None and one.new}) == sum(
                one.new for one in made
            )
            assert number <= len(own(shared))
        assert shared.audit.verify().differences == ()


@pytest.mark.parametrize("freely", [0, 2])
def test_one_against_triggers_and_prunes(
    shared_url: str, shared: Runlane, clock: SettableClock, monkeypatch: pytest.MonkeyPatch, freely: int
) -> None:
    monkeypatch.setattr(sealing, "_FREELY", freely)
    with Runlane(shared_url, tasks=[echo], clock=clock) as another:
        ended(shared, 30)
        clock.advance(DAY)

        def prune() -> None:
            for _ in range(10):
                another.runs.prune(clock(), limit=4)
                another.run_now(echo, 1)

        def seal() -> None:
            for _ in range(6):
                shared.audit.checkpoint()

        at_once([prune, seal])
        shared.audit.checkpoint()
        found = shared.audit.verify()
        assert found.differences == ()
        assert found.checkpoints >= 1


def test_what_happens_between_reading_and_appending_is_not_passed_over(app: Runlane, clock: SettableClock) -> None:
    """A prune between both would take along what the checkpoint after this one has to know."""
    app.trigger(echo, 1)
    sealer = sealing.Sealer(app.audit._runtime, None, Actor.operator("ann"), 5.0)
    settled = sealer._settled()
    with database_of(app).snapshot() as tx:
        drawn = stored_checkpoints.draw(tx, "default", settled)
    assert (drawn.is_new, drawn.is_whole) == (True, True)
    app.execute_next()
    clock.advance(DAY)
    assert app.runs.prune("1h").runs == 1
    assert app.audit._runtime.transact(lambda tx: sealer._append(drawn, tx)) is None
    with database_of(app).snapshot() as tx:
        late = stored_checkpoints.draw(tx, "default", settled)
    assert not late.is_whole, "that the run had an event before it is not told"
    assert sealer._while_others_go_on(settled) is None
    assert sealed(app).leaves == 2
    assert app.audit.verify().differences == ()


def test_what_is_not_settled_is_waited_for(postgres_url: str, clock: SettableClock) -> None:
    with Runlane(postgres_url, tasks=[echo], clock=clock) as app:
        ended(app)
        with database_of(app).engine.connect() as connection, connection.begin():
            open_run = app.trigger(echo, 1, connection=connection).run
            with pytest.raises(StorageUnavailable, match="is still open in the server"):
                app.audit.checkpoint(timeout=0)
        assert [part.stream_id for part in own_parts(app)][-1] == open_run.id
        assert app.audit.verify().identical


def own_parts(app: Runlane) -> tuple[Any, ...]:
    sealed(app)
    return tuple(own(app)[-1].parts)


@pytest.mark.parametrize("timeout", [-1, "5s", float("nan"), None])
def test_a_timeout_that_is_none_is_refused(app: Runlane, timeout: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="timeout must be a number of seconds"):
        app.audit.checkpoint(timeout=timeout)


def test_the_async_face(lane_url: str, clock: SettableClock, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo], clock=clock) as app:
            await app.run_now(echo, 1)
            made = await app.audit.checkpoint()
            assert made.checkpoint is not None
            found = await app.audit.verify(checkpoints=[keep(made.checkpoint, tmp_path)])
            assert (found.identical, found.checkpoints) == (True, 1)

    asyncio.run(main())


# What is done to the log, and how it is found.


def fields(found: tuple[Difference, ...]) -> list[tuple[UUID, int, str]]:
    return [(one.stream_id, one.sequence, one.field) for one in found]


def test_a_run_that_was_deleted_as_a_whole_is_named(shared: Runlane) -> None:
    _, gone, _ = ended(shared, 3)
    sealed(shared)
    unguard(shared)
    execute(database_of(shared), f"delete from {{events}} where stream_id = '{gone}'")
    execute(database_of(shared), f"delete from {{runs}} where id = '{gone}'")
    (found,) = shared.audit.verify().differences
    assert fields((found,)) == [(gone, 3, "checkpoint 1")]
    assert found.stored == "absent"
    assert found.folded.startswith("event 3 at position ")


def test_a_run_that_was_put_in_is_named(shared: Runlane) -> None:
    first, second = ended(shared, 2)
    sealed(shared)
    unguard(shared)
    execute(database_of(shared), f"delete from {{events}} where stream_id = '{first}'")
    execute(database_of(shared), f"delete from {{runs}} where id = '{first}'")
    invented = uuid4()
    execute(database_of(shared), f"update {{events}} set stream_id = '{invented}' where stream_id = '{second}'")
    execute(database_of(shared), f"update {{runs}} set id = '{invented}' where id = '{second}'")
    rewrite(shared, invented, lambda events: None)
    found = shared.audit.verify().differences
    assert fields(found) == [
        (first, 3, "checkpoint 1"),
        (second, 3, "checkpoint 1"),
        (invented, 3, "checkpoint 1"),
    ]
    assert found[2].folded == "absent"


def test_an_event_written_again_with_all_digests_behind_it_is_named(shared: Runlane) -> None:
    _, forged, _ = ended(shared, 3)
    sealed(shared)
    unguard(shared)

    def change(events: list[Forged]) -> None:
        events[0].data = events[0].data.replace('"payload":1', '"payload":7')

    rewrite(shared, forged, change)
    assert shared.runs.get(forged).payload == 7
    (found,) = shared.audit.verify().differences
    assert fields((found,)) == [(forged, 3, "checkpoint 1")]
    assert "with another digest" in found.folded


def test_runs_that_changed_places_are_named(shared: Runlane) -> None:
    one, other = ended(shared, 2)
    sealed(shared)
    unguard(shared)
    ids = [(one, UUID(int=1)), (other, one), (UUID(int=1), other)]
    for old, new in ids:
        execute(database_of(shared), f"update {{events}} set stream_id = '{new}' where stream_id = '{old}'")
    for run in (one, other):
        rewrite(shared, run, lambda events: None)
    found = shared.audit.verify().differences
    assert {(difference.stream_id, difference.field) for difference in found} == {
        (one, "checkpoint 1"),
        (other, "checkpoint 1"),
    }


def test_the_cut_off_tail_of_the_environments_stream_is_found(
    shared: Runlane, clock: SettableClock, tmp_path: Path
) -> None:
    """By the checkpoint that is left, where what it needs is cut off too, and by the one kept elsewhere."""
    (pruned,) = ended(shared)
    sealed(shared)
    clock.advance(DAY)
    shared.runs.prune("1h")
    file = keep(sealed(shared), tmp_path)
    assert shared.audit.verify(checkpoints=[file]).identical
    unguard(shared)
    execute(database_of(shared), f"delete from {{events}} where stream_id = '{OWN}' and sequence > 1")
    assert fields(shared.audit.verify().differences) == [(pruned, 3, "checkpoint 1")]
    found = shared.audit.verify(checkpoints=[file]).differences
    assert fields(found) == [(pruned, 3, "checkpoint 1"), (OWN, 1, "checkpoint 2")]
    assert (found[1].stored, found[1].folded) == ("absent", f"as kept in {file}")


def test_all_checkpoints_cut_off_are_found_by_the_kept_one(shared: Runlane, tmp_path: Path) -> None:
    ended(shared)
    file = keep(sealed(shared), tmp_path)
    unguard(shared)
    execute(database_of(shared), f"delete from {{events}} where stream_id = '{OWN}'")
    assert shared.audit.verify().identical, "nothing in the database itself tells of it"
    assert fields(shared.audit.verify(checkpoints=[file]).differences) == [(OWN, 0, "checkpoint 1")]


def edit_root(events: list[Forged]) -> None:
    """As somebody does who has changed the log, and wants the checkpoint to fit."""
    events[0].data = events[0].data.replace('"root":"', '"root":"0', 1)


def test_an_edited_checkpoint_is_found_by_its_digest(shared: Runlane) -> None:
    ended(shared)
    sealed(shared)
    unguard(shared)
    execute(database_of(shared), f"update {{events}} set actor = 'operator:eve' where stream_id = '{OWN}'")
    (found,) = shared.audit.verify().differences
    assert fields((found,)) == [(OWN, 1, "digest")]


def test_an_edited_checkpoint_with_right_digests_is_found(shared: Runlane, tmp_path: Path) -> None:
    """By its parts, by the checkpoint behind it, and by the one kept elsewhere."""
    ended(shared)
    file = keep(sealed(shared), tmp_path)
    ended(shared)
    sealed(shared)
    unguard(shared)

    def change(events: list[Forged]) -> None:
        events[0].actor = "operator:eve"

    rewrite(shared, OWN, change)
    found = shared.audit.verify().differences
    assert fields(found) == [(OWN, 2, "checkpoint 2"), (OWN, 1, "checkpoint 2")]
    assert found[0].stored.startswith("behind ")
    assert "with another digest" in found[1].folded
    kept = shared.audit.verify(checkpoints=[file]).differences
    assert fields(kept)[0] == (OWN, 1, "checkpoint 1")
    assert kept[0].folded.endswith(f"as kept in {file}")
    rewrite(shared, OWN, edit_root)
    assert any(one.folded.endswith("as its parts make it") for one in shared.audit.verify().differences)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"number":2', '"number":3', "number 2"),
        ('"from_position":3', '"from_position":2', "from position 3"),
        ('"to_position":7', '"to_position":99', "behind 99, which it sealed"),
        ('"leaves":2', '"leaves":1', "1 streams"),
        ('"leaves"', '"heaves"', "a readable checkpoint"),
    ],
)
def test_each_fact_of_a_checkpoint_is_checked(app: Runlane, old: str, new: str, says: str) -> None:
    ended(app)
    sealed(app)
    ended(app)
    sealed(app)
    unguard(app)

    def change(events: list[Forged]) -> None:
        assert old in events[1].data
        events[1].data = events[1].data.replace(old, new)

    rewrite(app, OWN, change)
    assert any(says in str(one.folded) for one in app.audit.verify().differences)


def test_a_whole_log_written_anew_is_found_by_the_signature(shared: Runlane, tmp_path: Path) -> None:
    """Whoever owns the database can make checkpoints that fit; he cannot sign them."""
    private, public = make_keys(tmp_path)
    _, other = make_keys(tmp_path, "other")
    ended(shared)
    one = sealed(shared, sign=private)
    assert one.key is not None
    assert shared.audit.verify(key=public).identical
    assert shared.audit.verify(key=[other, public]).identical
    (found,) = shared.audit.verify(key=other).differences
    assert found.stored == f"signed with another key, {one.key}"
    unguard(shared)

    def change(events: list[Forged]) -> None:
        events[0].data = events[0].data.replace(f'"leaves":{one.leaves}', f'"leaves":{one.leaves + 1}')

    rewrite(shared, OWN, change)
    assert "a signature that is not of this key" in [one.stored for one in shared.audit.verify(key=public).differences]
    ended(shared)
    sealed(shared)
    assert "not signed" in [one.stored for one in shared.audit.verify(key=public).differences]


def test_no_history_that_was_sealed_can_be_written_anew(clock: SettableClock) -> None:
    """Sixty events at random, of every kind of stream, each changed as well as anybody could."""
    with Runlane("memory:", tasks=[echo], clock=clock) as app:
        ended(app, 8)
        app.queues.pause("default")
        app.queues.resume("default")
        app.trigger(echo, 1, idempotency_key="k")
        app.execute_next()
        app.idempotency_keys.reset(echo, "k")
        clock.advance(DAY)
        app.runs.prune("1h", limit=2)
        app.run_now(echo, 9)
        sealed(app)
        ended(app)
        sealed(app)
        unguard(app)
        rows = execute(database_of(app), "select stream_id, sequence from {events} where position <= 29")
        rng = Random(7)
        for stream, sequence in (rng.choice(rows) for _ in range(60)):
            id, column = UUID(stream), rng.choice(("actor", "data", "occurred_at"))
            whole = stream_of(app, id)

            def change(events: list[Forged], at: int = sequence - 1, column: str = column) -> None:
                one = events[at]
                changed = {"actor": "operator:eve", "occurred_at": one.occurred_at - DAY, "data": one.data + " "}
                setattr(one, column, changed[column])

            rewrite(app, id, change)
            found = app.audit.verify().differences
            assert any(one.field.startswith("checkpoint") for one in found), (stream, sequence, column)
            write(app, whole)
            assert app.audit.verify().identical


def test_an_old_backup_is_found_by_the_checkpoint_that_was_kept(
    request: pytest.FixtureRequest, clock: SettableClock, tmp_path: Path
) -> None:
    """On SQLite a copy of the file, on PostgreSQL one of the database."""
    postgres = request.getfixturevalue("postgres")
    live = postgres.migrated()
    for url in (f"sqlite:///{tmp_path / 'live.db'}", live):
        with Runlane(url, tasks=[echo], clock=clock) as app:
            ended(app)
            early = keep(sealed(app), tmp_path)
        if url == live:
            old = postgres._create(make_url(url).database)
        else:
            shutil.copy(tmp_path / "live.db", tmp_path / "old.db")
            old = f"sqlite:///{tmp_path / 'old.db'}"
        with Runlane(url, tasks=[echo], clock=clock) as app:
            ended(app)
            late = keep(sealed(app), tmp_path)
            assert app.audit.verify(checkpoints=[early, late]).checkpoints == 2
        with Runlane(old, tasks=[echo], clock=clock) as app:
            assert app.audit.verify().identical
            (found,) = app.audit.verify(checkpoints=[early, late]).differences
            assert fields((found,)) == [(OWN, 1, "checkpoint 2")]
            ended(app)
            sealed(app)
            (found,) = app.audit.verify(checkpoints=[early, late]).differences
            assert fields((found,)) == [(OWN, 2, "checkpoint 2")], "another second checkpoint"
    postgres.drop(old)
    postgres.drop(live)


def test_of_many_streams_the_stretch_is_named(app: Runlane) -> None:
    runs = [result.run.id for result in app.trigger_many(echo, range(150))]
    one = sealed(app)
    assert len(own(app)[0].parts) == 38
    unguard(app)
    execute(database_of(app), f"delete from {{events}} where stream_id = '{runs[70]}'")
    execute(database_of(app), f"delete from {{runs}} where id = '{runs[70]}'")
    (found,) = app.audit.verify().differences
    assert found.field == "checkpoint 1"
    assert found.stored.startswith("3 last events of positions ")
    assert one.leaves == 150


def test_since_reads_only_what_was_sealed_since(app: Runlane, clock: SettableClock) -> None:
    (forged,) = ended(app)
    sealed(app)
    clock.advance(DAY)
    since = clock()
    ended(app)
    sealed(app)
    unguard(app)
    rewrite(app, forged, lambda events: setattr(events[0], "actor", "operator:eve"))
    found = app.audit.verify(since=since)
    assert (found.differences, found.checkpoints) == ((), 1)
    assert fields(app.audit.verify().differences) == [(forged, 3, "checkpoint 1")]


def test_bad_evidence_is_one_clear_error(app: Runlane, tmp_path: Path) -> None:
    (run,) = ended(app)
    one = sealed(app)
    file, other = keep(one, tmp_path), keep(evolve(one, environment="other", number=7), tmp_path)
    with pytest.raises(ConfigurationInvalid, match="checkpoints are of the whole log"):
        app.audit.verify(run, checkpoints=[file])
    with pytest.raises(ConfigurationInvalid, match="of environment 'other', not 'default'"):
        app.audit.verify(checkpoints=[other])
    with pytest.raises(ConfigurationInvalid, match="must be a list of files"):
        app.audit.verify(checkpoints=str(file))
    with pytest.raises(ConfigurationInvalid, match="cannot be read"):
        app.audit.verify(key=tmp_path / "missing.pub")
    with pytest.raises(ConfigurationInvalid, match="cannot be read"):
        app.audit.checkpoint(sign=tmp_path / "missing.pem")
    assert len(own(app)) == 1


def test_checkpoints_that_came_with_an_import_are_told_apart(
    shared: Runlane, clock: SettableClock, tmp_path: Path
) -> None:
    """Positions are those of the log they were made in: in the other one they lie amid a run."""
    shared.trigger_many(echo, [1, 2])
    shared.execute_next()
    file = keep(sealed(shared), tmp_path)
    shared.execute_next()
    shared.audit.export(tmp_path / "log.jsonl")
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    import_events(tmp_path / "log.jsonl", url)
    with Runlane(url, tasks=[echo], clock=clock) as copy:
        found = copy.audit.verify()
        assert (found.differences, found.checkpoints, found.foreign_checkpoints) == ((), 0, 1)
        assert not copy.audit.verify(checkpoints=[file]).identical
        ended(copy)
        assert sealed(copy).from_position == 0
        found = copy.audit.verify()
        assert (found.differences, found.checkpoints, found.foreign_checkpoints) == ((), 1, 1)
        clock.advance(DAY)
        assert copy.runs.prune("1h").runs == 3
        assert len(own(copy)[-1].heads) == 3
        assert copy.audit.verify().differences == ()


@pytest.mark.parametrize("later", [0, 40])
def test_what_was_pruned_before_an_import_is_no_part_of_checkpoints_behind_it(
    shared: Runlane, clock: SettableClock, tmp_path: Path, request: pytest.FixtureRequest, later: int
) -> None:
    """Its last events had positions of the other log: here they lie behind the end, or amid other events."""
    ended(shared)
    shared.trigger_many(echo, [1, 2, 3])
    shared.worker(mode="drain").run()
    clock.advance(DAY)
    assert [shared.runs.prune("1h", limit=most).runs for most in (1, 2)] == [1, 2]
    unguard(shared)
    rewrite(shared, OWN, _without_epoch)
    shared.trigger_many(echo, list(range(later)))
    shared.audit.export(tmp_path / "log.jsonl")
    url = another(shared, tmp_path, request)
    import_events(tmp_path / "log.jsonl", url)
    with Runlane(url, tasks=[echo], clock=clock) as copy:
        left = copy.audit.verify()
        assert sealed(copy).leaves == left.runs + 1
        ended(copy)
        clock.advance(DAY)
        assert copy.runs.prune("1h", limit=2).runs == 2
        (run,) = ended(copy)
        sealed(copy)
        found = copy.audit.verify()
        assert (found.differences, found.checkpoints) == ((), 2)
        assert copy.audit.prove(run).checkpoint.number == 2
        copy.audit.export(tmp_path / "again.jsonl")
    url = f"sqlite:///{tmp_path / 'third.db'}"
    import_events(tmp_path / "again.jsonl", url)
    with Runlane(url, tasks=[echo], clock=clock) as third:
        assert sealed(third).number == 3
        found = third.audit.verify()
        assert (found.differences, found.checkpoints, found.foreign_checkpoints) == ((), 1, 2)


def _without_epoch(events: list[Forged]) -> None:
    """As the first prune would be if an older version had told of it."""
    data = orjson.loads(events[0].data)
    del data["epoch"]
    events[0].data = orjson.dumps(data).decode()


def another(app: Runlane, folder: Path, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of the same kind."""
    if database_of(app).schema is None:
        return f"sqlite:///{folder / 'another.db'}"
    url: str = request.getfixturevalue("postgres").empty()
    return url
