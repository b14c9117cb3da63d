"""``AsyncWorker``, and waiting for runs: neither takes a place that others need, and both can be cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runlane import AsyncRunlane, ConfigurationInvalid, RunNotFound, task
from runlane.aio import AsyncWorker
from tests.engine.tasks import echo
from tests.support import PATIENCE


def ends(main: Coroutine[Any, Any, None]) -> bool:
    """Whether an asyncio program ends; one that does not is left behind."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main)
        except BaseException as error:
            raised.append(error)

    program = threading.Thread(target=run, daemon=True)
    program.start()
    program.join(PATIENCE)
    if raised:
        raise raised[0]
    return not program.is_alive()


def test_async_workers_leave_the_pool_of_asyncio_to_others() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with AsyncRunlane("memory:", tasks=[echo]) as app:
            workers = [app.worker(maintenance=False) for _ in range(2)]
            tasks = [asyncio.create_task(worker.run()) for worker in workers]
            run = (await app.trigger(echo, 1)).run
            assert (await app.runs.wait(run.id, timeout=PATIENCE)).result == 1
            assert await asyncio.to_thread(lambda: "free") == "free"
            await workers[0].stop()
            tasks[1].cancel()
            await asyncio.wait(tasks)
            assert [worker.closed for worker in workers] == [True, True]

    assert ends(main())


def test_a_wait_for_an_async_worker_ends_in_time_and_when_it_is_cancelled() -> None:
    async def main() -> None:
        app = await AsyncRunlane("memory:", tasks=[echo]).start()
        worker = app.worker(maintenance=False)
        assert not await worker.wait(0)
        await worker.start()
        assert not await worker.wait(0)
        assert not await worker.wait(0.01)
        waits = asyncio.create_task(worker.wait())
        await asyncio.sleep(0)
        waits.cancel()  # and the program ends although the worker goes on
        with pytest.raises(asyncio.CancelledError):
            await waits
        left.append(worker)

    left: list[AsyncWorker] = []
    assert ends(main())
    assert not left[0].closed
    assert ends(left[0].stop())
    assert ends(waited(left[0]))


async def waited(worker: AsyncWorker) -> None:
    assert await worker.wait()


def test_an_async_worker_that_is_cancelled_while_it_starts_stops() -> None:
    starting, go = threading.Event(), threading.Event()

    async def main() -> None:
        async with AsyncRunlane("memory:", tasks=[echo]) as app:
            runtime = app._app._runtime
            session = runtime.session

            def slow() -> Any:
                starting.set()
                assert go.wait(PATIENCE)
                return session()

            runtime.session = slow  # type: ignore[method-assign]
            worker = app.worker(maintenance=False)
            task = asyncio.create_task(worker.run())
            assert await asyncio.to_thread(starting.wait, PATIENCE)
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert worker.closed

    assert ends(main())


def test_a_wait_for_a_run_that_is_cancelled_ends() -> None:
    async def main() -> None:
        async with AsyncRunlane("memory:", tasks=[echo]) as app:
            run = (await app.trigger(echo, delay="1h")).run
            waits = asyncio.create_task(app.runs.wait(run.id))
            await asyncio.sleep(0)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            with pytest.raises(TimeoutError, match=f"run {run.id} is still scheduled after 0.02 s"):
                await app.runs.wait(run.id, timeout=0.02)
            with pytest.raises(RunNotFound):
                await app.runs.wait("019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f")

    assert ends(main())


def test_handlers_that_wait_for_runs_leave_the_pool_of_asyncio_to_others() -> None:
    @task("tree")
    async def tree(height: int) -> int:
        if height == 3:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        if not height:
            return 0
        child = (await app.trigger(tree, height - 1)).run
        return 1 + (await app.runs.wait(child.id)).result

    async def main() -> None:
        async with app:
            run = (await app.trigger(tree, 3)).run
            worker = app.worker(maintenance=False)
            await worker.start()
            try:
                assert (await app.runs.wait(run.id, timeout=PATIENCE / 2)).result == 3
            finally:
                await worker.stop(0)

    app = AsyncRunlane("memory:", tasks=[tree])
    assert ends(main())


def test_an_async_worker_that_is_stopped_before_it_has_started_does_not_work() -> None:
    making, go = threading.Event(), threading.Event()

    async def main() -> None:
        async with AsyncRunlane("memory:", tasks=[echo]) as app:
            worker = app.worker(maintenance=False)
            make = worker._make

            def slow() -> Any:
                making.set()
                assert go.wait(PATIENCE)
                return make()

            worker._make = slow
            starts = asyncio.create_task(worker.run())
            assert await asyncio.to_thread(making.wait, PATIENCE)
            stops = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(stops, starts)
            assert worker.closed

            never = app.worker(maintenance=False)
            await never.stop()
            assert never.closed
            await never.run()
            assert await never.wait()
            assert not app._app._workers or all(one.closed for one in app._app._workers)

    assert ends(main())


def test_an_async_worker_is_started_once() -> None:
    async def main() -> None:
        async with AsyncRunlane("memory:", tasks=[echo]) as app:
            worker = app.worker(maintenance=False)
            await worker.start()
            with pytest.raises(ConfigurationInvalid, match="can be started once"):
                await worker.start()
            await worker.stop()
            assert worker.closed
            assert [one.closed for one in app._app._workers] == [True]

    assert ends(main())
