"""Reading the log up to a moment: the beginnings of streams, as they stood then.

Time never runs backwards within a stream, so the events up to an instant are a stream's beginning.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, func, select

from runlane.errors import InvariantViolation
from runlane.events import Recorded
from runlane.storage import streams, tables
from runlane.storage.streams import ENVELOPE
from runlane.storage.transaction import Transaction

_EVENTS = tables.events.c
# Constants, so that SQLAlchemy knows them again: building one costs more than executing it.
_OF_RUN = (_EVENTS.stream_id == bindparam("run_id"), _EVENTS.environment == bindparam("environment"))
_RUN: Any = select(*ENVELOPE).where(*_OF_RUN).order_by(_EVENTS.sequence)
_RUN_UNTIL = _RUN.where(_EVENTS.occurred_at <= bindparam("at"))
_RUN_UP_TO = _RUN.where(_EVENTS.sequence <= bindparam("last"))
_EXTENT: Any = select(func.min(_EVENTS.occurred_at), func.max(_EVENTS.sequence)).where(*_OF_RUN)


def read_run(tx: Transaction, environment: str, run_id: UUID) -> tuple[Recorded, ...]:
    """The events of a run of this environment; none, if there is no such run.

    Raises:
        InvariantViolation: one of them cannot be read.
    """
    return _read(tx, _RUN, environment, run_id)


def read_run_until(tx: Transaction, environment: str, run_id: UUID, at: datetime) -> tuple[Recorded, ...]:
    """The same for its events up to and at this instant."""
    return _read(tx, _RUN_UNTIL, environment, run_id, at=at)


def read_run_up_to(tx: Transaction, environment: str, run_id: UUID, sequence: int) -> tuple[Recorded, ...]:
    """The same for its events up to this sequence."""
    return _read(tx, _RUN_UP_TO, environment, run_id, last=sequence)


def extent(tx: Transaction, environment: str, run_id: UUID) -> tuple[datetime, int] | None:
    """When the first event of a run happened, and the sequence of the last one; None if there is no such run."""
    found: Any = tx.execute(_EXTENT, {"run_id": run_id, "environment": environment}).one()
    return None if found[1] is None else (found[0], found[1])


def histories(
    tx: Transaction, prefix: str, environment: str, at: datetime | None = None, batch: int = 2000
) -> Generator[tuple[UUID, Iterator[Recorded]], None, None]:
    """Every stream whose event types begin with `prefix`, up to and at this instant, in constant memory.

    The events of a stream are read while they are asked for, and are gone when the next stream is.  One that cannot be
    read raises ``InvariantViolation``; the next stream may be asked for all the same.
    """
    asked: dict[str, Any] = {"environment": environment} if at is None else {"environment": environment, "at": at}
    with tx.execute(_histories(prefix, at is not None, batch), asked) as found:
        for stream_id, envelopes in groupby(found, key=attrgetter("stream_id")):
            yield stream_id, map(recorded, envelopes)


@cache
def _histories(prefix: str, bounded: bool, batch: int) -> Any:
    conditions = [_EVENTS.type.startswith(prefix), _EVENTS.environment == bindparam("environment")]
    if bounded:
        conditions.append(_EVENTS.occurred_at <= bindparam("at"))
    statement: Any = select(*ENVELOPE).where(*conditions).order_by(_EVENTS.stream_id, _EVENTS.sequence)
    return statement.execution_options(yield_per=batch)


def _read(
    tx: Transaction, statement: Select[Any], environment: str, run_id: UUID, **limits: Any
) -> tuple[Recorded, ...]:
    asked = {"run_id": run_id, "environment": environment, **limits}
    return tuple(recorded(row) for row in tx.execute(statement, asked))


def recorded(row: Any) -> Recorded:
    """The event of a row of ``ENVELOPE`` columns.

    Raises:
        InvariantViolation: it cannot be read; this names its place.
    """
    try:
        return streams.recorded(row)
    except (InvariantViolation, ValueError) as error:
        raise InvariantViolation(
            f"event {row.sequence} of stream {row.stream_id} cannot be read: {error}; see `runlane audit verify`"
        ) from error
