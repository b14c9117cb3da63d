"""Going back in time, as the log tells it: one run, what became of it, and all runs of an environment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from uuid import UUID

from attrs import frozen

from runlane import decisions
from runlane.engine.operate import not_found
from runlane.errors import ConfigurationInvalid, InvariantViolation, RunNotFound
from runlane.events import IdempotencyReset, Recorded, RunCreated, RunsPruned
from runlane.projections import queues as queue_fold
from runlane.projections import runs as run_fold
from runlane.projections.differences import RunDiff, diff
from runlane.projections.fleet import Fleet, Tally
from runlane.projections.runs import Run
from runlane.projections.timeline import Moment, timeline
from runlane.reading import whole_number
from runlane.storage import past
from runlane.storage.transaction import Transaction
from runlane.values import instant
from runlane.vault import PLAIN, Vault

#: How many runs, and how many keys of each kind, are listed unless told otherwise; and at most.
DEFAULT_LIMIT, MOST = 100, 10_000
#: No run has more events than its sequence can count.
_LAST = 2**31 - 1
#: Runs between two reports of progress.
_STRIDE = 500


@frozen
class Then:
    """A moment in the life of a run: behind the event of this sequence, or at this instant."""

    sequence: int | None = None
    at: datetime | None = None


def then(at_sequence: int | None, at: datetime | None) -> Then | None:
    """The moment that is asked for; None if none is.

    Raises:
        ConfigurationInvalid: two are, or one that cannot be.
    """
    if at_sequence is not None and at is not None:
        raise ConfigurationInvalid("give at_sequence or at, not both")
    if at is not None:
        return Then(at=instant("at", at))
    return None if at_sequence is None else Then(whole_number("at_sequence", at_sequence, _LAST))


def run_then(tx: Transaction, environment: str, run_id: UUID, moment: Then) -> Run:
    """The run as of a moment: the fold of its events up to there.

    Raises:
        RunNotFound: there is no such run in this environment, or there was none yet.
        ConfigurationInvalid: it has no event of that sequence.
        InvariantViolation: its history is damaged.
    """
    if moment.at is not None:
        records = past.read_run_until(tx, environment, run_id, moment.at)
        if not records:
            raise _not_there(tx, environment, run_id, moment.at)
    else:
        records = _up_to(tx, environment, run_id, "at_sequence", moment.sequence or 1)
    return run_fold.replay(records)


def difference(
    tx: Transaction, environment: str, run_id: UUID, from_sequence: int, to_sequence: int | None, vault: Vault = PLAIN
) -> RunDiff:
    """What changed in a run between two of its events; without `to_sequence` up to its last one.

    Raises:
        RunNotFound: there is no such run in this environment.
        ConfigurationInvalid: it has no event of such a sequence, or they are the wrong way round.
        InvariantViolation: its history is damaged.
    """
    begin = whole_number("from_sequence", from_sequence, _LAST)
    if to_sequence is None:
        records = _up_to(tx, environment, run_id, "from_sequence", begin, more=True)
    else:
        end = whole_number("to_sequence", to_sequence, _LAST)
        if begin > end:
            raise ConfigurationInvalid(f"from_sequence ({begin}) must not lie behind to_sequence ({end})")
        records = _up_to(tx, environment, run_id, "to_sequence", end)
    return diff(vault.reveal_events(records, tx), begin)


def told(tx: Transaction, environment: str, run_id: UUID) -> tuple[Moment, ...]:
    """The history of a run, a sentence for each event.

    Raises:
        RunNotFound: there is no such run in this environment.
        InvariantViolation: an event cannot be read.
    """
    records = past.read_run(tx, environment, run_id)
    if not records:
        raise not_found(run_id, environment)
    return timeline(records, _repeated(tx, environment, records[0]))


def fleet(
    tx: Transaction, environment: str, at: datetime, limit: int, progress: Callable[[int], None] | None = None
) -> Fleet:
    """All runs of an environment as of an instant; reads the log up to there in constant memory.

    `progress` is called now and then with the number of events folded so far.
    """
    freed: set[UUID] = set()  # an operator's doing, one by one: not many
    tally = Tally(environment, at, decisions.keeps_key, freed, limit)
    with closing(past.histories(tx, "idempotency.", environment, at)) as streams:
        for stream_id, records in streams:
            try:
                freed.update(record.event.run_id for record in records if isinstance(record.event, IdempotencyReset))
            except InvariantViolation:
                tally.add_unreadable(stream_id)
    with closing(past.histories(tx, "queue.", environment, at)) as streams:
        for stream_id, records in streams:
            try:
                tally.add_queue(queue_fold.replay(records))
            except InvariantViolation:
                tally.add_unreadable(stream_id)
    with closing(past.histories(tx, "environment.", environment)) as streams:
        for stream_id, records in streams:
            try:
                tally.add_pruned(sum(_pruned_since(record, at) for record in records))
            except InvariantViolation:
                tally.add_unreadable(stream_id)
    with closing(past.histories(tx, "run.", environment, at)) as streams:
        events = 0
        for number, (stream_id, records) in enumerate(streams, 1):
            try:
                run = run_fold.replay(records)
            except InvariantViolation:
                tally.add_unreadable(stream_id)
                continue
            tally.add_run(run)
            events += run.sequence
            if progress is not None and number % _STRIDE == 0:
                progress(events)
    return tally.fleet()


def _pruned_since(record: Recorded, at: datetime) -> int:
    return record.event.runs if isinstance(record.event, RunsPruned) and record.occurred_at > at else 0


def _up_to(
    tx: Transaction, environment: str, run_id: UUID, what: str, sequence: int, more: bool = False
) -> tuple[Recorded, ...]:
    """The events of a run up to this one, or with `more` all of them, if it has this one."""
    records = past.read_run_up_to(tx, environment, run_id, _LAST if more else sequence)
    if not records or records[-1].sequence < sequence:
        known = past.extent(tx, environment, run_id)
        if known is None:
            raise not_found(run_id, environment)
        if known[1] >= sequence:  # a hole
            raise InvariantViolation(f"the log has lost event {sequence} of run {run_id}; see `runlane audit verify`")
        raise ConfigurationInvalid(f"{what} is {sequence}, but the last event of run {run_id} is {known[1]}")
    return records


def _not_there(tx: Transaction, environment: str, run_id: UUID, at: datetime) -> RunNotFound:
    known = past.extent(tx, environment, run_id)
    if known is None:
        return not_found(run_id, environment)
    return RunNotFound(f"run {run_id} exists since {known[0].isoformat()}; there was none at {at.isoformat()}")


def _repeated(tx: Transaction, environment: str, first: Recorded) -> RunCreated | None:
    """The birth of the run that a run repeats, if it repeats one that is still there."""
    event = first.event
    source = event.source.source_run_id if isinstance(event, RunCreated) else None
    births = () if source is None else past.read_run_up_to(tx, environment, source, 1)
    return births[0].event if births and isinstance(births[0].event, RunCreated) else None
