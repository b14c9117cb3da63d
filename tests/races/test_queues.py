"""Queues that are paused and resumed while others claim from them, or do the same."""

from __future__ import annotations

import pytest

from runlane import Queue, Run, task
from runlane.decisions import queue_stream
from runlane.projections.queues import QueueControl
from runlane.storage import streams
from tests.races.arena import Arena, Place, claim, ids
from tests.races.interleave import Race
from tests.support import database_of

QUEUES = [Queue("free", default=True), Queue("one", concurrency_limit=1)]


@task("work")
def work() -> None:
    """Nothing."""


def history(place: Place, queue: str) -> list[str]:
    """The events of a queue."""
    with database_of(place.made[0]).read() as tx:
        return [type(r.event).__name__ for r in streams.read_stream(tx, queue_stream(place.environment, queue))]


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_a_pause_holds_for_every_claim_that_begins_after_it(arena: Arena, queue: Queue) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        run = a.trigger(work, queue=queue).run

        def check(paused: QueueControl, claimed: list[Run]) -> str:
            assert paused.paused
            assert ids(claimed) in ([], [run.id])
            assert claim(b) == []
            a.queues.resume(queue)
            assert ids(claim(b)) == ([] if claimed else [run.id])
            return "claimed" if claimed else "held back"

        return Race([lambda: a.queues.pause(queue), lambda: claim(b)], check)

    assert set(arena.race(scene)) == {"claimed", "held back"}


@pytest.mark.parametrize("is_known", [True, False])
def test_of_two_pauses_one_is_written(arena: Arena, is_known: bool) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        if is_known:
            a.queues.pause("free")
            a.queues.resume("free")

        def check(x: QueueControl, y: QueueControl) -> str:
            assert x == y
            assert history(place, "free") == ["QueuePaused", "QueueResumed"] * is_known + ["QueuePaused"]
            return x.reason or ""

        return Race([lambda: a.queues.pause("free", reason="A"), lambda: b.queues.pause("free", reason="B")], check)

    assert set(arena.race(scene)) == {"A", "B"}


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_pause_and_a_resumption_come_one_after_the_other(arena: Arena, is_paused: bool) -> None:
    def scene(place: Place) -> Race:
        a, b = place.apps(work, queues=QUEUES)
        a.queues.pause("free")
        if not is_paused:
            a.queues.resume("free")
        before = history(place, "free")

        def check(paused: QueueControl, resumed: QueueControl) -> str:
            added = history(place, "free")[len(before) :]
            assert added in (
                [["QueueResumed"], ["QueueResumed", "QueuePaused"]]
                if is_paused
                else [["QueuePaused"], ["QueuePaused", "QueueResumed"]]
            )
            assert paused.paused
            assert not resumed.paused
            last = next(one.control for one in a.queues.list() if one.name == "free")
            return "paused" if last is not None and last.paused else "resumed"

        return Race([lambda: a.queues.pause("free"), lambda: b.queues.resume("free")], check)

    assert set(arena.race(scene)) == {"paused", "resumed"}
