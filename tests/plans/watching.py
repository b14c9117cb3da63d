"""Plans of the very statements that an application executes, with its parameters, in the state it executes them in.

On PostgreSQL every cursor of the application explains a statement before it executes it: the statement is prepared,
``EXPLAIN (ANALYZE, BUFFERS)`` executes that (so the plan is the generic one, as the application's own is), and a
savepoint takes back what it did.  It sits at the driver's cursor, so it sees statements past SQLAlchemy too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from attrs import Factory, define, frozen
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy import Engine, event

#: ``%s``, ``%b``, ``%t`` and their named forms, as psycopg knows them.
_PLACE = re.compile(r"%%|%(?:\((\w+)\))?([sbt])")
_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY, "t": PyFormat.TEXT}
_EXPLAINED = re.compile(r"\s*(with|select|insert|update|delete)\b", re.IGNORECASE)
_UNKNOWN = 705  # the server's number of the type that is to be found out
_QUIET = re.compile(r"\s*select (pg_advisory_xact_lock|clock_timestamp|set_config|pg_notify)", re.IGNORECASE)


@frozen
class Node:
    """A step of a plan: what EXPLAIN says of it, and how often it was made."""

    about: dict[str, Any]

    @property
    def kind(self) -> str:
        """Such as ``Index Scan``."""
        return str(self.about["Node Type"])

    @property
    def table(self) -> str | None:
        """The table it reads or changes, if it does."""
        return self.about.get("Relation Name")

    @property
    def rows(self) -> float:
        """How many rows it gave, over all its loops."""
        return float(self.about["Actual Rows"] * self.about["Actual Loops"])

    @property
    def removed(self) -> float:
        """How many rows it read in vain."""
        lost = [value for name, value in self.about.items() if name.startswith("Rows Removed by")]
        return float(sum(lost) * self.about["Actual Loops"])

    @property
    def blocks(self) -> int:
        """How many pages it and what is below it have touched."""
        return int(self.about["Shared Hit Blocks"] + self.about["Shared Read Blocks"])


@frozen
class Plan:
    """A statement and its plan."""

    statement: str
    root: Node

    def nodes(self) -> Iterator[Node]:
        """Every step, from the top."""
        rest = [self.root.about]
        while rest:
            about = rest.pop()
            yield Node(about)
            rest += about.get("Plans", [])


@define
class Watch:
    """What the watched connections have executed since the last ``take``."""

    plans: list[Plan] = Factory(list)

    def take(self) -> list[Plan]:
        """The plans so far, each once."""
        taken, self.plans = self.plans, []
        return taken

    def over(self, *engines: Engine) -> None:
        """Explain what the connections of these engines execute from now on."""
        watch = self

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
                watch.see(self.connection, _text(query, self.connection), params)
                return super().execute(query, params, **options)

            def executemany(self, query: Any, params_seq: Any, **options: Any) -> Any:
                every = list(params_seq)
                watch.see(self.connection, _text(query, self.connection), every[0])
                return super().executemany(query, every, **options)

        class ServerCursor(psycopg.ServerCursor[Any]):
            def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
                watch.see(self.connection, _text(query, self.connection), params)
                return super().execute(query, params, **options)

        def connected(raw: Any, _: Any) -> None:
            raw.cursor_factory, raw.server_cursor_factory = Cursor, ServerCursor

        for engine in engines:
            event.listen(engine, "connect", connected)

    def see(self, connection: psycopg.Connection[Any], query: str, params: Any) -> None:
        """Keep the plan of a statement that is about to be executed."""
        if _EXPLAINED.match(query) and not _QUIET.match(query):
            self.plans.append(Plan(query, Node(explain(connection, query, params))))


def explain(connection: psycopg.Connection[Any], query: str, params: Any) -> dict[str, Any]:
    """The generic plan of a statement, executed with these parameters and taken back."""
    text, values, formats = _numbered(query, params)
    transformer = Transformer(connection)
    transformer.dump_sequence(values, formats)
    if connection.autocommit:  # a statement that commits itself
        before, after = "begin", "rollback"
    else:
        before = "savepoint before_explained"
        after = f"rollback to {before}; release {before}"
    if connection.info.transaction_status is TransactionStatus.IDLE and not connection.autocommit:
        psycopg.Cursor(connection).execute("select 1")  # begins the transaction as the application has it
    given = sql.SQL(", ").join(map(sql.Literal, values)).as_string(connection)
    types, given = (_types(connection, transformer.types), f"({given})") if values else ("", "")
    _send(connection, f"prepare explained {types} as {text}")
    try:
        _send(connection, before)
        told = _send(connection, f"explain (analyze, buffers, timing off, format json) execute explained {given}")
        _send(connection, after)
    finally:
        _send(connection, "deallocate explained", anyhow=True)
    plan: dict[str, Any] = json.loads(told)[0]["Plan"]
    return plan


def _types(connection: psycopg.Connection[Any], oids: Sequence[int] | None) -> str:
    """The parameter list of PREPARE; the server finds out what psycopg leaves open (0), as it does for psycopg."""
    named = ", ".join(f"{oid or _UNKNOWN}::regtype::text" for oid in oids or ())
    names = _send(connection, f"select array_to_string(array[{named}], ', ')")
    return f"({names})"


def _send(connection: psycopg.Connection[Any], text: str, *, anyhow: bool = False) -> str:
    """Past psycopg, which would forget its own prepared statements at a rollback; the first value of the answer."""
    result = connection.pgconn.exec_(text.encode())
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK) and not anyhow:
        raise AssertionError(f"{result.error_message.decode()} in: {text}")
    return (result.get_value(0, 0) or b"").decode() if result.ntuples else ""


def _text(query: Any, connection: psycopg.Connection[Any]) -> str:
    if isinstance(query, sql.Composable):
        return query.as_string(connection)
    return query.decode() if isinstance(query, bytes) else str(query)


def _numbered(query: str, params: Any) -> tuple[str, list[Any], list[PyFormat]]:
    """The statement with ``$1`` for psycopg's placeholders, its values in that order, and how each is sent."""
    if params is None:
        return query, [], []
    values: list[Any] = []
    formats: list[PyFormat] = []
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] in numbers:
            return f"${numbers[match[1]]}"
        values.append(params[len(values)] if match[1] is None else params[match[1]])
        formats.append(_FORMATS[match[2]])
        if match[1] is not None:
            numbers[match[1]] = len(values)
        return f"${len(values)}"

    return _PLACE.sub(number, query), values, formats
