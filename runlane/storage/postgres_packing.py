"""PostgreSQL: arrays, packed in one go.  To import it is to teach the driver.

It packs each element of a list by itself, and looks through all of them first for what they are: of a run that is
triggered in bulk that made a sixth of the time, of a small transaction of a worker a quarter.  A connection that was
opened before knows these as the lists that they are, and packs them so.

The format is that of ``array_send`` in PostgreSQL: the number of dimensions, whether there are nulls, the type of the
elements, length and lower bound of the one dimension; then each element behind its length.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from runlane.storage.postgres_batches import (
    Digests,
    Instants,
    Integers,
    Optional,
    OptionalTexts,
    OptionalUuids,
    Smallints,
    Texts,
    Uuids,
)

_UUID, _UUIDS, _TEXT, _TEXTS, _BYTE, _BYTES = 2950, 2951, 25, 1009, 17, 1001
_HEAD = Struct("!iiIii").pack
_EMPTY = Struct("!iiI").pack
_LENGTH = Struct("!i").pack
_MISSING = _LENGTH(-1)
_SIXTEEN = _LENGTH(16)
_THIRTY_TWO = _LENGTH(32)
_ON_TWO, _ON_FOUR, _ON_EIGHT = (Struct(form).pack for form in ("!ih", "!ii", "!iq"))
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _array(kind: int, elements: list[bytes], some_are_missing: bool = False) -> bytes:
    head = _HEAD(1, some_are_missing, kind, len(elements), 1) if elements else _EMPTY(0, 0, kind)
    return head + b"".join(elements)


class _UuidsDumper(Dumper):
    format = Format.BINARY
    oid = _UUIDS

    def dump(self, obj: Uuids) -> bytes:
        return _array(_UUID, [_SIXTEEN + id.int.to_bytes(16, "big") for id in obj])


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = _TEXTS

    def dump(self, obj: Texts) -> bytes:
        return _array(_TEXT, [_LENGTH(len(text)) + text for text in [text.encode() for text in obj]])


class _DigestsDumper(Dumper):
    format = Format.BINARY
    oid = _BYTES

    def dump(self, obj: Digests) -> bytes:
        return _array(_BYTE, [_THIRTY_TWO + digest for digest in obj])


def _uuid(value: Any) -> bytes:
    return _SIXTEEN + bytes(value.bytes)


def _text(value: str) -> bytes:
    text = value.encode()
    return _LENGTH(len(text)) + text


def _smallint(value: int) -> bytes:
    return _ON_TWO(2, value)


def _integer(value: int) -> bytes:
    return _ON_FOUR(4, value)


def _instant(value: datetime) -> bytes:
    return _ON_EIGHT(8, (value - _EPOCH) // _MICROSECOND)


def _optional(array: int, of: int, element: Callable[[Any], bytes]) -> type[Dumper]:
    class OptionalDumper(Dumper):
        format = Format.BINARY
        oid = array

        def dump(self, obj: Optional) -> bytes:
            packed = [_MISSING if value is None else element(value) for value in obj]
            return _array(of, packed, _MISSING in packed)

    return OptionalDumper


psycopg.adapters.register_dumper(Uuids, _UuidsDumper)
psycopg.adapters.register_dumper(Texts, _TextsDumper)
psycopg.adapters.register_dumper(Digests, _DigestsDumper)
psycopg.adapters.register_dumper(OptionalUuids, _optional(_UUIDS, _UUID, _uuid))
psycopg.adapters.register_dumper(OptionalTexts, _optional(_TEXTS, _TEXT, _text))
psycopg.adapters.register_dumper(Smallints, _optional(1005, 21, _smallint))
psycopg.adapters.register_dumper(Integers, _optional(1007, 23, _integer))
psycopg.adapters.register_dumper(Instants, _optional(1185, 1184, _instant))
