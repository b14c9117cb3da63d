"""Runs that differ by their ids and payloads alone are born in one statement, as if each had been folded."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.adapt import AdaptersMap, PyFormat
from psycopg.postgres import register_default_adapters

from runlane.engine.trigger import NewRun, are_alike, birth, trigger, trigger_alike
from runlane.errors import ConflictKind, StorageConflict
from runlane.events import RunCreated
from runlane.storage import queries, replay, streams
from runlane.storage.database import Database
from runlane.storage.postgres_batches import (
    Instants,
    Integers,
    OptionalTexts,
    OptionalUuids,
    Smallints,
    Texts,
    Uuids,
)
from runlane.values import APPLICATION, Actor, Source, SourceType, new_run_id
from tests.strategies import identifiers, json_objects, json_values, text
from tests.support import START, count, database_at


@pytest.fixture(scope="module")
def stored(postgres: Any) -> Iterator[Database]:
    url = postgres.migrated()
    with database_at(url) as database:
        yield database
    postgres.drop(url)


def alike(mould: RunCreated, payloads: list[Any], actor: Actor = APPLICATION, deliver: bool = True) -> list[NewRun]:
    return [
        NewRun(new_run_id(), evolve(mould, payload=payload), actor, deliver=deliver, own_id=True, mould=mould)
        for payload in payloads
    ]


moulds = st.builds(
    RunCreated,
    task_id=identifiers,
    queue=identifiers,
    payload=st.none(),
    source=st.builds(Source, st.just(SourceType.TRIGGER), parent_run_id=st.none() | st.uuids()),
    priority=st.integers(-100, 100),
    concurrency_key=st.none() | identifiers,
    correlation_id=st.none() | text,
    trace_carrier=st.none() | st.dictionaries(text, text, max_size=2),
    meta=st.none() | json_objects,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moulds,
    st.lists(json_values, min_size=1, max_size=4),
    st.sampled_from([APPLICATION, Actor.operator("ann")]),
    st.booleans(),
    st.none() | st.just(START),
)
def test_each_is_what_the_fold_makes_of_its_events(
    stored: Database, mould: RunCreated, payloads: list[Any], actor: Actor, deliver: bool, now: datetime | None
) -> None:
    wanted = alike(mould, payloads, actor, deliver)
    assert are_alike(wanted)
    with stored.write(None if now is None else lambda: now) as tx:
        made = [one.run for one in trigger_alike(tx, "default", wanted)]
    with stored.read() as tx:
        assert queries.get_runs(tx, [run.id for run in made]) == {run.id: run for run in made}
        for new, run in zip(wanted, made, strict=True):
            expected = birth(new, "default", run.created_at)
            assert run == expected.after
            records = streams.read_stream(tx, run.id)
            assert [evolve(record, position=None) for record in records] == list(expected.records)
            positions = [record.position or 0 for record in records]
            assert positions == sorted(positions)
    moments = {run.created_at for run in made}
    assert len(moments) == 1
    assert moments == {now} or (now is None and datetime.now(UTC) - moments.pop() < timedelta(minutes=1))


def test_the_log_has_them_in_the_order_of_the_requests(stored: Database) -> None:
    wanted = alike(RunCreated("work", "default", None), list(range(50)))
    with stored.write() as tx:
        trigger_alike(tx, "default", wanted)
    with stored.snapshot() as tx:
        births = [streams.read_stream(tx, new.id)[0].position or 0 for new in wanted]
        assert births == sorted(births)
        assert replay.verify(tx, None, None).differences == ()


def test_all_of_a_statement_are_born_at_one_moment(stored: Database) -> None:
    with stored.write() as tx:
        made = trigger_alike(tx, "default", alike(RunCreated("work", "default", None), list(range(1000))))
        told = tx.connection.exec_driver_sql(
            "select count(distinct occurred_at), min(occurred_at) from runlane.events where stream_id = any(%s)",
            ([one.run.id for one in made],),
        ).one()
    assert tuple(told) == (1, made[0].run.created_at)


def test_an_id_that_exists_refuses_all_of_them(stored: Database) -> None:
    first, second = alike(RunCreated("work", "default", None), [1, 2])
    with stored.write() as tx:
        trigger_alike(tx, "default", [first])
    before = count(stored, "events")
    with pytest.raises(StorageConflict) as refused, stored.write() as tx:
        trigger_alike(tx, "default", [second, first])
    assert refused.value.kind is ConflictKind.RUN_EXISTS
    assert count(stored, "events") == before


def test_no_payload_outlives_its_trigger(stored: Database) -> None:
    class Kept(str):
        """Text of which it can be told whether somebody has it still."""

    mould = RunCreated("work", "default", None)
    [plain] = alike(mould, [Kept("of a mould")])
    alone = evolve(alike(mould, [Kept("alone")])[0], mould=None)
    payloads = [weakref.ref(new.created.payload) for new in (plain, alone)]
    with stored.write() as tx:
        for new in (plain, alone):
            trigger_alike(tx, "default", [new])
    del plain, alone, new, tx
    gc.collect()
    assert [payload() for payload in payloads] == [None, None]


def test_only_what_can_be_folded_as_one_is_alike() -> None:
    mould, other = RunCreated("work", "default", None), RunCreated("work", "default", None)
    one, two = alike(mould, [1, 2])
    [stranger] = alike(other, [3])
    assert are_alike([one, two])
    assert not are_alike([one, stranger])
    alone = [
        evolve(one, mould=None),
        evolve(one, created=evolve(mould, idempotency_key="k")),
        evolve(one, created=evolve(mould, singleton_key="k")),
        evolve(one, created=evolve(mould, run_at=START)),
        evolve(one, delay=timedelta(seconds=1)),
        evolve(one, own_id=False),
    ]
    assert [are_alike([new]) for new in alone] == [True, False, False, False, False, False]
    assert not are_alike([alone[0], alone[0]])


def test_a_mixed_batch_is_born_one_by_one(stored: Database) -> None:
    wanted = alike(RunCreated("work", "default", None), [1]) + alike(
        RunCreated("rest", "default", None, priority=3), [2]
    )
    with stored.write() as tx:
        made = [one.run for one in trigger(tx, "default", wanted)]
    assert [(run.task_id, run.payload, run.priority) for run in made] == [("work", 1, 0), ("rest", 2, 3)]


@given(st.lists(st.uuids(), max_size=5), st.lists(text, max_size=5))
def test_packed_arrays_arrive_as_they_were(postgres_server_url: str, ids: list[UUID], texts: list[str]) -> None:
    with psycopg.connect(postgres_server_url) as connection:
        found = connection.execute("select %b::uuid[], %b::text[]", (Uuids(ids), Texts(texts))).fetchone()
    assert found == (ids, texts)


@given(
    st.lists(st.none() | st.uuids(), max_size=4),
    st.lists(st.none() | text, max_size=4),
    st.lists(st.none() | st.integers(-(2**15), 2**15 - 1), max_size=4),
    st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=4),
    st.lists(st.none() | st.datetimes(timezones=st.just(UTC)), max_size=4),
)
def test_packed_arrays_of_which_some_elements_are_missing_arrive_too(
    postgres_server_url: str, ids: list[Any], texts: list[Any], small: list[Any], whole: list[Any], moments: list[Any]
) -> None:
    given = (OptionalUuids(ids), OptionalTexts(texts), Smallints(small), Integers(whole), Instants(moments))
    select = "select %b::uuid[], %b::text[], %b::smallint[], %b::int[], %b::timestamptz[]"
    with psycopg.connect(postgres_server_url, options="-c timezone=UTC") as connection:
        assert connection.execute(select, given).fetchone() == (ids, texts, small, whole, moments)


def test_a_connection_from_before_the_driver_was_taught_sends_them_too(postgres_server_url: str) -> None:
    untaught = AdaptersMap(types=psycopg.adapters.types)
    register_default_adapters(untaught)
    ids, texts = [new_run_id(), new_run_id()], ["a", "é"]
    with psycopg.connect(
        postgres_server_url, context=SimpleNamespace(adapters=untaught, connection=None)
    ) as connection:
        assert connection.adapters.get_dumper(Uuids, PyFormat.BINARY) is not psycopg.adapters.get_dumper(
            Uuids, PyFormat.BINARY
        )
        found = connection.execute(
            "select * from unnest(%b::uuid[], %b::text[])", (Uuids(ids), Texts(texts))
        ).fetchall()
    assert found == list(zip(ids, texts, strict=True))


@pytest.fixture(scope="module")
def postgres_server_url(postgres: Any) -> str:
    url: str = postgres.admin_url
    return url
