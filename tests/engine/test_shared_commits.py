"""Triggers of one process share commits: a lone one waits for nobody, and to each its own outcome and its own error."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runlane import AsyncRunlane, InternalError, Runlane, StorageConflict, StorageUnavailable, task
from runlane.engine.trigger import NewRun, Triggered
from runlane.errors import ConflictKind
from runlane.intake import Intake
from runlane.payload_codec import KeyUnavailable
from tests.support import PATIENCE, at_once, eventually

Commit = Callable[[list[NewRun]], list[Triggered]]


@task("echo")
def echo(number: int) -> int:
    return number


class Gate:
    """Stands before each commit of an intake: lets it pass, holds it back, or fails it."""

    def __init__(self, real: Commit) -> None:
        self._real = real
        self.open = threading.Event()
        self.batches: list[list[int]] = []
        self.fail: Callable[[list[int]], BaseException | None] = lambda _: None

    def __call__(self, wanted: list[NewRun]) -> list[Triggered]:
        numbers = [new.created.payload for new in wanted]
        self.batches.append(numbers)
        assert self.open.wait(PATIENCE)
        error = self.fail(numbers)
        if error is not None:
            raise error
        return self._real(wanted)


@contextmanager
def gated(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(intake._commit)
    monkeypatch.setattr(intake, "_commit", gate)
    try:
        yield gate
    finally:
        gate.open.set()


@pytest.fixture
def app(lane_url: str) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo]) as made:
        yield made
        assert made.audit.verify().identical


class Callers:
    """Threads that trigger, and what became of each."""

    def __init__(self, app: Runlane, intake: Intake) -> None:
        self._app = app
        self._intake = intake
        self._threads: list[threading.Thread] = []
        self.outcomes: dict[int, Any] = {}

    def come(self, *numbers: int) -> None:
        """Begin to trigger, one after the other."""
        for number in numbers:
            waiting = len(self._intake._waiting)
            thread = threading.Thread(target=self._trigger, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)
            eventually(lambda w=waiting: len(self._intake._waiting) > w, "the caller waiting")

    def _trigger(self, number: int) -> None:
        try:
            self.outcomes[number] = self._app.trigger(echo, number)
        except BaseException as error:
            self.outcomes[number] = error

    def all_done(self) -> dict[int, Any]:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a caller waits for ever"
        return self.outcomes


@contextmanager
def first_at_the_database(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Gate, Callers]]:
    """Caller 0 is there, held back; who comes now has to wait."""
    with gated(app._intake, monkeypatch) as gate:
        callers = Callers(app, app._intake)
        thread = threading.Thread(target=callers._trigger, args=(0,), daemon=True)
        callers._threads.append(thread)
        thread.start()
        eventually(lambda: gate.batches == [[0]], "the first caller at the database")
        yield gate, callers


def test_those_who_come_meanwhile_go_together(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2, 3, 4)
        gate.open.set()
        done = callers.all_done()
    assert gate.batches == [[0], [1, 2, 3, 4]]
    assert {number: one.run.payload for number, one in done.items()} == {n: n for n in range(5)}
    assert {run.id: run for run in app.runs.list().data} == {one.run.id: one.run for one in done.values()}


def test_a_lone_caller_waits_for_nobody(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(app._intake, monkeypatch) as gate:
        gate.open.set()
        for number in range(3):
            app.trigger(echo, number)
        assert gate.batches == [[0], [1], [2]]


def test_what_has_a_key_or_an_id_of_its_own_or_a_time_goes_alone(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        assert app.trigger(echo, 7, idempotency_key="k").outcome == "created"
        assert app.trigger(echo, 7, idempotency_key="k").outcome == "reused_idempotent"
        assert app.trigger(echo, 8, singleton_key="s").outcome == "created"
        assert app.trigger(echo, 9, delay="1h").run.status == "scheduled"
        gate.open.set()
        callers.all_done()
        assert gate.batches == [[0]]


def test_a_failure_of_the_database_is_told_to_each_about_its_own_run(
    app: Runlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2)
        gate.fail = lambda numbers: StorageUnavailable("gone") if numbers == [1, 2] else None
        gate.open.set()
        done = callers.all_done()
    assert done[0].outcome == "created"
    assert [str(done[n]) for n in (1, 2)] == ["gone", "gone"]
    assert done[1] is not done[2], "an exception has one traceback"
    assert gate.batches == [[0], [1, 2]]


def test_an_unknown_outcome_names_each_callers_own_run(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(numbers: list[int]) -> BaseException | None:
        return StorageUnavailable("lost", meta={"outcome": "unknown", "ids": ["a", "b"]}) if numbers == [1, 2] else None

    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2)
        gate.fail = lost
        gate.open.set()
        done = callers.all_done()
    ids = [done[n].meta["ids"] for n in (1, 2)]
    assert [done[n].meta["outcome"] for n in (1, 2)] == ["unknown", "unknown"]
    assert len(ids[0]) == len(ids[1]) == 1
    assert ids[0] != ids[1]


def test_one_that_cannot_be_stored_fails_alone(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2, 3)
        gate.fail = lambda numbers: InternalError("not this one") if 2 in numbers else None
        gate.open.set()
        done = callers.all_done()
    assert gate.batches == [[0], [1, 2, 3], [1], [2, 3], [2], [3]]
    assert isinstance(done[2], InternalError)
    assert sorted(run.payload for run in app.runs.list().data) == [0, 1, 3]


def test_to_find_one_that_cannot_be_stored_takes_few_commits(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(*range(1, 33))
        gate.fail = lambda numbers: InternalError("not this one") if 20 in numbers else None
        gate.open.set()
        done = callers.all_done()
    assert len(gate.batches) == 2 + 2 * 5, "halves of halves"
    assert [number for number, one in done.items() if isinstance(one, InternalError)] == [20]
    assert app.runs.count() == {"queued": 32}


def test_a_refusal_that_may_pass_is_its_own_callers_alone(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one of a codec, about the key of one payload; only the database's are everybody's."""
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2, 3)
        gate.fail = lambda numbers: KeyUnavailable("no key", retryable=True) if 2 in numbers else None
        gate.open.set()
        done = callers.all_done()
    assert isinstance(done[2], KeyUnavailable)
    assert [done[n].outcome for n in (0, 1, 3)] == ["created"] * 3


def test_a_conflict_over_locks_is_told_to_each(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = ConflictKind.SEQUENCE
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2, 3)
        gate.fail = lambda numbers: StorageConflict("locked", kind=kind) if 2 in numbers else None
        gate.open.set()
        done = callers.all_done()
    assert [(type(done[n]), str(done[n]), done[n].kind) for n in (1, 2, 3)] == [(StorageConflict, "locked", kind)] * 3


def test_an_error_of_somebody_elses_code_reaches_the_caller_as_it_is(
    lane_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo]) as app:
            with gated(app._app._intake, monkeypatch) as gate:
                gate.open.set()
                gate.fail = lambda _: ValueError("a clock that is wrong")
                with pytest.raises(ValueError, match="a clock that is wrong"):
                    await app.trigger(echo, 1)
                gate.fail = lambda _: None
                assert (await app.trigger(echo, 2)).outcome == "created"

    asyncio.run(main())


def test_a_doorbell_that_breaks_makes_no_failure_of_what_is_stored(
    app: Runlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ring(queues: Any = None) -> None:
        raise OSError("no thread can be started")

    monkeypatch.setattr(app._runtime, "ring", ring)
    assert app.trigger(echo, 1).outcome == "created"
    assert [one.outcome for one in app.trigger_many(echo, range(400))] == ["created"] * 400
    assert app.runs.count() == {"queued": 401}
    assert "could not ring" in caplog.text


def test_a_child_process_is_refused_though_its_parent_was_at_the_database(
    app: Runlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        monkeypatch.setattr(app._runtime, "_pid", os.getppid())
        with pytest.raises(InternalError, match="over a fork"):
            app.trigger(echo, 1)
        monkeypatch.undo()
        gate.open.set()
        callers.all_done()


class Interrupting(deque[Any]):
    """Ctrl-C comes the first time that somebody does this to the line of those who wait."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method: str | None = method

    def _may_raise(self, method: str) -> None:
        if self.method == method:
            self.method = None
            raise KeyboardInterrupt

    def append(self, item: Any) -> None:
        super().append(item)
        self._may_raise("append")

    def popleft(self) -> Any:
        item = super().popleft()
        self._may_raise("popleft")
        return item


@pytest.mark.parametrize("method", ["append", "popleft"])
def test_an_interrupt_at_any_place_leaves_nobody_waiting(
    app: Runlane, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(app._intake, "_waiting", Interrupting(method))
    with pytest.raises(KeyboardInterrupt):
        app.trigger(echo, 1)
    done = at_once([lambda: app.trigger(echo, 2), lambda: app.trigger(echo, 3)])
    assert [one.outcome for one in done] == ["created", "created"]


def test_whoever_is_interrupted_at_the_database_leaves_nobody_waiting(
    app: Runlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2)
        gate.fail = lambda numbers: KeyboardInterrupt() if numbers == [1, 2] else None
        gate.open.set()
        done = callers.all_done()
        assert app.trigger(echo, 3).outcome == "created"
    assert isinstance(done[1], KeyboardInterrupt)
    assert done[2].meta["outcome"] == "unknown"


def test_whoever_leaves_before_its_turn_is_not_waited_for(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while others are at the database: the turn goes to the next one."""
    with first_at_the_database(app, monkeypatch) as (gate, callers):
        callers.come(1, 2)
        app._intake._leave(app._intake._waiting[0])
        gate.open.set()
        eventually(lambda: set(callers.outcomes) == {0, 2}, "the others being done")
        assert gate.batches == [[0], [2]]


@pytest.mark.parametrize("callers", [1, 40])
def test_asyncio_callers_share_commits_too(lane_url: str, callers: int) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo]) as app:
            done = await asyncio.gather(*(app.trigger(echo, n) for n in range(callers)))
            assert [one.run.payload for one in done] == list(range(callers))
            page = await app.runs.list()
            assert {run.id: run for run in page.data} == {one.run.id: one.run for one in done}

    asyncio.run(main())


def test_a_cancelled_caller_keeps_nobody_from_being_told(lane_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo]) as app:
            with gated(app._app._intake, monkeypatch) as gate:
                callers = [asyncio.ensure_future(app.trigger(echo, n)) for n in range(4)]
                while sum(map(len, gate.batches)) + len(app._app._intake._waiting) < 4 or not gate.batches:
                    await asyncio.sleep(0)
                callers[0].cancel()
                callers[2].cancel()
                gate.open.set()
                done = await asyncio.gather(*callers, return_exceptions=True)
            assert [type(one) for one in done] == [
                asyncio.CancelledError,
                Triggered,
                asyncio.CancelledError,
                Triggered,
            ]

    asyncio.run(main())


def test_many_threads_at_once_lose_nothing(app: Runlane) -> None:
    done = at_once([lambda n=n: [app.trigger(echo, n * 10 + i) for i in range(10)] for n in range(16)])
    made = {one.run.id for mine in done for one in mine}
    assert len(made) == 160
    assert app.runs.count() == {"queued": 160}
