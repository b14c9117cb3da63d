"""What a SQLite file has to hold, piece by piece, and what it holds."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from typing import Any

from runlane.health import Health
from runlane.storage import sqlite_ddl
from runlane.storage.shapes import Piece, Shape, of, plain

_MASTER = "select type, name, tbl_name, sql from sqlite_master where sql is not null and name not like 'sqlite_%'"
_CONSTRAINT = re.compile(r"\bconstraint (\w+) (?=check|primary|unique)", re.IGNORECASE)


@cache
def expected() -> Shape:
    """What a new file holds."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in sqlite_ddl.statements():
            connection.execute(statement)
        return found(lambda asked, _: connection.execute(asked).fetchall(), None)


def found(ask: Callable[[str, tuple[Any, ...]], list[Any]], ours: Shape | None) -> Shape:
    """What there is; `ours` is what is looked at closely, else everything."""
    return of(_found(ask, ours))


def _found(ask: Callable[[str, tuple[Any, ...]], list[Any]], ours: Shape | None) -> Iterator[Piece]:
    for kind, name, table, sql in ask(_MASTER, ()):
        if kind == "table":
            yield Piece("table", name, "ordinary")
            if ours is None or ("table", name) in ours:
                yield from _columns(ask, name)
                yield from (Piece("constraint", f"{name}.{found}", "") for found in _CONSTRAINT.findall(sql))
        elif kind in ("index", "trigger") and (ours is None or ("table", table) in ours):
            unique = kind == "index" and sql.lower().startswith("create unique")
            make = " ".join(sql.split())
            mend = f"drop {kind} {name}; {make}"
            severity = None if kind == "trigger" else Health.CRITICAL if unique else Health.WARNING
            if ours is not None and kind == "index":
                severity = Health.WARNING if unique else Health.OK  # of a stranger's: it may refuse what we write
            yield Piece(kind, f"{table}.{name}", plain(sql).replace("main.", ""), severity, make, mend)


def _columns(ask: Callable[[str, tuple[Any, ...]], list[Any]], table: str) -> Iterator[Piece]:
    for _, name, kind, not_null, default, key in ask(f'pragma table_info("{table}")', ()):
        told = [kind.lower(), "not null" if not_null or key else "null"]
        severity = Health.CRITICAL if not_null and default is None else None
        definition = " ".join([*told, *([f"default {default}"] if default is not None else [])])
        yield Piece("column", f"{table}.{name}", definition, severity)
