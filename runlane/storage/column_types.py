"""The types of columns: how a value is kept on PostgreSQL, and how on SQLite."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Dialect, MetaData, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

from runlane import jsontext
from runlane.values import RunStatus

#: The schema that statements name; the real one is put in its place (``storage.engines``).
SCHEMA = "runlane"

metadata = MetaData(schema=SCHEMA)


def instant_to_text(at: datetime) -> str:
    """The SQLite form of an instant: UTC, always six digits, so that text order is time order."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="microseconds")[:-6] + "Z"  # without +00:00


class Instant(TypeDecorator[datetime]):
    """An aware instant: ``timestamptz``, or sortable text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return instant_to_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC)


class Guid(TypeDecorator[UUID]):
    """A ``uuid``, or its text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(postgresql.UUID(as_uuid=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        return value if value is None or isinstance(value, UUID) else UUID(value)


class Json(TypeDecorator[Any]):
    """A JSON value: ``json``, or its text on SQLite.  None is SQL NULL unless `null_is_json`."""

    impl = Text
    cache_ok = True

    def __init__(self, null_is_json: bool = False) -> None:
        self.null_is_json = null_is_json
        super().__init__()

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.JSON(none_as_null=not self.null_is_json))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if dialect.name == "postgresql" or (value is None and not self.null_is_json):
            return value
        return jsontext.dumps(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else jsontext.decode(value)


class Status(TypeDecorator[RunStatus]):
    """The enum ``run_status``, or text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            names = [status.value for status in RunStatus]
            return dialect.type_descriptor(
                postgresql.ENUM(*names, name="run_status", metadata=metadata, create_type=False)
            )
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: RunStatus | None, dialect: Dialect) -> Any:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> RunStatus | None:
        return None if value is None else RunStatus(value)
