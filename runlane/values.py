"""Identifiers, enumerations and the small value objects that events and records are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import uuid_utils
from attrs import field

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.structs import struct

# Opaque text without ':' (reserved for composed keys), control characters or lone surrogates (unstorable).
_IDENTIFIER = re.compile("[^:\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
_FREE_TEXT = re.compile("[^\x00\ud800-\udfff]*", re.DOTALL)
_DURATION = re.compile(r"([1-9][0-9]{0,16})(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

#: Greatest length of a free text such as a correlation id or a reason, in characters.
MAX_TEXT = 4096


class RunStatus(StrEnum):
    """Where a run is in its life; the values are what is stored."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    RELEASED = "released"
    RETRYING = "retrying"
    CANCELLATION_REQUESTED = "cancellation_requested"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether no event can follow, ever."""
        return self in TERMINAL

    @property
    def is_active(self) -> bool:
        """Whether the run can still move."""
        return self not in TERMINAL


TERMINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})
LEASED = frozenset({RunStatus.RUNNING, RunStatus.CANCELLATION_REQUESTED})
ACTIVE = frozenset(RunStatus) - TERMINAL
#: Waits for a time: claimable once due.
WAITING = frozenset({RunStatus.SCHEDULED, RunStatus.RELEASED, RunStatus.RETRYING})
CLAIMABLE = WAITING | {RunStatus.QUEUED}


class SourceType(StrEnum):
    """What brought a run into being."""

    TRIGGER = "trigger"
    RUN_NOW = "run_now"
    SCHEDULE = "schedule"
    RERUN = "rerun"
    MANUAL_RETRY = "manual_retry"


class ActorType(StrEnum):
    """Who caused an event."""

    SYSTEM = "system"
    WORKER = "worker"
    SCHEDULE = "schedule"
    OPERATOR = "operator"
    APPLICATION = "application"


_ACTOR_TYPES = frozenset(kind.value for kind in ActorType)


class TriggerOutcome(StrEnum):
    """Whether a trigger made a run or found the owner of its key."""

    CREATED = "created"
    REUSED_IDEMPOTENT = "reused_idempotent"
    REUSED_SINGLETON = "reused_singleton"


def identifier(what: str, value: object) -> str:
    """`value`, if it is a valid identifier: 1 to 255 characters, no ``:``, no control characters.

    Raises:
        ConfigurationInvalid: naming `what` and the offence.
    """
    if not isinstance(value, str):
        raise ConfigurationInvalid(f"{what} must be a string, not {type(value).__name__}")
    value = str.__str__(value)  # a text of the caller's own kind may do as it likes
    if _IDENTIFIER.fullmatch(value):
        return value
    if not value or len(value) > 255:
        raise ConfigurationInvalid(f"{what} must have 1 to 255 characters; it has {len(value)}")
    if ":" in value:
        raise ConfigurationInvalid(f"{what} must not contain ':' (it has: {shown(value)}); use '.', '-' or '_' instead")
    raise ConfigurationInvalid(
        f"{what} must not contain control characters or lone surrogates (it has: {shown(value)})"
    )


def free_text(what: str, value: object) -> str:
    """`value`, if it can be stored as text: no NUL, no lone surrogate, at most ``MAX_TEXT`` characters."""
    if not isinstance(value, str):
        raise ConfigurationInvalid(f"{what} must be a string, not {type(value).__name__}")
    value = str.__str__(value)
    if len(value) > MAX_TEXT:
        raise ConfigurationInvalid(f"{what} must have at most {MAX_TEXT} characters; it has {len(value)}")
    if not _FREE_TEXT.fullmatch(value):
        raise ConfigurationInvalid(f"{what} must not contain NUL or lone surrogates")
    return value


def file_path(what: str, value: object) -> Path:
    """`value` as the path of a file.

    Raises:
        ConfigurationInvalid: naming `what`: it is none.
    """
    try:
        return Path(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigurationInvalid(f"{what} must be a path, as text or a Path; got {shown(value)}") from None


def storable(text: str, limit: int = MAX_TEXT) -> str:
    """`text` made storable: cut to `limit` characters, NUL and lone surrogates replaced by U+FFFD."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if _FREE_TEXT.fullmatch(text) else re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def duration(what: str, value: object) -> timedelta:
    """`value` as a positive duration: a ``timedelta``, or text such as ``"500ms"``, ``"30s"``, ``"10m"``, ``"1d"``."""
    if isinstance(value, timedelta):
        result = value
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        try:
            result = timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            raise ConfigurationInvalid(f"{what} is too long: {shown(value)}") from None
    else:
        raise ConfigurationInvalid(
            f"{what} must be a timedelta or text like '30s' (a positive integer and ms, s, m, h or d); "
            f"got {shown(value)}"
        )
    if result <= timedelta(0):
        raise ConfigurationInvalid(f"{what} must be positive; got {shown(value)}")
    return result


def instant(what: str, value: object) -> datetime:
    """`value` as an aware instant in UTC."""
    if not isinstance(value, datetime):
        raise ConfigurationInvalid(f"{what} must be a datetime, not {type(value).__name__}")
    try:
        is_aware = value.tzinfo is not None and value.utcoffset() is not None
        at = value.astimezone(UTC) if is_aware else None
    except Exception:  # beyond the calendar, or a tzinfo of the caller's that raises
        raise ConfigurationInvalid(f"{what} is out of range: {shown(value)}") from None
    if at is None:
        raise ConfigurationInvalid(f"{what} must be timezone-aware, for example datetime.now(UTC); got {shown(value)}")
    return at


def later(now: datetime, by: timedelta, what: str = "delay") -> datetime:
    """`now + by`, refusing a result beyond the calendar."""
    try:
        return now + by
    except OverflowError:
        raise ConfigurationInvalid(f"{what} reaches beyond the year 9999: {shown(by)}") from None


def run_id(value: object) -> UUID:
    """`value` as a run id; a ``UUID`` or its text."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        try:
            return UUID(str.__str__(value))
        except ValueError:
            pass
    raise ConfigurationInvalid(
        f"a run id must be a UUID, such as 019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f; got {shown(value)}"
    )


def new_run_id() -> UUID:
    """A fresh UUIDv7: ids of one process sort by time, so appends stay local in the index."""
    return UUID(int=uuid_utils.uuid7().int)


@struct
class Actor:
    """Who caused an event: a kind, and an id among that kind."""

    type: ActorType
    id: str

    @property
    def text(self) -> str:
        """As it is stored: ``type:id``; an id contains no colon."""
        return f"{self.type.value}:{self.id}"

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Actor:
        """The inverse of ``str(actor)``."""
        kind, _, name = text.partition(":")
        return cls(ActorType(kind), name)

    @classmethod
    def operator(cls, name: str) -> Actor:
        """A human or a tool acting on runs from outside."""
        return cls(ActorType.OPERATOR, identifier("actor id", name))

    @classmethod
    def application(cls, name: str) -> Actor:
        """Application code that triggers runs."""
        return cls(ActorType.APPLICATION, identifier("actor id", name))


def checked_actor(actor: Actor) -> Actor:
    """`actor`, which somebody may have made by hand, with a kind that there is and a valid id."""
    kind = str.__str__(actor.type) if isinstance(actor.type, str) else None
    if kind not in _ACTOR_TYPES:
        known = ", ".join(ActorType)
        raise ConfigurationInvalid(f"there is no kind of actor {shown(actor.type)}; known are {known}")
    return Actor(ActorType(kind), identifier("actor id", actor.id))


SYSTEM = Actor(ActorType.SYSTEM, "runlane")
APPLICATION = Actor(ActorType.APPLICATION, "app")


@struct
class Source:
    """Where a run came from.

    `source_run_id` is the run that a rerun or manual retry repeats; `parent_run_id` the run whose handler triggered it.
    """

    type: SourceType = SourceType.TRIGGER
    source_run_id: UUID | None = None
    parent_run_id: UUID | None = None
    schedule_id: str | None = None
    occurrence_id: UUID | None = None
    scheduled_for: datetime | None = None


@struct
class Lease:
    """The right to execute one attempt, held by one worker session."""

    session_id: UUID
    worker_id: str
    attempt: int
    leased_at: datetime


@struct
class Counters:
    """How often each thing has happened to a run."""

    attempts: int = 0
    failures: int = 0
    retries: int = 0
    releases: int = 0
    losses: int = 0


@struct
class Failure:
    """Why an attempt or a run failed; holds facts, never a live exception."""

    code: str
    message: str
    retryable: bool
    exception_type: str | None = None
    traceback: str | None = None
    meta: Mapping[str, Any] = field(factory=dict[str, Any])


@struct
class Cancellation:
    """A durable request to stop."""

    requested_at: datetime
    actor: Actor
    reason: str | None = None


@struct
class Reservation:
    """A slot of a bounded queue set aside for a run that waits for its wakeup."""

    reserved_at: datetime
    expires_at: datetime | None = None
