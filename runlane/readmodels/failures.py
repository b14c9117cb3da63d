"""A search index over failures: those that differ by numbers, times and ids only are one shape."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from attrs import fields, frozen
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    select,
)

from runlane.events import Recorded, RunFailed, RunRetryScheduled
from runlane.readmodels import rows
from runlane.storage import tables
from runlane.storage.tables import Guid, Instant
from runlane.values import identifier

#: What a shape has in place of what differs from failure to failure, in the order in which it is looked for.
_PLACEHOLDERS = (
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<address>"),
    (re.compile(r"\b0[xX][0-9a-fA-F]+\b|\b(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\b"), "<id>"),
    # A word with digits in it, such as order-4711 or A17B.
    (re.compile(r"(?<![\w<])[+-]?\d+(?:[.,]\d+)*(?!\w)"), "<n>"),
    (re.compile(r"\d+"), "<n>"),
)
_LONGEST = 500


def shape_of(message: str) -> str:
    """A message with placeholders for ids, times, addresses and numbers, on one line, 500 characters at most."""
    text = " ".join(message.split())
    for pattern, placeholder in _PLACEHOLDERS:
        text = pattern.sub(placeholder, text)
    return text[:_LONGEST]


@frozen
class FailureShape:
    """Failures of a task that look alike: `times` attempts, from the first to the last."""

    id: str
    task_id: str
    code: str
    exception_type: str | None
    shape: str
    times: int
    first_at: datetime
    last_at: datetime


@frozen
class SeenFailure:
    """One failed attempt: the event of its run, when, and the whole message."""

    run_id: UUID
    sequence: int
    at: datetime
    message: str


class FailureShapes:
    """A projection: `search` finds shapes, `seen` the failures of one.

    Args:
        name: what it is called; its tables are ``runlane_NAME`` and ``runlane_NAME_seen``.
    """

    version: ClassVar[int] = 1
    types: ClassVar[tuple[str, ...]] = ("run.failed", "run.retry_scheduled")

    def __init__(self, name: str = "failures") -> None:
        self.name = identifier("projection name", name)
        self._metadata = MetaData()
        self._shapes = Table(
            f"runlane_{name}",
            self._metadata,
            Column("environment", Text),
            Column("id", Text),
            Column("task_id", Text, nullable=False),
            Column("code", Text, nullable=False),
            Column("exception_type", Text),
            Column("shape", Text, nullable=False),
            Column("times", BigInteger, nullable=False),
            Column("first_at", Instant, nullable=False),
            Column("last_at", Instant, nullable=False),
            PrimaryKeyConstraint("environment", "id"),
        )
        self._seen = Table(
            f"runlane_{name}_seen",
            self._metadata,
            Column("run_id", Guid),
            Column("sequence", Integer),
            Column("environment", Text, nullable=False),
            Column("shape_id", Text, nullable=False),
            Column("at", Instant, nullable=False),
            Column("message", Text, nullable=False),
            PrimaryKeyConstraint("run_id", "sequence"),
        )
        Index(f"runlane_{name}_by_shape", self._seen.c.environment, self._seen.c.shape_id, self._seen.c.at)

    def setup(self, connection: Connection) -> None:
        """See ``Projection``."""
        self._metadata.create_all(connection)

    def clear(self, connection: Connection, environment: str) -> None:
        """See ``Projection``."""
        self.setup(connection)
        for table in self._metadata.sorted_tables:
            connection.execute(table.delete().where(table.c.environment == environment))

    def fold(self, connection: Connection, records: Sequence[Recorded]) -> None:
        """See ``Projection``."""
        tasks = _tasks_of(connection, {record.stream_id for record in records})
        shapes: dict[str, dict[str, Any]] = {}
        seen = []
        for record in records:
            event, task_id = record.event, tasks.get(record.stream_id)
            if task_id is None or not isinstance(event, (RunFailed, RunRetryScheduled)):
                continue  # pruned meanwhile
            failure, at = event.failure, record.occurred_at
            shape = shape_of(failure.message)
            id = hashlib.sha256(
                "\0".join((task_id, failure.code, failure.exception_type or "", shape)).encode()
            ).hexdigest()[:16]
            one = shapes.setdefault(
                id,
                {
                    "environment": record.environment,
                    "id": id,
                    "task_id": task_id,
                    "code": failure.code,
                    "exception_type": failure.exception_type,
                    "shape": shape,
                    "times": 0,
                    "first_at": at,
                    "last_at": at,
                },
            )
            one["times"] += 1
            one["first_at"], one["last_at"] = min(one["first_at"], at), max(one["last_at"], at)
            seen.append(
                {
                    "run_id": record.stream_id,
                    "sequence": record.sequence,
                    "environment": record.environment,
                    "shape_id": id,
                    "at": at,
                    "message": failure.message,
                }
            )
        found = [shapes[id] for id in sorted(shapes)]
        rows.add(connection, self._shapes, found, ["times"], least=["first_at"], most=["last_at"])
        if seen:
            connection.execute(self._seen.insert(), seen)

    def search(
        self,
        connection: Connection,
        environment: str = "default",
        *,
        text: str | None = None,
        code: str | None = None,
        task_id: str | None = None,
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[FailureShape]:
        """Shapes, those seen most often first.

        Args:
            text: part of the shape, in any case; a whole message will do, as it is made a shape first.
            since: seen at or after this instant.
        """
        c = self._shapes.c
        wanted = select(self._shapes).where(c.environment == environment)
        if text is not None:
            wanted = wanted.where(func.lower(c.shape).contains(shape_of(text).lower(), autoescape=True))
        for column, value in ((c.code, code), (c.task_id, task_id)):
            wanted = wanted if value is None else wanted.where(column == value)
        wanted = wanted if since is None else wanted.where(c.last_at >= since)
        names = fields(FailureShape)
        return [
            FailureShape(**{one.name: getattr(row, one.name) for one in names})
            for row in connection.execute(wanted.order_by(c.times.desc(), c.last_at.desc(), c.id).limit(limit))
        ]

    def seen(
        self, connection: Connection, shape_id: str, environment: str = "default", *, limit: int = 50
    ) -> list[SeenFailure]:
        """The failures of a shape, the newest first."""
        c = self._seen.c
        wanted = select(c.run_id, c.sequence, c.at, c.message).where(
            c.environment == environment, c.shape_id == shape_id
        )
        found = connection.execute(wanted.order_by(c.at.desc(), c.run_id.desc()).limit(limit))
        return [SeenFailure(row.run_id, row.sequence, row.at, row.message) for row in found]


def _tasks_of(connection: Connection, ids: set[UUID]) -> dict[UUID, str]:
    """The tasks of runs, which stand in Runlane's own table beside the log."""
    c = tables.runs.c
    found: dict[UUID, str] = {}
    for part in rows.chunks(ids):
        found.update((row.id, row.task_id) for row in connection.execute(select(c.id, c.task_id).where(c.id.in_(part))))
    return found
