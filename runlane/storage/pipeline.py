"""PostgreSQL: statements whose answers nobody waits for until all are sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError

from runlane.storage.transaction import Transaction


@contextmanager
def pipelined(tx: Transaction) -> Iterator[None]:
    """Send each statement while the database is at those before it, and wait for all of them at the end.

    What they return is not read.  Where the driver cannot do it, each statement is waited for.

    Raises:
        DBAPIError: the database refused one of them, or is gone.
    """
    import psycopg

    if not psycopg.Pipeline.is_supported():
        yield
        return
    driver: Any = tx.connection.connection.driver_connection
    try:
        with driver.pipeline():
            yield
    except psycopg.Error as error:  # by the last wait, which SQLAlchemy knows nothing of
        dialect: Any = tx.connection.dialect
        gone = dialect.is_disconnect(error, driver, None)
        if gone:
            tx.connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, psycopg.Error, connection_invalidated=gone, dialect=dialect
        ) from error
