"""Tables folded from the log by a follower: exactly once, in versions, rebuilt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from runlane import AsyncRunlane, ConfigurationInvalid, Runlane, SettableClock, StorageConflict
from runlane.events import Recorded
from runlane.readmodels import FailureShapes, Sketch, TaskHours, shape_of
from runlane.readmodels.sketch import LEAST
from tests.engine.tasks import HOUR, echo, flaky, hopeless
from tests.support import SECOND, START


class Tally:
    """How many events of each type there were, and every one that was folded: a second time would break its key."""

    def __init__(self, version: int = 1, fails_at: int | None = None) -> None:
        self.name, self.version = "tally", version
        self.fails_at = fails_at

    def setup(self, connection: Connection) -> None:
        connection.execute(text("create table if not exists tally (type text primary key, times int not null)"))
        connection.execute(text("create table if not exists tallied (position int primary key)"))

    def clear(self, connection: Connection, environment: str) -> None:
        for table in ("tally", "tallied"):
            connection.execute(text(f"drop table if exists {table}"))

    def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
        for record in records:
            connection.execute(text(f"insert into tallied values ({record.position})"))
            kind = type(record.event).__name__
            added = f"insert into tally values ('{kind}', 1) on conflict (type) do update set times = tally.times + 1"
            connection.execute(text(added))
            if self.fails_at is not None and (record.position or 0) % 5 == self.fails_at:
                raise ZeroDivisionError


def tally(app: Runlane) -> dict[str, int]:
    return app.projections.read(lambda c: {row[0]: row[1] for row in c.execute(text("select * from tally"))})


def counted(app: Runlane) -> dict[str, int]:
    found: dict[str, int] = {}
    for batch in app.follow(poll=None):
        for record in batch:
            name = type(record.event).__name__
            found[name] = found.get(name, 0) + 1
    return found


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    made = [Tally(), TaskHours(), FailureShapes()]
    with Runlane(lane_url, tasks=[echo, flaky, hopeless], clock=clock, projections=made) as app:
        yield app
        assert app.audit.verify().identical


def test_it_folds_every_event_once_and_goes_on_where_it_was(app: Runlane) -> None:
    app.trigger_many(echo, range(7))
    assert app.project("tally", poll=None, batch=4) == 14
    assert tally(app) == {"RunCreated": 7, "RunDeliveryRequested": 7}
    app.run_now(hopeless, 1)
    assert app.project(Tally(), poll=None) == 3
    assert app.project("tally", poll=None) == 0
    assert tally(app) == counted(app)
    (state,) = [one for one in app.projections.list() if one.name == "tally"]
    assert (state.version, state.stored_version, state.behind, state.is_outdated) == (1, 1, 0, False)
    assert state.updated_at == START


@pytest.mark.parametrize("fails_at", range(5))
def test_a_fold_that_fails_in_the_middle_leaves_nothing(app: Runlane, fails_at: int) -> None:
    app.trigger_many(echo, range(9))
    failing = Tally(fails_at=fails_at)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            app.project(failing, poll=None, batch=7)
    assert app.project(Tally(), poll=None, batch=4) == sum(counted(app).values()) - folded_before(failing, app)
    assert tally(app) == counted(app)


def folded_before(failing: Tally, app: Runlane) -> int:
    """The events of whole batches before the one that failed: batches of seven, as it was run."""
    positions = [record.position or 0 for batch in app.follow(poll=None) for record in batch]
    first = next(n for n, position in enumerate(positions) if position % 5 == failing.fails_at)
    return first // 7 * 7


def test_another_version_has_to_be_rebuilt_and_fences_off_the_older_one(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo], projections=[Tally()]) as old:
        with Runlane(shared_url, tasks=[echo], projections=[Tally(2)]) as new:
            old.trigger_many(echo, range(4))
            rebuilt: list[int] = []

            def meanwhile() -> bool:
                """The newer program rebuilds while the older one is between two batches."""
                if not rebuilt and sum(tally(old).values()) == 4:
                    rebuilt.append(new.projections.rebuild("tally", batch=3))
                return False

            with pytest.raises(StorageConflict):
                old.project("tally", stop=meanwhile, batch=4)
            assert rebuilt == [8]
            with pytest.raises(ConfigurationInvalid, match=r"stored in version 2, .* `runlane projections rebuild"):
                old.project("tally", poll=None)
            assert [one.is_outdated for one in old.projections.list()] == [True]
            assert tally(new) == counted(new)
            assert new.project("tally", poll=None) == 0


def test_of_two_that_run_one_projection_one_gets_on(shared_url: str) -> None:
    with Runlane(shared_url, tasks=[echo]) as one, Runlane(shared_url, tasks=[echo]) as other:
        one.trigger_many(echo, range(4))
        one.project(Tally(), stop=lambda: True)

        def rival() -> bool:
            """Goes on where the first batch ended, whenever that was settled: others may hold transactions open."""
            if sum(tally(other).values()) == 4:
                assert other.project(Tally(), poll=None) == 4
            return False

        with pytest.raises(StorageConflict):
            one.project(Tally(), stop=rival, batch=4)
        assert tally(one) == counted(one)


def test_environments_do_not_share_a_projection(shared_url: str) -> None:
    hours = TaskHours()
    with Runlane(shared_url, tasks=[echo]) as one, Runlane(shared_url, tasks=[echo], environment="two") as two:
        one.run_now(echo, 1)
        two.trigger_many(echo, range(3))
        assert (one.project(hours, poll=None), two.project(hours, poll=None)) == (3, 6)
        assert two.projections.rebuild(hours) == 6
        assert [h.created for h in one.projections.read(lambda c: hours.hours(c))] == [1]
        assert [h.created for h in two.projections.read(lambda c: hours.hours(c, "two"))] == [3]


@pytest.mark.parametrize(
    ("projections", "reason"),
    [
        ([object()], "has name, version, setup, fold and clear; object has not"),
        ([Tally(), Tally()], "two projections have the name 'tally'"),
        ([Tally(0)], "must be a number from 1"),
        ([TaskHours("b"), FailureShapes("b")], "two projections"),
    ],
)
def test_bad_projections_are_named(projections: list[Any], reason: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=reason):
        Runlane("memory:", projections=projections)


def test_an_unknown_name_is_told(app: Runlane) -> None:
    for call in (app.project, app.projections.rebuild):
        with pytest.raises(ConfigurationInvalid, match="no projection 'x'; known are: failures, tally, task_hours"):
            call("x")


def test_the_asyncio_face(shared_url: str) -> None:
    async def main() -> None:
        async with AsyncRunlane(shared_url, tasks=[echo], projections=[Tally()]) as app:
            await app.trigger_many(echo, range(3))
            seen = 0
            async for batch in app.follow("name:x", batch=4, poll=None):
                await batch.commit()
                seen += len(batch)
            assert seen == 6
            assert [len(batch) async for batch in app.follow("name:x", poll=None)] == []
            waiting = asyncio.create_task(anext(app.follow("end", poll=30)))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await app.project("tally", poll=None) == 6
            assert await app.projections.rebuild("tally") == 6
            assert [one.behind for one in await app.projections.list()] == [0]
            with pytest.raises(ConfigurationInvalid, match="cursor must be"):
                await app.follow("x").start()

    asyncio.run(main())


# The two that come with Runlane.


def test_statistics_by_hour(app: Runlane, clock: SettableClock) -> None:
    hours = TaskHours()
    runs = app.trigger_many(echo, range(3))
    clock.advance(10 * SECOND)
    for _ in runs:
        app.execute_next()
    app.trigger(flaky, 1, delay="1h")
    clock.advance(HOUR + 2 * SECOND)
    assert app.execute_next().status == "retrying"
    app.project(hours, poll=None, batch=2)
    clock.advance(15 * SECOND)
    app.execute_next()
    app.runs.cancel(app.trigger(echo, 9).run.id)
    app.project(hours, poll=None)
    found = app.projections.read(lambda c: hours.hours(c))
    assert [(h.task_id, h.hour, h.created, h.succeeded, h.cancelled, h.retried) for h in found] == [
        ("echo", START, 3, 3, 0, 0),
        ("flaky", START, 1, 0, 0, 0),
        ("echo", START + HOUR, 1, 0, 1, 0),
        ("flaky", START + HOUR, 0, 0, 0, 2),
    ]
    assert found[0].waits.quantile(0.5) == pytest.approx(10, rel=0.05)
    assert [len(h.waits) for h in found] == [3, 0, 0, 2]
    assert found[3].waits.quantile(1.0) == pytest.approx(5, rel=0.05), "the retry was due ten seconds after the first"
    assert found[3].waits.quantile(0.0) == pytest.approx(2, rel=0.05)
    assert found[0].runs.quantile(0.99) == LEAST
    (later,) = app.projections.read(lambda c: hours.hours(c, task_id="echo", since=START + HOUR))
    assert later == found[2]
    assert app.project("failures", poll=None) == 2
    assert {one.behind for one in app.projections.list() if one.name != "tally"} == {0}, "also past other types"
    assert app.projections.rebuild(hours, batch=3) == sum(counted(app).values())
    again = app.projections.read(lambda c: hours.hours(c))
    assert again == found
    assert [h.waits.counts for h in again] == [h.waits.counts for h in found]


def test_failures_by_shape(app: Runlane, clock: SettableClock) -> None:
    failures = FailureShapes()
    for n in (17, 2_000):
        run = app.run_now(flaky, n).run
        clock.advance(timedelta(minutes=1))
    app.run_now(hopeless, 1)
    app.project("failures", poll=None)
    found = app.projections.read(lambda c: failures.search(c))
    assert [(one.task_id, one.shape, one.times) for one in found] == [
        ("flaky", "not yet: <n>", 2),
        ("hopeless", "no hope", 1),
    ]
    first = found[0]
    assert first.first_at < first.last_at
    seen = app.projections.read(lambda c: failures.seen(c, first.id))
    assert {one.message for one in seen} == {"not yet: 17", "not yet: 2000"}
    assert run.id in {one.run_id for one in seen}
    for wanted, ids in (
        ({"text": "not yet: 5"}, [first.id]),
        ({"text": "100%"}, []),
        ({"code": first.code, "task_id": "flaky"}, [first.id]),
        ({"since": clock() + HOUR}, []),
    ):
        assert [one.id for one in app.projections.read(lambda c, w=wanted: failures.search(c, **w))] == ids


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ("order 4711 is 12.50 short", "order <n> is <n> short"),
        ("no user 019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", "no user <id>"),
        ("at 2026-01-31T12:00:00Z\n  of 2026-01-31", "at <time> of <time>"),
        ("mail to ann.b+x@example.co.uk bounced", "mail to <address> bounced"),
        ("object at 0x7f3b2a2f60c0, commit 8f4e2fa1", "object at <id>, commit <id>"),
        ("order-4711 A17B item_9", "order-<n> A<n>B item_<n>"),
        ("deadbeef is a word without digits: facade", "deadbeef is a word without digits: facade"),
        ("x" * 600, "x" * 500),
    ],
)
def test_shapes(message: str, shape: str) -> None:
    assert shape_of(message) == shape
    assert shape_of(shape) == shape, "a shape is its own"


def test_quantiles_are_near_and_sketches_add_up() -> None:
    rng = random.Random(7)
    values = sorted(rng.lognormvariate(0, 3) + 2 * LEAST for _ in range(2000))
    parts = [Sketch(), Sketch()]
    for n, value in enumerate(values):
        parts[n % 2].add(value)
    parts[0].merge(parts[1])
    for part in (0.01, 0.5, 0.9, 0.99, 1.0):
        true = values[max(0, -(-int(part * 100) * len(values) // 100) - 1)]
        assert parts[0].quantile(part) == pytest.approx(true, rel=0.05)
    assert Sketch().quantile(0.5) is None
