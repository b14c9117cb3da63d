"""Payload codecs: what Runlane stores of payloads, results and release states instead of their JSON.

A codec turns JSON text into named fields and back.  What is stored is a JSON object, the envelope: ``$runlane`` names
the codec, ``key`` the data key if there is one, and the rest is the codec's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from attrs import field, frozen

from runlane.errors import ConfigurationInvalid, PayloadErased, PayloadUnreadable, RunlaneError
from runlane.shown import shown

#: The member that tells an envelope from a payload; no payload of an application may have it at its top.
MARK = "$runlane"
KEY = "key"


class Part(StrEnum):
    """What of a run or schedule is encoded."""

    PAYLOAD = "payload"
    RESULT = "result"
    META = "meta"


@frozen
class DataKey:
    """What encrypts the payloads of one subject, or those without one: 256 random bits, and the id of their row."""

    id: UUID
    secret: bytes = field(repr=False)


@frozen
class CodecContext:
    """What a value belongs to; a codec binds to it what it encodes, so that it cannot be put somewhere else.

    Attributes:
        environment: of the run.
        run_id: of the run; of a schedule's payload the id of the schedule's stream.
        task_id: of the run.
        part: ``payload``, ``result`` or ``meta`` (of a release).
        subject: whom it is about, if that was said; known only when a payload is encoded.
        key: the data key; None for codecs without keys.
    """

    environment: str
    run_id: UUID
    task_id: str
    part: Part
    subject: str | None = None
    key: DataKey | None = None


class PayloadCodec(Protocol):
    """Encodes payloads, results and release states; called from any thread.

    ``name`` stands in each envelope; a process decodes what its own codec has encoded.
    """

    @property
    def name(self) -> str:
        """Stable, short: it is stored."""
        ...

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        """What is stored of `plain`, the JSON text of a value: JSON values by name, not ``$runlane`` and ``key``."""
        ...

    def decode(self, stored: Mapping[str, Any], context: CodecContext) -> bytes:
        """The inverse; `stored` is the whole envelope.

        Raises:
            PayloadUnreadable: it does not belong there, or is damaged.
        """
        ...


@frozen
class Wrapped:
    """A data key as it is stored: encrypted by the master key of this id."""

    master: str
    data: bytes


@runtime_checkable
class KeyedCodec(Protocol):
    """A codec that encrypts by data keys, one for each subject, which it wraps for the database."""

    @property
    def master(self) -> str:
        """The id of the master key that wraps new data keys."""
        ...

    def wrap(self, secret: bytes, row: bytes) -> Wrapped:
        """A data key for the row of the database that `row` identifies.

        Raises:
            KeyUnavailable: the master key cannot be had; what is no ``RunlaneError``, or a retryable one, is taken for
                it.
        """
        ...

    def unwrap(self, wrapped: Wrapped, row: bytes) -> bytes:
        """The inverse.

        Raises:
            KeyUnavailable: the master key is not here, or is another one; what is no ``RunlaneError``, or a retryable
                one, is taken for it.
        """
        ...


class KeyUnavailable(PayloadUnreadable):
    """A data key cannot be had in this process at present; elsewhere, or later, it may be."""


def once_more(problem: RunlaneError) -> RunlaneError:
    """Why there is no key, as an error of its own for each who asks."""
    kinds = (PayloadErased, KeyUnavailable, PayloadUnreadable)
    kind = next((one for one in kinds if isinstance(problem, one)), PayloadUnreadable)
    return kind(problem.message, retryable=problem.retryable)


class SealedReason(StrEnum):
    """Why a value is not shown."""

    ERASED = "erased"
    NO_KEY = "no_key"
    UNREADABLE = "unreadable"


class Sealed(dict[str, str]):
    """Stands in the place of a payload, result or release state that cannot be shown; a JSON object to programs.

    Args:
        reason: ``erased``: its subject was; ``no_key``: this process lacks the codec or the key; ``unreadable``: what
            is stored cannot be decoded.
    """

    def __init__(self, reason: SealedReason) -> None:
        super().__init__({MARK: "sealed", "reason": reason.value})
        self.reason = reason

    def __str__(self) -> str:
        return {"erased": "erased", "no_key": "sealed (its key is not here)"}.get(self.reason, "sealed (unreadable)")


def is_sealed(value: Any) -> bool:
    """Whether a stored value is an envelope."""
    return type(value) is dict and MARK in value


def key_of(value: Any) -> UUID | None:
    """The id of the data key of an envelope, if it names one."""
    try:
        return UUID(value[KEY])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def checked(codec: Any) -> PayloadCodec | None:
    """`codec`, if it is a payload codec, or none.

    Raises:
        ConfigurationInvalid: it is neither.
    """
    if codec is None:
        return None
    name = getattr(codec, "name", None)
    callables = all(callable(getattr(codec, method, None)) for method in ("encode", "decode"))
    if isinstance(codec, type) or not callables or not isinstance(name, str) or not name or name == "sealed":
        raise ConfigurationInvalid(
            f"payload_codec must have name, encode and decode, as AesGcm(…) has; got {shown(codec)}"
        )
    found: PayloadCodec = codec
    return found
