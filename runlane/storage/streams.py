"""Reading the log: streams, and parts of them."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any
from uuid import UUID, SafeUUID

from attrs import evolve
from sqlalchemy import Text, bindparam, cast, func, select

from runlane import codec, digests
from runlane.errors import InvariantViolation
from runlane.events import Event, LogCheckpointed, Recorded, RunCreated, RunsPruned
from runlane.storage import tables
from runlane.storage.scan import EVERYTHING, Range, read_instant, scan
from runlane.storage.transaction import Transaction
from runlane.structs import struct
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
_IS_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_SCANNED = tuple(column.name for column in ENVELOPE)
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


@struct
class Stream:
    """The events of a stream up to the first that cannot be read, if there is one: its sequence, and why.

    `name` is the id as it is stored; of what is no id, `id` is zero.

    `forged` is the first event whose digest is not that of what is stored before and in it: its sequence, the digest as
    it is stored, and what it should be.  `digests` are the stored ones, `type` is that of the first event.
    """

    id: UUID
    name: str
    records: Sequence[Recorded]
    damage: tuple[int, str] | None = None
    forged: tuple[int, bytes, bytes] | None = None
    digests: Sequence[bytes] = ()
    type: str = ""

    @property
    def digest(self) -> bytes:
        """The last one stored."""
        return self.digests[-1] if self.digests else digests.START


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
    return _stream(run_id, str(run_id), envelopes) if envelopes else None


def read_streams(
    tx: Transaction,
    prefix: str,
    environment: str | None,
    since: datetime | None = None,
    within: Range = EVERYTHING,
) -> Generator[Stream, None, None]:
    """Every stream in the order of the ids, or of each those events whose types begin with `prefix`, in constant
    memory; with `since` only streams with an event at or after that instant."""
    order = ("stream_id", "sequence")
    with closing(scan(tx, tables.events, _SCANNED, order, environment, prefix, since=since, within=within)) as found:
        for name, envelopes in groupby(chain.from_iterable(found), key=itemgetter(0)):
            yield _scanned(name, envelopes)


def _scanned(name: str, envelopes: Iterable[tuple[Any, ...]]) -> Stream:
    """A stream as the database holds it; in a SQLite file any text can stand where an id or an instant is to be."""
    if not isinstance(name, str) or not _IS_ID(name):
        first = next(iter(envelopes))
        return Stream(UUID(int=0), str(name), (), (first[1], f"stream_id {name!r} is no id"), type=first[2])
    return _stream(_id(name), name, envelopes)


def _id(name: str) -> UUID:
    """What ``UUID(name)`` is, without the time that it takes to find out how it was called."""
    made = UUID.__new__(UUID)
    object.__setattr__(made, "int", int(name.replace("-", ""), 16))
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


def _stream(stream_id: UUID, name: str, envelopes: Iterable[Any]) -> Stream:
    records: list[Recorded] = []
    damage: tuple[int, str] | None = None
    forged: tuple[int, bytes, bytes] | None = None
    before, first, stored = digests.START, "", []
    for _, sequence, type_, version, data, at, environment, actor, position, digest in envelopes:
        try:
            occurred_at, passed = _instant(at)
            if damage is None:
                its_own = type_ == _CREATED or len(data) > _LONGEST_KEPT
                event = _event(type_, version, data) if its_own else _alike(type_, version, data)
                records.append(Recorded(stream_id, sequence, event, occurred_at, environment, _actor(actor), position))
        except (InvariantViolation, ValueError, TypeError, AttributeError) as error:
            passed = 0
            damage = damage or (sequence, str(error))
        if forged is None:
            expected = digests.digest(before, name, sequence, type_, version, passed, environment, actor, data)
            if expected != digest:
                forged = sequence, digest, expected
        before, first = digest, first or type_
        stored.append(digest)
    return Stream(stream_id, name, records, damage, forged, stored, first)


@lru_cache(4096)
def _instant(stored: Any) -> tuple[datetime, int]:
    """An instant as a scan or a statement gives it, and as microseconds."""
    if isinstance(stored, int):
        stored = read_instant(stored)
    if isinstance(stored, datetime):
        return stored, digests.microseconds(stored)
    at = datetime.fromisoformat(stored).astimezone(UTC)
    if tables.instant_to_text(at) != stored:
        raise ValueError(f"occurred_at {stored!r} is not as instants are written")
    return at, digests.microseconds(at)


_actor = lru_cache(4096)(Actor.parse)


def _event(type_: str, version: int, data: str) -> Event:
    """The event of stored data, without what only checkpoints need."""
    event = codec.decode(type_, version, data)
    if isinstance(event, RunsPruned):  # of an environment's stream all events are held at once, and these are heavy
        return evolve(event, heads=())
    return evolve(event, parts=()) if isinstance(event, LogCheckpointed) else event


_CREATED = codec.STORED_AS[RunCreated][0]
#: Most events but the first of each run say the same as many others; results and metas may be large, and are not kept.
_LONGEST_KEPT = 256
_alike = lru_cache(4096)(_event)


def digest_of(before: bytes, row: Any) -> bytes:
    """What the digest of a row of ``ENVELOPE`` columns is to be, behind an event with the digest `before`."""
    at = digests.microseconds(row.occurred_at)
    facts = (row.stream_id, row.sequence, row.type, row.version, at, row.environment, row.actor, row.data)
    return digests.digest(before, *facts)


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
