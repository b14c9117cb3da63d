"""Checking the log against what is stored: ``app.audit``."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from runlane.capabilities import Capability
from runlane.errors import RunNotFound
from runlane.runtime import Runtime
from runlane.storage import queries, replay
from runlane.storage.replay import Verification
from runlane.values import run_id


class Audit:
    """Checking the log: ``app.audit``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def count(self) -> dict[str, int]:
        """How many events of each type the log holds for this environment; reads all of them."""
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.count")
        with self._runtime.reading() as tx:
            return queries.count_events(tx, self._runtime.environment)

    def verify(self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None) -> Verification:
        """Fold the whole log of this environment (or one run's), and compare it field by field with what is stored.

        `progress` is called with the number of events folded so far.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.verify")
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            if id is None:
                return replay.verify(tx, self._runtime.environment, progress)
            wanted = run_id(id)
            found = replay.compare_run(tx, self._runtime.environment, wanted)
        if not found.events and not found.differences:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return found
