"""The whole log folded again and compared, field by field, with what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from functools import cache, lru_cache, partial
from heapq import merge
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID

from attrs import Factory, define, frozen
from sqlalchemy import Select, bindparam, select

from runlane.decisions import environment_stream
from runlane.errors import InvariantViolation
from runlane.events import IdempotencyReset, RunsPruned, ScheduleFired
from runlane.projections import queues as queue_fold
from runlane.projections import runs as run_fold
from runlane.projections import schedules as schedule_fold
from runlane.storage import keys, outbox, ownership, rows, run_rows, sealed, streams, tables
from runlane.storage.findings import Difference, Verification
from runlane.storage.scan import EVERYTHING, Range, scan
from runlane.storage.sealed import NOTHING, Evidence
from runlane.storage.streams import Stream
from runlane.storage.transaction import Transaction

T = TypeVar("T")

#: How many differences are told at most.
MOST = 1000

_OCCURRENCES = select(tables.occurrences.c.scheduled_for, tables.occurrences.c.id, tables.occurrences.c.run_id).where(
    tables.occurrences.c.environment == bindparam("environment"),
    tables.occurrences.c.schedule_id == bindparam("schedule_id"),
)


@define
class Part:
    """What came of a part of the log: counts, differences, and what the rest of the check has to know of it."""

    counts: Counter[str] = Factory(Counter)
    differences: list[Difference] = Factory(list)
    environments: set[str] = Factory(set)
    pruned_at: dict[str, int] = Factory(dict)

    def add(self, other: Part) -> None:
        """Take in what came of another part."""
        self.counts += other.counts
        self.differences += other.differences
        self.environments |= other.environments
        self.pruned_at |= other.pruned_at


def verify(
    tx: Transaction,
    environment: str | None,
    progress: Callable[[int], None] | None,
    most: int = MOST,
    since: datetime | None = None,
    evidence: Evidence = NOTHING,
) -> Verification:
    """Fold every stream and compare; reports at most `most` differences.

    With `since` only what moved at or after that instant; keys and wakeups are compared by a whole check only, and of
    checkpoints those that were made since.

    `progress` is called with the number of events folded so far.
    """
    return conclude(tx, environment, compare(tx, environment, since, EVERYTHING, progress, most), since, evidence, most)


def compare(
    tx: Transaction,
    environment: str | None,
    since: datetime | None,
    within: Range,
    progress: Callable[[int], None] | None = None,
    most: int = MOST,
) -> Part:
    """Fold the streams with ids in this range, and compare them with their rows, up to so many differences."""
    part = Part(environments=set() if environment is None else {environment})
    with closing(streams.read_streams(tx, "", environment, since, within)) as histories, ExitStack() as open_rows:
        for stream, row in _paired(histories, _stored(tx, environment, since, within, open_rows)):
            kind = _kind_of(stream, row)
            if stream is not None:
                part.counts[kind.name] += 1
                part.counts["events"] += len(stream.records)
                if stream.forged is not None:
                    part.differences.extend(_forged(stream))
                if kind is _ENVIRONMENT:
                    _note(part, stream, environment)
            if row is not None and row[0] is not kind:
                part.differences.append(Difference(stream.id, 0, "row", f"one of {row[0].name}", "absent"))  # type: ignore[union-attr]
                row = None
            if found := kind.compare(tx, stream, None if row is None else row[1]):
                part.differences.extend(found)
            if progress is not None:
                progress(part.counts["events"])
            if len(part.differences) >= most:
                break
    return part


def _note(part: Part, stream: Stream, environment: str | None) -> None:
    if environment is None:
        part.environments |= {record.environment for record in stream.records}
    part.pruned_at |= {r.environment: r.position or 0 for r in stream.records if isinstance(r.event, RunsPruned)}


def conclude(
    tx: Transaction,
    environment: str | None,
    part: Part,
    since: datetime | None,
    evidence: Evidence,
    most: int = MOST,
) -> Verification:
    """Check what is not about one stream alone, where all of them have been compared: checkpoints, keys, wakeups."""
    counts, differences = part.counts, part.differences
    if len(differences) >= most:
        return _verification(counts, differences[:most])
    for name in sorted(part.environments):
        differences.extend(sealed.check(tx, name, evidence, since, counts))
    if since is not None:
        return _verification(counts, differences[:most])
    differences.extend(ownership.differences(tx, environment, part.pruned_at))
    differences.extend(
        Difference(run_id, sequence, "outbox", "present", "an event run.delivery_requested at this place")
        for run_id, sequence in outbox.orphans(tx, environment, most)
    )
    return _verification(counts, differences[:most])


def _stored(
    tx: Transaction, environment: str | None, since: datetime | None, within: Range, opened: ExitStack
) -> Iterator[tuple[str, tuple[Kind, Any]]]:
    """All rows that are folded from streams of their own, in the order of the streams, by the names of these."""
    asked: dict[str, Any] = {} if environment is None else {"environment": environment}
    asked |= {
        name: value if name == "since" else UUID(value)  # type: ignore[arg-type]
        for name, value in (("since", since), ("first", within.first), ("behind", within.behind))
        if value is not None
    }
    statement = partial(_rows_by, asked=frozenset(asked))

    def of(kind: Kind) -> Iterator[tuple[str, tuple[Kind, Any]]]:
        found = opened.enter_context(tx.execute(statement(kind.key), asked))
        return ((str(row._mapping[kind.key]), (kind, row._mapping)) for row in found)

    runs = opened.enter_context(
        closing(scan(tx, tables.runs, run_rows.COLUMNS, ("id",), environment, since=since, within=within))
    )
    of_runs = ((row[0], (_RUNS, row)) for row in chain.from_iterable(runs))
    return merge(of_runs, *(of(kind) for kind in KINDS if kind.key is not None), key=itemgetter(0))


def _kind_of(stream: Stream | None, row: tuple[Kind, Any] | None) -> Kind:
    """What a stream is about, as its first event says, or what the table of a row without history is about."""
    if stream is None:
        assert row is not None
        return row[0]
    return _kind_with(stream.type)


@lru_cache(256)
def _kind_with(first: str) -> Kind:
    return next((kind for kind in KINDS if first.startswith(kind.prefix)), _UNKNOWN)


@cache
def _rows_by(key: Any, asked: frozenset[str]) -> Select[Any]:
    """The rows of a table in the order of its key; by what is asked for."""
    table = key.table
    conditions = {
        "environment": table.c.environment == bindparam("environment"),
        "since": table.c.updated_at >= bindparam("since"),
        "first": key >= bindparam("first"),
        "behind": key < bindparam("behind"),
    }
    return (
        select(table)
        .where(*(condition for name, condition in conditions.items() if name in asked))
        .order_by(key)
        .execution_options(yield_per=2000)
    )


def _verification(counts: Counter[str], differences: Sequence[Difference]) -> Verification:
    return Verification(
        counts["runs"],
        counts["schedules"],
        counts["events"],
        tuple(differences),
        counts["queues"],
        counts["checkpoints"],
        counts["foreign"],
    )


def compare_run(tx: Transaction, environment: str, run_id: UUID) -> Verification:
    """The same for one run."""
    stream = streams.read_run(tx, environment, run_id)
    with closing(scan(tx, tables.runs, run_rows.COLUMNS, ("id",), environment, only=("id", run_id))) as found_rows:
        row = next(chain.from_iterable(found_rows), None)
    found = _forged(stream) + _compare_run(tx, stream, row)
    return Verification(1, 0, 0 if stream is None else len(stream.records), tuple(found))


def _paired(histories: Iterable[Stream], stored: Iterable[tuple[str, T]]) -> Iterator[tuple[Stream | None, T | None]]:
    """Streams and rows, both in id order, side by side; either may be missing."""
    left, right = iter(histories), iter(stored)
    stream, row = next(left, None), next(right, None)
    while stream is not None or row is not None:
        if stream is not None and row is not None and stream.name == row[0]:
            yield stream, row[1]
            stream, row = next(left, None), next(right, None)
        elif row is None or (stream is not None and stream.name < row[0]):
            assert stream is not None
            yield stream, None
            stream = next(left, None)
        else:
            yield None, row[1]
            row = next(right, None)


def _compare_run(tx: Transaction, stream: Stream | None, row: Sequence[Any] | None) -> list[Difference]:
    if stream is None:
        return [] if row is None else [Difference(_id(row[0]), 0, "row", "present", "absent")]
    if stream.damage is not None:
        return [_unreadable(stream.id, *stream.damage)]
    try:
        run = run_fold.replay(stream.records)
    except InvariantViolation as error:
        return [_illegal(stream, error)]
    if row is None:
        return [Difference(run.id, run.sequence, "row", "absent", "present")]
    return run_rows.compare(tx, run, stream, row)


def _id(stored: str) -> UUID:
    """An id as it is stored; zero for what is none."""
    try:
        return UUID(stored)
    except (ValueError, TypeError, AttributeError):
        return UUID(int=0)


def _compare_schedule(tx: Transaction, stream: Stream | None, row: Mapping[str, Any] | None) -> list[Difference]:
    if stream is None:
        return [Difference(row["stream_id"], 0, "row", "present", "absent")] if row else []
    if stream.damage is not None:
        return [_unreadable(stream.id, *stream.damage)]
    try:
        state = schedule_fold.replay(stream.records)
    except InvariantViolation as error:
        return [_illegal(stream, error)]
    if row is None:
        return [Difference(state.stream_id, state.sequence, "row", "absent", "present")]
    differences = _fields(state.stream_id, state.sequence, row, rows.schedule_values(state))
    found = tx.execute(_OCCURRENCES, {"environment": state.environment, "schedule_id": state.schedule_id})
    stored = {tuple(occurrence) for occurrence in found}
    fired = {
        (record.event.scheduled_for, record.event.occurrence_id, record.event.run_id)
        for record in stream.records
        if isinstance(record.event, ScheduleFired)
    }
    if stored != fired:
        missing, extra = sorted(map(str, fired - stored)), sorted(map(str, stored - fired))
        differences.append(Difference(state.stream_id, state.sequence, "occurrences", extra, missing))
    return differences


def _compare_queue(_: Transaction, stream: Stream | None, row: Mapping[str, Any] | None) -> list[Difference]:
    if stream is None:
        return [Difference(row["stream_id"], 0, "row", "present", "absent")] if row else []
    if stream.damage is not None:
        return [_unreadable(stream.id, *stream.damage)]
    try:
        state = queue_fold.replay(stream.records)
    except InvariantViolation as error:
        return [_illegal(stream, error)]
    if row is None:
        return [Difference(state.stream_id, state.sequence, "row", "absent", "present")]
    return _fields(state.stream_id, state.sequence, row, rows.queue_values(state))


def _check_environment(_: Transaction, stream: Stream | None, row: Mapping[str, Any] | None) -> list[Difference]:
    """Nothing is folded from an environment's own stream; it must be its own, readable and without a gap."""
    assert stream is not None
    if stream.damage is not None:
        return [_unreadable(stream.id, *stream.damage)]
    for place, record in enumerate(stream.records, 1):
        if record.sequence != place:
            return [Difference(stream.id, place, "sequence", record.sequence, place)]
        if stream.id != environment_stream(record.environment):
            return [Difference(stream.id, place, "environment", record.environment, "the stream's own")]
    return []


def _forged(stream: Stream | None) -> list[Difference]:
    """The first event of a stream that is not what it was when its digest was written, or whose neighbour is not."""
    if stream is None or stream.forged is None:
        return []
    sequence, stored, folded = stream.forged
    return [Difference(stream.id, sequence, "digest", stored.hex(), folded.hex())]


def _unreadable(stream_id: UUID, sequence: int, reason: str) -> Difference:
    return Difference(stream_id, sequence, "event", reason, "a readable event")


def _illegal(stream: Stream, error: InvariantViolation) -> Difference:
    return Difference(stream.id, stream.records[-1].sequence, "log", str(error), "a legal history")


def _compare_reset(tx: Transaction, stream: Stream | None, _: Mapping[str, Any] | None) -> list[Difference]:
    """A key whose owner was the last to lose it to an operator has to say so."""
    assert stream is not None
    if stream.damage is not None:
        return [_unreadable(stream.id, *stream.damage)]
    last = stream.records[-1]
    event = last.event
    if not isinstance(event, IdempotencyReset):
        return [_illegal(stream, InvariantViolation(f"{type(event).__name__} does not belong to a key"))]
    owner = keys.get_owner(tx, last.environment, event.task_id, event.key)
    expected = last.occurred_at if owner is not None and owner.run_id == event.run_id else None
    stored = None if owner is None else owner.reset_at
    field = "idempotency_keys.reset_at"
    return [] if stored == expected else [Difference(stream.id, last.sequence, field, stored, expected)]


def _strange(_: Transaction, stream: Stream | None, row: Mapping[str, Any] | None) -> list[Difference]:
    """A stream that begins with an event of no known kind."""
    assert stream is not None
    return [Difference(stream.id, 1, "type", stream.type, "an event of a known kind")]


@frozen
class Kind:
    """What a stream can be about: how it is counted, how its types begin, the key of its table, how both compare."""

    name: str
    prefix: str
    key: Any
    compare: Callable[[Transaction, Stream | None, Any], list[Difference]]


_ENVIRONMENT = Kind("environments", "environment.", None, _check_environment)
_UNKNOWN = Kind("unknown", "", None, _strange)
_RUNS = Kind("runs", "run.", None, _compare_run)
KINDS = (
    _RUNS,
    Kind("schedules", "schedule.", tables.schedules.c.stream_id, _compare_schedule),
    Kind("queues", "queue.", tables.queues.c.stream_id, _compare_queue),
    Kind("keys", "idempotency.", None, _compare_reset),
    _ENVIRONMENT,
)


def _fields(stream_id: UUID, sequence: int, stored: Mapping[str, Any], folded: dict[str, Any]) -> list[Difference]:
    return [
        Difference(stream_id, sequence, name, stored.get(name), value)
        for name, value in folded.items()
        if stored.get(name) != value
    ]
