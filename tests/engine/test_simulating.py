"""What if, asked of a log that an application has really written, and of its export."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runlane import (
    AsyncRunlane,
    ConfigurationInvalid,
    Context,
    Fixed,
    NonRetryable,
    Queue,
    Release,
    Retry,
    Runlane,
    SettableClock,
    task,
)
from runlane.events import RunLeased
from runlane.projections import runs
from runlane.shown import shown
from runlane.simulation import Simulation, simulate_export
from tests.engine.test_time_travel import unguard
from tests.support import START, database_of, execute

Make = Callable[..., Runlane]
MAIN, TIGHT = Queue("main", default=True), Queue("tight", concurrency_limit=1)
AGAIN = Retry(3, Fixed("10s"), jitter=0.0)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class World:
    """Handlers that take time: they move the clock."""

    def __init__(self, clock: SettableClock) -> None:
        self.clock = clock

        @task("work", retry=AGAIN)
        def work(payload: list[float], context: Context) -> None:
            # A negative number is an attempt that fails, in so many seconds.
            took = payload[min(context.attempt, len(payload)) - 1]
            clock.advance(seconds(abs(took)))
            if took < 0:
                raise ConnectionError("no answer")

        @task("poll")
        def poll(payload: int, context: Context) -> Release | None:
            clock.advance(seconds(1))
            return context.release(delay="5s") if context.attempt < payload else None

        @task("broken", queue=TIGHT)
        def broken(payload: None) -> None:
            clock.advance(seconds(2))
            raise NonRetryable("never")

        self.work, self.poll, self.broken = work, poll, broken

    def options(self) -> dict[str, Any]:
        return {"queues": [MAIN, TIGHT], "clock": self.clock}

    def live(self, app: Runlane) -> None:
        """Twelve attempts, one after the other, as soon as their runs are due."""
        for payload, priority in (([4], 0), ([2, 3], 0), ([-1, 2], 5), ([-1, -1, -1], 0), ([1], -1)):
            app.trigger(self.work, payload, priority=priority)
        app.trigger(self.poll, 3)
        app.trigger(self.broken, None, concurrency_key="x")
        app.trigger(self.work, [1], delay=seconds(20))
        end = self.clock() + seconds(60)
        while self.clock() < end:
            if app.execute_next() is None:
                self.clock.advance(seconds(0.5))


@pytest.fixture
def world(clock: SettableClock) -> World:
    return World(clock)


@pytest.fixture
def app(make_app: Make, world: World) -> Runlane:
    made = make_app(world.work, world.poll, world.broken, **world.options())
    world.live(made)
    return made


def waits_of(app: Runlane, run_id: UUID) -> list[float]:
    """How long each attempt of a run waited, by the fold."""
    records = app.runs.events(run_id)
    state, found = runs.born(records[0]), []
    for record in records[1:]:
        if isinstance(record.event, RunLeased):
            assert state.due_at is not None
            found.append((record.occurred_at - state.due_at).total_seconds())
        state = runs.after(state, record)
    return found


def test_the_recorded_waits_are_reproduced_exactly(app: Runlane) -> None:
    before = app.audit.count()
    found = app.audit.simulate(workers=2)
    assert app.audit.count() == before, "nothing is written"
    assert found.recorded == found.baseline
    assert found.drawn_baseline == found.drawn == 0
    one, two = found.baseline, found.simulated
    assert (one.runs, one.succeeded, one.failed, one.unfinished) == (8, 6, 2, 0)
    assert (one.attempts, one.failures) == (13, 5)
    assert (one.workers, one.concurrency, one.limits) == (1, 1, {"tight": 1})
    assert set(one.queues) == {"main", "tight"}
    assert (two.workers, two.attempts, two.handler_seconds) == (2, one.attempts, one.handler_seconds)
    assert two.waits.max < one.waits.max
    waits = sorted(wait for run in app.runs.list(limit=50).data for wait in waits_of(app, run.id))
    assert (one.waits.count, one.waits.max) == (len(waits), waits[-1])
    assert one.waits.mean == pytest.approx(sum(waits) / len(waits))
    assert one.waits.p50 == waits[len(waits) // 2]


def test_another_retry(app: Runlane) -> None:
    same = app.audit.simulate(retry=AGAIN)
    assert same.simulated == same.baseline, "it is what they had"
    once = app.audit.simulate(retry={"work": Retry(1)}).simulated
    assert (once.succeeded, once.failed, once.attempts, once.failures) == (5, 3, 10, 3)
    more = app.audit.simulate(retry=Retry(9, Fixed("1s")), seed=3)
    assert (more.drawn, more.simulated.failures) == (6, 5 + 6), "its only third attempt has failed, and so do more"
    assert more == app.audit.simulate(retry=Retry(9, Fixed("1s")), seed=3)


def test_only_some_runs(app: Runlane, world: World) -> None:
    def there(**which: Any) -> int:
        return app.audit.simulate(**which).recorded.runs

    assert there(tasks=["work"]) == there(tasks=[world.work]) == 6
    assert there(queues=[TIGHT]) == there(queues=["tight"]) == 1
    assert there(since=START, until=START + seconds(1)) == 8
    assert there(since=START + seconds(1)) == there(until=START) == 0


def test_bad_input(app: Runlane) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"workers": 0}, "workers must be"),
        ({"limit": {"nowhere": 2}}, "no run of queue 'nowhere'"),
        ({"retry": {"nothing": Retry(2)}}, "no run of task 'nothing'"),
        ({"tasks": "work"}, "tasks must be a list"),
        ({"queues": [3]}, "an entry of queues must be a string"),
        ({"since": START, "until": START}, "must lie before until"),
        ({"since": START.replace(tzinfo=None)}, "since must be timezone-aware"),
    ]
    for given, says in asked:
        with pytest.raises(ConfigurationInvalid, match=says):
            app.audit.simulate(**given)


def test_an_export_tells_the_same(app: Runlane, tmp_path: Path) -> None:
    app.queues.pause(TIGHT)
    app.audit.export(tmp_path / "log.jsonl")
    asked: dict[str, Any] = {"workers": 3, "limit": {"tight": None, "main": 1}, "retry": Retry(5), "seed": 1}
    reported: list[int] = []
    assert simulate_export(tmp_path / "log.jsonl", **asked) == app.audit.simulate(**asked, progress=reported.append)
    with pytest.raises(ConfigurationInvalid, match="manifest"):
        simulate_export(tmp_path / "other.jsonl")
    for wrong in (5, None, b"log.jsonl", [tmp_path]):
        with pytest.raises(
            ConfigurationInvalid, match=f"path must be a path, as text or a Path; got {re.escape(shown(wrong))}"
        ):
            simulate_export(wrong)  # type: ignore[arg-type]
    for no_name in ("", "/", "a\0b"):
        with pytest.raises(ConfigurationInvalid, match="cannot be read"):
            simulate_export(no_name)
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_bytes(b"".join([*lines[:3], b"{}\n", *lines[3:]]))
    with pytest.raises(ConfigurationInvalid, match=r"log.jsonl line 4 .*see `runlane audit replay"):
        simulate_export(tmp_path / "log.jsonl")


def test_it_can_be_awaited(shared_url: str, world: World) -> None:
    with Runlane(shared_url, tasks=[world.work, world.poll, world.broken], **world.options()) as app:
        world.live(app)
        known = app.audit.simulate(concurrency=4)

    async def ask() -> Simulation:
        async with AsyncRunlane(shared_url) as other:
            return await other.audit.simulate(concurrency=4)

    assert asyncio.run(ask()) == known


def test_a_damaged_history_is_left_out(shared_url: str, world: World) -> None:
    with Runlane(shared_url, tasks=[world.work, world.poll, world.broken], **world.options()) as app:
        world.live(app)
        unguard(app)
        run = next(iter(app.runs.list(tasks=["poll"]).data))
        execute(
            database_of(app),
            f"update {{events}} set actor = 'operator:x' where stream_id = '{run.id}' and sequence = 4",
        )
        found = app.audit.simulate()
    assert (found.left_out, found.recorded.runs) == ({"damaged history": 1}, 7)
    assert found.notes[0] == "1 run is left out: damaged history"
