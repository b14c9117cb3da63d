"""Closing a database while somebody is in the middle of something."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import event, text

from runlane.storage.database import Database
from runlane.storage.transaction import Transaction
from tests.support import PATIENCE

WAYS: dict[str, Callable[[Database], AbstractContextManager[Transaction]]] = {
    "write": lambda database: database.write(),
    "beat": lambda database: database.write(beat=True),
    "read": lambda database: database.read(),
    "snapshot": lambda database: database.snapshot(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_transaction_in_progress_ends_and_its_connection_is_closed_then(shared: Database, way: str) -> None:
    with WAYS[way](shared) as tx:
        driver = tx.connection.connection.driver_connection
        shared.dispose()
        assert tx.connection.execute(text("select 1")).scalar() == 1
    assert is_closed(driver)


def test_a_statement_that_commits_itself_ends_and_its_connection_is_closed_then(shared: Database) -> None:
    with shared._stating() as connection:
        driver = connection.connection.driver_connection
        shared.dispose()
        assert connection.execute(text("select 1")).scalar() == 1
    assert is_closed(driver)


def test_a_disposed_database_opens_again_and_keeps_its_new_connections(shared: Database) -> None:
    shared.dispose()
    with shared.write() as tx:
        driver = tx.connection.connection.driver_connection
    with shared.write() as tx:
        assert tx.connection.connection.driver_connection is driver


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_was_being_made_is_closed_as_well(shared_url: str, way: str) -> None:
    database = Database(shared_url)
    event.listen(database.engine, "connect", lambda *_: database.dispose(), insert=True, once=True)
    event.listen(database.beat_engine, "connect", lambda *_: database.dispose(), insert=True, once=True)
    with WAYS[way](database) as tx:
        driver = tx.connection.connection.driver_connection
    assert is_closed(driver)
    database.dispose()


@pytest.mark.parametrize("beat", [False, True])
def test_whoever_asks_while_connections_are_closed_gets_one(shared: Database, shared_url: str, beat: bool) -> None:
    database = Database(shared_url, pool_size=1, busy_timeout=PATIENCE)
    engine, got = database.beat_engine if beat else database.engine, threading.Event()

    def asks() -> None:
        with database.write(beat=beat):
            got.set()

    asking = threading.Thread(target=asks, daemon=True)

    @event.listens_for(engine, "close")
    def closing(*_: Any) -> None:
        if asking.ident is None:
            asking.start()
            assert got.wait(PATIENCE / 2)

    with database.write(beat=beat):
        pass
    database.dispose()
    asking.join(PATIENCE)
    assert got.is_set()
    database.dispose()


def is_closed(driver: object) -> bool:
    """Whether the driver's connection, of either kind, is closed."""
    try:
        driver.cursor().execute("select 1")  # type: ignore[attr-defined]
    except Exception as error:
        return "closed" in str(error)
    return False
