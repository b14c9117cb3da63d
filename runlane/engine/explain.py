"""Why a run does not run: every reason that holds now, most telling first, one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from attrs import frozen

from runlane.projections.runs import Run
from runlane.storage import queries, queues, sessions
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus

#: The most runs that are counted as being ahead.
_MOST = 1000


@frozen
class Surroundings:
    """What the process that asks knows of definitions: its tasks, and the limits of its queues."""

    tasks: Collection[str]
    limits: Mapping[str, int]


def why(tx: Transaction, environment: str, run: Run, known: Surroundings) -> tuple[str, ...]:
    """The reasons, at least one, and then what it holds that others wait for."""
    now = tx.now()
    if run.is_terminal:
        return _ended(tx, run)
    if run.lease is not None:
        return (*_leased(tx, run, now), *_keeps(run))
    # A session tells of a process and the tasks that it knows, not whether it works, or on which queues.
    free = f"nothing holds it back: a worker of queue {run.queue} claims it next, if one is running"
    waiting = _waiting(tx, environment, run, known, now) or [free]
    return (*waiting, *_reserved(run, now), *_keeps(run))


def _ended(tx: Transaction, run: Run) -> tuple[str, ...]:
    because = ""
    if run.status is RunStatus.FAILED and run.failure is not None:
        because = f" ({run.failure.code}: {run.failure.message})"
    elif run.status is RunStatus.CANCELLED and run.cancellation is not None:
        because = f" by {run.cancellation.actor}" + (f": {run.cancellation.reason}" if run.cancellation.reason else "")
    key, found = run.singleton_key, [f"it has ended: {run.status}{because}"]
    owner = None if key is None else queries.singleton_owner(tx, run.environment, run.task_id, key)
    if owner is not None:
        found.append(f"run {owner.id} ({owner.status}) owns its singleton key {key!r}: until that ends it cannot rerun")
    return tuple(found)


def _leased(tx: Transaction, run: Run, now: datetime) -> tuple[str, ...]:
    assert run.lease is not None
    lease = run.lease
    found = [f"attempt {lease.attempt} is running on {lease.worker_id} for {_span(now - lease.leased_at)}"]
    if run.status is RunStatus.CANCELLATION_REQUESTED:
        found.append("it was asked to stop, and its handler has not ended yet")
    expires_at = sessions.expires_at(tx, lease.session_id)
    if expires_at is None or expires_at <= now:
        found.append("its worker has vanished: maintenance will queue it again (a worker or `runlane tick` does that)")
    return tuple(found)


def _waiting(tx: Transaction, environment: str, run: Run, known: Surroundings, now: datetime) -> list[str]:
    found = []
    if run.due_at is not None and run.due_at > now:
        what = {
            RunStatus.RETRYING: "it waits to be retried",
            RunStatus.RELEASED: "its handler released it",
            RunStatus.SCHEDULED: "it is not to start yet",
        }.get(run.status, "it is not due")
        failed = f" after: {run.failure.message}" if run.status is RunStatus.RETRYING and run.failure else ""
        found.append(f"{what}{failed}; due in {_span(run.due_at - now)}, at {_at(run.due_at)}")
    control = queues.get_queue(tx, environment, run.queue)
    if control is not None and control.paused:
        reason = f" ({control.reason})" if control.reason else ""
        found.append(f"queue {run.queue} is paused by {control.actor} since {_span(now - control.updated_at)}{reason}")
    found += _limited(tx, environment, run, known)
    found += _unworked(tx, environment, run, known, now)
    ahead = queries.count_ahead(tx, run, now, _MOST) if not found else 0
    if ahead == 1:
        found.append(f"one due run of queue {run.queue} comes before it")
    elif ahead:
        most = "at least " if ahead == _MOST else ""
        found.append(f"{most}{ahead:,} due runs of queue {run.queue} come before it")
    return found


def _unworked(tx: Transaction, environment: str, run: Run, known: Surroundings, now: datetime) -> list[str]:
    """Whether any worker is there, and one that has its task."""
    told = sessions.known_tasks(tx, environment, now)
    if told is not None:
        return [] if run.task_id in told else [f"no worker that is alive knows task {run.task_id}"]
    found = [] if sessions.count_alive(tx, environment, now) else ["no worker is alive in this environment"]
    if known.tasks and run.task_id not in known.tasks:
        found.append(f"the program that asks does not know task {run.task_id}; a worker that does has to be running")
    return found


def _reserved(run: Run, now: datetime) -> list[str]:
    """The slot that is set aside for it, if there is one."""
    reservation = run.reservation
    if reservation is None:
        return []
    held = f"it holds a slot of queue {run.queue}, reserved {_span(now - reservation.reserved_at)} ago"
    if reservation.expires_at is None:
        return [f"{held} until a worker takes it"]
    if reservation.expires_at <= now:
        return [f"{held}; that has expired at {_at(reservation.expires_at)}, and maintenance gives the slot back"]
    return [f"{held} until {_at(reservation.expires_at)}"]


def _keeps(run: Run) -> list[str]:
    """The singleton key that it owns, as others of its task cannot."""
    key = run.singleton_key
    return [] if key is None else [f"it owns singleton key {key!r}: until it ends, triggers with it get this run"]


def _limited(tx: Transaction, environment: str, run: Run, known: Surroundings) -> list[str]:
    limit = known.limits.get(run.queue)
    if limit is None or run.reservation is not None:
        return []
    holders = queries.holders_in(tx, environment, run.queue, run.concurrency_key)
    if len(holders) < limit:
        return []
    key = f" for key {run.concurrency_key!r}" if run.concurrency_key is not None else ""
    names = ", ".join(f"{holder.id}{'' if holder.lease else ' (reserved)'}" for holder in holders[:3])
    more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
    return [f"queue {run.queue} has reached its limit of {limit}{key}: taken by {names}{more}"]


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"


def _span(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
