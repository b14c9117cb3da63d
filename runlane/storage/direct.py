"""SQLite beneath SQLAlchemy: the statements of our own transactions go to the driver as they were compiled before.

A statement on a file in this process takes some ten microseconds, and SQLAlchemy's way to it and back several times as
much.  What it knows of a statement is kept here instead: its text, the order of its parameters, and how the values of
each type are written and read.  Errors come out as SQLAlchemy's, which the rest of the storage knows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from attrs import frozen
from sqlalchemy import Connection, CursorResult, Dialect, Executable
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.sql import visitors
from sqlalchemy.types import TupleType

_Convert = Callable[[Any], Any]
_LOG = logging.getLogger("sqlalchemy.engine.Engine")

#: What SQLAlchemy puts in the place of a list of values, for each execution to expand.
_LIST = re.compile(r"__\[POSTCOMPILE_\w+\]")
_VALUES_OF_LIST = "select value from json_each(?)"


class Rows(list[Any]):
    """The rows of a statement as the driver gives them, with as much of SQLAlchemy's results as statements of our own
    text are asked for."""

    rowcount = -1

    def all(self) -> Rows:
        """All of them."""
        return self

    def first(self) -> Any:
        """The first one, or None."""
        return self[0] if self else None

    def scalar(self) -> Any:
        """The first value of the first row, or None."""
        return self[0][0] if self else None

    def scalar_one(self) -> Any:
        """The first value of the only row."""
        ((value, *_),) = self
        return value


class Found(IteratorResult[Any]):
    """The rows of a compiled statement, with their values as SQLAlchemy's types have them."""

    rowcount = -1


@frozen
class _Place:
    """A parameter of a statement: its name, its value if none is given, and what the driver takes for a value."""

    name: str
    is_required: bool
    value: Any
    convert: _Convert | None


@frozen
class _Compiled:
    """A statement as the driver takes it, and what its columns are: names, and by index how values are read."""

    text: str
    places: Sequence[_Place]
    names: SimpleResultMetaData | None
    read: Sequence[tuple[int, _Convert]]

    def parameters(self, given: Mapping[str, Any]) -> list[Any]:
        """The values of the parameters, in the order of the text."""
        values = []
        for place in self.places:
            value = given[place.name] if place.is_required else given.get(place.name, place.value)
            values.append(value if place.convert is None else place.convert(value))
        return values

    def rows(self, found: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """The rows, with values as the types have them."""
        for row in found:
            values = list(row)
            for index, convert in self.read:
                values[index] = convert(values[index])
            yield values


class DirectConnection:
    """One of our own connections to SQLite, for the statements of one transaction that SQLAlchemy has begun."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._dialect = connection.dialect

    def exec_driver_sql(self, text: str, parameters: Any = ()) -> Rows:
        """As ``Connection.exec_driver_sql``: a tuple of parameters, or a list of several."""
        dialect = self._dialect
        execute = dialect.do_executemany if isinstance(parameters, list) else dialect.do_execute
        cursor, found = self._run(execute, text, parameters)
        rows = Rows(found)
        rows.rowcount = cursor.rowcount
        return rows

    def execute(
        self, statement: Executable, parameters: Any = None, *, execution_options: Any = None
    ) -> CursorResult[Any] | Found:
        """As ``Connection.execute``."""
        compiled = _compiled(statement, self._dialect) if parameters is None or isinstance(parameters, dict) else None
        if compiled is None:
            return self._connection.execute(statement, parameters, execution_options=execution_options)
        try:
            values = compiled.parameters(parameters or {})
        except Exception as error:
            raise StatementError(str(error), compiled.text, parameters, error, hide_parameters=True) from error
        cursor, rows = self._run(self._dialect.do_execute, compiled.text, values)
        names = compiled.names or SimpleResultMetaData([column[0] for column in cursor.description or ()])
        found = Found(names, compiled.rows(rows) if compiled.read else iter(rows))
        found.rowcount = cursor.rowcount
        return found

    def _run(self, execute: Callable[[Any, str, Any], None], text: str, parameters: Any) -> tuple[Any, Any]:
        """The cursor, and all rows at once: no statement stays open."""
        try:
            cursor = self._driver.cursor()
            execute(cursor, text, parameters)
            return cursor, cursor.fetchall()
        except self._driver.Error as error:
            raise DBAPIError.instance(
                text, parameters, error, self._driver.Error, hide_parameters=True, dialect=self._dialect
            ) from error


def is_heard(connection: Connection) -> bool:
    """Whether somebody listens to the statements of a connection, or logs them, and SQLAlchemy has to tell of them."""
    listened = connection.engine.dispatch
    return bool(listened.before_cursor_execute or listened.after_cursor_execute or _LOG.isEnabledFor(logging.INFO))


def shortest(connection: Connection) -> Connection | DirectConnection:
    """What executes statements in the shortest way there is, unless somebody listens to them or logs them."""
    if is_heard(connection) or connection.dialect.driver != "pysqlite":
        return connection
    return DirectConnection(connection)


#: Of each statement that lives: None once it was seen, False if it is not to be had, else as it was compiled.
_kept: WeakKeyDictionary[Executable, _Compiled | bool | None] = WeakKeyDictionary()


def _compiled(statement: Executable, dialect: Dialect) -> _Compiled | None:
    """The statement as compiled, if it has been here before: only one that does not come again is not worth it."""
    try:
        kept = _kept[statement]
    except KeyError:
        _kept[statement] = None
        return None
    if kept is None:
        kept = _kept[statement] = _compile(statement, dialect) or False
    return kept if isinstance(kept, _Compiled) else None


def _compile(statement: Any, dialect: Dialect) -> _Compiled | None:
    """None if each execution has its own text, or the rows are to come bit by bit."""
    if statement.get_execution_options().get("yield_per"):
        return None
    if getattr(statement, "_values", ()) is None:  # what it writes is known by its parameters only
        return None
    if any(getattr(part, "literal_execute", False) for part in visitors.iterate(statement)):
        return None
    compiled = statement.compile(dialect=dialect)
    text = _LIST.sub(_VALUES_OF_LIST, compiled.string)
    columns = list(getattr(statement, "exported_columns", ()))
    if columns and len(compiled._result_columns) != len(columns):  # some of them are plain text
        return None
    if any(isinstance(bind.type, TupleType) for bind in compiled.binds.values()):
        return None
    readers = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    return _Compiled(
        text,
        [_place(name, compiled.binds[name], dialect) for name in compiled.positiontup],
        SimpleResultMetaData([column.key for column in columns]) if columns else None,
        [(index, reader) for index, reader in enumerate(readers) if reader is not None],
    )


def _place(name: str, bind: Any, dialect: Dialect) -> _Place:
    convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
    return _Place(name, bind.required, bind.effective_value, _listing(convert) if bind.expanding else convert)


def _listing(convert: _Convert | None) -> _Convert:
    def listed(values: Iterable[Any]) -> str:
        return orjson.dumps([value if convert is None else convert(value) for value in values]).decode()

    return listed
