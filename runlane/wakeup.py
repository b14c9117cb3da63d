"""The message of a publishing transport: which run may be worth a look, and nothing that could be wrong about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
from attrs import Attribute, field, frozen

from runlane import jsontext
from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.values import identifier, instant, run_id

_FORM = '{"environment": …, "run_id": …, "queue": …, "requested_at": …}'


@frozen
class Wakeup:
    """A run of a queue was to be delivered at `requested_at`; never its payload."""

    environment: str
    run_id: UUID
    queue: str
    requested_at: datetime
    trace_carrier: Mapping[str, str] | None = field(default=None, hash=False)

    def to_json(self) -> str:
        """As it travels."""
        facts: dict[str, Any] = {
            "environment": self.environment,
            "run_id": str(self.run_id),
            "queue": self.queue,
            "requested_at": self.requested_at.isoformat(),
        }
        if self.trace_carrier is not None:
            facts["trace_carrier"] = dict(self.trace_carrier)
        return jsontext.dumps(facts)

    @classmethod
    def from_json(cls, text: str | bytes) -> Wakeup:
        """The inverse of ``to_json``; fields that it does not know are passed over.

        Raises:
            ConfigurationInvalid: it is no wakeup, naming what is wrong with it.
        """
        try:
            facts = orjson.loads(text)
        except ValueError:
            facts = None
        if not isinstance(facts, dict) or not facts.keys() >= {"environment", "run_id", "queue", "requested_at"}:
            raise ConfigurationInvalid(f"a wakeup must be a JSON object {_FORM}")
        return cls(
            identifier("environment of the wakeup", facts["environment"]),
            run_id(facts["run_id"]),
            identifier("queue of the wakeup", facts["queue"]),
            _instant(facts["requested_at"]),
            _carrier(facts.get("trace_carrier")),
        )


def checked_wakeup(wakeup: Wakeup) -> Wakeup:
    """`wakeup`, which a consumer may have made by hand.

    Raises:
        ConfigurationInvalid: it is none, or has something in it that cannot be.
    """
    if not isinstance(wakeup, Wakeup):
        raise ConfigurationInvalid(f"wakeup must be a Wakeup, as Wakeup.from_json makes them; got {shown(wakeup)}")
    return Wakeup(
        identifier("environment of the wakeup", wakeup.environment),
        run_id(wakeup.run_id),
        identifier("queue of the wakeup", wakeup.queue),
        instant("requested_at of the wakeup", wakeup.requested_at),
        _carrier(wakeup.trace_carrier),
    )


class PublishStatus(StrEnum):
    """What a provider made of one wakeup."""

    PUBLISHED = "published"
    FAILED = "failed"
    REJECTED = "rejected"


def _status(value: PublishStatus | str) -> PublishStatus:
    try:
        return PublishStatus(value)
    except ValueError:
        known = ", ".join(PublishStatus)
        raise ConfigurationInvalid(f"status of a PublishOutcome must be one of {known}; got {shown(value)}") from None


def _is_detail(_: object, __: Attribute[str | None], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise ConfigurationInvalid(f"detail of a PublishOutcome must be text or None; got {shown(value)}")


@frozen
class PublishOutcome:
    """What became of one wakeup: handed over, to be tried again, or never to be taken; and the provider's words.

    Raises:
        ConfigurationInvalid: there is no such status, or the words are no text.
    """

    status: PublishStatus = field(converter=_status)
    detail: str | None = field(default=None, validator=_is_detail)


class OutboxStatus(StrEnum):
    """How far the publishing of a wakeup has come; the values are what is stored."""

    PENDING = "pending"
    CLAIMED = "claimed"
    PUBLISHED = "published"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"


def _instant(value: object) -> datetime:
    try:
        return instant("requested_at of the wakeup", datetime.fromisoformat(str(value)))
    except ValueError:
        raise ConfigurationInvalid(
            f"requested_at of the wakeup must be an ISO 8601 instant; got {shown(value)}"
        ) from None


def _carrier(value: object) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for part in value.values()):
        raise ConfigurationInvalid("trace_carrier of the wakeup must be an object of text")
    return value
