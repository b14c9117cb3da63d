"""Reading the log: streams, and parts of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import Text, bindparam, cast, func, select, type_coerce

from runlane import codec, digests
from runlane.errors import InvariantViolation
from runlane.events import Event, Recorded
from runlane.storage import tables
from runlane.storage.transaction import Transaction
from runlane.values import Actor

_EVENTS = tables.events.c
#: What ``recorded`` is made of.
ENVELOPE = (
    _EVENTS.stream_id,
    _EVENTS.sequence,
    _EVENTS.type,
    _EVENTS.version,
    cast(_EVENTS.data, Text).label("data"),  # the very text, which the digest is of
    _EVENTS.occurred_at,
    _EVENTS.environment,
    _EVENTS.actor,
    _EVENTS.position,
    _EVENTS.digest,
)
#: The same as a SQLite file holds them, for those who trust no value.
_PLAIN_ENVELOPE = tuple(
    type_coerce(column, Text).label(column.name) if isinstance(column.type, (tables.Guid, tables.Instant)) else column
    for column in ENVELOPE
)
_ID = itemgetter(0)
_NEVER = datetime(1, 1, 1, tzinfo=UTC)
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
    """The events of a stream up to the first that cannot be read, if there is one: its sequence, and why.

    `forged` is the first event whose digest is not that of what is stored before and in it: its sequence, the digest as
    it is stored, and what it should be.  `digest` is the last one stored, `type` that of the first event.
    """

    id: UUID
    records: tuple[Recorded, ...]
    damage: tuple[int, str] | None = None
    forged: tuple[int, bytes, bytes] | None = None
    digest: bytes = digests.START
    type: str = ""


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
    """Every stream in the order of the ids, or of each those events whose types begin with `prefix`, in constant
    memory."""
    asked = {} if environment is None else {"environment": environment}
    plain = tx.dialect.name == "sqlite"
    with tx.execute(_streams(prefix, environment is None, batch, plain), asked) as found:
        made: Callable[[Any, Iterable[Any]], Stream] = _plain_stream if plain else _stream
        for stream_id, envelopes in groupby(found, key=_ID):
            yield made(stream_id, envelopes)


@cache
def _streams(prefix: str, everywhere: bool, batch: int, plain: bool) -> Any:
    envelope = _PLAIN_ENVELOPE if plain else ENVELOPE
    statement = select(*envelope).order_by(_EVENTS.stream_id, _EVENTS.sequence)
    if prefix:
        statement = statement.where(_EVENTS.type.startswith(prefix))
    if not everywhere:
        statement = statement.where(_EVENTS.environment == bindparam("environment"))
    return statement.execution_options(yield_per=batch)


def _stream(stream_id: UUID, envelopes: Iterable[Any], damage: tuple[int, str] | None = None) -> Stream:
    records: list[Recorded] = []
    forged: tuple[int, bytes, bytes] | None = None
    before, first, name = digests.START, "", str(stream_id)
    for row in envelopes:
        _, sequence, type_, version, data, at, environment, actor, _, digest = row
        if damage is None:
            try:
                records.append(_record(stream_id, row))
            except (InvariantViolation, ValueError, TypeError) as error:
                damage = sequence, str(error)
        if forged is None:
            passed = digests.microseconds(at)
            expected = digests.digest(before, name, sequence, type_, version, passed, environment, actor, data)
            if expected != digest:
                forged = sequence, digest, expected
        before, first = digest, first or type_
    return Stream(stream_id, tuple(records), damage, forged, before, first)


def _plain_stream(name: str, envelopes: Iterable[Any]) -> Stream:
    """A stream of a SQLite file, in which any text can stand where an id or an instant is to be."""
    rows: list[Any] = []
    strange: tuple[int, str] | None = None
    for row in envelopes:
        try:
            at = datetime.fromisoformat(row[5])
            if tables.instant_to_text(at) != row[5]:
                raise ValueError("not as instants are written")
        except (ValueError, TypeError) as error:
            strange = strange or (row[1], f"occurred_at {row[5]!r}: {error}")
            at = _NEVER
        rows.append((*row[:5], at, *row[6:]))
    try:
        stream_id = UUID(name)
        if str(stream_id) != name:
            raise ValueError("not as ids are written")
    except (ValueError, TypeError, AttributeError) as error:
        return Stream(UUID(int=0), (), (rows[0][1], f"stream_id {name!r}: {error}"))
    return _stream(stream_id, rows, strange)


def _record(stream_id: UUID, row: Any) -> Recorded:
    _, sequence, type_, version, data, at, environment, actor, position, _ = row
    event = codec.decode(type_, version, data)
    return Recorded(stream_id, sequence, event, at, environment, Actor.parse(actor), position)


def recorded(row: Any) -> Recorded:
    """The event of a row of ``ENVELOPE`` columns."""
    return Recorded(
        row.stream_id,
        row.sequence,
        codec.decode(row.type, row.version, row.data),
        row.occurred_at,
        row.environment,
        Actor.parse(row.actor),
        row.position,
    )
