"""PostgreSQL beneath SQLAlchemy: the statements of our own text go to the driver without a detour.

SQLAlchemy makes a context, a result and the metadata of its columns for each of them, which costs as much as the driver
itself.  What is left to it are connections, transactions, statements of its own, and what an error means: whether the
connection is gone, and those of the pool that are as old with it.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import count
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable

from runlane.storage.direct import Rows

#: Characters of a statement up to which the driver remembers how to send it; longer ones it would read again and again.
_REMEMBERED = 4096
_PLACE = re.compile("%[%bst]")


@cache
def _numbered(text: str) -> str:
    """A statement with numbered parameters, which the driver sends as it is."""
    numbers = count(1)
    return _PLACE.sub(lambda found: "%" if found[0] == "%%" else f"${next(numbers)}", text)


class PsycopgConnection:
    """One of our own connections to PostgreSQL, for one transaction or for statements that commit themselves."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._dialect = connection.dialect

    def exec_driver_sql(self, text: str, parameters: Any = ()) -> Rows:
        """As ``Connection.exec_driver_sql`` with one tuple of parameters."""
        from psycopg import Cursor, RawCursor

        cursor: Any = None
        try:
            if len(text) > _REMEMBERED and self._driver.cursor_factory is Cursor:
                text, cursor = _numbered(text), RawCursor(self._driver)
            else:
                cursor = self._driver.cursor()
            self._dialect.do_execute(cursor, text, parameters)
            result = cursor.pgresult  # to ask for the cursor's description would describe each column
            rows = Rows(cursor.fetchall() if result is not None and result.nfields else ())
        except BaseException as error:
            told = text if isinstance(error, self._dialect.loaded_dbapi.Error) else None  # others pass as they are
            self._connection._handle_dbapi_exception(error, told, parameters, cursor, None)
        rows.rowcount = cursor.rowcount
        return rows

    def execute(
        self, statement: Executable, parameters: Any = None, *, execution_options: Any = None
    ) -> CursorResult[Any]:
        """As ``Connection.execute``."""
        return self._connection.execute(statement, parameters, execution_options=execution_options)
