"""Creating runs, under idempotency keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from attrs import evolve

from runlane import decisions
from runlane.decisions import Change
from runlane.errors import ConflictKind, PayloadUnreadable, StorageConflict
from runlane.events import RunCreated
from runlane.payload_codec import CodecContext, DataKey, Part, is_sealed, key_of, once_more
from runlane.projections.runs import Run
from runlane.storage import keys, log, queries
from runlane.storage.alike import alike
from runlane.storage.dialect import Alike, can_stamp
from runlane.storage.transaction import Transaction
from runlane.structs import struct
from runlane.values import APPLICATION, Actor, TriggerOutcome
from runlane.vault import Vault

_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
#: By the identity of moulds, which live as long as they are here.
_kept: dict[tuple[int, str, bool], tuple[RunCreated, Alike]] = {}
_MOST_KEPT = 1000


@struct
class NewRun:
    """A validated request for a run.

    `deliver` says that its delivery is asked for at once, if it is due; `own_id` that the id was drawn for this request
    and nobody else can have used it.  `mould` is one and the same object for requests of plain runs that differ by
    their ids and payloads alone.  `subject` is whom the payload is about; `like` an encoded payload whose key this one
    is to have, instead.
    """

    id: UUID
    created: RunCreated
    actor: Actor
    delay: timedelta | None = None
    deliver: bool = True
    own_id: bool = False
    mould: RunCreated | None = None
    subject: str | None = None
    like: Any = None


@struct
class Triggered:
    """What a trigger came to: the run, and whether it was created or owns the key already."""

    run: Run
    outcome: TriggerOutcome


def sealed(vault: Vault, environment: str, wanted: Sequence[NewRun], tx: Transaction | None = None) -> Sequence[NewRun]:
    """The requests with their payloads as they are stored; keys are made before, or in the transaction that is given.

    Raises:
        PayloadErased, PayloadUnreadable: the key that one of them is to have cannot be had.
    """
    if vault.codec is None:
        return wanted
    current = vault.keys_for({new.subject for new in wanted if new.like is None}, tx)
    others = {key_id for new in wanted if (key_id := key_of(new.like)) is not None}
    found = vault.find(others, tx) if others else {}

    def key(new: NewRun) -> DataKey | None:
        if new.like is None or vault.keyed is None:
            return current.get(new.subject)
        one = found.get(key_of(new.like) or new.id)
        if isinstance(one, DataKey):
            return one
        raise PayloadUnreadable("the payload names no data key") if one is None else once_more(one)

    return [_sealed(vault, environment, new, key(new)) for new in wanted]


def _sealed(vault: Vault, environment: str, new: NewRun, key: DataKey | None) -> NewRun:
    created = new.created
    if created.payload is None and new.subject is None and new.like is None:
        return new
    about = CodecContext(environment, new.id, created.task_id, Part.PAYLOAD, new.subject, key)
    return evolve(new, created=evolve(created, payload=vault.seal(created.payload, about)))


def shown(
    vault: Vault, wanted: Sequence[NewRun], done: Sequence[Triggered], tx: Transaction | None = None
) -> list[Triggered]:
    """The outcomes with payloads as they were asked for (`wanted`, before they were sealed), or can be decoded."""
    if vault.codec is None and not any(is_sealed(one.run.created.payload) for one in done):
        return list(done)
    plain = {new.id: new.created.payload for new in wanted}
    found = [
        evolve(one.run, created=evolve(one.run.created, payload=plain[one.run.id])) if one.run.id in plain else one.run
        for one in done
    ]
    revealed = vault.reveal_all(found, tx, committed=tx is None)
    return [Triggered(run, one.outcome) for run, one in zip(revealed, done, strict=True)]


def trigger(tx: Transaction, environment: str, wanted: Sequence[NewRun]) -> list[Triggered]:
    """Create the wanted runs, or find the owners of their keys; outcomes in the order of the requests.

    Raises:
        StorageConflict: a run with one of the ids exists (kind ``run_exists``).
    """
    if can_stamp(tx.dialect) and not tx.publishes and are_alike(wanted):
        return trigger_alike(tx, environment, wanted)
    now = tx.now()
    return give_birth(tx, [birth(new, environment, now) for new in wanted], now)


def is_plain(new: NewRun) -> bool:
    """Whether nothing can hinder this run's birth or make it wait: no keys, no id of the caller's, due at once."""
    created = new.created
    owned = created.idempotency_key is not None or created.singleton_key is not None
    return not owned and new.own_id and new.delay is None and created.run_at is None


def are_alike(wanted: Sequence[NewRun]) -> bool:
    """Whether these are plain runs that differ by their ids and payloads alone."""
    first = wanted[0]
    if len(wanted) == 1:
        return is_plain(first)
    return first.mould is not None and all(new.mould is first.mould for new in wanted)


def trigger_alike(tx: Transaction, environment: str, wanted: Sequence[NewRun]) -> list[Triggered]:
    """Create runs that are alike in one statement, which may commit itself: one of them is folded for all.

    They are born at the clock's instant, else at the moment when the statement is executed.
    """
    now = None if tx.clock is None else tx.clock()
    common = _common(wanted[0], environment)
    at = log.append_alike(tx, common, [new.id for new in wanted], [new.created.payload for new in wanted], now)
    sequence, status = common.one.sequence, common.one.status
    return [
        # All instants of a plain run are that of its birth.
        Triggered(Run(new.id, environment, new.created, at, sequence, status, at, at), TriggerOutcome.CREATED)
        for new in wanted
    ]


def _common(new: NewRun, environment: str) -> Alike:
    """What runs like this one have in common: of a mould it is kept, as it is the same whenever they are made."""
    if new.mould is None or new.actor is not APPLICATION:
        return _folded(new, environment)
    place = (id(new.mould), environment, new.deliver)
    mould, found = _kept.get(place, (None, None))
    if found is None or mould is not new.mould:
        found = _folded(new, environment)
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[place] = new.mould, found
    return found


def _folded(new: NewRun, environment: str) -> Alike:
    """Without its payload, which is its own and would be kept with the rest."""
    bare = evolve(new, created=evolve(new.created, payload=None))
    return alike(birth(bare, environment, _ANY_MOMENT))


def trigger_unless_done(tx: Transaction, environment: str, wanted: Sequence[NewRun]) -> list[Triggered]:
    """Create plain runs, unless they have been created by a transaction whose answer was lost."""
    done = queries.get_runs(tx, [new.id for new in wanted])
    if done:
        return [Triggered(done[new.id], TriggerOutcome.CREATED) for new in wanted]
    return trigger(tx, environment, wanted)


def give_birth(tx: Transaction, births: Sequence[Change], now: datetime) -> list[Triggered]:
    """Append births; where somebody else owns a key, the owner instead."""
    lone = [change for change in births if change.after.singleton_key is None]
    lost = log.append_runs(tx, lone)
    done = {
        change.after.id: Triggered(change.after, TriggerOutcome.CREATED)
        for change in lone
        if change.after.id not in lost
    }
    # One order of keys for everybody, so that two batches cannot wait for each other in a circle.
    for change in sorted((c for c in lone if c.after.id in lost), key=lambda c: (c.after.task_id, _key(c))):
        done[change.after.id] = _settled(_settle_key, tx, change, now)
    singletons = (change for change in births if change.after.singleton_key is not None)
    for change in sorted(singletons, key=lambda c: (c.after.task_id, c.after.singleton_key or "")):
        done[change.after.id] = _settled(_settle_singleton, tx, change, now)
    return [done[change.after.id] for change in births]


def birth(new: NewRun, environment: str, now: datetime) -> Change:
    """The change that creates a run."""
    events = decisions.create(new.created, new.delay, now, new.deliver)
    return decisions.begin(new.id, environment, events, now, new.actor)


def _settled(
    settle: Callable[[Transaction, Change, datetime], Triggered | None], tx: Transaction, change: Change, now: datetime
) -> Triggered:
    for _ in range(3):
        if (done := settle(tx, change, now)) is not None:
            return done
    key, kind = change.after.singleton_key, ConflictKind.SINGLETON_OWNER
    if key is None:
        key, kind = _key(change), ConflictKind.IDEMPOTENCY_OWNER
    raise StorageConflict(f"{kind.value.partition('_')[0]} key {key!r} changes hands too fast", kind=kind)


def _settle_key(tx: Transaction, change: Change, now: datetime) -> Triggered | None:
    """The owner of the key if it keeps it, else the new run as the next owner; None if the key moved meanwhile."""
    run = change.after
    held = keys.lock_owner(tx, run.environment, run.task_id, _key(change))
    if held is None:
        created = run.id not in log.append_runs(tx, [change])
    elif (owner := _keeper(tx, run.environment, held, now)) is not None:
        return Triggered(owner, TriggerOutcome.REUSED_IDEMPOTENT)
    else:
        created = log.take_over_key(tx, change, held.run_id)
    return Triggered(run, TriggerOutcome.CREATED) if created else None


def _settle_singleton(tx: Transaction, change: Change, now: datetime) -> Triggered | None:
    """The same for a run with a singleton key; idempotency is looked up first."""
    run = change.after
    held, claimed = None, False
    if run.idempotency_key is not None:
        held = keys.lock_owner(tx, run.environment, run.task_id, _key(change))
        if held is not None and (owner := _keeper(tx, run.environment, held, now)) is not None:
            return Triggered(owner, TriggerOutcome.REUSED_IDEMPOTENT)
        if held is None and not (claimed := log.claim_key(tx, change)):
            return None
    if log.append_singleton(tx, change):
        if held is not None:
            log.move_key(tx, change, held.run_id)  # its row is locked: nobody else can have moved it
        return Triggered(run, TriggerOutcome.CREATED)
    if claimed:
        log.give_key_back(tx, change)
    owner = queries.singleton_owner(tx, run.environment, run.task_id, run.singleton_key or "")
    return None if owner is None else Triggered(owner, TriggerOutcome.REUSED_SINGLETON)


def _keeper(tx: Transaction, environment: str, held: keys.Owner, now: datetime) -> Run | None:
    """The owner of an idempotency key, if it keeps it."""
    owner = None if held.reset_at is not None else queries.get_run(tx, environment, held.run_id)
    return owner if owner is not None and decisions.keeps_key(owner, now) else None


def _key(change: Change) -> str:
    return change.after.idempotency_key or ""


def find_current(tx: Transaction, environment: str, task_id: str, key: str) -> Run | None:
    """The run that a trigger with this idempotency key would be given now."""
    held = keys.get_owner(tx, environment, task_id, key)
    return None if held is None else _keeper(tx, environment, held, tx.now())
