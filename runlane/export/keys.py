"""Whose idempotency keys an export's runs are: kept in a temporary file, as there may be one for every run.

The owner of a key is the last run that was created with it.  Runs stand in an export by their ids, which is not always
the order in which they were created: ids may be the caller's own, and clocks of several machines differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from runlane.events import IdempotencyReset
from runlane.export.folding import State, Unfolded
from runlane.projections.runs import Run
from runlane.storage.restore import OwnedKey

# An active run is the last one with its key: the key is free only when its owner has ended.
_TABLES = """
    create table owner (id text primary key, task text, key text, created text, active int, place int, late int)
      without rowid;
    create table reset (task text, key text, id text, at text, primary key (task, key)) without rowid;
"""
_LATE = """
    with ordered as (
      select id, task, key, lag(id) over (partition by task, key order by created, active, id) as before from owner
    )
    update owner set late = 1 where exists (
      select 1 from ordered o where o.task = owner.task and o.key = owner.key and o.before > o.id)
"""


class KeyIndex:
    """The runs with keys and the keys that were freed, as a pass over an export tells of them."""

    def __init__(self) -> None:
        self._kept = sqlite3.connect("", isolation_level=None)  # a file without a name, which goes with it
        self._kept.executescript("pragma journal_mode = off; pragma synchronous = off;" + _TABLES + "begin")
        self._any_late = False

    def close(self) -> None:
        """Forget everything."""
        self._kept.close()

    def note(self, state: State, place: int) -> None:
        """A stream of the export, and where in the file it begins."""
        if isinstance(state, Run) and state.idempotency_key is not None:
            created = state.created_at.isoformat(timespec="microseconds")
            row = (str(state.id), state.task_id, state.idempotency_key, created, state.is_active, place)
            self._kept.execute("insert or replace into owner values (?, ?, ?, ?, ?, ?, 0)", row)
        elif isinstance(state, Unfolded) and isinstance(state.last.event, IdempotencyReset):
            event = state.last.event
            at = state.last.occurred_at.isoformat()
            self._kept.execute(
                "insert or replace into reset values (?, ?, ?, ?)", (event.task_id, event.key, str(event.run_id), at)
            )

    def settle(self) -> None:
        """Find the runs that have to be written later than they stand in the file.

        Of a key that has one of them they are all of its runs: written in the order of their creation, when everything
        else is.
        """
        self._kept.execute("create index owner_key on owner (task, key)")
        self._kept.execute(_LATE)
        self._any_late = self._kept.execute("select 1 from owner where late").fetchone() is not None

    def is_late(self, run_id: UUID) -> bool:
        """Whether a run is one of those."""
        if not self._any_late:
            return False
        found = self._kept.execute("select late from owner where id = ?", (str(run_id),)).fetchone()
        return found is not None and bool(found[0])

    def late(self) -> Iterator[tuple[UUID, int]]:
        """Those runs, in the order in which they are to be written, each with its place in the file."""
        found = self._kept.execute("select id, place from owner where late order by created, active, id")
        for run_id, place in found:
            yield UUID(run_id), place

    def owned(self, run: Run) -> OwnedKey:
        """The key of a run, and since when it is free although the run has kept it."""
        key = run.idempotency_key or ""
        found = self._kept.execute(
            "select at from reset where task = ? and key = ? and id = ?", (run.task_id, key, str(run.id))
        ).fetchone()
        return OwnedKey(
            run.environment, run.task_id, key, run.id, None if found is None else datetime.fromisoformat(found[0])
        )
