"""The log folded into the rows of the tables, stream by stream: what a rebuild puts into its shadows.

A stream may be longer than a page of events, so what has been folded of it is carried from page to page; nothing else
is kept.  Values are as the drivers take them, JSON as text.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any
from uuid import UUID

from attrs import Factory, define
from sqlalchemy import Integer, bindparam, select, tuple_

from runlane import digests, jsontext
from runlane.decisions import environment_stream, key_stream
from runlane.errors import InvariantViolation
from runlane.events import IdempotencyReset, Recorded, ScheduleFired
from runlane.projections import queues as queue_fold
from runlane.projections import runs as run_fold
from runlane.projections import schedules as schedule_fold
from runlane.projections.schedules import ScheduleState
from runlane.storage import rows, streams, tables
from runlane.storage.findings import Difference
from runlane.storage.transaction import Transaction

#: How many events are read at once.
PAGE = 2000
Row = tuple[Any, ...]
_Fold = Callable[[Any, Recorded], Any]

_EVENTS = tables.events.c
_PLACE: Any = tuple_(_EVENTS.stream_id, _EVENTS.sequence)
_IN_ORDER = select(*streams.ENVELOPE).order_by(_EVENTS.stream_id, _EVENTS.sequence)
_PAGE = _IN_ORDER.where(
    tuple_(bindparam("behind", type_=tables.Guid()), bindparam("sequence", type_=Integer())) < _PLACE,
    _EVENTS.stream_id <= bindparam("last"),
).limit(bindparam("most"))
_FLOWING = _IN_ORDER.execution_options(yield_per=PAGE)
_OF_STREAMS = _FLOWING.where(_EVENTS.stream_id.in_(bindparam("ids", expanding=True)))
_BEHIND = _FLOWING.where(_EVENTS.stream_id == bindparam("stream_id"), _EVENTS.sequence > bindparam("sequence"))
_LAST = select(_EVENTS.stream_id).order_by(_EVENTS.stream_id.desc()).limit(1)

#: The columns of the rows of each table that are folded, in this order.
COLUMNS: dict[str, tuple[str, ...]] = {
    "runs": (*rows.BIRTH, "digest"),
    **{
        name: tuple(tables.metadata.tables[f"{tables.SCHEMA}.{name}"].columns.keys())
        for name in ("schedules", "occurrences", "queues", "idempotency_keys")
    },
}
_JSON = frozenset({"cadence", "payload"})


@define
class _Stream:
    """What has been folded of the stream that is being read, and the last event of it."""

    id: UUID
    kind: str
    state: Any = None
    last: Recorded | None = None
    damage: Difference | None = None
    #: Of the last event; None if it was not read.
    digest: bytes | None = digests.START


@define
class Folder:
    """Takes the events of streams in order and gives rows, by table; `resets` are rows of keys that were freed.

    A stream whose history cannot be folded gives none: it is named in `damaged`, by kind and difference.
    """

    rows: dict[str, list[Row]] = Factory(lambda: {name: [] for name in COLUMNS})
    resets: list[Row] = Factory(list)
    damaged: list[tuple[str, Difference]] = Factory(list)
    events: int = 0
    _open: _Stream | None = None

    def take(self, envelopes: Iterable[Any]) -> tuple[UUID, int] | None:
        """Fold these events; the place of the last one."""
        place = None
        for row in envelopes:
            self.events += 1
            stream = self._open
            if stream is None or stream.id != row.stream_id:
                self.close()
                stream = self._open = _Stream(row.stream_id, row.type.partition(".")[0])
            if stream.damage is None:
                self._fold(stream, row)
            place = row.stream_id, row.sequence
        return place

    def go_on(self, state: ScheduleState, envelopes: Iterable[Any]) -> None:
        """Fold the events behind those that a schedule was folded from."""
        self.close()
        self._open = _Stream(state.stream_id, "schedule", state, digest=None)
        self.take(envelopes)
        self.close()

    def close(self) -> None:
        """The last stream has been read to its end."""
        stream, self._open = self._open, None
        if stream is None:
            return
        if stream.damage is not None:
            self.damaged.append((stream.kind, stream.damage))
        if stream.kind == "idempotency" and stream.last is not None:  # as far as it can be read
            reset = stream.last.event
            assert isinstance(reset, IdempotencyReset)
            key = (stream.last.environment, reset.task_id, reset.key)
            self.resets.append((*key, reset.run_id, stream.last.occurred_at))
        elif stream.damage is not None or stream.state is None:
            return
        elif stream.kind == "run":
            self.rows["runs"].append((*rows.birth_values(stream.state), stream.digest))
        elif stream.kind == "schedule":
            self.rows["schedules"].append(_values(rows.schedule_values(stream.state)))
        elif stream.kind == "queue":
            self.rows["queues"].append(_values(rows.queue_values(stream.state)))

    def drain(self) -> dict[str, list[Row]]:
        """The rows so far, which are forgotten here."""
        found, self.rows = self.rows, {name: [] for name in COLUMNS}
        return found

    def _fold(self, stream: _Stream, row: Any) -> None:
        expected = None if stream.digest is None else streams.digest_of(stream.digest, row)
        stream.digest = row.digest
        if expected not in (None, row.digest):
            stream.damage = Difference(stream.id, row.sequence, "digest", row.digest.hex(), expected.hex())
            return
        try:
            record = streams.recorded(row)
        except (InvariantViolation, ValueError) as error:
            stream.damage = Difference(stream.id, row.sequence, "event", str(error), "a readable event")
            return
        try:
            fold: _Fold = _FOLDS.get(stream.kind, _unknown)
            stream.state = fold(stream.state, record)
        except InvariantViolation as error:
            stream.damage = Difference(stream.id, row.sequence, "log", str(error), "a legal history")
            return
        stream.last = record
        event = record.event
        if isinstance(event, ScheduleFired):
            fired = (record.environment, stream.state.schedule_id)
            self.rows["occurrences"].append((*fired, event.scheduled_for, event.occurrence_id, event.run_id))


def _run(state: Any, record: Recorded) -> Any:
    return run_fold.born(record) if state is None else run_fold.after(state, record)


def _schedule(state: Any, record: Recorded) -> Any:
    return schedule_fold.born(record) if state is None else schedule_fold.after(state, record)


def _reset(_: Any, record: Recorded) -> None:
    event = record.event
    if not isinstance(event, IdempotencyReset) or record.stream_id != key_stream(
        record.environment, event.task_id, event.key
    ):
        raise InvariantViolation(f"event {record.sequence} does not belong to the key whose stream it is in")


def _environment(_: Any, record: Recorded) -> None:
    if record.stream_id != environment_stream(record.environment):
        raise InvariantViolation(f"event {record.sequence} does not belong to the environment whose stream it is in")


def _unknown(_: Any, record: Recorded) -> None:
    raise InvariantViolation(f"no table is folded from {type(record.event).__name__}")


_FOLDS: dict[str, _Fold] = {
    "run": _run,
    "schedule": _schedule,
    "queue": queue_fold.after,
    "idempotency": _reset,
    "environment": _environment,
}


def _values(row: dict[str, Any]) -> Row:
    return tuple(jsontext.dumps(value) if name in _JSON else value for name, value in row.items())


def last_stream(tx: Transaction) -> UUID | None:
    """The greatest id that a stream has."""
    found: UUID | None = tx.execute(_LAST).scalar()
    return found


def page(tx: Transaction, behind: tuple[UUID, int], last: UUID) -> Sequence[Any]:
    """The next events behind that place, in the order of streams, up to the stream `last`."""
    asked = {"behind": behind[0], "sequence": behind[1], "last": last, "most": PAGE}
    found: Sequence[Any] = tx.execute(_PAGE, asked).all()
    return found


def of_streams(tx: Transaction, ids: Sequence[UUID]) -> Generator[Any, None, None]:
    """All events of these streams, in order."""
    if ids:
        with tx.execute(_OF_STREAMS, {"ids": list(ids)}) as found:
            yield from found


def behind(tx: Transaction, stream_id: UUID, sequence: int) -> Generator[Any, None, None]:
    """The events of a stream behind this one."""
    with tx.execute(_BEHIND, {"stream_id": stream_id, "sequence": sequence}) as found:
        yield from found
