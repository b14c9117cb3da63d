"""Outcomes of attempts, in batches: decided on the run as it was leased, decided again where that race was lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from attrs import asdict

from runlane import decisions
from runlane.decisions import Failed, Outcome, Succeeded
from runlane.events import Event, RunCancellationRequested, RunCancelled, RunSucceeded
from runlane.policy import Retry
from runlane.projections.runs import Run
from runlane.storage import claims, log, streams
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction
from runlane.structs import struct
from runlane.values import Actor, ActorType


@struct
class Finished:
    """An attempt that has ended: the run as it was leased, and what the handler came to."""

    run: Run
    outcome: Outcome
    retry: Retry


#: Says of a queue whether its runs need a wakeup when they are queued again.
Wakes = Callable[[str], bool]


def no_wakeups(_: str) -> bool:
    """As on lanes whose workers look into the database by themselves."""
    return False


def complete(
    tx: Transaction, finished: Sequence[Finished], now: datetime, max_events: int, wakes: Wakes = no_wakeups
) -> list[Run | None]:
    """Append the outcomes; for each the run as it is then, or None if the lease was lost and the outcome is dropped.

    An outcome that was appended before, in a commit that nobody heard of, counts as appended.
    """
    actors: dict[str, Actor] = {}
    decided = [_decide(one.run, one, now, max_events, wakes, actors) for one in finished]
    lost = log.append_runs(tx, [change for change in decided if change is not None])
    after = [None if change is None or change.after.id in lost else change.after for change in decided]
    if lost:
        current = {run.id: run for run in claims.lock_runs(tx, list(lost))}
        for index, one in enumerate(finished):
            run = current.get(one.run.id)
            change = None if run is None else _decide(run, one, now, max_events, wakes, actors)
            if change is not None and not log.append_runs(tx, [change]):
                after[index] = change.after
            elif run is not None and _is_told(tx, one, decided[index]):
                after[index] = run
    return after


def successes(finished: Sequence[Finished]) -> Successes | None:
    """The outcomes for ``log.append_successes``; None if one of them is more than a success."""
    if not all(isinstance(one.outcome, Succeeded) for one in finished):
        return None
    runs = [one.run for one in finished]
    events = []
    for one in finished:
        lease = one.run.lease
        if lease is None:
            raise ValueError("an outcome belongs to a leased run")
        # When that is makes no difference to what a success is.
        ended = decisions.complete(
            one.run, lease.session_id, lease.attempt, one.outcome, one.retry, one.run.updated_at, 0.0
        )
        events += [event for event in ended if isinstance(event, RunSucceeded)]
    worker = runs[0].lease.worker_id if runs[0].lease is not None else ""
    return Successes(runs, events, Actor(ActorType.WORKER, worker).text)


def _is_told(tx: Transaction, one: Finished, decided: decisions.Change | None) -> bool:
    """Whether what followed the lease is what this worker makes of it, decided then or under a cancellation."""
    if decided is None:
        return False
    ours = decided.records[0]
    for record in streams.read_after(tx, one.run.id, one.run.sequence, 2):
        if isinstance(record.event, RunCancelled):
            return record.actor == ours.actor and not isinstance(one.outcome, Failed)
        if not isinstance(record.event, RunCancellationRequested):
            return record.actor == ours.actor and _said(record.event) == _said(ours.event)
    return False


def _said(event: Event) -> dict[str, Any]:
    """What an outcome's event says, without the times that were drawn or counted from the moment of the decision."""
    return asdict(event, recurse=False, filter=lambda field, _: field.name not in ("run_at", "delay_ms", "jitter_ms"))


def _decide(
    run: Run, one: Finished, now: datetime, max_events: int, wakes: Wakes, actors: dict[str, Actor]
) -> decisions.Change | None:
    lease = one.run.lease
    if lease is None:
        raise ValueError("an outcome belongs to a leased run")
    # Drawn once, and recorded in the event.
    spread = random.uniform(-1.0, 1.0) if isinstance(one.outcome, Failed) else 0.0  # noqa: S311
    events = decisions.complete(
        run, lease.session_id, lease.attempt, one.outcome, one.retry, now, spread, max_events, wakes(run.queue)
    )
    if not events:
        return None
    actor = actors.get(lease.worker_id)
    if actor is None:
        actor = actors[lease.worker_id] = Actor(ActorType.WORKER, lease.worker_id)
    return decisions.advance(run, events, now, actor)
