"""A caller's psycopg connection as a SQLAlchemy one, so that a run can be written in its transaction.

The proxy forwards statements and ignores commit, rollback and close: the transaction stays the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool


class _Borrowed:
    """A DBAPI connection that cannot end anything."""

    def __init__(self, connection: Any, cursor: Any) -> None:
        self._connection = connection
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self, *_: Any, **__: Any) -> Any:
        return self._cursor()

    def commit(self) -> None:
        """Not ours to do."""

    def rollback(self) -> None:
        """Not ours to do."""

    def close(self) -> None:
        """Not ours to do."""


@contextmanager
def borrowed(connection: Any) -> Iterator[Connection]:
    """A SQLAlchemy connection on top of a ``psycopg.Connection``."""
    from psycopg.rows import tuple_row

    proxy = _Borrowed(connection, lambda: connection.cursor(row_factory=tuple_row))
    # A new engine per call: what it learns about the server is two cheap queries, and it must not outlive the call.
    engine = create_engine("postgresql+psycopg://", creator=lambda: proxy, poolclass=NullPool, use_native_hstore=False)
    with engine.connect() as wrapped:
        yield wrapped
