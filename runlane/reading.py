"""Pages of runs: opaque cursors bound to their filter."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict
from uuid import UUID

from attrs import asdict, frozen

from runlane import jsontext
from runlane.errors import ConfigurationInvalid
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.shown import shown
from runlane.storage import queries
from runlane.storage.queries import RunFilter
from runlane.storage.transaction import Transaction
from runlane.tasks import Queue, Task
from runlane.values import LEASED, RunStatus, free_text, identifier, instant, run_id


class Where(TypedDict, total=False):
    """Conditions on runs, as ``runs.list`` takes them; all that are given must hold."""

    statuses: Sequence[RunStatus | str] | None
    tasks: Sequence[Task[..., Any] | str] | None
    queues: Sequence[Queue | str] | None
    correlation_id: str | None
    idempotency_key: str | None
    singleton_key: str | None
    concurrency_key: str | None
    source_run_id: UUID | str | None
    parent_run_id: UUID | str | None
    schedule_id: str | None
    created_after: datetime | None
    created_before: datetime | None


Order = Literal["newest", "oldest"]
DEFAULT_LIMIT, MOST = 50, 500
#: What a cursor says of its conditions: those that a caller cannot know, and those that a command line counts from now.
_KEPT = ("created_after", "created_before", "made_until", "last_made")
_NO_CURSOR = (binascii.Error, ValueError, TypeError, AttributeError)
_STATUSES = frozenset(status.value for status in RunStatus)


@frozen
class Page:
    """Some runs, and where to go on: pass `next_cursor` to the same call; None means there are no more."""

    data: tuple[Run, ...]
    next_cursor: str | None = None


@frozen
class QueueState:
    """A queue and how many of its runs are in each status; statuses without runs are left out.

    `control` is what was last decided about a pause, None if nothing ever was; `concurrency_limit` is this process's;
    `reserved` are the slots set aside for runs that wait for their wakeup.
    """

    name: str
    runs: Mapping[RunStatus, int]
    control: QueueControl | None = None
    concurrency_limit: int | None = None
    reserved: int = 0

    @property
    def paused(self) -> bool:
        """Whether nothing is claimed from it."""
        return self.control is not None and self.control.paused

    @property
    def occupied(self) -> int:
        """How many slots are in use, over all concurrency keys: the leased runs, and the reserved slots."""
        return self.reserved + sum(self.runs.get(status, 0) for status in LEASED)


def list_runs(
    tx: Transaction, environment: str, wanted: RunFilter, limit: int, cursor: str | None, order: Order
) -> Page:
    """One page of the runs that match.

    Raises:
        ConfigurationInvalid: the limit, the order or the cursor is not valid.
    """
    whole_number("limit", limit, MOST)
    if not isinstance(order, str) or str.__str__(order) not in ("newest", "oldest"):
        raise ConfigurationInvalid(f"order must be 'newest' or 'oldest'; got {shown(order)}")
    after = None if cursor is None else _open(cursor, environment, wanted, order)
    runs = queries.list_runs(tx, environment, wanted, limit + 1, after, order == "newest")
    more = len(runs) > limit
    runs = runs[:limit]
    return Page(tuple(runs), _seal(runs[-1].id, environment, wanted, order) if more else None)


def run_filter(
    *,
    statuses: Sequence[RunStatus | str] | None = None,
    tasks: Sequence[Task[..., Any] | str] | None = None,
    queues: Sequence[Queue | str] | None = None,
    correlation_id: str | None = None,
    idempotency_key: str | None = None,
    singleton_key: str | None = None,
    concurrency_key: str | None = None,
    source_run_id: UUID | str | None = None,
    parent_run_id: UUID | str | None = None,
    schedule_id: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> RunFilter:
    """A filter from what a caller wrote; names may also be definitions.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid.
    """
    return RunFilter(
        None if statuses is None else tuple(_status(status) for status in _several("statuses", statuses)),
        None if tasks is None else tuple(_name("tasks", task) for task in _several("tasks", tasks)),
        None if queues is None else tuple(_name("queues", queue) for queue in _several("queues", queues)),
        None if correlation_id is None else free_text("correlation_id", correlation_id),
        None if idempotency_key is None else free_text("idempotency_key", idempotency_key),
        None if singleton_key is None else free_text("singleton_key", singleton_key),
        None if concurrency_key is None else free_text("concurrency_key", concurrency_key),
        None if source_run_id is None else run_id(source_run_id),
        None if parent_run_id is None else run_id(parent_run_id),
        None if schedule_id is None else free_text("schedule_id", schedule_id),
        None if created_after is None else instant("created_after", created_after),
        None if created_before is None else instant("created_before", created_before),
    )


def queue_name(queue: Queue | str) -> str:
    """The name of a queue that may be given as definition."""
    if isinstance(queue, (Queue, str)):
        return identifier("queue name", queue.name if isinstance(queue, Queue) else queue)
    raise ConfigurationInvalid(f"queue must be a Queue definition or a name; got {shown(queue)}")


def whole_number(what: str, value: object, most: int) -> int:
    """`value`, if it is an integer from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigurationInvalid(f"{what} must be an integer from 1 to {most}; got {shown(value)}")
    return value


def _several(what: str, values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationInvalid(f"{what} must be a list, such as {what}=[{shown(values)}]; got {shown(values)}")
    return values


def _name(what: str, value: Any) -> str:
    if isinstance(value, Task):
        return value.id
    return value.name if isinstance(value, Queue) else free_text(f"an entry of {what}", value)


def _status(status: RunStatus | str) -> RunStatus:
    named = str.__str__(status) if isinstance(status, str) else None
    if named not in _STATUSES:
        known = ", ".join(RunStatus)
        raise ConfigurationInvalid(f"unknown status {shown(status)}; known are {known}")
    return RunStatus(named)


def _fingerprint(environment: str, wanted: RunFilter, order: str) -> str:
    text = repr((environment, order, sorted((k, str(v)) for k, v in asdict(wanted).items())))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _seal(last: UUID, environment: str, wanted: RunFilter, order: str) -> str:
    kept = {name: str(value) for name in _KEPT if (value := getattr(wanted, name)) is not None}
    return seal(last, _fingerprint(environment, wanted, order), kept)


def _open(cursor: str, environment: str, wanted: RunFilter, order: str) -> UUID:
    return unseal(cursor, _fingerprint(environment, wanted, order), "runs.list")


def behind(last: UUID, environment: str, wanted: RunFilter, order: Order) -> str:
    """The cursor of a page that ends with this run."""
    return _seal(last, environment, wanted, order)


def kept(cursor: str | None) -> dict[str, Any]:
    """The instants, and the id, among the conditions that a cursor of runs belongs to; nothing of what is no cursor."""
    try:
        _, _, *rest = _decoded(cursor) if isinstance(cursor, str) else ("", "")
        found = rest[0] if rest else {}
        return {
            name: UUID(found[name]) if name == "last_made" else datetime.fromisoformat(found[name])
            for name in _KEPT
            if name in found
        }
    except _NO_CURSOR:
        return {}


def seal(last: UUID, bound_to: str, kept: Mapping[str, str] | None = None) -> str:
    """A cursor: the last id seen, bound to the fingerprint of what was asked; `kept` is what it tells of that."""
    value = jsontext.dumps([bound_to, str(last), kept] if kept else [bound_to, str(last)])
    return base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")


def unseal(cursor: str, bound_to: str, call: str) -> UUID:
    """The inverse of ``seal``; `call` is what returned the cursor.

    Raises:
        ConfigurationInvalid: it is no cursor, or one of another question.
    """
    try:
        found, last, *_ = _decoded(cursor)
        place = UUID(last)
    except _NO_CURSOR:
        raise ConfigurationInvalid(f"the cursor is not one that {call} returned") from None
    if found != bound_to:
        raise ConfigurationInvalid("the cursor belongs to another filter or order; start without a cursor")
    return place


def _decoded(cursor: str) -> Any:
    padded = cursor.encode() + b"=" * (-len(cursor) % 4)
    return jsontext.decode(base64.urlsafe_b64decode(padded))
