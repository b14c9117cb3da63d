"""Events outside a database: the one canonical line of each, and the other formats that are made of such lines.

A line is the envelope as compact JSON, its fields in the order of ``FIELDS``, and then ``data`` as it is stored, byte
for byte.  Stored text that cannot stand in a line of JSON, as only damage brings about, stands under ``text`` instead,
as a JSON string.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from uuid import UUID

import orjson

from runlane import codec, digests
from runlane.digests import microseconds
from runlane.errors import ConfigurationInvalid
from runlane.events import Recorded
from runlane.shown import shown
from runlane.storage.dialect import EventRow
from runlane.storage.tables import instant_to_text
from runlane.structs import struct
from runlane.values import Actor

#: The fields before the data, with their types; a field that is added later goes to the end.
FIELDS: dict[str, type] = {
    "stream_id": str,
    "sequence": int,
    "type": str,
    "version": int,
    "occurred_at": str,
    "environment": str,
    "actor": str,
    "digest": str,
}
_NAMES, _TYPES = tuple(FIELDS), tuple(FIELDS.values())
CANONICAL = "jsonl"
_DATA, _TEXT = b',"data":', b',"text":'
#: No line is longer: a file that is no export is not read into memory as one.
_LONGEST = 256 * 1024 * 1024
#: How many events make a row group of Parquet, and how many characters of data, unless one event alone has more.
_ROW_GROUP, _GROUP_DATA = 10_000, 32 * 1024 * 1024
#: What spreadsheets take for the beginning of a formula, or skip on the way to one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Malformed(ValueError):
    """A line that is no event; `stream_id` and `sequence` as far as they could be read."""

    def __init__(self, message: str, stream_id: UUID | None = None, sequence: int | None = None) -> None:
        super().__init__(message)
        self.stream_id = stream_id
        self.sequence = sequence


@struct
class Envelope:
    """An event as text; `occurred_at` is RFC 3339 in UTC with six digits, `digest` is in hex, `data` is as stored."""

    stream_id: str
    sequence: int
    type: str
    version: int
    occurred_at: str
    environment: str
    actor: str
    digest: str
    data: str

    @property
    def place(self) -> tuple[str, int]:
        """Where it stands in an export: exports are in this order."""
        return self.stream_id, self.sequence


def envelope(row: Any) -> Envelope:
    """The envelope of a row of ``storage.extracts``."""
    stream_id, sequence, kind, version, at, environment, actor, digest, data = row
    return Envelope(stream_id, sequence, kind, version, instant_to_text(at), environment, actor, digest.hex(), data)


def line(event: Envelope) -> bytes:
    """The canonical line of an event, with its newline."""
    head = orjson.dumps({name: getattr(event, name) for name in FIELDS})[:-1]
    if _fits(event.data):
        return b"".join((head, _DATA, event.data.encode(), b"}\n"))
    return b"".join((head, _TEXT, orjson.dumps(event.data), b"}\n"))


def _fits(data: str) -> bool:
    if "\n" in data:
        return False
    try:
        orjson.loads(data)
    except ValueError:
        return False
    return True


def parse(raw: bytes) -> Envelope:
    """The inverse of ``line``.

    Raises:
        Malformed: it is no canonical line of an event.
    """
    cut, inline = raw.find(_DATA), True
    if cut < 0:
        cut, inline = raw.find(_TEXT), False
    if cut < 0 or not raw.endswith(b"}\n"):
        raise Malformed("is no event of an export", *_place(raw))
    try:
        head = orjson.loads(raw[:cut] + b"}")
        data = raw[cut + len(_DATA) : -2].decode() if inline else orjson.loads(raw[cut + len(_TEXT) : -2])
    except ValueError as error:
        raise Malformed(f"is no JSON: {error}", *_place(raw)) from error
    if tuple(head) != _NAMES or tuple(map(type, head.values())) != _TYPES:
        raise Malformed(f"has other fields than {', '.join(FIELDS)} and data", *_place(raw))
    found = Envelope(**head, data=data)
    if line(found) != raw:
        raise Malformed("is not written as an export writes it", *_place(raw))
    return found


def _place(raw: bytes) -> tuple[UUID | None, int | None]:
    """What a line that is no event says of its place."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        found = orjson.loads(raw)
        return UUID(found["stream_id"]), found["sequence"] if type(found["sequence"]) is int else None
    with suppress(ValueError, TypeError, KeyError, AttributeError):  # the data is what is damaged, as a rule
        found = orjson.loads(raw[: raw.index(_DATA)] + b"}")
        return UUID(found["stream_id"]), found["sequence"] if type(found["sequence"]) is int else None
    return None, None


def recorded(event: Envelope) -> Recorded:
    """The event itself.

    Raises:
        Malformed: an id or an instant is not in its canonical form.
        InvariantViolation: this Runlane cannot read it.
        ValueError: something else in it is not what it should be.
    """
    stream_id, at = uuid_of(event.stream_id), datetime.fromisoformat(event.occurred_at)
    if at.tzinfo is None or instant_to_text(at) != event.occurred_at:
        raise Malformed("has a time that is not written as an export writes it", stream_id, event.sequence)
    decoded = codec.decode(event.type, event.version, event.data)
    return Recorded(stream_id, event.sequence, decoded, at.astimezone(UTC), event.environment, _actor(event.actor))


# The events of a stream stand together, and few hands have caused most of them.
@lru_cache(256)
def uuid_of(text: str) -> UUID:
    """The id that a canonical text stands for.

    Raises:
        ValueError: it stands for none.
    """
    found = UUID(text)
    if str(found) != text:
        raise ValueError(f"the id {text!r} is not written as an export writes it")
    return found


_actor = lru_cache(256)(Actor.parse)


def row(event: Envelope, record: Recorded) -> EventRow:
    """The row that the log holds of it, but for the digest, which is worked out again."""
    return (
        record.stream_id,
        event.sequence,
        event.type,
        event.version,
        record.occurred_at,
        event.environment,
        event.actor,
        event.data,
    )


def digest(before: str, event: Envelope, record: Recorded) -> str:
    """What the digest of an event is to be behind one with the digest `before`, both in hex.

    Raises:
        ValueError: `before` is not in hex.
    """
    facts = (event.stream_id, event.sequence, event.type, event.version)
    told = (microseconds(record.occurred_at), event.environment, event.actor, event.data)
    return digests.digest(bytes.fromhex(before), *facts, *told).hex()


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from where it stands, each with its newline; the last one may lack it."""
    while raw := file.readline(_LONGEST):
        yield raw


def require(name: str) -> None:
    """Raise ``ConfigurationInvalid`` unless this format can be written here."""
    if name not in FORMATS:
        raise ConfigurationInvalid(f"format must be one of {', '.join(FORMATS)}; got {shown(name)}")
    if name == "parquet":
        _pyarrow()


def convert(name: str, source: BinaryIO, target: Path) -> None:
    """Write the events of canonical lines in another format."""
    write = _CONVERTERS[name]
    write(map(parse, lines(source)), target)


def _write_csv(events: Iterable[Envelope], target: Path) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*FIELDS, "data"))
        writer.writerows([_cell(getattr(event, name)) for name in FIELDS] + [_cell(event.data)] for event in events)


def _cell(value: str | int) -> str | int:
    """Text that a spreadsheet would calculate is kept from it by an apostrophe."""
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_cloudevents(events: Iterable[Envelope], target: Path) -> None:
    with target.open("wb") as file:
        for event in events:
            file.write(_cloudevent(event))


def _cloudevent(event: Envelope) -> bytes:
    """A CloudEvent 1.0 in its JSON format, on a line; source and id together name the event for ever."""
    attributes = {
        "specversion": "1.0",
        "id": f"{event.stream_id}:{event.sequence}",
        "source": f"/runlane/{quote(event.environment, safe='')}",
        "type": f"runlane.{event.type}.v{event.version}",
        "subject": event.stream_id,
        "time": event.occurred_at,
        "sequence": str(event.sequence),
        "sequencetype": "Integer",
        "actor": event.actor,
    }
    if _fits(event.data):
        attributes["datacontenttype"] = "application/json"
        return b"".join((orjson.dumps(attributes)[:-1], _DATA, event.data.encode(), b"}\n"))
    attributes["datacontenttype"] = "text/plain"
    return b"".join((orjson.dumps(attributes)[:-1], _DATA, orjson.dumps(event.data), b"}\n"))


def _pyarrow() -> Any:
    try:
        import_module("pyarrow.parquet")  # it has no types, with or without it
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise ConfigurationInvalid("the format parquet needs a package: pip install 'runlane[parquet]'") from None


def _groups(events: Iterable[Envelope]) -> Iterator[list[Envelope]]:
    group: list[Envelope] = []
    size = 0
    for event in events:
        if group and (len(group) == _ROW_GROUP or size + len(event.data) > _GROUP_DATA):
            yield group
            group, size = [], 0
        group.append(event)
        size += len(event.data)
    if group:
        yield group


def _write_parquet(events: Iterable[Envelope], target: Path) -> None:
    arrow = _pyarrow()
    kinds = {"sequence": arrow.int32(), "version": arrow.int16(), "occurred_at": arrow.timestamp("us", tz="UTC")}
    names = (*FIELDS, "data")
    schema = arrow.schema([arrow.field(name, kinds.get(name, arrow.string()), nullable=False) for name in names])
    with arrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for group in _groups(events):
            columns: dict[str, list[Any]] = {name: [getattr(event, name) for event in group] for name in names}
            columns["occurred_at"] = [datetime.fromisoformat(at) for at in columns["occurred_at"]]
            writer.write_table(arrow.table(columns, schema=schema))


_CONVERTERS: dict[str, Callable[[Iterable[Envelope], Path], None]] = {
    "csv": _write_csv,
    "cloudevents": _write_cloudevents,
    "parquet": _write_parquet,
}
FORMATS = (CANONICAL, *_CONVERTERS)
