"""Compiled statements, shared by all engines of the process that would compile them alike.

SQLAlchemy keeps what it has compiled per engine; a process that opens many applications, as a test suite does, would
compile the same few dozen statements for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from sqlalchemy.util import LRUCache

_SIZE = 1000  # statements; our own are constants, and their combinations of filters are few
_compiled: LRUCache[Any, Any] = LRUCache(_SIZE)


class Compiled(MutableMapping[Any, Any]):
    """The compiled statements of one engine, for SQLAlchemy's option ``compiled_cache``.

    Args:
        schema: what the engine's statements name as their schema.

    SQLAlchemy's keys begin with the engine's dialect.  What that one compiles depends on its class, on the server's
    version as it has found it, and on the schema; so these stand in its place here.
    """

    def __init__(self, schema: str | None) -> None:
        self._schema = schema

    def _shared(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        dialect, *statement = key
        return type(dialect), dialect.server_version_info, self._schema, *statement

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        """The compiled statement, or `default`."""
        return _compiled.get(self._shared(key), default)

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        return _compiled[self._shared(key)]

    def __setitem__(self, key: tuple[Any, ...], value: Any) -> None:
        _compiled[self._shared(key)] = value

    def __delitem__(self, key: tuple[Any, ...]) -> None:
        del _compiled[self._shared(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return len(_compiled)
