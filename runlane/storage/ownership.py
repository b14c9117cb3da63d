"""Who owns the idempotency keys, as it is stored and as the log tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, exists, func, or_, select

from runlane import decisions
from runlane.events import RunsPruned
from runlane.storage import keys, streams, tables
from runlane.storage.findings import Difference
from runlane.storage.transaction import Transaction


def differences(tx: Transaction, environment: str | None, pruned_at: Mapping[str, int]) -> list[Difference]:
    """Keys whose stored owner is not the last run that was created with them, or that say they were reset and were not.

    A key goes with its owner.  So where there was a prune (at the positions `pruned_at`), ended runs from before it may
    be left without a key that they had lost to that owner.
    """
    wrong_owner, without = _statements(environment is None)
    if pruned_at:
        c = tables.runs.c
        bereft = [
            and_(c.environment == name, c.finished_at.is_not(None), tables.events.c.position < position)
            for name, position in pruned_at.items()
        ]
        without = without.where(~or_(*bereft))
    asked = {} if environment is None else {"environment": environment}
    with _as_a_whole(tx):
        wrong, bare = tx.execute(wrong_owner, asked).scalars().all(), tx.execute(without, asked).scalars().all()
    untold = "idempotency_keys.reset_at", "an event idempotency.reset at that time"
    return [
        *(Difference(one, 0, untold[0], at, untold[1]) for one, at in keys.untold_resets(tx, environment)),
        *(Difference(one, 1, "idempotency_keys.run_id", one, "the last run created with the key") for one in wrong),
        *(Difference(one, 1, "idempotency_keys", "absent", "present") for one in bare),
    ]


def last_prune(tx: Transaction, environment: str) -> int:
    """The place in the log where it last tells of a prune, 0 if it does not."""
    told = streams.read_newest(tx, decisions.environment_stream(environment), [RunsPruned])
    return next((record.position or 0 for record in told), 0)


@contextmanager
def _as_a_whole(tx: Transaction) -> Iterator[None]:
    """For statements about whole tables: PostgreSQL would go through one of them again for each row of the other."""
    if tx.schema is None:
        yield
        return
    tx.statements.exec_driver_sql("set local enable_nestloop = off")
    yield
    tx.statements.exec_driver_sql("set local enable_nestloop = on")


@cache
def _statements(everywhere: bool) -> tuple[Select[Any], Select[Any]]:
    """The owners of keys that are not the last runs created with them, and the runs whose keys are not there."""
    owned, runs, first = tables.idempotency_keys, tables.runs, tables.events
    key = (runs.c.environment, runs.c.task_id, runs.c.idempotency_key)
    newest_first = func.row_number().over(partition_by=key, order_by=first.c.position.desc().nulls_last())
    ranked = (
        select(*key, runs.c.id, newest_first.label("rank"))
        .outerjoin(first, and_(first.c.stream_id == runs.c.id, first.c.sequence == 1))
        .where(runs.c.idempotency_key.is_not(None))
    )
    if not everywhere:
        ranked = ranked.where(runs.c.environment == bindparam("environment"))
    last = ranked.cte("last")

    def same(table: Any) -> Any:
        return and_(
            table.c.environment == owned.c.environment,
            table.c.task_id == owned.c.task_id,
            table.c.idempotency_key == owned.c.key,
        )

    wrong_owner = (
        select(owned.c.run_id)
        .outerjoin(last, and_(same(last), last.c.rank == 1))
        .where(last.c.id.is_(None) | (last.c.id != owned.c.run_id))
    )
    without = (
        select(runs.c.id)
        .join(first, and_(first.c.stream_id == runs.c.id, first.c.sequence == 1))
        .where(runs.c.idempotency_key.is_not(None), ~exists().where(same(runs)))
    )
    if everywhere:
        return wrong_owner, without
    here: Any = bindparam("environment")
    return wrong_owner.where(owned.c.environment == here), without.where(runs.c.environment == here)
