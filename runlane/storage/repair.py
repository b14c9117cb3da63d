"""One run's row made again from its events, and the ownership of the keys it has to do with.

Its row is locked first: no step of the run can be written until the repair is, and each step is guarded by the sequence
that the row has then.  Where there is no row to lock nothing can move the run, and repairs of one environment go one
after the other.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from runlane import decisions, jsontext
from runlane.errors import ConflictKind, InvariantViolation, StorageConflict
from runlane.events import IdempotencyReset, RowRepaired
from runlane.storage import faults, folding, keys, log, outbox, ownership, streams, tables
from runlane.storage.findings import Difference
from runlane.storage.folding import Folder
from runlane.storage.keys import Owner
from runlane.storage.transaction import Transaction
from runlane.values import Actor

_RUNS, _KEYS, _EVENTS = tables.runs, tables.idempotency_keys, tables.events
_LOCKED = select(_RUNS).where(_RUNS.c.id == bindparam("run_id")).with_for_update()
_HELD = select(_KEYS.c.environment, _KEYS.c.task_id, _KEYS.c.key).where(_KEYS.c.run_id == bindparam("run_id"))
#: The last run that was created with a key, and where the log tells of it.
_NEWEST = (
    select(_RUNS.c.id, _RUNS.c.finished_at, _EVENTS.c.position)
    .join(_EVENTS, (_EVENTS.c.stream_id == _RUNS.c.id) & (_EVENTS.c.sequence == 1))
    .where(
        _RUNS.c.environment == bindparam("environment"),
        _RUNS.c.task_id == bindparam("task_id"),
        _RUNS.c.idempotency_key == bindparam("key"),
    )
    .order_by(_EVENTS.c.position.desc())
    .limit(1)
)
_JSON = frozenset({"failure", "reservation", "cancellation"})
Key = tuple[str, str, str]


def repair(
    tx: Transaction, environment: str, run_id: UUID, actor: Actor, reason: str | None
) -> tuple[Difference, ...] | None:
    """Make the row of a run what its events fold to, and the owners of its keys what the log says.

    A row that the log does not know goes, with its wakeups; one that is missing is made.  If anything was different,
    ``environment.repaired`` tells of it.

    Returns what was different; None if neither the log nor the tables know such a run in this environment.

    Raises:
        InvariantViolation: its history cannot be folded; naming the event.  Nothing is written.
        StorageConflict: the row of another run, which holds its singleton key, is in the way (``singleton_owner``).
    """
    log.lock_environment(tx, environment)
    row = tx.execute(_LOCKED, {"run_id": run_id}).first()
    stored = None if row is None else dict(row._mapping)
    folded = _fold(tx, run_id)
    here = folded or stored
    if here is None or here["environment"] != environment:
        return None
    with _one_owner(run_id):
        found = _mend(tx, run_id, stored, folded)
    for key in _keys_of(tx, run_id, folded or stored):
        found += _settle(tx, key, run_id)
    if found:
        fields = tuple(difference.field for difference in found)
        log.append_environment(tx, environment, RowRepaired(run_id, fields, reason), tx.now(), actor)
    return tuple(found)


def _fold(tx: Transaction, run_id: UUID) -> dict[str, Any] | None:
    """The row that the events of a run fold to, if there are any."""
    folder = Folder()
    folder.take(folding.of_streams(tx, [run_id]))
    folder.close()
    for _, damage in folder.damaged:
        raise InvariantViolation(
            f"run {run_id} is not repaired, as event {damage.sequence} of its history is damaged: {damage.stored}"
        )
    if not folder.rows["runs"]:
        return None
    (made,) = folder.rows["runs"]
    row = dict(zip(folding.COLUMNS["runs"], made, strict=True))
    return {
        name: jsontext.decode(value) if name in _JSON and value is not None else value for name, value in row.items()
    }


class _one_owner:
    """The unique index of singleton keys refuses a second active run with the same one."""

    def __init__(self, run_id: UUID) -> None:
        self._run_id = run_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, IntegrityError) and faults.is_duplicate(error):
            raise StorageConflict(
                f"run {self._run_id} is not repaired: the row of another active run holds its singleton key; repair "
                "that one first, or rebuild all",
                kind=ConflictKind.SINGLETON_OWNER,
                retryable=False,
            ) from error


def _mend(
    tx: Transaction, run_id: UUID, stored: dict[str, Any] | None, folded: dict[str, Any] | None
) -> list[Difference]:
    """Write, change or remove the row; what was different."""
    if folded is None:
        tx.execute(delete(_RUNS).where(_RUNS.c.id == run_id))
        outbox.remove(tx, [run_id])
        return [Difference(run_id, 0, "row", "present", "absent")]
    if stored is None:
        tx.execute(insert(_RUNS).values(**folded))
        return [Difference(run_id, folded["sequence"], "row", "absent", "present")]
    different = {name: value for name, value in folded.items() if stored[name] != value}
    if different:
        tx.execute(update(_RUNS).where(_RUNS.c.id == run_id).values(**different))
    return [Difference(run_id, folded["sequence"], name, stored[name], value) for name, value in different.items()]


def _keys_of(tx: Transaction, run_id: UUID, row: dict[str, Any] | None) -> list[Key]:
    """The keys that the run was created with or is stored as the owner of, in the order in which everybody locks."""
    found = {(held.environment, held.task_id, held.key) for held in tx.execute(_HELD, {"run_id": run_id})}
    if row is not None and row["idempotency_key"] is not None:
        found.add((row["environment"], row["task_id"], row["idempotency_key"]))
    return sorted(found)


def _settle(tx: Transaction, key: Key, run_id: UUID) -> list[Difference]:
    """Make the owner of a key the last run that was created with it; what was different."""
    held = keys.lock_owner(tx, *key)
    owner = _owner(tx, key, held)
    if owner == held:
        return []
    row = dict(zip(("environment", "task_id", "key"), key, strict=True))
    mine = [_KEYS.c[name] == value for name, value in row.items()]
    if owner is None:
        tx.execute(delete(_KEYS).where(*mine))
        return [Difference(run_id, 1, "idempotency_keys", "present", "absent")]
    values = {"run_id": owner.run_id, "reset_at": owner.reset_at}
    if held is None:
        tx.execute(insert(_KEYS).values(**row, **values))
        return [Difference(run_id, 1, "idempotency_keys", "absent", "present")]
    tx.execute(update(_KEYS).where(*mine).values(**values))
    return [
        Difference(run_id, 1, f"idempotency_keys.{name}", getattr(held, name), value)
        for name, value in values.items()
        if getattr(held, name) != value
    ]


def _owner(tx: Transaction, key: Key, held: Owner | None) -> Owner | None:
    """Who owns a key as far as the log tells; if its owner may have been pruned since, what is stored says it."""
    environment, task_id, name = key
    newest: Any = tx.execute(_NEWEST, {"environment": environment, "task_id": task_id, "key": name}).first()
    if newest is None:
        return None
    if held is None and newest.finished_at is not None and newest.position < ownership.last_prune(tx, environment):
        return None
    reset = _last_reset(tx, key)
    return Owner(newest.id, reset.reset_at if reset is not None and reset.run_id == newest.id else None)


def _last_reset(tx: Transaction, key: Key) -> Owner | None:
    """From which run the key was freed last, and when."""
    for record in streams.read_newest(tx, decisions.key_stream(*key), [IdempotencyReset]):
        assert isinstance(record.event, IdempotencyReset)
        return Owner(record.event.run_id, record.occurred_at)
    return None
