"""Pausing queues and letting them go on."""

from __future__ import annotations

from runlane import decisions
from runlane.errors import ConflictKind, StorageConflict
from runlane.projections.queues import QueueControl
from runlane.storage import log, queues
from runlane.storage.transaction import Transaction
from runlane.values import Actor


def set_paused(
    tx: Transaction, environment: str, name: str, paused: bool, reason: str | None, actor: Actor
) -> QueueControl | None:
    """Pause a queue, or let it go on; asking for what is already so changes nothing.

    Returns the queue as it is then; None if nobody has ever paused it.

    Raises:
        StorageConflict: somebody else was faster; to be tried again.
    """
    state = queues.get_queue(tx, environment, name)
    events = decisions.pause_queue(state, name, reason) if paused else decisions.resume_queue(state, name, reason)
    if not events:
        return state
    change = decisions.move_queue(environment, name, state, events, tx.now(), actor)
    if not log.append_queue(tx, change):
        raise StorageConflict(f"queue {name} was paused or resumed by somebody else", kind=ConflictKind.SEQUENCE)
    return change.after
