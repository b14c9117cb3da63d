"""A caller's connection, so that a run can be written in its transaction; a psycopg one as a SQLAlchemy one.

The proxy forwards statements and ignores commit, rollback and close: the transaction stays the caller's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from runlane.clock import Clock
from runlane.errors import ConfigurationInvalid
from runlane.storage import faults
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction


def is_a(thing: Any, module: str, name: str) -> bool:
    """Whether `thing` is an instance of this class of SQLAlchemy's.

    Nobody can have one without having imported the module, which takes long, so it is not imported for the question.
    """
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(thing, getattr(loaded, name))


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
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: proxy,
        poolclass=NullPool,
        use_native_hstore=False,
        hide_parameters=True,
    )
    with engine.connect() as wrapped:
        yield wrapped


def _folding(database: Database, tx: Transaction, appends: bool) -> AbstractContextManager[Transaction]:
    return database.inline.within(tx) if appends else nullcontext(tx)


@contextmanager
def joined(database: Database, connection: Any, clock: Clock | None, *, appends: bool = True) -> Iterator[Transaction]:
    """A transaction inside the one that the caller has open on `connection`.

    Args:
        appends: whether it may append events, which inline projections fold at its end.

    Raises:
        ConfigurationInvalid: it is no connection that can be joined, or one to another kind of database.
    """
    with faults.translated(database.where):
        if is_a(connection, "sqlalchemy.orm", "Session"):
            connection = connection.connection()
        if isinstance(connection, sqlalchemy.Connection):
            with _folding(database, database.join(connection, clock), appends) as tx:
                yield tx
        elif hasattr(connection, "pgconn") and not inspect.iscoroutinefunction(connection.execute):
            with borrowed(connection) as wrapped:
                with _folding(database, database.join(wrapped, clock), appends) as tx:
                    yield tx
        else:
            raise ConfigurationInvalid(
                "connection must be a SQLAlchemy Connection or Session, or a psycopg Connection "
                f"(their asyncio forms join an AsyncRunlane); got {type(connection).__name__}"
            )
