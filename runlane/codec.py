"""Events to their stored form and back: a stable name, a version, and JSON.

Names are data, never import paths.  When the JSON of an event changes, its version grows and an upcaster from the old
version to the next joins ``UPCASTERS``; stored rows are never rewritten.  Unknown names and versions are refused: a
reader that skipped what it does not know would fold a wrong state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from attrs import evolve, fields
from cattrs import Converter
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from runlane import events as e
from runlane.errors import InvariantViolation
from runlane.structs import struct
from runlane.values import Failure, Source

#: Every event's stored name and current version.
STORED_AS: dict[type[e.Event], tuple[str, int]] = {
    e.RunCreated: ("run.created", 1),
    e.RunDeliveryRequested: ("run.delivery_requested", 1),
    e.RunDispatchReserved: ("run.dispatch_reserved", 1),
    e.RunDispatchReservationExpired: ("run.dispatch_reservation_expired", 1),
    e.RunLeased: ("run.leased", 1),
    e.RunSucceeded: ("run.succeeded", 1),
    e.RunRetryScheduled: ("run.retry_scheduled", 1),
    e.RunReleased: ("run.released", 1),
    e.RunInterrupted: ("run.interrupted", 1),
    e.RunLeaseExpired: ("run.lease_expired", 1),
    e.RunFailed: ("run.failed", 1),
    e.RunCancellationRequested: ("run.cancellation_requested", 1),
    e.RunCancelled: ("run.cancelled", 1),
    e.ScheduleRegistered: ("schedule.registered", 1),
    e.ScheduleChanged: ("schedule.changed", 1),
    e.ScheduleFired: ("schedule.fired", 1),
    e.SchedulePaused: ("schedule.paused", 1),
    e.ScheduleResumed: ("schedule.resumed", 1),
    e.ScheduleRemoved: ("schedule.removed", 1),
    e.IdempotencyReset: ("idempotency.reset", 1),
    e.QueuePaused: ("queue.paused", 1),
    e.QueueResumed: ("queue.resumed", 1),
    e.RunsPruned: ("environment.pruned", 2),
    e.LogCheckpointed: ("environment.checkpointed", 1),
    e.RowRepaired: ("environment.repaired", 1),
    e.TablesRebuilt: ("environment.rebuilt", 1),
    e.SubjectErased: ("environment.subject_erased", 1),
}

#: (stored name, old version) to the function that turns its JSON into the next version's.
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("environment.pruned", 1): lambda values: values,  # what version 2 adds was not kept
}

_MARK = "\x01"
_MARKED = orjson.dumps(_MARK).decode()
_CLASS_OF = {name: (cls, version) for cls, (name, version) in STORED_AS.items()}
#: Values that are JSON already: copying them would only cost time.
_PLAIN = frozenset({"payload", "result", "meta", "trace_carrier", "cadence"})


@struct
class Stored:
    """What the log keeps of an event."""

    type: str
    version: int
    data: str


def _as_is(value: Any, _: Any = None) -> Any:
    return value


def _instant(text: str, _: Any) -> datetime:
    """An instant of an event; imports bring what others have written."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is UTC:
        return at
    if at.tzinfo is None:
        raise ValueError("an instant without a time zone")
    return at.astimezone(UTC)


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=False, detailed_validation=False)
    converter.register_unstructure_hook(datetime, _as_is)  # orjson writes instants and ids by itself, and faster
    converter.register_unstructure_hook(UUID, _as_is)
    converter.register_structure_hook(datetime, _instant)
    converter.register_structure_hook(UUID, lambda value, _: UUID(value))
    for cls in (Source, Failure, e.Head, e.Part, *STORED_AS):
        plain = {f.name for f in fields(cls)} & _PLAIN
        converter.register_unstructure_hook(
            cls,
            make_dict_unstructure_fn(
                cls,
                converter,
                _cattrs_omit_if_default=True,
                **{name: override(unstruct_hook=_as_is) for name in plain},  # type: ignore[arg-type]
            ),
        )
        converter.register_structure_hook(
            cls,
            make_dict_structure_fn(
                cls,
                converter,
                _cattrs_detailed_validation=False,
                **{name: override(struct_hook=_as_is) for name in plain},  # type: ignore[arg-type]
            ),
        )
    return converter


_CONVERTER = _converter()
_TO_DICT: dict[type[e.Event], Callable[[Any], Any]] = {cls: _CONVERTER.get_unstructure_hook(cls) for cls in STORED_AS}
_FROM_DICT: dict[type[e.Event], Callable[[Any, Any], Any]] = {
    cls: _CONVERTER.get_structure_hook(cls) for cls in STORED_AS
}


def encode(event: e.Event) -> Stored:
    """The stored form of `event`; times are RFC 3339 in UTC, fields at their default are left out."""
    kind = type(event)
    name, version = STORED_AS[kind]
    return Stored(name, version, orjson.dumps(_TO_DICT[kind](event)).decode())


def around_payload(created: e.RunCreated) -> tuple[str, str]:
    """What stands before and behind the payload in the data of events that are `created` but for their payloads."""
    # Before the payload stand identifiers, which contain no control character.
    before, _, behind = encode(evolve(created, payload=_MARK)).data.partition(_MARKED)
    return before, behind


def put_between(around: tuple[str, str], payloads: Iterable[Any]) -> list[str]:
    """The data of such events, one for each payload."""
    before, behind = around
    return [before + orjson.dumps(payload).decode() + behind for payload in payloads]


def decode(name: str, version: int, data: bytes | str) -> e.Event:
    """The event of a stored row, upcast to its current version.

    Raises:
        InvariantViolation: the name or version is unknown here (written by a newer Runlane), or the data is damaged.
    """
    known = _CLASS_OF.get(name)
    if known is None or version > known[1] or version < 1:
        raise InvariantViolation(
            f"the log holds {name[:200]} version {version}, which this Runlane cannot read; upgrade it"
        )
    cls, current = known
    try:
        values = orjson.loads(data)
        while version < current:
            values = UPCASTERS[name, version](values)
            version += 1
        event: e.Event = _FROM_DICT[cls](values, cls)
    except (BaseValidationError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InvariantViolation(f"the stored data of a {name} event is damaged: {error}") from error
    return event


def to_json(value: Failure | Source) -> Any:
    """The plain JSON value of a value object, as events hold it."""
    return _CONVERTER.unstructure(value)


def failure_from_json(value: Any) -> Failure:
    """The inverse of ``to_json`` for failures."""
    return _CONVERTER.structure(value, Failure)
