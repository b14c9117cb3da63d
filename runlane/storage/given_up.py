"""Wakeups that were given up: what that means for the slots of their runs, and for asking again.

One that could not be published for all its tries is asked for again, as the transport may be back.  One that the
transport will never take is not: its run is left to whoever looks by himself, and what waits behind it goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, text

from runlane.projections.runs import Run
from runlane.storage import tables
from runlane.storage.transaction import Transaction

#: How often publishing is tried before the row is given up.
MOST_TRIES = 20
_C = tables.outbox.c
# As the index says it: the planner compares texts, not meanings.
_GIVEN_UP = text("status = 'dead_lettered'")
_GIVEN_UP_OF = select(_C.run_id, _C.sequence).where(_C.run_id.in_(bindparam("run_ids", expanding=True)), _GIVEN_UP)


def unrejected(prefix: str) -> str:
    """The condition that nobody has refused the wakeup of a row of ``runs`` for good since it waits; as SQL.

    Beside the request there may be a reservation, and its end.
    """
    return f"""not exists (select 1 from {prefix}outbox o where o.run_id = runs.id and o.sequence >= runs.sequence - 2
        and o.status = 'dead_lettered' and o.attempts < {MOST_TRIES})"""


def without_wakeup(tx: Transaction, runs: Sequence[Run]) -> set[UUID]:
    """Those of these runs that hold a reservation although the wakeup that came with it was given up."""
    held = {run.id: run.sequence for run in runs if run.reservation is not None}
    if not held:
        return set()
    rows: Sequence[Any] = tx.execute(_GIVEN_UP_OF, {"run_ids": list(held)}).all()
    return {row.run_id for row in rows if row.sequence >= held[row.run_id] - 1}
