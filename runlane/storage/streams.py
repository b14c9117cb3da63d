"""Reading the log: streams, and parts of them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import bindparam, func, select

from runlane import codec, jsontext
from runlane.errors import InvariantViolation
from runlane.events import Event, Recorded
from runlane.storage import tables
from runlane.storage.transaction import Transaction
from runlane.values import Actor

_EVENTS = tables.events.c
ENVELOPE = (
    _EVENTS.stream_id,
    _EVENTS.sequence,
    _EVENTS.type,
    _EVENTS.version,
    _EVENTS.data,
    _EVENTS.occurred_at,
    _EVENTS.environment,
    _EVENTS.actor,
    _EVENTS.position,
)
# Constants, so that SQLAlchemy knows them again: building one costs more than executing it.
_STREAM = select(*ENVELOPE).where(_EVENTS.stream_id == bindparam("stream_id")).order_by(_EVENTS.sequence)
_BEHIND = _STREAM.where(_EVENTS.sequence > bindparam("sequence")).limit(bindparam("most"))
_IN_ENVIRONMENT = _STREAM.where(_EVENTS.environment == bindparam("environment"))
_LENGTH = select(func.count()).where(_EVENTS.stream_id == bindparam("stream_id"))
_NEWEST = (
    select(*ENVELOPE)
    .where(_EVENTS.stream_id == bindparam("stream_id"), _EVENTS.type.in_(bindparam("types", expanding=True)))
    .order_by(_EVENTS.sequence.desc())
    .execution_options(yield_per=200)
)


@frozen
class Stream:
    """The events of a stream up to the first that cannot be read, if there is one: its sequence, and why."""

    id: UUID
    records: tuple[Recorded, ...]
    damage: tuple[int, str] | None = None


def length(tx: Transaction, stream_id: UUID) -> int:
    """How many events a stream has; its owner has locked something that no other writer of it can pass."""
    return int(tx.execute(_LENGTH, {"stream_id": stream_id}).scalar_one())


def read_stream(tx: Transaction, stream_id: UUID) -> tuple[Recorded, ...]:
    """The events of one stream, by sequence."""
    return tuple(recorded(row) for row in tx.execute(_STREAM, {"stream_id": stream_id}))


def read_after(tx: Transaction, stream_id: UUID, sequence: int, limit: int) -> tuple[Recorded, ...]:
    """The first events of a stream behind this sequence."""
    asked = {"stream_id": stream_id, "sequence": sequence, "most": limit}
    return tuple(recorded(row) for row in tx.execute(_BEHIND, asked))


def read_newest(tx: Transaction, stream_id: UUID, kinds: Sequence[type[Event]]) -> Generator[Recorded, None, None]:
    """The events of these kinds in one stream, the newest first, read no further than is asked for."""
    types = [codec.STORED_AS[kind][0] for kind in kinds]
    with tx.execute(_NEWEST, {"stream_id": stream_id, "types": types}) as found:
        for row in found:
            yield recorded(row)


def read_run(tx: Transaction, environment: str, run_id: UUID) -> Stream | None:
    """The stream of one run, if it has any event in this environment."""
    envelopes = tx.execute(_IN_ENVIRONMENT, {"stream_id": run_id, "environment": environment}).all()
    return _stream(run_id, envelopes) if envelopes else None


def read_streams(
    tx: Transaction, prefix: str, environment: str | None, batch: int = 2000
) -> Generator[Stream, None, None]:
    """Every stream whose event types begin with `prefix`, one after the other, in constant memory."""
    asked = {} if environment is None else {"environment": environment}
    with tx.execute(_streams(prefix, environment is None, batch), asked) as found:
        for stream_id, envelopes in groupby(found, key=attrgetter("stream_id")):
            yield _stream(stream_id, envelopes)


@cache
def _streams(prefix: str, everywhere: bool, batch: int) -> Any:
    statement = select(*ENVELOPE).where(_EVENTS.type.startswith(prefix)).order_by(_EVENTS.stream_id, _EVENTS.sequence)
    if not everywhere:
        statement = statement.where(_EVENTS.environment == bindparam("environment"))
    return statement.execution_options(yield_per=batch)


def _stream(stream_id: UUID, envelopes: Iterable[Any]) -> Stream:
    records: list[Recorded] = []
    damage: tuple[int, str] | None = None
    for row in envelopes:
        if damage is None:
            try:
                records.append(recorded(row))
            except (InvariantViolation, ValueError) as error:
                damage = row.sequence, str(error)
    return Stream(stream_id, tuple(records), damage)


def recorded(row: Any) -> Recorded:
    """The event of a row of envelope columns."""
    data = jsontext.dumps(row.data) if not isinstance(row.data, (str, bytes)) else row.data
    return Recorded(
        row.stream_id,
        row.sequence,
        codec.decode(row.type, row.version, data),
        row.occurred_at,
        row.environment,
        Actor.parse(row.actor),
        row.position,
    )
