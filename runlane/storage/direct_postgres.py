"""PostgreSQL beneath SQLAlchemy: the statements of our own text go to the driver without a detour.

SQLAlchemy makes a context, a result and the metadata of its columns for each of them, which costs as much as the driver
itself.  What is left to it are connections, transactions, statements of its own, and what an error means: whether the
connection is gone, and those of the pool that are as old with it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, CursorResult, Executable

from runlane.storage.direct import Rows


class PsycopgConnection:
    """One of our own connections to PostgreSQL, for one transaction or for statements that commit themselves."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._dialect = connection.dialect

    def exec_driver_sql(self, text: str, parameters: Any = ()) -> Rows:
        """As ``Connection.exec_driver_sql`` with one tuple of parameters."""
        from runlane.storage.postgres_cursor import ShortCursor

        cursor: Any = ShortCursor(self._driver)
        try:
            self._dialect.do_execute(cursor, text, parameters)
        except BaseException as error:
            told = text if isinstance(error, self._dialect.loaded_dbapi.Error) else None  # others pass as they are
            self._connection._handle_dbapi_exception(error, told, parameters, cursor, None)
        rows = Rows(cursor.fetchall())
        rows.rowcount = cursor.rowcount
        return rows

    def execute(
        self, statement: Executable, parameters: Any = None, *, execution_options: Any = None
    ) -> CursorResult[Any]:
        """As ``Connection.execute``."""
        return self._connection.execute(statement, parameters, execution_options=execution_options)
