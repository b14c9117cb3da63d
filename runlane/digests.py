"""The digest of an event: SHA-256 over the digest of the event before it in its stream, and over its own bytes.

The bytes are the eight stored facts of the event, one a line, exactly as the log keeps them: stream, sequence, version,
instant (microseconds since 1970 in UTC), type, environment, actor, data.  None of them contains a line break (JSON
escapes it, identifiers have no control characters), so no two different events have the same bytes.  The first event of
a stream has nothing before it.

Whoever changes, drops, inserts or reorders an event within a stream has to write every digest behind it again; that a
whole stream was written again, or its tail cut off together with the row that is folded from it, only a copy of a
digest kept elsewhere can show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

#: What stands before the first event of a stream.
START = b""
_EMPTY = sha256()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: stream_id, sequence, type, version, occurred_at, environment, actor, data (JSON text)
Facts = tuple[UUID, int, str, int, datetime, str, str, str]


def microseconds(at: datetime) -> int:
    """The microseconds from 1970 to an aware instant."""
    passed = at - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def instant(passed: int) -> datetime:
    """The inverse of ``microseconds``, in UTC.

    Raises:
        OverflowError: it is beyond the calendar.
    """
    return _EPOCH + timedelta(microseconds=passed)


def digest(
    before: bytes,
    stream_id: UUID | str,
    sequence: int,
    type: str,
    version: int,
    at: int,
    environment: str,
    actor: str,
    data: str,
) -> bytes:
    """The digest of an event behind one with the digest `before`.

    Args:
        before: 32 bytes, or ``START``.
        at: microseconds since 1970.
        data: the JSON text as it is stored.

    Returns:
        32 bytes.
    """
    return _hashed(before, f"{stream_id}\n{sequence}\n{version}\n{at}\n{type}\n{environment}\n{actor}\n{data}")


def alike(
    sequence: int, type: str, version: int, at: int, environment: str, actor: str
) -> Callable[[bytes, str, str], bytes]:
    """``digest`` for events that differ by their streams and data: of the digest before, the stream and the data."""
    between = f"\n{sequence}\n{version}\n{at}\n{type}\n{environment}\n{actor}\n"
    return lambda before, stream_id, data: _hashed(before, stream_id + between + data)


def _hashed(before: bytes, text: str) -> bytes:
    hashed = _EMPTY.copy()  # in half the time that it takes OpenSSL to look for the algorithm
    hashed.update(before + text.encode())
    return hashed.digest()


def chained(events: Iterable[Facts], heads: Mapping[UUID, bytes]) -> tuple[list[bytes], dict[UUID, bytes]]:
    """The digests of events of any streams, in the order of each; and the last one of each stream.

    Args:
        heads: the digest before the first of these events, for streams that did not begin with it.
    """
    found: list[bytes] = []
    last: dict[UUID, bytes] = {}
    for stream_id, sequence, type_, version, at, environment, actor, data in events:
        before = last.get(stream_id)
        if before is None:
            before = heads.get(stream_id, START)
        last[stream_id] = one = digest(
            before, stream_id, sequence, type_, version, microseconds(at), environment, actor, data
        )
        found.append(one)
    return found, last
