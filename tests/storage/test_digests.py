"""Every event carries a digest chained over its stream, and whatever somebody changes in the log shows by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from runlane import Runlane, Schedule, SettableClock, task
from runlane.digests import START, digest, microseconds
from tests.engine.tasks import echo, flaky, patient
from tests.support import database_of, execute, raw

MUTATIONS = 2000


@task("hourly", schedules=[Schedule("every-hour", every="1h")])
def hourly() -> None:
    """Runs by itself."""


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo, flaky, hourly, patient], clock=clock) as made:
        yield made


def live(app: Runlane, clock: SettableClock) -> None:
    """Have events of every kind of stream written, by each way there is to write them."""
    app.trigger(echo, 1, idempotency_key="k")
    app.trigger(echo, 2, singleton_key="s")
    app.trigger_many(flaky, [3, 4])
    app.run_now(echo, "now")
    app.worker("drain", concurrency=2).run()
    app.tick()
    clock.advance(timedelta(hours=1))
    app.tick()
    app.queues.pause("default", reason="rest")
    app.queues.resume("default")
    app.idempotency_keys.reset(echo, "k")
    app.runs.cancel(app.trigger(patient, 5).run.id, reason="changed our mind")
    app.trigger(echo, 6, run_at=clock() + timedelta(days=1))
    app.schedules.pause("every-hour", reason="quiet")


def test_every_event_has_one_whoever_wrote_it(app: Runlane, clock: SettableClock) -> None:
    live(app, clock)
    found = app.audit.verify()
    assert found.differences == ()
    assert found.events > 30
    clock.advance(timedelta(hours=2))
    assert app.runs.prune("1h").runs > 3
    assert app.audit.verify().differences == ()
    rows = execute(database_of(app), "select digest from {events}")
    assert len({bytes(row[0]) for row in rows}) == len(rows)
    assert {len(row[0]) for row in rows} == {32}


def test_the_row_of_a_run_holds_the_digest_of_its_last_event(app: Runlane) -> None:
    run = app.trigger(echo, 1).run
    app.execute_next()
    (last,) = execute(
        database_of(app),
        f"select e.digest = r.digest from {{events}} e join {{runs}} r on r.id = e.stream_id and"
        f" r.sequence = e.sequence where r.id = '{run.id}'",
    )
    assert last[0]


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=32),
            st.uuids(),
            st.integers(1, 2**31 - 1),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
            st.integers(1, 2**15 - 1),
            st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
            *[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)] * 3,
        ),
        min_size=1,
        max_size=50,
    )
)
@settings(max_examples=20)
def test_postgres_works_out_the_same(postgres: Any, events: list[tuple[Any, ...]]) -> None:
    given_ = [(before, id, n, kind, version, at, *rest) for before, id, n, kind, version, at, *rest in events]
    expected = [digest(e[0], e[1], e[2], e[3], e[4], microseconds(e[5]), *e[6:]) for e in given_]
    types = ["bytea", "uuid", "int", "text", "smallint", "timestamptz", "text", "text", "text"]
    with psycopg.connect(_database(postgres)) as connection:
        connection.execute("set timezone to 'Asia/Kathmandu'; set datestyle to 'German'; set extra_float_digits to 0")
        columns = ", ".join(f"%b::{kind}[]" for kind in types)
        found = connection.execute(
            f"select runlane.event_digest(a, b, c, d, e, f, g, h, i) from unnest({columns}) with ordinality"  # type: ignore[arg-type]
            " as t (a, b, c, d, e, f, g, h, i, ord) order by ord",
            [list(column) for column in zip(*given_, strict=True)],
        )
        assert [row[0] for row in found] == expected


_made: list[str] = []


def _database(postgres: Any) -> str:
    if not _made:
        _made.append(postgres.migrated().replace("+psycopg", ""))
    return _made[0]


def unguard(app: Runlane) -> None:
    """What somebody who owns the database can do."""
    for guard in ("update", "delete", "replace"):
        execute(database_of(app), f"drop trigger events_refuse_{guard}")


def altered(value: Any, rng: Random) -> Any:
    """The same with one thing different."""
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 7))
    if isinstance(value, bytes):
        place = rng.randrange(len(value))
        return value[:place] + bytes([value[place] ^ 1 << rng.randrange(8)]) + value[place + 1 :]
    place = rng.randrange(len(value))
    other = rng.choice([one for one in 'abc019-{}" ' if one != value[place]])
    return value[:place] + rng.choice(("", other, value[place] + other)) + value[place + 1 :]


COLUMNS = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor", "data", "digest")


def edit(rows: list[tuple[Any, ...]], rng: Random) -> str:
    place, column = rng.randrange(len(rows)), rng.randrange(len(COLUMNS))
    row = rows[place]
    rows[place] = (*row[:column], altered(row[column], rng), *row[column + 1 :])
    return f"{COLUMNS[column]} of {row[:2]}: {row[column]!r} to {rows[place][column]!r}"


def drop(rows: list[tuple[Any, ...]], rng: Random) -> str:
    return f"without {rows.pop(rng.randrange(len(rows)))[:2]}"


def swap(rows: list[tuple[Any, ...]], rng: Random) -> str:
    """Two events change places, with everything but the place itself and perhaps the digest."""
    one, other = rng.sample(range(len(rows)), 2)
    until = 8 if rng.random() < 0.5 else 9
    first, second = rows[one], rows[other]
    rows[one] = (*first[:2], *second[2:until], *first[until:])
    rows[other] = (*second[:2], *first[2:until], *second[until:])
    return f"{first[:2]} and {second[:2]} swapped"


def insert(rows: list[tuple[Any, ...]], rng: Random) -> str:
    """An event once more, as the next one of any stream."""
    row, last = rng.choice(rows), rng.choice(rows)[0]
    length = max(one[1] for one in rows if one[0] == last)
    rows.append((last, length + 1, *row[2:9], max(one[9] for one in rows) + 1))
    return f"{row[:2]} again as {(last, length + 1)}"


def truncate(rows: list[tuple[Any, ...]], rng: Random) -> str:
    """A history loses its end, or all of it."""
    stream, since = rng.choice(rows)[:2]
    rows[:] = [row for row in rows if row[0] != stream or row[1] < since]
    return f"{stream} without all from {since} on"


KINDS: tuple[Callable[[list[tuple[Any, ...]], Random], str], ...] = (edit, edit, edit, drop, swap, insert, truncate)


def test_whatever_is_changed_at_random_is_found(clock: SettableClock) -> None:
    """One place of the log at a time, of 2,000: a byte, an event, the order of two, the end of a history."""
    with Runlane("memory:", tasks=[echo, flaky, hourly, patient], clock=clock) as app:
        live(app, clock)
        assert app.audit.verify().differences == ()
        unguard(app)
        columns = ", ".join((*COLUMNS, "position"))
        whole = [tuple(row) for row in execute(database_of(app), f"select {columns} from {{events}}")]
        rng, unnoticed = Random(5), []
        for _ in range(MUTATIONS):
            rows = list(whole)
            told = rng.choice(KINDS)(rows, rng)
            if sorted(map(repr, rows)) == sorted(map(repr, whole)):
                continue  # it came out as it was
            if not _replaced(app, columns, whole, rows):
                continue  # the table itself does not take it
            if not app.audit.verify().differences:
                unnoticed.append(told)
            assert _replaced(app, columns, rows, whole)
        assert unnoticed == [], len(unnoticed)


def _replaced(app: Runlane, columns: str, old: list[tuple[Any, ...]], new: list[tuple[Any, ...]]) -> bool:
    gone = [(row[9],) for row in old if row not in new]
    come = [row for row in new if row not in old]
    with suppress(IntegrityError), raw(database_of(app)) as connection:
        if gone:
            connection.exec_driver_sql("delete from events where position = ?", gone)
        if come:
            marks = ", ".join("?" * 10)
            connection.exec_driver_sql(f"insert into events ({columns}) values ({marks})", come)
        return True
    return False


def test_a_history_written_again_as_a_whole_is_not_found(clock: SettableClock) -> None:
    """What a chain alone does not prove, and the documentation says so."""
    with Runlane("memory:", tasks=[echo], clock=clock) as app:
        run = app.trigger(echo, "honest").run
        unguard(app)
        columns = ", ".join(COLUMNS)
        found = execute(database_of(app), f"select {columns} from {{events}} where sequence = 1")
        (stream_id, sequence, type_, version, at, environment, actor, data, _) = found[0]
        data, passed = data.replace("honest", "forged"), microseconds(datetime.fromisoformat(at))
        before = digest(START, stream_id, sequence, type_, version, passed, environment, actor, data)
        with raw(database_of(app)) as connection:
            changed = "update events set data = ?, digest = ? where sequence = 1"
            connection.exec_driver_sql(changed, (data, before))
        assert [one.sequence for one in app.audit.verify().differences] == [2], "event 2 gives it away"
        (second,) = execute(database_of(app), f"select {columns} from {{events}} where sequence = 2")
        id_, number, kind, version, at, *rest, _ = second
        last = digest(before, id_, number, kind, version, microseconds(datetime.fromisoformat(at)), *rest)
        with raw(database_of(app)) as connection:
            connection.exec_driver_sql("update events set digest = ? where sequence = 2", (last,))
            connection.exec_driver_sql("update runs set digest = ?", (last,))
        assert app.audit.verify().identical
        assert app.runs.get(run.id).payload == "forged"
