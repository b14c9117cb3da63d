"""The manifest that stands beside an export: what is in it, of what moment, and the digests that prove it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from attrs import fields, frozen
from cattrs import Converter

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown, words_of
from runlane.storage.tables import instant_to_text

#: Grows when exports or manifests change in a way that a reader has to know.
VERSION = 1


@frozen
class Manifest:
    """What an export says of itself.

    Args:
        export_version: of the form of the export and of this manifest.
        format: ``jsonl``, ``csv``, ``cloudevents`` or ``parquet``.
        environment: whose events they are.
        since: only runs that had an event at or after this instant are in it, None if all are.
        events, streams, by_type: how many; the last by stored type.
        size, sha256: length in bytes and SHA-256 (hex) of the data file.
        events_sha256: SHA-256 (hex) of the canonical lines of the events in order, the same in every format.
        lines_sha256: SHA-256 (hex) of the file of line digests, which only JSON Lines have.
        first_at, last_at: the earliest and the latest instant of an event, None without events.
        runlane_version, schema_version: of the Runlane that made it, and of the tables.
        made_at, made_by: when it was begun, by the database's clock, and for whom.
        key: the fingerprint of the public key, if it is signed.
        signature: Ed25519 over ``canonical()``, base64.
    """

    export_version: int
    format: str
    environment: str
    since: datetime | None
    events: int
    streams: int
    by_type: Mapping[str, int]
    size: int
    sha256: str
    events_sha256: str
    lines_sha256: str | None
    first_at: datetime | None
    last_at: datetime | None
    runlane_version: str
    schema_version: int
    made_at: datetime
    made_by: str
    key: str | None = None
    signature: str | None = None

    def content(self) -> dict[str, Any]:
        """As plain JSON values, without the signature."""
        values: dict[str, Any] = _CONVERTER.unstructure(self)
        del values["signature"]
        return values

    def canonical(self) -> bytes:
        """The bytes that are signed: ``content()`` as compact JSON with sorted keys, UTF-8."""
        return orjson.dumps(self.content(), option=orjson.OPT_SORT_KEYS)

    def dumps(self) -> bytes:
        """The text of the manifest's file."""
        signed = {} if self.signature is None else {"signature": self.signature}
        return orjson.dumps(self.content() | signed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


_CONVERTER = Converter(forbid_extra_keys=True, detailed_validation=False, prefer_attrib_converters=True)
_CONVERTER.register_unstructure_hook(datetime, instant_to_text)
_CONVERTER.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value).astimezone(UTC))
_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "str | None": (str, type(None))}


def path_of(export: Path) -> Path:
    """Where the manifest of an export stands."""
    return export.with_name(export.name + ".manifest.json")


def lines_of(export: Path) -> Path:
    """Where the digests of its lines stand: of each line the first eight bytes of its SHA-256."""
    return export.with_name(export.name + ".lines")


def read(export: Path) -> Manifest:
    """The manifest of an export.

    Raises:
        ConfigurationInvalid: there is none, it cannot be read, or it is of a version that this Runlane does not know.
    """
    try:
        place = path_of(export)
        data = place.read_bytes()
    except OSError as error:
        raise ConfigurationInvalid(f"the manifest of {export} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no name of a file
        raise ConfigurationInvalid(f"{shown(str(export))} cannot be read: {error}") from error
    return parse(data, str(place))


def parse(data: bytes, what: str) -> Manifest:
    """The manifest of this text; `what` names it in errors."""
    try:
        values = orjson.loads(data)
        version = values.get("export_version")
        if type(version) is int and version != VERSION:
            raise ConfigurationInvalid(
                f"{what} has version {shown(version)}, and this Runlane reads {VERSION}; upgrade it"
            )
        _check_kinds(values)
        return _CONVERTER.structure(values, Manifest)
    except ConfigurationInvalid:
        raise
    except Exception as error:  # what a stranger has written may be of any kind, at any place of it
        raise ConfigurationInvalid(f"{what} is no manifest of an export: {words_of(error)[:500]}") from error


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` where a value is not what is written there: nothing is converted on the quiet."""
    for field in fields(Manifest):
        kind = _KINDS.get(field.type.__name__ if isinstance(field.type, type) else str(field.type))
        value = values.get(field.name)
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise TypeError(f"{field.name} is {shown(value)}")
