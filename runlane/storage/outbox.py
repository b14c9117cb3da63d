"""The outbox: which wakeups are to be published, and how far that has come.

A row belongs to the ``run.delivery_requested`` event it was written with.  Rows are claimed by a publisher for a time,
published outside of any transaction, then settled, so that a wakeup is published at least once whoever dies when.
Nothing here is folded: what has become of a wakeup decides nothing about its run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import Update, and_, bindparam, delete, exists, insert, select, text, update

from runlane.projections.runs import Run
from runlane.storage import queries, tables
from runlane.storage.choices import OneOf
from runlane.storage.given_up import MOST_TRIES
from runlane.storage.transaction import Transaction
from runlane.values import CLAIMABLE, storable
from runlane.wakeup import OutboxStatus, PublishOutcome, PublishStatus, Wakeup

#: For how long a publisher may keep rows before others take them over.
CLAIM = timedelta(seconds=30)
#: After which time a wakeup is published again if its run is still waiting for it, at first.
REDELIVERY = timedelta(minutes=10)
#: The longest that this time becomes.
_SELDOM = timedelta(hours=4)
_BACKOFF = (timedelta(seconds=1), timedelta(minutes=5))
_OUTBOX, _RUNS, _EVENTS = tables.outbox, tables.runs, tables.events
_C = _OUTBOX.c
# As the indexes say it: the planner compares texts, not meanings.  What a publisher may take, once it is due, includes
# rows of a publisher whose time is up.
_OPEN = OneOf("status", "pending", "claimed", "failed")
_NOT_DONE = text("status not in ('published', 'dead_lettered')")
_PUBLISHED = text("status = 'published'")

# Constants, so that SQLAlchemy knows them again: building one each time costs more than it costs to execute.
_ENQUEUE = insert(_OUTBOX)
_MINE = (_C.environment == bindparam("environment"), _C.due_at <= bindparam("now"))
_DUE = select(_OUTBOX).where(*_MINE, _OPEN)
# Said so that the index of what is due does not fit: these few are found by their key, however much is due.
_DUE_OF_RUNS = select(_OUTBOX).where(*_MINE, _C.run_id.in_(bindparam("run_ids", expanding=True)), _NOT_DONE)
_OF_QUEUES = _C.queue.in_(bindparam("queues", expanding=True))


def _to_publish(due: Any, *ordered: Any) -> Any:
    return due.order_by(*ordered).limit(bindparam("most")).with_for_update(skip_locked=True)


#: By whether queues are named, and whether runs are.
_CLAIM = {
    (False, False): _to_publish(_DUE, _C.due_at),
    (True, False): _to_publish(_DUE.where(_OF_QUEUES), _C.due_at),
    (False, True): _to_publish(_DUE_OF_RUNS),
    (True, True): _to_publish(_DUE_OF_RUNS.where(_OF_QUEUES)),
}
_KEYS_PUBLISHED = select(_C.run_id, _C.sequence).where(
    _C.environment == bindparam("environment"), _PUBLISHED, _C.due_at.is_not(None)
)
_LOOK_AGAIN = _to_publish(_KEYS_PUBLISHED.where(_C.due_at <= bindparam("now")), _C.due_at)
_PUBLISH_AGAIN = _to_publish(_KEYS_PUBLISHED.where(_C.due_at > bindparam("now"), _C.queue == bindparam("queue")))
_REMOVE = delete(_OUTBOX).where(_C.run_id.in_(bindparam("run_ids", expanding=True)))
_BY_KEY = update(_OUTBOX).where(_C.run_id == bindparam("of_run"), _C.sequence == bindparam("at"))
_STILL_CLAIMED = _BY_KEY.where(
    _C.attempts == bindparam("attempt"), _C.claimed_by == bindparam("publisher"), _C.status == OutboxStatus.CLAIMED
)


@frozen
class Requested:
    """A delivery that an event has asked for."""

    run: Run
    sequence: int
    requested_at: datetime


@frozen
class Claimed:
    """A row taken for publishing, for the how-manieth time."""

    wakeup: Wakeup
    sequence: int
    attempts: int

    @property
    def key(self) -> tuple[UUID, int]:
        """Its run, and the place of its event in that run's history."""
        return self.wakeup.run_id, self.sequence


def enqueue(tx: Transaction, requested: Iterable[Requested]) -> None:
    """Write the rows of deliveries asked for in this transaction."""
    found = [
        {
            "run_id": one.run.id,
            "sequence": one.sequence,
            "environment": one.run.environment,
            "queue": one.run.queue,
            "requested_at": one.requested_at,
            "status": OutboxStatus.PENDING,
            "due_at": one.requested_at,
            "attempts": 0,
        }
        for one in requested
    ]
    if found:
        tx.execute(_ENQUEUE, found)


def claim(
    tx: Transaction,
    environment: str,
    publisher: UUID,
    now: datetime,
    limit: int,
    queues: Collection[str] | None = None,
    run_ids: Collection[UUID] | None = None,
) -> tuple[list[Claimed], bool]:
    """Take up to `limit` rows of these queues (and runs) that are due, until ``CLAIM`` from now.

    Rows whose run has gone on meanwhile are settled without being published, and those whose publishers have vanished
    too often are given up.  Returns the others, and whether there may be more.
    """
    asked: dict[str, Any] = {"environment": environment, "now": now, "most": limit}
    asked |= {} if queues is None else {"queues": list(queues)}
    asked |= {} if run_ids is None else {"run_ids": list(run_ids)}
    rows: Sequence[Any] = tx.execute(_CLAIM[queues is not None, run_ids is not None], asked).all()
    runs = queries.get_runs(tx, [row.run_id for row in rows]) if rows else {}
    taken, passed, lost = [], [], []
    for row in rows:
        run = runs.get(row.run_id)
        if row.attempts >= MOST_TRIES:
            lost.append((row.run_id, row.sequence))
        elif run is not None and _is_waiting(run, row.sequence):
            wakeup = Wakeup(environment, run.id, row.queue, row.requested_at, run.trace_carrier)
            taken.append(Claimed(wakeup, row.sequence, row.attempts + 1))
        else:
            passed.append((row.run_id, row.sequence))
    _set(tx, [(one.key, _claimed(publisher, now, one.attempts)) for one in taken])
    _set(tx, [(key, _ended(OutboxStatus.PUBLISHED, "the run had gone on")) for key in passed])
    _set(tx, [(key, _ended(OutboxStatus.DEAD_LETTERED, "its publishers vanished")) for key in lost])
    return taken, len(rows) == limit


def settle(
    tx: Transaction, publisher: UUID, outcomes: Sequence[tuple[Claimed, PublishOutcome]], now: datetime
) -> dict[OutboxStatus, int]:
    """Record what became of claimed rows; those that somebody else has taken over meanwhile are left alone.

    Returns how many rows got which status.
    """
    counts: dict[OutboxStatus, int] = {}
    for claimed, outcome in outcomes:
        values = _outcome(claimed, outcome, now)
        which = {"of_run": claimed.wakeup.run_id, "at": claimed.sequence, "attempt": claimed.attempts}
        settle_one = _setting(_STILL_CLAIMED, tuple(values))
        if tx.execute(settle_one, {**which, "publisher": publisher, **values}).rowcount:
            counts[values["status"]] = counts.get(values["status"], 0) + 1
    return counts


def look_again(tx: Transaction, environment: str, now: datetime, limit: int) -> bool:
    """Settle wakeups that were published a while ago and have done their work; the others become pending again.

    Returns whether there may be more.
    """
    rows: Sequence[Any] = tx.execute(_LOOK_AGAIN, {"environment": environment, "now": now, "most": limit}).all()
    runs = queries.get_runs(tx, [row.run_id for row in rows]) if rows else {}
    changes = []
    for row in rows:
        run = runs.get(row.run_id)
        waits = run is not None and _is_waiting(run, row.sequence)
        changes.append(((row.run_id, row.sequence), _pending(now) if waits else {"due_at": None}))
    _set(tx, changes)
    return len(rows) == limit


def publish_again(tx: Transaction, environment: str, queue: str, now: datetime, limit: int) -> bool:
    """Look at once at up to `limit` wakeups that were published for a queue: while it was paused, they were ignored.

    Returns whether there may be more.
    """
    asked = {"environment": environment, "now": now, "queue": queue, "most": limit}
    rows: Sequence[Any] = tx.execute(_PUBLISH_AGAIN, asked).all()
    _set(tx, [((row.run_id, row.sequence), {"due_at": now}) for row in rows])
    return len(rows) == limit


def remove(tx: Transaction, run_ids: Sequence[UUID]) -> None:
    """Forget the wakeups of runs that are being pruned."""
    tx.execute(_REMOVE, {"run_ids": list(run_ids)})


def orphans(tx: Transaction, environment: str | None, limit: int) -> list[tuple[UUID, int]]:
    """Rows without the event they belong to."""
    event = and_(
        _EVENTS.c.stream_id == _C.run_id,
        _EVENTS.c.sequence == _C.sequence,
        _EVENTS.c.type == "run.delivery_requested",
    )
    statement = select(_C.run_id, _C.sequence).where(~exists().where(event)).limit(limit)
    if environment is not None:
        statement = statement.where(_C.environment == environment)
    rows: Sequence[Any] = tx.execute(statement).all()
    return [(row.run_id, row.sequence) for row in rows]


def _is_waiting(run: Run, sequence: int) -> bool:
    """Whether a run still waits for the wakeup that its event `sequence` asked for.

    A reservation is written beside the request, and may be the later one of the two; one that has expired has taken its
    request with it.
    """
    since = run.sequence - sequence
    return run.status in CLAIMABLE and (since == 0 or (since == 1 and run.reservation is not None))


def _set(tx: Transaction, changes: Sequence[tuple[tuple[UUID, int], dict[str, Any]]]) -> None:
    """Change rows that this transaction has locked; one statement for those that change the same columns."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for (run_id, sequence), values in changes:
        groups.setdefault(tuple(values), []).append({"of_run": run_id, "at": sequence, **values})
    for names, group in groups.items():
        tx.execute(_setting(_BY_KEY, names), group)


@cache
def _setting(rows: Update, names: tuple[str, ...]) -> Update:
    """The statement that gives these columns of the rows new values."""
    return rows.values({name: bindparam(name) for name in names})


def _claimed(publisher: UUID, now: datetime, attempts: int) -> dict[str, Any]:
    return {
        "status": OutboxStatus.CLAIMED,
        "claimed_by": publisher,
        "due_at": now + CLAIM,
        "attempts": attempts,
    }


def _pending(now: datetime) -> dict[str, Any]:
    return {"status": OutboxStatus.PENDING, "due_at": now, "attempts": 0}


def _ended(status: OutboxStatus, detail: str | None) -> dict[str, Any]:
    return {"status": status, "due_at": None, "claimed_by": None, "detail": detail}


def _outcome(claimed: Claimed, outcome: PublishOutcome, now: datetime) -> dict[str, Any]:
    """The row once the transport has answered."""
    if outcome.status is PublishStatus.PUBLISHED:
        # Next when twice the time has gone by: where consumers are only behind, every message more is a burden.
        again = now + max(REDELIVERY, min(now - claimed.wakeup.requested_at, _SELDOM))
        return {"status": OutboxStatus.PUBLISHED, "due_at": again, "claimed_by": None, "detail": None}
    detail = None if outcome.detail is None else storable(outcome.detail)
    if outcome.status is PublishStatus.REJECTED or claimed.attempts >= MOST_TRIES:
        return _ended(OutboxStatus.DEAD_LETTERED, detail)
    least, most = _BACKOFF
    wait = min(least * 2 ** (claimed.attempts - 1), most)
    return {"status": OutboxStatus.FAILED, "due_at": now + wait, "claimed_by": None, "detail": detail}
