"""The blocking calls behind ``AsyncRunlane`` have few threads; what waits for others holds none that those need."""

from __future__ import annotations

import asyncio
import os
from functools import partial

import psycopg
import pytest

from runlane import AsyncRunlane, ConfigurationInvalid, Runlane, RunStatus, task
from tests.engine.tasks import echo
from tests.support import PATIENCE

#: More than there are threads for calls.
MANY = 20


@pytest.mark.parametrize("kind", ["def", "async"])
def test_handlers_that_call_back_find_a_thread(kind: str) -> None:
    async def main() -> None:
        @task("parent")
        async def parent() -> None:
            await app.runs.list()
            await app.trigger(echo, "child")

        @task("sync_parent")
        def sync_parent() -> None:
            asyncio.run_coroutine_threadsafe(app.runs.list(), loop).result(PATIENCE)

        loop = asyncio.get_running_loop()
        async with AsyncRunlane("memory:", tasks=[echo, parent, sync_parent]) as app, asyncio.timeout(PATIENCE):
            called = parent if kind == "async" else sync_parent
            done = await asyncio.gather(*(app.run_now(called) for _ in range(MANY)))
            assert {one.run.status for one in done} == {RunStatus.SUCCEEDED}

    asyncio.run(main())


def test_a_trigger_waits_for_none_that_waits_for_a_transaction(postgres_url: str) -> None:
    """The owner of an idempotency key has not committed: whoever wants the key waits, and nobody else."""

    async def main(owner: psycopg.Connection) -> None:
        async with AsyncRunlane(postgres_url, tasks=[echo]) as app, asyncio.timeout(2 * PATIENCE):
            await app.trigger(echo, 0)
            owned = await app.trigger(echo, 1, idempotency_key="k", connection=owner)
            waiting = [asyncio.ensure_future(app.trigger(echo, 1, idempotency_key="k")) for _ in range(MANY)]
            while len(app._call._threads._threads) < MANY and app._call._threads._work_queue.empty():
                await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE / 2):
                assert (await app.trigger(echo, 2)).outcome == "created"
                mine = await app.trigger(echo, 3, connection=owner)
            owner.commit()
            done = await asyncio.gather(*waiting)
            assert {one.run.id for one in done} == {owned.run.id}
            assert (await app.runs.get(mine.run.id)).payload == 3

    with Runlane(postgres_url) as app:
        app.migrate()
    with psycopg.connect(postgres_url) as owner:
        asyncio.run(main(owner))


def test_whoever_calls_after_the_end_is_told(lane_url: str) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo]) as app:
            await app.trigger(echo, 1)
        for call in (app.runs.list, app.migrate, partial(app.trigger, echo), partial(app.run_now, echo)):
            with pytest.raises(ConfigurationInvalid, match="has been closed"):
                await call()

    asyncio.run(main())


def test_a_forked_child_closes_nothing_of_its_parents(lane_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo]) as app:
            with monkeypatch.context() as child:
                child.setattr(app._app._runtime, "_pid", os.getppid())
                await app.close()
            assert (await app.trigger(echo, 1)).outcome == "created"

    asyncio.run(main())
