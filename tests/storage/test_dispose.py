"""Closing a database while somebody is in the middle of something."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import text

from runlane.storage.database import Database
from runlane.storage.transaction import Transaction

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


def is_closed(driver: object) -> bool:
    """Whether the driver's connection, of either kind, is closed."""
    try:
        driver.cursor().execute("select 1")  # type: ignore[attr-defined]
    except Exception as error:
        return "closed" in str(error)
    return False
