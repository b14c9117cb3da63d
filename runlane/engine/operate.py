"""What operators do to runs: cancel them, and run them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from attrs import evolve, frozen

from runlane import decisions
from runlane.engine.trigger import NewRun, sealed, trigger
from runlane.errors import ConflictKind, RunNotFound, StorageConflict
from runlane.events import Recorded
from runlane.payload_codec import Part, is_sealed
from runlane.projections.runs import Run
from runlane.registry import Registry
from runlane.storage import claims, keys, log, queries, streams
from runlane.storage.transaction import Transaction
from runlane.values import Actor, SourceType, TriggerOutcome, new_run_id
from runlane.vault import Vault


@frozen
class Said:
    """What an operator says about a change: who, why, and facts to keep with it."""

    actor: Actor
    reason: str | None = None
    meta: Mapping[str, Any] | None = None


def cancel(tx: Transaction, environment: str, run_id: UUID, said: Said) -> Run:
    """Cancel a waiting run, or ask a leased one to stop; the run as it is then.

    Raises:
        RunNotFound: there is no such run in this environment.
        RunStateInvalid: it has ended.
    """
    run = next((run for run in claims.lock_runs(tx, [run_id]) if run.environment == environment), None)
    if run is None:
        raise not_found(run_id, environment)
    events = decisions.cancel(run, said.reason, said.meta)
    if not events:
        return run
    change = decisions.advance(run, events, tx.now(), said.actor)
    if log.append_runs(tx, [change]):
        raise StorageConflict(f"run {run_id} was moved by somebody else", kind=ConflictKind.SEQUENCE)
    return change.after


def run_again(
    tx: Transaction,
    environment: str,
    run_id: UUID,
    registry: Registry,
    type_: SourceType,
    said: Said,
    vault: Vault,
) -> Run:
    """A new run that repeats an ended one; the ended one is never touched.

    Raises:
        RunNotFound: there is no such run in this environment.
        RunStateInvalid: it is active, or has not failed where a retry is asked for.
        TaskNotFound, PayloadInvalid: today's task is not registered here, or does not take the stored payload.
        PayloadErased, PayloadUnreadable: the stored payload cannot be decoded.
        StorageConflict: an active run owns its singleton key (kind ``singleton_owner``).
    """
    source = queries.get_run(tx, environment, run_id)
    if source is None:
        raise not_found(run_id, environment)
    created = decisions.again(source, type_)
    task = registry.task(created.task_id)
    stored = created.payload
    payload = task.payload.to_json(vault.open_in(tx, stored, vault.about(source, Part.PAYLOAD)))
    # About the same subject as before; what that was called is not known.
    like, subject = (stored, None) if is_sealed(stored) else (None, task.key("subject", None, payload))
    created = evolve(
        created,
        payload=payload,
        queue=created.queue if created.queue in registry.queues else registry.queue_of(task),
        meta=_meta(created.meta, said),
    )
    deliver = registry.asks_at_once(created.queue)
    new = NewRun(new_run_id(), created, said.actor, deliver=deliver, subject=subject, like=like)
    found = trigger(tx, environment, sealed(vault, environment, [new], tx))[0]
    if found.outcome is not TriggerOutcome.CREATED:
        raise StorageConflict(
            f"run {found.run.id} is active and owns the singleton key {created.singleton_key!r}",
            kind=ConflictKind.SINGLETON_OWNER,
            retryable=False,
        )
    return found.run


def reset_key(tx: Transaction, environment: str, task_id: str, key: str, said: Said) -> bool:
    """Free the key that an ended run keeps; whether there was anything to free.

    Raises:
        RunStateInvalid: the owner is active.
    """
    held = keys.lock_owner(tx, environment, task_id, key)
    owner = None if held is None or held.reset_at is not None else queries.get_run(tx, environment, held.run_id)
    if owner is None or (owner.is_terminal and not decisions.keeps_key(owner, tx.now())):
        return False
    stream = decisions.key_stream(environment, task_id, key)
    event = decisions.reset_key(owner, said.reason)
    now = max(tx.now(), owner.updated_at)
    record = Recorded(stream, streams.length(tx, stream) + 1, event, now, environment, said.actor)
    log.reset_key(tx, record, event)
    return True


def _meta(stored: Mapping[str, Any] | None, said: Said) -> Mapping[str, Any] | None:
    """The source's facts, with the operator's beside them."""
    facts = {**(stored or {}), **(said.meta or {}), **({"reason": said.reason} if said.reason else {})}
    return facts or None


def not_found(run_id: UUID, environment: str) -> RunNotFound:
    """There is no such run."""
    return RunNotFound(f"no run has the id {run_id} in environment {environment!r}")
