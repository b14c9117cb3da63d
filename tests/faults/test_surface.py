"""No driver exception crosses the public surface: every public operation, every kind of fault, every lane."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from runlane import AsyncRunlane, Lane, Runlane, RunlaneError, SettableClock
from runlane.auditing import Audit
from runlane.operators import IdempotencyKeys, Runs
from runlane.projecting import Projections
from runlane.steering import Queues, Schedules
from runlane.storage import database as databases
from runlane.storage.database import Database
from tests.engine.tasks import echo
from tests.faults.driver import Call, engines_of, struck
from tests.faults.kinds import EVERY, POSTGRES, SQLITE, STRIKES, Kind
from tests.faults.operations import FIRST, OPERATIONS, OPTIONS, Operation, Prepared, run_async
from tests.support import database_of, execute

# SQLAlchemy leaves a server-side cursor to itself when the connection under it is gone.
pytestmark = pytest.mark.filterwarnings("ignore:.*ServerCursor.* was deleted while still open:ResourceWarning")

ALL = FIRST + OPERATIONS
LANES = ("memory", "sqlite", "postgres")


def test_the_table_has_every_public_operation() -> None:
    named = {operation.path for operation in ALL}
    parts = {
        "runs": Runs,
        "idempotency_keys": IdempotencyKeys,
        "schedules": Schedules,
        "queues": Queues,
        "audit": Audit,
        "projections": Projections,
    }
    public = {f"{part}.{name}" for part, cls in parts.items() for name, _ in methods(cls)}
    public |= {name for name, _ in methods(Runlane)} - {"close"}  # that one has a test of its own
    assert named == public


def methods(cls: type) -> list[tuple[str, Any]]:
    return [(name, found) for name, found in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")]


class Surface:
    """A runtime on one lane, and the arguments of every operation: made once, as nothing of what follows succeeds."""

    def __init__(self, url: str) -> None:
        self.url, self.clock = url, SettableClock()
        self.app = self.new()
        self.app.start()
        self.app.migrate()
        self.arguments: dict[str, Prepared] = {one.name: one.prepare(self.app, self.clock) for one in OPERATIONS}
        # With its maintenance, or it would wait for ever for the database to come back.
        self.arguments |= {"worker": (("drain",), {}), **{one.name: ((), {}) for one in FIRST}}

    def new(self, **options: Any) -> Runlane:
        lane = Lane(Database(self.url, patience=0.01, busy_timeout=0.05, **options))
        return Runlane(lane, clock=self.clock, **OPTIONS)

    def call(self, operation: Operation) -> Any:
        return operation.call(self.app, self.arguments[operation.name])


@pytest.fixture(scope="module")
def prepared(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Surface]]:
    """One for each lane."""
    urls = {
        "memory": "memory:",
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('surface') / 'runlane.db'}",
        "postgres": postgres.migrated(),
    }
    made = {lane: Surface(url) for lane, url in urls.items()}
    yield made
    for one in made.values():
        assert one.app.audit.verify().differences == ()
        one.app.close()


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again eight times shows the same when it is tried twice."""
    monkeypatch.setattr(databases, "_ATTEMPTS", 2)


def always(kind: Kind, at: str) -> Callable[[Call, Callable[[], None]], None]:
    """Every statement fails, or every commit."""

    def strike(call: Call, real: Callable[[], None]) -> None:
        if call.kind == at:
            raise kind.raised(call)
        real()

    return strike


def check(error: RunlaneError, kind: Kind) -> None:
    assert error.code == kind.code
    assert "\n" not in error.message
    assert isinstance(error.__cause__, Exception)


@pytest.mark.parametrize(("lane", "kind", "at"), STRIKES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_fault_of_the_database(
    prepared: dict[str, Surface], lane: str, kind: Kind, operation: Operation, at: str
) -> None:
    one = prepared[lane]
    with struck(always(kind, at), *engines_of(database_of(one.app))):
        with pytest.raises(RunlaneError) as caught:
            one.call(operation)
    check(caught.value, kind)


@pytest.mark.parametrize(("lane", "kind", "at"), STRIKES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("operation", FIRST, ids=lambda operation: operation.name)
def test_a_fault_before_anything_else(
    prepared: dict[str, Surface], lane: str, kind: Kind, operation: Operation, at: str
) -> None:
    with closing(prepared[lane].new()) as app:
        with struck(always(kind, at), *engines_of(database_of(app))), pytest.raises(RunlaneError) as caught:
            operation.call(app, ((), {}))
    check(caught.value, kind)


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
def test_the_async_face_is_no_other(prepared: dict[str, Surface], operation: Operation) -> None:
    async def main() -> None:
        for lane, kinds in (("sqlite", SQLITE), ("postgres", POSTGRES)):
            one = prepared[lane]
            for kind in kinds:
                app = AsyncRunlane(Lane(Database(one.url, patience=0.01)), clock=one.clock, **OPTIONS)
                with struck(always(kind, "execute"), *engines_of(app.lane.database)):
                    with pytest.raises(RunlaneError) as caught:
                        await operation.call_async(app, one.arguments[operation.name])
                check(caught.value, kind)
                await app.close()

    run_async(main)


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
@pytest.mark.parametrize("lane", LANES)
def test_a_pool_that_is_used_up(prepared: dict[str, Surface], lane: str, operation: Operation) -> None:
    with closing(prepared[lane].new(pool_size=1)) as app:
        app.start()
        with database_of(app).engine.connect():
            again = prepared[lane].new(pool_size=1) if operation in FIRST else app
            if again is not app:
                database_of(again).engine = database_of(app).engine
            with pytest.raises(RunlaneError, match="no free connection") as caught:
                operation.call(again, prepared[lane].arguments[operation.name])
    assert caught.value.code == "storage_unavailable"


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.name)
@pytest.mark.parametrize("lane", LANES[1:])
def test_a_connection_that_cannot_be_made(prepared: dict[str, Surface], lane: str, operation: Operation) -> None:
    def refuse(*_: Any) -> None:
        if lane == "postgres":
            raise psycopg.OperationalError("connection failed: FATAL: sorry, too many clients already")
        raise SQLITE[6].raised(Call("connect", False, None))

    with closing(prepared[lane].new()) as app:
        for engine in engines_of(database_of(app)):
            event.listen(engine, "do_connect", refuse)
        with pytest.raises(RunlaneError) as caught:
            operation.call(app, prepared[lane].arguments[operation.name])
    assert caught.value.code == ("storage_unavailable" if lane == "postgres" else "configuration_invalid")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_tables_that_are_missing(postgres_url: str, operation: Operation, prepared: dict[str, Surface]) -> None:
    """In truth, and not only as the driver tells it."""
    with closing(Runlane(postgres_url, **OPTIONS)) as app:
        app.start()
        execute(database_of(app), "drop schema runlane cascade")
        with pytest.raises(RunlaneError, match="not migrated") as caught:
            operation.call(app, prepared["postgres"].arguments[operation.name])
    assert caught.value.code == "configuration_invalid"


@pytest.mark.parametrize(("lane", "kind"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_closing_raises_nothing(prepared: dict[str, Surface], lane: str, kind: Kind) -> None:
    app = prepared[lane].new().start()
    app.run_now(echo, 1)  # so that there is a session to end
    with struck(always(kind, "execute"), *engines_of(database_of(app))):
        app.close()


# In the caller's own transaction.


@pytest.mark.parametrize("form", ["connection", "session"])
@pytest.mark.parametrize(("lane", "kind"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_a_fault_in_the_callers_transaction(prepared: dict[str, Surface], lane: str, kind: Kind, form: str) -> None:
    one = prepared[lane]
    engine = create_engine(one.url.replace("postgresql://", "postgresql+psycopg://"))
    for name in ("trigger", "trigger_many"):
        operation = next(operation for operation in OPERATIONS if operation.name == name)
        positional, named = one.arguments[name]
        with Session(engine) if form == "session" else engine.connect() as connection:
            with struck(always(kind, "execute"), engine), pytest.raises(RunlaneError) as caught:
                operation.call(one.app, (positional, {**named, "connection": connection}))
        check(caught.value, kind)
    engine.dispose()


@pytest.mark.parametrize("kind", POSTGRES, ids=lambda kind: kind.name)
def test_a_fault_in_the_callers_psycopg_transaction(prepared: dict[str, Surface], kind: Kind) -> None:
    class Failing(psycopg.Cursor[Any]):
        def execute(self, *_: Any, **__: Any) -> Any:
            raise kind.raised(Call("execute", False, self.connection))

    one = prepared["postgres"]
    with closing(psycopg.connect(one.url, cursor_factory=Failing)) as connection:
        with pytest.raises(RunlaneError) as caught:
            one.app.trigger(echo, 1, connection=connection)
    check(caught.value, kind)


@pytest.mark.parametrize("kind", POSTGRES, ids=lambda kind: kind.name)
def test_a_fault_in_the_callers_psycopg_asyncio_transaction(prepared: dict[str, Surface], kind: Kind) -> None:
    class Failing(psycopg.AsyncCursor[Any]):
        async def execute(self, *_: Any, **__: Any) -> Any:
            raise kind.raised(Call("execute", False, self.connection))

    one = prepared["postgres"]

    async def main() -> None:
        app = AsyncRunlane(one.url, clock=one.clock, **OPTIONS)
        connection = await psycopg.AsyncConnection.connect(one.url, cursor_factory=Failing)
        with pytest.raises(RunlaneError) as caught:
            await app.trigger(echo, 1, connection=connection)
        await connection.close()
        await app.close()
        check(caught.value, kind)

    run_async(main)


@pytest.mark.parametrize("form", [AsyncConnection, AsyncSession])
@pytest.mark.parametrize(("lane", "kind"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_a_fault_in_the_callers_asyncio_transaction(
    prepared: dict[str, Surface], lane: str, kind: Kind, form: type
) -> None:
    one = prepared[lane]
    url = one.url.replace("postgresql://", "postgresql+psycopg://").replace("sqlite://", "sqlite+aiosqlite://")

    async def main() -> None:
        engine = create_async_engine(url)
        app = await AsyncRunlane(one.url, clock=one.clock, **OPTIONS).start()
        async with form(engine) as connection:
            with struck(always(kind, "execute"), engine.sync_engine), pytest.raises(RunlaneError) as caught:
                await app.trigger(echo, 1, connection=connection)
        check(caught.value, kind)
        await app.close()
        await engine.dispose()

    run_async(main)


@pytest.mark.parametrize("form", ["connection", "session", "psycopg"])
def test_a_callers_transaction_that_has_failed_already(prepared: dict[str, Surface], form: str) -> None:
    one = prepared["postgres"]
    engine = create_engine(one.url.replace("postgresql://", "postgresql+psycopg://"))
    opened: Any = {
        "connection": engine.connect,
        "session": lambda: Session(engine),
        "psycopg": lambda: psycopg.connect(one.url),
    }[form]()
    with closing(opened) as connection:
        with pytest.raises(Exception, match="no_such_table"):
            (connection.connection() if form == "session" else connection).execute(
                psycopg_or_text(form, "select * from no_such_table")
            )
        with pytest.raises(RunlaneError, match="has failed already; roll it back") as caught:
            one.app.trigger(echo, 1, connection=connection)
    assert caught.value.code == "configuration_invalid"
    engine.dispose()


def psycopg_or_text(form: str, statement: str) -> Any:
    from sqlalchemy import text

    return statement if form == "psycopg" else text(statement)
