"""A transaction: the connection, the statements that fit its database, and the clock.

Engine functions take one as their first argument; they never open, commit or wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import Factory, field, frozen
from sqlalchemy import Connection, CursorResult, Executable

from runlane.clock import Clock
from runlane.storage.dialect import EventRow, Statements, StorageDialect
from runlane.storage.direct import Found


@frozen
class Transaction:
    """An open transaction on one of Runlane's databases, ours or a caller's; `written` is what it has appended.

    Of what SQL has appended by itself `written` has the first event; `appended` says where the others stand, stream and
    sequence, if somebody wants to know (``storage.inlining``).
    `publishes` says that the lane's transport carries one wakeup per run, so that requests for them are kept.
    `options` make statements name the configured schema, where the connection's engine does not see to that.
    `statements` executes them: the connection, unless there is a shorter way (``storage.direct``).
    """

    connection: Connection
    dialect: StorageDialect
    schema: str | None
    clock: Clock | None = None
    publishes: bool = False
    options: Mapping[str, Any] | None = None
    statements: Statements = field(default=Factory(lambda tx: tx.connection, takes_self=True))
    written: list[EventRow] = Factory(list)
    appended: list[tuple[UUID, int]] | None = None

    def now(self) -> datetime:
        """The instant to decide with: the injected clock's, else the database's, read now and not earlier."""
        return self.dialect.now(self.statements) if self.clock is None else self.clock()

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any] | Found:
        """Execute a SQLAlchemy statement in the configured schema."""
        return self.statements.execute(statement, parameters, execution_options=self.options)
