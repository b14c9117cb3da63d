"""PostgreSQL: arrays of ids and of texts, packed in one go.  To import it is to teach the driver.

It packs each element of a list by itself, and looks through all of them first for what they are: of a run that is
triggered in bulk that made a sixth of the time.  A connection that was opened before knows these as the lists that they
are, and packs them so.

The format is that of ``array_send`` in PostgreSQL: the number of dimensions, whether there are nulls, the type of the
elements, length and lower bound of the one dimension; then each element behind its length.
"""

from __future__ import annotations

from struct import Struct

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from runlane.storage.postgres_batches import Texts, Uuids

_UUID, _UUIDS, _TEXT, _TEXTS = 2950, 2951, 25, 1009
_HEAD = Struct("!iiIii").pack
_EMPTY = Struct("!iiI").pack
_LENGTH = Struct("!i").pack
_SIXTEEN = _LENGTH(16)


def _array(kind: int, elements: list[bytes]) -> bytes:
    head = _HEAD(1, 0, kind, len(elements), 1) if elements else _EMPTY(0, 0, kind)
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


psycopg.adapters.register_dumper(Uuids, _UuidsDumper)
psycopg.adapters.register_dumper(Texts, _TextsDumper)
