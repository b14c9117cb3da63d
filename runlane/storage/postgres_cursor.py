"""PostgreSQL: a cursor that has a statement executed with as little as possible in between; to import it takes psycopg.

What the driver has prepared, as it has all of our statements but for their first times, goes to the wire from here: of
a lone trigger the driver's own cursor, and what it does with a text, took a sixth of this process's time.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from functools import cache
from itertools import count
from typing import Any

from psycopg import Cursor, RawCursor
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus

#: Characters of a statement up to which the driver remembers how to send it; longer ones it would read again and again.
REMEMBERED = 4096
_PLACE = re.compile("%[%bst]")
_FORMATS = {"%s": PyFormat.AUTO, "%b": PyFormat.BINARY, "%t": PyFormat.TEXT}
#: libpq's numbers: no transaction is open, one is.
_NONE, _OPEN = 0, 2
_ROWS, _DONE = int(ExecStatus.TUPLES_OK), int(ExecStatus.COMMAND_OK)


@cache
def _numbered(text: str) -> str:
    """A statement with numbered parameters, which the driver sends as it is."""
    numbers = count(1)
    return _PLACE.sub(lambda found: "%" if found[0] == "%%" else f"${next(numbers)}", text)


@cache
def _sent(text: str) -> tuple[bytes, list[Any]]:
    """A statement as the driver sends and remembers it, and how it packs each of the parameters."""
    places = [place for place in _PLACE.findall(text) if place != "%%"]
    told = len(text) <= REMEMBERED  # numbers do not say it
    return _numbered(text).encode(), [_FORMATS[place] if told else PyFormat.AUTO for place in places]


class ShortCursor:
    """A cursor for one statement.

    Under which name the driver has prepared it stands in the driver's books, for which it has no public question; they
    stay in use, so that it goes on to forget old ones, and all of them after a rollback.  A statement that is not in
    them, or that something has to come before (the begin of a transaction), is left to a cursor of the driver's.
    """

    def __init__(self, driver: Any) -> None:
        self.connection = driver
        self.rowcount = -1
        self._own: Any = None
        self._rows: Sequence[Any] = ()

    def execute(self, text: str, parameters: Sequence[Any]) -> None:
        """Execute it.

        Raises:
            psycopg.Error: as from a cursor of the driver's.
        """
        if not self._at_once(text, parameters):
            self._by_the_driver(text, parameters)

    def fetchall(self) -> Sequence[Any]:
        """All rows; none if it is not of those that return some."""
        return self._rows

    def close(self) -> None:
        """Close what the driver has opened for it."""
        if self._own is not None:
            self._own.close()

    def _by_the_driver(self, text: str, parameters: Sequence[Any]) -> None:
        driver = self.connection
        if len(text) > REMEMBERED and driver.cursor_factory is Cursor:
            text, self._own = _numbered(text), RawCursor(driver)
        else:
            self._own = driver.cursor()
        self._own.execute(text, parameters)
        result = self._own.pgresult  # to ask for the cursor's description would describe each column
        if result is not None and result.nfields:
            self._rows = self._own.fetchall()
        self.rowcount = self._own.rowcount

    def _at_once(self, text: str, parameters: Sequence[Any]) -> bool:
        """Execute it, if it is prepared and can go out as it is."""
        driver = self.connection
        wire, status = driver.pgconn, driver.pgconn.transaction_status
        if driver.cursor_factory is not Cursor or wire.pipeline_status:
            return False
        if status != _OPEN and not (status == _NONE and driver.autocommit):
            return False
        with driver.lock:
            query, wanted = _sent(text)
            if len(parameters) != len(wanted):
                return False
            values = Transformer.from_context(driver)
            given = values.dump_sequence(parameters, wanted)
            known = _prepared_on(driver)
            key = (query, values.types or ())
            name = known.get(key)
            if name is None:
                return False
            known.move_to_end(key)  # the driver forgets those that were used longest ago
            self._take(driver.wait(_going(wire, name, given, values.formats)), values)
        return True

    def _take(self, results: Sequence[Any], values: Any) -> None:
        [result] = results  # a prepared statement is a single one
        if result.status == _ROWS:
            values.set_pgresult(result)
            self.rowcount = result.ntuples
            if result.nfields:
                self._rows = values.load_rows(0, result.ntuples, tuple)
        elif result.status == _DONE:
            self.rowcount = -1 if result.command_tuples is None else result.command_tuples
        else:
            raise error_from_result(result, encoding=self.connection.info.encoding)


def _going(wire: Any, name: bytes, given: Sequence[Any], formats: Any) -> Generator[Any, Any, Any]:
    """Send it and receive; both while the driver waits, which has the server cancel it at a Ctrl-C."""
    wire.send_query_prepared(name, given, formats)
    return (yield from execute(wire))


def _prepared_on(driver: Any) -> Any:
    """Names of the statements that are prepared on a connection; none if the driver keeps its books otherwise."""
    return getattr(getattr(driver, "_prepared", None), "_names", _NO_NAMES)


_NO_NAMES: dict[Any, bytes] = {}
