"""``connection=`` under ``AsyncRunlane``: the asyncio forms of a caller's transaction, and the sync ones too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from runlane import AsyncRunlane, ConfigurationInvalid, PayloadInvalid, Runlane, StorageConflict, Trigger, task
from runlane.engine import trigger
from tests.engine.tasks import echo
from tests.storage.test_callers_transaction import OwnError, sqlalchemy_url
from tests.support import PATIENCE

Opener = Callable[[], AbstractAsyncContextManager[Any]]
Body = Callable[[AsyncRunlane, Opener], Awaitable[None]]


@task("strict.async")
async def strict(payload: int) -> int:
    return payload


def async_url(url: str) -> str:
    return sqlalchemy_url(url).replace("sqlite://", "sqlite+aiosqlite://", 1)


@pytest.fixture(params=["connection", "session", "psycopg"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def opener(kind: str, url: str, engine: AsyncEngine) -> Opener:
    @asynccontextmanager
    async def session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as opened, opened.begin():
            yield opened

    @asynccontextmanager
    async def driver() -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(url) as opened:
            yield opened

    if kind == "psycopg" and url.startswith("postgresql"):
        return driver
    return session if kind == "session" else engine.begin


def within(url: str, kind: str, body: Body) -> None:
    """Call `body` on a loop of its own; afterwards every history has to verify."""

    async def main() -> None:
        engine = create_async_engine(async_url(url))
        try:
            async with AsyncRunlane(url, tasks=[echo, strict]) as app:
                await body(app, opener(kind, url, engine))
                assert (await app.audit.verify()).differences == ()
        finally:
            await engine.dispose()

    asyncio.run(main())


async def sql(connection: Any, statement: str) -> Any:
    return await connection.execute(statement if isinstance(connection, psycopg.AsyncConnection) else text(statement))


def test_the_run_exists_once_the_caller_has_committed(shared_url: str, kind: str) -> None:
    async def body(app: AsyncRunlane, begin: Opener) -> None:
        async with begin() as connection:
            await sql(connection, "create table orders (id integer)")
            run = (await app.trigger(echo, {"order": 1}, connection=connection)).run
            many = await app.trigger_many(strict, [1, 2], connection=connection)
        found = {run.id for run in (await app.runs.list()).data}
        assert found == {run.id, *(one.run.id for one in many)}
        executed = await app.execute_next()
        assert executed is not None
        assert executed.result == {"order": 1}

    within(shared_url, kind, body)


def test_a_rollback_leaves_nothing_and_the_callers_exception_is_unchanged(shared_url: str, kind: str) -> None:
    error = OwnError("the order was refused")

    async def body(app: AsyncRunlane, begin: Opener) -> None:
        async def order() -> None:
            async with begin() as connection:
                await app.trigger(echo, 1, idempotency_key="k", connection=connection)
                raise error

        with pytest.raises(OwnError) as caught:
            await order()
        assert caught.value is error
        assert (await app.runs.list()).data == ()
        assert (await app.trigger(echo, 1, idempotency_key="k")).outcome == "created"

    within(shared_url, kind, body)


def test_a_refused_trigger_leaves_the_callers_transaction_usable(shared_url: str, kind: str) -> None:
    async def body(app: AsyncRunlane, begin: Opener) -> None:
        async with begin() as connection:
            with pytest.raises(PayloadInvalid):
                await app.trigger(strict, "no number", connection=connection)
            kept = await app.trigger(strict, 1, connection=connection)
            await sql(connection, "select 1")
        assert [run.id for run in (await app.runs.list()).data] == [kept.run.id]

    within(shared_url, kind, body)


def test_an_existing_run_id_is_a_conflict_here_too(shared_url: str, kind: str) -> None:
    async def body(app: AsyncRunlane, begin: Opener) -> None:
        taken = (await app.trigger(echo, 1)).run

        async def again() -> None:
            async with begin() as connection:
                await app.trigger(echo, 2, run_id=taken.id, connection=connection)

        with pytest.raises(StorageConflict) as caught:
            await again()
        assert caught.value.kind == "run_exists"
        assert (await app.runs.list()).data == (taken,)

    within(shared_url, kind, body)


def test_a_sync_connection_joins_an_async_runtime(postgres_url: str) -> None:
    async def body(app: AsyncRunlane, _: Opener) -> None:
        with psycopg.connect(postgres_url) as connection:
            undone = (await app.trigger(echo, 1, connection=connection)).run
            connection.rollback()
            kept = (await app.trigger(echo, 2, connection=connection)).run
        assert [run.id for run in (await app.runs.list()).data] == [kept.id]
        assert undone.id != kept.id

    within(postgres_url, "connection", body)


def test_a_sync_runtime_says_that_asyncio_connections_are_not_for_it(postgres_url: str) -> None:
    async def main() -> None:
        engine = create_async_engine(async_url(postgres_url))
        with Runlane(postgres_url, tasks=[echo]) as app:
            async with await psycopg.AsyncConnection.connect(postgres_url) as raw, engine.connect() as wrapped:
                for connection in (raw, wrapped):
                    with pytest.raises(ConfigurationInvalid, match="their asyncio forms join an AsyncRunlane"):
                        app.trigger(echo, 1, connection=connection)
            assert app.runs.list().data == ()
        await engine.dispose()

    asyncio.run(main())


def test_the_loop_goes_on_while_a_trigger_waits_on_the_callers_connection(postgres_url: str) -> None:
    """The bridge to an asyncio connection must not wait for the loop on the loop itself."""

    async def body(app: AsyncRunlane, _: Opener) -> None:
        async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
            async with asyncio.timeout(20):
                done = await asyncio.gather(
                    app.trigger(echo, 1, connection=connection), app.trigger(echo, 2), asyncio.sleep(0, "ticked")
                )
        assert done[2] == "ticked"
        assert len((await app.runs.list()).data) == 2

    within(postgres_url, "psycopg", body)


@pytest.mark.parametrize("driver", ["psycopg", "sqlalchemy"])
def test_a_cancelled_call_has_ended_before_the_caller_goes_on(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """What a thread wrote later would be in the caller's next transaction."""
    settled: list[Any] = []
    cancelled = threading.Event()
    real = trigger._settle_singleton

    async def body(app: AsyncRunlane, begin: Opener) -> None:
        loop, engine = asyncio.get_running_loop(), create_engine(sqlalchemy_url(postgres_url))
        wanted = [Trigger(strict, n, singleton_key=f"{n}") for n in range(10)]

        def cancel() -> None:
            call.cancel()
            cancelled.set()

        def settle(tx: Any, change: Any, now: Any) -> Any:
            done = real(tx, change, now)
            settled.append(done)
            if len(settled) == 3:
                loop.call_soon_threadsafe(cancel)
                assert cancelled.wait(PATIENCE)
            return done

        monkeypatch.setattr(trigger, "_settle_singleton", settle)
        if driver == "psycopg":
            connection: Any = await psycopg.AsyncConnection.connect(postgres_url)
        else:
            connection = engine.connect()
        call = asyncio.ensure_future(app.trigger_many(wanted, connection=connection))
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(settled) == 10
        for end in ("rollback", "commit"):
            done = getattr(connection, end)()
            if driver == "psycopg":
                await done
        assert (await app.runs.list()).data == ()
        closed = connection.close()
        if driver == "psycopg":
            await closed
        engine.dispose()

    within(postgres_url, "connection", body)
